#!/usr/bin/env bash
# Jittor 1.3.11 without a GPU: sum() and mean() over all elements add them up in one number of the array's own type.
# A mean over a large picture or batch is then off by percents, and beyond 2^24 ones it stops growing.
#
# NumPy adds float32 in pairs, which keeps most digits. Here each element goes straight onto one float32, which
# in the end is millions of times larger than what is added. The mean over one axis after the other is
# right, and so is that of x.float64(). The sum of uint8 is a uint8 as well.
#
# Seen on 2026-11-28 with jittor 1.3.11.0, numpy 1.26.4, Python 3.11.7, g++ 12.2:
#
#     mean of 2^25 ones                       0.5
#     mean of 4096 x 4096 times 0.1           0.11534
#     the same, first over one axis           0.100006
#     the same, float64                       0.1
#     mean square, 2048 x 2048 uniform        0.3 % low
#     mean square, 4096 x 4096 uniform        2.1 % low
#     sum of 1000 ones, uint8                 232
set -euo pipefail
python="${PYTHON:-python3}" # 3.9 to 3.12
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==1.26.4 astunparse==1.6.3 six pillow tqdm
"$folder/env/bin/pip" install -q --no-deps jittor==1.3.11.0
cat >"$folder/sums.py" <<'PYTHON'
import jittor as jt
import numpy as np


def show(what, value):
    print(f"seen: {what:38}  {value}")


def low(side):
    """By how many percent Jittor's mean square of uniform numbers is too low."""
    x = np.random.default_rng(0).random((side, side), np.float32)
    var = jt.array(x)
    return 100 * (1 - (var * var).mean().item() / np.square(x, dtype=np.float64).mean())


ones = jt.ones((2**25,)).mean().item()
show("mean of 2^25 ones", ones)
tenth = np.full((4096, 4096), 0.1, np.float32)
whole, axes = jt.array(tenth).mean().item(), jt.array(tenth).mean(1).mean(0).item()
double = jt.array(tenth).float64().mean().item()
show("mean of 4096 x 4096 times 0.1", f"{whole:.6g}")
show("the same, first over one axis", f"{axes:.6g}")
show("the same, float64", f"{double:.6g}")
show("the same, NumPy, float32", f"{tenth.mean():.6g}")
small, large = low(2048), low(4096)
show("mean square, 2048 x 2048 uniform", f"{small:.1f} % low")
show("mean square, 4096 x 4096 uniform", f"{large:.1f} % low")
bytes_ = int(jt.array(np.ones(1000, np.uint8)).sum().numpy()[0])
show("sum of 1000 ones, uint8", bytes_)
assert ones == 0.5 and bytes_ == 1000 % 256
assert abs(whole - 0.1) > 0.01 and abs(axes - 0.1) < 1e-4 and abs(double - 0.1) < 1e-6
assert 0.1 < small < large and large > 1
print("seen: all as expected")
PYTHON
HOME="$folder" use_mkl=0 use_mpi=0 nvcc_path="" log_silent=1 \
  python_config_path="$(dirname "$(readlink -f "$folder/env/bin/python")")/python3-config" \
  "$folder/env/bin/python" "$folder/sums.py" 2>&1 | tee "$folder/log" | grep -o "seen: .*\|.*Error.*" || true
grep -q "seen: all as expected" "$folder/log"
