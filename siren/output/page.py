"""index.html: a page to look at, with every run below a folder. Nothing of it is on the network.

It has a table of all runs, and their cards, grouped by task and pictures. ``python -m
siren.output.page FOLDER`` writes it too.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import math
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from string import Template

from siren.files import ForeignFile, check_mark, write_bytes
from siren.images import encode_png
from siren.output.drawings import Markup, draw_bars, draw_curves, escape, join, link, tag
from siren.output.runs import Run, find_runs
from siren.text import printable

PAGE = "index.html"
#: By it a page is recognized as this program's; it is within the first 1024 bytes.
GENERATOR = '<meta name="generator" content="siren-jittor">'
MAX_CARDS = 100  # more would make the page slow to write and to open
MAP_PIXELS = 1 << 23  # of all error maps: for the same reason
THUMBNAIL = 40  # CSS pixels per side of a picture in the table,
LARGE = 512  # of the slider,
SMALL = 244  # and of the pictures beside it
NOTHING = "–"

_PAGE, _STYLE, _SCRIPT = (
    (Path(__file__).parent / name).read_text(encoding="utf8")
    for name in ("page.html", "page.css", "page.js")
)

_SLIDER = Markup(
    '<input type="range" min="0" max="100" value="50" hidden autocomplete="off" '
    'aria-label="Border between the output, left, and the reference, right">'
)


def write_page(folder: Path) -> Path:
    """Write the page of all runs in and below ``folder``, and return its path.

    What is missing or damaged in a run is left out. Raises ForeignFile if another page of that name
    is in the way, and OSError if the page cannot be written.
    """
    path = folder / PAGE
    check_mark(path, lambda file: GENERATOR.encode() in file.read(1024))
    write_bytes(path, draw_page(folder, find_runs(folder)))
    return path


def draw_page(folder: Path, runs: list[Run]) -> bytes:
    """The content of the page of ``folder``; ``runs`` are the newest first."""
    groups = _group(runs[:MAX_CARDS])
    ordered = [run for group in groups for run in group]
    identifiers = {run.parts: f"run-{number}" for number, run in enumerate(ordered, 1)}
    with_map = _with_map(runs[:MAX_CARDS])
    rows = [_row(run, identifiers[run.parts]) for run in ordered]
    sections = [
        tag(
            "section",
            tag("h2", group[0].task, tag("small", " ", group[0].image)),
            tag(
                "div",
                *(_card(run, identifiers[run.parts], run.parts in with_map) for run in group),
                class_="cards",
            ),
        )
        for group in groups
    ]
    count, older = len(runs), len(runs) - len(ordered)
    parts = {
        "generator": Markup(GENERATOR),
        # All names in the page are escaped. Should one not be, it still cannot start a script.
        "digest": base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode(),
        "style": Markup(_STYLE),
        "script": Markup(_SCRIPT),
        "name": os.path.basename(os.path.abspath(folder)) or "/",
        "count": "no runs yet" if not runs else "1 run" if count == 1 else f"{count} runs",
        "newest": f", the newest of {_date(runs[0])}" if runs else "",
        "hidden": "" if rows else " hidden",
        "rows": join(rows),
        "sections": join(sections),
        "older": f"{older} older runs are not shown. " if older else "",
    }
    escaped = {name: escape(part) for name, part in parts.items()}
    return Template(_PAGE).substitute(escaped).encode()


def _group(runs: list[Run]) -> list[list[Run]]:
    """Runs of one task and the same pictures belong together; the report recipe is on the left."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault((run.task, run.inputs), []).append(run)
    return [sorted(group, key=lambda run: run.option("recipe")) for group in groups.values()]


def _with_map(runs: list[Run]) -> set[tuple[str, ...]]:
    """``parts`` of the newest runs, whose error maps together take a second or two."""
    chosen, pixels = set(), 0
    for run in runs:
        new = math.prod(run.sizes.get("output.png", (0, 0)))
        if pixels + new <= MAP_PIXELS:
            pixels += new
            chosen.add(run.parts)
    return chosen


# ---- the table ---------------------------------------------------------------------------------


def _row(run: Run, identifier: str) -> Markup:
    square = (THUMBNAIL, THUMBNAIL)
    shown = "output.png" in run.sizes
    thumbnail = _image(run.url("output.png"), "", square, THUMBNAIL) if shown else None
    recipe = run.option("recipe")
    narrow = tag("small", f"{run.task} {recipe}", class_="narrow")
    return tag(
        "tr",
        tag("td", thumbnail, class_="wide thumbnail"),
        tag("th", tag("a", run.image, href=f"#{identifier}"), _badge(run), narrow, scope="row"),
        tag("td", run.task, class_="wide"),
        tag("td", recipe, class_="wide"),
        *(tag("td", text, class_="number") for text in _numbers(run)),
    )


