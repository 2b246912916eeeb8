"""index.html, the page of all runs."""

import base64
import contextlib
import io
import json
import math
import os
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import pytest
from browser import NAMES, Browser, find_browser
from PIL import Image

from siren.files import ForeignFile
from siren.images import encode_png
from siren.output.page import GENERATOR, MAX_CARDS, Markup, draw_bars, draw_page, fill, write_page
from siren.output.runs import find_runs, link

ROOT = Path(__file__).resolve().parents[2]
RED, BLUE = (1, -1, -1), (-1, -1, 1)
HOSTILE = "a\"b<c>&#%'\n\u202e`?"


def picture(colour=RED, size=(24, 32)):
    return encode_png(np.broadcast_to(np.float32(colour), (*size, 3)))


def animation():
    content = io.BytesIO()
    frames = [Image.new("L", (32, 24), level) for level in (0, 255)]
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:])
    return content.getvalue()


def make_run(folder, options=None, age=0, **changes):
    """A complete run: its output is red, and its reference blue."""
    folder.mkdir(parents=True, exist_ok=True)
    defaults = {"task": "fit", "recipe": "report", "channels": 3, "input_path": "data/camera.png"}
    metrics = {
        "options": {**defaults, **(options or {})},
        "inputs": "0" * 64,
        "height": 24,
        "width": 32,
        "ended": "finished",
        "epochs": 20,
        "psnr": 31.25,
        "ssim": 0.875,
        "seconds": 12.5,
        "baselines": {"thin_plate": {"psnr": 25.5, "ssim": 0.5}, "direct": {"psnr": "inf"}},
        "scored": "all pixels against the image",
        "runtime": {"device_name": "an abacus", "threads": 2},
        **changes,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "output.png").write_bytes(picture(RED))
    for name in ("reference", "panel", "preview", "masked", "history"):
        (folder / f"{name}.png").write_bytes(picture(BLUE))
    (folder / "training.gif").write_bytes(animation())
    rows = [f"{i},{0.5**i},,{20 + i if i % 2 else ''},{i / 10}" for i in range(6)]
    (folder / "history.csv").write_text("\n".join(["epoch,loss,validation,psnr,seconds", *rows]))
    then = time.time() - age
    os.utime(folder / "metrics.json", (then, then))
    return folder


class Page(HTMLParser):
    """The elements and the text of a page; AssertionError if its tags do not match."""

    VOID = ("img", "input", "meta", "source")

    def __init__(self, folder):
        super().__init__()
        self.elements = []  # (name, attributes)
        self.open = []
        self.text = ""
        self.html = (folder / "index.html").read_text(encoding="utf8")
        self.feed(self.html)
        self.close()
        assert not self.open

    def handle_starttag(self, name, attributes):
        assert len(dict(attributes)) == len(attributes)
        self.elements.append((name, dict(attributes)))
        if name not in self.VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data + "\n"

    def all(self, name, key=None):
        found = [attributes for element, attributes in self.elements if element == name]
        return [attributes[key] for attributes in found if key in attributes] if key else found

    def files(self):
        """The paths of the links and pictures, as the file system has them."""
        urls = self.all("a", "href") + self.all("img", "src") + self.all("source", "srcset")
        parts = [urlsplit(url) for url in urls if not url.startswith(("#", "data:"))]
        assert not any(part.scheme or part.netloc or part.fragment for part in parts)
        return [os.fsdecode(unquote_to_bytes(part.path)) for part in parts]


def write(folder):
    assert write_page(folder) == folder / "index.html"
    return Page(folder)


def test_everything_of_a_run_is_on_its_page(tmp_path):
    make_run(tmp_path / "fit")
    page = write(tmp_path)
    for text in ("camera.png", "report", "31.25", "0.875", "12.5", "thin-plate", "25.50 dB"):
        assert text in page.text
    assert "exact" in page.text and "an abacus" in page.text
    assert {os.path.basename(path) for path in page.files()} == set(os.listdir(tmp_path / "fit"))
    assert all((tmp_path / path).is_file() for path in page.files())
    assert len(page.all("svg")) == 3  # bars
    assert [each["type"] for each in page.all("input")] == ["range"]
    assert all("alt" in image for image in page.all("img"))
    assert "http" not in page.html.replace("http-equiv", "").replace("http://www.w3.org/2000", "")


def test_an_empty_folder_has_a_page_and_a_missing_one_none(tmp_path):
    page = write(tmp_path)
    assert "no runs yet" in page.text and not page.all("article")
    make_run(tmp_path / "fit")
    assert len(write(tmp_path).all("article")) == 1
    with pytest.raises(OSError):
        write_page(tmp_path / "missing")


