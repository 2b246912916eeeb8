#!/usr/bin/env bash
# OpenCV: seamlessClone writes into the mask it is given, if that has one channel. Who calls it again with
# the same mask, say for each frame of a film, gets the source in one frame and not in the next.
#
# The function works on the array itself. After a first call a square has no more than an outline of three
# pixels; a third call shows the source again. An array that NumPy marks as read-only is changed as well.
# A mask of three channels stays as it was. Whoever compares NORMAL_CLONE with MIXED_CLONE by one
# mask of one channel sees what this does, and not how the two differ.
#
# Seen on 2026-11-28 with opencv-python-headless 4.12.0.88 and 5.0.0.93, a square of 79 x 79, flat destination:
#
#     mask of 1 channel   pixels of the mask changed: 5329  calls whose result has the source: 1st, 3rd
#     the same, read-only                             5329                                     1st, 3rd
#     mask of 3 channels                              0                                        1st, 2nd, 3rd
set -euo pipefail
python="${PYTHON:-python3}" # 3.10 to 3.13
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/env"
cat >"$folder/mask.py" <<'PYTHON'
import cv2
import numpy as np

print("OpenCV", cv2.__version__)
y, x = np.mgrid[:120, :120]
stripes = np.repeat((60 + 120 * ((x - y) // 4 % 2)).astype(np.uint8)[..., None], 3, 2)
flat = np.full_like(stripes, 128)
square = np.where((abs(x - 60) < 40) & (abs(y - 60) < 40), 255, 0).astype(np.uint8)


def calls(name, mask, writable):
    """How many pixels three calls change in the mask, and which of their results show the source."""
    before = mask.copy()
    mask.flags.writeable = writable
    changed, shown = 0, []
    for number in 1, 2, 3:
        result = cv2.seamlessClone(stripes, flat, mask, (60, 60), cv2.NORMAL_CLONE)
        changed = max(changed, int((mask != before).sum()))
        if result[40:80, 40:80].std() > 30:
            shown.append(number)
    print(f"  {name:19}  pixels of the mask changed: {changed:4}  calls whose result has the source: {shown}")
    return changed > 0, shown


assert calls("mask of 1 channel", square.copy(), True) == (True, [1, 3])
assert calls("the same, read-only", square.copy(), False) == (True, [1, 3])
assert calls("mask of 3 channels", np.repeat(square[..., None], 3, 2), True) == (False, [1, 2, 3])
PYTHON
for version in 4.12.0.88 5.0.0.93; do
  "$folder/env/bin/pip" install -q numpy==2.2.6 opencv-python-headless=="$version"
  "$folder/env/bin/python" "$folder/mask.py"
done
