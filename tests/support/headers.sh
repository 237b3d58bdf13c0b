#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiles each header alone: a header that only works after another one is a trap for the next reader.
# Refuses: the code that protoc-c makes, and headers of the tests.
set -u
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." || exit 1
cc=${CC:-gcc}
isa=()
if [[ $(uname -m) == x86_64 ]]; then isa=(-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512bf16 -mamx-tile); fi
passed=0 failed=0
while read -r header; do
    flags=() # what is there for vectors only is compiled for them
    if grep -q immintrin.h "$header" || grep -Eq '"common/kernels/impl_avx' "$header"; then flags=("${isa[@]}"); fi
    if "$cc" "${flags[@]}" -std=gnu11 -D_GNU_SOURCE -DTC_VERSION='""' -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -Werror -fsyntax-only \
        -I. -isystem .deps/yyjson -isystem .deps/llhttp/include -x c -include "$header" /dev/null; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "not self-contained: $header"
    fi
done < <(find common proto gateway gpu-core expert-worker cli -name '*.h' | sort)
echo "$passed passed, $failed failed"
((failed == 0))
