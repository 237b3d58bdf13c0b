// SPDX-License-Identifier: Apache-2.0
// Owns: the search over sorted patterns. At each place the range of patterns that agree with the text is
// narrowed byte by byte; most places fail on the first one.
#include "common/text/added.h"
#include "common/text/unicode.h"
#include "common/text/utf8.h"
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b)
{
    const tc_added *x = *(const tc_added *const *)a, *y = *(const tc_added *const *)b;
    size_t shorter = x->pattern_bytes < y->pattern_bytes ? x->pattern_bytes : y->pattern_bytes;
    int order = memcmp(x->pattern, y->pattern, shorter);
    return order ? order : (x->pattern_bytes > y->pattern_bytes) - (x->pattern_bytes < y->pattern_bytes);
}

tc_status tc_added_set_build(tc_added_set *set, const tc_added **items, uint32_t count)
{
    if (count) qsort(items, count, sizeof *items, compare);
    for (uint32_t i = 1; i < count; i++)
        if (compare(&items[i - 1], &items[i]) == 0) return TC_FORMAT;
    set->items = items;
    set->count = count;
    for (uint32_t i = 0, b = 0; b <= 256; b++) {
        while (i < count && items[i]->pattern[0] < b) i++;
        set->first[b] = i;
    }
    return TC_OK;
}

// First item in [low, high) whose byte `depth` is at least `least` (all are longer than depth).
static uint32_t lower(const tc_added_set *set, uint32_t low, uint32_t high, size_t depth, unsigned least)
{
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (set->items[middle]->pattern[depth] < least)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// The longest pattern at `text`. A special one of more than `special_bytes` bytes does not count, unless
// `*ret_barred` is to have it.
static const tc_added *longest_at(const tc_added_set *set, const uint8_t *text, size_t bytes,
                                  size_t special_bytes, const tc_added **ret_barred)
{
    const tc_added *found = NULL;
    uint32_t low = set->first[text[0]], high = set->first[text[0] + 1];
    for (size_t depth = 1; low < high; depth++) {
        if (set->items[low]->pattern_bytes == depth) {
            const tc_added *item = set->items[low++];
            *(item->special && depth > special_bytes ? ret_barred : &found) = item;
        }
        if (depth == bytes || low == high) break;
        high = lower(set, low, high, depth, text[depth] + 1u);
        low = lower(set, low, high, depth, text[depth]);
    }
    return found;
}

static size_t previous(const uint8_t *text, size_t at)
{
    do at--;
    while (at > 0 && (text[at] & 0xc0) == 0x80);
    return at;
}

static bool flags_before(const uint8_t *text, size_t at, uint8_t any)
{
    size_t step;
    return (tc_char_flags(tc_utf8_get(text + previous(text, at), &step)) & any) != 0;
}

// End of the white space at `at`. Remembered, because rstrip matches may lie inside one another's space.
static size_t space_end(tc_added_scan *s, size_t at)
{
    if (at >= s->space_from && at <= s->space_to && s->space_to != 0) return s->space_to;
    s->space_from = at;
    for (size_t step; at < s->bytes && (tc_char_flags(tc_utf8_get(s->text + at, &step)) & TC_CHAR_SPACE);)
        at += step;
    s->space_to = at;
    return at;
}

static bool stands_alone(const tc_added_scan *s, size_t start, size_t stop)
{
    size_t step;
    if (start > 0 && flags_before(s->text, start, TC_CHAR_WORD)) return false;
    return stop == s->bytes || !(tc_char_flags(tc_utf8_get(s->text + stop, &step)) & TC_CHAR_WORD);
}

// How many bytes from `at` on are no data.
static size_t template_bytes(tc_added_scan *s)
{
    while (s->data_at < s->data_count && s->data[s->data_at].end <= s->at) s->data_at++;
    if (s->data_at == s->data_count) return s->bytes - s->at;
    size_t begin = s->data[s->data_at].begin;
    return begin > s->at ? begin - s->at : 0;
}

// The match at `at`. NULL: none, or one that must not be; then *ret_skip bytes are used up. A special token
// that is all data is used up as a whole, as the library does it; one that reaches into template text is not,
// so that no data can swallow the beginning of a real special token.
static const tc_added *match_at(tc_added_scan *s, size_t *ret_skip)
{
    const tc_added *barred = NULL, *found;
    size_t room = s->data ? template_bytes(s) : SIZE_MAX;
    found = longest_at(s->set, s->text + s->at, s->bytes - s->at, room, &barred);
    *ret_skip = 1;
    if (!barred) return found;
    if (room == 0 && s->at + barred->pattern_bytes <= s->data[s->data_at].end &&
        (!found || found->pattern_bytes < barred->pattern_bytes)) {
        *ret_skip = barred->pattern_bytes;
        return NULL;
    }
    return found;
}

void tc_added_next(tc_added_scan *s, size_t *ret_begin, size_t *ret_end, const tc_added **ret)
{
    const uint32_t *first = s->set->first;
    *ret_begin = s->done;
    for (;;) {
        while (s->at < s->bytes && first[s->text[s->at]] == first[s->text[s->at] + 1]) s->at++;
        if (s->at == s->bytes) break;
        size_t skip;
        const tc_added *found = match_at(s, &skip);
        if (!found) {
            s->at += skip;
            continue;
        }
        size_t start = s->at, stop = start + found->pattern_bytes;
        s->at = stop; // a match that is turned down is used up all the same
        if (s->as_text && found->special) continue;
        if (found->single_word && !stands_alone(s, start, stop)) continue;
        while (found->lstrip && start > s->done && flags_before(s->text, start, TC_CHAR_SPACE))
            start = previous(s->text, start);
        if (found->rstrip) stop = space_end(s, stop);
        *ret_end = start > s->done ? start : s->done;
        s->done = stop;
        *ret = found;
        return;
    }
    *ret_end = s->bytes;
    *ret = NULL;
}
