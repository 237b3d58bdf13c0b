# SPDX-License-Identifier: Apache-2.0
"""schemathesis against /openapi.json: no answer of 500 and more but those it names, none that the description does not allow, and
no request that breaks the description is taken. Run by ./dev test-api."""
import os
import subprocess
import sys
import unittest
from pathlib import Path

from harness import DEMO, Server

CONFIG = Path(__file__).with_suffix(".toml")
CHECKS = ("not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
          "negative_data_rejection")


@unittest.skipUnless(DEMO.exists(), "demo/model is not there")
class OpenApi(unittest.TestCase):
    def test_description_and_answers_agree(self):
        examples = os.environ.get("TC_EXAMPLES", "10")
        # A short context keeps answers short, whatever a request asks for.
        with Server(DEMO, 1, "--context", "96") as server:
            result = subprocess.run(
                [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(CONFIG), "run", server.url + "/openapi.json", "--max-examples", examples,
                 "--phases", "examples,fuzzing", "--mode", "all", "--seed", "1", "-c", CHECKS, "--workers", "4",
                 "--request-timeout", "60"],
                capture_output=True, text=True, timeout=600)
            self.assertEqual(result.returncode, 0, result.stdout[-6000:] + result.stderr[-2000:])
            self.assertTrue(server.ready())
