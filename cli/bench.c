// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `bench`: its options, and which figure they ask for. Each figure says what it measured, how
// often and with what spread, beside what the machine could do in the same run. Refuses: targets. It prints
// what it saw.
#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/compare.h"
#include "cli/report.h"
#include "cli/suite.h"

#include <string.h>

static const struct {
    const char *name;
    tc_status (*run)(tc_bench *b, tc_error *e);
    uint64_t tokens, prompt_tokens, repetitions; // where the options say nothing
} figures[] = {
    {"decode", tc_bench_decode, 128, 64, 5}, {"prompt", tc_bench_prompt, 0, 0, 3},
    {"users", tc_bench_users, 48, 16, 3},    {"context", tc_bench_context, 32, 0, 3},
    {"load", tc_bench_load, 0, 0, 1},        {"kernels", tc_bench_kernels, 0, 0, 5},
};
enum { FIGURES = sizeof figures / sizeof *figures };

#define FIGURE_NAMES "decode|prompt|users|context|load|kernels"

static tc_status measure(tc_bench *b, int figure, tc_error *e)
{
    tc_checkpoint *checkpoint = NULL;
    if (!b->tokens) b->tokens = figures[figure].tokens;
    if (!b->repetitions) b->repetitions = figures[figure].repetitions;
    if (!b->prompt_tokens) b->prompt_tokens = figures[figure].prompt_tokens;
    if (b->o.empty_experts && figures[figure].run != tc_bench_decode)
        return tc_fail(e, TC_ARGUMENT, "--empty-experts is for decode: its answers are zeros");
    if (b->o.empty_experts && b->o.workers_given && !b->o.workers)
        return tc_fail(e, TC_ARGUMENT, "--empty-experts needs workers: they are what answers nothing");
    if (!b->o.context && figures[figure].run == tc_bench_decode)
        b->o.context = b->prompt_tokens + b->tokens + TC_BENCH_SPARE_POSITIONS;
    TC_TRY(tc_checkpoint_open(b->model, &checkpoint, e));
    b->desc = *tc_checkpoint_desc(checkpoint);
    tc_status status = tc_footprint_of(checkpoint, tc_quantise_named(b->o.quantise), &b->footprint, e);
    if (status == TC_OK) tc_footprint_head(&b->footprint, tc_checkpoint_desc(checkpoint), b->o.head);
    tc_checkpoint_free(checkpoint);
    if (status != TC_OK) return status;
    TC_TRY(tc_machine_open(b->o.threads, &b->machine, e));
    status = figures[figure].run(b, e);
    tc_machine_close(&b->machine);
    if (status == TC_OK && b->collapsed)
        status = tc_fail(e, TC_FORMAT, "routing has collapsed: %u of the figures above are not valid",
                         b->collapsed);
    return status;
}

static int bad_figure(const char *name)
{
    tc_error e;
    tc_fail(&e, TC_ARGUMENT, "bench %s: expected " FIGURE_NAMES " and a MODEL", name);
    tc_cli_fail(&e);
    return TC_EXIT_USAGE;
}

// What works on results that are there: report, compare, baseline. -1: another figure.
static int of_results(const tc_arguments *a, const tc_compare_options *compare)
{
    tc_error e;
    const char *verb = a->positional[0], *first = a->count > 1 ? a->positional[1] : NULL;
    const char *second = a->count > 2 ? a->positional[2] : NULL, *usage = NULL;
    if (!strcmp(verb, "report")) {
        if (first && !second) return tc_report_write(first, &e) == TC_OK ? 0 : tc_cli_fail(&e);
        usage = "report DIR";
    } else if (!strcmp(verb, "compare")) {
        if (first) return tc_cli_compare(first, second, compare);
        usage = "compare A [B]";
    } else if (!strcmp(verb, "baseline")) {
        if (first && !second) return tc_cli_baseline(first, compare);
        usage = "baseline DIR";
    }
    if (!usage) return -1;
    tc_fail(&e, TC_ARGUMENT, "usage: thermocline bench %s", usage);
    tc_cli_fail(&e);
    return TC_EXIT_USAGE;
}

