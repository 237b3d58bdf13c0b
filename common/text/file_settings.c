// SPDX-License-Identifier: Apache-2.0
// Owns: reading which algorithm a tokenizer.json asks for: normalizer, pre_tokenizer, decoder, post_processor
// and the options of the model. Refuses: whatever would make our ids differ from the reference's, naming the
// field. Unknown fields too: a field that is not understood may change the result.
#include "common/text/internal.h"
#include <string.h>
#include <yyjson.h>

enum { SEQUENCE_DEPTH_MAX = 4, KNOWN_KEYS_MAX = 32 };

yyjson_val *tc_file_get(yyjson_val *object, const char *key)
{
    return yyjson_obj_get(object, key);
}

tc_status tc_file_keys(yyjson_val *object, const char *where, const char *const *known, tc_error *e)
{
    bool seen[KNOWN_KEYS_MAX] = {false};
    size_t index, count;
    yyjson_val *key, *value;
    if (!yyjson_is_obj(object)) return tc_fail(e, TC_FORMAT, "%s: not an object", where);
    yyjson_obj_foreach(object, index, count, key, value)
    {
        size_t k = 0;
        while (known[k] && !yyjson_equals_str(key, known[k])) k++;
        if (!known[k])
            return tc_fail(e, TC_UNSUPPORTED, "%s: field \"%.*s\" is not implemented", where,
                           TC_SHOW(yyjson_get_len(key)), yyjson_get_str(key));
        if (seen[k]) return tc_fail(e, TC_FORMAT, "%s: duplicate field \"%s\"", where, known[k]);
        seen[k] = true;
    }
    return TC_OK;
}

// `only`: what is implemented there.
static tc_status unsupported(const char *where, yyjson_val *type, const char *only, tc_error *e)
{
    if (!yyjson_is_str(type)) return tc_fail(e, TC_FORMAT, "%s: \"type\" is not a string", where);
    return tc_fail(e, TC_UNSUPPORTED, "%s: type \"%.*s\" is not implemented, only: %s", where,
                   TC_SHOW(yyjson_get_len(type)), yyjson_get_str(type), only);
}

// A field that must be false, and may be absent only where the reference's default is false too.
static tc_status must_be(yyjson_val *object, const char *where, const char *key, bool wanted, bool absent,
                         tc_error *e)
{
    yyjson_val *value = tc_file_get(object, key);
    if (value && !yyjson_is_bool(value)) return tc_fail(e, TC_FORMAT, "%s.%s: not a boolean", where, key);
    if ((value ? yyjson_get_bool(value) : absent) == wanted) return TC_OK;
    return tc_fail(e, TC_UNSUPPORTED, "%s.%s: only %s is implemented", where, key, wanted ? "true" : "false");
}

#define BLANK_MARK "\xe2\x96\x81" // U+2581

static bool is_text(yyjson_val *v, const char *text)
{
    return yyjson_is_str(v) && yyjson_equals_str(v, text);
}

// Replace of one text by another.
static bool is_replace(yyjson_val *v, const char *from, const char *to)
{
    return is_text(tc_file_get(tc_file_get(v, "pattern"), "String"), from) &&
           is_text(tc_file_get(v, "content"), to);
}

static tc_status read_one_normalizer(yyjson_val *v, yyjson_val *type, tc_tokenizer *t, tc_error *e)
{
    static const char *const nfc_keys[] = {"type", NULL}, *const prepend_keys[] = {"type", "prepend", NULL},
                             *const replace_keys[] = {"type", "pattern", "content", NULL};
    const char *where = "normalizer";
    if (is_text(type, "NFC")) {
        t->nfc = true;
        return tc_file_keys(v, where, nfc_keys, e);
    }
    if (t->by_chars && is_text(type, "Prepend") && is_text(tc_file_get(v, "prepend"), BLANK_MARK)) {
        t->prepend = true;
        return tc_file_keys(v, where, prepend_keys, e);
    }
    if (t->by_chars && is_text(type, "Replace") && is_replace(v, " ", BLANK_MARK)) {
        t->blanks = true;
        return tc_file_keys(v, where, replace_keys, e);
    }
    return unsupported(where, type, "NFC, and with byte_fallback Prepend and Replace of U+2581", e);
}

