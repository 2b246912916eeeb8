"""The card of one run: its scores, pictures, curves, bars, options and files."""

from __future__ import annotations

from siren.output.page.bars import draw_bars
from siren.output.page.curves import draw_curves
from siren.output.page.markup import Markup, join, link, tag
from siren.output.page.pictures import draw_comparison, draw_panel, draw_small_pictures
from siren.output.page.runs import MAX_TEXT, Points, Run
from siren.output.page.wording import date, file_size, number, seconds, setting

MAX_FACTS = 60  # options, and baselines


def draw_card(run: Run, identifier: str, with_map: bool) -> Markup:
    """The card of ``run``, an article with this id; ``with_map`` if its error is drawn."""
    title = run.option("recipe") or run.task
    ended = run.metrics["ended"]
    badge = None if ended == "finished" else tag("span", ended[:MAX_TEXT], class_="badge")
    folder = join([tag("code", "/".join(run.parts)), " · "]) if run.parts else None
    return tag(
        "article",
        tag("header", tag("h3", title, badge), tag("p", folder, date(run))),
        _scores(run),
        tag(
            "div",
            draw_comparison(run),
            tag("div", draw_small_pictures(run, with_map), _curves(run), _bars(run)),
            class_="body",
        ),
        draw_panel(run),
        _details(run),
        _files(run),
        class_="card",
        id=identifier,
    )


def _scores(run: Run) -> Markup:
    metrics = run.metrics
    facts = [
        ("PSNR", number(metrics["psnr"], 2), "dB"),
        ("SSIM", number(metrics["ssim"], 3), None),
        ("time", seconds(run), "s"),
        ("passes", number(metrics.get("epochs"), 0), None),
        ("pixels", " × ".join(number(metrics.get(side), 0) for side in ("height", "width")), None),
    ]
    cells = [
        tag("div", tag("dt", name), tag("dd", value, unit and tag("small", f" {unit}")))
        for name, value, unit in facts
    ]
    scored = metrics.get("scored")
    note = None
    if isinstance(scored, str):
        note = tag("p", f"Scored: {scored[:MAX_TEXT]}", class_="note")
    return join([tag("dl", *cells, class_="scores"), note])


def _curves(run: Run) -> Markup | None:
    losses = {name: run.curves[name] for name in ("loss", "validation") if name in run.curves}
    quality = {name: run.curves[name] for name in ("psnr",) if name in run.curves}
    legend = " (dashed: validation)" if "validation" in losses else ""
    drawings = [
        _figure(f"Loss by pass{legend}", losses, log=True),
        _figure("PSNR by pass, in dB", quality, log=False),
    ]
    return tag("div", *drawings, class_="curves") if any(drawings) else None


def _figure(caption: str, curves: dict[str, Points], log: bool) -> Markup | None:
    if not curves:
        return None
    points = next(iter(curves.values()))
    (start, first), (end, last) = points[0], points[-1]
    words = f"{caption}, from {first:.4g} at {start:.6g} to {last:.4g} at {end:.6g}"
    drawn = draw_curves(curves, words, log)
    return drawn and tag("figure", tag("figcaption", caption), drawn)


def _bars(run: Run) -> Markup | None:
    baselines = run.metrics.get("baselines")
    if not isinstance(baselines, dict) or not baselines:
        return None
    own = "this network"
    scores = {own: run.metrics["psnr"]}
    for name, score in list(baselines.items())[:MAX_FACTS]:
        scores[name[:MAX_TEXT].replace("_", "-")] = _psnr(score)
    caption = tag("figcaption", "PSNR, compared with classical methods")
    return tag("figure", caption, draw_bars(scores, own))


def _psnr(score) -> float | None:
    """The PSNR of a baseline in metrics.json, where infinity is a string; None if it has none."""
    try:
        return float(score["psnr"])
    except (TypeError, ValueError, LookupError, OverflowError):
        return None


def _details(run: Run) -> Markup:
    metrics = run.metrics
    names = ("points", "loss", "validation", "best_epoch", "best_by", "seconds_first_epoch")
    lists = {
        "Options": metrics["options"],
        "Result": {name: metrics[name] for name in names if name in metrics},
        "Machine": metrics.get("runtime"),
    }
    parts = [
        join([tag("h4", heading), tag("dl", *_facts(content), class_="facts")])
        for heading, content in lists.items()
        if isinstance(content, dict) and content
    ]
    return tag("details", tag("summary", "Options and machine"), *parts)


def _facts(content: dict) -> list[Markup]:
    return [
        tag("div", tag("dt", name[:MAX_TEXT]), tag("dd", setting(value)))
        for name, value in list(content.items())[:MAX_FACTS]
    ]


def _files(run: Run) -> Markup:
    items = [
        tag(
            "li",
            tag("a", name, href=link(*run.parts, name)),
            tag("small", f" {file_size(status.st_size)}"),
        )
        for name, status in run.files.items()
    ]
    return tag("ul", *items, class_="files", aria_label="Files")