// Options that say where and how much, not how: they may differ when a suite is gone on with.
static bool is_of_run(const char *name)
{
    static const char *const names[] = {"--suite",  "--output",    "--parts", "--text",
                                        "--golden", "--log-level", "--model"};
    size_t n = strcspn(name, "=");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strncmp(names[i], name, n) && !names[i][n]) return true;
    return false;
}

// The others, as they were written: a suite that measured with other ones is another suite.
static void note_options(tc_suite *s, int argc, char **argv)
{
    size_t used = 0;
    bool value = false, keeps = false;
    for (int i = 1; i < argc; i++) {
        bool option = argv[i][0] == '-';
        if (!option && !value) continue; // the model
        if (option) {
            keeps = !is_of_run(argv[i]) && strcmp(argv[i], "--restart") != 0;
            value =
                !strchr(argv[i], '=') && strcmp(argv[i], "--restart") != 0 && strcmp(argv[i], "--json") != 0;
        } else {
            value = false;
        }
        int n = keeps
                    ? snprintf(s->options + used, sizeof s->options - used, "%s%s", used ? " " : "", argv[i])
                    : 0;
        used += n > 0 && (size_t)n < sizeof s->options - used ? (size_t)n : 0;
    }
}

static int suite(tc_suite *s, const tc_arguments *arguments, int argc, char **argv)
{
    tc_error e;
    const char *what = !s->suite    ? "--suite is missing (quick or full)"
                       : !s->output ? "--output is missing: the folder of results.jsonl and the report"
                       : s->b.json  ? "--suite writes JSON lines anyway: --json is for figures"
                       : s->b.model ? "--model is for figures: a suite is `bench MODEL --suite ...`"
                       : s->b.o.empty_experts ? "--empty-experts is for decode: its answers are zeros"
                       : arguments->count > 1 ? "a suite takes a MODEL and no figure"
                                              : NULL;
    if (what) {
        tc_fail(&e, TC_ARGUMENT, "bench: %s", what);
        tc_cli_fail(&e);
        return TC_EXIT_USAGE;
    }
    s->b.model = arguments->positional[0];
    note_options(s, argc, argv);
    return tc_suite_main(s);
}

