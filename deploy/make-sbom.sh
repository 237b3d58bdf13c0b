#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# make-sbom.sh VERSION TIME DEV FILE...: a CycloneDX 1.5 bill of materials on stdout: our programs with their SHA-256, the Debian
# packages of the libraries they load, and the pinned sources that are linked in (versions out of DEV, the script `dev`).
set -euo pipefail
version=$1 time=$2 dev=$3
shift 3

field() { sed -n "s/^$1=\(.*\)/\1/p" "$dev"; }
llhttp_of=$(field httptools_version) llhttp_hash=$(field httptools_sha256)
yyjson_of=$(field yyjson_version) yyjson_hash=$(field yyjson_sha256)

# The packages that own the libraries, each once: name, version, architecture.
# shellcheck disable=SC2016
packages() {
    local library
    for file; do ldd "$file" | grep -o '/[^ ]*' || true; done | sort -u | while read -r library; do
        dpkg-query -S "$(realpath "$library")" 2>/dev/null || dpkg-query -S "$library" 2>/dev/null || true
    done | cut -d: -f1 | sort -u | xargs -r dpkg-query -W -f '${Package} ${Version} ${Architecture}\n'
}

separator=''
component() { printf '%s\n  %s' "$separator" "$1" && separator=,; }

printf '{"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,\n "metadata": {"timestamp": "%s", "component": ' "$time"
printf '{"type": "application", "bom-ref": "thermocline", "name": "thermocline", "version": "%s",' "$version"
printf ' "licenses": [{"license": {"id": "Apache-2.0"}}]}},\n "components": ['
for file; do
    hash=$(sha256sum "$file" | cut -d ' ' -f 1)
    component "{\"type\": \"file\", \"bom-ref\": \"file:${file##*/}\", \"name\": \"${file##*/}\", \"version\": \"$version\", \"hashes\": [{\"alg\": \"SHA-256\", \"content\": \"$hash\"}]}"
done
component "{\"type\": \"library\", \"bom-ref\": \"pkg:pypi/httptools@$llhttp_of\", \"name\": \"llhttp\", \"version\": \"as in httptools $llhttp_of\", \"purl\": \"pkg:pypi/httptools@$llhttp_of\", \"licenses\": [{\"license\": {\"id\": \"MIT\"}}], \"hashes\": [{\"alg\": \"SHA-256\", \"content\": \"$llhttp_hash\"}]}"
component "{\"type\": \"library\", \"bom-ref\": \"pkg:pypi/yyjson@$yyjson_of\", \"name\": \"yyjson\", \"version\": \"as in yyjson $yyjson_of\", \"purl\": \"pkg:pypi/yyjson@$yyjson_of\", \"licenses\": [{\"license\": {\"id\": \"MIT\"}}], \"hashes\": [{\"alg\": \"SHA-256\", \"content\": \"$yyjson_hash\"}]}"
depends="\"pkg:pypi/httptools@$llhttp_of\", \"pkg:pypi/yyjson@$yyjson_of\""
while read -r name number architecture; do
    purl="pkg:deb/debian/$name@${number//:/%3A}?arch=$architecture"
    component "{\"type\": \"library\", \"bom-ref\": \"$purl\", \"name\": \"$name\", \"version\": \"$number\", \"purl\": \"$purl\"}"
    depends+=", \"$purl\""
done < <(packages "$@")
printf '\n ],\n "dependencies": [{"ref": "thermocline", "dependsOn": [%s]}]}\n' "$depends"
