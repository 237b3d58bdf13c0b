// SPDX-License-Identifier: Apache-2.0
// Owns: `thermocline render`. argv[0] is the verb. Returns the exit code: 0, 1 for bad input, 2 for bad
// usage.
#pragma once

int tc_cli_render(int argc, char **argv);
