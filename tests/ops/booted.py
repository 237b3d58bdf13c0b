#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The packages under a real systemd, in namespaces of their own: install, ready, sandbox, watchdog, restarts, reload, sockets that
stay open, stop, upgrade, purge; each seen from outside. As root.

  booted.py --base DIR --debs DIR --newer DIR      DIR: a debootstrapped Debian; packages; packages of a later version
"""
import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
arguments = None
UNITS = ("thermocline-gateway.service", "thermocline-core.service", "thermocline-worker@0.service")
GATEWAY, CORE, WORKER = UNITS
CONF = "/etc/thermocline/thermocline.conf"


class Machine:
    def __init__(self, base):
        self.work = tempfile.mkdtemp(prefix="thermocline-boot-")
        self.log = open(Path(self.work).with_suffix(".log"), "w")
        self.process = subprocess.Popen(["unshare", "-m", "-p", "-u", "-i", "-n", "-C", "-f", str(HERE / "boot.sh"), base, self.work],
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True)
        self.init = self.wait_for(self.find_init, 30, "an init")
        self.sh("ip link set lo up 2>/dev/null || true")
        self.wait_for(lambda: self.out("systemctl is-system-running").strip() in ("running", "degraded"), 60, "the boot")
        subprocess.run(["nsenter", "-t", str(self.init), "-n", "ip", "link", "set", "lo", "up"], check=True)

    def find_init(self):
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout.split()
        if found and Path(f"/proc/{found[0]}/comm").read_text().strip() == "systemd":
            return int(found[0])
        return None

    def run(self, *command, **options):
        return subprocess.run(["nsenter", "-t", str(self.init), "-m", "-p", "-u", "-i", "-n", "-C", "-r", "-w", "env", "-i",
                               "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", *command],
                              capture_output=True, text=True, timeout=180, **options)

    def sh(self, text):
        return self.run("sh", "-c", text)

    def out(self, text):
        return self.sh(text).stdout

    def must(self, text):
        done = self.sh(text)
        if done.returncode:
            raise AssertionError(f"{text}: {done.returncode}\n{done.stdout}{done.stderr}\n"
                                 + self.out("systemctl --no-pager list-units 'thermocline*'; journalctl --no-pager -n 40"))
        return done.stdout

    def show(self, unit, name):
        return self.out(f"systemctl show -P {name} {unit}").strip()

    def pid(self, unit):
        """As the host numbers it."""
        inside = int(self.show(unit, "MainPID"))
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                found = re.search(r"^NSpid:(.*)$", status.read_text(), re.M)
            except OSError:
                continue
            numbers = found[1].split() if found else []
            if len(numbers) == 2 and int(numbers[1]) == inside and inside:
                if os.readlink(f"/proc/{numbers[0]}/ns/pid") == os.readlink(f"/proc/{self.init}/ns/pid"):
                    return int(numbers[0])
        return 0

    def journal(self, unit, since):
        return self.out(f"journalctl --no-pager -o cat -u '{unit}' --since '{since}'")

    def now(self):
        return self.out("date '+%Y-%m-%d %H:%M:%S'").strip()

    def health(self):
        try:
            return json.loads(self.out("curl -s -m 5 http://127.0.0.1:8080/api/v1/health") or "{}")
        except ValueError:
            return {}

    def ready(self):
        return self.health().get("ready")

    def generate(self):
        answer = self.out("""curl -s -m 60 http://127.0.0.1:8080/api/v1/generate -d '{"prompt": "In", "max_tokens": 4, "temperature": 0}'""")
        return json.loads(answer)["tokens_generated"]

    @staticmethod
    def wait_for(condition, seconds, what):
        deadline = time.monotonic() + seconds
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds} s in vain for {what}")
            time.sleep(0.1)

    def end(self):
        try:
            os.kill(self.init, signal.SIGKILL)  # the namespace, and all that is in it, goes with its init
            self.process.wait(10)
        finally:
            self.log.close()
            shutil.rmtree(self.work, ignore_errors=True)


