// SPDX-License-Identifier: Apache-2.0
// Owns: what the cuda device keeps of a session, in copies: KV pages and recurrent states, inside the device
// and to and from the host. Refuses: to know whose they are.
#include "gpu-core/dev/cuda/device.h"

static size_t slot_bytes(const tc_dev *dev)
{
    return (size_t)tc_dev_slot_bytes(&dev->geometry);
}

static char *slot_at(tc_dev *dev, uint32_t slot)
{
    return (char *)cuda_of(dev)->states + slot_bytes(dev) * slot;
}

static size_t page_bytes(const tc_dev *dev)
{
    return (size_t)tc_dev_page_bytes(&dev->geometry);
}

static char *page_at(tc_dev *dev, uint32_t page)
{
    return (char *)cuda_of(dev)->kv + page_bytes(dev) * page;
}

void tc_cuda_slot_reset(tc_dev *dev, uint32_t slot)
{
    tc_dev_cuda *c = cuda_of(dev);
    if (slot_bytes(dev)) CHECK(c, cudaMemsetAsync(slot_at(dev, slot), 0, slot_bytes(dev), c->stream));
}

static void copy_inside(tc_dev *dev, void *to, const void *from, size_t bytes)
{
    tc_dev_cuda *c = cuda_of(dev);
    if (bytes) CHECK(c, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, c->stream));
}

void tc_cuda_page_copy(tc_dev *dev, uint32_t from, uint32_t to)
{
    copy_inside(dev, page_at(dev, to), page_at(dev, from), page_bytes(dev));
}

void tc_cuda_page_save(tc_dev *dev, uint32_t page, void *host)
{
    tc_cuda_download(dev, host, page_at(dev, page), page_bytes(dev));
}

void tc_cuda_page_load(tc_dev *dev, uint32_t page, const void *host)
{
    tc_cuda_upload(dev, page_at(dev, page), host, page_bytes(dev));
}

void tc_cuda_slot_copy(tc_dev *dev, uint32_t from, uint32_t to)
{
    copy_inside(dev, slot_at(dev, to), slot_at(dev, from), slot_bytes(dev));
}

void tc_cuda_slot_save(tc_dev *dev, uint32_t slot, void *host)
{
    if (slot_bytes(dev)) tc_cuda_download(dev, host, slot_at(dev, slot), slot_bytes(dev));
}

void tc_cuda_slot_load(tc_dev *dev, uint32_t slot, const void *host)
{
    if (slot_bytes(dev)) tc_cuda_upload(dev, slot_at(dev, slot), host, slot_bytes(dev));
}
