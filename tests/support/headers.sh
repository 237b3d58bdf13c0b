#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiles each header alone: a header that only works after another one is a trap for the next reader.
# Refuses: the code that protoc-c makes, and headers of the tests.
set -u
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." || exit 1
cc=${CC:-gcc}
passed=0 failed=0
while read -r header; do
    if "$cc" -std=gnu11 -D_GNU_SOURCE -DTC_VERSION='""' -Wall -Wextra -Wno-unused-parameter -Werror -fsyntax-only \
        -I. -isystem .deps/yyjson -isystem .deps/llhttp/include -x c -include "$header" /dev/null; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "not self-contained: $header"
    fi
done < <(find common proto gateway gpu-core expert-worker cli -name '*.h' | sort)
echo "$passed passed, $failed failed"
((failed == 0))
