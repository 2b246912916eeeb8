"""index.html: a page to look at, with every run below a folder. Nothing of it is on the network.

It has a table of all runs, and their cards, grouped by task and pictures. ``python -m
siren.output.page FOLDER`` writes it too.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import os
import sys
import time
from pathlib import Path
from string import Template

from siren.files import ForeignFile, check_mark, write_bytes
from siren.output.runs import Run, find_runs, link
from siren.text import decibels, printable

PAGE = "index.html"
#: By it a page is recognized as this program's; it is within the first 1024 bytes.
GENERATOR = '<meta name="generator" content="siren-jittor">'
MAX_CARDS = 100  # more would make the page slow to write and to open
THUMBNAIL = 40  # CSS pixels per side of a picture in the table,
LARGE = 512  # of the slider,
SMALL = 244  # and of the pictures beside it
EXACT = 100  # dB; from here on, two pictures differ by rounding errors only
NOTHING = "–"

_PAGE, _CARD, _STYLE, _SCRIPT = (
    (Path(__file__).parent / name).read_text(encoding="utf8")
    for name in ("page.html", "card.html", "page.css", "page.js")
)


class Markup(str):
    """Text that is HTML already."""


def fill(template: str, **parts) -> Markup:
    """``template`` with each $name in it replaced: what is not ``Markup`` is text, and escaped."""
    return Markup(Template(template).substitute({n: _escape(part) for n, part in parts.items()}))


def _escape(part) -> str:
    """``part`` as HTML; a list is that of its parts, and None is nothing."""
    if part is None or isinstance(part, Markup):
        return part or ""
    if isinstance(part, list):
        return "".join(map(_escape, part))
    return html.escape(printable(str(part)))


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
    total, older = len(runs), max(0, len(runs) - MAX_CARDS)
    groups = _group(runs[:MAX_CARDS])
    page = fill(
        _PAGE,
        generator=Markup(GENERATOR),
        # All names in the page are escaped. Should one not be, it still cannot start a script.
        digest=base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode(),
        style=Markup(_STYLE),
        script=Markup(_SCRIPT),
        name=os.path.basename(os.path.abspath(folder)) or "/",
        count="no runs yet" if not runs else "1 run" if total == 1 else f"{total} runs",
        newest=f", the newest of {_date(runs[0])}" if runs else "",
        hidden="" if runs else " hidden",
        rows=[_row(run) for group in groups for run in group],
        sections=list(map(_section, groups)),
        older=f"{older} older runs are not shown. " if older else "",
    )
    return page.encode()


def _group(runs: list[Run]) -> list[list[Run]]:
    """Runs of one task and the same pictures belong together; the report recipe is on the left."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault((run.task, run.inputs), []).append(run)
    return [sorted(group, key=lambda run: run.option("recipe")) for group in groups.values()]


def _section(group: list[Run]) -> Markup:
    return fill(
        '<section><h2>$task<small> $image</small></h2><div class="cards">$cards</div></section>',
        task=group[0].task,
        image=group[0].image,
        cards=list(map(_card, group)),
    )


def _row(run: Run) -> Markup:
    return fill(
        '<tr><td class="wide thumbnail">$thumbnail</td><th scope="row">'
        '<a href="#$identifier">$image</a>$badge<small class="narrow">$task $recipe</small></th>'
        '<td class="wide">$task</td><td class="wide">$recipe</td>$numbers</tr>',
        thumbnail=_picture(run, "output.png", "", THUMBNAIL, (THUMBNAIL, THUMBNAIL)),
        identifier=link("run", *run.parts),
        image=run.image,
        badge=_badge(run),
        task=run.task,
        recipe=run.option("recipe"),
        numbers=[fill('<td class="number">$text</td>', text=text) for text in _numbers(run)],
    )


# ---- cards -------------------------------------------------------------------------------------


def _card(run: Run) -> Markup:
    folder, scored = "/".join(run.parts), run.metrics.get("scored")
    return fill(
        _CARD,
        identifier=link("run", *run.parts),
        title=run.option("recipe") or run.task,
        badge=_badge(run),
        folder=fill("<code>$folder</code> · ", folder=folder) if folder else None,
        date=_date(run),
        scores=_scores(run),
        scored=fill('<p class="note">Scored: $scored</p>', scored=scored) if scored else None,
        comparison=_comparison(run),
        pictures=_small_pictures(run),
        history=_linked(run, "history.png", "Loss and PSNR by pass, as curves"),
        bars=_bars(run),
        panel=_linked(run, "panel.png", "Inputs, training data, output and error"),
        details=_details(run),
        files=[
            fill(
                '<li><a href="$url">$name</a><small> $size</small></li>',
                url=link(*run.parts, name),
                name=name,
                size=_file_size(status.st_size),
            )
            for name, status in run.files.items()
        ],
    )


def _badge(run: Run) -> Markup | None:
    """How ``run`` ended, if it did not finish."""
    ended = run.metrics["ended"]
    return None if ended == "finished" else fill('<span class="badge">$ended</span>', ended=ended)


def _scores(run: Run) -> list[Markup]:
    psnr, ssim, seconds, passes = _numbers(run)
    decibel, second = Markup("<small> dB</small>"), Markup("<small> s</small>")
    pixels = " × ".join(_setting(run.metrics.get(side)) for side in ("height", "width"))
    facts = {"PSNR": [psnr, decibel], "SSIM": ssim, "time": [seconds, second]}
    return _facts({**facts, "passes": passes, "pixels": pixels})


def _facts(facts: dict) -> list[Markup]:
    cell = "<div><dt>$name</dt><dd>$value</dd></div>"
    return [fill(cell, name=name, value=value) for name, value in facts.items()]


