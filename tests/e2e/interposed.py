# SPDX-License-Identifier: Apache-2.0
"""The test's side of tests/fault/interpose.c: the page that says which allocation fails, which write finds the disk full, and how
far the wall clock is off; and the environment that puts the library into a program."""
import mmap
import struct
import tempfile

from harness import BUILD, CACHE

LIBRARY = BUILD / "tests" / "fault" / "libtc-interpose.so"
WORDS = ("allocation_at", "allocations", "write_at", "writes", "on", "failed", "live", "live_bytes", "clock_s", "live_at_exit", "spared")


class Page:
    def __init__(self):
        file = tempfile.NamedTemporaryFile(dir=CACHE, delete=False)
        file.truncate(4096)
        self.memory, self.path = mmap.mmap(file.fileno(), 4096), file.name
        file.close()
        self.environment = {"LD_PRELOAD": str(LIBRARY), "TC_INTERPOSE": self.path}

    def __getattr__(self, name):
        if name in WORDS:
            return struct.unpack_from("<q", self.memory, 8 * WORDS.index(name))[0]
        raise AttributeError(name)

    def set(self, **words):
        for name, value in words.items():
            struct.pack_into("<q", self.memory, 8 * WORDS.index(name), value)

    def fresh(self, **words):
        """For a program that is about to start."""
        self.set(**{**dict.fromkeys(WORDS, 0), "live_at_exit": -1, **words})