class Booted(unittest.TestCase):
    """One machine's life, in order."""

    @classmethod
    def setUpClass(cls):
        cls.m = Machine(arguments.base)
        cls.m.must("mkdir -p /opt/debs /opt/newer")
        for folder, target in ((arguments.debs, "debs"), (arguments.newer, "newer")):
            for deb in Path(folder).glob("*.deb"):
                with open(deb, "rb") as data:
                    done = subprocess.run(["nsenter", "-t", str(cls.m.init), "-m", "-r", "-w", "sh", "-c",
                                           f"cat >/opt/{target}/{deb.name}"], stdin=data)
                    assert done.returncode == 0
        cls.before = cls.files()

    @classmethod
    def tearDownClass(cls):
        cls.m.end()

    @classmethod
    def files(cls):
        return set(cls.m.out("find / -xdev \\( -path /proc -o -path /sys -o -path /opt -o -path /tmp \\) -prune -o -print; "
                             "find /run /dev/shm -name '*thermocline*'").splitlines())

    def setUp(self):
        if self._testMethodName != "test_10_install":
            self.m.wait_for(lambda: self.m.ready() or "stop" in self._testMethodName or "purge" in self._testMethodName
                            or "upgrade" in self._testMethodName, 30, "readiness")

    def test_10_install(self):
        done = self.m.sh("dpkg -i /opt/debs/*.deb")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertNotIn("Failed", done.stdout + done.stderr)
        self.m.wait_for(self.m.ready, 30, "readiness after the installation")
        for unit in UNITS:
            self.assertEqual(self.m.show(unit, "ActiveState"), "active", unit)
            self.assertEqual(self.m.show(unit, "Type"), "notify", unit)
        self.assertEqual(self.m.generate(), 4)
        self.assertEqual(self.m.out("systemctl is-enabled thermocline.target thermocline-gateway.socket").split(), ["enabled"] * 2)
        self.assertIn("the configuration is good", self.m.must("thermocline config check"))

    def test_15_lives_in_its_sandbox(self):
        users = {GATEWAY: "thermocline-gateway", CORE: "thermocline", WORKER: "thermocline"}
        for unit in UNITS:
            pid = self.m.pid(unit)
            status = Path(f"/proc/{pid}/status").read_text()
            self.assertRegex(status, r"NoNewPrivs:\s1\b", unit)
            self.assertRegex(status, r"Seccomp:\s2\b", unit)
            self.assertRegex(status, r"CapEff:\s0{16}\b", unit)
            self.assertRegex(status, r"CapBnd:\s0{16}\b", unit)
            self.assertRegex(Path(f"/proc/{pid}/limits").read_text(), r"Max core file size\s+0\s+0")
            self.assertEqual(self.m.show(unit, "User"), users[unit])
            score = self.m.out(f"systemd-analyze security --no-pager {unit} | tail -1")
            limit = {GATEWAY: 1.2, CORE: 1.0, WORKER: 0.6}[unit]
            self.assertLessEqual(float(re.search(r": (\d+\.\d)", score)[1]), limit, score)
        for unit in (CORE, WORKER):  # a network of their own, where there is none
            self.assertNotEqual(os.readlink(f"/proc/{self.m.pid(unit)}/ns/net"), os.readlink(f"/proc/{self.m.init}/ns/net"))
        scores = [int(Path(f"/proc/{self.m.pid(unit)}/oom_score_adj").read_text()) for unit in UNITS]
        self.assertEqual(scores, sorted(scores))
        self.assertGreater(scores[2] - scores[0], 500)

    def test_17_a_cuda_library_without_a_gpu(self):
        """The CUDA package on a machine without a card: auto takes the CPU and says why, doctor names what is missing."""
        if not list(Path(arguments.debs).glob("thermocline-cuda_*.deb")):
            self.skipTest("the CUDA device was not built")
        self.m.must("test -r /usr/lib/thermocline/thermocline-cuda.so")
        log = self.m.out(f"journalctl --no-pager -o cat -u {CORE}")
        self.assertRegex(log, r"device: cpu \(cuda: .+\)")
        self.assertNotIn("is not installed", log)  # it was found, loaded and asked
        self.assertNotIn("of another version", log)
        self.assertRegex(self.m.out("thermocline doctor"), r"(?i)(no nvidia|no gpu|gpu: none)[^\n]*")
        self.assertEqual(self.m.generate(), 4)
        self.m.must(f"cp {CONF} /root/good.conf; echo 'device = cuda' >>{CONF}")
        try:
            since = self.m.now()
            self.m.sh(f"systemctl restart --no-block {CORE}")
            self.m.wait_for(lambda: "--device cuda: " in self.m.journal(CORE, since), 20, "the core's refusal")
        finally:
            self.m.must(f"cp /root/good.conf {CONF}; systemctl reset-failed {CORE}; systemctl restart {CORE}")
        self.m.wait_for(self.m.ready, 30, "readiness")

    def test_20_status_and_readiness_tell_the_truth(self):
        self.assertRegex(self.m.show(CORE, "StatusText"), r"^serving \S+, 1 of 1 workers$")
        self.assertRegex(self.m.show(GATEWAY, "StatusText"), r"^serving demo: \d+ running")
        self.assertRegex(self.m.show(WORKER, "StatusText"), r"^partition 0 of 1, .* MiB resident$")
        self.m.must(f"systemctl stop {WORKER}")
        self.m.must(f"systemctl restart --no-block {CORE}")
        self.m.wait_for(lambda: "no expert worker" in self.m.show(CORE, "StatusText"), 20, "the core to say what it waits for")
        self.assertEqual(self.m.show(CORE, "ActiveState"), "activating")
        self.assertFalse(self.m.ready())
        self.m.must(f"systemctl start {WORKER}")
        self.m.wait_for(lambda: self.m.show(CORE, "ActiveState") == "active", 20, "the core to be ready")

    def test_30_watchdog(self):
        for unit in UNITS:
            with self.subTest(unit):
                self.m.must(f"mkdir -p /run/systemd/system/{unit}.d && printf '[Service]\\nWatchdogSec=2\\n' "
                            f">/run/systemd/system/{unit}.d/watchdog.conf && systemctl daemon-reload && systemctl restart {unit}")
                self.m.wait_for(self.m.ready, 20, "readiness")
                time.sleep(5)  # fed well beyond its time
                self.assertEqual(self.m.show(unit, "NRestarts"), "0")
                since, pid = self.m.now(), self.m.pid(unit)
                os.kill(pid, signal.SIGSTOP)
                self.m.wait_for(lambda: self.m.show(unit, "NRestarts") == "1", 20, "the watchdog")
                self.assertIn("atchdog", self.m.journal(unit, since))
                self.m.wait_for(lambda: self.m.pid(unit) not in (0, pid) and self.m.ready(), 20, "the new one")
                self.m.must(f"rm -r /run/systemd/system/{unit}.d && systemctl daemon-reload && systemctl reset-failed {unit}")
        self.assertEqual(self.m.generate(), 4)

    def test_40_what_dies_is_started_again(self):
        for unit in UNITS:
            with self.subTest(unit):
                pid = self.m.pid(unit)
                os.kill(pid, signal.SIGKILL)
                self.m.wait_for(lambda: self.m.pid(unit) not in (0, pid) and self.m.ready(), 20, "the restart")
        self.assertEqual(self.m.generate(), 4)

    def test_50_reload(self):
        self.m.must(f"cp {CONF} /root/good.conf")
        try:
            for unit in (CORE, GATEWAY, WORKER):
                with self.subTest(unit):
                    pid, since = self.m.pid(unit), self.m.now()
                    self.m.must(f"cp /root/good.conf {CONF}; echo 'log-level = debug' >>{CONF}; systemctl reload {unit}")
                    self.assertIn("configuration applied", self.m.journal(unit, since))
                    self.m.must(f"cp /root/good.conf {CONF}; echo 'nonsense = 1' >>{CONF}; systemctl reload {unit}")
                    self.m.wait_for(lambda: "stays as it was" in self.m.journal(unit, since), 5, "the refusal")
                    self.assertIn("there is no setting 'nonsense'", self.m.journal(unit, since))
                    self.assertEqual((self.m.show(unit, "ActiveState"), self.m.pid(unit)), ("active", pid))
        finally:
            self.m.must(f"cp /root/good.conf {CONF}; systemctl reload {' '.join(UNITS)}")

    def hammer(self, action):
        """Connections all through `action`: how many, and what went wrong."""
        wrong, done, go_on = [], [0], threading.Event()
        go_on.set()

        def connect():
            while go_on.is_set():
                answer = self.m.sh("curl -s -o /dev/null -m 30 -w '%{http_code}' http://127.0.0.1:8080/")
                done[0] += 1
                if answer.stdout != "200":
                    wrong.append((answer.returncode, answer.stdout))

        threads = [threading.Thread(target=connect) for _ in range(3)]
        for t in threads:
            t.start()
        time.sleep(0.5)
        action()
        time.sleep(0.5)
        go_on.clear()
        for t in threads:
            t.join()
        return done[0], wrong

    def test_60_no_connection_is_dropped_by_a_restart(self):
        pid = self.m.pid(GATEWAY)
        count, wrong = self.hammer(lambda: [self.m.must(f"systemctl restart {GATEWAY}") for _ in range(3)])
        self.assertNotEqual(self.m.pid(GATEWAY), pid)
        self.assertGreater(count, 15)
        self.assertEqual(wrong, [])

    def test_65_keys_come_by_credential(self):
        key = "a-key-of-the-test"
        self.m.must(f"cp -p /etc/thermocline/api-keys /root/keys && echo {key} >>/etc/thermocline/api-keys && systemctl restart {GATEWAY}")
        try:
            code = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8080/v1/models"
            self.assertEqual(self.m.out(code), "401")
            self.assertEqual(self.m.out(code + f" -H 'Authorization: Bearer {key}'"), "200")
            self.assertEqual(self.m.out("stat -c '%a %U' /etc/thermocline/api-keys").strip(), "600 root")
            self.assertNotEqual(self.m.sh("setpriv --reuid thermocline-gateway --regid thermocline --clear-groups "
                                          "cat /etc/thermocline/api-keys").returncode, 0)
        finally:
            self.m.must(f"cp -p /root/keys /etc/thermocline/api-keys && systemctl restart {GATEWAY}")

    def test_70_two_workers_by_configuration(self):
        self.m.must(f"cp {CONF} /root/good.conf; echo 'workers = 2' >>{CONF}; systemctl daemon-reload; systemctl restart thermocline.target")
        try:
            self.m.wait_for(lambda: self.m.health().get("workers", {}).get("up") == 2 and self.m.ready(), 30, "two workers")
            self.assertEqual(self.m.generate(), 4)
        finally:
            self.m.must(f"cp /root/good.conf {CONF}; systemctl stop 'thermocline-worker@1'; systemctl daemon-reload; "
                        "systemctl restart thermocline.target")
        self.m.wait_for(self.m.ready, 30, "one worker")

    def test_80_stop_and_start(self):
        since = self.m.now()
        self.m.must("systemctl stop thermocline-gateway.socket thermocline.target")
        for unit in UNITS:
            self.assertEqual((self.m.show(unit, "ActiveState"), self.m.show(unit, "Result")), ("inactive", "success"), unit)
        self.assertIn("shutting down", self.m.journal(CORE, since))
        self.assertEqual(self.m.out("pgrep -f [l]ibexec/thermocline || true"), "")
        self.assertEqual(len(self.m.out("ls /dev/shm/thermocline").split()), 1)  # experts stay for the next start
        self.m.must("systemctl start thermocline-gateway.socket thermocline.target")
        self.m.wait_for(self.m.ready, 30, "readiness")
        self.assertIn("found the experts", self.m.journal(WORKER, since))

    def test_90_upgrade(self):
        self.m.wait_for(self.m.ready, 30, "readiness")
        self.m.must(f"echo '# mine' >>{CONF}")
        old = [self.m.pid(unit) for unit in UNITS]
        opened = self.m.show("thermocline-gateway.socket", "ActiveEnterTimestampMonotonic")
        results = []
        count, wrong = self.hammer(lambda: results.append(self.m.sh("dpkg -i --force-confold /opt/newer/*.deb")))
        self.assertEqual(results[0].returncode, 0, results[0].stdout + results[0].stderr)
        self.m.wait_for(self.m.ready, 30, "readiness after the upgrade")
        for pid, unit in zip(old, UNITS):
            self.assertNotIn(self.m.pid(unit), (0, pid), unit)
        self.assertEqual(wrong, [])
        self.assertGreater(count, 10)
        self.assertEqual(self.m.show("thermocline-gateway.socket", "ActiveEnterTimestampMonotonic"), opened)
        self.assertIn("# mine", self.m.out(f"cat {CONF}"))
        self.assertEqual(self.m.generate(), 4)

    def test_95_purge(self):
        done = self.m.sh("dpkg --purge $(dpkg-query -W -f '${Package} ' 'thermocline*')")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(self.m.out("pgrep -f [l]ibexec/thermocline || true"), "")
        left = sorted(f for f in self.files() - self.before if "thermocline" in f)
        self.assertEqual(left, [])
        self.assertEqual(self.m.out("systemctl list-units --all --plain --no-legend 'thermocline*' | grep -v not-found || true"), "")
        other = [f for f in self.files() - self.before
                 if not re.match(r"/(var/(log|lib/(dpkg|systemd)|cache)|run|root|etc/(\.pwd\.lock|(passwd|group|shadow|gshadow)-?$))", f)]
        self.assertEqual(other, [])


def main():
    global arguments
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "debs", "newer"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    os.environ.setdefault("TC_BUILD", ".")
    from run import Counter
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(Booted)
    result = unittest.TextTestRunner(stream=sys.stderr, resultclass=Counter, verbosity=0).run(suite)
    failed = len(result.failures) + len(result.errors)
    print(f"{result.passed} passed, {failed} failed, {len(result.skipped)} skipped", flush=True)
    return 1 if failed or not result.passed else 0


if __name__ == "__main__":
    sys.exit(main())
