// SPDX-License-Identifier: Apache-2.0
// Owns: cmocka's include ritual, in one place.
#pragma once

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on