// What the options fill.
static tc_suite run = {.b = {.users = 8, .positions = 32768}};
static tc_compare_options compare = {.baselines = "benchmarks/baselines", .threshold = 3};
static const tc_option options[] = {
    {.name = "--model",
     .kind = TC_OPTION_TEXT,
     .target = &run.b.model,
     .choices = "MODEL",
     .help = "instead of the second argument"},
    {.name = "--tokens",
     .kind = TC_OPTION_NUMBER,
     .target = &run.b.tokens,
     .min = 1,
     .max = TC_GENERATE_TOKENS_MAX / 128,
     .help = "to decode in one measurement (decode 128, users 48, context 32)"},
    {.name = "--prompt-tokens",
     .kind = TC_OPTION_NUMBER,
     .target = &run.b.prompt_tokens,
     .min = 1,
     .max = TC_PROMPT_TOKENS_MAX,
     .help = "of the prompt (decode 64, users 16, prompt 512 and 2048)"},
    {.name = "--users",
     .kind = TC_OPTION_NUMBER,
     .target = &run.b.users,
     .min = 1,
     .max = TC_BENCH_USERS_MAX,
     .help = "users: most streams at once (8); 1, 2, 4 ... are measured on the way"},
    {.name = "--temperature",
     .kind = TC_OPTION_REAL,
     .target = &run.b.temperature,
     .choices = "T",
     .min = 0,
     .max = 2,
     .help = "tokens are drawn at it from the 20 likeliest (0: the likeliest are taken)"},
    {.name = "--positions",
     .kind = TC_OPTION_NUMBER,
     .target = &run.b.positions,
     .min = 64,
     .max = TC_PROMPT_TOKENS_MAX / 2,
     .help = "context: length of the long prompt (32768)"},
    {.name = "--repetitions",
     .kind = TC_OPTION_NUMBER,
     .target = &run.b.repetitions,
     .min = 1,
     .max = TC_BENCH_REPETITIONS_MAX - 1,
     .help = "of each measurement (5; prompt, users, context 3; load 1)"},
    {.name = "--prompts",
     .kind = TC_OPTION_TEXT,
     .target = &run.b.prompts,
     .choices = "LIST",
     .help = "prompt: sizes by commas (512,2048; with --device cuda 8192 too)"},
    {.name = "--settle-seconds",
     .kind = TC_OPTION_NUMBER,
     .target = &run.b.settle_s,
     .min = 0,
     .max = 600,
     .help = "between ready and the first measurement: a GPU's link is not there at once (0)"},
    {.name = "--empty-experts",
     .kind = TC_OPTION_FLAG,
     .target = &run.b.o.empty_experts,
     .help = "decode: workers answer zeros at once, which leaves what synchronisation costs"},
    {.name = "--json", .kind = TC_OPTION_FLAG, .target = &run.b.json, .help = "one JSON object a line"},
    {.name = "--threshold",
     .kind = TC_OPTION_REAL,
     .target = &compare.threshold,
     .choices = "PERCENT",
     .min = 0,
     .max = 1000,
     .help = "compare: least change of a median that is told (3)"},
    {.name = "--fail-on-regression",
     .kind = TC_OPTION_FLAG,
     .target = &compare.fail_on_regression,
     .help = "compare: exit status 1 when a figure is worse beyond noise"},
    {.name = "--all",
     .kind = TC_OPTION_FLAG,
     .target = &compare.all,
     .help = "compare: also what is within noise"},
    {.name = "--baselines",
     .kind = TC_OPTION_TEXT,
     .target = &compare.baselines,
     .choices = "DIR",
     .help = "compare with one argument, baseline: where MACHINE.jsonl lies (benchmarks/baselines)"},
    {.name = "--suite",
     .kind = TC_OPTION_CHOICE,
     .target = &run.suite,
     .choices = "quick|full",
     .help = "everything a report needs; quick: minutes, full: up to an hour with the demo model"},
    {.name = "--output",
     .kind = TC_OPTION_TEXT,
     .target = &run.output,
     .choices = "DIR",
     .help = "suite: where results.jsonl and the report go; what is done there already is not run again"},
    {.name = "--parts",
     .kind = TC_OPTION_TEXT,
     .target = &run.parts,
     .choices = "LIST",
     .help = "suite: only these parts or sections, by commas (throughput,load.ready)"},
    {.name = "--text",
     .kind = TC_OPTION_TEXT,
     .target = &run.text,
     .choices = "FILE",
     .help = "suite: text the model has not seen (heldout.txt beside the model)"},
    {.name = "--golden",
     .kind = TC_OPTION_TEXT,
     .target = &run.golden,
     .choices = "DIR",
     .help = "suite: stored answers of the reference (tests/golden/fixtures)"},
    {.name = "--restart",
     .kind = TC_OPTION_FLAG,
     .target = &run.restart,
     .help = "suite: DIR's results are thrown away"},
    TC_RUN_OPTIONS(run.b.o),
    {0},
};

int tc_cli_bench(int argc, char **argv)
{
    tc_bench *b = &run.b;
    tc_arguments arguments;
    tc_error e;
    int code = tc_options_parse(options,
                                "bench " FIGURE_NAMES
                                " MODEL | MODEL --suite quick|full --output DIR | report DIR | "
                                "compare A [B] | baseline DIR [options]",
                                1, 3, argc, argv, &arguments);
    if (code >= 0) return code;
    if (run.suite || run.output || run.parts) return suite(&run, &arguments, argc, argv);
    code = of_results(&arguments, &compare);
    if (code >= 0) return code;
    if (!b->o.sessions) b->o.sessions = 1;
    b->figure = arguments.positional[0];
    if (arguments.count > 1) b->model = arguments.positional[1];
    for (int i = 0; i < FIGURES && b->model && arguments.count < 3; i++)
        if (!strcmp(b->figure, figures[i].name)) return measure(b, i, &e) == TC_OK ? 0 : tc_cli_fail(&e);
    return bad_figure(b->figure);
}