# ---- cards -------------------------------------------------------------------------------------


def _card(run: Run, identifier: str, with_map: bool) -> Markup:
    """The card of ``run``, an article with this id; ``with_map`` if its error is drawn."""
    title = run.option("recipe") or run.task
    folder = join([tag("code", "/".join(run.parts)), " · "]) if run.parts else None
    scored = run.metrics.get("scored")
    return tag(
        "article",
        tag("header", tag("h3", title, _badge(run)), tag("p", folder, _date(run))),
        _scores(run),
        tag("p", f"Scored: {scored}", class_="note") if scored else None,
        tag(
            "div",
            _comparison(run),
            tag("div", _small_pictures(run, with_map), _curves(run), _bars(run)),
            class_="body",
        ),
        _panel(run),
        _details(run),
        _files(run),
        class_="card",
        id=identifier,
    )


def _badge(run: Run) -> Markup | None:
    ended = run.metrics["ended"]
    return None if ended == "finished" else tag("span", ended, class_="badge")


def _scores(run: Run) -> Markup:
    psnr, ssim, seconds, passes = _numbers(run)
    pixels = " × ".join(_setting(run.metrics.get(side)) for side in ("height", "width"))
    facts = [
        ("PSNR", psnr, " dB"),
        ("SSIM", ssim, None),
        ("time", seconds, " s"),
        ("passes", passes, None),
        ("pixels", pixels, None),
    ]
    cells = [(name, join([value, unit and tag("small", unit)])) for name, value, unit in facts]
    return _facts(cells, "scores")


def _facts(facts: Iterable[tuple[str, str]], kind: str) -> Markup:
    """A list of names and values."""
    cells = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts]
    return tag("dl", *cells, class_=kind)


def _comparison(run: Run) -> Markup | None:
    """Output and reference; the script of the page lays them over each other, with a slider."""
    images = {
        name: _picture(run, f"{name}.png", f"{name} of {run.task}", LARGE)
        for name in ("output", "reference")
        if f"{name}.png" in run.sizes
    }
    if not images:
        return None
    sides = [tag("div", image, tag("span", name)) for name, image in images.items()]
    slider = None
    if len(images) == 2 and run.sizes["output.png"] == run.sizes["reference.png"]:
        slider = _SLIDER
    return tag("figure", tag("div", *sides, slider, class_="pair"))


def _small_pictures(run: Run, with_map: bool) -> Markup | None:
    """The error map, the animation, and the pictures that only some tasks have."""
    captions = {
        "masked.png": "The given pixels",
        "training.gif": "The training",
        "gradient.png": "The network’s gradient",
        "laplacian.png": "The network’s Laplacian",
    }
    figures = [_error_map(run) if with_map else None]
    for name, caption in captions.items():
        if name in run.sizes:
            picture, kind = _picture(run, name, caption, SMALL), None
            if name == "training.gif":
                picture, kind = _animation(run, picture), "animation"
            figures.append(tag("figure", picture, tag("figcaption", caption), class_=kind))
    return tag("div", *figures, class_="small") if any(figures) else None


def _animation(run: Run, picture: Markup) -> Markup:
    """``picture``, but its last frame for those who have asked their system for no motion."""
    if "preview.png" not in run.files:
        return picture
    still, calm = run.url("preview.png"), "(prefers-reduced-motion: reduce)"
    return tag("picture", tag("source", srcset=still, media=calm), picture)


def _error_map(run: Run) -> Markup | None:
    drawn = run.error_map()
    if drawn is None:
        return None
    url = f"data:image/png;base64,{base64.b64encode(encode_png(drawn.image)).decode()}"
    alt = "Absolute error of the output"
    picture = _image(url, alt, drawn.image.shape[:2], SMALL, loading=None)
    return tag("figure", picture, tag("figcaption", drawn.caption))


def _curves(run: Run) -> Markup | None:
    legend = " (dashed: validation)" if "validation" in run.curves else ""
    drawings = [
        _figure(run, ("loss", "validation"), f"Loss by pass{legend}", log=True),
        _figure(run, ("psnr",), "PSNR by pass, in dB", log=False),
    ]
    return tag("div", *drawings, class_="curves") if any(drawings) else None