static tc_status read_normalizer(yyjson_val *v, int depth, tc_tokenizer *t, tc_error *e)
{
    static const char *const sequence_keys[] = {"type", "normalizers", NULL};
    const char *where = "normalizer";
    if (!v || yyjson_is_null(v)) return TC_OK;
    if (!yyjson_is_obj(v)) return tc_fail(e, TC_FORMAT, "%s: not an object", where);
    yyjson_val *type = tc_file_get(v, "type"), *list, *item;
    if (!yyjson_equals_str(type, "Sequence")) return read_one_normalizer(v, type, t, e);
    if (depth == SEQUENCE_DEPTH_MAX) return tc_fail(e, TC_LIMIT, "%s: sequences nested too deep", where);
    TC_TRY(tc_file_keys(v, where, sequence_keys, e));
    list = tc_file_get(v, "normalizers");
    if (!yyjson_is_arr(list)) return tc_fail(e, TC_FORMAT, "%s.normalizers: not an array", where);
    size_t index, count;
    yyjson_arr_foreach(list, index, count, item)
    {
        if (!yyjson_is_obj(item))
            return tc_fail(e, TC_FORMAT, "%s.normalizers[%zu]: not an object", where, index);
        TC_TRY(read_normalizer(item, depth + 1, t, e));
    }
    return TC_OK;
}

enum { SPLITS_MAX = 8 };

// One Split: its expression. "Removed" with `invert` gives the matches too; what the known expressions do not
// match (they match everything) would be dropped.
static tc_status read_split(yyjson_val *v, bool alone, const char **ret, size_t *ret_bytes, tc_error *e)
{
    static const char *const keys[] = {"type", "pattern", "behavior", "invert", NULL}, *const pattern_keys[] =
                                                                                           {"Regex", NULL};
    const char *where = "pre_tokenizer Split";
    TC_TRY(tc_file_keys(v, where, keys, e));
    yyjson_val *behavior = tc_file_get(v, "behavior");
    bool removed =
        alone && yyjson_equals_str(behavior, "Removed") && yyjson_is_true(tc_file_get(v, "invert"));
    TC_TRY(must_be(v, where, "invert", removed, false, e));
    if (!removed && !yyjson_equals_str(behavior, "Isolated"))
        return tc_fail(e, TC_UNSUPPORTED, "%s.behavior: only \"Isolated\" is implemented", where);
    yyjson_val *pattern = tc_file_get(v, "pattern");
    TC_TRY(tc_file_keys(pattern, "pre_tokenizer Split.pattern", pattern_keys, e));
    yyjson_val *regex = tc_file_get(pattern, "Regex");
    if (!yyjson_is_str(regex)) return tc_fail(e, TC_FORMAT, "%s.pattern.Regex: not a string", where);
    *ret = yyjson_get_str(regex);
    *ret_bytes = yyjson_get_len(regex);
    return TC_OK;
}

// [Split, ..., ByteLevel]: the Splits.
static tc_status read_splits(yyjson_val *list, size_t count, tc_tokenizer *t, tc_error *e)
{
    const char *regexes[SPLITS_MAX], *where = "pre_tokenizer";
    size_t bytes[SPLITS_MAX];
    for (size_t i = 0; i < count; i++) {
        yyjson_val *item = yyjson_arr_get(list, i);
        if (!yyjson_is_obj(item) || !yyjson_equals_str(tc_file_get(item, "type"), "Split"))
            return tc_fail(e, TC_UNSUPPORTED, "%s.pretokenizers: only [Split, ..., ByteLevel] is implemented",
                           where);
        TC_TRY(read_split(item, count == 1, &regexes[i], &bytes[i], e));
    }
    if (tc_pretoken_recognise_sequence(regexes, bytes, count, &t->pretoken)) return TC_OK;
    return tc_fail(e, TC_UNSUPPORTED,
                   "%s Split.pattern.Regex: not one of the known expressions, which are those of GPT-2, Qwen "
                   "2, Llama 3, "
                   "GPT-4o and DeepSeek V3: %.*s",
                   where, TC_SHOW(bytes[0]), regexes[0]);
}

