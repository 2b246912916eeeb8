#!/usr/bin/env bash
# Jittor 1.3.11: item(), int() and bool() of an unsigned integer may return a wrong number, another each time.
#
# item() copies the element's one, two or four bytes into eight that nothing has set, and of an unsigned type takes
# all eight. The low bytes are right, the others whatever was there: a zero can be true. So a
# picture's x.max().item() is useless, while x.numpy() and x.int32().item() are right. Signed integers and
# floating-point numbers are converted from their own bytes. This is without a GPU.
#
# Seen on 2026-11-28 with jittor 1.3.11.0, numpy 1.26.4, Python 3.11.7, g++ 12.2: which of 0 ... 19 come back
#
#     uint8, uint16, uint32  item(): 0 of 20  tolist(): 20 of 20
#     int8, int16, int32     item(): 20 of 20 tolist(): 20 of 20
#
# and, for instance, 94265996058088 for the sum of 1000 ones of uint8, whose low byte is 1000 % 256 = 232.
set -euo pipefail
python="${PYTHON:-python3}" # 3.9 to 3.12
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==1.26.4 astunparse==1.6.3 six pillow tqdm
"$folder/env/bin/pip" install -q --no-deps jittor==1.3.11.0
cat >"$folder/item.py" <<'PYTHON'
import jittor as jt
import numpy as np

for kind in np.uint8, np.uint16, np.uint32, np.int8, np.int16, np.int32:
    each = [jt.array(np.array([number], kind)) for number in range(20)]
    right = sum(var.item() == number for number, var in enumerate(each))
    low = all(var.item() % 256 ** np.dtype(kind).itemsize == number for number, var in enumerate(each))
    lists = sum(var.tolist() == [number] for number, var in enumerate(each))
    signed = sum(var.int32().item() == number for number, var in enumerate(each))
    print(f"seen: {kind.__name__:6}  item(): {right} of 20  tolist(): {lists} of 20  int32().item(): {signed} of 20")
    assert low and lists == signed == 20
    assert (right < 20) == kind.__name__.startswith("u")
print("seen: all as expected")
PYTHON
HOME="$folder" use_mkl=0 use_mpi=0 nvcc_path="" log_silent=1 \
  python_config_path="$(dirname "$(readlink -f "$folder/env/bin/python")")/python3-config" \
  "$folder/env/bin/python" "$folder/item.py" 2>&1 | tee "$folder/log" | grep -o "seen: .*\|.*Error.*" || true
grep -q "seen: all as expected" "$folder/log"
