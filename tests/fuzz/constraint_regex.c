// SPDX-License-Identifier: Apache-2.0
// Owns: the fuzz target of constraints in this language (constraint.h).
#define TC_FUZZ_KIND TC_CONSTRAINT_REGEX
#include "tests/fuzz/constraint.h"
