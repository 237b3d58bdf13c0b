// SPDX-License-Identifier: Apache-2.0
// Owns: telling the card what a prompt's layer does not stream, and which mailboxes were asked, by a kernel's
// arguments: a copy would wait for its turn behind experts that are on their way. Launched where workers take
// a share of prompts only.
#include "gpu-core/dev/cuda/q4.cuh"

enum { MARK_THREADS = 256 };

__global__ void __launch_bounds__(MARK_THREADS) mark_kernel(const __grid_constant__ tc_gpu_marks m)
{
    for (uint32_t e = threadIdx.x; e < m.experts; e += MARK_THREADS)
        m.place[e] = m.bits[e / 32] >> (e % 32) & 1 ? m.mark : NULL;
}

__global__ void posted_kernel(uint32_t *posted, uint32_t bits)
{
    posted[threadIdx.x] = bits >> threadIdx.x & 1;
}

int tc_gpu_mark(tc_gpu_stream stream, const tc_gpu_marks *args)
{
    mark_kernel<<<1, MARK_THREADS, 0, stream>>>(*args);
    return launched();
}

int tc_gpu_tell_posted(tc_gpu_stream stream, uint32_t *posted, uint32_t bits)
{
    posted_kernel<<<1, TC_GPU_MAILBOXES_MAX, 0, stream>>>(posted, bits);
    return launched();
}
