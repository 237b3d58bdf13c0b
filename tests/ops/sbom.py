#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""sbom.py FILE: a bill of materials is CycloneDX 1.5, names every library our programs load, and refers to nothing it lacks."""
import json
import re
import sys


def main():
    bom = json.load(open(sys.argv[1]))
    components = bom["components"]
    refs = [c["bom-ref"] for c in components] + [bom["metadata"]["component"]["bom-ref"]]
    names = {c["name"] for c in components}
    checks = {
        "format": bom["bomFormat"] == "CycloneDX" and bom["specVersion"] == "1.5" and bom["version"] == 1,
        "time": re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", bom["metadata"]["timestamp"]) is not None,
        "references are unique": len(refs) == len(set(refs)),
        "dependencies exist": all({d["ref"], *d["dependsOn"]} <= set(refs) for d in bom["dependencies"]),
        "types": all(c["type"] in ("library", "file") and c["name"] and c["version"] for c in components),
        "hashes": all(re.fullmatch("[0-9a-f]{64}", h["content"]) for c in components for h in c.get("hashes", [])),
        "our programs": {"thermocline", "thermocline-core", "thermocline-gateway", "thermocline-worker"} <= names,
        "linked in": {"llhttp", "yyjson"} <= names,
        "loaded": {"libc6", "libnng1", "libprotobuf-c1", "libuv1", "libnuma1", "libutf8proc2", "libxxhash0"} <= names,
    }
    for name, good in checks.items():
        if not good:
            print("FAILED", name)
    print(f"{sum(checks.values())} passed, {len(checks) - sum(checks.values())} failed")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
