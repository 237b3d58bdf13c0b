// SPDX-License-Identifier: Apache-2.0
// Owns: the table of verbs. Each verb is one file.
#include "cli/cli.h"
#include "cli/render.h"
#include "cli/tokenize.h"
#include "cli/verbs.h"
#include "common/base/log.h"

#include <stdio.h>
#include <string.h>

static int version(int argc, char **argv)
{
    (void)argc, (void)argv;
    printf("thermocline %s\n", TC_VERSION);
    return 0;
}

static int help(int argc, char **argv);

const tc_verb tc_verbs[] = {
    {"serve", tc_cli_serve, "[MODEL]", "start core, workers and gateway, and keep them running", true},
    {"generate", tc_cli_generate, "MODEL \"prompt\"", "continue a text on the terminal", true},
    {"pack", tc_cli_pack, "[MODEL]", "write the packed expert store that serving needs", true},
    {"pull", tc_cli_pull, "OWNER/NAME[:REVISION]",
     "bring a model from a hub into the cache, going on where it stopped", true},
    {"convert", tc_cli_convert, "MODEL FOLDER", "any model as safetensors in bitsandbytes' NF4 layout", true},
    {"ls", tc_cli_ls, "", "models in the hub's cache", true},
    {"rm", tc_cli_rm, "OWNER/NAME", "remove a model from the hub's cache", true},
    {"inspect", tc_cli_inspect, "MODEL", "what is in a model, and what fits where", true},
    {"quick-test", tc_cli_quick_test, "MODEL", "one prompt through everything, each stage reported", true},
    {"tokenize", tc_cli_tokenize, "TOKENIZER.json|MODEL",
     "JSON lines {\"text\"} to {\"ids\"}; --decode the other way", true},
    {"render", tc_cli_render, "TEMPLATE.jinja",
     "JSON lines {\"context\", \"now\"} to {\"text\"}, or to {\"error\"}", true},
    {"eval", tc_cli_eval, "MODEL --ids FILE", "logits, experts and greedy tokens, for comparison with others",
     true},
    {"bench", tc_cli_bench, "FIGURE MODEL",
     "speed beside what the machine could do: decode, prompt, users, ...", true},
    {"profile", tc_cli_profile, "MODEL --prompts FILE",
     "learn which experts a workload uses; show what was learned", true},
    {"replay", tc_cli_replay, "TRACE", "what each placement policy would have done with a recorded run",
     true},
    {"plan", tc_cli_plan, "MODEL --ram BYTES",
     "what goes where within memory budgets, and what speed to expect", true},
    {"arena", tc_cli_arena, "list|drop", "experts held in shared memory: show them, free what nobody uses",
     true},
    {"top", tc_cli_top, "", "a running server, each second: requests, tokens, time, memory, workers", true},
    {"doctor", tc_cli_doctor, "",
     "is this machine set up well: CPU, NUMA, huge pages, limits, GPU, ports; what to do", true},
    {"config", tc_cli_config, "check|show|get|reference", "the configuration: is it good, what holds and why",
     true},
    {"manual", tc_cli_manual, "PAGE", "man pages and shell completions, made from the options"},
    {"version", version, "", "print the version"},
    {"help", help, "", "print this"},
};
enum { VERBS = sizeof tc_verbs / sizeof *tc_verbs };
const size_t tc_verb_count = VERBS;

static int help(int argc, char **argv)
{
    (void)argc, (void)argv;
    printf("usage: thermocline VERB ...    (thermocline VERB --help lists its options)\n");
    for (int i = 0; i < VERBS; i++) {
        char left[64];
        snprintf(left, sizeof left, "%s %s", tc_verbs[i].name, tc_verbs[i].arguments);
        printf("  %-28s %s\n", left, tc_verbs[i].help);
    }
    return 0;
}

int tc_cli_fail(const tc_error *e)
{
    fflush(stdout);
    fprintf(stderr, "thermocline: error: %s\n", e->text);
    return e->status == TC_CANCELLED ? TC_EXIT_INTERRUPTED : TC_EXIT_FAILURE;
}

const char *tc_cli_bytes(uint64_t bytes, char ret[TC_BYTES_TEXT])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    unsigned unit = 0;
    while (value >= 1024 && unit + 1 < sizeof units / sizeof *units) value /= 1024, unit++;
    snprintf(ret, TC_BYTES_TEXT, unit ? "%.2f %s" : "%.0f %s", value, units[unit]);
    return ret;
}

int main(int argc, char **argv)
{
    tc_log_init("supervisor", TC_LOG_INFO, false);
    const char *verb = argc > 1 ? argv[1] : "help";
    if (!strcmp(verb, "--version")) verb = "version";
    if (!strcmp(verb, "--help") || !strcmp(verb, "-h")) verb = "help";
    for (int i = 0; i < VERBS; i++)
        if (!strcmp(tc_verbs[i].name, verb)) return tc_verbs[i].run(argc - 1, argv + 1);
    tc_error e;
    tc_fail(&e, TC_ARGUMENT, "unknown verb '%s' (thermocline help lists them)", verb);
    tc_cli_fail(&e);
    return TC_EXIT_USAGE;
}
