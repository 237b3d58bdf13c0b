// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `manual`: man pages and shell completions, made from the tables that the programs read their
// options by.
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "common/base/config.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    unsigned program;
    const char *synopsis, *what, *about;
} programs[] = {
    {"thermocline-gateway", TC_FOR_GATEWAY, "--engine URL --model DIR [options]",
     "HTTP gateway of a Thermocline server",
     "Speaks HTTP with clients and token ids with thermocline-core. Holds no weights and no device."},
    {"thermocline-core", TC_FOR_CORE, "--model DIR --engine URL --experts URL [options]",
     "inference engine of a Thermocline server",
     "Owns every sequence's state, the step loop, dense weights, routing and sampling."},
    {"thermocline-worker", TC_FOR_WORKER, "--connect URL --model DIR --index I --of N [options]",
     "expert worker of a Thermocline server", "Computes the experts of its share for a thermocline-core."},
};

// roff: a dash is a minus, a leading dot or quote is no request, a long list of choices may be broken.
static void roff(const char *text)
{
    if (*text == '.' || *text == '\'') fputs("\\&", stdout);
    for (; *text; text++) {
        if (*text == '-')
            fputs("\\-", stdout);
        else if (*text == '\\')
            fputs("\\e", stdout);
        else if (*text == '|')
            fputs("|\\:", stdout);
        else
            putchar(*text);
    }
}

static void head(const char *name, int section, const char *what)
{
    printf(".TH %s %d \"\" \"Thermocline %s\" \"Thermocline\"\n.SH NAME\n", name, section, TC_VERSION);
    roff(name);
    fputs(" \\- ", stdout);
    roff(what);
    putchar('\n');
}

static void option(const char *name, const char *value, const char *help, const char *fallback)
{
    fputs(".TP\n.B ", stdout);
    roff(name);
    if (value) fputs(" \\fI", stdout), roff(value), fputs("\\fR", stdout);
    putchar('\n');
    roff(help);
    if (fallback && *fallback) fputs(".\nDefault: ", stdout), roff(fallback);
    fputs(".\n", stdout);
}

static void see_also(void)
{
    fputs(".SH SEE ALSO\n.BR thermocline (1),\n.BR thermocline.conf (5),\n.BR thermocline\\-gateway (8),\n"
          ".BR thermocline\\-core (8),\n.BR thermocline\\-worker (8)\n",
          stdout);
}

static void page_of_program(size_t which)
{
    head(programs[which].name, 8, programs[which].what);
    fputs(".SH SYNOPSIS\n.B ", stdout);
    roff(programs[which].name);
    putchar('\n');
    roff(programs[which].synopsis);
    fputs("\n.SH DESCRIPTION\n", stdout);
    roff(programs[which].about);
    fputs("\nUsually started by systemd, or by\n.BR \"thermocline serve\" .\n.SH OPTIONS\n", stdout);
    for (int id = TC_OPT_NONE + 1; id < TC_OPT_COUNT; id++) {
        const tc_setting *s = tc_setting_of(id);
        char name[TC_OPTION_NAME_BYTES];
        if (!(s->programs & programs[which].program)) continue;
        snprintf(name, sizeof name, "--%s", s->name);
        option(name, s->value, s->help, s->fallback);
    }
    fputs(".SH SIGNALS\nSIGTERM and SIGINT stop it in order; SIGHUP reads the configuration again and "
          "applies what can be "
          "applied.\n",
          stdout);
    see_also();
}

static void page_of_file(void)
{
    static const char *const names[] = {"gateway", "core", "worker", "serve"};
    head("thermocline.conf", 5, "configuration of the Thermocline server");
    fputs(".SH SYNOPSIS\n.I " TC_CONFIG_PATH
          "\n.SH DESCRIPTION\nLines\n.I name = value\nand comments that begin with #. Each "
          "name is also an option of the programs that read it, and an environment variable: THERMOCLINE_ "
          "and the name in "
          "capitals, with underscores. The environment overrides the file, the command line overrides both.\n"
          ".B thermocline config check\nsays what is wrong,\n.B thermocline config show\nwhat holds.\n.SH "
          "SETTINGS\n",
          stdout);
    for (int id = TC_OPT_NONE + 1; id < TC_OPT_COUNT; id++) {
        const tc_setting *s = tc_setting_of(id);
        char help[512];
        if (s->flags & TC_SETTING_INTERNAL) continue;
        int n = snprintf(help, sizeof help, "%s. Read by:", s->help);
        for (int i = 0; i < 4; i++)
            if (s->programs & 1u << i) n += snprintf(help + n, sizeof help - (size_t)n, " %s", names[i]);
        if (s->flags & TC_SETTING_RELOAD) snprintf(help + n, sizeof help - (size_t)n, ". Applied on reload");
        option(s->name, s->kind == TC_SET_FLAG ? "yes|no" : s->value, help, s->fallback);
    }
    see_also();
}