static tc_status read_metaspace(yyjson_val *v, tc_tokenizer *t, tc_error *e)
{
    static const char *const keys[] = {
        "type", "replacement", "prepend_scheme", "split", "str_rep", "add_prefix_space", NULL};
    const char *where = "pre_tokenizer Metaspace";
    TC_TRY(tc_file_keys(v, where, keys, e));
    yyjson_val *scheme = tc_file_get(v, "prepend_scheme"), *split = tc_file_get(v, "split");
    if (!is_text(tc_file_get(v, "replacement"), BLANK_MARK))
        return tc_fail(e, TC_UNSUPPORTED, "%s.replacement: only U+2581 is implemented", where);
    if (scheme && !is_text(scheme, "first") && !is_text(scheme, "always") && !is_text(scheme, "never"))
        return tc_fail(e, TC_UNSUPPORTED, "%s.prepend_scheme: not first, always or never", where);
    if (split && !yyjson_is_bool(split)) return tc_fail(e, TC_FORMAT, "%s.split: not a boolean", where);
    t->metaspace = true;
    t->metaspace_first = is_text(scheme, "first");
    t->metaspace_always = !scheme || is_text(scheme, "always");
    t->pretoken = !split || yyjson_get_bool(split) ? TC_PRETOKEN_METASPACE : TC_PRETOKEN_NONE;
    return TC_OK;
}

// ByteLevel in any of its three roles; use_regex matters only in a pre-tokenizer.
static tc_status read_byte_level(yyjson_val *v, const char *where, bool *ret_regex, tc_error *e)
{
    static const char *const keys[] = {"type", "add_prefix_space", "trim_offsets", "use_regex", NULL};
    TC_TRY(tc_file_keys(v, where, keys, e));
    yyjson_val *regex = tc_file_get(v, "use_regex");
    if (regex && !yyjson_is_bool(regex)) return tc_fail(e, TC_FORMAT, "%s.use_regex: not a boolean", where);
    if (ret_regex) *ret_regex = regex ? yyjson_get_bool(regex) : true;
    return TC_OK;
}

static tc_status read_char_pretokenizer(yyjson_val *v, tc_tokenizer *t, tc_error *e)
{
    t->pretoken = TC_PRETOKEN_NONE;
    if (!v || yyjson_is_null(v)) return TC_OK;
    if (!yyjson_is_obj(v)) return tc_fail(e, TC_FORMAT, "pre_tokenizer: not an object");
    if (is_text(tc_file_get(v, "type"), "Metaspace")) return read_metaspace(v, t, e);
    return unsupported("pre_tokenizer", tc_file_get(v, "type"), "none, or Metaspace, with byte_fallback", e);
}

static tc_status read_pretokenizer(yyjson_val *v, tc_tokenizer *t, tc_error *e)
{
    static const char *const sequence_keys[] = {"type", "pretokenizers", NULL};
    const char *where = "pre_tokenizer";
    bool regex = false;
    if (t->by_chars) return read_char_pretokenizer(v, t, e);
    if (!v || yyjson_is_null(v)) return tc_fail(e, TC_UNSUPPORTED, "%s: absent, ByteLevel is needed", where);
    if (!yyjson_is_obj(v)) return tc_fail(e, TC_FORMAT, "%s: not an object", where);
    yyjson_val *byte_level = v, *type = tc_file_get(v, "type");
    bool split = yyjson_equals_str(type, "Sequence");
    if (split) {
        TC_TRY(tc_file_keys(v, where, sequence_keys, e));
        yyjson_val *list = tc_file_get(v, "pretokenizers");
        size_t count = yyjson_arr_size(list);
        if (!yyjson_is_arr(list)) return tc_fail(e, TC_FORMAT, "%s.pretokenizers: not an array", where);
        byte_level = count ? yyjson_arr_get(list, count - 1) : NULL;
        if (count < 2 || count > SPLITS_MAX || !yyjson_is_obj(byte_level))
            return tc_fail(e, TC_UNSUPPORTED, "%s.pretokenizers: only [Split, ..., ByteLevel] is implemented",
                           where);
        TC_TRY(read_splits(list, count - 1, t, e));
        type = tc_file_get(byte_level, "type");
    }
    if (!yyjson_equals_str(type, "ByteLevel"))
        return unsupported(where, type, "ByteLevel, alone or behind Splits in a Sequence", e);
    where = "pre_tokenizer ByteLevel";
    TC_TRY(read_byte_level(byte_level, where, &regex, e));
    TC_TRY(must_be(byte_level, where, "add_prefix_space", false, true, e));
    if (regex == split)
        return tc_fail(e, TC_UNSUPPORTED, "%s.use_regex: %s", where,
                       split ? "must be false after a Split" : "false without a Split is not implemented");
    if (!split) t->pretoken = TC_PRETOKEN_GPT2;
    return TC_OK;
}

