"""Masks as people draw them, and their scaling together with the picture."""

import warnings

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from siren import images
from siren.images import masks
from siren.samples import compact

SHAPE = np.zeros((40, 60), bool)
SHAPE[5:15, 10:40] = True
U8 = SHAPE.astype(np.uint8)


def coloured(shape, ground):
    shape, ground = (np.broadcast_to(np.uint8(colour), 3) for colour in (shape, ground))
    return np.where(SHAPE[..., None], shape, ground)


def with_alpha(colour, alpha):
    return np.dstack([np.broadcast_to(np.uint8(colour), (*alpha.shape, 3)), alpha])


def palette(*colours):
    picture = Image.fromarray(U8, "L").convert("P")
    picture.putdata(U8.ravel())
    picture.putpalette(sum(colours, ()))
    return picture


def soft(largest):
    return ndimage.gaussian_filter(largest * SHAPE, 1.0)


@pytest.fixture
def save(tmp_path):
    def save(picture, name="mask.png", **options):
        if not isinstance(picture, Image.Image):
            picture = Image.fromarray(picture)
        picture.save(tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.mark.parametrize(
    ("picture", "name"),
    [
        (255 * U8, "p.png"),
        (255 * U8, "p.jpg"),
        (255 * U8, "p.gif"),
        (255 * U8, "p.bmp"),
        (65535 * U8.astype(np.uint16), "p.png"),
        (SHAPE.astype(np.float32), "p.tif"),
        (255 * SHAPE.astype(np.float32), "p.tif"),
        (Image.fromarray(255 * U8).convert("1"), "p.png"),
        (Image.fromarray(255 * U8).convert("1"), "p.tif"),
        (coloured((255, 0, 0), 0), "p.png"),
        (coloured((0, 200, 0), 0), "p.png"),
        (coloured((0, 0, 90), 0), "p.png"),
        (coloured((255, 0, 0), 0), "p.jpg"),
        (palette((0, 0, 0), (128, 0, 0)), "p.png"),
        (palette((0, 0, 0), (255, 255, 255)), "p.gif"),
        (Image.fromarray(coloured(255, 0)).convert("CMYK"), "p.jpg"),
        (with_alpha(255, 255 * U8), "p.png"),
        (with_alpha((255, 0, 0), 255 * U8), "p.png"),
        (np.dstack([coloured(255, 0), np.full_like(U8, 255)]), "p.png"),
        (np.dstack([coloured((0, 255, 0), 0), 255 * U8]), "p.webp"),
    ],
)
def test_what_is_drawn_is_what_is_meant(save, picture, name):
    path = save(picture, name, **({"lossless": True} if name == "p.webp" else {}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(masks.read_mask(path), SHAPE)


@pytest.mark.parametrize("value", [1, 7, 100])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_two_values_are_black_and_white_and_told(save, value, kind):
    with pytest.warns(images.ImageWarning, match=f"0 and {value} of {np.iinfo(kind).max}"):
        mask = masks.read_mask(save((value * U8).astype(kind)))
    np.testing.assert_array_equal(mask, SHAPE)


def test_soft_edges_are_cut_at_half(save):
    expected = np.rint(soft(255.0)) > 127
    np.testing.assert_array_equal(masks.read_mask(save(np.uint8(np.rint(soft(255.0))))), expected)
    alpha = np.uint8(np.rint(soft(255.0)))
    np.testing.assert_array_equal(masks.read_mask(save(with_alpha(255, alpha))), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_upright_as_a_picture_is(save, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(255 * U8, exif=exif)
    np.testing.assert_array_equal(masks.read_mask(path), images.read_image(path, 1)[..., 0] > 0)


def test_a_photograph_is_used_but_told(save):
    ramp = np.tile(np.uint8(np.arange(0, 256, 4)), (40, 1))
    with pytest.warns(images.ImageWarning, match="neither black nor white"):
        np.testing.assert_array_equal(masks.read_mask(save(ramp)), ramp > 127)


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (0 * U8, "black everywhere .*from 0 to 0, of 255"),
        (0 * U8 + 255, "white everywhere .*from 255 to 255, of 255"),
        (0 * U8 + 1, "largest value of .* is 1 of 255"),
        (128 + 127 * U8, "white everywhere .*from 128 to 255, of 255"),
        (U8 + (np.arange(60) > 20).astype(np.uint8), "largest value of .* is 2 of 255"),
        (U8 + 254 * np.roll(U8, 20, 0), "0 and 1 and 254"),
        (np.uint8(soft(100.0)), "largest value of .* is [0-9]* of 255, and it holds 0 to"),
        (coloured((255, 0, 0), 255), "unclear"),
        (coloured((255, 0, 0), (0, 0, 255)), "unclear"),
        (palette((255, 0, 0), (0, 255, 0)), "unclear"),
        (with_alpha(0, 255 * U8), "black shapes on a transparent ground"),
        (with_alpha(255, 0 * U8), "transparent everywhere"),
        (np.dstack([coloured(255, 0), 255 * np.roll(U8, 10, 1)]), "light, dark and transparent"),
    ],
)
def test_what_could_be_meant_in_two_ways_is_refused(save, picture, reason):
    with pytest.raises(images.ImageError, match=reason):
        masks.read_mask(save(picture))


# Scaling


def hole(kind, height, width):
    random, mask = np.random.default_rng(1), np.zeros((height, width), bool)
    if kind == "square":
        mask[height // 5 : height // 2, width // 3 : 2 * width // 3] = True
    elif kind == "dots":
        mask = random.random((height, width)) < 0.02
    elif kind == "line":
        mask[:, width // 3] = True
    else:
        mask = np.indices((height, width)).sum(0) % 2 == 0
    return mask


@pytest.mark.parametrize("kind", ["square", "dots", "line", "checkers"])
@pytest.mark.parametrize("size", [(64, 64), (33, 77), (8, 8), (150, 131), (600, 300)])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_hole_never_leaks_into_what_is_given(save, kind, size, depth):
    drawn = hole(kind, 180, 220)
    mask = masks.scale_mask(drawn, size)
    random, white = np.random.default_rng(2), np.iinfo(depth).max
    picture = random.integers(0, white // 3, drawn.shape).astype(depth)
    results = []
    for content in (0, white):
        path = save(np.where(drawn, depth(content), picture))
        image = images.read_image(path, 1, size, given=~drawn, pure=~mask)[..., 0]
        results.append(image)
        np.testing.assert_array_equal(image[mask], images.read_image(path, 1, size)[..., 0][mask])
    np.testing.assert_array_equal(results[0][~mask], results[1][~mask])
    flat = save(np.where(drawn, depth(white), depth(128)))
    image = images.read_image(flat, 3, size, given=~drawn, pure=~mask)[~mask]
    np.testing.assert_allclose(image, 128 / (white / 2) - 1, atol=1e-6)


def test_given_pixels_far_from_a_hole_are_those_of_plain_scaling(save):
    drawn = hole("square", 180, 220)
    path = save(np.random.default_rng(3).integers(0, 256, (180, 220, 3)).astype(np.uint8))
    mask = masks.scale_mask(drawn, (45, 55))
    image = images.read_image(path, 3, (45, 55), given=~drawn, pure=~mask)
    far = ~ndimage.binary_dilation(mask, iterations=4)
    np.testing.assert_array_equal(image[far], images.read_image(path, 3, (45, 55))[far])
    assert compact(image)[0].dtype == np.uint8


@pytest.mark.parametrize("factor", [2, 4, 5])
def test_a_scaled_pixel_is_true_if_more_than_a_tenth_of_it_is(factor):
    drawn = np.random.default_rng(4).random((40, 60)) < 0.1
    blocks = drawn.reshape(40 // factor, factor, 60 // factor, factor).mean((1, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", images.ImageWarning)
        scaled = masks.scale_mask(drawn, blocks.shape)
    np.testing.assert_array_equal(scaled, blocks > 0.1 + 1e-6)


def test_shapes_that_vanish_are_told(save):
    drawn = hole("square", 400, 400)
    drawn[5:7, 5:7] = drawn[30, 200:300] = True
    told = "2 of the 3 white shapes of 'm.png' .* at 20 x 20"
    with pytest.warns(images.ImageWarning, match=told):
        scaled = masks.scale_mask(drawn, (20, 20), "'m.png'")
    assert scaled.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert masks.scale_mask(drawn, (300, 300)).any()


def test_a_mask_of_another_size_is_laid_over_the_picture():
    drawn = np.array([[True, False], [False, False]])
    expected = np.zeros((6, 8), bool)
    expected[:3, :4] = True
    np.testing.assert_array_equal(images.fit_mask(drawn, (6, 8)), expected)
    np.testing.assert_array_equal(images.fit_mask(expected, (2, 2)), drawn)


def test_hidden_colours_of_transparent_pixels_do_not_leak(save):
    alpha = np.where(SHAPE, np.uint8(0), np.uint8(255))
    pictures = [with_alpha(np.where(SHAPE[..., None], hidden, 90), alpha) for hidden in (0, 255)]
    first, second = (images.read_image(save(picture), 3, (17, 23)) for picture in pictures)
    np.testing.assert_array_equal(first, second)
