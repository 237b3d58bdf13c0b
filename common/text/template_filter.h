// SPDX-License-Identifier: Apache-2.0
// Owns: the declarations behind the table of filters: each takes the value it is applied to and its arguments
// in the order of the table's parameters (MISSING where not given).
#pragma once

#include "common/text/template_run.h"

typedef tc_tv tc_filter_fn(tc_tr *r, tc_tv v, tc_tv *p);

// template_filter_list.c
tc_filter_fn tc_filter_batch, tc_filter_dictsort, tc_filter_first, tc_filter_groupby, tc_filter_items,
    tc_filter_join, tc_filter_last, tc_filter_list, tc_filter_max, tc_filter_min, tc_filter_reverse,
    tc_filter_slice, tc_filter_sort, tc_filter_sum, tc_filter_unique;
// These take their arguments as they come.
tc_tv tc_filter_map(tc_tr *r, tc_tv v, tc_targs *args);
tc_tv tc_filter_select(tc_tr *r, tc_tv v, tc_targs *args, bool attribute, bool wanted);

// template_filter_text.c
tc_filter_fn tc_filter_capitalize, tc_filter_center, tc_filter_escape, tc_filter_filesizeformat,
    tc_filter_forceescape, tc_filter_indent, tc_filter_lower, tc_filter_replace, tc_filter_safe,
    tc_filter_string, tc_filter_striptags, tc_filter_title, tc_filter_trim, tc_filter_truncate,
    tc_filter_upper, tc_filter_urlencode, tc_filter_wordcount, tc_filter_wordwrap, tc_filter_xmlattr;
