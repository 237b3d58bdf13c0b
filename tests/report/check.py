#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds `thermocline bench report|compare|baseline` against results that are known: every figure of data/results.jsonl must stand
where its value belongs in the pictures and in the tables, nothing of a hostile file may become markup, every limit holds at N and
fails at N + 1, and comparisons must see what moved and nothing else. Ends with `N passed, N failed`. Standard library only.
  check.py --thermocline build/cli/thermocline"""
import argparse
import json
import math
import random
import re
import statistics
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from colours import Colours  # noqa: E402,F401 (a case of its own)

FIXTURE = HERE / "data" / "results.jsonl"
PROGRAM = None
RUN = {"record": "run", "schema": 1, "suite": "quick", "started": "2026-01-02T03:04:05Z", "commit": "abc", "machine": {"name": "m"}, "parts": []}


def command(*arguments):
    return subprocess.run([PROGRAM, "bench", *map(str, arguments)], capture_output=True, encoding="utf-8", timeout=120)


def local(element):
    return element.tag.split("}")[-1]


def classes(element):
    return element.get("class", "").split()


def having(root, class_name):
    return [e for e in root.iter() if class_name in classes(e)]


def text_of(element):
    return "".join(element.itertext())


def number(text):
    """What stands at an axis: 20k, 1.5M, 1e-5."""
    return float(text[:-1]) * {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[text[-1]] if text[-1] in "kMGT" else float(text)


def numbers_in(path):
    return [float(v) for v in re.findall(r"-?\d+(?:\.\d+)?", path)]


class Axis:
    """An axis as a reader sees it: ticks with their numbers, and the word (log)."""

    def __init__(self, svg, which):
        ticks = [e for e in having(svg, "tick") if which in classes(e)]
        labels = [text_of(e) for e in having(svg, "label")]
        coordinate = "x" if which == "x" else "y"
        lift = 0 if which == "x" else 4  # a text's base line lies below its tick
        self.ticks = sorted((number(text_of(t)), float(t.get(coordinate)) - lift) for t in ticks)
        self.log = "(log)" in labels[0 if which == "x" else 1]
        self.label = labels[0 if which == "x" else 1].replace(" (log)", "")
        self.zero = self.log and self.ticks[0][0] == 0 and self.ticks[0][1]
        whole = self.ticks[1:] if self.zero is not False else self.ticks
        (self.a, self.pa), (self.b, self.pb) = whole[0], whole[-1]

    def value(self, px):
        if self.zero is not False and abs(px - self.zero) < 0.6:
            return 0.0
        share = (px - self.pa) / (self.pb - self.pa)
        return self.a * (self.b / self.a) ** share if self.log else self.a + share * (self.b - self.a)

    def at(self, value):
        if self.log and value == 0:
            return self.zero
        share = math.log(value / self.a) / math.log(self.b / self.a) if self.log else (value - self.a) / (self.b - self.a)
        return self.pa + share * (self.pb - self.pa)


def render(lines, name="results.jsonl"):
    """(html root, html text, markdown) of records or raw bytes."""
    with tempfile.TemporaryDirectory() as folder:
        data = lines if isinstance(lines, bytes) else "".join(json.dumps(r) + "\n" for r in lines).encode()
        (Path(folder) / name).write_bytes(data)
        done = command("report", folder)
        if done.returncode:
            return done.stderr
        html, markdown = ((Path(folder) / n).read_text(encoding="utf-8") for n in ("report.html", "report.md"))
        assert sorted(p.name for p in Path(folder).iterdir()) == ["report.html", "report.md", name], "something was left behind"
        return ElementTree.fromstring(html), html, markdown


FACTORS = {"bytes": {"bytes": 1, "KiB": 2**-10, "MiB": 2**-20, "GiB": 2**-30}, "us": {"µs": 1, "ms": 1e-3, "s": 1e-6}, "share": {"%": 100}}


def factor(unit, shown):
    return FACTORS.get(unit, {}).get(shown, 1)


class Known(unittest.TestCase):
    """The fixture's figures, where they stand."""

    @classmethod
    def setUpClass(cls):
        cls.records = [json.loads(line) for line in FIXTURE.read_text(encoding="utf-8").splitlines()]
        cls.root, cls.html, cls.markdown = render(FIXTURE.read_bytes())
        cls.pictures = {}
        for figure in (e for e in cls.root.iter() if e.get("data-figure")):
            cls.pictures.setdefault(figure.get("data-figure"), []).append(figure)
        cls.tables = cls.markdown_tables()

    @classmethod
    def markdown_tables(cls):
        tables, title = {}, None
        for line in cls.markdown.splitlines():
            if line.startswith("### "):
                title = line[4:]
                tables[title] = []
            elif line.startswith("## "):
                title = None
            elif title and line.startswith("|") and not line.startswith("|---"):
                tables[title].append([c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]])
        return tables

    def of(self, kind, figure=None):
        return [r for r in self.records if r["record"] == kind and (figure is None or r["figure"] == figure)]

    def figures(self, kind):
        return sorted({r["figure"] for r in self.of(kind)})

    def svg(self, figure, at=0):
        return [e for e in self.pictures[figure][0].iter() if "plot" in classes(e)][at]

    def near(self, axis, px, value, what):
        self.assertLess(abs(axis.at(value) - px), 0.7, f"{what}: {value} stands at {axis.value(px)}")

    def test_fixture_is_what_its_maker_writes(self):
        made = subprocess.run([sys.executable, HERE / "make_results.py"], capture_output=True, check=True).stdout
        self.assertEqual(made, FIXTURE.read_bytes())
        self.assertLess(len(made), 60000)

    def test_one_file_without_scripts_or_anything_from_outside(self):
        for element in self.root.iter():
            self.assertNotIn(local(element), ("script", "img", "image", "iframe", "object", "embed", "link", "base", "form", "foreignObject", "use"))
            for name, value in element.attrib.items():
                self.assertFalse(name.lower().startswith("on"), name)
                if name.split("}")[-1] in ("href", "src", "action"):
                    self.assertTrue(value.startswith("#"), value)
        self.assertEqual(set(re.findall(r"url\(([^)]*)\)", self.html)), {f"#p{i}" for i in range(8)} & set(re.findall(r"url\((#p\d)\)", self.html)))
        self.assertNotIn("@import", self.html)
        self.assertEqual(set(re.findall(r"https?://[^\"' <)]*", self.html)), {"http://www.w3.org/1999/xhtml", "http://www.w3.org/2000/svg"})
        self.assertNotRegex(self.html, r"https?://(?!www\.w3\.org/(1999/xhtml|2000/svg)\")")
        policy = next(e for e in self.root.iter() if e.get("http-equiv") == "Content-Security-Policy")
        self.assertEqual(policy.get("content"), "default-src 'none'; style-src 'unsafe-inline'")

    def test_links_and_patterns_have_their_targets(self):
        ids = [e.get("id") for e in self.root.iter() if e.get("id")]
        self.assertEqual(len(ids), len(set(ids)))
        wanted = {e.get("href")[1:] for e in self.root.iter() if e.get("href")} | set(re.findall(r"url\(#(\w+)\)", self.html))
        self.assertLessEqual(wanted, set(ids))

    def test_light_dark_and_paper(self):
        style = next(text_of(e) for e in self.root.iter() if local(e) == "style")
        for rule in ("prefers-color-scheme: dark", "@media print", "break-before: page", "break-inside: avoid"):
            self.assertIn(rule, style)
        used = set(re.findall(r"var\((--[a-z]+\d+)\)", style))
        light, dark = style.split("prefers-color-scheme: dark", 1)
        for variable in used:
            self.assertIn(variable + ":", light)
            self.assertIn(variable + ":", dark.split("* { box-sizing")[0])

    def test_head_names_machine_commit_and_date(self):
        head = text_of(next(e for e in self.root.iter() if local(e) == "header"))
        for text in ("example-2", "0123abc", "2026-01-02T03:04:05Z", "full"):
            self.assertIn(text, head)
            self.assertIn(text.replace("_", "\\_"), self.markdown.split("## ")[0])
        conditions = text_of(next(e for e in self.root.iter() if e.get("id") == "conditions"))
        for text in ("Example <CPU> & Co 2.4 GHz", "2 cores", "8.000 GiB", "21.50 GB/s", "avx2 fma", "Linux 6.1", "qwen3_moe", "00ff00ff00ff00ff", "0.1.0"):
            self.assertIn(text, conditions)

    def test_sections_in_order(self):
        ids = [e.get("id") for e in self.root.iter() if local(e) == "section"]
        self.assertEqual(ids, ["throughput", "placement", "memory", "swap", "inputs", "load", "latency", "quality", "peers", "conditions"])
        titles = re.findall(r"^## (.*)$", self.markdown, re.M)
        self.assertEqual(titles, ["In short", "Throughput", "Placement strategies", "Memory", "Swap latency", "Input types", "Load", "Latency under load", "Quality", "Peers"])

    def test_every_figure_has_its_picture(self):
        self.assertEqual(set(self.pictures), {r["figure"] for r in self.records if "figure" in r})
        for figure, found in self.pictures.items():
            self.assertEqual(len(found), 1, figure)

    def line_figures(self):
        return [f for f in self.figures("figure") if isinstance(self.of("figure", f)[0].get("x"), (int, float))]

    def test_points_lie_at_their_values(self):
        self.assertEqual(len(self.line_figures()), 8)
        for figure in self.line_figures():
            svg, records = self.svg(figure), self.of("figure", figure)
            x, y = Axis(svg, "x"), Axis(svg, "y")
            ux, uy = factor(records[0]["x_unit"], x.label), factor(records[0]["unit"], y.label)
            series = {e.get("data-series"): e for e in having(svg, "series")}
            for r in records:
                group = series[r["series"]]
                points = [p for p in having(group, "point") if abs(self.marker(p)[0] - x.at(r["x"] * ux)) < 0.7]
                self.assertEqual(len(points), 1, r["id"])
                self.near(y, self.marker(points[0])[1], statistics.median(r["values"]) * uy, r["id"])
                whisker = having(points[0], "whisker")
                ends = [y.at(v * uy) for v in (min(r["values"]), max(r["values"]))]
                if abs(ends[0] - ends[1]) > 0.7:
                    drawn = re.match(r"M[\d.]+ ([\d.]+)h6m-3 0V([\d.]+)m", whisker[0].get("d")).groups()
                    for a, b in zip(ends, map(float, drawn)):
                        self.assertLess(abs(a - b), 0.7, r["id"])

    def marker(self, point):
        d = [e.get("d") for e in point.iter() if set(classes(e)) & {"mark", "hollow", "cross"}][0]
        return numbers_in(d)[:2]

    def test_lines_join_their_points(self):
        for figure in self.line_figures():
            for group in having(self.svg(figure), "series"):
                points = sorted(self.marker(p) for p in having(group, "point"))
                drawn = [e.get("d") for e in group.iter() if "line" in classes(e)]
                if points:
                    flat = numbers_in(drawn[0])
                    self.assertEqual([flat[i:i + 2] for i in range(0, len(flat), 2)], points, figure)

    def test_series_differ_without_colours(self):
        style = next(text_of(e) for e in self.root.iter() if local(e) == "style")
        dashes = re.findall(r"--d: ([^;}]+)", style)
        self.assertEqual(len(set(dashes)), 8)
        shapes = set()
        for figure in self.line_figures():
            looks = [(classes(g)[1], re.sub(r"^M[\d. ]+", "", [e.get("d") for e in having(g, "point")[0].iter() if e.get("d")][-1]))
                     for g in having(self.svg(figure), "series") if having(g, "point")]
            self.assertEqual(len(looks), len({m for _, m in looks}), figure)
            shapes |= set(looks)
        self.assertEqual(len(shapes), len({look for look, _ in shapes}))

    def test_rooflines_are_lines_of_their_own(self):
        for figure in self.line_figures():
            svg, records = self.svg(figure), [r for r in self.of("figure", figure) if r["roofline"]]
            roofs = [e for e in having(svg, "roof") if "legend" not in " ".join(classes(e)) and e.get("d").count(" ") > 1]
            x, y = Axis(svg, "x"), Axis(svg, "y")
            want = sorted({(r["x"], r["roofline"]) for r in records})
            if want:
                flat = numbers_in(roofs[-1].get("d"))
                self.assertEqual(len(flat), 2 * len(want))
                for i, (vx, vy) in enumerate(want):
                    self.near(x, flat[2 * i], vx, figure)
                    self.near(y, flat[2 * i + 1], vy, figure)
                self.assertIn("roofline", text_of(svg))

    def test_lines_of_the_plan(self):
        svg = self.svg("decode-context")
        y = Axis(svg, "y")
        drawn = [(text_of(e), numbers_in([c.get("d") for c in e if c.get("d")][0])[1]) for e in having(svg, "reference")]
        self.assertEqual([t for t, _ in drawn], ["original plan, least: 8", "original plan, most: 12"])
        for (_, px), value in zip(drawn, (8, 12)):
            self.near(y, px, value, "plan")
        svg = self.svg("ready")
        x = Axis(svg, "x")
        for element, (text, value) in zip(having(svg, "reference"), (("original plan, first: 540", 540), ("original plan, cached: 22", 22))):
            self.assertEqual(text_of(element), text)
            self.near(x, numbers_in([c.get("d") for c in element if c.get("d")][0])[0], value, text)

    def test_bars_reach_their_values(self):
        bars = [f for f in self.figures("figure") if isinstance(self.of("figure", f)[0].get("x"), str)]
        self.assertEqual(bars, ["divergence", "input-hits", "input-speed", "perplexity", "ratio", "ready"])
        for figure in bars:
            svg, records = self.svg(figure), self.of("figure", figure)
            x = Axis(svg, "x")
            unit = factor(records[0]["unit"], x.label)
            points = having(svg, "point")
            self.assertEqual([text_of(e) for e in having(svg, "category")], [r["x"] for r in records])
            self.assertEqual(len(points), len(records))
            for r, point in zip(records, points):
                value = statistics.median(r["values"]) * unit
                rects = [e for e in point.iter() if local(e) == "rect"]
                if rects:
                    self.assertFalse(x.log)
                    self.near(x, float(rects[0].get("x")), 0, r["id"])
                    self.near(x, float(rects[0].get("x")) + float(rects[0].get("width")), value, r["id"])
                else:
                    self.near(x, self.marker(point)[0], value, r["id"])
                ranges = having(point, "range")
                if ranges:
                    low, _, _, high = re.match(r"M([\d.]+) ([\d.]+)v8m0 -(4)H([\d.]+)", ranges[0].get("d")).groups()
                    self.near(x, float(low), min(r["values"]) * unit, r["id"])
                    self.near(x, float(high), max(r["values"]) * unit, r["id"])
                if r["roofline"]:
                    self.near(x, numbers_in(having(point, "rooftick")[0].get("d"))[0], r["roofline"], r["id"])

    def test_stacks_add_up(self):
        svg, records = self.svg("token-time"), self.of("stack")
        x = Axis(svg, "x")
        rects = [[e for e in p.iter() if local(e) == "rect"][0] for p in having(svg, "point")]
        self.assertEqual(len(rects), sum(len(r["shares"]) for r in records))
        at = 0
        for r in records:
            total = 0
            for share in r["shares"]:
                rect = rects[at]
                self.near(x, float(rect.get("x")), total * 1e-3, r["id"])
                total += share["value"]
                self.assertLess(abs(float(rect.get("x")) + float(rect.get("width")) - x.at(total * 1e-3)), 0.7)
                at += 1
        rows = {row[0]: row[1:] for row in self.tables["Token time"]}
        self.assertEqual(rows["ms"], [r["x"] for r in records])
        self.assertEqual([float(v) for v in rows["sum"]], [float(f"{sum(s['value'] for s in r['shares']) / 1e3:.4g}") for r in records])

    def test_distributions_pass_their_quantiles(self):
        svg = self.svg("swap-latency")
        x, y = Axis(svg, "x"), Axis(svg, "y")
        for r in self.of("distribution"):
            group = next(g for g in having(svg, "series") if g.get("data-series") == r["series"])
            self.assertEqual(len(having(group, "point")), 3)
            for point, (share, value) in zip(having(group, "point"), sorted(r["quantiles"].items())):
                px, py = self.marker(point)
                self.near(x, px, value, r["id"])
                self.near(y, py, 100 * float(share), r["id"])
            flat = numbers_in([e.get("d") for e in group.iter() if "line" in classes(e)][0])
            drawn = set(zip(flat[::2], flat[1::2]))
            total, seen = sum(c for _, c in r["buckets"]), 0
            for upper, count in r["buckets"]:
                seen += count
                self.assertTrue(any(abs(px - x.at(upper)) < 0.7 and abs(py - y.at(100 * seen / total)) < 0.7 for px, py in drawn), (r["id"], upper))
        for row in self.tables["Swap latency"][1:]:
            r = next(r for r in self.of("distribution") if r["series"] == row[0])
            self.assertEqual([float(v) for v in row[1:]], [r["count"]] + [float(f"{r['quantiles'][q]:.4g}") for q in ("0.5", "0.95", "0.99")])

    def test_heat_maps_are_darkest_where_most_is(self):
        for at, r in enumerate(self.of("matrix")):
            svg = self.svg("skew", at)
            most = max(max(row) for row in r["values"])
            paths = [e for e in svg.iter() if local(e) == "path" and re.match(r"h\d+$", e.get("class", ""))]
            self.assertEqual(len(paths), 12)
            rows, columns = len(r["values"]), len(r["values"][0])
            grid = [[None] * columns for _ in range(rows)]
            cells = [(int(p.get("class")[1:]), *map(float, c)) for p in paths
                     for c in re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v([\d.]+)h-[\d.]+z", p.get("d"))]
            left, top, high = min(c[1] for c in cells), min(c[2] for c in cells), cells[0][4]
            wide = (max(c[1] + c[3] for c in cells) - left) / columns
            for step, x, y, w, _ in cells:
                for c in range(round((x - left) / wide), round((x + w - left) / wide)):
                    grid[round((y - top) / high)][c] = step
            for row, (steps, values) in enumerate(zip(grid, r["values"])):
                for column, (step, value) in enumerate(zip(steps, values)):
                    exact = value / most * 12  # at a bound, rounding decides
                    self.assertIn(step, {min(11, int(exact - 1e-4)), min(11, int(exact + 1e-4))}, (row, column))
            self.assertAlmostEqual(float(text_of(having(svg, "most")[0]).split()[0]), 100 * most, delta=0.01)

    def test_timelines_and_what_was_planned(self):
        svg = self.svg("memory")
        x, y = Axis(svg, "x"), Axis(svg, "y")
        self.assertEqual(y.label, "GiB")
        for r in self.of("timeline"):
            group = next(g for g in having(svg, "series") if g.get("data-series") == r["series"])
            flat = numbers_in([e.get("d") for e in group.iter() if "line" in classes(e)][0])
            self.assertEqual(len(flat), 2 * len(r["points"]))
            for i, (seconds, value) in enumerate(r["points"]):
                self.near(x, flat[2 * i], seconds, r["id"])
                self.near(y, flat[2 * i + 1], value / 2**30, r["id"])
            self.near(y, numbers_in(having(group, "planned")[0].get("d"))[1], r["planned"] / 2**30, r["id"])
            row = next(row for row in self.tables["Memory"] if row[0] == r["series"])
            most = max(v for _, v in r["points"])
            for got, want in zip(row[1:4], (r["planned"], most, r["points"][-1][1])):
                self.assertAlmostEqual(float(got), want / 2**30, delta=want / 2**30 * 6e-4)

    def test_tables_hold_every_figure_with_repetitions_and_spread(self):
        for figure in self.figures("figure"):
            records = self.of("figure", figure)
            title = figure.replace("-", " ").capitalize()
            table = self.tables[title]
            cells = [c for row in table for c in row]
            caption = re.search(rf"^### {re.escape(title)}\n(.*?)^\|", self.markdown, re.M | re.S).group(1)
            shown = (re.search(r"^([^:\n]+): median", caption, re.M) or re.search(r"(?:median|value), ([^|]+) \|", self.markdown[self.markdown.index(f"### {title}"):])).group(1).replace("\\", "")
            unit = factor(records[0]["unit"], shown)
            for r in records:
                values = [v * unit for v in r["values"]]
                low, middle, high = min(values), statistics.median(values), max(values)
                found = False
                for i, cell in enumerate(cells):
                    both = re.fullmatch(r"([\d.]+) \(([\d.]+) – ([\d.]+)[^)]*\)", cell)
                    got = both.groups() if both else [cell, *cells[i + 1].split(" – ")] if re.fullmatch(r"[\d.]+", cell) and i + 1 < len(cells) else []
                    if len(values) == 1 and re.fullmatch(r"[\d.]+", cell) and abs(float(cell) - middle) <= middle * 6e-4:
                        found = True
                    if len(got) == 3 and all(re.fullmatch(r"[\d.]+", g) and abs(float(g) - v) <= abs(v) * 6e-4 for g, v in zip(got, (middle, low, high))):
                        found = True
                self.assertTrue(found, (r["id"], middle, low, high))
            n = {len(r["values"]) for r in records}.pop()
            self.assertTrue(f"of {n} runs" in caption or "one run" in caption and n == 1 or "runs" in table[0] and str(n) in cells, figure)

    def test_both_pages_have_the_same_tables(self):
        page = []
        for table in (e for e in self.root.iter() if local(e) == "table" and "facts" not in classes(e)):
            for row in (e for e in table.iter() if local(e) == "tr"):
                line = []
                for cell in row:
                    small = [text_of(c) for c in cell if local(c) == "small"]
                    line.append((cell.text or "") + (f" ({small[0]})" if small else "") if local(cell) != "td" or cell.text or small else text_of(cell))
                page.append(line)
        markdown = [[re.sub(r"\\(.)", r"\1", c.strip()).replace("&lt;", "<").replace("&amp;", "&") for c in re.split(r"(?<!\\)\|", line)[1:-1]]
                    for line in self.markdown.splitlines() if line.startswith("|") and not line.startswith("|---") and line != "| | | |"]
        self.assertEqual(page, markdown)

    def test_part_of_the_roofline(self):
        r = self.of("figure", "prompt")[0]
        row = next(row for row in self.tables["Prompt"] if row[0] == "128")
        self.assertEqual(row[-1], f"{100 * statistics.median(r['values']) / r['roofline']:.0f} %")

    def test_methods_are_told_once(self):
        for r in (r for r in self.records if r["record"] == "part" and r["method"]):
            self.assertEqual(sum(r["method"] in text_of(e) for e in having(self.root, "method")), 1, r["id"])
            self.assertEqual(self.markdown.replace("\\", "").count(r["method"]), 1, r["id"])

    def test_what_is_missing_is_named_with_its_reason(self):
        gaps = [text_of(e) for e in having(self.root, "gap")]
        want = ["latency.guidellm skipped: guidellm is not installed: pip install guidellm",
                "quality.determinism failed: 2 of 48 texts differ between carriers: <shm> & \"nng\"",
                "peers.transformers missing: the run ended before it"]
        self.assertEqual(gaps, want)
        plain = re.sub(r"\\(.)", r"\1", self.markdown).replace("&lt;", "<").replace("&amp;", "&")
        for text in want:
            self.assertIn("- " + text, plain)

    def test_summary_answers_first_questions(self):
        rows = {text_of(tr[0]): [text_of(td) for td in tr[1:]] for tr in having(self.root, "summary")[0].iter() if local(tr) == "tr"}
        decode = statistics.median(self.of("figure", "decode-context")[0]["values"])
        roof = self.of("figure", "decode-context")[0]["roofline"]
        self.assertEqual(rows["Decode, one user"][0], f"{decode:.2f} tokens/s, {100 * decode / roof:.0f} % of the roofline")
        self.assertIn("in 5 runs", rows["Decode, one user"][1])
        best = max(statistics.median(r["values"]) for r in self.of("figure", "policy-hits") if not r["series"].startswith("all-"))
        self.assertEqual(rows["Placement, best hit rate"][0], f"{100 * best:.2f} %")
        self.assertEqual(rows["Perplexity"][0], "bf16 10.48; NF4 exact 10.61; NF4 fast 10.62")
        self.assertTrue(rows["Time to ready"][0].startswith("cold 7") and "arena resident 0." in rows["Time to ready"][0])
        self.assertTrue(rows["First token under load"][0].endswith(" ms"))
        self.assertEqual(rows["Parts"], ["11 of 14 done", "1 skipped, 1 failed, 1 missing"])
        self.assertEqual(len(rows), 10)


def figure(id="p.q/f/s/1", **other):
    return {"record": "figure", "id": id, "part": "p.q", "figure": "f", "series": "s", "x": 1, "x_unit": "tokens", "unit": "tokens/s",
            "better": "higher", "values": [1, 2, 3], **other}


PART = {"record": "part", "id": "p.q", "section": "p", "state": "done", "method": "m"}
STACK = {"record": "stack", "id": "k", "part": "p.q", "figure": "t", "x": "a", "unit": "us", "shares": [{"label": "l", "value": 1}]}
DISTRIBUTION = {"record": "distribution", "id": "d", "part": "p.q", "figure": "d", "series": "s", "unit": "us", "quantiles": {"0.5": 1},
                "count": 1, "buckets": [[1, 1]]}
MATRIX = {"record": "matrix", "id": "m", "part": "p.q", "figure": "m", "rows": "r", "columns": "c", "unit": "share", "values": [[1]]}
TIMELINE = {"record": "timeline", "id": "t", "part": "p.q", "figure": "t", "series": "s", "unit": "bytes", "points": [[0, 1]], "planned": None}


class Hostile(unittest.TestCase):
    """A file that anybody may have written."""

    def refused(self, records, *words):
        out = render(records)
        self.assertIsInstance(out, str, "it was taken")
        for word in words:
            self.assertIn(word, out)
        self.assertEqual(out.count("\n"), 1)

    def taken(self, records):
        out = render(records)
        self.assertNotIsInstance(out, str, out)
        return out

    def test_texts_never_become_markup(self):
        bad = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><a href='javascript:1'>&lt; `x` | [l](http://e.org) ](x) \u202e\u0001\n# h"

        def poison(value, key=None):
            if isinstance(value, dict):
                return {k: poison(v, k) for k, v in value.items()}
            if isinstance(value, list):
                return [poison(v, key) for v in value]
            keep = key in ("record", "state", "better", "section", "part", "id") or not isinstance(value, str)
            return value if keep else (bad + value)[:250]

        records = [json.loads(line) for line in FIXTURE.read_text(encoding="utf-8").splitlines()]
        ids = {p["id"]: "<b>" + p["id"] for p in records if p["record"] == "part"}
        for r in records:
            r.update({k: ids.get(r[k], r[k]) for k in ("part", "id") if k in r})
            if r["record"] == "part":
                r["section"] = "x\"><script>" if r["section"] == "swap" else r["section"]
        root, html, markdown = self.taken(poison(records))
        allowed = {"html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "p", "code", "div", "table", "caption", "thead",
                   "tbody", "tr", "th", "td", "small", "a", "nav", "section", "figure", "svg", "defs", "pattern", "rect", "path", "g", "text",
                   "tspan", "strong", "em"}
        self.assertLessEqual({local(e) for e in root.iter()}, allowed)
        self.assertNotIn("<script", html.lower())
        self.assertTrue(all(e.get("href").startswith("#") for e in root.iter() if e.get("href")))
        self.assertNotIn("<", markdown.replace("&lt;", ""))
        self.assertNotRegex(markdown, r"(?<!\\)\[l")
        self.assertNotRegex(html + markdown, r"[\x00-\x08\x0b-\x1f\x7f]")
        self.assertGreater(html.count("&lt;script&gt;"), 50)

    def test_wrong_types_name_their_line_and_field(self):
        cases = [
            (figure(values=[]), "values"), (figure(values="1"), "values"), (figure(values=[1, None]), "values[1]"), (figure(values=[1, "2"]), "values[1]"),
            (figure(values=[1e300]), "values[0]"), (figure(roofline="x"), "roofline"), (figure(roofline=-1), "roofline"), (figure(better="faster"), "better"),
            (figure(x=[1]), "x"), (figure(part=None), "part"), (figure(part=""), "part"), (figure(id=7), "id"), (figure(unit=3), "unit"),
            (figure(lines=[{"label": "a"}]), "lines[0]"), (figure(lines=[{"label": 1, "value": 1}]), "label"), (figure(lines=7), "lines"),
            ({**PART, "state": "half"}, "state"), ({**PART, "seconds": -1}, "seconds"), ({**PART, "parameters": []}, "parameters"), ({**PART, "method": 1}, "method"),
            ({**STACK, "shares": []}, "shares"), ({**STACK, "shares": [{"label": "a", "value": -1}]}, "shares[0]"),
            ({**DISTRIBUTION, "quantiles": None}, "quantiles"), ({**DISTRIBUTION, "quantiles": {"2": 1}}, "quantiles[0]"), ({**DISTRIBUTION, "quantiles": {"0.5": "x"}}, "quantiles[0]"),
            ({**DISTRIBUTION, "buckets": [[2, 1], [1, 1]]}, "buckets[1]"), ({**DISTRIBUTION, "buckets": [[1, -1]]}, "buckets[0]"), ({**DISTRIBUTION, "count": -1}, "count"),
            ({**MATRIX, "values": [[1], [1, 2]]}, "values[1]"), ({**MATRIX, "values": [[-1]]}, "values[0]"), ({**MATRIX, "values": [[]]}, "values"), ({**MATRIX, "values": [1]}, "values"),
            ({**TIMELINE, "points": [[0]]}, "points[0]"), ({**TIMELINE, "points": []}, "points"), ({**TIMELINE, "planned": "x"}, "planned"),
            ({"id": "x"}, "record"), ({**RUN, "schema": 2}, "schema 2"), ({**RUN, "machine": []}, "machine"), ({**RUN, "parts": [7]}, "parts[0]"),
            ({**RUN, "dirty": 1}, "dirty"), ({**RUN, "machine": {"features": [1]}}, "features[0]"), ({**RUN, "machine": {"ram_bytes": -5}}, "ram_bytes"),
        ]
        for record, field in cases:
            with self.subTest(record=record):
                self.refused([RUN, PART, record], "results.jsonl:3: ", field)
        for text in (b"nonsense\n", b"[]\n", b'{"record":"figure","values":[NaN]}\n', b'{"a":1,"a":2}\n', b"[[[[[[[[[[1]]]]]]]]]]\n", b"\xff\n"):
            self.refused(json.dumps(RUN).encode() + b"\n" + text, "results.jsonl:2: ")
        self.refused(b"", "no record of a run")

    def test_limits_at_n_and_above(self):
        name, text = "n" * 256, "t" * 4096
        labels = [{"label": f"l{i}", "value": 1} for i in range(64)]
        pairs = [[i, 1] for i in range(4096)]
        cases = [
            (figure(values=[1.5] * 256), figure(values=[1.5] * 257)),
            (figure(series=name, figure=name, unit=name), figure(series=name + "n")),
            (figure(x=name), figure(x=name + "n")),
            ({**PART, "method": text, "reason": text}, {**PART, "method": text + "t"}),
            ({**STACK, "shares": labels}, {**STACK, "shares": [*labels, labels[0]]}),
            (figure(lines=labels), figure(lines=[*labels, labels[0]])),
            ({**DISTRIBUTION, "buckets": pairs}, {**DISTRIBUTION, "buckets": [*pairs, [4096, 1]]}),
            ({**TIMELINE, "points": pairs}, {**TIMELINE, "points": [*pairs, [4096, 1]]}),
            ({**MATRIX, "values": [[1]] * 512}, {**MATRIX, "values": [[1]] * 513}),
            ({**MATRIX, "values": [[1] * 65536]}, {**MATRIX, "values": [[1] * 65537]}),
            ({**RUN, "parts": [f"a.{i}" for i in range(512)]}, {**RUN, "parts": [f"a.{i}" for i in range(513)]}),
        ]
        for at, above in cases:
            with self.subTest(record=str(at)[:80]):
                runs = [RUN] if at["record"] != "run" else [RUN]
                self.taken([*runs, at])
                self.refused([*runs, above], "results.jsonl:2: ")
        self.taken([RUN] * 64)
        self.refused([RUN] * 65, "results.jsonl:65: ", "64")
        line = json.dumps(figure(later="")).encode()
        room = (4 << 20) - len(line)
        for extra, good in ((0, True), (1, False)):
            data = json.dumps(RUN).encode() + b"\n" + line.replace(b'"later": ""', b'"later": "' + b"x" * (room + extra) + b'"') + b"\n"
            self.taken(data) if good else self.refused(data, "results.jsonl:2: ", "4194304")

    def test_how_many_records(self):
        many = [RUN] + [figure(id=str(i), x=i, values=[i + 1]) for i in range(16384)]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "r.jsonl"
            for extra, code in ((0, 0), (1, 1)):
                records = many + [figure(id="more")] * extra
                path.write_text("".join(json.dumps(r) + "\n" for r in records))
                done = command("compare", path, path)
                self.assertEqual(done.returncode, code, done.stderr)
            self.assertIn("r.jsonl:16386: more than 16384 records", done.stderr)
            with open(path, "wb") as file:
                file.truncate((64 << 20) + 1)
            self.assertIn("67108864", command("compare", path, path).stderr)

    def test_later_lines_replace_earlier_ones(self):
        first, second = figure(values=[111]), figure(values=[222, 222.5])
        root, _, markdown = self.taken([{**RUN, "commit": "old"}, PART, first, {**RUN, "commit": "new"}, second, figure(id="other", x=2, values=[5])])
        self.assertNotIn("111", markdown)
        self.assertIn("222.2", markdown)
        self.assertEqual(len(having(having(root, "pair")[0], "point")), 2)
        root, _, markdown = self.taken([{**RUN, "commit": "old"}, PART, first, {**RUN, "commit": "new"}, figure(id="other", x=2, values=[5])])
        rows = [line for line in markdown.splitlines() if line.startswith("| 1 |") or line.startswith("| 2 |")]
        self.assertEqual([row.split(" | ")[1] for row in rows], ["old", "new"]) # figures of another commit say so

    def test_cut_and_unknown_lines_are_said(self):
        whole = "".join(json.dumps(r) + "\n" for r in (RUN, PART, figure(), {"record": "later", "x": 1})).encode()
        root, _, markdown = self.taken(whole + b'{"record":"figure","id":"half')
        conditions = text_of(next(e for e in root.iter() if e.get("id") == "conditions"))
        self.assertIn("line 5 was cut off", conditions)
        self.assertIn("Line 5", markdown)
        self.assertIn("1 of a kind", conditions)
        self.assertEqual(self.taken(whole.replace(b"\n", b"\r\n"))[2], self.taken(whole)[2])

    def test_axes_of_odd_values(self):
        for values in ([0], [-5, 5], [1e18, 1e-18], [-3], [7, 7, 7], [1e-9], [5e17]):
            with self.subTest(values=values):
                for x in ([1, 1], [0, 1], [-4, 1e6], [1e-6, 1e12], ["a", "b"]):
                    root, html, _ = self.taken([RUN, PART, *[figure(id=str(i), x=v, values=values, roofline=3) for i, v in enumerate(x)]])
                    self.assertNotRegex(re.sub(r"<style>.*?</style>", "", html, flags=re.S), r"\bnan|\binf\b|-nan")
                    for svg in having(root, "plot"):
                        _, _, width, height = map(float, svg.get("viewBox").split())
                        for path in (e for e in svg.iter() if set(classes(e)) & {"mark", "grid"}):
                            px, py = numbers_in(path.get("d"))[:2]
                            self.assertTrue(-20 <= px <= width + 20 and -20 <= py <= height + 20, path.get("d"))

    def test_no_results_no_report(self):
        with tempfile.TemporaryDirectory() as folder:
            done = command("report", folder)
            self.assertEqual((done.returncode, list(Path(folder).iterdir())), (1, []))
            self.assertIn("results.jsonl", done.stderr)
        self.assertEqual(command("report", "/nowhere").returncode, 1)


class Compare(unittest.TestCase):
    """What moved, what did not, and what cannot be told."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.random = random.Random(7)

    def tearDown(self):
        self.folder.cleanup()

    def file(self, name, figures, run=RUN, parts=(PART,)):
        path = self.path / name
        path.write_text("".join(json.dumps(r) + "\n" for r in (run, *parts, *figures)))
        return path

    def noisy(self, middle, n=5, spread=0.01):
        return [middle * (1 + self.random.gauss(0, spread)) for _ in range(n)]

    def verdicts(self, a, b, *options):
        done = command("compare", a, b, "--all", *options)
        found, verdict = {}, None
        for line in done.stdout.splitlines():
            title = re.match(r"(\w[^:]*)(?:: [^:]+)?: \d+$", line)
            if title:
                verdict = title.group(1).split(",")[0].split(" (")[0]
            elif line.startswith("  ") and verdict:
                found[line.split()[0]] = verdict
        return found, done

    def test_moved_unmoved_noisy(self):
        pairs = {  # id: (A, B, better, verdict)
            "slower": (self.noisy(100), self.noisy(90), "higher", "Worse"),
            "faster": (self.noisy(100), self.noisy(112), "higher", "Better"),
            "longer": (self.noisy(20), self.noisy(24), "lower", "Worse"),
            "shorter": (self.noisy(20), self.noisy(15), "lower", "Better"),
            "other": (self.noisy(20), self.noisy(30), "none", "Moved"),
            "same": (self.noisy(50), self.noisy(50), "higher", "Within noise"),
            "loud": (self.noisy(50, spread=0.3), self.noisy(60, spread=0.3), "higher", "Within noise"),
            "small": (self.noisy(50, 30, 0.001), self.noisy(50.6, 30, 0.001), "higher", "Within noise"),
            "once": ([50], self.noisy(80), "higher", "Differs"),
            "equal": ([4, 4, 4], [4, 4], "higher", "Within noise"),
            "exact": ([4, 4, 4], [5, 5], "lower", "Worse"),
            "zero": ([0, 0, 0], [0, 0, 0], "lower", "Within noise"),
        }
        a = self.file("a", [figure(id=k, values=v[0], better=v[2]) for k, v in pairs.items()] + [figure(id="gone")])
        b = self.file("b", [figure(id=k, values=v[1], better=v[2]) for k, v in pairs.items()] + [figure(id="new")])
        found, done = self.verdicts(a, b)
        self.assertEqual(found, {**{k: v[3] for k, v in pairs.items()}, "gone": "In A only", "new": "In B only"})
        self.assertEqual(done.returncode, 0)
        self.assertIn("12 figures in both: 3 worse", done.stdout)
        self.assertEqual(command("compare", a, b, "--fail-on-regression").returncode, 1)
        self.assertEqual(command("compare", a, a, "--fail-on-regression").returncode, 0)
        self.assertNotIn("loud", command("compare", a, b).stdout)
        change = next(line for line in done.stdout.splitlines() if line.startswith("  slower"))
        medians = [statistics.median(pairs["slower"][i]) for i in (0, 1)]
        self.assertIn(f"{100 * (medians[1] / medians[0] - 1):+.1f} %", change)
        self.assertIn("5/5", change)

    def test_p_is_what_scipy_says(self):
        sets = [  # scipy.stats.ttest_ind(a, b, equal_var=False).pvalue, 1.17
            ([27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4],
             [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 30.5, 24.4], 0.008071938172194903),
            ([19.8, 20.4, 19.6, 17.8, 18.5, 18.9, 18.3, 18.9, 19.5, 22.0],
             [28.2, 26.6, 20.1, 23.3, 25.2, 22.1, 17.7, 27.6, 20.6, 13.7, 23.2, 17.5, 20.6, 18.0, 23.9, 21.6, 24.3, 20.4, 24.0, 13.2], 0.03597227102979692),
            ([1, 2, 3], [11, 12, 13.5], 0.0005127165637602633)]
        a, b = (self.file(n, [figure(id=str(i), values=s[k]) for i, s in enumerate(sets)]) for k, n in enumerate("ab"))
        told = [float(p) for p in re.findall(r"p=([\d.]+)", command("compare", a, b, "--all").stdout)]
        self.assertEqual(sorted(told), sorted(round(s[2], 4) for s in sets))

    def test_usage(self):
        for words in (("report",), ("report", "a", "b"), ("compare",), ("baseline",), ("baseline", "a", "b"), ("compare", "a", "b", "c")):
            done = command(*words)
            self.assertEqual((done.returncode, done.stdout), (2, ""), words)
            self.assertEqual(done.stderr.count("\n"), 1)

    def test_threshold(self):
        a, b = (self.file(n, [figure(values=[v, v * 1.001, v * 0.999, v, v])]) for n, v in (("a", 100), ("b", 104)))
        for percent, verdict in ((3.9, "Better"), (4.1, "Within noise")):
            self.assertEqual(self.verdicts(a, b, "--threshold", percent)[0], {"p.q/f/s/1": verdict})

    def test_false_alarms_are_rare(self):
        ids = [f"f{i}" for i in range(2000)]
        a, b = (self.file(n, [figure(id=i, values=self.noisy(100, 3, 0.05)) for i in ids]) for n in "ab")
        found, _ = self.verdicts(a, b)
        self.assertLess(sum(v != "Within noise" for v in found.values()), 8)

    def test_the_machine_moved(self):
        a = self.file("a", [figure(id="with", values=self.noisy(90), roofline=100), figure(id="ours", values=self.noisy(90), roofline=100)])
        b = self.file("b", [figure(id="with", values=self.noisy(60), roofline=66.7), figure(id="ours", values=self.noisy(60), roofline=100)])
        found, done = self.verdicts(a, b)
        self.assertEqual(found, {"with": "Moved as the machine did", "ours": "Worse"})

    def test_quality_has_no_noise(self):
        part = {**PART, "section": "quality"}
        for value, verdict in ((10.025, "Worse"), (10.019, "Within noise"), (9.97, "Better")):
            a, b = (self.file(n, [figure(values=[v], better="lower")], parts=[part]) for n, v in (("a", 10), ("b", value)))
            self.assertEqual(self.verdicts(a, b)[0], {"p.q/f/s/1": verdict}, value)

    def test_different_machines_and_models_are_said(self):
        a = self.file("a", [figure()])
        b = self.file("b", [figure(unit="us")], run={**RUN, "machine": {"name": "n"}, "model": {"hash": "ff"}, "suite": "full"})
        _, done = self.verdicts(a, b)
        for text in ("different machines: m and n", "different models:  and ff", "different suites: quick and full", "0 figures in both"):
            self.assertIn(text, done.stdout)

    def test_baselines(self):
        folder = self.path / "baselines"
        results = self.path / "r"
        results.mkdir()
        seen = []
        for i in range(5):
            seen.append(self.noisy(100 + 4 * (i % 2)))
            run = {**RUN, "started": f"t{i}", "machine": {"name": "../../AMD EPYC, 2 cores"}}
            self.file("r/results.jsonl", [figure(values=seen[-1]), TIMELINE], run=run)
            done = command("baseline", results, "--baselines", folder)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([p.name for p in folder.iterdir()], ["amd-epyc-2-cores.jsonl"])
        kept = [json.loads(line) for line in (folder / "amd-epyc-2-cores.jsonl").read_text().splitlines()]
        self.assertEqual([r["record"] for r in kept], ["baseline", *["run", "figure"] * 3])
        self.assertEqual([r["values"] for r in kept if r["record"] == "figure"], seen[2:])
        self.assertIn("in it already", command("baseline", results, "--baselines", folder).stderr)
        # What moves between the baseline's own runs is noise; beside one of them alone it is not.
        later = self.file("b", [figure(values=self.noisy(103.5))], run={**RUN, "machine": {"name": "../../AMD EPYC, 2 cores"}})
        done = command("compare", later, "--baselines", folder, "--all")
        self.assertIn("baseline of 3 runs", done.stdout)
        self.assertIn("15/5", done.stdout)
        self.assertIn("0 worse, 0 better, 1 within noise", done.stdout)
        far = self.file("c", [figure(values=self.noisy(115))], run={**RUN, "machine": {"name": "../../AMD EPYC, 2 cores"}})
        self.assertIn("1 better", command("compare", far, "--baselines", folder).stdout)
        self.assertEqual(self.verdicts(self.file("a", [figure(values=self.noisy(100))]), later)[0], {"p.q/f/s/1": "Better"})
        self.assertIn("no baseline of this machine", command("compare", FIXTURE, "--baselines", folder).stderr)

    def test_texts_do_not_reach_the_terminal_raw(self):
        a = self.file("a", [figure(id="x\u001b[31m", values=[1, 1])], run={**RUN, "commit": "\u001b]0;t\u0007"})
        b = self.file("b", [figure(id="x\u001b[31m", values=[2, 2])])
        done = command("compare", a, b)
        self.assertNotRegex(done.stdout, r"[\x00-\x09\x0b-\x1f\x7f]")


def main():
    global PROGRAM
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--thermocline", default=str(HERE.parents[1] / "build/cli/thermocline"))
    options, rest = options.parse_known_args()
    PROGRAM = str(Path(options.thermocline).resolve())
    loader = unittest.defaultTestLoader
    suite = loader.loadTestsFromNames(rest, sys.modules[__name__]) if rest else loader.loadTestsFromModule(sys.modules[__name__])
    result = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(suite)
    bad = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - bad} passed, {bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
