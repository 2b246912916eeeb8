"""The pictures of one run, as figures of the page; what is missing or damaged is left out."""

from __future__ import annotations

from siren.output.page.error_map import draw_error_map
from siren.output.page.markup import Markup, link, tag
from siren.output.page.runs import Run

LARGE = 512  # CSS pixels per side of the slider
SMALL = 244  # CSS pixels per side of the pictures beside it
MAX_PIXELS, MAX_BYTES = 1 << 24, 1 << 27  # of a picture; larger ones are only linked


def url(run: Run, name: str) -> str:
    """The URL of a file; it changes with the file, so that a reload shows the new one."""
    return f"{link(*run.parts, name)}?v={run.version(name)}"


def draw_thumbnail(run: Run, side: int) -> Markup | None:
    """The output as a small square without words, for the table."""
    if not _shown_size(run, "output.png"):
        return None
    address = url(run, "output.png")
    return tag("img", src=address, alt="", height=side, width=side, loading="lazy")


def draw_comparison(run: Run) -> Markup | None:
    """Output and reference; the script of the page lays them over each other, with a slider."""
    names = ("output", "reference")
    images = [_image(run, f"{name}.png", f"{name} of {run.task}", LARGE) for name in names]
    if not any(images):
        return None
    sides = [tag("div", image, tag("span", name)) for name, image in zip(names, images) if image]
    slider = None
    if all(images) and len({_shown_size(run, f"{name}.png") for name in names}) == 1:
        slider = tag(
            "input",
            type="range",
            min="0",
            max="100",
            value="50",
            hidden=True,
            autocomplete="off",
            aria_label="Border between the output, left, and the reference, right",
        )
    return tag("figure", tag("div", *sides, slider, class_="pair"))


def draw_small_pictures(run: Run, with_map: bool) -> Markup | None:
    """The error map, the animation, and the pictures that only some tasks have."""
    captions = {
        "masked.png": "The given pixels",
        "training.gif": "The training",
        "gradient.png": "The network’s gradient",
        "laplacian.png": "The network’s Laplacian",
    }
    figures = [_error_map(run) if with_map else None]
    for name, caption in captions.items():
        picture, kind = _image(run, name, caption, SMALL), None
        if picture is None:
            continue
        if name == "training.gif":
            picture, kind = _animation(run, picture), "animation"
        figures.append(tag("figure", picture, tag("figcaption", caption), class_=kind))
    return tag("div", *figures, class_="small") if any(figures) else None


def draw_panel(run: Run) -> Markup | None:
    """The panel, which is also the link to itself."""
    size = _shown_size(run, "panel.png")
    if not size:
        return None
    alt = "Panel: inputs, training data, output and error, with captions"
    address = url(run, "panel.png")
    height, width = size
    picture = tag("img", src=address, alt=alt, height=height, width=width, loading="lazy")
    return tag("figure", tag("a", picture, href=address), class_="panel")


def _animation(run: Run, picture: Markup) -> Markup:
    """``picture``, but its last frame for those who have asked their system for no motion."""
    if "preview.png" not in run.files:
        return picture
    still, calm = url(run, "preview.png"), "(prefers-reduced-motion: reduce)"
    return tag("picture", tag("source", srcset=still, media=calm), picture)


def _error_map(run: Run) -> Markup | None:
    if not (_shown_size(run, "output.png") and _shown_size(run, "reference.png")):
        return None
    channels = 1 if run.option("channels") == "1" else 3
    drawn = draw_error_map(run.folder / "output.png", run.folder / "reference.png", channels)
    if drawn is None:
        return None
    height, width = _fitted(drawn.size, SMALL)
    picture = tag(
        "img",
        src=drawn.url,
        alt="Absolute error of the output",
        height=height,
        width=width,
        class_=_class(drawn.size, SMALL),
    )
    caption = f"|error|: white is {drawn.largest:.2g}"
    if drawn.block > 1:
        caption += f", the largest of {drawn.block} × {drawn.block} pixels each"
    return tag("figure", picture, tag("figcaption", caption))


def _shown_size(run: Run, name: str) -> tuple[int, int] | None:
    """(height, width) of a picture that the page can show; else None."""
    size = run.sizes.get(name)
    if size is None or run.files[name].st_size > MAX_BYTES:
        return None
    return size if size[0] * size[1] <= MAX_PIXELS else None


def _image(run: Run, name: str, alt: str, side: int) -> Markup | None:
    """A picture whose longer side is ``side`` CSS pixels at most; None if it cannot be shown."""
    size = _shown_size(run, name)
    if size is None:
        return None
    height, width = _fitted(size, side)
    return tag(
        "img",
        src=url(run, name),
        alt=alt,
        height=height,
        width=width,
        loading="lazy",
        class_=_class(size, side),
    )


def _fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """``size`` scaled so that the longer of both is ``side``."""
    height, width = (max(1, round(length * side / max(size))) for length in size)
    return height, width


def _class(size: tuple[int, int], side: int) -> str | None:
    """The class of a picture that is enlarged so much that its pixels should be sharp."""
    return "pixels" if 2 * max(size) <= side else None
