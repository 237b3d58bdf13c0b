// SPDX-License-Identifier: Apache-2.0
// Owns: the memory of the KV pool. The pool is a range of addresses that stays where it is, as recorded
// passes hold its base; memory is put behind its first parts, as many as are asked for, and taken away from
// the last one on. All parts have memory at the start, so that nobody has to know of this. What those given
// back would take is kept free of everything but slots of hot experts: the pool can always grow again once
// these go. The driver's functions are looked up at run time; where the card or the driver has none of them
// the pool is one block. Refuses: to say which pages are used (gpu-core/session), or whose slots go.
#include "gpu-core/dev/cuda/device.h"

#include <cuda.h>
#include <cudaTypedefs.h>
#include <string.h>

typedef struct driver {
    PFN_cuDeviceGetAttribute_v2000 attribute;
    PFN_cuMemGetAllocationGranularity_v10020 granularity;
    PFN_cuMemAddressReserve_v10020 reserve;
    PFN_cuMemAddressFree_v10020 unreserve;
    PFN_cuMemCreate_v10020 create;
    PFN_cuMemRelease_v10020 release;
    PFN_cuMemMap_v10020 map;
    PFN_cuMemUnmap_v10020 unmap;
    PFN_cuMemSetAccess_v10020 access;
} driver;

static bool look_up(const char *name, unsigned int version, void *ret)
{
    void *found = NULL;
#if CUDART_VERSION >= 12050
    enum cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    if (cudaGetDriverEntryPointByVersion(name, &found, version, cudaEnableDefault, &result) != cudaSuccess ||
        result != cudaDriverEntryPointSuccess)
        found = NULL;
    cudaGetLastError();
#else // the pool is one block there
    (void)name;
    (void)version;
#endif
    memcpy(ret, &found, sizeof found);
    return found != NULL;
}

static bool find_driver(driver *d)
{
    return look_up("cuDeviceGetAttribute", 2000, &d->attribute) &&
           look_up("cuMemGetAllocationGranularity", 10020, &d->granularity) &&
           look_up("cuMemAddressReserve", 10020, &d->reserve) &&
           look_up("cuMemAddressFree", 10020, &d->unreserve) && look_up("cuMemCreate", 10020, &d->create) &&
           look_up("cuMemRelease", 10020, &d->release) && look_up("cuMemMap", 10020, &d->map) &&
           look_up("cuMemUnmap", 10020, &d->unmap) && look_up("cuMemSetAccess", 10020, &d->access);
}

static CUmemAllocationProp memory_of(const tc_dev_cuda *c)
{
    return (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                 .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = (int)c->o.ordinal}};
}

uint64_t tc_cuda_kv_owed_bytes(const tc_dev_cuda *c)
{
    return c->kv_range.parts ? c->kv_range.bytes - c->kv_range.backed_bytes : 0;
}

static uint64_t part_bytes(const kv_range *r, uint32_t part)
{
    return part + 1 < r->parts ? r->part_bytes : r->bytes - (r->parts - 1) * r->part_bytes;
}

// ---- a part ----

