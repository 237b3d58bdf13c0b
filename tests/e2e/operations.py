# SPDX-License-Identifier: Apache-2.0
"""What operators rely on: units and their hardening, configuration, man pages, completions, metrics by a real Prometheus, alert
rules, reload, request ids through all processes, traces, and that no text of a user shows anywhere."""
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.parse
import urllib.request
from pathlib import Path

from harness import BUILD, CACHE, DEMO, ENVIRONMENT, PROGRAM, ROOT, Server, eventually, free_port, verb

DEPLOY = ROOT / "deploy"
SECRET = "Xylophagous"


def run(*command, **options):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120, **options)


def installed(*programs):
    return unittest.skipUnless(all(shutil.which(p) for p in programs), f"{', '.join(programs)}: not installed")


class Units(unittest.TestCase):
    # The tenths that systemd-analyze counts in; lower is safer.
    LIMITS = {"thermocline-gateway.service": 12, "thermocline-core.service": 10, "thermocline-worker@.service": 6,
              "thermocline-pack.service": 6}

    @installed("systemd-analyze")
    def test_exposure(self):
        for unit, limit in self.LIMITS.items():
            with self.subTest(unit):
                done = run("systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={limit}",
                           DEPLOY / "systemd" / unit)
                self.assertEqual(done.returncode, 0, done.stdout[-400:] + done.stderr)
                self.assertRegex(done.stdout, r"Overall exposure level for \S+: \d\.\d")

    def test_every_unit_is_there(self):
        names = {p.name for p in (DEPLOY / "systemd").iterdir()}
        self.assertLessEqual({"thermocline.target", "thermocline.slice", "thermocline-gateway.socket",
                              "thermocline-generator", "sysusers.conf", "tmpfiles.conf", *self.LIMITS}, names)
        for unit in self.LIMITS:
            text = (DEPLOY / "systemd" / unit).read_text()
            self.assertIn("Slice=thermocline.slice", text)
            self.assertIn("LimitCORE=0", text)

    def test_workers_die_first_and_the_gateway_last(self):
        score = {u: int(re.search(r"OOMScoreAdjust=(-?\d+)", (DEPLOY / "systemd" / u).read_text())[1])
                 for u in list(self.LIMITS)[:3]}
        self.assertLess(score["thermocline-gateway.service"], score["thermocline-core.service"])
        self.assertLess(score["thermocline-core.service"], score["thermocline-worker@.service"])


class Configuration(unittest.TestCase):
    def file(self, text):
        path = Path(tempfile.mkstemp(suffix=".conf", dir=CACHE)[1])
        path.write_text(text)
        return path

    def test_the_installed_file_is_good_and_holds_every_setting(self):
        made = run(DEPLOY / "make-conf.sh", PROGRAM).stdout
        path = self.file(made)
        shown = verb("config", "show", "--config", path)
        self.assertEqual(shown.returncode, 0, shown.stderr)
        self.assertIn("model = /usr/share/thermocline/models/demo", shown.stdout)
        names = set(re.findall(r"^#? ?([a-z-]+) =", made, re.M))
        listed = set(re.findall(r"^#? ?([a-z-]+)(?: =|:)", shown.stdout, re.M))
        self.assertEqual(names, listed)
        self.assertGreater(len(names), 30)
        # Each of them may stand there, with its own default where that is a value.
        for option in ("sessions = 3", "log-format = json", "kv-budget = 64M", "core-dumps = no"):
            self.assertEqual(verb("config", "show", "--config", self.file(option + "\n")).returncode, 0, option)

    def test_check_names_the_place(self):
        done = verb("config", "check", "--config", self.file(f"model = {DEMO}\nsesions = 4\n"))
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"\.conf:2: there is no setting 'sesions'")
        done = verb("config", "check", "--config", self.file("model = /nonexistent\n"))
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"\.conf:1: model: /nonexistent/config.json: No such file")
        self.assertEqual(verb("config", "check", "--config", self.file(f"model = {DEMO}\n")).returncode, 0)

    def test_the_environment_overrides_the_file(self):
        path = self.file("sessions = 4\n")
        done = run(PROGRAM, "config", "get", "sessions", "--config", path, env={**ENVIRONMENT, "THERMOCLINE_SESSIONS": "5"})
        self.assertEqual(done.stdout, "5\n")
        done = run(PROGRAM, "config", "get", "sessions", "--config", path, env={**ENVIRONMENT, "THERMOCLINE_SESSIONS": "x"})
        self.assertEqual(done.returncode, 1)
        self.assertIn("THERMOCLINE_SESSIONS: --sessions x", done.stderr)

    def test_serve_reads_it(self):
        path = self.file("context = 256\nsessions = 2\nconnections = 5\n")
        with Server(DEMO, 1, "--config", path) as server:
            info = server.get("/api/v1/model-info")[1]
            self.assertEqual((info["context"], info["sessions_max"]), (256, 2))


