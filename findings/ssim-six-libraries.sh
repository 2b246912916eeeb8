#!/usr/bin/env bash
# SSIM, six libraries, one pair of pictures: called with nothing but them, four values between 0.69 and 0.83.
#
# They differ in three things. The window: uniform, 7 x 7 (scikit-image) or 11 x 11 (sewar), or 11 x 11 Gaussian of
# sigma 1.5 (the others). The variance: divided by one less than the number of weights (scikit-image), or not.
# The edge: windows within the picture only, or extended ones too (torchmetrics, kornia, OpenCV). With options
# they fall into two groups, A and B, each of which agrees to four digits or more.
#
# Seen on 2026-11-28, of 64 x 64 pixels of scikit-image's camera, one copy blurred and with noise, 0 to 255:
#
#     scikit-image 0.26.0                                  0.74269
#     the same, gaussian_weights=True                      0.71588
#     sewar 0.4.10                                         0.82842
#     A: the same, Gaussian of sigma 1.5                   0.71649
#     A: scikit-image, gaussian_weights=True and
#        use_sample_covariance=False                       0.71649
#     A: pytorch-msssim 1.0.0                              0.71649
#     A: kornia 0.9.0, padding="valid"                     0.71649
#     B: kornia 0.9.0                                      0.69319
#     B: torchmetrics 1.9.0                                0.69319
#     B: OpenCV 4.12.0, quality module                     0.69319
set -euo pipefail
python="${PYTHON:-python3}" # 3.11 to 3.13
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 torchmetrics==1.9.0 pytorch-msssim==1.0.0 kornia==0.9.0 sewar==0.4.10 \
  scikit-image==0.26.0 scipy==1.17.1 opencv-contrib-python-headless==4.12.0.88 numpy==2.2.6
cat >"$folder/ssim.py" <<'PYTHON'
import cv2
import numpy as np
import sewar
import torch
from kornia.metrics import ssim as of_kornia
from pytorch_msssim import ssim as of_msssim
from scipy.ndimage import gaussian_filter
from skimage.data import camera
from skimage.metrics import structural_similarity as of_skimage
from torchmetrics.functional.image import structural_similarity_index_measure as of_torchmetrics

whole = camera()
noise = np.random.default_rng(0).normal(0, 8, whole.shape)
other = np.clip(gaussian_filter(whole.astype(float), 1) + noise, 0, 255).round().astype(np.uint8)
one, other = whole[100:164, 200:264].copy(), other[100:164, 200:264].copy()
x, y = (torch.from_numpy(each.astype(np.float32))[None, None] for each in (one, other))
gauss = {"fltr": sewar.utils.Filter.GAUSSIAN, "sigma": 1.5, "ws": 11}
values = {
    "scikit-image": of_skimage(one, other),
    "the same, gaussian_weights": of_skimage(one, other, gaussian_weights=True),
    "sewar": sewar.ssim(one, other)[0],
    "A: the same, Gaussian": sewar.ssim(one, other, fltr_specs=gauss)[0],
    "A: scikit-image": of_skimage(one, other, gaussian_weights=True, use_sample_covariance=False),
    "A: pytorch-msssim": of_msssim(x, y, data_range=255),
    "A: kornia, valid": of_kornia(x, y, 11, 255.0, padding="valid").mean(),
    "B: kornia": of_kornia(x, y, 11, 255.0).mean(),
    "B: torchmetrics": of_torchmetrics(y, x, data_range=255.0),
    "B: OpenCV": cv2.quality.QualitySSIM_compute(one, other)[0][0],
}
for name, value in values.items():
    print(f"{name:28}{float(value):.5f}")
expected = 0.74269, 0.71588, 0.82842, 0.71649, 0.71649, 0.71649, 0.71649, 0.69319, 0.69319, 0.69319
assert all(abs(float(value) - each) < 2e-5 for value, each in zip(values.values(), expected, strict=True))
PYTHON
"$folder/env/bin/python" -W ignore "$folder/ssim.py"