def _figure(run: Run, names: tuple[str, ...], caption: str, log: bool) -> Markup | None:
    curves = {name: run.curves[name] for name in names if name in run.curves}
    if not curves:
        return None
    points = next(iter(curves.values()))
    (start, first), (end, last) = points[0], points[-1]
    words = f"{caption}, from {first:.4g} at {start:.6g} to {last:.4g} at {end:.6g}"
    drawn = draw_curves(curves, words, log)
    return drawn and tag("figure", tag("figcaption", caption), drawn)


def _bars(run: Run) -> Markup | None:
    baselines = run.metrics.get("baselines")
    if not baselines:
        return None
    own = "this network"
    others = {name.replace("_", "-"): scores["psnr"] for name, scores in baselines.items()}
    caption = tag("figcaption", "PSNR, compared with classical methods")
    return tag("figure", caption, draw_bars({own: run.metrics["psnr"], **others}, own))


def _panel(run: Run) -> Markup | None:
    """The panel, which is also the link to itself."""
    if "panel.png" not in run.sizes:
        return None
    alt = "Panel: inputs, training data, output and error, with captions"
    picture = _picture(run, "panel.png", alt, max(run.sizes["panel.png"]))
    return tag("figure", tag("a", picture, href=run.url("panel.png")), class_="panel")


def _details(run: Run) -> Markup:
    metrics = run.metrics
    names = ("points", "loss", "validation", "best_epoch", "best_by", "seconds_first_epoch")
    lists = {
        "Options": metrics["options"],
        "Result": {name: metrics[name] for name in names if name in metrics},
        "Machine": metrics.get("runtime"),
    }
    parts = []
    for heading, content in lists.items():
        if content:
            facts = [(name, _setting(value)) for name, value in content.items()]
            parts += [tag("h4", heading), _facts(facts, "facts")]
    return tag("details", tag("summary", "Options and machine"), *parts)


def _files(run: Run) -> Markup:
    items = [
        tag(
            "li",
            tag("a", name, href=link(*run.parts, name)),
            tag("small", f" {_file_size(status.st_size)}"),
        )
        for name, status in run.files.items()
    ]
    return tag("ul", *items, class_="files", aria_label="Files")


# ---- pictures, numbers and times ---------------------------------------------------------------


def _picture(run: Run, name: str, alt: str, side: int) -> Markup:
    """One of ``run.sizes``, as ``_image``."""
    return _image(run.url(name), alt, run.sizes[name], side)


def _image(url: str, alt: str, size: tuple[int, int], side: int, loading="lazy") -> Markup:
    """A picture of ``size`` (height, width) whose longer side becomes ``side`` CSS pixels."""
    height, width = (max(1, round(length * side / max(size))) for length in size)
    # Enlarged so much, its pixels should be sharp.
    kind = "pixels" if 2 * max(size) <= side else None
    return tag("img", src=url, alt=alt, height=height, width=width, loading=loading, class_=kind)


def _numbers(run: Run) -> list[str]:
    """PSNR, SSIM, seconds and passes, without units."""
    psnr, ssim, seconds = (run.metrics[name] for name in ("psnr", "ssim", "seconds"))
    decimals = 1 if seconds is not None and seconds < 100 else 0
    scores = [_number(psnr, 2), _number(ssim, 3), _number(seconds, decimals)]
    return [*scores, _setting(run.metrics.get("epochs"))]


def _number(value: float | None, decimals: int) -> str:
    if value is None or not value > -math.inf:  # NaN too
        return NOTHING
    return "∞" if value == math.inf else f"{value:.{decimals}f}"


def _setting(value) -> str:
    """The value of an option, or of another fact, as a person would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return " ".join(_setting(item) for item in value if not isinstance(item, list))
    return str(value) if isinstance(value, (str, int)) else NOTHING


def _date(run: Run) -> str:
    """When the run ended, in local time."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(run.modified))


def _file_size(count: int) -> str:
    """A number of bytes in decimal units."""
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def main() -> int:
    """Write the page of the folder that the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m siren.output.page", description=f"Writes FOLDER/{PAGE}, a page of all runs."
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="runs are in or below it")
    folder = parser.parse_args().folder
    try:
        page = write_page(folder)
    except (ForeignFile, OSError) as error:
        failed = isinstance(error, OSError)
        reason = f"{folder} cannot be written ({error.strerror or error})" if failed else error
        print(f"siren.output.page: {printable(str(reason))}", file=sys.stderr)
        return 1 if failed else 2
    print(printable(str(page)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