class Manual(unittest.TestCase):
    PAGES = ("thermocline", "thermocline-gateway", "thermocline-core", "thermocline-worker", "thermocline.conf")

    def test_pages_hold_every_option(self):
        for page in self.PAGES[1:4]:
            text = verb("manual", page).stdout.replace("\\-", "-")
            options = re.findall(r"^  (--[a-z-]+)", run(BUILD / {"thermocline-gateway": "gateway", "thermocline-core": "gpu-core",
                                 "thermocline-worker": "expert-worker"}[page] / page, "--help").stdout, re.M)
            self.assertGreater(len(options), 10)
            for option in options:
                self.assertIn(f"\n.B {option}", text, page)

    def test_the_page_of_verbs_and_completions_hold_every_option(self):
        page = verb("manual", "thermocline").stdout.replace("\\-", "-")
        shells = {shell: verb("manual", shell).stdout for shell in ("bash", "zsh", "fish")}
        verbs = re.findall(r"^  ([a-z-]+) ", verb("help").stdout, re.M)
        found = 0
        for name in set(verbs) - {"manual", "version", "help"}:
            with self.subTest(name):
                helped = verb(name, "--help")
                self.assertEqual(helped.returncode, 0, helped.stderr)
                section = re.search(rf"^\.SS thermocline {name}\b.*?(?=^\.S|\Z)", page, re.M | re.S)
                self.assertTrue(section)
                for option in re.findall(r"^ +--([a-z-]+)", helped.stdout, re.M):
                    found += 1
                    self.assertTrue(f"\n.B --{option}" in section[0], option)
                    for shell, text in shells.items():
                        self.assertTrue(re.search(rf"(?:--|-l ){option}(?![a-z-])", text), (shell, option))
        self.assertGreater(found, 300)

    @installed("man")
    def test_pages_are_good_roff(self):
        for page in self.PAGES:
            with self.subTest(page):
                done = run("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", "-", input=verb("manual", page).stdout)
                self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_bash_completes(self):
        script = verb("manual", "bash").stdout + """
            complete_it() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _thermocline; echo "${COMPREPLY[*]}"; }
            complete_it thermocline ser
            complete_it thermocline serve --prec
            complete_it thermocline serve --precision f
        """
        done = run("bash", "--norc", "-c", script)
        self.assertEqual(done.stdout, "serve\n--precision\nfloat fast\n", done.stderr)

    @installed("zsh")
    def test_zsh_parses(self):
        self.assertEqual(run("zsh", "-n", "/dev/stdin", input=verb("manual", "zsh").stdout).stderr, "")

    @installed("fish")
    def test_fish_parses(self):
        self.assertEqual(run("fish", "-n", "/dev/stdin", input=verb("manual", "fish").stdout).stderr, "")


