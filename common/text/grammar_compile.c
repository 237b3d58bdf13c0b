// SPDX-License-Identifier: Apache-2.0
// Owns: the way from a constraint to a compiled grammar, whatever its language.
#include "common/text/grammar_program.h"

#include <string.h>

static uint32_t compile(tc_builder *b, const tc_constraint *c)
{
    switch (c->kind) {
    case TC_CONSTRAINT_JSON_OBJECT:
        return tc_json_object_compile(b);
    case TC_CONSTRAINT_JSON_SCHEMA:
        return tc_schema_compile(b, c->text, c->bytes);
    case TC_CONSTRAINT_REGEX:
        return tc_regex_compile(b, c->text, c->bytes);
    case TC_CONSTRAINT_GRAMMAR:
        return tc_gbnf_compile(b, c->text, c->bytes);
    case TC_CONSTRAINT_TOOL_CALLS:
        return tc_tools_compile(b, c->text, c->bytes);
    default:
        return tc_builder_fail(b, TC_ARGUMENT, "not a kind of constraint");
    }
}

tc_status tc_grammar_compile(const tc_constraint *constraint, tc_grammar **ret, tc_error *e)
{
    tc_builder b;
    if (constraint->bytes > TC_CONSTRAINT_TEXT_BYTES_MAX)
        return tc_fail(e, TC_LIMIT, "the constraint has %zu bytes, the limit is %d", constraint->bytes,
                       TC_CONSTRAINT_TEXT_BYTES_MAX);
    TC_TRY(tc_builder_init(&b, e));
    uint32_t root = compile(&b, constraint);
    tc_status status = b.status == TC_OK ? tc_builder_finish(&b, root, ret) : b.status;
    tc_builder_free(&b);
    return status;
}
