# SPDX-License-Identifier: Apache-2.0
"""The page at / in headless Chromium, driven by keyboard through its debugging port: a chat that streams and stops, tool calls,
live state, light and dark, and not one console message or blocked resource. Pictures go to $TC_PAGE_PICTURES where that is set."""
import asyncio
import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import websockets
from harness import DEMO, Server

CHROMIUM = shutil.which("chromium")


class Browser:
    """One tab. Events that tell of trouble are gathered in `complaints`."""

    def __init__(self, ws):
        self.ws, self.next, self.waiting, self.complaints = ws, 0, {}, []
        self.reader = asyncio.create_task(self.read())

    async def read(self):
        async for text in self.ws:
            message = json.loads(text)
            if "id" in message:
                self.waiting.pop(message["id"]).set_result(message)
            elif message["method"] in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Audits.issueAdded"):
                self.complaints.append(json.dumps(message["params"])[:600])

    async def call(self, method, **params):
        self.next += 1
        answer = self.waiting[self.next] = asyncio.get_running_loop().create_future()
        await self.ws.send(json.dumps({"id": self.next, "method": method, "params": params}))
        result = await asyncio.wait_for(answer, 30)
        assert "error" not in result, result
        return result["result"]

    async def value(self, expression):
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression, seconds=30):
        for _ in range(seconds * 20):
            if await self.value(expression):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never: {expression}; {self.complaints}; {await self.value('document.body.innerText')}")

    async def type(self, text):
        await self.call("Input.insertText", text=text)

    async def key(self, key, code, modifiers=0):
        text = {"Enter": "\r", "Tab": ""}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, modifiers=modifiers,
                            **({"text": text} if kind == "keyDown" and text else {}))

    async def picture(self, name):
        shot = await self.call("Page.captureScreenshot", format="png")
        if os.environ.get("TC_PAGE_PICTURES"):
            folder = Path(os.environ["TC_PAGE_PICTURES"])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(base64.b64decode(shot["data"]))
        return shot["data"]


@unittest.skipUnless(DEMO.exists(), "demo/model is not there")
@unittest.skipUnless(CHROMIUM, "chromium is not there: ./dev test-page installs it")
class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(DEMO, 2, "--hot-budget", "4M")  # so that there is a map of layers
        cls.profile = tempfile.TemporaryDirectory(prefix="thermocline-page-")
        # No host but this machine's loopback can be found: whatever the page wanted from elsewhere would fail.
        cls.process = subprocess.Popen(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run",
             "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
             "--window-size=1280,860", f"--user-data-dir={cls.profile.name}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        cls.port = None
        for line in cls.process.stderr:
            if found := re.search(r"ws://127\.0\.0\.1:(\d+)/", line):
                cls.port = int(found[1])
                break

    @classmethod
    def tearDownClass(cls):
        cls.process.kill()
        cls.process.wait()
        cls.process.stderr.close()
        cls.server.stop()
        shutil.rmtree(cls.profile.name, ignore_errors=True)

    def browse(self, work):
        async def run():
            import urllib.request
            with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{self.port}/json/new?about:blank", method="PUT")) as answer:
                target = json.load(answer)["webSocketDebuggerUrl"]
            async with websockets.connect(target, max_size=64 << 20) as ws:
                browser = Browser(ws)
                for domain in ("Page", "Runtime", "Log", "Audits"):
                    await browser.call(domain + ".enable")
                await browser.call("Page.navigate", url=self.server.url + "/")
                await browser.until("document.getElementById('state-text')?.textContent === 'ready'")
                await work(browser)
                self.assertEqual(browser.complaints, [])
                browser.reader.cancel()

        asyncio.run(run())

    def test_chat_by_keyboard(self):
        async def work(b):
            self.assertEqual(await b.value("document.activeElement.id"), "prompt")
            await b.value("document.getElementById('max-tokens').value = '24'")
            await b.type("Tell me of the sea.")
            await b.key("Enter", 13)
            await b.until("document.querySelectorAll('article').length === 2 && document.getElementById('stop').disabled")
            self.assertTrue(await b.value("document.querySelector('article.assistant .text').textContent"))
            self.assertIn("a second", await b.value("document.getElementById('rate').textContent"))
            await b.until("document.getElementById('generated').textContent !== '–'")
            await b.value("document.getElementById('max-tokens').value = '3000'")
            await b.type("On and on.")
            await b.key("Enter", 13)
            await b.until("document.querySelectorAll('article.assistant')[1]?.innerText.length > 40")
            await b.until("Number(document.getElementById('tokens').textContent) > 0")
            await b.until("document.getElementById('running').textContent === '1'")
            await b.until("document.getElementById('heat').children.length === 8")
            await b.picture("light.png")
            await b.key("Escape", 27)
            await b.until("document.getElementById('stop').disabled")
            self.assertIn("stopped", await b.value("document.querySelectorAll('article.assistant')[1].innerText"))
            await b.until("document.getElementById('running').textContent === '0'")  # and the core has stopped too
            seen = []
            for _ in range(8):
                await b.key("Tab", 9)
                seen.append(await b.value("document.activeElement.id"))
            self.assertTrue({"send", "clear"} <= set(seen), seen)

        self.browse(work)

    def test_reasoning_and_calls_in_the_dark(self):
        tool = [{"type": "function", "function": {"name": "weather", "parameters": {
            "type": "object", "properties": {"city": {"type": "string", "enum": ["Rome"]}}, "required": ["city"], "additionalProperties": False}}}]
        regex = ('because[.]\\n</think>\\n\\n<b>Yes</b>[.]\\n<tool_call>\\n\\{"name": "weather", "arguments": \\{"city": "Rome"\\}\\}\\n</tool_call>')

        async def work(b):
            await b.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
            await b.value(f"document.getElementById('tools').value = {json.dumps(json.dumps(tool))}")
            # The model would not think or call by itself: what is asked for is bent on its way out.
            await b.value("{ const real = window.fetch; window.fetch = (path, o) => { if (o?.body) o.body = JSON.stringify({...JSON.parse(o.body), "
                          f"regex: {json.dumps(regex)}, chat_template_kwargs: {{enable_thinking: true}}}}); return real(path, o); }}; }}")
            await b.type("<img src=x onerror=alert(1)> weather?")
            await b.key("Enter", 13)
            await b.until("document.querySelector('.call input') !== null")
            self.assertEqual(await b.value("document.querySelector('article.assistant > .text').textContent"), "<b>Yes</b>.")
            self.assertEqual(await b.value("document.querySelector('.reasoning .text').textContent"), "because.")
            self.assertEqual(json.loads(await b.value("document.querySelector('.call pre').textContent")), {"city": "Rome"})
            self.assertEqual(await b.value("document.querySelectorAll('article img, article b').length"), 0)
            dark = await b.value("getComputedStyle(document.body).backgroundColor")
            await b.picture("dark.png")
            await b.value("document.getElementById('theme').click()")
            self.assertNotEqual(await b.value("getComputedStyle(document.body).backgroundColor"), dark)
            await b.value("document.querySelector('.call input').focus()")
            await b.type("rain")
            await b.key("Enter", 13)
            await b.until("document.querySelectorAll('article.assistant').length === 2")
            await b.call("Emulation.setDeviceMetricsOverride", width=390, height=780, deviceScaleFactor=1, mobile=True)
            self.assertLessEqual(await b.value("document.documentElement.scrollWidth"), 390)
            await b.picture("narrow.png")

        self.browse(work)
