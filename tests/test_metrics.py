import math
from pathlib import Path

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from siren.images import read_image
from siren.metrics import psnr, ssim

DATA = Path(__file__).parents[1] / "data"


def pairs():
    """(image, reference) on random and real, gray and colour, square and narrow pictures."""
    random = np.random.default_rng(0)
    for shape in ((7, 7, 1), (8, 31, 3), (64, 48, 3), (40, 40, 1)):
        yield random.uniform(-1, 1, shape), random.uniform(-1, 1, shape)
    for name, channels in (("camera.png", 1), ("chelsea.png", 3), ("flower.jpg", 3)):
        reference = read_image(DATA / name, channels, (90, 120))
        noise = random.normal(0, 0.1, reference.shape).astype(np.float32)
        yield np.clip(reference + noise, -1, 1), reference
        yield reference * 0.5 + 0.2, reference
        yield np.full_like(reference, 0.3), reference


@pytest.mark.parametrize("image, reference", list(pairs()))
def test_agree_with_scikit_image(image, reference):
    """On all pixels, and on those of a mask."""
    wide = image.astype(np.float64), reference.astype(np.float64)
    theirs, similarity = structural_similarity(*wide, data_range=2, channel_axis=-1, full=True)
    assert ssim(image, reference) == pytest.approx(theirs, abs=1e-9)
    theirs = peak_signal_noise_ratio(*wide[::-1], data_range=2)
    assert psnr(image, reference) == pytest.approx(theirs, abs=1e-9)

    mask = np.random.default_rng(1).random(image.shape[:2]) < 0.4
    mask[3, 3] = True
    inside = np.zeros_like(mask)
    inside[3:-3, 3:-3] = True
    assert ssim(image, reference, mask) == pytest.approx(similarity[mask & inside].mean(), abs=1e-9)
    theirs = peak_signal_noise_ratio(wide[1][mask], wide[0][mask], data_range=2)
    assert psnr(image, reference, mask=mask) == pytest.approx(theirs, abs=1e-9)


def test_psnr_by_hand():
    assert psnr([0.2], [0.0]) == pytest.approx(20)  # 10 log10(4 / 0.04)
    # Bytes are compared as numbers, without wrapping around.
    assert psnr(np.uint8([0]), np.uint8([255])) == pytest.approx(20 * math.log10(2 / 255))
    image = np.array([[0.0, 2.0]])
    assert psnr(image, 0 * image, mask=np.array([[False, True]])) == pytest.approx(0)
    assert psnr(image, 0 * image, mask=np.array([[True, False]])) == math.inf


def test_equal_images():
    image = np.random.default_rng(2).uniform(-1, 1, (20, 9, 3)).astype(np.float32)
    assert psnr(image, image) == math.inf
    assert ssim(image, image) == pytest.approx(1, abs=1e-12)


def test_a_gray_image_with_and_without_a_channel_axis():
    image, reference = np.random.default_rng(3).uniform(-1, 1, (2, 12, 15))
    assert ssim(image, reference) == pytest.approx(ssim(image[..., None], reference[..., None]))
    assert type(ssim(image, reference)) is type(psnr(image, reference)) is float


def test_ssim_is_symmetric_and_falls_with_noise():
    reference = read_image(DATA / "camera.png", 1, (64, 64))
    noise = np.random.default_rng(4).normal(size=reference.shape)
    scores = [ssim(reference + level * noise, reference) for level in (0.01, 0.05, 0.2, 0.8)]
    assert scores == sorted(scores, reverse=True) and scores[0] > 0.9 and scores[-1] < 0.3
    assert ssim(reference + noise, reference) == pytest.approx(ssim(reference, reference + noise))


def test_not_a_number_shows():
    image = np.zeros((9, 9))
    image[4, 4] = np.nan
    assert math.isnan(psnr(image, np.zeros((9, 9)))) and math.isnan(ssim(image, np.zeros((9, 9))))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_errors(metric):
    image = np.zeros((9, 8, 3))
    with pytest.raises(ValueError, match="shapes differ"):
        metric(image, image[:, :, :1])  # which NumPy would broadcast
    for mask in (np.ones((8, 9), bool), np.ones((9, 8), int), np.ones((9, 8, 3), bool)):
        with pytest.raises((TypeError, ValueError), match=r"^mask "):
            metric(image, image, mask=mask)


def test_no_pixel_at_all():
    nothing = np.zeros((9, 8), bool)
    with pytest.raises(ValueError, match="no pixel"):
        psnr(np.zeros((9, 8)), np.zeros((9, 8)), mask=nothing)
    assert ssim(np.zeros((9, 8)), np.zeros((9, 8)), nothing) is None


def test_ssim_needs_its_window():
    for shape in ((6, 7), (7, 6, 3), (49,)):
        with pytest.raises(ValueError, match="at least 7 x 7"):
            ssim(np.zeros(shape), np.zeros(shape))
    border = np.ones((9, 9), bool)
    border[3:-3, 3:-3] = False
    assert ssim(np.zeros((9, 9)), np.zeros((9, 9)), border) is None