// ---- verbs, whose tables come through the hook ----

static void roff_table(const tc_option *table, const char *usage)
{
    fputs(".SS thermocline ", stdout);
    roff(usage);
    putchar('\n');
    for (; table->name || table->setting; table++) {
        char name[TC_OPTION_NAME_BYTES];
        tc_option full = tc_option_full(table, name);
        const tc_setting *s = tc_setting_of(table->setting);
        option(full.name,
               full.kind == TC_OPTION_FLAG ? NULL
               : full.choices              ? full.choices
                                           : "N",
               full.help, s ? s->fallback : NULL);
    }
}

static const char *shell_verb; // whose table is being written

static void words(const char *choices, char separator)
{
    for (; *choices; choices++) putchar(*choices == '|' ? separator : *choices);
}

static bool is_list(const tc_option *o)
{
    return o->kind == TC_OPTION_CHOICE && o->choices;
}

static bool is_path(const tc_option *o)
{
    return o->kind == TC_OPTION_TEXT && o->choices &&
           (!strcmp(o->choices, "FILE") || !strncmp(o->choices, "DIR", 3));
}

static void bash_table(const tc_option *table, const char *usage)
{
    (void)usage;
    printf("    %s)\n        case $prev in\n", shell_verb);
    for (const tc_option *entry = table; entry->name || entry->setting; entry++) {
        char name[TC_OPTION_NAME_BYTES];
        tc_option o = tc_option_full(entry, name);
        if (o.kind == TC_OPTION_FLAG) continue;
        printf("        %s) ", o.name);
        if (is_list(&o))
            fputs("COMPREPLY=($(compgen -W '", stdout), words(o.choices, ' '),
                fputs("' -- \"$cur\"));", stdout);
        else if (is_path(&o))
            fputs("COMPREPLY=($(compgen -f -- \"$cur\"));", stdout);
        fputs(" return ;;\n", stdout);
    }
    fputs("        esac\n        opts='--help", stdout);
    for (; table->name || table->setting; table++) {
        char name[TC_OPTION_NAME_BYTES];
        printf(" %s", tc_option_full(table, name).name);
    }
    fputs("' ;;\n", stdout);
}

static void quoted(const char *text, const char *escaped)
{
    for (; *text; text++) {
        if (strchr(escaped, *text)) putchar('\\');
        if (*text == '\'')
            fputs("'\\''", stdout);
        else
            putchar(*text);
    }
}

static void zsh_table(const tc_option *table, const char *usage)
{
    (void)usage;
    printf("    %s) _arguments '--help[print the options]'", shell_verb);
    for (; table->name || table->setting; table++) {
        char name[TC_OPTION_NAME_BYTES];
        tc_option o = tc_option_full(table, name);
        printf(" \\\n        '%s[", o.name);
        quoted(o.help, "[]:");
        putchar(']');
        if (o.kind != TC_OPTION_FLAG) {
            fputs(":value:", stdout);
            if (is_list(&o)) putchar('('), words(o.choices, ' '), putchar(')');
            if (is_path(&o)) fputs("_files", stdout);
        }
        putchar('\'');
    }
    fputs(" \\\n        '*:file:_files' ;;\n", stdout);
}

static void fish_table(const tc_option *table, const char *usage)
{
    (void)usage;
    for (; table->name || table->setting; table++) {
        char name[TC_OPTION_NAME_BYTES];
        tc_option o = tc_option_full(table, name);
        printf("complete -c thermocline -n '__fish_seen_subcommand_from %s' -l %s -d '", shell_verb,
               o.name + 2);
        for (const char *p = o.help; *p; p++) {
            if (*p == '\'' || *p == '\\') putchar('\\');
            putchar(*p);
        }
        putchar('\'');
        if (o.kind != TC_OPTION_FLAG) fputs(" -r", stdout);
        if (is_list(&o)) fputs(" -f -a '", stdout), words(o.choices, ' '), putchar('\'');
        putchar('\n');
    }
}