def _comparison(run: Run) -> Markup | None:
    """Output and reference; the script of the page lays them over each other, with a slider."""
    sides = [
        fill(
            "<div>$picture<span>$name</span></div>",
            picture=_picture(run, f"{name}.png", f"{name} of {run.task}", LARGE),
            name=name,
        )
        for name in ("output", "reference")
        if f"{name}.png" in run.sizes
    ]
    if not sides:
        return None
    slider = Markup(
        '<input type="range" min="0" max="100" value="50" hidden autocomplete="off" '
        'aria-label="Border between the output, left, and the reference, right">'
    )
    if len(sides) < 2 or run.sizes["output.png"] != run.sizes["reference.png"]:
        slider = None
    figure = '<figure><div class="pair">$sides$slider</div></figure>'
    return fill(figure, sides=sides, slider=slider)


def _small_pictures(run: Run) -> Markup | None:
    """The animation, and the pictures that only some tasks have."""
    captions = {
        "masked.png": "The given pixels",
        "training.gif": "The training",
        "gradient.png": "The network’s gradient",
        "laplacian.png": "The network’s Laplacian",
    }
    figures = []
    for name, caption in captions.items():
        if name in run.sizes:
            picture, kind = _picture(run, name, caption, SMALL), ""
            if name == "training.gif":
                picture, kind = _animation(run, picture), "animation"
            figure = '<figure class="$kind">$picture<figcaption>$caption</figcaption></figure>'
            figures.append(fill(figure, kind=kind, picture=picture, caption=caption))
    return fill('<div class="small">$figures</div>', figures=figures) if figures else None


def _animation(run: Run, picture: Markup) -> Markup:
    """``picture``, but its last frame for those who have asked their system for no motion."""
    if "preview.png" not in run.files:
        return picture
    source = '<source srcset="$still" media="(prefers-reduced-motion: reduce)">'
    animated = f"<picture>{source}$picture</picture>"
    return fill(animated, still=run.url("preview.png"), picture=picture)


def _bars(run: Run) -> Markup | None:
    baselines = run.metrics.get("baselines")
    if not baselines:
        return None
    own = "this network"
    others = {name.replace("_", "-"): scores["psnr"] for name, scores in baselines.items()}
    return fill(
        "<figure><figcaption>PSNR, compared with classical methods</figcaption>$bars</figure>",
        bars=draw_bars({own: run.metrics["psnr"], **others}, own),
    )


def draw_bars(scores: dict[str, float | None], own: str) -> Markup:
    """A table of ``scores``, PSNR in dB by name, with a bar for each; ``own`` is the network's.

    The highest score has the longest bar.
    """
    lengths = {
        name: max(0, min(score, EXACT)) if score is not None and score > -math.inf else 0
        for name, score in scores.items()
    }
    longest = max(lengths.values()) or 1
    rows = [
        fill(
            '<tr class="$kind"><th scope="row">$name</th><td><svg class="bar" aria-hidden="true">'
            '<rect width="$share" height="100%" rx="3"></rect></svg></td>'
            '<td class="number">$words</td></tr>',
            kind="own" if name == own else "exact" if lengths[name] == EXACT else "",
            name=name,
            share=f"{lengths[name] / longest:.1%}",
            words="exact" if lengths[name] == EXACT else decibels(score),
        )
        for name, score in scores.items()
    ]
    return fill('<table class="bars"><tbody>$rows</tbody></table>', rows=rows)


def _linked(run: Run, name: str, alt: str) -> Markup | None:
    """The picture called ``name`` in its own size, which is also the link to itself."""
    if name not in run.sizes:
        return None
    figure = '<figure class="panel"><a href="$url">$picture</a></figure>'
    return fill(figure, url=run.url(name), picture=_picture(run, name, alt, max(run.sizes[name])))


def _details(run: Run) -> list[Markup]:
    metrics = run.metrics
    names = ("points", "loss", "validation", "best_epoch", "best_by", "seconds_first_epoch")
    lists = {
        "Options": metrics["options"],
        "Result": {name: metrics[name] for name in names if name in metrics},
        "Machine": metrics.get("runtime"),
    }
    details = '<h4>$heading</h4><dl class="facts">$facts</dl>'
    return [
        fill(details, heading=heading, facts=_facts({n: _setting(v) for n, v in content.items()}))
        for heading, content in lists.items()
        if content
    ]


# ---- pictures, numbers and times ---------------------------------------------------------------


def _picture(run: Run, name: str, alt: str, side: int, size=None) -> Markup | None:
    """One of ``run.sizes``, whose longer side becomes ``side`` CSS pixels; None if it is missing.

    ``size`` (height, width) gives it another shape.
    """
    if name not in run.sizes:
        return None
    size = size or run.sizes[name]
    height, width = (max(1, round(length * side / max(size))) for length in size)
    return fill(
        '<img src="$url" alt="$alt" height="$height" width="$width" loading="lazy" class="$kind">',
        url=run.url(name),
        alt=alt,
        height=height,
        width=width,
        kind="pixels" if 2 * max(size) <= side else "",  # enlarged so much, they should be sharp
    )


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
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(run.modified))


def _file_size(count: int) -> str:
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def main(arguments: list[str]) -> int:
    """Write the page of the folder that the command line names; returns the exit status."""
    if len(arguments) != 1:
        print(f"usage: python -m siren.output.page FOLDER (writes FOLDER/{PAGE})", file=sys.stderr)
        return 2
    try:
        print(printable(str(write_page(Path(arguments[0])))))
    except (ForeignFile, OSError) as error:
        print(f"siren.output.page: {printable(str(error))}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
