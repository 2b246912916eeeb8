import errno
import io
import logging
import os
import stat
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile  # comes with scikit-image
from handmade import png
from PIL import Image, PngImagePlugin

from siren.images import (
    ImageError,
    ImageWarning,
    decode_image,
    encode_png,
    fit_size,
    opening,
    read_image,
    to_integers,
    to_uint8,
    write_png,
)

DATA = Path(__file__).parents[1] / "data"
PICTURES = sorted(p for p in DATA.iterdir() if p.suffix in (".png", ".jpg"))


def in_range(pixels):
    """8-bit values as [-1, 1], channels present."""
    pixels = np.asarray(pixels, np.float64)
    return (pixels if pixels.ndim == 3 else pixels[:, :, None]) / 127.5 - 1


def size_of(path):
    return decode_image(path, 1).size


@pytest.fixture
def colour():
    """A smooth non-square colour picture (18, 26, 3), uint8, with unlike channels."""
    row, column = np.mgrid[0:18, 0:26]
    return np.stack([row * 14, column * 10, 255 - row * 6 - column * 5], -1).astype(np.uint8)


@pytest.fixture
def save(tmp_path):
    def save(pixels, name="picture.png", **options):
        picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        picture.save(tmp_path / name, **options)
        return tmp_path / name

    return save


# Reading: modes and formats


@pytest.mark.parametrize("name", ["p.png", "p.bmp", "p.tif", "p.ppm", "p.webp", "p.gif"])
def test_lossless_formats_are_read_exactly(save, colour, name):
    if name == "p.gif":
        colour = colour // 128 * 128  # few enough colours for an exact palette
        path = save(colour, name)
    else:
        path = save(colour, name, **({"lossless": True} if name == "p.webp" else {}))
    image = read_image(path, 3)
    assert image.dtype == np.float32 and image.shape == (18, 26, 3)
    np.testing.assert_array_equal(to_uint8(image), colour)
    np.testing.assert_allclose(image, in_range(colour), atol=1e-7)
    assert size_of(path) == (18, 26)


def test_jpeg_is_close(save, colour):
    image = read_image(save(colour, "p.jpg", quality=95, subsampling=0), 3)
    np.testing.assert_allclose(image, in_range(colour), atol=0.05)


def test_luma_is_bt601(save, colour):
    image = read_image(save(colour), 1)
    assert image.shape == (18, 26, 1)
    np.testing.assert_allclose(image, in_range(colour @ [0.299, 0.587, 0.114]), atol=0.5 / 127)


def test_gray_is_replicated_and_kept(save, colour):
    gray = colour[:, :, 0]
    for name in ("p.png", "p.bmp", "p.tif", "p.pgm", "p.gif"):
        path = save(gray, name)
        np.testing.assert_array_equal(to_uint8(read_image(path, 1)), gray[:, :, None])
        np.testing.assert_array_equal(to_uint8(read_image(path, 3)), np.dstack([gray] * 3))


def test_one_bit(save):
    bits = np.random.default_rng(0).random((9, 13)) < 0.5
    for name in ("p.png", "p.bmp", "p.tif", "p.pbm", "p.gif"):
        image = read_image(save(Image.fromarray(bits), name), 1)
        np.testing.assert_array_equal(image[:, :, 0], np.where(bits, 1, -1))


