// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `arena`: shows the experts that lie in shared memory, and frees those that nobody uses.
#include "common/model/arena.h"
#include "cli/cli.h"
#include "cli/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

typedef struct arena_verb {
    const char *directory, *wanted; // wanted: a hash's beginning, or a store's path; NULL: all
    char *wanted_path;              // its real path, if it is one
    bool json, matched, printed;
    uint64_t bytes, freed;
    uint32_t dropped, busy, broken;
    tc_error error; // of the last that could not be dropped
} arena_verb;

static const char *const page_names[] = {"small", "transparent huge", "explicit huge"};
static const char *const state_names[] = {"whole", "being filled", "left unfinished", "not an arena"};

static void write_pids(const tc_arena_entry *entry, char *ret, size_t bytes)
{
    size_t used = 0;
    snprintf(ret, bytes, "%s", entry->in_use && !entry->pid_count ? "in use" : "-");
    for (uint32_t i = 0; i < entry->pid_count && used + 12 < bytes; i++)
        used += (size_t)snprintf(ret + used, bytes - used, "%s%d", i ? "," : "", (int)entry->pids[i]);
}

static void print_json(const tc_arena_entry *entry)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *o = yyjson_mut_obj(doc), *pids = yyjson_mut_arr(doc);
    yyjson_mut_doc_set_root(doc, o);
    yyjson_mut_obj_add_str(doc, o, "directory", entry->directory);
    yyjson_mut_obj_add_str(doc, o, "name", entry->name);
    yyjson_mut_obj_add_str(doc, o, "state", state_names[entry->state]);
    yyjson_mut_obj_add_uint(doc, o, "bytes", entry->bytes);
    if (entry->state == TC_ARENA_WHOLE) {
        yyjson_mut_obj_add_str(doc, o, "store", entry->store);
        yyjson_mut_obj_add_str(doc, o, "hash", entry->content_hash);
        yyjson_mut_obj_add_str(doc, o, "shard", entry->shard == TC_SHARD_SLICE ? "slice" : "partition");
        yyjson_mut_obj_add_uint(doc, o, "index", entry->index);
        yyjson_mut_obj_add_uint(doc, o, "of", entry->of);
        yyjson_mut_obj_add_str(doc, o, "nodes", entry->nodes);
        yyjson_mut_obj_add_str(doc, o, "pages", page_names[entry->pages]);
        yyjson_mut_obj_add_uint(doc, o, "huge_bytes", entry->huge_bytes);
        yyjson_mut_obj_add_bool(doc, o, "in_use", entry->in_use);
        for (uint32_t i = 0; i < entry->pid_count; i++) yyjson_mut_arr_add_int(doc, pids, entry->pids[i]);
        yyjson_mut_obj_add_val(doc, o, "pids", pids);
    }
    yyjson_mut_write_fp(stdout, doc, YYJSON_WRITE_NEWLINE_AT_END, NULL, NULL);
    fflush(stdout);
    yyjson_mut_doc_free(doc);
}

static void print_line(const tc_arena_entry *entry)
{
    char share[32] = "-", bytes[TC_BYTES_TEXT], huge[TC_BYTES_TEXT], pages[64] = "-", pids[160];
    const char *file = strrchr(entry->store, '/');
    if (entry->state == TC_ARENA_WHOLE) {
        snprintf(share, sizeof share, "%s %u of %u", entry->shard == TC_SHARD_SLICE ? "slice" : "partition",
                 entry->index, entry->of);
        snprintf(pages, sizeof pages, "%s", page_names[entry->pages]);
        if (entry->pages == TC_PAGES_TRANSPARENT)
            snprintf(pages, sizeof pages, "%s %s", tc_cli_bytes(entry->huge_bytes, huge), "huge");
    }
    write_pids(entry, pids, sizeof pids);
    printf("%-18s %12s %4s  %-18s %-16s %s\n", share, tc_cli_bytes(entry->bytes, bytes),
           *entry->nodes ? entry->nodes : "-", pages, pids,
           entry->state != TC_ARENA_WHOLE ? entry->name
           : file                         ? file + 1
                                          : entry->store);
    if (entry->state != TC_ARENA_WHOLE) printf("  %s\n", state_names[entry->state]);
}