class Alerts(unittest.TestCase):
    @installed("promtool")
    def test_rules(self):
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            shutil.copy(DEPLOY / "prometheus" / "alerts.yml", folder)
            shutil.copy(ROOT / "tests" / "ops" / "alerts_test.yml", folder)
            done = run("promtool", "test", "rules", "alerts_test.yml", cwd=folder)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class Seeing(unittest.TestCase):
    """One server under a few requests, and everything that can be seen of it."""

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(dir=CACHE))
        cls.trace = cls.folder / "trace.json"
        cls.server = Server(DEMO, 2, "--trace", cls.trace, "--log-level", "debug", "--log-format", "json")
        for i in range(3):
            cls.server.request("POST", "/v1/completions", {"prompt": f"{SECRET} words", "max_tokens": 8, "temperature": 0},
                               {"X-Request-Id": f"test-{i}"})
        told = lambda: re.search(r"(?m)^thermocline_generated_tokens_total 24$", cls.text("/metrics"))  # noqa: E731
        assert eventually(told), cls.text("/metrics")  # the core tells its state twice a second
        time.sleep(1.2)   # and goes on telling it: nothing is counted after the end
        cls.metrics = cls.text("/metrics")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    @classmethod
    def text(cls, path):
        with urllib.request.urlopen(cls.server.url + path, timeout=10) as answer:
            return answer.read().decode()

    def value(self, series):
        found = re.search(rf"^{re.escape(series)} (\S+)$", self.metrics, re.M)
        self.assertTrue(found, series)
        return float(found[1])

    @installed("promtool")
    def test_promtool_finds_nothing(self):
        done = run("promtool", "check", "metrics", input=self.metrics)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def test_metrics_agree_with_what_was_asked(self):
        self.assertEqual(self.value('thermocline_http_requests_total{route="/v1/completions",code="200"}'), 3)
        self.assertEqual(self.value("thermocline_generated_tokens_total"), 24)
        self.assertEqual(self.value("thermocline_inter_token_seconds_count"), 21)
        self.assertEqual(self.value('thermocline_request_stage_seconds_count{stage="prompt"}'), 3)
        total = more = 0  # calls given to a second worker because one was late are answered twice
        for worker in "01":
            calls = self.value(f'thermocline_worker_calls_total{{worker="{worker}"}}')
            total += calls
            for what in ("hedges", "retries"):
                more += self.value(f'thermocline_worker_{what}_total{{worker="{worker}"}}')
            self.assertEqual(calls, self.value(f'thermocline_worker_call_seconds_count{{worker="{worker}"}}'))
            self.assertGreater(self.value(f'thermocline_worker_expert_read_bytes_total{{worker="{worker}"}}'), 0)
            self.assertGreater(self.value(f'thermocline_worker_carried_bytes_total{{worker="{worker}",carrier="shm"}}'), 0)
        least = 2 * self.value("thermocline_expert_calls_total")
        self.assertTrue(least <= total <= least + more, (total, least, more))
        self.assertEqual(self.value("thermocline_decode_allocations_total"), 0)

    def test_names_follow_prometheus(self):
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", self.metrics, re.M):
            self.assertNotIn(":", name)
            self.assertEqual(kind == "counter", name.endswith("_total"), name)
        self.assertNotRegex(self.metrics, r"(?m)^\S*_(ms|us|kib|mib)\b")

    def test_a_request_is_one_name_everywhere(self):
        log = [json.loads(line) for line in self.server.text().splitlines() if line.startswith("{")]
        for program in ("gateway", "core"):
            self.assertTrue([l for l in log if l["program"] == program and l.get("request") == "test-1"], program)

    def test_the_trace_leads_from_gateway_to_workers(self):
        eventually(lambda: self.trace.read_text().count('"compute"') > 100)  # workers write when they have time
        events = json.loads(self.trace.read_text().rstrip().rstrip(",") + "]")
        names = {e["pid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
        spans = sorted({(names[e["pid"]], e["name"]) for e in events if e["ph"] in "Xb"})
        for wanted in (("thermocline-gateway", "gateway: request"), ("thermocline-core", "core: prompt"),
                       ("thermocline-core", "step"), ("thermocline-core", "attention"), ("thermocline-core", "experts"),
                       ("thermocline-core", "call"), ("thermocline-worker 0", "compute"), ("thermocline-worker 1", "compute")):
            self.assertIn(wanted, spans)
        requests = {e["id"] for e in events if e["ph"] == "b"}
        self.assertLessEqual({"test-0", "test-1", "test-2"}, requests)
        # An arrow of each call ends inside the worker's span, which lies inside the core's.
        calls = {e["args"]["seq"]: e for e in events if e["name"] == "call" and e["ph"] == "X"}
        computed = [e for e in events if e["name"] == "compute"]
        self.assertGreater(len(computed), 50)
        for e in computed:
            call = calls.get(e["args"]["seq"])
            if call:
                self.assertGreaterEqual(e["ts"], call["ts"])
                self.assertLessEqual(e["ts"] + e["dur"], call["ts"] + call["dur"] + 50)

    def test_no_text_of_a_user_is_seen(self):
        for what, text in (("log", self.server.text()), ("metrics", self.metrics), ("trace", self.trace.read_text())):
            self.assertNotIn(SECRET, text, what)

    def test_no_memory_goes_into_core_dumps(self):
        for program in ("thermocline-gat", "thermocline-cor", "thermocline-wor"):
            for pid in self.server.pids(program):
                limits = Path(f"/proc/{pid}/limits").read_text()
                self.assertRegex(limits, r"Max core file size\s+0\s+0")
                self.assertEqual(int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16), 0)


    def test_every_metric_is_explained(self):
        explained = set(re.findall(r"`([a-z_]+)`", (ROOT / "docs" / "OPERATIONS.md").read_text().split("## Metrics")[1]))
        for name in re.findall(r"^# TYPE (\S+)", self.metrics, re.M):
            self.assertIn(name, explained)

    # On no panel and in no rule: constants, what another metric says with more detail, and what one looks up when asked.
    NOT_DRAWN = {"thermocline_core_up", "thermocline_core_uptime_seconds", "thermocline_sessions_limit",
                 "thermocline_queue_tokens", "thermocline_queue_limit_tokens", "thermocline_queue_limit_requests",
                 "thermocline_request_duration_seconds", "thermocline_steps_total", "thermocline_expert_calls_total",
                 "thermocline_expert_cache_slots", "thermocline_expert_cache_used", "thermocline_worker_up",
                 "thermocline_http_connections_accepted_total", "thermocline_http_body_bytes", "process_cpu_seconds_total",
                 "process_start_time_seconds"}

    def test_every_metric_is_on_the_dashboard_or_left_out_on_purpose(self):
        drawn = set()
        for path in (DEPLOY / "grafana" / "thermocline.json", DEPLOY / "prometheus" / "alerts.yml"):
            drawn |= set(re.findall(r"\b(?:thermocline|process)_[a-z_]+", path.read_text()))
        drawn = {name.removesuffix("_bucket") for name in drawn}
        there = set(re.findall(r"^# TYPE (\S+)", self.metrics, re.M))
        self.assertEqual(there - drawn - self.NOT_DRAWN, set(), "new: draw it, or say here why not")
        self.assertEqual(self.NOT_DRAWN & drawn, set())
        self.assertEqual(self.NOT_DRAWN - there, set(), "no such metric any more")

    def test_top_shows_it(self):
        for _ in range(2):
            self.server.generate("In the beginning", max_tokens=4)
        load = subprocess.Popen([str(PROGRAM), "top", "--once", "--listen", f"127.0.0.1:{self.server.port}"], text=True,
                                stdout=subprocess.PIPE, env=ENVIRONMENT)
        while load.poll() is None:
            self.server.generate("In the beginning", max_tokens=16)
        picture = load.stdout.read()
        load.stdout.close()
        self.assertRegex(picture, r"^thermocline 127.0.0.1:\d+  ready  workers 2 of 2\n")
        self.assertRegex(picture, r"\ntokens    generated [1-9][\d.k]*/s")
        self.assertRegex(picture, r"\nlatency   first token p50 [\d.]+ (ms|us|s) p95 ")
        self.assertRegex(picture, r"\nstep time attention \d+%  router \d+%  experts \d+%")
        for worker in "01":
            self.assertRegex(picture, rf"\n{worker}       1   1       [1-9][\d.k]* +\d.* [GM]iB/s ")
        self.assertEqual(verb("top", "--once", "--listen", f"127.0.0.1:{free_port()}").returncode, 1)

    def test_top_on_a_terminal(self):
        import pty
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(str(PROGRAM), [str(PROGRAM), "top", "--listen", f"127.0.0.1:{self.server.port}"], {**ENVIRONMENT, "TERM": "xterm"})
        seen = b""
        deadline = time.monotonic() + 10
        while b"worker  up" not in seen and time.monotonic() < deadline:
            seen += os.read(terminal, 65536)
        os.write(terminal, b"q")
        try:
            while True:
                block = os.read(terminal, 65536)
                if not block:
                    break
                seen += block
        except OSError:  # the other end is closed
            pass
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        self.assertIn(b"worker  up", seen)
        self.assertTrue(seen.rstrip().endswith(b"\033[?1049l"))  # the terminal is as it was


class Doctor(unittest.TestCase):
    """Machines that are described by folders, each with one thing wrong."""

    GOOD = {"proc/cpuinfo": "processor : 0\nflags : fpu sse avx avx2 fma\n", "proc/meminfo":
            "MemTotal: 1000 kB\nMemAvailable: 900 kB\nSwapTotal: 0 kB\n", "proc/sys/kernel/osrelease": "6.1.0\n",
            "proc/sys/kernel/numa_balancing": "0\n", "sys/devices/system/node/node0/x": "", "dev/shm/x": "",
            "sys/kernel/mm/transparent_hugepage/shmem_enabled": "always [advise] never\n"}

    def diagnose(self, **changes):
        root = Path(tempfile.mkdtemp(dir=CACHE))
        for name, text in {**self.GOOD, **{k.replace("__", "/"): v for k, v in changes.items()}}.items():
            if text is not None:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
        done = verb("doctor", "--json", "--root", root, "--listen", f"127.0.0.1:{free_port()}")
        return {(f["topic"], f["finding"]): f for f in map(json.loads, done.stdout.splitlines())}, done.returncode

    def test_findings_and_their_fixes(self):
        found, code = self.diagnose()
        self.assertEqual(code, 0)
        for topic in ("cpu", "numa", "huge pages", "port"):
            self.assertIn((topic, "ok"), found)
        cases = [({"proc__cpuinfo": "flags : fpu sse avx avx2x\n"}, "cpu", "warning", "AVX2"),
                 ({"proc__cpuinfo": "flags : fpu avx2 avx512bw avx512_vnni\n"}, "cpu", "ok", None),
                 ({"sys__devices__system__node__node1__x": "", "proc__sys__kernel__numa_balancing": "1\n"}, "numa", "warning",
                  "numa_balancing=0"),
                 ({"proc__meminfo": "MemTotal: 1000 kB\nMemAvailable: 900 kB\nSwapTotal: 5 kB\n"}, "swap", "note", "swapoff"),
                 ({"sys__kernel__mm__transparent_hugepage__shmem_enabled": "[never]\n"}, "huge pages", "note", "shmem_enabled"),
                 ({"sys__kernel__mm__transparent_hugepage__shmem_enabled": "[never]\n", "proc__sys__kernel__osrelease": "5.10\n"},
                  "huge pages", "warning", "vm.nr_hugepages"),
                 ({"dev__shm__x": None}, "shm", "bad", "tmpfs"),
                 ({"dev__nvidiactl": ""}, "driver", "bad", "modprobe"),
                 ({"proc__driver__nvidia__version": "NVRM version: 550\n"}, "gpu", "bad", "nvidia-modprobe"),
                 ({"proc__driver__nvidia__version": "NVRM version: 550\n", "dev__nvidiactl": "", "dev__nvidia0": ""}, "gpu", "warning",
                  "nvidia-modprobe -u"),
                 ({"sys__devices__system__cpu__cpu0__cpufreq__scaling_governor": "powersave\n"}, "governor", "warning", "performance")]
        for changes, topic, finding, fix in cases:
            with self.subTest(topic, changes=changes):
                found, code = self.diagnose(**changes)
                self.assertIn((topic, finding), found)
                self.assertEqual(code, finding == "bad")
                if fix:
                    self.assertIn(fix, found[topic, finding]["fix"])

    def test_the_kernels_of_a_cpu_are_named(self):
        flags = "flags : fpu avx2 avx512bw avx512_vnni avx512vbmi avx512_bf16"
        for cpuinfo, isa in ((f"vendor_id : GenuineIntel\n{flags}\n", "avx512bf16"), (f"vendor_id : AuthenticAMD\n{flags}\n", "avx512pairs"),
                             (f"vendor_id : AuthenticAMD\n{flags} amx_int8\n", "amx"), ("flags : fpu avx2\n", "avx2")):
            with self.subTest(isa):
                found, _ = self.diagnose(proc__cpuinfo=cpuinfo)
                self.assertIn(f"has {isa} kernels", str(found["cpu", "ok"]))

    def test_a_port_that_is_taken(self):
        import socket
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            done = verb("doctor", "--listen", f"127.0.0.1:{s.getsockname()[1]}")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stdout, r"BAD +port +cannot listen on")


