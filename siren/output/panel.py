"""Pictures in rows, each between its caption and its scale: panel.png, and ``siren.show``.

``python -m siren.output.panel RUN RUN FOLDER`` writes that of two runs on the same picture:
what both are scored against, what each reached, and the errors of both.
"""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from siren import notebook
from siren.files import ForeignFile, check_mark, ends_with, write_bytes
from siren.images import ImageError, ImageWarning, encode_png, read_image, to_uint8
from siren.output.report import read_metrics
from siren.pictures import Picture, absolute_error, error_picture, refuse_masked
from siren.runtime.messages import Problem
from siren.text import decibels, printable

PER_ROW = 4  # pictures; more take several rows
MIN_WIDTH = 256  # pixels of a column; narrower pictures are enlarged
MAX_SIDE = 1024  # pixels; larger pictures are reduced
FONT_SIZE = 15  # pixels, or more for columns wider than 300
INK, OUTLINE = "black", "gray"
PANEL = "panel.png"
_COMPARED = ("output", "reference")
_COMPARISON_MARK = b"siren-jittor comparison"  # in the file, which says that it is this program's


def draw_result(task, output: np.ndarray, summary: str, others=()) -> np.ndarray:
    """The panel of a result: the task's pictures, ``others``, the output and its error.

    ``output`` is the restored picture (height, width, channels) and ``summary`` its caption;
    ``others`` are ``Picture``s of classical methods. Returns uint8 (height, width, 3).
    """
    pictures = [*task.panel_pictures, *others, Picture(summary, output)]
    return np.asarray(draw_panel([*pictures, error_picture(output, task.reference)]))


def show(*images: np.ndarray | Picture, captions=()) -> Image.Image | None:
    """Draw ``images`` side by side; a notebook displays them at once, wherever in a cell this is.

    images    float arrays (height, width[, 1 or 3]) in [-1, 1], as ``siren.read_image`` and
              ``siren.predict_image`` return them; or pictures that have a caption of their own, as
              ``siren.gradient_picture``, ``laplacian_picture`` and ``error_picture`` return them
    captions  of the arrays, in their order: none, or one for each

    Returns None in a notebook; elsewhere a PIL picture, for its own ``show`` and ``save``. Raises
    ValueError for anything else than such images, and TypeError for a masked array.
    """
    captions = [captions] if isinstance(captions, str) else list(captions)
    arrays = sum(not isinstance(image, Picture) for image in images)
    if not images:
        raise ValueError("show needs an image")
    if captions and len(captions) != arrays:
        raise ValueError(f"show has {len(captions)} captions for {arrays} arrays")
    texts = iter(captions or [""] * arrays)
    panel = [
        image if isinstance(image, Picture) else Picture(next(texts), _as_image(image))
        for image in images
    ]
    sheet = draw_panel(panel)
    if not notebook.is_notebook():
        return sheet
    notebook.display(sheet)
    return None


def _as_image(array) -> np.ndarray:
    """``array`` with a last axis of channels; ValueError if it is not an image in [-1, 1]."""
    refuse_masked(array, "an image")
    image = np.asarray(array)
    if image.ndim == 2:
        image = image[..., None]
    if image.size == 0 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"an image has shape (height, width[, 1 or 3]), not {np.shape(array)}")
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"an image has floating-point values in [-1, 1], not {image.dtype}")
    return image


