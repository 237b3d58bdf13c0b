# SPDX-License-Identifier: Apache-2.0
"""The colours of cli/report.css for eyes of every kind; a case of check.py."""
import math
import re
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOOKS_APART = 22  # in CIELAB

# How colours look without one kind of cones (Machado, Oliveira and Fernandes 2009, severity 1), on linear RGB.
EYES = {"all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
        "no red": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
        "no green": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
        "no blue": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900))}


def linear(colour):
    channels = (int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5))
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def luminance(colour):
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear(colour)))


def lab(rgb):
    xyz = (sum(w * c for w, c in zip(row, rgb)) / white for row, white in
           (((0.4124, 0.3576, 0.1805), 0.9505), ((0.2126, 0.7152, 0.0722), 1), ((0.0193, 0.1192, 0.9505), 1.089)))
    x, y, z = (max(v, 0) ** (1 / 3) if v > 0.008856 else 7.787 * max(v, 0) + 16 / 116 for v in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


class Colours(unittest.TestCase):
    def test_looks_and_cells_for_every_eye(self):
        css = (HERE.parents[1] / "cli" / "report.css").read_text()
        blocks = re.findall(r":root \{(.*?)\}", css, re.S)
        self.assertEqual(len(blocks), 2)
        for block in blocks:
            value = {k: v if len(v) == 7 else "#" + "".join(2 * c for c in v[1:]) for k, v in re.findall(r"--(\w+): (#[0-9a-f]+)", block)}
            looks = [value[f"c{i}"] for i in range(8)]

            def contrast(a, b):
                high, low = sorted((luminance(a), luminance(b)), reverse=True)
                return (high + 0.05) / (low + 0.05)

            for colour in looks:
                self.assertGreater(contrast(colour, value["ground"]), 3.2)
            self.assertGreater(contrast(value["ink"], value["ground"]), 7)
            self.assertGreater(contrast(value["soft"], value["ground"]), 4.5)
            for eyes, matrix in EYES.items():
                seen = [lab([sum(m * c for m, c in zip(row, linear(colour))) for row in matrix]) for colour in looks]
                for i, a in enumerate(seen):
                    for j, b in enumerate(seen[:i]):
                        self.assertGreater(math.dist(a, b), LOOKS_APART, (eyes, i, j))
            steps = [luminance(value[f"h{i}"]) for i in range(12)]
            self.assertTrue(steps == sorted(steps) or steps == sorted(steps, reverse=True))  # lightness alone tells