class Cost(unittest.TestCase):
    def test_counting_costs_less_than_half_a_percent(self):
        """Of the demo model's fastest token, which is the shortest there is."""
        for shape in (("1200", "8", "2", "4"), ("60", "48", "4", "10")):
            done = run(BUILD / "benchmarks" / "thermocline-bench-hooks", *shape)
            figure = json.loads(done.stdout)
            self.assertLess(figure["share_percent"], 0.5, figure)
            self.assertGreater(figure["token_ns"], 100, figure)


class Reload(unittest.TestCase):
    def test_sighup_applies_what_can_be_and_keeps_the_old_when_wrong(self):
        path = Path(tempfile.mkstemp(suffix=".conf", dir=CACHE)[1])
        path.write_text("queue-tokens = 1000\n")
        with Server(DEMO, 1, "--config", path) as server:
            def hang_up(program, text):
                path.write_text(text)
                before = len(server.text())
                os.kill(server.pids(program)[0], signal.SIGHUP)
                eventually(lambda: "configuration" in server.text()[before:])
                return server.text()[before:]

            self.assertIn("configuration applied", hang_up("thermocline-cor", "queue-tokens = 2000\n"))
            said = hang_up("thermocline-cor", "queue-tokens = 0\n")
            self.assertIn("the configuration stays as it was", said)
            self.assertRegex(said, r"\.conf:1: --queue-tokens 0")
            self.assertIn("these need a restart: spin-us", hang_up("thermocline-cor", "spin-us = 7\n"))
            self.assertIn("configuration applied", hang_up("thermocline-gat", "cors-origin = https://a.example\n"))
            answer = urllib.request.urlopen(urllib.request.Request(server.url + "/api/v1/health",
                                                                   headers={"Origin": "https://a.example"}), timeout=5)
            self.assertEqual(answer.headers["Access-Control-Allow-Origin"], "https://a.example")
            self.assertIn("stays as it was", hang_up("thermocline-gat", "api-key-file = /nonexistent\n"))
            self.assertIn("configuration applied", hang_up("thermocline-wor", "log-level = debug\n"))
            self.assertEqual(server.generate("x", max_tokens=2)["tokens_generated"], 2)


    def test_sighup_beside_a_hot_tier(self):
        """What a reload changes of the workers' source lies behind the tier's."""
        path = Path(tempfile.mkstemp(suffix=".conf", dir=CACHE)[1])
        path.write_text("chunk-ms = 100\n")
        with Server(DEMO, 1, "--config", path, "--hot-budget", "4M") as server:
            core = server.pids("thermocline-cor")
            before = server.generate("In the beginning", max_tokens=8, temperature=0)["text"]
            path.write_text("chunk-ms = 50\n")
            os.kill(core[0], signal.SIGHUP)
            self.assertTrue(eventually(lambda: "core: configuration applied" in server.text()))
            self.assertEqual(server.generate("In the beginning", max_tokens=8, temperature=0)["text"], before)
            self.assertEqual(server.pids("thermocline-cor"), core)


