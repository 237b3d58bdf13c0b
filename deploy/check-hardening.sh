#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# check-hardening.sh FILE...: each ELF file must be position-independent, with full RELRO, no executable stack, no text
# relocations, CET (IBT and shadow stack), stack protector and fortified calls. Prints what is missing, and ends with counts.
set -euo pipefail
good=0 bad=0
for file; do
    missing=()
    headers=$(readelf -hldnW "$file")
    symbols=$(readelf -sW --dyn-syms "$file")
    grep -q 'Type: *DYN' <<<"$headers" || missing+=(PIE)
    grep -q GNU_RELRO <<<"$headers" || missing+=(RELRO)
    grep -Eq 'FLAGS.*(BIND_)?NOW' <<<"$headers" || missing+=('immediate binding')
    grep -Eq 'GNU_STACK.* RW ' <<<"$headers" || missing+=('non-executable stack')
    if grep -q TEXTREL <<<"$headers"; then missing+=('no text relocations'); fi
    grep -q 'x86 feature: .*IBT' <<<"$headers" || missing+=(IBT)
    grep -q 'x86 feature: .*SHSTK' <<<"$headers" || missing+=('shadow stack')
    # Marked by the linker, because Debian's start-up object is not: so see that our own code has its landing pads.
    (($(objdump -d --no-show-raw-insn "$file" | grep -c endbr64) >= 100)) || missing+=('endbr64')
    grep -q __stack_chk_fail <<<"$symbols" || missing+=('stack protector')
    grep -Eq '__[a-z]+_chk\b' <<<"$(grep -v __stack_chk_fail <<<"$symbols")" || missing+=(fortify)
    if ((${#missing[@]})); then
        printf '%s: missing: %s\n' "$file" "$(IFS=,; echo "${missing[*]}")"
        bad=$((bad + 1))
    else
        good=$((good + 1))
    fi
done
printf '%d passed, %d failed\n' "$good" "$bad"
((bad == 0 && good > 0))
