// SPDX-License-Identifier: Apache-2.0
// Owns: libuv's memory. libuv 1.44 aborts the process when its table of descriptors cannot grow; so where the
// system has no memory it gets some of a reserve that was set aside before. Refuses: to serve anybody else.
#pragma once

enum { TC_UV_RESERVE_BYTES = 512 << 10 }; // the table for TC_HTTP_CONNECTIONS_MAX descriptors, and room

// Before libuv is used for the first time.
void tc_uv_memory_begin(void);