// Special tokens before the text are kept as its prefix (tc_tokenizer_prefix); behind it none may stand.
static tc_status read_template(yyjson_val *v, tc_tokenizer *t, tc_error *e)
{
    yyjson_val *single = tc_file_get(v, "single"), *specials = tc_file_get(v, "special_tokens"), *item, *id;
    size_t index, count, k, n;
    bool text = false;
    if (!yyjson_is_arr(single)) return tc_fail(e, TC_FORMAT, "post_processor.single: not an array");
    yyjson_arr_foreach(single, index, count, item)
    {
        yyjson_val *special = tc_file_get(item, "SpecialToken");
        if (tc_file_get(item, "Sequence") && !text) {
            text = true;
            continue;
        }
        yyjson_val *name = tc_file_get(special, "id"), *entry = NULL;
        if (yyjson_is_str(name))
            entry = yyjson_obj_getn(specials, yyjson_get_str(name), yyjson_get_len(name));
        yyjson_val *ids = tc_file_get(entry, "ids");
        if (text || !yyjson_is_arr(ids))
            return tc_fail(e, TC_UNSUPPORTED,
                           "post_processor.single[%zu]: only special tokens before the text are implemented",
                           index);
        yyjson_arr_foreach(ids, k, n, id)
        {
            if (!yyjson_is_uint(id) || yyjson_get_uint(id) > TC_ID_MAX ||
                t->prefix_count == sizeof t->prefix / sizeof *t->prefix)
                return tc_fail(e, TC_FORMAT, "post_processor.single[%zu]: not an id, or too many", index);
            t->prefix[t->prefix_count++] = (uint32_t)yyjson_get_uint(id);
        }
    }
    return TC_OK;
}

static tc_status read_post_processor(yyjson_val *v, int depth, tc_tokenizer *t, tc_error *e)
{
    const char *where = "post_processor";
    if (!v || yyjson_is_null(v)) return TC_OK;
    if (!yyjson_is_obj(v)) return tc_fail(e, TC_FORMAT, "%s: not an object", where);
    yyjson_val *type = tc_file_get(v, "type"), *item;
    if (yyjson_equals_str(type, "ByteLevel")) return read_byte_level(v, where, NULL, e);
    if (yyjson_equals_str(type, "TemplateProcessing")) return read_template(v, t, e);
    if (!yyjson_equals_str(type, "Sequence"))
        return unsupported(where, type, "ByteLevel, TemplateProcessing, Sequence", e);
    if (depth == SEQUENCE_DEPTH_MAX) return tc_fail(e, TC_LIMIT, "%s: sequences nested too deep", where);
    yyjson_val *list = tc_file_get(v, "processors");
    if (!yyjson_is_arr(list)) return tc_fail(e, TC_FORMAT, "%s.processors: not an array", where);
    size_t index, count;
    yyjson_arr_foreach(list, index, count, item) TC_TRY(read_post_processor(item, depth + 1, t, e));
    return TC_OK;
}

static tc_status empty_affix(yyjson_val *model, const char *key, tc_error *e)
{
    yyjson_val *v = tc_file_get(model, key);
    if (!v || yyjson_is_null(v) || (yyjson_is_str(v) && yyjson_get_len(v) == 0)) return TC_OK;
    return tc_fail(e, TC_UNSUPPORTED, "model.%s: only null or \"\" is implemented", key);
}

static tc_status read_model(yyjson_val *model, tc_tokenizer *t, tc_error *e)
{
    static const char *const keys[] = {"type",
                                       "dropout",
                                       "unk_token",
                                       "continuing_subword_prefix",
                                       "end_of_word_suffix",
                                       "fuse_unk",
                                       "byte_fallback",
                                       "ignore_merges",
                                       "vocab",
                                       "merges",
                                       NULL};
    if (!yyjson_is_obj(model)) return tc_fail(e, TC_FORMAT, "model: not an object");
    yyjson_val *type = tc_file_get(model, "type");
    if (type && !yyjson_equals_str(type, "BPE")) return unsupported("model", type, "BPE", e);
    TC_TRY(tc_file_keys(model, "model", keys, e));
    yyjson_val *dropout = tc_file_get(model, "dropout"), *unk = tc_file_get(model, "unk_token");
    if (dropout && !yyjson_is_null(dropout) && !(yyjson_is_num(dropout) && yyjson_get_num(dropout) == 0))
        return tc_fail(e, TC_UNSUPPORTED, "model.dropout: only null or 0 is implemented");
    // Every byte has a token (checked with the vocabulary), so an unknown-token is never used; fuse_unk
    // neither.
    if (unk && !yyjson_is_null(unk) && !yyjson_is_str(unk))
        return tc_fail(e, TC_FORMAT, "model.unk_token: neither null nor a string");
    TC_TRY(empty_affix(model, "continuing_subword_prefix", e));
    TC_TRY(empty_affix(model, "end_of_word_suffix", e));
    TC_TRY(must_be(model, "model", "byte_fallback", t->by_chars, false, e));
    yyjson_val *ignore = tc_file_get(model, "ignore_merges");
    if (ignore && !yyjson_is_bool(ignore)) return tc_fail(e, TC_FORMAT, "model.ignore_merges: not a boolean");
    t->bpe.ignore_merges = ignore && yyjson_get_bool(ignore);
    if (t->bpe.ignore_merges && t->by_chars)
        return tc_fail(e, TC_UNSUPPORTED, "model.ignore_merges: not implemented together with byte_fallback");
    return TC_OK;
}

