# SPDX-License-Identifier: Apache-2.0
"""Workers on other hosts: mutual TLS across network namespaces, with delay, loss and partitions, certificates made here
and now. The same tokens come whatever the network does, and what is not let in is told why.

Delay and loss are the kernel's (netem) where it has that, else of a program that carries packets between TUN devices, else of a relay
of connections, which delays what it would lose; each run says which. TC_NETWORK=netem, packets or relay asks for one. Bounds of time are what is promised
plus what the machine itself withheld meanwhile, which a watch measures: so they are tight on an idle machine and hold on a busy one."""
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path

from harness import BUILD, CACHE, DEMO, ENVIRONMENT, FIXTURES, ROOT, Server, eventually, free_port, verb
from pieces import Stream

CERTIFICATES = ROOT / "deploy" / "tls" / "thermocline-certificates"
DEAD_S, BEAT_S = 3.0, 0.5  # proto/link.h: silence until a connection is given up; how often one is looked at
DIAL_S = 3.0 + 1.0  # proto/link_connect.c: an attempt, and the longest pause before the next
WAKES = 4  # of processes and threads, one after another, until a test sees what it waits for
PROMPT = {"prompt": "The first line of the file", "temperature": 0.7, "seed": 3, "ignore_eos": True}


def run(*command):
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


def certificates(folder, *names):
    for words in (["ca"], ["core", *names], *(["worker", name] for name in ("one", "two"))):
        run(CERTIFICATES, folder, *words)
    return folder


def tls(folder, name):
    return ["--tls-ca", folder / "ca.pem", "--tls-cert", folder / f"{name}.pem", "--tls-key", folder / f"{name}.key"]


class Host:
    """A network namespace joined to ours by a pair of devices: 10.N.N.1 here, 10.N.N.2 there."""

    numbers = iter(range(1 + os.getpid() % 100, 250))

    def __init__(self):
        number = next(self.numbers)
        self.name, self.device = f"tc-test-{os.getpid()}-{number}", f"tct{os.getpid() % 100000}-{number}"
        self.near = f"10.{number}.{os.getpid() % 250}.1"
        self.far = self.near[:-1] + "2"
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self.device, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "-n", self.name, "link", "set", "lo", "up")
        self.join()

    def join(self):
        for before, address, device in ([], self.near, self.device), (["-n", self.name], self.far, "eth0"):
            run("ip", *before, "address", "add", address + "/24", "dev", device)
            run("ip", *before, "link", "set", device, "up")

    def sent_again(self):
        """TCP segments that this host has sent more than once."""
        words = ["ip", "netns", "exec", self.name, "grep", "^Tcp:", "/proc/net/snmp"]
        names, values = (line.split() for line in subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines())
        return int(values[names.index("RetransSegs")])

    def cut(self, cut=True):
        """Whatever is sent either way is lost, and nobody is told."""
        run("ip", "-n", self.name, "link", "set", "eth0", "down" if cut else "up")

    def close(self):
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)
        subprocess.run(["ip", "link", "del", self.device], capture_output=True)


class Watch:
    """How late this machine wakes who asked for it: `worst`, in seconds, since the last reset()."""

    def __enter__(self):
        self.ends, self.worst = threading.Event(), 0.0
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        return self

    def look(self):
        while not self.ends.is_set():
            began = time.monotonic()
            time.sleep(0.005)
            self.worst = max(self.worst, time.monotonic() - began - 0.005)

    def reset(self):
        self.worst = 0.0

    def withheld(self):
        """Of what takes WAKES of them in a row."""
        return WAKES * self.worst

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join()


class Process:
    def __init__(self, *command, host=None, **more):
        self.log = tempfile.NamedTemporaryFile("w+", prefix="fleet-", suffix=".log", dir=CACHE, delete=False)
        before = ["ip", "netns", "exec", host.name] if host else []
        self.process = subprocess.Popen([*before, *map(str, command)], stdin=more.pop("stdin", subprocess.DEVNULL),
                                        stdout=more.pop("stdout", self.log), stderr=self.log, env=ENVIRONMENT, **more)

    def text(self):
        return Path(self.log.name).read_text()

    def says(self, pattern, timeout_s=15):
        return eventually(lambda: re.search(pattern, self.text()), timeout_s)

    def stop(self, number=signal.SIGTERM):
        if self.process.stdin:
            self.process.stdin.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Told(Process):
    """A network between two hosts that is told on its standard input what it is to be."""

    def __init__(self, *command):
        super().__init__(*command, stdin=subprocess.PIPE)
        assert self.says("ready"), self.text()

    def tell(self, *lines):
        for line in lines:
            self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()


