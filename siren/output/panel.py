"""panel.png: the pictures of a result side by side, each under its caption."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from siren import pictures
from siren.images import to_uint8
from siren.pictures import Picture

MIN_WIDTH = 256  # pixels; narrower pictures are enlarged
MAX_WIDTH = 1024  # pixels; wider pictures are reduced
FONT_SIZE = 15
MARGIN = 8


def draw_result(task, output: np.ndarray, summary: str, others=()) -> np.ndarray:
    """The panel of a result: the task's pictures, ``others``, the output and its error.

    ``output`` is the restored picture (height, width, channels) and ``summary`` its caption;
    ``others`` are ``Picture``s of classical methods. Returns uint8 (height, width, 3).
    """
    error, largest = pictures.absolute_error(output, task.reference)
    panel = [
        *task.panel_pictures,
        *others,
        Picture(summary, output),
        Picture(f"|error|: white is {largest:.2g}", error),
    ]
    return np.asarray(draw_panel(panel))


def draw_panel(panel: list[Picture]) -> Image.Image:
    """The pictures side by side, each under its caption."""
    font = ImageFont.load_default(FONT_SIZE)
    cells = [_resize(picture.image) for picture in panel]
    captions = [_wrap(picture.caption, cell.width, font) for picture, cell in zip(panel, cells)]
    line_height = FONT_SIZE + 5
    top = MARGIN + line_height * max(len(lines) for lines in captions) + MARGIN // 2
    width = sum(cell.width for cell in cells) + MARGIN * (len(cells) + 1)
    sheet = Image.new("RGB", (width, top + cells[0].height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    left = MARGIN
    for cell, lines in zip(cells, captions):
        for number, line in enumerate(lines):
            draw.text((left, MARGIN + number * line_height), line, fill="black", font=font)
        sheet.paste(cell, (left, top))
        left += cell.width + MARGIN
    return sheet


def _resize(image: np.ndarray) -> Image.Image:
    """An RGB picture from ``MIN_WIDTH`` to ``MAX_WIDTH`` wide, scaled by an integer factor."""
    pixels = to_uint8(image)
    reduction = math.ceil(image.shape[1] / MAX_WIDTH)
    if reduction > 1:
        gray = pixels.shape[2] == 1
        small = Image.fromarray(pixels[..., 0] if gray else pixels).reduce(reduction)
        return small.convert("RGB")
    pixels = np.broadcast_to(pixels, (*image.shape[:2], 3))
    factor = math.ceil(MIN_WIDTH / image.shape[1])
    return Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1), "RGB")


def _wrap(caption: str, width: int, font) -> list[str]:
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