// Calls each verb for its --help with the hook in place. Verbs without a table say nothing.
static void walk(tc_options_hook *hook)
{
    for (size_t i = 0; i < tc_verb_count; i++) {
        char *argv[] = {(char *)tc_verbs[i].name, (char *)"--help", NULL};
        if (!tc_verbs[i].has_options) continue;
        shell_verb = tc_verbs[i].name;
        tc_options_describe = hook;
        tc_verbs[i].run(2, argv);
        tc_options_describe = NULL;
    }
}

static void page_of_command(void)
{
    head("thermocline", 1, "serve Mixture-of-Experts models, and look after the server");
    fputs(".SH SYNOPSIS\n.B thermocline\n.I VERB\n[...]\n.SH DESCRIPTION\nStarts and supervises core, "
          "workers and gateway where "
          "no systemd does, and has the operator's verbs.\n.SH VERBS\n",
          stdout);
    for (size_t i = 0; i < tc_verb_count; i++)
        option(tc_verbs[i].name, tc_verbs[i].arguments, tc_verbs[i].help, NULL);
    fputs(".SH OPTIONS\n", stdout);
    walk(roff_table);
    fputs(".SH EXIT STATUS\n0; 1 for a failure; 2 for bad usage; 130 when interrupted.\n.SH "
          "FILES\n.I " TC_CONFIG_PATH "\n",
          stdout);
    see_also();
}

static void bash_completion(void)
{
    fputs("# Completion of thermocline for bash; made by `thermocline manual bash`.\n_thermocline() {\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} opts=\n"
          "    if ((COMP_CWORD == 1)); then\n        COMPREPLY=($(compgen -W '",
          stdout);
    for (size_t i = 0; i < tc_verb_count; i++) printf("%s%s", i ? " " : "", tc_verbs[i].name);
    fputs("' -- \"$cur\"))\n        return\n    fi\n    case ${COMP_WORDS[1]} in\n", stdout);
    walk(bash_table);
    fputs("    esac\n    if [[ $cur == -* ]]; then\n        COMPREPLY=($(compgen -W \"$opts\" -- "
          "\"$cur\"))\n    else\n"
          "        COMPREPLY=($(compgen -f -- \"$cur\"))\n    fi\n}\ncomplete -o filenames -F _thermocline "
          "thermocline\n",
          stdout);
}

static void zsh_completion(void)
{
    fputs("#compdef thermocline\n# Completion of thermocline for zsh; made by `thermocline manual "
          "zsh`.\n_thermocline() {\n"
          "    local -a verbs=(\n",
          stdout);
    for (size_t i = 0; i < tc_verb_count; i++) {
        printf("        '%s:", tc_verbs[i].name);
        quoted(tc_verbs[i].help, ":");
        fputs("'\n", stdout);
    }
    fputs("    )\n    if ((CURRENT == 2)); then\n        _describe verb verbs\n        return\n    fi\n    "
          "local verb=$words[2]\n"
          "    shift words\n    ((CURRENT--))\n    case $verb in\n",
          stdout);
    walk(zsh_table);
    fputs("    esac\n}\n_thermocline \"$@\"\n", stdout);
}

static void fish_completion(void)
{
    fputs("# Completion of thermocline for fish; made by `thermocline manual fish`.\n", stdout);
    for (size_t i = 0; i < tc_verb_count; i++) {
        printf("complete -c thermocline -n __fish_use_subcommand -f -a %s -d '", tc_verbs[i].name);
        for (const char *p = tc_verbs[i].help; *p; p++) {
            if (*p == '\'' || *p == '\\') putchar('\\');
            putchar(*p);
        }
        fputs("'\n", stdout);
    }
    walk(fish_table);
}

int tc_cli_manual(int argc, char **argv)
{
    const tc_option table[] = {{0}};
    tc_arguments arguments;
    tc_error e;
    int code = tc_options_parse(table, "manual thermocline|PROGRAM|thermocline.conf|bash|zsh|fish", 1, 1,
                                argc, argv, &arguments);
    if (code >= 0) return code;
    const char *what = arguments.positional[0];
    static const struct {
        const char *name;
        void (*write)(void);
    } kinds[] = {{"thermocline", page_of_command},
                 {"thermocline.conf", page_of_file},
                 {"bash", bash_completion},
                 {"zsh", zsh_completion},
                 {"fish", fish_completion}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].name, what)) {
            kinds[i].write();
            return 0;
        }
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++)
        if (!strcmp(programs[i].name, what)) {
            page_of_program(i);
            return 0;
        }
    tc_fail(&e, TC_ARGUMENT, "manual %s: there is no such page", what);
    tc_cli_fail(&e);
    return TC_EXIT_USAGE;
}
