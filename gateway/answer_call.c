// SPDX-License-Identifier: Apache-2.0
// Owns: the scanner of a call's JSON, which passes arguments on before they are whole.
#include "gateway/answer_call.h"

#include <stdlib.h>
#include <string.h>

void tc_call_scan_free(tc_call_scan *scan)
{
    tc_buffer_free(&scan->raw);
    tc_buffer_free(&scan->name);
    tc_buffer_free(&scan->decoded);
    memset(scan, 0, sizeof *scan);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static bool key_is(const tc_call_scan *s, const char *name)
{
    return s->key_end - s->key == strlen(name) &&
           memcmp(s->raw.data + s->key, name, s->key_end - s->key) == 0;
}

static bool is_arguments(const tc_call_scan *s)
{
    return key_is(s, "arguments") || key_is(s, "parameters");
}

// The JSON string at [begin, end) of raw, decoded.
static bool decode(tc_call_scan *s, size_t begin, size_t end, tc_buffer *ret)
{
    yyjson_doc *doc = yyjson_read(s->raw.data + begin, end - begin, 0);
    yyjson_val *value = yyjson_doc_get_root(doc);
    bool good = yyjson_is_str(value);
    tc_buffer_clear(ret);
    if (good) tc_buffer_append(ret, yyjson_get_str(value), yyjson_get_len(value));
    yyjson_doc_free(doc);
    return good;
}

static void value_ends(tc_call_scan *s, size_t end)
{
    s->phase = TC_CALL_KEY_OR_END;
    if (key_is(s, "name") && !s->has_name) {
        s->has_name = decode(s, s->value, end, &s->name) && s->name.count > 0;
        if (!s->has_name) s->phase = TC_CALL_BAD;
    } else if (is_arguments(s) && s->arguments == s->value) {
        s->arguments_end = end;
        if (s->is_object || (s->raw.data[s->value] == '"' && decode(s, s->value, end, &s->decoded)))
            s->has_arguments = true;
        else if (end - s->value != 4 || memcmp(s->raw.data + s->value, "null", 4) != 0)
            s->phase = TC_CALL_BAD; // null: none
    }
}

static void value_starts(tc_call_scan *s, char c)
{
    s->phase = TC_CALL_VALUE;
    s->value = s->at;
    s->in_string = c == '"';
    s->escaped = false;
    s->depth = c == '{' || c == '[';
    if (is_arguments(s) && !s->arguments) {
        s->arguments = s->at;
        s->is_object = c == '{';
    }
}

static void in_value(tc_call_scan *s, char c)
{
    if (s->in_string) {
        if (s->escaped)
            s->escaped = false;
        else if (c == '\\')
            s->escaped = true;
        else if (c == '"') {
            s->in_string = false;
            if (s->depth == 0) value_ends(s, s->at + 1);
        }
    } else if (c == '"') {
        s->in_string = true;
    } else if (c == '{' || c == '[') {
        s->depth++;
    } else if ((c == '}' || c == ']') && s->depth > 0) {
        if (--s->depth == 0) value_ends(s, s->at + 1);
    } else if (s->depth == 0 && (c == ',' || c == '}' || is_space(c))) {
        value_ends(s, s->at);
        if (c == '}' && s->phase == TC_CALL_KEY_OR_END) s->phase = TC_CALL_DONE;
    }
}

static void step(tc_call_scan *s, char c)
{
    switch (s->phase) {
    case TC_CALL_BEFORE:
        if (c == '{')
            s->phase = TC_CALL_KEY_OR_END;
        else if (c == '<')
            s->phase = TC_CALL_XML;
        else if (!is_space(c))
            s->phase = TC_CALL_BAD;
        break;
    case TC_CALL_KEY_OR_END:
        if (c == '"') {
            s->phase = TC_CALL_KEY;
            s->key = s->at + 1;
            s->escaped = false;
        } else if (c == '}') {
            s->phase = TC_CALL_DONE;
        } else if (!is_space(c) && c != ',') {
            s->phase = TC_CALL_BAD;
        }
        break;
    case TC_CALL_KEY:
        if (s->escaped)
            s->escaped = false;
        else if (c == '\\')
            s->escaped = true;
        else if (c == '"') {
            s->key_end = s->at;
            s->phase = TC_CALL_COLON;
        }
        break;
    case TC_CALL_COLON:
        if (!is_space(c)) s->phase = c == ':' ? TC_CALL_VALUE_START : TC_CALL_BAD;
        break;
    case TC_CALL_VALUE_START:
        if (!is_space(c)) value_starts(s, c);
        break;
    case TC_CALL_VALUE:
        in_value(s, c);
        break;
    default:
        break;
    }
}

void tc_call_scan_run(tc_call_scan *s)
{
    while (s->at < s->raw.count && s->phase != TC_CALL_DONE && s->phase != TC_CALL_XML &&
           s->phase != TC_CALL_BAD) {
        step(s, s->raw.data[s->at]);
        s->at++;
    }
}

// ---- <function=...> ----

// The text between `open`...'>' and `close`: name of the tag, then its inside without the line breaks around
// it.
static bool tag(const char **at, const char *end, const char *open, const char *close, const char **ret_name,
                size_t *ret_name_bytes, const char **ret_text, size_t *ret_text_bytes)
{
    const char *start = memmem(*at, (size_t)(end - *at), open, strlen(open));
    if (!start) return false;
    start += strlen(open);
    const char *name_end = memchr(start, '>', (size_t)(end - start));
    if (!name_end) return false;
    const char *text = name_end + 1, *stop = memmem(text, (size_t)(end - text), close, strlen(close));
    *ret_name = start;
    *ret_name_bytes = (size_t)(name_end - start);
    if (!stop) stop = end;
    *at = stop < end ? stop + strlen(close) : end;
    if (text < stop && *text == '\n') text++;
    if (text < stop && stop[-1] == '\n') stop--;
    *ret_text = text;
    *ret_text_bytes = (size_t)(stop - text);
    return true;
}

// A value whose schema says that it is a text is one; else it is what JSON makes of it, or a text.
static bool is_text(const tc_chat *chat, const char *function, const char *name, size_t name_bytes)
{
    yyjson_mut_val *schema = chat ? tc_chat_tool_parameters(chat, function) : NULL;
    yyjson_mut_val *type = yyjson_mut_obj_get(
        yyjson_mut_obj_getn(yyjson_mut_obj_get(schema, "properties"), name, name_bytes), "type");
    return yyjson_mut_equals_str(type, "string");
}

bool tc_call_scan_xml(tc_call_scan *s, const tc_chat *chat)
{
    const char *at = s->raw.data, *end = at + s->raw.count, *name, *text;
    size_t name_bytes, bytes;
    uint32_t count = 0;
    if (!tag(&at, end, "<function=", "</function>", &name, &name_bytes, &text, &bytes) || name_bytes == 0)
        return false;
    tc_buffer_append(&s->name, name, name_bytes);
    tc_buffer_append(&s->name, "", 1); // a C string for the look-up
    tc_buffer_text(&s->decoded, "{");
    at = text;
    end = text + bytes;
    while (!s->name.failed &&
           tag(&at, end, "<parameter=", "</parameter>", &name, &name_bytes, &text, &bytes)) {
        yyjson_doc *doc = is_text(chat, s->name.data, name, name_bytes) ? NULL : yyjson_read(text, bytes, 0);
        if (count++) tc_buffer_text(&s->decoded, ", ");
        tc_buffer_json(&s->decoded, name, name_bytes);
        tc_buffer_text(&s->decoded, ": ");
        if (doc)
            tc_buffer_append(&s->decoded, text, bytes);
        else
            tc_buffer_json(&s->decoded, text, bytes);
        yyjson_doc_free(doc);
    }
    tc_buffer_text(&s->decoded, "}");
    if (!s->name.failed) s->name.count--;
    s->has_name = s->has_arguments = true;
    s->phase = TC_CALL_DONE;
    return true;
}
