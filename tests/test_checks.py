"""Arrays that are no pictures are refused by everything that takes pictures."""

import numpy as np
import pytest

import siren
from siren.pictures import checked_image

PICTURE = np.random.default_rng(0).uniform(-1, 1, (12, 10, 1)).astype(np.float32)
TASKS = {
    "fit": lambda image: siren.Fit(image),
    "poisson": lambda image: siren.Poisson(image, "fd"),
    "inpaint": lambda image: siren.Inpaint(image, 20, 0),
    "edit": lambda image: siren.Edit(image, PICTURE, "fd", "mixed", 0.5),
    "edit, other": lambda image: siren.Edit(PICTURE, image, "fd", "mixed", 0.5),
}


def with_value(value):
    picture = PICTURE.copy()
    picture[3, 4] = value
    return picture


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("image", "kind", "wording"),
    [
        (np.ma.masked_array(PICTURE, PICTURE > 0), TypeError, "is a masked array"),
        (np.ma.masked_array(PICTURE), TypeError, "is a masked array"),
        (with_value(np.nan), ValueError, r"NaN or infinite \(1 of 120\)"),
        (with_value(-np.inf), ValueError, r"NaN or infinite \(1 of 120\)"),
        ((PICTURE * 100 + 100).astype(np.uint8), TypeError, r"uint8.*image / 127.5 - 1"),
        (PICTURE.astype(np.int32), TypeError, "int32"),
        (PICTURE > 0, TypeError, "bool"),
        (PICTURE.astype(complex), TypeError, "complex"),
        (PICTURE.tolist(), TypeError, "is a list, not a NumPy array"),
        (PICTURE[..., 0], ValueError, r"\(12, 10\), not \(height, width, channels\)"),
        (PICTURE[:0], ValueError, r"shape \(0, 10, 1\)"),
    ],
)
def test_no_task_takes_what_is_no_picture(task, image, kind, wording):
    with pytest.raises(kind, match=wording):
        TASKS[task](image)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_floats_become_float32(task, kind):
    image = PICTURE.astype(np.float16)
    made, expected = TASKS[task](image.astype(kind)), TASKS[task](image.astype(np.float32))
    assert made.reference.dtype == np.float32
    np.testing.assert_array_equal(made.reference, expected.reference)
    np.testing.assert_array_equal(made.points.target, expected.points.target)


def test_an_image_of_another_scale_is_warned_of():
    with pytest.warns(UserWarning, match="image has values from 0 to 255; black is -1"):
        siren.Fit(np.linspace(0, 255, 120, dtype=np.float32).reshape(12, 10, 1))
    assert checked_image(PICTURE) is PICTURE


def test_images_of_one_edit_have_one_shape():
    with pytest.raises(ValueError, match="other has shape"):
        siren.Edit(PICTURE, PICTURE[1:], "fd", "mixed", 0.5)


@pytest.mark.parametrize(
    ("mask", "kind", "wording"),
    [
        (np.ma.masked_array(PICTURE[..., 0] > 0), TypeError, "is a masked array"),
        ((PICTURE[..., 0] > 0).astype(np.uint8), TypeError, "uint8, not a bool array"),
        (PICTURE > 0, ValueError, "has shape"),
        (PICTURE[1:, :, 0] > 0, ValueError, "has shape"),
    ],
)
def test_masks_are_bool_and_of_the_image(mask, kind, wording):
    with pytest.raises(kind, match=f"missing .*{wording}"):
        siren.Inpaint(PICTURE, 0, 0, missing=mask)
    with pytest.raises(kind, match=f"region .*{wording}"):
        siren.Edit(PICTURE, PICTURE, "fd", "mixed", 0.5, region=mask)


def test_masked_arrays_are_neither_shown_nor_written(tmp_path):
    masked = np.ma.masked_array(PICTURE, PICTURE > 0)
    for use in (
        lambda: siren.show(masked),
        lambda: siren.write_png(tmp_path / "p.png", masked),
    ):
        with pytest.raises(TypeError, match="is a masked array"):
            use()
    assert not list(tmp_path.iterdir())