def draw_panel(panel: list[Picture]) -> Image.Image:
    """The pictures in rows of ``PER_ROW`` at most, as equally filled as possible.

    Columns are as wide as the widest picture; smaller ones are enlarged towards that, so that one
    image at several sizes looks the same. Returns an RGB picture.
    """
    images = [_reduce(picture.image) for picture in panel]
    # As large as each is drawn where no other one is larger.
    alone = [_enlarge(image, MIN_WIDTH + image.width - 1, 2 * MIN_WIDTH) for image in images]
    column = max(MIN_WIDTH, *(image.width for image in alone))
    tallest = max(2 * MIN_WIDTH, *(image.height for image in alone))
    font = ImageFont.load_default(max(FONT_SIZE, column // 20))
    rows = []
    for part in np.array_split(np.arange(len(panel)), math.ceil(len(panel) / PER_ROW)):
        enlarged = [_enlarge(images[number], column, tallest) for number in part]
        rows.append(_Row([panel[number] for number in part], enlarged, column, font))
    margin = rows[0].margin
    width = margin + max(len(row.images) for row in rows) * (column + margin)
    height = sum(row.height + 2 * margin for row in rows)  # twice: no caption looks like a scale's
    sheet = Image.new("RGB", (width, height), "white")
    top = margin
    for row in rows:
        row.draw(sheet, top)
        top += row.height + 2 * margin
    return sheet


class _Row:
    """``images`` of ``panel`` in columns; captions end just above them, scales are below."""

    def __init__(self, panel: list[Picture], images: list[Image.Image], column: int, font):
        self.images, self.column, self.font = images, column, font
        self.margin = round(font.size / 2)
        self.line = round(font.size * 1.4)
        self.captions = [_wrap(picture.caption, self.column, font) for picture in panel]
        self.scales = [picture.scale for picture in panel]
        self.above = self.line * max(len(lines) for lines in self.captions)
        self.tallest = max(image.height for image in self.images)
        self.height = self.above + self.tallest + (self.line if any(self.scales) else 0)

    def draw(self, sheet: Image.Image, top: int) -> None:
        """Draw the row on ``sheet``, ``height`` pixels high."""
        draw = ImageDraw.Draw(sheet)
        left = self.margin
        pictures_top = top + self.above
        for image, lines, scale in zip(self.images, self.captions, self.scales):
            for number, line in enumerate(reversed(lines), 1):
                draw.text((left, pictures_top - number * self.line), line, INK, self.font)
            sheet.paste(image, (left, pictures_top))
            if scale:
                self._draw_scale(sheet, left, pictures_top + self.tallest, *scale)
            left += self.column + self.margin

    def _draw_scale(self, sheet: Image.Image, left: int, top: int, black: str, white: str) -> None:
        """A ramp from black to white between the two labels, as wide as the column."""
        draw = ImageDraw.Draw(sheet)
        gap, thickness = self.margin, round(self.font.size * 2 / 3)
        right = left + self.column
        middle = top + self.line // 2 + gap // 4
        draw.text((left, middle), black, INK, self.font, anchor="lm")
        draw.text((right, middle), white, INK, self.font, anchor="rm")
        left += math.ceil(self.font.getlength(black)) + gap
        right -= math.ceil(self.font.getlength(white)) + gap
        ramp = Image.linear_gradient("L").rotate(90).resize((max(1, right - left), thickness))
        sheet.paste(ramp, (left, middle - thickness // 2))
        box = (left, middle - thickness // 2, left + ramp.width - 1, middle + thickness // 2)
        draw.rectangle(box, outline=OUTLINE)


def _reduce(image: np.ndarray) -> Image.Image:
    """An RGB picture, reduced by an integer factor to at most ``MAX_SIDE`` pixels per side."""
    pixels = to_uint8(image)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return picture.reduce(math.ceil(max(picture.size) / MAX_SIDE)).convert("RGB")


def _enlarge(image: Image.Image, width: int, height: int) -> Image.Image:
    """``image``, enlarged by an integer factor if it then fits into this size."""
    factor = max(1, min(width // image.width, height // image.height))
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)


def _wrap(caption: str, width: int, font) -> list[str]:
    """The lines of a caption, ``width`` pixels wide at most; none for an empty caption."""
    lines: list[str] = []
    for word in caption.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        while font.getlength(word) > width:  # not even alone on a line: break it
            fits = next(n for n in range(len(word), 0, -1) if font.getlength(word[:n]) <= width)
            lines.append(word[:fits])
            word = word[fits:]
        lines.append(word)
    return lines


# ---- of two runs -------------------------------------------------------------------------------


def write_comparison(runs: list[Path], folder: Path) -> Path:
    """Write the panel of two ``runs``, folders of results, into ``folder``, created if missing.

    Returns the path of the panel. Raises Problem, ForeignFile, and OSError if it cannot be written.
    """
    pictures = [_read_run(run) for run in runs]
    (_, _, reference), (_, _, other) = pictures
    shapes = {image.shape for _, *images in pictures for image in images}
    if len(shapes) > 1 or (reference != other).any():
        raise Problem(f"{runs[0]} and {runs[1]} are not of the same picture")
    path = folder / PANEL
    check_mark(path, lambda file: ends_with(file, _COMPARISON_MARK))
    panel = [Picture("reference", reference)]
    panel += [Picture(caption, output) for caption, output, _ in pictures]
    largest = max(absolute_error(output, reference)[1] for _, output, _ in pictures)
    panel += [
        error_picture(output, reference, f"|error| of {caption.split(':')[0]}", largest)
        for caption, output, _ in pictures
    ]
    folder.mkdir(parents=True, exist_ok=True)
    content = encode_png(np.asarray(draw_panel(panel)))
    write_bytes(path, content + _COMPARISON_MARK)  # a reader of PNG stops before the mark
    return path


def _read_run(run: Path):
    """(caption, output, reference) of the results in a folder; images are as ``read_image``'s."""
    metrics = read_metrics(run)
    if metrics is None:
        raise Problem(f"{run} has no results")
    channels = 3 if metrics["options"].get("channels") == 3 else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)  # of a result that is dark
        try:
            output, reference = (read_image(run / f"{name}.png", channels) for name in _COMPARED)
        except ImageError as error:
            raise Problem(f"{run}: {error}") from error
    recipe = printable(str(metrics["options"].get("recipe", run.name)))
    passes, seconds = metrics.get("epochs"), metrics["seconds"] or 0
    quality = decibels(metrics["psnr"])
    return f"{recipe}: {quality}, {passes} epochs, {seconds:.0f} s", output, reference


def main(arguments: list[str]) -> int:
    """Write the comparison that the command line names; returns the exit status."""
    if len(arguments) != 3:
        print("usage: python -m siren.output.panel RUN RUN FOLDER", file=sys.stderr)
        return 2
    *runs, folder = map(Path, arguments)
    try:
        print(f"both side by side: {printable(str(write_comparison(runs, folder)))}")
    except (Problem, ForeignFile, OSError) as error:
        print(f"siren.output.panel: {printable(str(error))}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