class Prometheus(unittest.TestCase):
    """A real Prometheus scrapes a server under load; every query of the dashboard returns data."""

    @installed("prometheus")
    def test_dashboard_queries_return_data(self):
        folder = Path(tempfile.mkdtemp(dir=CACHE))
        port = free_port()
        with Server(DEMO, 2) as server:
            (folder / "prometheus.yml").write_text(
                "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
                f"rule_files: ['{DEPLOY}/prometheus/alerts.yml']\n"
                f"scrape_configs: [{{job_name: thermocline, static_configs: [{{targets: ['127.0.0.1:{server.port}']}}]}}]\n")
            self.assertEqual(run("promtool", "check", "config", folder / "prometheus.yml").returncode, 0)
            log = open(folder / "log", "w")
            process = subprocess.Popen(["prometheus", f"--config.file={folder}/prometheus.yml",
                                        f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"],
                                       stdout=log, stderr=log)
            try:
                self.ask = lambda q: json.load(urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/api/v1/query?query=" + urllib.parse.quote(q), timeout=10))["data"]["result"]
                eventually(lambda: self.up(), 30)
                for _ in range(10):
                    server.generate("In the beginning", max_tokens=16)
                    time.sleep(0.5)
                time.sleep(2)
                self.check()
            finally:
                process.terminate()
                process.wait(20)
                log.close()

    def up(self):
        try:
            return [r for r in self.ask('up{job="thermocline"}') if r["value"][1] == "1"]
        except OSError:
            return False

    def check(self):
        self.assertTrue(self.up())
        dashboard = json.loads((DEPLOY / "grafana" / "thermocline.json").read_text())
        queries = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]
        self.assertGreater(len(queries), 40)
        # NaN is no data where something must have happened; these need a device's cache, which is absent here.
        for title, expr in queries:
            query = expr.replace("$__rate_interval", "20s").replace("$job", ".*")
            with self.subTest(title, query=query):
                self.assertTrue(self.ask(query), "no data")
        self.assertEqual([r for r in self.ask('ALERTS{alertstate="firing"}')], [])


if __name__ == "__main__":
    unittest.main()