def test_a_page_is_the_same_until_a_run_changes(tmp_path):
    make_run(tmp_path / "fit")
    before = write(tmp_path)
    assert write(tmp_path).html == before.html
    (tmp_path / "fit" / "output.png").write_bytes(picture(RED, (23, 31)))
    outputs = [
        next(url for url in page.all("img", "src") if "output.png" in url)
        for page in (before, write(tmp_path))
    ]
    assert outputs[0] != outputs[1]


FOREIGN = {
    "empty": lambda path: path.write_bytes(b""),
    "page": lambda path: path.write_text("<!DOCTYPE html><title>mine</title>"),
    "far": lambda path: path.write_text(" " * 2000 + GENERATOR),
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "dangling": lambda path: path.symlink_to("nowhere"),
    "link": lambda path: path.symlink_to("ours.html"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_page_stays(tmp_path, kind):
    make_run(tmp_path / "fit")
    write(tmp_path)
    path = tmp_path / "index.html"
    path.rename(tmp_path / "ours.html")
    FOREIGN[kind](path)
    before, names = path.lstat(), sorted(os.listdir(tmp_path))
    with pytest.raises(ForeignFile):
        write_page(tmp_path)
    assert (path.lstat(), sorted(os.listdir(tmp_path))) == (before, names)


def test_which_folders_are_searched(tmp_path):
    for name in (".", "a", "a/b", "a/b/c", "a/b/c/d", ".hidden", "a/.hidden"):
        make_run(tmp_path / name)
    (tmp_path / "link").symlink_to("a")
    found = {str(run.folder.relative_to(tmp_path)) for run in find_runs(tmp_path)}
    assert found == {".", "a", "a/b", "a/b/c"}
    assert len(write(tmp_path).all("article")) == 4


def test_the_newest_is_first_and_both_recipes_are_together(tmp_path):
    make_run(tmp_path / "old", age=300)
    make_run(tmp_path / "other", {"input_path": "data/coffee.jpg"}, age=200)
    make_run(tmp_path / "new", {"recipe": "tuned"}, age=100)
    make_run(tmp_path / "edit", {"task": "edit", "ot_image_path": "data/rocket.jpg"}, age=400)
    page = write(tmp_path)
    outputs = [url for url in page.all("a", "href") if url.endswith("/output.png")]
    assert [os.path.dirname(url) for url in outputs] == ["old", "new", "other", "edit"]
    classes = [attributes.get("class") for _, attributes in page.elements]
    assert classes.count("cards") == 3
    assert "camera.png + rocket.jpg" in page.text


def test_a_thousand_runs_do_not_make_a_heavy_page(tmp_path):
    for number in range(MAX_CARDS + 5):
        folder = tmp_path / str(number)
        folder.mkdir()
        metrics = {"options": {}, "inputs": "", "ended": "finished", "psnr": 1, "ssim": 1}
        (folder / "metrics.json").write_text(json.dumps({**metrics, "seconds": 1}))
    page = write(tmp_path)
    assert len(page.all("article")) == MAX_CARDS
    assert f"{MAX_CARDS + 5} runs" in page.text and "5 older runs" in page.text


def test_runs_that_vanish_or_change_meanwhile(tmp_path):
    make_run(tmp_path / "fit")
    runs = find_runs(tmp_path)
    assert "output.png" in runs[0].files  # known, and then not there
    shutil.rmtree(tmp_path / "fit")
    (tmp_path / "index.html").write_bytes(draw_page(tmp_path, runs))
    assert len(Page(tmp_path).all("article")) == 1


@pytest.mark.parametrize("name", [HOSTILE, "]]><script>x", os.fsdecode(b"\xff\xfe"), "a..", "über"])
def test_hostile_names_are_text(tmp_path, name):
    folder = make_run(
        tmp_path / name.replace("/", "_") / "fit",
        {"task": HOSTILE, "recipe": HOSTILE, HOSTILE: HOSTILE, "input_path": f"/{HOSTILE}"},
        ended=HOSTILE,
        scored=HOSTILE,
        baselines={HOSTILE: {"psnr": 3}, "\ud800": {"psnr": None}},
        runtime={HOSTILE: [HOSTILE, None, True]},
    )
    page = write(tmp_path)
    assert len(page.all("script")) == len(page.all("style")) == len(page.all("article")) == 1
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert not page.all("c") and "\u202e" not in page.html
    assert page.text.count("a\"b<c>&#%'\\n\\u202e`?") > 10
    paths = {(tmp_path / path).resolve() for path in page.files()}
    assert paths == set(folder.resolve().iterdir())


def test_what_is_not_markup_is_escaped():
    parts = {"title": '"&', "parts": ["<b>", Markup("<i></i>"), None, 1], "none": None}
    filled = fill('<p title="$title">$parts$none</p>', **parts)
    assert filled == '<p title="&quot;&amp;">&lt;b&gt;<i></i>1</p>'
    assert link("a b", os.fsdecode(b"\xff?"), "x:y") == "a%20b/%FF%3F/x%3Ay"


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"\0\xff,\n\"'<b>" * 9),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "dangling": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "loop": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "vast": lambda path: os.truncate(path, 1 << 40),
    "huge picture": lambda path: path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\x7f\xff\xff\xff" * 2 + b"\x08\0\0\0\0"
    ),
}
RUN_FILES = ("metrics.json", "history.png", "output.png", "panel.png", "training.gif")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", RUN_FILES)
def test_damaged_runs(tmp_path, name, damage):
    make_run(tmp_path / "good")
    DAMAGE[damage](make_run(tmp_path / "bad", age=9) / name)
    page = write(tmp_path)
    assert len(page.all("article")) == (1 if name == "metrics.json" else 2)
    if name == "panel.png" and damage not in ("half", "vast"):  # whose headers are good
        assert not any(url.startswith("bad/panel.png?") for url in page.all("img", "src"))