static bool show(void *arg, const tc_arena_entry *entry)
{
    arena_verb *v = arg;
    if (!v->json && !v->printed)
        printf("%-18s %12s %4s  %-18s %-16s %s\n", "share", "bytes", "node", "pages", "mapped by", "store");
    v->printed = true;
    v->bytes += entry->bytes;
    v->json ? print_json(entry) : print_line(entry);
    return true;
}

static bool is_wanted(const arena_verb *v, const tc_arena_entry *entry)
{
    if (!v->wanted) return true;
    if (v->wanted_path && strcmp(entry->store, v->wanted_path) == 0) return true;
    size_t n = strlen(v->wanted);
    return n >= 4 && strncmp(entry->name, v->wanted, n) == 0;
}

static bool drop(void *arg, const tc_arena_entry *entry)
{
    arena_verb *v = arg;
    char bytes[TC_BYTES_TEXT];
    if (!is_wanted(v, entry)) return true;
    v->matched = true;
    tc_status status = tc_arena_drop(entry, &v->error);
    if (status == TC_OK) {
        v->freed += entry->bytes;
        v->dropped++;
        return true;
    }
    if (status == TC_BUSY)
        v->busy++;
    else if (status != TC_NOT_FOUND)
        v->broken++;
    fprintf(stderr, "thermocline: kept: %s (%s)\n", v->error.text, tc_cli_bytes(entry->bytes, bytes));
    return true;
}

static int run(arena_verb *v, bool drops, tc_error *e)
{
    char bytes[TC_BYTES_TEXT];
    if (tc_arena_list(v->directory, drops ? drop : show, v, e) != TC_OK) return tc_cli_fail(e);
    if (!drops) {
        if (!v->json) printf("%s%s\n", v->printed ? "in all " : "none: ", tc_cli_bytes(v->bytes, bytes));
        return 0;
    }
    if (v->wanted && !v->matched) {
        tc_fail(e, TC_NOT_FOUND, "no arena of '%s' (thermocline arena list shows them)", v->wanted);
        return tc_cli_fail(e);
    }
    if (v->broken || (v->wanted && v->busy)) return tc_cli_fail(&v->error);
    printf("%u freed, %s; %u in use\n", v->dropped, tc_cli_bytes(v->freed, bytes), v->busy);
    return 0;
}

int tc_cli_arena(int argc, char **argv)
{
    arena_verb v = {0};
    tc_arguments arguments;
    tc_error e;
    const tc_option table[] = {
        {.name = "--arena-dir",
         .kind = TC_OPTION_TEXT,
         .target = &v.directory,
         .choices = "DIR",
         .help = "folder to look in (default: /dev/shm/thermocline-<uid> and hugetlbfs)"},
        {.name = "--json", .kind = TC_OPTION_FLAG, .target = &v.json, .help = "list: one JSON object a line"},
        {0},
    };
    const char *usage = "arena list|drop [STORE or HASH] [options]";
    int code = tc_options_parse(table, usage, 1, 2, argc, argv, &arguments);
    if (code >= 0) return code;
    bool drops = !strcmp(arguments.positional[0], "drop");
    if ((!drops && strcmp(arguments.positional[0], "list")) || (!drops && arguments.count > 1)) {
        tc_fail(&e, TC_ARGUMENT, "usage: thermocline %s", usage);
        tc_cli_fail(&e);
        return TC_EXIT_USAGE;
    }
    if (!v.directory) v.directory = tc_arena_dir_of_environment();
    if (arguments.count > 1) v.wanted = arguments.positional[1];
    if (v.wanted) v.wanted_path = realpath(v.wanted, NULL);
    code = run(&v, drops, &e);
    free(v.wanted_path);
    return code;
}