// Memory behind the next part. False: it does not fit, or the card refuses.
static bool put_part(tc_dev_cuda *c, const driver *d)
{
    kv_range *r = &c->kv_range;
    const CUmemAllocationProp memory = memory_of(c);
    const CUmemAccessDesc access = {.location = memory.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    const CUdeviceptr at = r->base + r->backed * r->part_bytes;
    const uint64_t bytes = part_bytes(r, r->backed);
    CUmemGenericAllocationHandle handle;
    bool done = false;
    pthread_mutex_lock(&c->lock);
    if (tc_cuda_used_bytes(c) + bytes + RESERVE_BYTES > c->budget) goto out;
    if (d->create(&handle, bytes, &memory, 0) != CUDA_SUCCESS) goto out;
    if (d->map(at, bytes, 0, handle, 0) != CUDA_SUCCESS) goto out_handle;
    if (d->access(at, bytes, &access, 1) != CUDA_SUCCESS) goto out_map;
    if (!CHECK(c, cudaMemsetAsync((void *)at, 0, bytes, c->stream))) goto out_map;
    r->handle[r->backed++] = handle;
    r->backed_bytes += bytes;
    c->used[TC_MEM_KV] += bytes;
    done = true;
    goto out;
out_map:
    CHECK(c, d->unmap(at, bytes));
out_handle:
    CHECK(c, d->release(handle));
out:
    pthread_mutex_unlock(&c->lock);
    return done;
}

// Nothing that was queued still uses it.
static void drop_part(tc_dev_cuda *c, const driver *d)
{
    kv_range *r = &c->kv_range;
    const uint32_t last = r->backed - 1;
    const uint64_t bytes = part_bytes(r, last);
    pthread_mutex_lock(&c->lock);
    CHECK(c, d->unmap(r->base + last * r->part_bytes, bytes));
    CHECK(c, d->release(r->handle[last]));
    r->backed = last;
    r->backed_bytes -= bytes;
    c->used[TC_MEM_KV] -= bytes;
    pthread_mutex_unlock(&c->lock);
}

// ---- the range ----

// False: not on this card or with this driver.
static bool reserve(tc_dev_cuda *c, driver *d)
{
    kv_range *r = &c->kv_range;
    const CUmemAllocationProp memory = memory_of(c);
    size_t grain = 0;
    int can = 0;
    CUdeviceptr base = 0;
    if (!find_driver(d) ||
        d->attribute(&can, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, (CUdevice)c->o.ordinal) !=
            CUDA_SUCCESS ||
        !can || d->granularity(&grain, &memory, CU_MEM_ALLOC_GRANULARITY_MINIMUM) != CUDA_SUCCESS || !grain)
        return false;
    const uint64_t bytes = (tc_cuda_kv_bytes(&c->o) + grain - 1) / grain * grain;
    const uint64_t part = (bytes / grain + KV_PARTS - 1) / KV_PARTS * grain;
    if (d->reserve(&base, bytes, 0, 0, 0) != CUDA_SUCCESS) return false;
    *r = (kv_range){
        .base = base, .bytes = bytes, .part_bytes = part, .parts = (uint32_t)((bytes + part - 1) / part)};
    return true;
}

tc_status tc_cuda_kv_open(tc_dev_cuda *c, tc_error *e)
{
    driver d;
    if (!c->o.kv_grows || !reserve(c, &d)) {
        c->kv = tc_cuda_take(c, TC_MEM_KV, (size_t)tc_cuda_kv_bytes(&c->o));
        return c->kv ? TC_OK : tc_fail(e, TC_BUDGET, "cuda: no room for the KV pool");
    }
    while (c->kv_range.backed < c->kv_range.parts && put_part(c, &d)) continue;
    if (c->kv_range.backed < c->kv_range.parts) {
        tc_cuda_kv_close(c);
        return tc_fail(e, TC_BUDGET, "cuda: no room for the KV pool");
    }
    c->kv = (void *)(uintptr_t)c->kv_range.base;
    return TC_OK;
}

uint32_t tc_cuda_kv_back(tc_dev *dev, uint32_t pages)
{
    tc_dev_cuda *c = cuda_of(dev);
    kv_range *r = &c->kv_range;
    const uint64_t page = tc_dev_page_bytes(&dev->geometry);
    driver d;
    if (pages > dev->geometry.pages) pages = dev->geometry.pages;
    if (!r->parts || !find_driver(&d)) return dev->geometry.pages;
    uint32_t wanted = (uint32_t)((pages * page + r->part_bytes - 1) / r->part_bytes);
    if (wanted < 1) wanted = 1;
    while (r->backed < wanted && put_part(c, &d)) continue;
    if (r->backed > wanted) CHECK(c, cudaStreamSynchronize(c->stream));
    while (r->backed > wanted) drop_part(c, &d);
    const uint64_t fit = r->backed_bytes / page;
    return fit < dev->geometry.pages ? (uint32_t)fit : dev->geometry.pages;
}

void tc_cuda_kv_close(tc_dev_cuda *c)
{
    kv_range *r = &c->kv_range;
    driver d;
    if (!r->parts || !find_driver(&d)) return;
    while (r->backed) drop_part(c, &d);
    CHECK(c, d.unreserve(r->base, r->bytes));
    *r = (kv_range){.parts = 0};
    c->kv = NULL;
}
