import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from siren.output import panel
from siren.output.panel import MAX_SIDE, MIN_WIDTH, draw_panel, draw_result
from siren.pictures import Picture, error_picture, gradient_picture, laplacian_picture
from siren.tasks.edit import Edit
from siren.tasks.fit import Fit
from siren.tasks.inpaint import Inpaint
from siren.tasks.poisson import Poisson

SHAPES = [(8, 8), (64, 64), (256, 256), (144, 256), (256, 144), (256, 20), (8, 300), (300, 1300)]
LONG = "output: PSNR 24.60 dB, SSIM 0.835 on the pixels not given, and some more words than usual"
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)]
COLOURS += [(128, 0, 0), (0, 128, 0), (0, 0, 128)]


def plain(shape, colour=(255, 255, 255)):
    return np.broadcast_to(np.float32(colour) / 127.5 - 1, (*shape, 3))


def box(sheet, colour):
    """(top, left, bottom, right) of the pixels of one colour."""
    found = np.argwhere((np.asarray(sheet) == colour).all(2))
    return (*found.min(0), *(found.max(0) + 1))


@pytest.mark.parametrize(
    ("count", "rows"),
    list(enumerate([[1], [2], [3], [4], [3, 2], [3, 3], [4, 3], [4, 4], [3, 3, 3]], 1)),
)
@pytest.mark.parametrize("shape", [(8, 8), (40, 100)])
def test_pictures_are_aligned_in_rows_that_are_equally_full(count, rows, shape):
    """Whatever the lengths of the captions; the first two pictures of a row have scales."""
    pictures = [
        Picture(
            "word " * (number % 4 * 9), plain(shape, colour), ("0", "1") if number < 2 else None
        )
        for number, colour in enumerate(COLOURS[:count])
    ]
    sheet = draw_panel(pictures)
    boxes = [box(sheet, colour) for colour in COLOURS[:count]]
    tops = sorted({top for top, *_ in boxes})
    assert [sum(top == each for top, *_ in boxes) for each in tops] == rows
    lefts = sorted({left for _, left, *_ in boxes})
    assert [left for _, left, *_ in boxes] == [lefts[n] for size in rows for n in range(size)]
    assert {(bottom - top, right - left) for top, left, bottom, right in boxes} == {
        tuple(side * -(-MIN_WIDTH // shape[1]) for side in shape)
    }
    assert sheet.width > max(right for *_, right in boxes) and sheet.height > boxes[-1][2]


def ink(image):
    return int((255 - np.asarray(image.convert("L")).astype(int)).sum())


def ink_of_lines(lines, font):
    """What text takes where there is room enough."""
    total = 0
    for line in lines:
        canvas = Image.new("L", (2000, 120), "white")
        ImageDraw.Draw(canvas).text((40, 40), line, "black", font)
        total += ink(canvas)
    return total


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [1, 5])
def test_captions_are_complete_and_in_their_columns(monkeypatch, shape, count):
    """White pictures: all ink is that of the captions, none is clipped or covered."""
    drawn = []

    def wrap(caption, width, font, real=panel._wrap):
        lines = real(caption, width, font)
        drawn.append((caption, lines, width, font))
        return lines

    monkeypatch.setattr(panel, "_wrap", wrap)
    captions = [LONG, "short", "file_name_" * 12, "", "|error| gjpqy"][:count]
    sheet = draw_panel([Picture(caption, plain(shape)) for caption in captions])
    assert ink(sheet) == sum(ink_of_lines(lines, font) for _, lines, _, font in drawn)
    for caption, lines, width, font in drawn:
        assert "".join(lines).replace(" ", "") == caption.replace(" ", "")
        assert all(font.getlength(line) <= width for line in lines)
    margin = np.asarray(sheet)
    assert (margin[:, -3:] == 255).all() and (margin[-3:] == 255).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_scale_is_a_ramp_between_two_labels(monkeypatch, shape):
    """It is below the picture and as wide as its column."""
    monkeypatch.setattr(panel, "OUTLINE", "blue")
    labels = "-0.0012 or less", "0.0012 or more"
    without, sheet = (
        draw_panel([Picture("", plain(shape)), Picture("", plain(shape), scale)])
        for scale in (None, labels)
    )
    assert ink(without) == 0
    assert without.width == sheet.width and without.height < sheet.height
    margin = (without.height - tallest(shape)) // 2
    column = (sheet.width - margin) // 2  # with the margin on its left
    assert not (np.asarray(sheet)[:, : column + 1] < 255).any()

    top, left, bottom, right = box(sheet, (0, 0, 255))
    assert top > tallest(shape) and left > column and right < sheet.width
    ramp = np.asarray(sheet.convert("L"))[top + 1 : bottom - 1, left + 1 : right - 1].astype(int)
    assert ramp.shape[0] > 5 and ramp.shape[1] > 30
    assert (np.diff(ramp, axis=1) >= 0).all() and (ramp[0, 0], ramp[0, -1]) == pytest.approx(
        (0, 255), abs=12
    )
    sheet.paste("white", (left, top, right, bottom))
    font = ImageFont.load_default(max(panel.FONT_SIZE, (column - margin) // 20))
    assert ink(sheet) == pytest.approx(ink_of_lines(labels, font), rel=0.03)
    sheet.paste("white", (column, 0, left, sheet.height))
    assert ink(sheet) == pytest.approx(ink_of_lines(labels[1:], font), rel=0.03)


def tallest(shape):
    """The height of a picture, when there is no other shape in the panel."""
    top, _, bottom, _ = box(draw_panel([Picture("", plain(shape, (255, 0, 0)))]), (255, 0, 0))
    return bottom - top


def test_smaller_pictures_are_enlarged_and_large_ones_reduced():
    sheet = draw_panel([Picture("", plain((8 * 2**n, 8 * 2**n), COLOURS[n])) for n in range(4)])
    sizes = [np.subtract(*np.reshape(box(sheet, colour), (2, 2))[::-1]) for colour in COLOURS[:4]]
    assert np.array(sizes).tolist() == [[MIN_WIDTH, MIN_WIDTH]] * 4
    for shape in [(3000, 40), (40, 3000), (1025, 1025)]:
        top, left, bottom, right = box(
            draw_panel([Picture("", plain(shape, (255, 0, 0)))]), (255, 0, 0)
        )
        assert max(bottom - top, right - left) <= MAX_SIDE


def test_scales_of_derivatives_and_errors():
    values = np.linspace(-2, 2, 1001, dtype=np.float32).reshape(-1, 1, 1)
    laplacian = laplacian_picture(values)
    assert laplacian.scale == ("-2 or less", "2 or more")
    assert laplacian.image[500] == 0 and laplacian.image[0] == -1 and laplacian.image[-1] == 1
    gradient = gradient_picture(0.3 * np.sign(values), 0.4 + 0 * values)
    assert gradient.scale == ("0", "0.5 or more")
    assert gradient.image[0] == 1
    error = error_picture(values, values + np.where(values > 1, 0.25, 0), "difference")
    assert error.caption == "difference" and error.scale == ("0", "0.25")
    assert error.image[0] == -1 and error.image[-1] == 1


@pytest.mark.parametrize("shape", [(12, 12, 1), (9, 16, 3)], ids=str)
def test_panels_of_all_tasks(shape):
    random = np.random.default_rng(0)
    image, other, output = random.uniform(-1, 1, (3, *shape)).astype(np.float32)
    region = np.zeros(shape[:2], bool)
    region[3:6, 4:8] = True
    tasks = [
        (Fit(image), [], 1),
        (Poisson(image, "fd"), [Picture("classical, direct: 100 dB", image)], 2),
        (Inpaint(image, 30, 0), [Picture("classical, thin-plate: 21.00 dB", image)], 2),
        (Edit(image, other, "fd", "mixed", 0.5), [], 2),
        (Edit(image, other, "fd", "average", 0.5, region=region, offset=(1, 0)), [], 2),
    ]
    for task, others, rows in tasks:
        sheet = draw_result(task, output, "output: PSNR 5.00 dB, SSIM 0.100", others)
        assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
        assert sheet.shape[1] < 4 * 300
        assert rows * MIN_WIDTH * shape[0] / shape[1] < sheet.shape[0] < rows * 330
