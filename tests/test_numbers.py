"""What the numbers of a picture file mean: depth, white, range, pages, transparency.

Every file is compared with the array that was written into it, or refused by name.
"""

import itertools
import struct
import warnings

import handmade
import numpy as np
import pytest
import tifffile
from handmade import pack, png
from PIL import Image

from siren.images import (
    ImageError,
    ImageWarning,
    decode_image,
    read_image,
    to_uint8,
)
from siren.images.decoding import UnknownWhite

HEIGHT, WIDTH = 9, 13
RANDOM = np.random.default_rng(5)
DEEP = RANDOM.integers(0, 65536, (HEIGHT, WIDTH, 3), np.uint16)
SHALLOW = (DEEP >> 8).astype(np.uint8)
GRAY = DEEP[..., 0]


def shares(path, channels=1, **how):
    """The picture with black at 0 and white at 1; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return (read_image(path, channels, **how).astype(np.float64) + 1) / 2


def tiff(path, pixels, bits, *how, **tags):
    return handmade.tiff(path, (HEIGHT, WIDTH), pixels, bits, *how, **tags)


def bit_depth(path, range=None):
    return decode_image(path, 3, range).bits


def told(path, channels=1, **how):
    """(the picture as ``shares``, the one thing that was warned of)."""
    with pytest.warns(ImageWarning) as caught:
        image = read_image(path, channels, **how)
    (warning,) = caught
    return (image.astype(np.float64) + 1) / 2, str(warning.message)


def refused(path, wording, **how):
    with pytest.raises(ImageError, match=wording) as caught:
        read_image(path, 1, **how)
    message = str(caught.value)
    assert "\n" not in message and "damaged" not in message and repr(str(path)) in message
    return message


def same(image, expected, atol=1e-6):
    expected = np.asarray(expected, np.float64)
    expected = expected if expected.ndim == 3 else expected[..., None]
    np.testing.assert_allclose(image, np.broadcast_to(expected, image.shape), atol=atol)


# ---- depth ------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
def test_twelve_packed_bits_have_their_own_white(tmp_path, zipped):
    values = GRAY >> 4
    path = tiff(tmp_path / "p.tif", pack(values, 12), 12, zipped=zipped)
    same(shares(path), values / 4095)
    assert bit_depth(path) == 16
    low, high = int(values.min()), int(values.max())
    same(shares(path, range=(low, high)), (values - float(low)) / (high - low))


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("order", ["<", ">"])
def test_other_packed_depths_are_refused_by_name(tmp_path, bits, order):
    if (bits, order) == (12, "<"):
        return
    path = tiff(tmp_path / "p.tif", pack(GRAY >> (16 - bits), bits), bits, order)
    refused(path, "cannot be read exactly; save it as a PNG")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("colour", [0, 1])
@pytest.mark.parametrize("zipped", [False, True])
def test_few_bits(tmp_path, bits, colour, zipped):
    white = 2**bits - 1
    values = GRAY >> (16 - bits)
    path = tiff(tmp_path / "p.tif", pack(values, bits), bits, colour=colour, zipped=zipped)
    expected = values / white
    same(shares(path), expected if colour else 1 - expected)
    same(shares(path, range=(0, white)), expected if colour else 1 - expected)
    assert bit_depth(path) == 8


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("extra", [None, 0, 1, 2, "ink"])
def test_16_bits_are_16_with_every_extra_sample(tmp_path, order, zipped, extra):
    values = RANDOM.integers(0, 65536, (HEIGHT, WIDTH, 4)).astype(np.uint16)
    if extra is None:
        values = values[..., :3]
    alpha = values[..., 3:] / 65535
    tags = {"t338": extra} if extra in (0, 1, 2) else {}
    path = tiff(
        tmp_path / "p.tif", values.astype(f"{order}u2").tobytes(), 16, order, values.shape[2],
        5 if extra == "ink" else 2, zipped, **tags,
    )  # fmt: skip
    if extra in (1, "ink"):
        refused(path, "cannot be read exactly")
        return
    expected = values[..., :3] / 65535
    if extra == 2:
        expected = expected * alpha + 1 - alpha
    same(shares(path, 3), expected)
    assert bit_depth(path) == 16


@pytest.mark.parametrize("colour", [1, 2])
def test_8_bits_multiplied_by_their_opacity_are_refused(tmp_path, colour):
    samples = 4 if colour == 2 else 2
    pixels = bytes(HEIGHT * WIDTH * samples)
    path = tiff(tmp_path / "p.tif", pixels, 8, samples=samples, colour=colour, t338=1)
    refused(path, "multiplied by opacity")


def test_colour_at_a_lower_resolution_without_compression(tmp_path):
    path = tiff(tmp_path / "p.tif", bytes(HEIGHT * WIDTH * 3), 8, samples=3, colour=6)
    refused(path, "cannot be read exactly; save it as a PNG")


@pytest.mark.parametrize("maxval", [1, 15, 100, 200, 255, 256, 1023, 4095, 40000, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_pgm_and_ppm_of_any_depth(tmp_path, maxval, kind):
    values = RANDOM.integers(0, maxval + 1, (HEIGHT, WIDTH, 3 if kind in ("P3", "P6") else 1))
    header = f"{kind}\n# made by hand\n{WIDTH} {HEIGHT}\n{maxval}\n".encode()
    if kind in ("P2", "P3"):
        body = b"# and\n" + " \n".join(map(str, values.ravel())).encode()
    else:
        body = values.astype(">u2" if maxval > 255 else "u1").tobytes()
    path = tmp_path / "p.ppm"
    path.write_bytes(header + body)
    same(shares(path, 3), values / maxval)
    assert bit_depth(path) == (8 if 255 % maxval == 0 else 16)
    same(shares(path, 3, range=(0, maxval)), values / maxval)
    path.write_bytes(header + body[: len(body) // 2])
    with pytest.raises(ImageError):
        read_image(path, 1)


def test_ppm_with_a_number_above_its_white(tmp_path):
    path = tmp_path / "p.pgm"
    path.write_bytes(b"P5 2 1 100\n" + bytes([7, 101]))
    with pytest.raises(ImageError, match="not within 0 and 100"):
        read_image(path, 1)


def test_palettes(tmp_path):
    indices, colours = SHALLOW[..., 0], RANDOM.integers(0, 256, (256, 3))
    wide = RANDOM.integers(0, 65536, (256, 3))
    for palette in (colours * 257, colours * 256, colours, wide):
        columns = palette.T.ravel().tolist()
        path = tiff(tmp_path / "p.tif", indices.tobytes(), 8, colour=3, t320=columns)
        if palette is colours or palette is wide:
            refused(path, "cannot be read exactly")
        else:
            same(shares(path, 3), colours[indices] / 255)
            assert bit_depth(path) == 8


# ---- white and range --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high"), [(-1, 1), (0, 2.5), (0, 500), (-0.1, 1), (0, 127), (0, 256), (0, 1.001)]
)
def test_floating_point_of_unknown_white(tmp_path, low, high):
    values = np.linspace(low, high, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    path = tmp_path / "p.tif"
    tifffile.imwrite(path, values)
    message = refused(path, f"from {low:g} to {high:g}")
    assert message.endswith("say so with range=(LOW, HIGH)")
    same(shares(path, range=(low, high)), (values - low) / (high - low), 1e-5)


@pytest.mark.parametrize("high", [1, 128, 255, 0.5, 0.1])
def test_floating_point_of_known_white(tmp_path, high):
    values = np.linspace(0, high, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    path = tmp_path / "p.tif"
    tifffile.imwrite(path, values)
    same(shares(path), values / (1 if high <= 1 else 255))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_called_so_and_counted(tmp_path, bad):
    values = np.full((HEIGHT, WIDTH), 0.5, np.float32)
    values[1, 2] = values[3, 4] = bad
    tifffile.imwrite(tmp_path / "p.tif", values)
    for how in ({}, {"range": (0, 1)}):
        refused(tmp_path / "p.tif", "has 2 of 117 pixels that are not a finite number", **how)


@pytest.mark.parametrize(("order", "zipped"), [("<", False), ("<", True), (">", False)])
def test_range_of_floating_point(tmp_path, order, zipped):
    values = RANDOM.integers(0, 65536, (HEIGHT, WIDTH))
    low, high = int(values.min()), int(values.max())
    pixels = values.astype(f"{order}f4").tobytes()
    path = tiff(tmp_path / "p.tif", pixels, 32, order, zipped=zipped, t339=3)
    with pytest.raises(UnknownWhite, match=rf"from {low} to {high}.*range=\(LOW"):
        read_image(path, 1)
    same(shares(path, range=(low, high)), (values - low) / (high - low))


def test_range_in_colour_and_with_opacity(tmp_path):
    alpha = SHALLOW[..., 0].copy()
    alpha[0] = 0
    colours = SHALLOW // 2 + 50
    Image.fromarray(np.dstack([colours, alpha])).save(tmp_path / "p.png")
    share = alpha[..., None] / 255
    expected = (colours - 50) / 127 * share + 1 - share
    same(shares(tmp_path / "p.png", 3, range=(50, 177)), expected)
    assert bit_depth(tmp_path / "p.png") == bit_depth(tmp_path / "p.png", (0, 255)) == 8
    assert bit_depth(tmp_path / "p.png", (50, 177)) == 16


def test_clipped_pixels_are_counted(tmp_path):
    values = np.arange(100, dtype=np.uint16).reshape(10, 10)
    Image.fromarray(values).save(tmp_path / "p.png")
    image, sentence = told(tmp_path / "p.png", range=(0, 87))
    same(image, np.clip(values / 87, 0, 1))
    assert "12 % of the pixels" in sentence and "below LOW (0) or above HIGH (87)," in sentence
    image, sentence = told(tmp_path / "p.png", range=(25, 99))
    same(image, np.clip((values - 25.0) / 74, 0, 1))
    assert "25 % of the pixels" in sentence and "below LOW (25) or above HIGH (99)," in sentence


def test_the_full_range_changes_nothing(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "p.png")
    Image.fromarray(SHALLOW).save(tmp_path / "q.png")
    for name, white in (("p.png", 65535), ("q.png", 255)):
        for size in (None, (8, 8)):
            plain = shares(tmp_path / name, 3, size=size)
            atol = 1e-6 if name == "p.png" or size is None else 2 / 255
            same(shares(tmp_path / name, 3, size=size, range=(0, white)), plain, atol)


@pytest.mark.parametrize("limits", [(1, 1), (2, 1), (0, np.inf), (np.nan, 1), (1,), 5, "ab"])
def test_a_range_that_is_none(tmp_path, limits):
    Image.fromarray(SHALLOW).save(tmp_path / "p.png")
    is_pair = isinstance(limits, tuple) and len(limits) == 2
    words = "a range is two finite numbers" if is_pair else None
    with pytest.raises((TypeError, ValueError), match=words):
        read_image(tmp_path / "p.png", 1, range=limits)


def test_range_of_ink_is_that_of_the_colors_that_it_makes(tmp_path):
    Image.fromarray(SHALLOW).convert("CMYK").save(tmp_path / "p.tif")
    same(shares(tmp_path / "p.tif", 3, range=(0, 255)), SHALLOW / 255)


@pytest.mark.parametrize(("high", "white"), [(4095, 4095), (1000, 1023), (16383, 16383), (9, 255)])
def test_few_bits_in_16_are_told(tmp_path, high, white):
    values = (GRAY.astype(np.int64) * high // GRAY.max()).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "p.png")
    image, sentence = told(tmp_path / "p.png")
    same(image, values / 65535)
    assert f"is {high} of 65535: if {white} is white, give range=(0, {white})" in sentence
    Image.fromarray(np.zeros_like(values)).save(tmp_path / "p.png")
    shares(tmp_path / "p.png")
    Image.fromarray(values + np.uint16(16384)).save(tmp_path / "p.png")
    shares(tmp_path / "p.png")


# ---- pages and frames -------------------------------------------------------------------------


def test_a_thumbnail_in_front_is_skipped(tmp_path):
    path = tmp_path / "p.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(GRAY[::3, ::3], subfiletype=1)
        file.write(GRAY)
        file.write(GRAY[::3, ::3], subfiletype=1)
    same(shares(path), GRAY / 65535)
    assert bit_depth(path) == 16


def test_a_thumbnail_in_front_of_deep_colours(tmp_path):
    path = tmp_path / "p.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(SHALLOW[::3, ::3], subfiletype=1, photometric="rgb")
        file.write(DEEP, photometric="rgb")
    same(shares(path, 3), DEEP / 65535)
    assert bit_depth(path) == 16


def test_a_smaller_page_in_front_is_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "p.tif") as file:
        file.write(GRAY[::3, ::3])
        file.write(GRAY)
    message = refused(tmp_path / "p.tif", "page 1 has 3 x 5 pixels, but whose page 2 has 9 x 13")
    assert "file of its own" in message


def test_nothing_but_a_thumbnail_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "p.tif", GRAY, subfiletype=1)
    refused(tmp_path / "p.tif", "only a thumbnail")


def test_more_pages_and_frames_are_told(tmp_path):
    with tifffile.TiffWriter(tmp_path / "p.tif") as file:
        for page in (GRAY, GRAY[::-1], GRAY[::2]):
            file.write(page, photometric="minisblack")
    image, sentence = told(tmp_path / "p.tif")
    same(image, GRAY / 65535)
    assert "has 3 pages, of which only the first is used" in sentence
    frames = [Image.fromarray(SHALLOW[..., i]).convert("RGB") for i in range(3)]
    for name in ("p.gif", "p.webp", "p.png"):
        how = {"lossless": True} if name == "p.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **how)
        image, sentence = told(tmp_path / name)
        assert "has 3 frames, of which only the first is used" in sentence
        same(image, SHALLOW[..., 0] / 255)


def test_a_volume_is_refused(tmp_path):
    stack = np.stack([GRAY] * 3)
    path = tmp_path / "p.tif"
    how = {"photometric": "minisblack", "volumetric": True, "tile": (3, 16, 16)}
    tifffile.imwrite(path, stack, **how)
    refused(path, "cannot be read exactly; save it as a PNG")


def test_a_page_that_is_a_mask_is_skipped(tmp_path):
    with tifffile.TiffWriter(tmp_path / "p.tif") as file:
        file.write(GRAY)
        file.write(GRAY > 30000, subfiletype=4)
    same(shares(tmp_path / "p.tif"), GRAY / 65535)


# ---- transparency -----------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("clear", range(4))
def test_the_transparent_number_of_a_png_has_its_own_depth(tmp_path, bits, clear):
    white = 2**bits - 1
    values = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % (white + 1)
    clear = min(clear, white)
    rows = [pack(row[None], bits) for row in values]
    chunk = (b"tRNS", struct.pack(">H", clear))
    path = png(tmp_path / "p.png", WIDTH, bits, 0, rows, chunk)
    expected = np.where(values == clear, 1, values / white)
    same(shares(path), expected)
    same(shares(path, range=(0, white)), expected)


@pytest.mark.parametrize("bits", [24, 32])
def test_a_bmp_without_opacity_is_opaque(tmp_path, bits):
    alpha = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    pixels = SHALLOW[::-1, :, ::-1]
    pixels = np.dstack([pixels, alpha]) if bits == 32 else pixels
    rows = b"".join(row.tobytes() + bytes(-row.nbytes % 4) for row in pixels)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) if bits == 32 else bytes(16)
    header = struct.pack(
        "<IiiHHIIiiII", 108, WIDTH, HEIGHT, 1, bits, 3 if bits == 32 else 0, len(rows), 0, 0, 0, 0
    )
    header += masks + bytes(108 - len(header) - len(masks))
    path = tmp_path / "p.bmp"
    path.write_bytes(b"BM" + struct.pack("<IHHI", 122 + len(rows), 0, 0, 122) + header + rows)
    same(shares(path, 3), SHALLOW / 255)
    same(shares(path, 3, range=(0, 255)), SHALLOW / 255)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "deep"])
def test_a_picture_of_which_nothing_is_seen_is_refused(tmp_path, mode):
    path = tmp_path / "p.png"
    if mode == "deep":
        rows = [bytes(8 * WIDTH)] * HEIGHT
        png(path, WIDTH, 16, 6, rows)
    elif mode == "P":
        path = tmp_path / "p.gif"
        picture = Image.new("P", (WIDTH, HEIGHT), 3)
        picture.putpalette(bytes(range(30)))
        picture.save(path, transparency=3)
    else:
        Image.new(mode, (WIDTH, HEIGHT)).save(path)
    for how in ({}, {"range": (0, 200)}):
        refused(path, "transparent everywhere", **how)


# ---- what is exact ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [34712, 32809, 34676])
def test_other_compressions_are_refused(tmp_path, number):
    path = tiff(tmp_path / "p.tif", GRAY.astype("<u2").tobytes(), 16, t259=number)
    refused(path, "cannot be read exactly; save it as a PNG")


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "zstd", "lzma", "tiff_deflate"])
def test_compressions_are_exact(tmp_path, compression):
    for pixels in (GRAY, SHALLOW):
        Image.fromarray(pixels).save(tmp_path / "p.tif", compression=compression)
        same(shares(tmp_path / "p.tif", 3), pixels / np.iinfo(pixels.dtype).max)


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiles_and_predictors_are_exact(tmp_path, tile, predictor, kind, order):
    share = np.random.default_rng(2).random((40, 37))
    values = share.astype(kind) if kind == np.float32 else (share * np.iinfo(kind).max).astype(kind)
    how = {"tile": tile, "byteorder": order}
    if not predictor:  # tifffile needs imagecodecs for it
        tifffile.imwrite(tmp_path / "p.tif", values, compression="zlib", **how)
    else:
        bytes_ = values.astype(f"{order}{values.dtype.str[1:]}")
        if kind == np.float32:
            big = np.ascontiguousarray(values.astype(">f4")).view(np.uint8).reshape(40, 37, 4)
            bytes_ = big.transpose(0, 2, 1).reshape(40, -1)
        steps = np.diff(bytes_.astype(np.int64), axis=1, prepend=0)
        steps = steps.astype(np.uint8 if kind == np.float32 else f"{order}{values.dtype.str[1:]}")
        tags = {"t256": 37, "t257": 40, "t278": 40, "t317": 3 if kind == np.float32 else 2}
        tags["t339"] = 3 if kind == np.float32 else 1
        bits = 8 * values.dtype.itemsize
        tiff(tmp_path / "p.tif", steps.tobytes(), bits, order, zipped=True, **tags)
    if kind == np.float32 and order == ">":
        refused(tmp_path / "p.tif", "cannot be read exactly")
        return
    white = 1 if kind == np.float32 else np.iinfo(kind).max
    same(shares(tmp_path / "p.tif"), values / white)


def test_interlaced_png_of_16_bits(tmp_path):
    """Adam7, by the book."""
    starts = (
        (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
        (1, 0, 2, 1),
    )  # fmt: skip
    parts = [DEEP[y::dy, x::dx].astype(">u2") for y, x, dy, dx in starts]
    rows = [row.tobytes() for part in parts if part.size for row in part]
    path = png(tmp_path / "p.png", WIDTH, 16, 2, rows, height=HEIGHT, interlaced=True)
    same(shares(path, 3), DEEP / 65535)


def test_ordinary_pictures_say_nothing(data):
    for path, channels in itertools.product(data.glob("*.[pj][np]g"), (1, 3)):
        assert to_uint8(2 * shares(path, channels) - 1).max() > 100