static tc_status read_byte_decoder(yyjson_val *decoder, tc_error *e)
{
    if (!yyjson_is_obj(decoder)) return tc_fail(e, TC_UNSUPPORTED, "decoder: absent, ByteLevel is needed");
    if (!yyjson_equals_str(tc_file_get(decoder, "type"), "ByteLevel"))
        return unsupported("decoder", tc_file_get(decoder, "type"),
                           "ByteLevel, and with byte_fallback a Sequence", e);
    return read_byte_level(decoder, "decoder", NULL, e);
}

// [Replace U+2581 by a blank, ByteFallback, Fuse] and perhaps Strip of one blank at the start.
static tc_status read_char_decoder(yyjson_val *decoder, tc_tokenizer *t, tc_error *e)
{
    yyjson_val *list = tc_file_get(decoder, "decoders"), *strip = yyjson_arr_get(list, 3);
    bool known = is_text(tc_file_get(decoder, "type"), "Sequence") && yyjson_arr_size(list) >= 3 &&
                 yyjson_arr_size(list) <= 4 &&
                 is_text(tc_file_get(yyjson_arr_get(list, 0), "type"), "Replace") &&
                 is_replace(yyjson_arr_get(list, 0), BLANK_MARK, " ") &&
                 is_text(tc_file_get(yyjson_arr_get(list, 1), "type"), "ByteFallback") &&
                 is_text(tc_file_get(yyjson_arr_get(list, 2), "type"), "Fuse");
    if (known && strip)
        known = is_text(tc_file_get(strip, "type"), "Strip") && is_text(tc_file_get(strip, "content"), " ") &&
                yyjson_get_uint(tc_file_get(strip, "start")) == 1 &&
                yyjson_get_uint(tc_file_get(strip, "stop")) == 0;
    if (!known)
        return tc_fail(
            e, TC_UNSUPPORTED,
            "decoder: with byte_fallback only [Replace, ByteFallback, Fuse, Strip] is implemented");
    t->strip_start = strip != NULL;
    return TC_OK;
}

tc_status tc_file_settings(yyjson_val *root, tc_tokenizer *t, tc_error *e)
{
    static const char *const keys[] = {
        "version",       "truncation",     "padding", "added_tokens", "normalizer",
        "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
    static const char *const must_be_null[] = {"truncation", "padding"};
    TC_TRY(tc_file_keys(root, "top level", keys, e));
    for (size_t i = 0; i < sizeof must_be_null / sizeof *must_be_null; i++) {
        yyjson_val *v = tc_file_get(root, must_be_null[i]);
        if (v && !yyjson_is_null(v))
            return tc_fail(e, TC_UNSUPPORTED, "%s: only null is implemented", must_be_null[i]);
    }
    t->by_chars = yyjson_is_true(yyjson_obj_get(tc_file_get(root, "model"), "byte_fallback"));
    TC_TRY(read_normalizer(tc_file_get(root, "normalizer"), 0, t, e));
    TC_TRY(read_pretokenizer(tc_file_get(root, "pre_tokenizer"), t, e));
    TC_TRY(read_post_processor(tc_file_get(root, "post_processor"), 0, t, e));
    yyjson_val *decoder = tc_file_get(root, "decoder");
    TC_TRY(t->by_chars ? read_char_decoder(decoder, t, e) : read_byte_decoder(decoder, e));
    return read_model(tc_file_get(root, "model"), t, e);
}
