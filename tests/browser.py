"""A headless Chromium, driven by its DevTools protocol through a pair of pipes.

https://chromedevtools.github.io/devtools-protocol: messages are JSON, and a zero byte ends each.
"""

import base64
import contextlib
import io
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile

from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT = 30  # seconds
FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
)


def find_browser():
    """The path of a Chromium; None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A Chromium with one page; a context manager."""

    def __init__(self, program):
        self.program = program
        self.count = 0
        self.events = []  # of the page, in their order
        self.buffer = b""
        self.session = None

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            home = tempfile.mkdtemp()
            stack.callback(shutil.rmtree, home, ignore_errors=True)
            self._start(home)
            stack.callback(self._end)
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
            self.session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def _start(self, home):
        theirs_in, self.writing = os.pipe()
        self.reading, theirs_out = os.pipe()
        rooted = ["--no-sandbox"] if os.geteuid() == 0 else []
        arguments = [self.program, *FLAGS, *rooted, f"--user-data-dir={home}", "about:blank"]
        # Chromium reads 3 and writes 4. The higher end is used last, so it cannot be 3.
        redirected = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *arguments]
        self.process = subprocess.Popen(
            redirected,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs_in, theirs_out),
            start_new_session=True,
            env={**os.environ, "HOME": home},
        )
        os.close(theirs_in)
        os.close(theirs_out)

    def _end(self):
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.reading)
        os.close(self.writing)

    def call(self, method, **parameters):
        """The result of a command; AssertionError if Chromium refuses it."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def named(self, event):
        """What the events of this name said."""
        return [each["params"] for each in self.events if each["method"] == event]

    def _receive(self):
        """The next message. Events are kept too."""
        while b"\0" not in self.buffer:
            assert select.select([self.reading], [], [], TIMEOUT)[0], "no answer"
            part = os.read(self.reading, 1 << 20)
            assert part, "Chromium has ended"
            self.buffer += part
        content, self.buffer = self.buffer.split(b"\0", 1)
        message = json.loads(content)
        if "method" in message:
            self.events.append(message)
        return message

    def goto(self, url):
        """Open a page, and wait until all of its pictures are there."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not self.named("Page.loadEventFired"):
            self._receive()
        self.evaluate(
            "Promise.all([...document.images].map(i => { i.loading = 'eager';"
            " return i.decode().catch(() => 0) }))"
        )

    def evaluate(self, expression):
        """The value of a JavaScript expression, or what its promise brings, as JSON has it."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def resize(self, width, height, scale=1):
        """Give the window this size in CSS pixels; ``scale`` device pixels are one of them."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )

    def prefer(self, media="", **features):
        """Emulate a medium, "screen" or "print", and features such as ``prefers_color_scheme``."""
        pairs = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.call("Emulation.setEmulatedMedia", media=media, features=pairs)

    def press(self, key, code):
        """Press and release a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    def screenshot(self, whole=False):
        """What the window shows, or the ``whole`` page, as an RGB picture."""
        content = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        return Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")
