#!/usr/bin/env bash
# OpenCV: seamlessClone with MIXED_CLONE loses what runs along one of the two diagonals, however strong it is.
#
# At each pixel the mode keeps the stronger of the gradients of source and destination. What it compares seems
# to be the difference of a gradient's two components, not its length: across stripes along which x + y is
# constant both are equal, and count as nothing. Over flat ground, where a source always has the
# stronger gradient, such stripes vanish. With both pictures upside down they are all there.
#
# Seen on 2026-11-28 with opencv-python-headless 4.12.0.88 and 5.0.0.93: standard deviation of the result where
# stripes of 60 and 180 (by themselves: 60) are pasted over flat 128
#
#                                   NORMAL_CLONE  MIXED_CLONE
#     x - y constant along stripes  60.0          60.0
#     x + y constant along stripes  60.0          0.0
#     the same, upside down         60.0          60.0
#     upright, level                60.4          60.4
#
# The mask has three channels, since opencv-clone-changes-mask.sh would mix in with one.
set -euo pipefail
python="${PYTHON:-python3}" # 3.10 to 3.13
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/env"
cat >"$folder/mixed.py" <<'PYTHON'
import cv2
import numpy as np

print("OpenCV", cv2.__version__)
y, x = np.mgrid[:96, :96]
square = np.where((abs(x - 48) < 40) & (abs(y - 48) < 40), 255, 0).astype(np.uint8)
mask = np.repeat(square[..., None], 3, 2)
seen = {}
for name, along in ("x - y", x - y), ("x + y", x + y), ("the same, upside down", None), ("upright", x), ("level", y):
    if along is None:
        source = source[::-1].copy()
    else:
        source = np.repeat((60 + 120 * (along // 4 % 2)).astype(np.uint8)[..., None], 3, 2)
    flat = np.full_like(source, 128)
    seen[name] = [
        float(cv2.seamlessClone(source, flat, mask, (48, 48), mode)[20:-20, 20:-20].std())
        for mode in (cv2.NORMAL_CLONE, cv2.MIXED_CLONE)
    ]
    print(f"  {name:21}  NORMAL_CLONE {seen[name][0]:5.1f}  MIXED_CLONE {seen[name][1]:5.1f}")
assert seen["x + y"][0] > 55 and seen.pop("x + y")[1] < 1
assert min(min(each) for each in seen.values()) > 55
PYTHON
for version in 4.12.0.88 5.0.0.93; do
  "$folder/env/bin/pip" install -q numpy==2.2.6 opencv-python-headless=="$version"
  "$folder/env/bin/python" "$folder/mixed.py"
done