class Relay(Told):
    """From an address to another, slowly. Not by the loopback interface: then the core would take the worker for a neighbour."""

    def __init__(self, near, to_host, to_port):
        self.port = free_port()
        super().__init__(BUILD / "tests" / "sim" / "relay", near, self.port, to_host, to_port)


class Packets(Told):
    """In the place of a host's pair of devices: the packets go through a program, which delays and drops them."""

    def __init__(self, host, port):
        self.port = port
        run("ip", "link", "del", host.device)
        super().__init__(BUILD / "tests" / "sim" / "packets", host.device, host.name, "eth0")
        host.join()


class Netem:
    """The same by the kernel, on both ends of a host's pair."""

    def __init__(self, host, port):
        self.host, self.port, self.state = host, port, {"delay": 0, "loss": 0, "cut": False}

    def tell(self, *lines):
        for line in lines:
            word, *number = line.split()
            self.state.update({word: int(number[0])} if number else {"cut": word == "cut"})
        lost = 100 if self.state["cut"] else self.state["loss"] / 10
        netem = ["root", "netem", "limit", "100000", "delay", f"{self.state['delay']}us", "loss", f"{lost}%"]
        run("tc", "qdisc", "replace", "dev", self.host.device, *netem)
        run("tc", "-n", self.host.name, "qdisc", "replace", "dev", "eth0", *netem)

    def stop(self):
        pass  # goes with the device


NETWORKS = {"netem": Netem, "packets": Packets, "relay": lambda host, port: Relay(host.near, host.near, port)}


def netem_lacks():
    """Why there is no netem; empty: there is. What tc does not understand is our mistake, and no reason."""
    host = Host()
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "-q", "sch_netem"], capture_output=True)
    try:
        Netem(host, 0).tell("delay 100", "loss 20")
    except FileNotFoundError:
        return "no tc"
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode().strip()
        if not re.search("qdisc kind is unknown|No such file|not permitted|not supported", said):
            raise AssertionError(f"{error.cmd}: {said}") from None
        return said.splitlines()[0]
    finally:
        host.close()
    return ""


@functools.cache
def network():
    asked, lacks = os.environ.get("TC_NETWORK"), netem_lacks()
    name = asked or ("netem" if not lacks else "packets" if os.path.exists("/dev/net/tun") else "relay")
    print(f"    delay and loss by: {name}{f' (no netem: {lacks})' if lacks else ''}", flush=True)
    return name


def way(host, port):
    """Between that host and the core's port here: told `delay US`, `loss PERMILLE`, `cut` and `heal`. Dialled at host.near, way.port."""
    return NETWORKS[network()](host, port)


def worker(url, folder, name, *arguments, host=None, model=DEMO, index=0):
    return Process(BUILD / "expert-worker" / "thermocline-worker", "--connect", url, "--model", model, "--index", index, "--of", index + 1,
                   *tls(folder, name), *arguments, host=host)


class Remote(Server):
    """A core without workers of its own host, and a gateway."""

    def __init__(self, port, folder, *arguments):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = Path(tempfile.mkdtemp(dir=CACHE))
        engine = f"ipc://{self.folder}/engine"
        self.core = Process(BUILD / "gpu-core" / "thermocline-core", "--model", DEMO, "--engine", engine, "--experts",
                            f"tls+tcp://0.0.0.0:{port}", "--workers", 1, *tls(folder, "core"), *arguments)
        self.gateway = Process(BUILD / "gateway" / "thermocline-gateway", "--model", DEMO, "--engine", engine, "--listen",
                               f"127.0.0.1:{self.port}")

    def text(self):
        return self.core.text()

    def stop(self):
        self.gateway.stop()
        return self.core.stop()