def test_palette(save):
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    palette = np.array([[255, 0, 0], [0, 200, 0], [10, 20, 30]], np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(palette.tobytes())
    for name in ("p.png", "p.gif", "p.bmp", "p.tif"):
        image = read_image(save(picture, name), 3)
        np.testing.assert_array_equal(to_uint8(image), palette[indices])


@pytest.mark.parametrize("name", ["p.png", "p.tif", "p.webp"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_on_white(save, colour, name, mode):
    alpha = np.linspace(0, 255, 18 * 26).reshape(18, 26).astype(np.uint8)
    base = colour if mode == "RGBA" else colour[:, :, :1]
    picture = Image.fromarray(np.dstack([base, alpha]))
    path = save(picture, name, **({"lossless": True, "exact": True} if name == "p.webp" else {}))
    opacity = alpha[:, :, None] / 255
    expected = in_range(opacity * base + (1 - opacity) * 255)
    image = read_image(path, 3)
    np.testing.assert_allclose(image, np.broadcast_to(expected, image.shape), atol=1.01 / 127.5)
    assert np.all(image[0, 0] == 1)


@pytest.mark.parametrize("name", ["p.png", "p.gif"])
def test_transparent_palette_entry_is_white(save, name):
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    palette = np.array([[255, 0, 0], [0, 200, 0], [10, 20, 30]], np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(palette.tobytes())
    palette[1] = 255
    path = save(picture, name, transparency=1)
    np.testing.assert_array_equal(to_uint8(read_image(path, 3)), palette[indices])


def test_transparent_colour_is_white(save):
    gray = np.array([[0, 7, 200]], np.uint8)
    rgb = np.dstack([gray, gray, gray // 2])
    deep = gray.astype(np.uint16) * 257
    for pixels, transparency in ((gray, 7), (rgb, (7, 7, 3)), (deep, 7 * 257)):
        image = read_image(save(pixels, transparency=transparency), 3)
        assert np.all(image[0, 1] == 1)
        np.testing.assert_allclose(image[0, ::2, 0], [-1, 200 / 127.5 - 1], atol=1e-6)


def test_cmyk(save):
    inks = np.random.default_rng(1).integers(0, 256, (6, 7, 4), dtype=np.uint8)
    image = read_image(save(Image.frombytes("CMYK", (7, 6), inks.tobytes()), "p.tif"), 3)
    light = 255 - inks.astype(float)
    np.testing.assert_allclose(image, in_range(light[:, :, :3] * light[:, :, 3:] / 255), atol=0.02)


def test_cmyk_jpeg_is_not_inverted(save, colour):
    path = save(Image.fromarray(colour).convert("CMYK"), "p.jpg", quality=100, subsampling=0)
    np.testing.assert_allclose(read_image(path, 3), in_range(colour), atol=0.1)


@pytest.mark.parametrize("name", ["p.png", "p.tif", "p.pgm"])
def test_16_bits_are_scaled_not_clipped(save, name):
    ramp = np.linspace(0, 65535, 8 * 64).astype(np.uint16).reshape(8, 64)
    path = save(ramp, name)
    for channels in (1, 3):
        image = read_image(path, channels)
        assert image.shape == (8, 64, channels)
        np.testing.assert_allclose(image[:, :, -1], ramp / 32767.5 - 1, atol=2e-7)
    assert len(np.unique(image)) == ramp.size  # no step down to 8 bits
    small = read_image(path, 1, (8, 16))
    assert small.shape == (8, 16, 1) and small.min() >= -1 and small.max() <= 1
    # Means of four columns; only near the left and right borders do neighbours across rows matter.
    means = ramp.reshape(8, 16, 4).mean(2) / 32767.5 - 1
    np.testing.assert_allclose(small[1:-1, 2:-2, 0], means[1:-1, 2:-2], atol=1e-3)


def _deep_png(path, values, *chunks):
    """A 16-bit PNG of 1 to 4 channels with filter 0, not by the program's own writer."""
    rows = [row.astype(">u2").tobytes() for row in values]
    return png(path, values.shape[1], 16, {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2]], rows, *chunks)


def _deep(height, width, channels):
    """Values (height, width, channels), uint16, whose low bytes are as wild as the high ones."""
    return np.random.default_rng(height).integers(0, 65536, (height, width, channels), np.uint16)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_deep_png_in_colour_and_with_transparency(tmp_path, channels):
    values = _deep(9, 7, channels)
    path = _deep_png(tmp_path / "p.png", values)
    assert decode_image(path, 3).bits == 16
    expected = values.astype(np.float64)
    if channels in (2, 4):
        share = expected[..., -1:] / 65535
        expected = expected[..., :-1] * share + 65535 * (1 - share)
    image = read_image(path, 3)
    assert image.dtype == np.float32 and image.shape == (9, 7, 3)
    np.testing.assert_allclose((image + 1) * 32767.5, expected + np.zeros(3), atol=0.02)
    gray = expected @ [0.299, 0.587, 0.114] if channels > 2 else expected[..., 0]
    np.testing.assert_allclose((read_image(path, 1)[..., 0] + 1) * 32767.5, gray, atol=0.05)


@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_colour_of_a_deep_png_is_white(tmp_path, channels):
    values = _deep(5, 6, channels)
    clear = struct.pack(f">{channels}H", *values[2, 3])
    path = _deep_png(tmp_path / "p.png", values, (b"tRNS", clear))
    image = to_integers(read_image(path, channels), 16)
    values[2, 3] = 65535
    np.testing.assert_array_equal(image, values)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [3, 4])
def test_deep_tiff_in_several_strips(tmp_path, order, channels):
    values = _deep(9, 7, channels)
    values[..., 3:] = 65535
    path = tmp_path / "p.tif"
    tifffile.imwrite(path, values, photometric="rgb", byteorder=order, rowsperstrip=2)
    np.testing.assert_array_equal(to_integers(read_image(path, 3), 16), values[..., :3])


def test_deep_colour_is_turned_and_resized_like_any_other(save, colour, tmp_path):
    deep = tmp_path / "deep.tif"
    tag = (0x0112, 3, 1, 6, True)  # turned by a quarter
    tifffile.imwrite(deep, colour.astype(np.uint16) * 257, photometric="rgb", extratags=[tag])
    exif = Image.Exif()
    exif[0x0112] = 6
    flat = save(colour, "flat.tif", exif=exif)
    assert size_of(deep) == size_of(flat) == (26, 18)
    for channels in (1, 3):
        for size in (None, (13, 9), (40, 30)):
            one, two = (read_image(path, channels, size) for path in (deep, flat))
            np.testing.assert_allclose(one, two, atol=1.5 / 127.5)


def test_bits_of_other_pictures(save, colour, tmp_path):
    for name in ("p.png", "p.jpg", "p.tif", "p.gif"):
        assert decode_image(save(colour, name), 3).bits == 8
    assert decode_image(save(colour[..., 0].astype(np.uint16)), 3).bits == 16
    assert decode_image(save(colour[..., 0].astype(np.float32), "f.tif"), 3).bits == 16
    with pytest.raises(ImageError, match="does not exist"):
        decode_image(tmp_path / "none.png", 3)


def test_resized_deep_edges_do_not_overshoot(save):
    edge = np.zeros((32, 32), np.uint16)
    edge[:, 16:] = 65535
    small = read_image(save(edge), 1, (16, 15))
    assert small.min() == -1 and small.max() == 1


SHADES = np.linspace(0, 1, 12 * 10).reshape(12, 10)
COLOURS = np.stack([SHADES, 1 - SHADES, SHADES**2], axis=-1)


@pytest.mark.parametrize(
    ("values", "how"),
    [
        (SHADES, {}),
        (SHADES, {"byteorder": ">"}),
        (SHADES, {"compression": "zlib"}),
        (SHADES, {"bigtiff": True}),
        (SHADES.astype(np.float16), {}),
        (SHADES.astype(np.float32), {"photometric": "miniswhite"}),
        (SHADES.astype(np.float32), {"byteorder": ">", "compression": "zlib"}),
        (SHADES.astype(np.complex64), {}),
        *((SHADES.astype(kind), {}) for kind in ("i1", "i2", "i4", "i8", "u4")),
        (SHADES.astype(np.uint16), {"photometric": "miniswhite"}),
        (COLOURS, {"photometric": "rgb"}),
        (COLOURS.astype(np.float32), {"photometric": "rgb"}),
        *((COLOURS.astype(kind), {"photometric": "cielab"}) for kind in ("u1", "u2")),
        (np.zeros((9, 8, 5), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}),
        (np.zeros((3, 9, 8), np.uint8), {"photometric": "rgb", "planarconfig": "separate"}),
        (np.zeros((3, 9, 8), np.uint16), {"photometric": "rgb", "planarconfig": "separate"}),
        (np.zeros((9, 8, 3), np.uint8), {"photometric": "rgb", "bigtiff": True, "byteorder": ">"}),
    ],
)
def test_other_tiffs_are_refused_in_a_sentence(tmp_path, values, how):
    path = tmp_path / "p.tif"
    tifffile.imwrite(path, values, **how)
    refused(path, r"is a TIFF of an unusual kind .* cannot be read exactly; save it as a PNG of 8")


def test_gif_gives_its_first_frame(save, colour):
    frames = [Image.fromarray(colour[:, :, 0]), Image.fromarray(255 - colour[:, :, 0])]
    path = save(frames[0], "p.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(to_uint8(read_image(path, 1))[:, :, 0], colour[:, :, 0])


# Reading: orientation and size


def _as_stored(upright, orientation):
    """The pixel array that a camera would store for `upright` (EXIF 2.3, table of tag 274)."""
    transposed = upright.transpose(1, 0, 2)
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: transposed,
        6: transposed[::-1],
        7: transposed[::-1, ::-1],
        8: transposed[:, ::-1],
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["p.png", "p.jpg", "p.tif", "p.webp"])
def test_exif_orientation(save, colour, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"p.jpg": {"quality": 100, "subsampling": 0}, "p.webp": {"lossless": True}}
    path = save(
        np.ascontiguousarray(_as_stored(colour, orientation)),
        name,
        exif=exif,
        **options.get(name, {}),
    )
    image = read_image(path, 3)
    assert image.shape == (18, 26, 3) and size_of(path) == (18, 26)
    np.testing.assert_allclose(image, in_range(colour), atol=0.05 if name == "p.jpg" else 1e-7)
    assert read_image(path, 1, (9, 13)).shape == (9, 13, 1)


def test_orientation_of_a_deep_picture(save):
    upright = np.arange(6 * 9, dtype=np.uint16).reshape(6, 9, 1) * 1000
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(np.ascontiguousarray(_as_stored(upright, 6)[:, :, 0]), exif=exif)
    np.testing.assert_allclose(read_image(path, 1), upright / 32767.5 - 1, atol=2e-7)


@pytest.mark.parametrize("orientation", [0, 9, 60000])
def test_senseless_orientation_is_ignored(save, colour, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert size_of(save(colour, "p.jpg", exif=exif)) == (18, 26)


def test_broken_exif_is_ignored(save, colour):
    path = save(colour, "p.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    assert read_image(path, 3).shape == (18, 26, 3)


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_resize_agrees_with_pillow_and_is_a_png(tmp_path, path):
    image = read_image(path, 3, (61, 47))
    with Image.open(path) as picture:
        resized = picture.convert("RGB").resize((47, 61), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(to_uint8(image), np.asarray(resized))
    write_png(tmp_path / "p.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "p.png", 3), image)


def test_the_sample_pictures():
    assert 5 <= len(PICTURES) <= 6
    credits = (DATA / "README.md").read_text(encoding="utf-8")
    for path in PICTURES:
        height, width = size_of(path)
        assert 256 <= max(height, width) <= 512
        assert read_image(path, 3).shape == (height, width, 3)
        assert f"`{path.name}` |" in credits and f"{width} × {height}" in credits
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 2e6


@pytest.mark.parametrize("channels", [0, 2, 4, "3"])
def test_other_channel_counts_are_a_programming_error(save, colour, channels):
    with pytest.raises(ValueError, match="channels"):
        read_image(save(colour), channels)


# Reading: bad files


def refused(path, wording):
    """`path` is refused with one sentence that names it; returns the sentence."""
    with pytest.raises(ImageError, match=wording) as caught:
        read_image(path, 1)
    message = str(caught.value)
    assert repr(str(path)) in message and "\n" not in message and not message.endswith(".")
    return message


def test_missing_empty_folder_pipe_and_text(tmp_path):
    refused(tmp_path / "nowhere.png", "does not exist")
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "is empty")
    refused(tmp_path, "is a folder")
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "not a regular file")
    (tmp_path / "text.png").write_text("not a picture\n" * 20)
    refused(tmp_path / "text.png", "is not a PNG, JPEG")
    refused(tmp_path / "two\nlines.png", "does not exist")


def test_names_that_lead_nowhere(tmp_path):
    refused(tmp_path / "a\0b", "cannot be read")
    refused("\ud800.png", "cannot be read")
    refused(os.fsdecode(b"\xff.png"), "does not exist")
    refused("x" * 300, "cannot be read: file name too long; name another file")
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "below", "cannot be read: not a directory")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    refused(tmp_path / "loop.png", "cannot be read: too many levels of symbolic links")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "none")
    refused(tmp_path / "nowhere.png", "does not exist")


@pytest.mark.parametrize(
    ("number", "wording"),
    [(errno.EACCES, "or those of its folder"), (errno.EIO, "cannot be read: input/output error")],
)
def test_what_the_system_refuses(tmp_path, monkeypatch, number, wording):
    def failing(path):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(opening, "open_regular", failing)
    with pytest.raises(ImageError, match=wording):
        read_image(tmp_path / "p.png", 1)


def test_no_permission(save, colour, monkeypatch):
    path = save(colour)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(opening, "open_regular", refuse)
    refused(path, "may not be read")


def test_other_formats_are_not_tried(tmp_path):
    # Pillow would hand this to Ghostscript.
    (tmp_path / "p.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    refused(tmp_path / "p.png", "is not a PNG, JPEG")


@pytest.mark.parametrize("name", ["p.png", "p.jpg", "p.bmp", "p.tif", "p.ppm", "p.webp"])
def test_truncated(save, name):
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(noise, name)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ImageError, match=r"p\.\w+' (cannot be read|is not a PNG)"):
        read_image(path, 3)


@pytest.mark.parametrize("side", [16385, 20000, 40000, 2**31 - 1])
def test_bombs_are_refused_from_the_header(tmp_path, side, monkeypatch):
    path = png(tmp_path / "bomb.png", side, 8, 0, [], height=side)
    monkeypatch.setattr(Image.Image, "load", None)  # decoding anything would fail differently
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)
    refused(path, "more than 268435456 pixels")


def test_large_but_allowed_says_nothing(tmp_path, recwarn):
    # Pillow warns from 89 million pixels on; this bare header claims 100 million.
    path = tmp_path / "large.bmp"
    path.write_bytes(
        b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 10000, 10000, 1, 24, 0, 0, 0, 0, 0, 0)
    )  # fmt: skip
    with opening.open_picture(path) as (picture, _):
        assert picture.size == (10000, 10000)
    assert len(recwarn) == 0


def test_text_bomb(tmp_path):
    text = b"comment\0\0" + zlib.compress(bytes(2**26), 9)
    path = png(tmp_path / "text.png", 8, 8, 0, [], (b"zTXt", text), height=8)
    refused(path, "cannot be read|is not a PNG")


def test_zero_size(tmp_path):
    path = tmp_path / "p.ppm"
    path.write_bytes(b"P6 0 5 255\n")
    refused(path, "without pixels|cannot be read|is not a PNG")


@pytest.mark.parametrize(
    "error", [OSError, SyntaxError, struct.error, IndexError, TypeError, KeyError, EOFError,
              zlib.error, OverflowError, RuntimeError, AttributeError, RecursionError]
)  # fmt: skip
def test_whatever_pillow_raises_is_an_image_error(save, colour, monkeypatch, error):
    def broken(*_):
        raise error("two\nlines " + "x" * 500)

    monkeypatch.setattr(Image.Image, "convert", broken)
    with pytest.raises(ImageError, match="damaged") as caught:
        read_image(save(colour), 1)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_out_of_memory(save, colour, monkeypatch):
    def broken(*_):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", broken)
    with pytest.raises(ImageError, match="fit into memory"):
        read_image(save(colour), 1)


def test_what_pillow_says_is_not_shown(save, colour, monkeypatch, caplog, capfd):
    convert = Image.Image.convert

    def talkative(*arguments):
        warnings.warn("about the picture", stacklevel=1)
        logging.getLogger("PIL.TiffImagePlugin").error("about the picture")
        os.write(2, b"about the picture")
        return convert(*arguments)

    monkeypatch.setattr(Image.Image, "convert", talkative)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(save(colour), 1).shape == (18, 26, 1)
    os.write(2, b"afterwards")
    logging.getLogger("PIL.TiffImagePlugin").error("afterwards")
    assert caplog.messages == ["afterwards"]
    assert capfd.readouterr().err == "afterwards"


def _samples(colour):
    """Small files of every format: what the fuzzer starts from."""
    rgb, exif = Image.fromarray(colour), Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(colour[:, :, 0].astype(np.uint16) * 200)
    rgba = Image.fromarray(np.dstack([colour, colour[:, :, 0]]))
    written = [
        (rgb, "PNG", {"exif": exif}), (rgb.quantize(16), "PNG", {"transparency": 3}),
        (deep, "PNG", {}), (rgba, "PNG", {}), (rgb, "JPEG", {"exif": exif}),
        (rgb, "JPEG", {"progressive": True}), (rgb.convert("CMYK"), "JPEG", {}),
        (rgba, "WEBP", {"exif": exif}), (rgba, "WEBP", {"lossless": True}), (rgb, "BMP", {}),
        (rgb.quantize(16), "BMP", {}), (rgb, "TIFF", {"exif": exif}), (deep, "TIFF", {}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}), (rgb, "TIFF", {"compression": "jpeg"}),
        (rgb.convert("1"), "TIFF", {"compression": "group4"}),
        (rgb.convert("F"), "TIFF", {"compression": "tiff_adobe_deflate"}),
        (rgb.quantize(16), "GIF", {"transparency": 3}), (rgb, "PPM", {}),
    ]  # fmt: skip
    for picture, kind, options in written:
        buffer = io.BytesIO()
        picture.save(buffer, format=kind, **options)
        yield buffer.getvalue()
    values = colour.astype(np.uint16) * 200
    yield encode_png(values)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric="rgb", compression="zlib")
    yield buffer.getvalue()


