// SPDX-License-Identifier: Apache-2.0
// Owns: copies of KV pages and recurrent states of the cpu device: one to another (choices that share a
// prompt) and to and from the caller's memory (prefix cache). Refuses: to know what is inside; a page and a
// slot are each one run of bytes.
#include "gpu-core/dev/cpu/cpu.h"

#include <string.h>

static char *page_at(tc_dev *dev, uint32_t page)
{
    return (char *)tc_cpu(dev)->kv + (size_t)tc_dev_page_bytes(&dev->geometry) * page;
}

static char *slot_at(tc_dev *dev, uint32_t slot)
{
    return (char *)tc_cpu(dev)->states + (size_t)tc_dev_slot_bytes(&dev->geometry) * slot;
}

void tc_cpu_page_copy(tc_dev *dev, uint32_t from, uint32_t to)
{
    memcpy(page_at(dev, to), page_at(dev, from), (size_t)tc_dev_page_bytes(&dev->geometry));
}

void tc_cpu_page_save(tc_dev *dev, uint32_t page, void *host)
{
    memcpy(host, page_at(dev, page), (size_t)tc_dev_page_bytes(&dev->geometry));
}

void tc_cpu_page_load(tc_dev *dev, uint32_t page, const void *host)
{
    memcpy(page_at(dev, page), host, (size_t)tc_dev_page_bytes(&dev->geometry));
}

void tc_cpu_slot_copy(tc_dev *dev, uint32_t from, uint32_t to)
{
    memcpy(slot_at(dev, to), slot_at(dev, from), (size_t)tc_dev_slot_bytes(&dev->geometry));
}

void tc_cpu_slot_save(tc_dev *dev, uint32_t slot, void *host)
{
    memcpy(host, slot_at(dev, slot), (size_t)tc_dev_slot_bytes(&dev->geometry));
}

void tc_cpu_slot_load(tc_dev *dev, uint32_t slot, const void *host)
{
    memcpy(slot_at(dev, slot), host, (size_t)tc_dev_slot_bytes(&dev->geometry));
}