ODD = (None, True, -1, math.nan, math.inf, 1e300, 10**400, "", "x", "1" * 500, [], [[1]], {"a": {}})


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:9])
def test_metrics_may_hold_anything(tmp_path, value):
    """A run whose metrics.json is not as a run writes it is left out, and no other one."""
    options = dict.fromkeys(("task", "recipe", "channels", "input_path", "mask_path"), value)
    make_run(tmp_path / "options", options)
    facts = dict.fromkeys(("points", "loss", "best_epoch", "files"), value)
    make_run(tmp_path / "facts", runtime={"threads": value}, **facts)
    for name in ("psnr", "ssim", "seconds", "height", "width", "epochs", "baselines", "scored"):
        make_run(tmp_path / name, **{name: value})
    make_run(tmp_path / "baseline", baselines={"b": {"psnr": value}})
    make_run(tmp_path / "runtime", runtime=value)
    deep = "[" * 900 + "]" * 900
    metrics = (make_run(tmp_path / "deep") / "metrics.json").read_text()
    (tmp_path / "deep" / "metrics.json").write_text(metrics.replace('"an abacus"', deep))
    folders = {os.path.dirname(path) for path in write(tmp_path).files()}
    assert folders >= {"options", "facts", "deep"}


@pytest.mark.parametrize(
    "score, words",
    [(None, "n/a"), (math.nan, "n/a"), (-math.inf, "n/a"), (-3.0, "-3.00 dB"), (57.618, "57.62 dB"),
     (140.9, "exact"), (1e300, "exact"), (math.inf, "exact")],
)  # fmt: skip
def test_bars_of_any_score(score, words):
    drawn = draw_bars({"mine": 50.0, "theirs": score, "half": 25.0}, "mine")
    assert drawn.split('class="number">')[2].startswith(f"{words}<")
    widths = [float(part.split("%")[0]) for part in drawn.split('width="')[1:]]
    assert widths[2] / widths[0] == pytest.approx(0.5, abs=0.01)
    assert all(0 <= width <= 100 for width in widths)
    assert widths[1] == 100 or words != "exact"


def test_sizes_are_read_from_headers(tmp_path):
    (make_run(tmp_path) / "output.png").write_bytes(picture()[:23])
    sizes = find_runs(tmp_path)[0].sizes
    assert "output.png" not in sizes and "network.npz" not in sizes
    assert sizes["training.gif"] == sizes["panel.png"] == (24, 32)