@unittest.skipUnless(DEMO.exists(), "demo/model is not there")
@unittest.skipUnless(os.geteuid() == 0 and shutil.which("ip"), "network namespaces are root's to make")
class Fleet(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(dir=CACHE))
        self.hosts = [Host(), Host()]
        self.pki = certificates(self.folder / "pki", "127.0.0.1", *(host.near for host in self.hosts))
        self.open = []
        self.port = free_port()
        self.assertEqual(verb("pack", DEMO).returncode, 0)

    def tearDown(self):
        for process in reversed(self.open):
            process.stop()
        for host in self.hosts:
            host.close()

    def keep(self, process):
        self.open.append(process)
        return process

    def sent_again(self):
        return sum(host.sent_again() for host in self.hosts)

    def want(self, server=None, **fields):
        """What the model says without any network."""
        with Server(DEMO, 0) as server:
            return server.generate(**{**PROMPT, **fields})["text"]

    def streamed(self, server, **fields):
        """(text, the longest silence between two tokens)."""
        stream, silence = Stream(server, "/api/v1/generate", {**PROMPT, **fields}), 0.0
        stream.read(1)
        while not stream.done:
            began = time.monotonic()
            stream.read(1)
            self.assertFalse(stream.error or stream.cut, (stream.error, stream.cut))
            silence = max(silence, time.monotonic() - began)
        stream.close()
        return stream.text, silence

    def test_partitions_and_healing(self):
        want = self.want(max_tokens=300)
        server = self.keep(Remote(self.port, self.pki))
        workers = [self.keep(worker(f"tls+tcp://{host.near}:{self.port}", self.pki, name, host=host))
                   for host, name in zip(self.hosts, ("one", "two"))]
        self.assertTrue(eventually(lambda: server.ready() and server.statistics()["workers_up"] == 2, 30), server.text())
        self.assertIn(f"at {self.hosts[0].far}:", server.text())
        self.assertNotIn("shared memory", server.text())  # it is another host's
        with Watch() as watch:
            text, undisturbed = self.streamed(server, max_tokens=300)
            self.assertEqual(text, want)

            # One is cut off in the middle of an answer: the other takes over as soon as its answer is late, the silence is noticed by both.
            watch.reset()
            noticed, before = [], []
            cutter = threading.Timer(0.1, lambda: (before.append(time.monotonic()), self.hosts[0].cut(), noticed.append(time.monotonic())))
            cutter.start()
            text, silence = self.streamed(server, max_tokens=300)
            self.assertEqual(text, want)
            self.assertLess(silence, 0.5 + 2 * undisturbed + watch.withheld())
            cutter.join()
            self.assertTrue(server.core.says("is lost: was not heard of any more", 30), server.text())
            noticed.append(time.monotonic())
            self.assertTrue(workers[0].says("the core is gone", 30), workers[0].text())
            noticed.append(time.monotonic())
            for seen in (after - noticed[0] for after in noticed[1:]):
                self.assertLess(seen, DEAD_S + 2 * BEAT_S + watch.withheld(),
                                (noticed, server.text()[-2000:], workers[0].text()[-2000:]))
            self.assertGreater(noticed[1] - before[0], DEAD_S - 2 * BEAT_S)
            print(f"    longest silence {undisturbed * 1e3:.0f} ms undisturbed, {silence * 1e3:.0f} ms when one of two was cut off, which was "
                  f"noticed after {noticed[1] - noticed[0]:.1f} s (the machine's own lateness: {watch.worst * 1e3:.0f} ms)", flush=True)

            # Nobody is left: the request waits, and is answered when the way is free again.
            watch.reset()
            self.hosts[1].cut()
            began = time.monotonic()
            self.assertTrue(eventually(lambda: server.statistics()["workers_up"] == 0, 30))
            self.assertLess(time.monotonic() - began, DEAD_S + 2 * BEAT_S + 1 + watch.withheld())  # the core tells its state twice a second
            self.assertEqual(server.get("/api/v1/health")[0], 503)
            asked = subprocess.Popen(["curl", "-sS", "-m", "60", server.url + "/api/v1/generate", "-d",
                                      json.dumps({**PROMPT, "max_tokens": 300})], stdout=subprocess.PIPE, text=True)
            time.sleep(1)
            watch.reset()
            self.hosts[0].cut(False)
            self.hosts[1].cut(False)
            healed = time.monotonic()
            self.assertTrue(eventually(lambda: server.statistics()["workers_up"] == 2, 30), server.text())
            back = time.monotonic() - healed
            self.assertLess(back, DIAL_S + 1 + 1 + watch.withheld())  # a handshake; the neighbour's address is asked for each second
            self.assertEqual(json.loads(asked.communicate()[0])["text"], want)
            print(f"    both are back {back:.1f} s after the way was", flush=True)
        self.assertEqual(workers[0].stop(), 0)

    def test_delay_loss_and_a_way_cut_in_mid_token(self):
        want = self.want(max_tokens=60)
        server = self.keep(Remote(self.port, self.pki))
        ways = [self.keep(way(host, self.port)) for host in self.hosts]
        for one in ways:
            one.tell("delay 2000")
        for one, host, name in zip(ways, self.hosts, ("one", "two")):
            self.keep(worker(f"tls+tcp://{host.near}:{one.port}", self.pki, name, host=host))
        self.assertTrue(eventually(lambda: server.ready() and server.statistics()["workers_up"] == 2, 30), server.text())
        began = time.monotonic()
        self.assertEqual(server.generate(**PROMPT, max_tokens=60)["text"], want)
        self.assertGreater(time.monotonic() - began, 60 * 8 * 0.004)  # 8 layers, 4 ms there and back: it did go there

        for one in ways:
            one.tell("loss 30")  # of a thousand: what is behind a lost one comes late, often by 200 ms
        short, before = self.want(max_tokens=30), self.sent_again()
        for rounds in range(1, 11):
            self.assertEqual(server.generate(**PROMPT, max_tokens=30)["text"], short)
            again = self.sent_again() - before
            if again >= 3 or network() == "relay":
                break
        if network() != "relay":
            self.assertGreaterEqual(again, 3)  # it did lose
            print(f"    {rounds} times 30 tokens with 3 % of packets lost: workers sent {again} segments again", flush=True)
        for one in ways:
            one.tell("loss 0", "delay 100")
        with Watch() as watch:
            _, undisturbed = self.streamed(server, max_tokens=60)
            watch.reset()
            cutter = threading.Timer(0.1, lambda: (ways[0].tell("cut"), ways[1].tell("delay 20000")))
            cutter.start()
            text, silence = self.streamed(server, max_tokens=60)
            cutter.join()
            self.assertEqual(text, want)
            # A token of the way that is left takes 8 layers of 40 ms; before it one answer was late once.
            self.assertLess(silence, 8 * 0.04 + 0.5 + 2 * undisturbed + watch.withheld())
            ways[1].tell("delay 100")
            ways[0].tell("heal")
            watch.reset()
            healed = time.monotonic()
            self.assertTrue(eventually(lambda: server.statistics()["workers_up"] == 2, 30), server.text())
            self.assertLess(time.monotonic() - healed, DEAD_S + 2 * BEAT_S + DIAL_S + 1 + watch.withheld())  # lost first, where it was not yet
        metrics = server.get("/metrics")[1].decode()
        self.assertRegex(metrics, r'thermocline_worker_hedges_total\{worker="0"\} [1-9]')

    def calls(self, server, index):
        found = re.search(rf'thermocline_worker_calls_total\{{worker="{index}"\}} (\d+)', server.get("/metrics")[1].decode())
        return int(found[1]) if found else 0

    def test_near_before_far(self):
        """A worker of this host beside one whose answers take 200 ms: tokens stay here."""
        with Server(DEMO, 1, "--remote-workers", f"tls+tcp://0.0.0.0:{self.port}", *tls(self.pki, "core")) as server:
            slow = self.keep(way(self.hosts[0], self.port))
            slow.tell("delay 100000")
            # Any index does; with one of its own its calls are counted by themselves.
            far = self.keep(worker(f"tls+tcp://{self.hosts[0].near}:{slow.port}", self.pki, "one", host=self.hosts[0], index=1))
            self.assertTrue(eventually(lambda: server.statistics()["workers_up"] == 2, 20), server.text())
            server.generate(**PROMPT, max_tokens=8)
            time.sleep(0.6)  # the core tells its state twice a second
            before = [self.calls(server, index) for index in (0, 1)]
            text = server.generate(**PROMPT, max_tokens=100)["text"]
            self.assertTrue(eventually(lambda: self.calls(server, 0) - before[0] > 700))
            near_calls, far_calls = (self.calls(server, index) - before[index] for index in (0, 1))
            self.assertLess(far_calls, 0.02 * near_calls)  # of 800: counted, so that no clock comes into it
            print(f"    of {near_calls + far_calls} calls {far_calls} were answered by the far worker", flush=True)
            self.assertEqual(text, self.want(max_tokens=100))
            # The near one stands still: the far one computes, and health says why it is slow.
            near = server.pids("thermocline-wor")[0]
            os.kill(near, signal.SIGSTOP)
            try:
                self.assertEqual(server.generate(**PROMPT, max_tokens=3)["text"], self.want(max_tokens=3))
                self.assertTrue(eventually(lambda: "has not answered" in json.dumps(server.get("/api/v1/health")[1]), 5),
                                (server.get("/api/v1/health"), server.text()))
            finally:
                os.kill(near, signal.SIGCONT)
            self.assertEqual(far.stop(), 0)

    def test_who_is_not_let_in(self):
        theirs = certificates(self.folder / "theirs", "127.0.0.1")
        shutil.copy(self.pki / "ca.pem", theirs / "ca.pem")
        with Server(DEMO, 1, "--remote-workers", f"tls+tcp://0.0.0.0:{self.port}", *tls(self.pki, "core")) as server:
            url = f"tls+tcp://127.0.0.1:{self.port}"
            stranger = self.keep(worker(url, theirs, "one"))
            self.assertTrue(stranger.says("TLS: one end does not accept"), stranger.text())
            self.assertTrue(eventually(lambda: "was turned away: 127.0.0.1" in server.text()))
            self.assertEqual(stranger.stop(), 0)
            other = FIXTURES / "next-nf4" / "model"
            self.assertEqual(verb("pack", other).returncode, 0)
            wrong = self.keep(worker(url, self.pki, "one", model=other))
            self.assertEqual(wrong.process.wait(20), 2)
            self.assertRegex(wrong.text(), "turned away by the core: worker serves model [0-9a-f]{32}")
            os.chmod(self.pki / "two.key", 0o644)
            careless = self.keep(worker(url, self.pki, "two"))
            self.assertEqual(careless.process.wait(20), 1)
            self.assertIn("others may use the key", careless.text())
            plain = self.keep(Process(BUILD / "expert-worker" / "thermocline-worker", "--connect", url, "--model", DEMO))
            self.assertEqual(plain.process.wait(20), 2)
            self.assertIn("needs --tls-ca", plain.text())
            self.assertEqual(server.statistics()["workers_up"], 1)

    def test_a_request_is_followed_to_the_worker(self):
        trace, core_trace = self.folder / "worker.json", self.folder / "core.json"
        server = self.keep(Remote(self.port, self.pki, "--trace", core_trace))
        remote = self.keep(worker(f"tls+tcp://{self.hosts[0].near}:{self.port}", self.pki, "one", "--trace", trace,
                                  host=self.hosts[0]))
        self.assertTrue(eventually(lambda: server.ready() and server.statistics()["workers_up"] == 1, 30), server.text())
        status, _ = server.request("POST", "/api/v1/generate", {**PROMPT, "max_tokens": 4}, {"X-Request-Id": "seen-abroad"})
        self.assertEqual(status, 200)
        remote.stop()
        server.stop()

        def spans(path, name):
            lines = (line.rstrip(",\n") for line in path.read_text().splitlines())
            return [span["args"] for span in (json.loads(line) for line in lines if line.startswith("{")) if span["name"] == name]

        mine = {span["step"] for span in spans(core_trace, "step") if "seen-abroad" in span["requests"].split()}
        self.assertEqual(len(mine), 4)
        self.assertEqual({span["step"] for span in spans(trace, "compute")}, mine)


if __name__ == "__main__":
    unittest.main()
