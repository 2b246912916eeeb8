"""The page: a table of all runs, and their cards, grouped by task and pictures."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

from siren.output.page.card import draw_card
from siren.output.page.markup import Markup, join, tag
from siren.output.page.pictures import draw_thumbnail
from siren.output.page.runs import MAX_TEXT, Run
from siren.output.page.wording import date, number, seconds

#: By it a page is recognised as this program's; it is within the first 1024 bytes.
GENERATOR = '<meta name="generator" content="siren-jittor">'
MAX_CARDS = 100  # more would make the page slow to write and to open
MAP_PIXELS = 1 << 23  # of all error maps: for the same reason
THUMBNAIL = 40  # CSS pixels per side

_STYLE, _SCRIPT = (
    Markup((Path(__file__).parent / name).read_text(encoding="utf8"))
    for name in ("page.css", "page.js")
)


def draw_page(folder: Path, runs: list[Run]) -> bytes:
    """The content of the page of ``folder``; ``runs`` are the newest first."""
    shown = runs[:MAX_CARDS]
    groups = _group(shown)
    identifiers = {id(run): f"run-{i}" for i, run in enumerate(_members(groups), 1)}
    with_map = _with_map(shown)
    name = os.path.basename(os.path.abspath(folder)) or "/"
    body = [
        _header(name, runs),
        tag(
            "main",
            _table(groups, identifiers),
            *(_section(group, identifiers, with_map) for group in groups),
        ),
        tag("footer", tag("p", _explanation(len(runs)))),
        tag("script", _SCRIPT),
    ]
    page = tag("html", _head(name), Markup("\n"), tag("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{page}\n".encode()


def _head(name: str) -> Markup:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        Markup(GENERATOR),
        # All names in the page are escaped. Should one not be, it still cannot start a script.
        tag("meta", http_equiv="Content-Security-Policy", content=_policy()),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{name} · siren-jittor"),
        tag("style", _STYLE),
    )


def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    nothing = "object-src 'none'; base-uri 'none'; form-action 'none'; connect-src 'none'"
    return f"script-src 'sha256-{digest}'; {nothing}"


def _group(runs: list[Run]) -> list[list[Run]]:
    """Runs of one task and the same pictures belong together; the report recipe is on the left."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault((run.task, run.inputs), []).append(run)
    return [sorted(group, key=lambda run: run.option("recipe")) for group in groups.values()]


def _with_map(runs: list[Run]) -> set:
    """The newest runs, whose error maps together take a second or two."""
    chosen, pixels = set(), 0
    for run in runs:
        size = run.sizes.get("output.png", (0, 0))
        if pixels + size[0] * size[1] <= MAP_PIXELS:
            pixels += size[0] * size[1]
            chosen.add(id(run))
    return chosen


def _members(groups: list[list[Run]]) -> list[Run]:
    return [run for group in groups for run in group]


def _header(name: str, runs: list[Run]) -> Markup:
    count = "no runs yet" if not runs else "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    newest = f", the newest of {date(runs[0])}" if runs else None
    return tag(
        "header",
        tag("h1", "siren-jittor"),
        tag("p", "Sine networks trained on images", class_="tagline"),
        tag("p", count, " in ", tag("code", name), newest),
        class_="top",
    )


def _table(groups: list[list[Run]], identifiers: dict) -> Markup | None:
    if not groups:
        return None
    classes = {"image": None, "task": "wide", "recipe": "wide"}
    classes.update(dict.fromkeys(("PSNR", "SSIM", "seconds", "passes"), "number"))
    head = [tag("th", name, scope="col", class_=kind) for name, kind in classes.items()]
    rows = [_row(run, identifiers[id(run)]) for run in _members(groups)]
    table = tag(
        "table", tag("thead", tag("tr", tag("td", class_="wide"), *head)), tag("tbody", *rows)
    )
    region = tag("div", table, class_="scroll", role="region", aria_labelledby="all", tabindex="0")
    return tag("section", tag("h2", "All runs", id="all"), region, class_="summary")


def _row(run: Run, identifier: str) -> Markup:
    psnr, ssim = number(run.metrics["psnr"], 2), number(run.metrics["ssim"], 3)
    numbers = (psnr, ssim, seconds(run), number(run.metrics.get("epochs"), 0))
    ended = run.metrics["ended"]
    state = None if ended == "finished" else tag("span", ended[:MAX_TEXT], class_="badge")
    recipe = run.option("recipe")
    narrow = tag("small", f"{run.task} {recipe}", class_="narrow")
    return tag(
        "tr",
        tag("td", draw_thumbnail(run, THUMBNAIL), class_="wide thumbnail"),
        tag("th", tag("a", run.image, href=f"#{identifier}"), state, narrow, scope="row"),
        tag("td", run.task, class_="wide"),
        tag("td", recipe, class_="wide"),
        *(tag("td", text, class_="number") for text in numbers),
    )


def _section(group: list[Run], identifiers: dict, with_map: set) -> Markup:
    run = group[0]
    heading = tag("h2", run.task, tag("small", join([" ", run.image])))
    cards = (draw_card(run, identifiers[id(run)], id(run) in with_map) for run in group)
    return tag("section", heading, tag("div", *cards, class_="cards"))


def _explanation(count: int) -> str:
    older = f"{count - MAX_CARDS} older runs are not shown. " if count > MAX_CARDS else ""
    return (
        f"{older}Pixels are in [-1, 1], so the peak of PSNR is 2. Error maps are of the saved "
        "pictures. Every run rewrites this page."
    )
