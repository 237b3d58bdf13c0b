// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `doctor`: the checks in order, how their findings are written, and the exit code: 1 where
// something is bad.
#include "cli/doctor.h"
#include "cli/cli.h"
#include "cli/options.h"

#include <stdarg.h>
#include <stdio.h>

static void put_json(const char *text)
{
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        putchar((unsigned char)*text < 0x20 ? ' ' : *text);
    }
}

void tc_doctor_say(tc_doctor *d, tc_finding finding, const char *topic, const char *fix, const char *format,
                   ...)
{
    static const char *const words[] = {"ok", "note", "warning", "BAD"}, *const plain[] = {"ok", "note",
                                                                                           "warning", "bad"};
    char text[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    d->counts[finding]++;
    if (d->json) {
        printf("{\"topic\":\"%s\",\"finding\":\"%s\",\"text\":\"", topic, plain[finding]);
        put_json(text);
        fputs("\",\"fix\":\"", stdout);
        put_json(fix ? fix : "");
        puts("\"}");
        return;
    }
    printf("%-8s %-12s %s\n", words[finding], topic, text);
    if (fix && finding != TC_GOOD) printf("%-8s %-12s -> %s\n", "", "", fix);
}

int tc_cli_doctor(int argc, char **argv)
{
    tc_doctor d = {.root = "", .listen = "127.0.0.1:8080"};
    tc_arguments arguments;
    const tc_option table[] = {
        {.setting = TC_OPT_LISTEN, .target = &d.listen},
        {.setting = TC_OPT_DEVICE, .target = &d.device},
        {.name = "--json", .kind = TC_OPTION_FLAG, .target = &d.json, .help = "one JSON object a finding"},
        {.name = "--root",
         .kind = TC_OPTION_TEXT,
         .target = &d.root,
         .choices = "DIR",
         .help = "look at /proc, /sys and /dev below DIR"},
        {0},
    };
    int code = tc_options_parse(table, "doctor [options]", 0, 0, argc, argv, &arguments);
    if (code >= 0) return code;
    tc_doctor_check_all(&d);
    if (!d.json)
        printf("\n%u ok, %u notes, %u warnings, %u bad\n", d.counts[TC_GOOD], d.counts[TC_NOTE],
               d.counts[TC_WARN], d.counts[TC_BAD]);
    return d.counts[TC_BAD] ? TC_EXIT_FAILURE : 0;
}