def _mutated(data, random):
    """One of: flipped bits, a cut, changed bytes near the start, bytes removed or repeated."""
    data, kind = bytearray(data), random.integers(5)
    if kind == 0:
        for _ in range(random.integers(1, 20)):
            data[random.integers(len(data))] ^= 1 << random.integers(8)
    elif kind == 1:
        del data[random.integers(len(data)) :]
    elif kind == 2:
        for _ in range(random.integers(1, 6)):
            value = random.choice([0, 1, 127, 128, 255, random.integers(256)])
            data[random.integers(min(80, len(data)))] = value
    elif kind == 3:
        start = random.integers(len(data))
        del data[start : start + random.integers(1, 30)]
    else:
        start, length = random.integers(len(data)), random.integers(1, 60)
        data[start:start] = data[start : start + length]
    return bytes(data)


def _with_valid_checksums(data):
    """A PNG whose checksums are corrected, so that damage reaches the decoder."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    fixed, position = bytearray(data), 8
    while position + 12 <= len(fixed):
        (length,) = struct.unpack_from(">I", fixed, position)
        end = position + 8 + length
        if end + 4 > len(fixed):
            break
        struct.pack_into(">I", fixed, end, zlib.crc32(fixed[position + 4 : end]))
        position = end + 4
    return bytes(fixed)


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.soak)])
def test_any_bytes_give_a_picture_or_an_image_error(tmp_path, colour, capfd, caplog, every):
    random = np.random.default_rng(3)
    path = tmp_path / "fuzz"
    read = refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ImageWarning)
        for sample in _samples(colour):
            for case in range(110):
                mutated = _with_valid_checksums(_mutated(sample, random))
                if case % every:
                    continue
                path.write_bytes(mutated if case else sample)
                try:
                    image = read_image(path, 3, (8, 12))
                except ImageError as error:
                    assert case > 0, error
                    refused += 1
                else:
                    assert image.shape == (8, 12, 3)
                    assert image.min() >= -1 and image.max() <= 1
                    read += 1
    assert read > 100 and refused > 100  # the mutations are neither too mild nor too wild
    assert not caplog.records
    assert capfd.readouterr().err == ""


# Sizes, conversion, writing


def test_fit_size():
    assert fit_size(300, 451, 256, "square") == (256, 256)
    assert fit_size(300, 451, 256, "keep") == (170, 256)
    assert fit_size(451, 300, 256, "keep") == (256, 170)
    assert fit_size(100, 100, 256, "keep") == (256, 256)
    assert fit_size(15, 256, 128, "keep") == (8, 128)  # 7.5 is rounded up
    with pytest.raises(ImageError, match=r"at least 8.*square"):
        fit_size(20, 4000, 256, "keep")
    with pytest.raises(ImageError, match="at least 8"):
        fit_size(100, 100, 7, "square")


@pytest.mark.parametrize(("bits", "kind"), [(8, np.uint8), (16, np.uint16)])
def test_to_integers_inverts_reading_and_rounds_to_nearest(bits, kind):
    white = 2**bits - 1
    levels = np.arange(white + 1)
    image = (levels.astype(np.float32) / np.float32(white / 2) - 1).reshape(16, -1, 1)
    integers = to_integers(image, bits)
    assert integers.dtype == kind
    np.testing.assert_array_equal(integers.ravel(), levels)
    for shift in (-0.49, 0.49):
        shifted = image.astype(np.float64) + shift / (white / 2)
        np.testing.assert_array_equal(to_integers(shifted, bits).ravel(), levels)
    beyond = np.array([-np.inf, -3, 3, np.inf])
    np.testing.assert_array_equal(to_integers(beyond, bits), [0, 0, white, white])
    with pytest.raises(ValueError, match="NaN"):
        to_integers(np.array([0, np.nan]), bits)
    if bits == 8:
        np.testing.assert_array_equal(to_uint8(image), integers)


def _decode(data):
    """The values of a PNG, by the book (filters 0 and 2 only)."""
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", data[at + 8 + length :][:4])[0]
        chunks[kind] = body
        at += 12 + length
    width, height, depth, colour_type, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, rest) == (16, [0, 0, 0])
    channels = {0: 1, 2: 3}[colour_type]
    raw = zlib.decompress(chunks[b"IDAT"])
    stride = 1 + 2 * width * channels
    above, rows = bytes(stride - 1), []
    assert len(raw) == stride * height
    for first in range(0, len(raw), stride):
        assert raw[first] in (0, 2)
        line = raw[first + 1 : first + stride]
        if raw[first] == 2:
            line = bytes((a + b) % 256 for a, b in zip(line, above))
        above = line
        rows.append(np.frombuffer(line, ">u2"))
    return np.array(rows).reshape(height, width, channels)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (1, 1), (1, 4, 3)])
def test_write_png_at_16_bits(tmp_path, shape):
    values = np.random.default_rng(4).integers(0, 65536, shape, dtype=np.uint16)
    for image in (values, values / 32767.5 - 1):
        write_png(tmp_path / "p.png", image, 16)
        decoded = _decode((tmp_path / "p.png").read_bytes())
        np.testing.assert_array_equal(decoded, values.reshape(decoded.shape))
        assert decoded.shape[:2] == shape[:2]
        channels = decoded.shape[2]
        read = to_integers(read_image(tmp_path / "p.png", channels), 16)
        np.testing.assert_array_equal(read, decoded)
        with Image.open(tmp_path / "p.png") as picture:  # what others make of it
            assert picture.mode == ("RGB" if channels == 3 else "I;16")
            picture.load()


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3)])
def test_write_png(tmp_path, shape):
    pixels = np.random.default_rng(4).integers(0, 256, shape, dtype=np.uint8)
    for image in (pixels, pixels / 127.5 - 1, (pixels / 127.5 - 1).astype(np.float32)):
        write_png(tmp_path / "p.png", image)
        with Image.open(tmp_path / "p.png") as picture:
            assert picture.format == "PNG" and picture.mode == ("RGB" if shape[2:] == (3,) else "L")
            np.testing.assert_array_equal(np.asarray(picture), np.squeeze(pixels))
    assert os.listdir(tmp_path) == ["p.png"]


@pytest.mark.parametrize("shape", [(5,), (5, 7, 2), (5, 7, 4), (0, 7), (1, 5, 7, 3)])
def test_write_png_refuses_other_shapes(tmp_path, shape):
    with pytest.raises(ValueError, match="shape"):
        write_png(tmp_path / "p.png", np.zeros(shape))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("failing", ["save", "replace", "interrupt"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, failing):
    write_png(tmp_path / "p.png", np.zeros((4, 4)))
    before = (tmp_path / "p.png").read_bytes()

    def full(_, file, **__):
        file.write(b"half a picture")
        raise KeyboardInterrupt if failing == "interrupt" else OSError("disk full")

    def denied(*_):
        raise OSError("not now")

    if failing == "replace":
        monkeypatch.setattr(os, "replace", denied)
    else:
        monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises((OSError, KeyboardInterrupt)):
        write_png(tmp_path / "p.png", np.ones((4, 4)))
    assert os.listdir(tmp_path) == ["p.png"]
    assert (tmp_path / "p.png").read_bytes() == before


def test_written_files_have_ordinary_permissions(tmp_path):
    (tmp_path / "other").touch()
    write_png(tmp_path / "p.png", np.zeros((4, 4)))
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("other", "p.png")]
    assert modes[0] == modes[1]


def test_write_png_to_a_missing_folder(tmp_path):
    with pytest.raises(OSError):
        write_png(tmp_path / "nowhere" / "p.png", np.zeros((4, 4)))
