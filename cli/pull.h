// SPDX-License-Identifier: Apache-2.0
// Owns: models named OWNER/NAME[:REVISION] on the command line.
#pragma once

#include "common/hub/hub.h"

// The folder of a model: `model` itself where that is a path that exists or no name of a hub; else the hub's
// snapshot, pulled if needed (with progress). ret: TC_HUB_PATH_BYTES.
tc_status tc_pull_model(const char *model, char ret[TC_HUB_PATH_BYTES], tc_error *e);
