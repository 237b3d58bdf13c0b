# SPDX-License-Identifier: Apache-2.0
"""deploy/kubernetes: every object against the schemas of several Kubernetes releases; names that must agree, agree; every
option is one the program takes; the probes, run as they stand there, tell the truth about real processes."""
import os
import re
import signal
import subprocess
import tempfile
import unittest
from pathlib import Path

import kubernetes_validate
import yaml
from fleet import Process, Remote, certificates, tls, worker
from harness import BUILD, CACHE, DEMO, ROOT, Server, eventually, free_port, verb

BASE = ROOT / "deploy" / "kubernetes"
RELEASES = ("1.28", "1.31", "1.34")


def objects():
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    return [(name, item) for name in kustomization["resources"] for item in yaml.safe_load_all((BASE / name).read_text())]


def of_kind(kind):
    return {item["metadata"]["name"]: item for _, item in objects() if item["kind"] == kind}


def pods():
    return {name: item["spec"]["template"] for kind in ("StatefulSet", "Deployment") for name, item in of_kind(kind).items()}


def containers():
    return {container["name"]: container for pod in pods().values()
            for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]}


class Kubernetes(unittest.TestCase):
    def test_schemas(self):
        for name, item in objects():
            for release in RELEASES:
                with self.subTest(file=name, kind=item["kind"], release=release):
                    kubernetes_validate.validate(item, release, strict=True)
        wrong = of_kind("Deployment")["thermocline-worker"]
        wrong["spec"]["replicaas"] = 3
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, RELEASES[0], strict=True)

    def test_every_file_has_its_place(self):
        listed = set(yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"])
        files = {path.name for path in BASE.glob("*.yaml")}
        self.assertEqual(files - listed, {"kustomization.yaml", "prometheus-adapter.yaml"})

    def test_names_that_must_agree(self):
        labels = {name: pod["metadata"]["labels"] for name, pod in pods().items()}
        for kind in ("StatefulSet", "Deployment"):
            for name, item in of_kind(kind).items():
                self.assertEqual(item["spec"]["selector"]["matchLabels"], labels[name])
        for service in of_kind("Service").values():
            pod = pods()["thermocline-core"]
            self.assertEqual(service["spec"]["selector"], labels["thermocline-core"])
            ports = {port["name"] for container in pod["spec"]["containers"] for port in container.get("ports", [])}
            self.assertTrue({port["targetPort"] for port in service["spec"]["ports"]} <= ports)
        scaler = of_kind("HorizontalPodAutoscaler")["thermocline-worker"]["spec"]
        self.assertIn(scaler["scaleTargetRef"]["name"], of_kind(scaler["scaleTargetRef"]["kind"]))
        self.assertNotIn("replicas", of_kind("Deployment")["thermocline-worker"]["spec"])  # or each apply undoes the scaler
        rule = yaml.safe_load((BASE / "prometheus-adapter.yaml").read_text())["rules"]["custom"][0]
        self.assertEqual(scaler["metrics"][0]["object"]["metric"]["name"], rule["name"]["as"])
        for name, pod in pods().items():
            with self.subTest(name):
                spec = pod["spec"]
                volumes = {volume["name"] for volume in spec["volumes"]}
                claims = of_kind("StatefulSet").get(name, {}).get("spec", {}).get("volumeClaimTemplates", [])
                volumes |= {claim["metadata"]["name"] for claim in claims}
                for container in spec.get("initContainers", []) + spec["containers"]:
                    self.assertTrue({mount["name"] for mount in container["volumeMounts"]} <= volumes)
                    self.assertTrue(container["securityContext"]["readOnlyRootFilesystem"])
                self.assertFalse(spec["enableServiceLinks"])  # THERMOCLINE_PORT would be a setting
        literals = yaml.safe_load((BASE / "kustomization.yaml").read_text())["configMapGenerator"][0]["literals"]
        known = {literal.split("=")[0] for literal in literals}
        for container in containers().values():
            self.assertTrue(set(re.findall(r"\$\((\w+)\)", " ".join(container["command"]))) <= known)

    def test_options_exist(self):
        programs = {"core": BUILD / "gpu-core" / "thermocline-core", "gateway": BUILD / "gateway" / "thermocline-gateway",
                    "worker": BUILD / "expert-worker" / "thermocline-worker"}
        for name, program in programs.items():
            words = containers()[name]["command"]
            self.assertEqual(Path(words[0]).name, program.name)
            known = set(re.findall(r"--[a-z0-9-]+", subprocess.run([program, "--help"], capture_output=True, text=True).stdout))
            with self.subTest(name):
                self.assertTrue({word.split("=")[0] for word in words[1:]} <= known, (words, known))

    @unittest.skipUnless(DEMO.exists(), "demo/model is not there")
    def test_the_scaling_signal_is_there(self):
        rule = yaml.safe_load((BASE / "prometheus-adapter.yaml").read_text())["rules"]["custom"][0]
        metric, stage = re.match(r'(\w+)\{(stage="\w+")', rule["seriesQuery"]).groups()
        with Server(DEMO, 1) as server:
            server.generate("In the beginning", max_tokens=8)
            line = f"{metric}{{{stage}}} "
            self.assertTrue(eventually(lambda: any(text.startswith(line) and float(text[len(line):]) > 0 for text in
                                                   server.get("/metrics")[1].decode().splitlines())))

    def probe(self, container, which, folder):
        """The probe's own command, on our folder, and with a shorter patience."""
        words = containers()[container][which]["exec"]["command"]
        words = [word.replace("/run/probe", str(folder)).replace("-30 seconds", "-3 seconds") for word in words]
        return subprocess.run(words, capture_output=True).returncode == 0

    @unittest.skipUnless(DEMO.exists(), "demo/model is not there")
    def test_probes_tell_the_truth(self):
        folder = Path(tempfile.mkdtemp(dir=CACHE))
        pki = certificates(folder / "pki", "127.0.0.1")
        self.assertEqual(verb("pack", DEMO).returncode, 0)
        for name in ("core", "worker"):
            (folder / name).mkdir()
            self.assertFalse(self.probe(name, "livenessProbe", folder / name))
        port = free_port()
        arena = Path(tempfile.mkdtemp(prefix="tc-e2e-arenas-", dir="/dev/shm"))
        server = Remote(port, pki, "--probe-dir", folder / "core", "--data-plane", "nng")
        try:
            self.assertTrue(eventually(lambda: self.probe("core", "livenessProbe", folder / "core"), 20), server.text())
            self.assertFalse(self.probe("core", "readinessProbe", folder / "core"))  # alive, and nobody to compute
            self.assertNotEqual(server.get("/api/v1/health")[0] if eventually(lambda: self.answers(server)) else 0, 200)
            remote = worker(f"tls+tcp://127.0.0.1:{port}", pki, "one", "--probe-dir", folder / "worker", "--arena-dir",
                            arena / "experts")
            for name in ("core", "worker"):
                self.assertTrue(eventually(lambda: self.probe(name, "readinessProbe", folder / name), 20), remote.text())
                self.assertTrue(self.probe(name, "startupProbe", folder / name))
            self.assertTrue(eventually(server.ready))
            os.kill(remote.process.pid, signal.SIGSTOP)  # it hangs: not alive any more
            self.assertTrue(eventually(lambda: not self.probe("worker", "livenessProbe", folder / "worker"), 10))
            self.assertTrue(eventually(lambda: not self.probe("core", "readinessProbe", folder / "core"), 10))
            self.assertTrue(self.probe("core", "livenessProbe", folder / "core"))  # which is not the core's fault
            os.kill(remote.process.pid, signal.SIGCONT)
            self.assertTrue(eventually(lambda: self.probe("worker", "livenessProbe", folder / "worker"), 10))
            self.assertTrue(eventually(lambda: self.probe("core", "readinessProbe", folder / "core"), 15))
            server.stop()
            self.assertTrue(eventually(lambda: not self.probe("worker", "readinessProbe", folder / "worker"), 10))
            self.assertTrue(self.probe("worker", "livenessProbe", folder / "worker"))  # it waits for a core
            self.assertEqual(remote.stop(), 0)
        finally:
            server.stop()
            subprocess.run(["rm", "-rf", arena])

    @staticmethod
    def answers(server):
        try:
            return server.get("/api/v1/health")[0] != 0
        except OSError:
            return False


if __name__ == "__main__":
    unittest.main()