def command(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_the_command(tmp_path):
    make_run(tmp_path / "fit")
    done = command("-m", "siren.output.page", tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'index.html'}\n"), done.stderr
    (tmp_path / "index.html").write_text("mine")
    done = command("-m", "siren.output.page", tmp_path)
    assert done.returncode == 2 and "move it" in done.stderr
    done = command("-m", "siren.output.page", tmp_path / "missing")
    assert done.returncode == 1 and "No such file" in done.stderr


def test_it_does_not_start_jittor():
    done = command("-c", "import siren.output.page, sys; assert 'jittor' not in sys.modules")
    assert done.returncode == 0, done.stderr


# ---- in a browser ------------------------------------------------------------------------------

ABOUT_RED, ABOUT_BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_browser()
    if program is None:
        pytest.skip(f"needs a browser: one of {', '.join(NAMES)}")
    probe = tmp_path_factory.mktemp("probe") / "probe.html"
    probe.write_text("<title>found</title>")
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(Browser(program))
        except (AssertionError, OSError) as error:
            pytest.skip(f"{program} does not start here: {error}")
        running.goto(probe.as_uri())
        if running.evaluate("document.title") != "found":
            pytest.skip(f"{program} may not read temporary files (is it a snap?)")
        yield running


@pytest.fixture
def opened(browser, tmp_path):
    """A browser that shows the page of a report and a tuned run, below a hostile folder."""
    for recipe in ("report", "tuned"):
        make_run(tmp_path / HOSTILE / recipe, {"recipe": recipe, "input_path": HOSTILE * 9})
    write(tmp_path)
    browser.prefer("", prefers_color_scheme="light")
    browser.resize(1200, 900)
    browser.goto((tmp_path / "index.html").as_uri())
    yield browser
    urls = [event["request"]["url"] for event in browser.named("Network.requestWillBeSent")]
    assert {url.split(":")[0] for url in urls} == {"file", "data"}
    for event in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
        assert not browser.named(event)
    assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def colours(browser, *shares):
    """The colours of the first comparison at these shares of its width, near its lower edge."""
    browser.evaluate("document.querySelector('.pair').scrollIntoView({block: 'center'})")
    box = browser.evaluate("document.querySelector('.pair').getBoundingClientRect().toJSON()")
    shot = browser.screenshot()
    y = round(box["bottom"] - 8)
    return [shot.getpixel((round(box["left"] + share * box["width"]), y)) for share in shares]


def test_the_slider(opened):
    assert colours(opened, 0.05, 0.48, 0.52, 0.95) == [ABOUT_RED] * 2 + [ABOUT_BLUE] * 2
    opened.evaluate("document.querySelector('.pair input').focus()")
    for _ in range(10):
        opened.press("ArrowLeft", 37)
    assert opened.evaluate("document.querySelector('.pair input').value") == "40"
    assert colours(opened, 0.37, 0.43) == [ABOUT_RED, ABOUT_BLUE]
    opened.press("Home", 36)
    assert colours(opened, 0.05, 0.95) == [ABOUT_BLUE] * 2
    opened.evaluate(
        "{const s = document.querySelector('.pair input'); s.value = 75;"
        " s.dispatchEvent(new Event('input'))}"
    )
    assert colours(opened, 0.72, 0.78) == [ABOUT_RED, ABOUT_BLUE]
    text = "document.querySelector('.pair input').getAttribute('aria-valuetext')"
    assert opened.evaluate(text) == "75 % output"


def test_the_slider_follows_the_mouse(opened):
    opened.evaluate("document.querySelector('.pair').scrollIntoView({block: 'center'})")
    box = opened.evaluate("document.querySelector('.pair').getBoundingClientRect().toJSON()")
    place = {"x": box["left"] + box["width"] / 4, "y": box["bottom"] - 30, "button": "left"}
    for kind in ("mousePressed", "mouseReleased"):
        opened.call("Input.dispatchMouseEvent", type=kind, clickCount=1, **place)
    assert opened.evaluate("document.querySelector('.pair input').value") == "25"
    assert colours(opened, 0.22, 0.28) == [ABOUT_RED, ABOUT_BLUE]


def test_focus_is_visible(opened):
    before = opened.screenshot()
    opened.press("Tab", 9)
    opened.press("Tab", 9)
    assert opened.evaluate("document.activeElement.tagName") == "A"
    assert opened.screenshot() != before


def test_dark_and_light(opened):
    assert min(opened.screenshot().getpixel((3, 3))) > 230
    opened.prefer("", prefers_color_scheme="dark")
    shot = opened.screenshot()
    assert max(shot.getpixel((3, 3))) < 40
    assert max(high for _, high in shot.getextrema()) > 200  # the text


@pytest.mark.parametrize("width", [320, 390, 800, 1200, 2000])
def test_it_never_scrolls_sideways(opened, width):
    opened.resize(width, 800)
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    beside = "new Set([...document.querySelectorAll('.card')].map(c => c.offsetTop)).size == 1"
    assert opened.evaluate(beside) == (width > 1050)


def test_on_paper_both_pictures_are_side_by_side(opened):
    opened.prefer("print")
    assert colours(opened, 0.1, 0.4, 0.6, 0.9) == [ABOUT_RED] * 2 + [ABOUT_BLUE] * 2
    assert opened.evaluate("document.querySelector('.pair input').offsetWidth") == 0
    content = base64.b64decode(opened.call("Page.printToPDF", printBackground=True)["data"])
    assert content.startswith(b"%PDF") and len(content) > 10_000
    assert not opened.evaluate("document.querySelector('details').open")
