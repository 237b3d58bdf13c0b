// SPDX-License-Identifier: Apache-2.0
// Owns: tc_dev_ops.few on the cpu device: a row a member of the team.
#include "gpu-core/dev/few.h"
#include "gpu-core/dev/cpu/cpu.h"

typedef struct few_job {
    tc_dev_cpu *cpu;
    const float *logits, *temperature;
    uint32_t vocab;
    tc_few *ret;
} few_job;

uint64_t tc_cpu_few_bytes(uint32_t members)
{
    return ((uint64_t)TC_FEW_ROWS_MAX * TC_FEW_MAX + (uint64_t)members * TC_FEW_ROOM) * sizeof(tc_few_token);
}

static void few_item(void *arg, uint32_t r, uint32_t member)
{
    const few_job *job = arg;
    tc_few_of(job->cpu->dense, job->logits + (size_t)r * job->vocab, job->vocab, job->temperature[r],
              job->cpu->few_room + (size_t)member * TC_FEW_ROOM, job->cpu->few + (size_t)r * TC_FEW_MAX,
              &job->ret[r]);
}

void tc_cpu_few(tc_dev *dev, const float *logits, uint32_t rows, uint32_t vocab, const float *temperature,
                tc_few *ret)
{
    few_job job = {tc_cpu(dev), logits, temperature, vocab, ret};
    tc_cpu_each(job.cpu, rows, (uint64_t)rows * vocab * 4, few_item, &job);
}

bool tc_cpu_few_create(tc_dev_cpu *cpu)
{
    cpu->few = tc_alloc(TC_MEM_SCRATCH, (size_t)TC_FEW_ROWS_MAX * TC_FEW_MAX, sizeof *cpu->few);
    cpu->few_room =
        tc_alloc(TC_MEM_SCRATCH, (size_t)tc_team_size(cpu->team) * TC_FEW_ROOM, sizeof *cpu->few_room);
    return cpu->few && cpu->few_room;
}

void tc_cpu_few_free(tc_dev_cpu *cpu)
{
    tc_free(cpu->few);
    tc_free(cpu->few_room);
}
