#!/usr/bin/env bash
# fpie (Fast Poisson Image Editing) 0.3.4: its 5000 iterations do not reach the solution beyond some 64 x 64 pixels.
# Larger regions come out too pale, by 83 of 255 gray levels at 256 x 256.
#
# The solver is Jacobi's and begins with the destination. What is as wide as a region of n x n pixels comes closer by
# a factor of cos(pi / (n + 1)) per iteration, so that the iterations needed grow with the number of pixels. The
# "abs error" that it prints is a sum of residuals and does not say how far off the result is.
#
# Here a hill of 120 gray levels is pasted into flat ground as high as its edge. The solution, which SciPy's
# sparse solver finds too, is the hill itself.
#
# Seen on 2026-11-28 with fpie 0.3.4, numpy 2.2.6, scipy 1.15.3, all options but the backend (numpy) left alone: how
# far the result is from the hill, in gray levels at most
#
#                fpie  SciPy
#      64 x  64     1    0.0
#     128 x 128    26    0.0
#     256 x 256    83    0.0
set -euo pipefail
python="${PYTHON:-python3}" # 3.10 to 3.13
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/env"
"$folder/env/bin/pip" install -q fpie==0.3.4 numpy==2.2.6 scipy==1.15.3 opencv-python-headless==4.12.0.88
cat >"$folder/hill.py" <<'PYTHON'
import subprocess
import sys

import cv2
import numpy as np
from scipy.sparse import diags_array, eye_array, kron
from scipy.sparse.linalg import spsolve


def exact(source, ground):
    """The solution within a frame of ground, one pixel wide."""
    inner = source.shape[0] - 2
    line = diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(inner, inner))
    one = eye_array(inner)
    high = source.astype(float) - ground  # so that the frame adds nothing to the right side
    middle = high[1:-1, 1:-1]
    right = 4 * middle - high[:-2, 1:-1] - high[2:, 1:-1] - high[1:-1, :-2] - high[1:-1, 2:]
    return spsolve((kron(line, one) + kron(one, line)).tocsc(), right.ravel()).reshape(inner, inner) + ground


def distances(side):
    """How far the result of fpie, and that of SciPy, is from the hill."""
    y, x = np.mgrid[:side, :side] / (side - 1)
    hill = np.rint(60 + 120 * np.sin(np.pi * x) * np.sin(np.pi * y)).astype(np.uint8)
    hill = np.pad(hill[1:-1, 1:-1], 1, constant_values=60)
    for name, picture in ("source", hill), ("target", np.full_like(hill, 60)), ("mask", np.full_like(hill, 255)):
        cv2.imwrite(f"{name}.png", np.repeat(picture[..., None], 3, 2))
    files = "-s", "source.png", "-t", "target.png", "-m", "mask.png", "-o", "result.png"
    subprocess.run([sys.argv[1], *files, "-b", "numpy"], check=True, capture_output=True)
    result = cv2.imread("result.png")[..., 0].astype(float)
    return abs(result - hill).max(), abs(exact(hill, 60) - hill[1:-1, 1:-1]).max()


seen = {}
for side in 64, 128, 256:
    seen[side], solver = distances(side)
    print(f"{side:3} x {side:3}  fpie {seen[side]:3.0f}  SciPy {solver:.1f}")
    assert solver < 0.1
assert seen[64] <= 2 and 15 < seen[128] < 40 and seen[256] > 60
PYTHON
cd "$folder"
env/bin/python hill.py env/bin/fpie
