#!/usr/bin/env bash
# Jittor 1.3.11: once it has run an operator, NumPy and Python in that process take subnormal numbers for 0.
#
# Importing Jittor and jt.array change nothing. The first operator that it compiles is a library linked with -Ofast;
# up to g++ 12, as gcc-ofast-subnormal-root.sh shows, loading one switches the processor to that mode, for the
# thread that loads it. Threads started afterwards inherit it; one that ran before keeps subnormal numbers. From
# then on 5e-324 equals 0, np.nextafter(0, 1) > 0 is false, np.finfo warns, and NumPy prints array([0.]), in
# code that has nothing to do with Jittor.
#
# Seen on 2026-11-28 with jittor 1.3.11.0, numpy 1.26.4, Python 3.11.7, g++ 12.2, x86-64, for 5e-324 times 1:
#
#                          main thread  new thread
#     before the import    5e-324       5e-324
#     after the import     5e-324       5e-324
#     after jt.array       5e-324       5e-324
#     after an operator    0            0           a thread from before the import: 5e-324
set -euo pipefail
python="${PYTHON:-python3}" # 3.9 to 3.12
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==1.26.4 astunparse==1.6.3 six pillow tqdm
"$folder/env/bin/pip" install -q --no-deps jittor==1.3.11.0
cat >"$folder/subnormals.py" <<'PYTHON'
from concurrent.futures import ThreadPoolExecutor

import numpy as np

smallest = np.array([1], np.int64).view(np.float64)  # 5e-324


def product():
    # Its bits: where subnormal numbers are 0, they are printed and compared as 0 too.
    return {0: "0", 1: "5e-324"}[int((smallest * 1.0).view(np.int64)[0])]


def show(when):
    with ThreadPoolExecutor(1) as new:
        seen = product(), new.submit(product).result()
    print(f"seen: {when:18}  {seen[0]:11}  {seen[1]}")
    return seen


with ThreadPoolExecutor(1) as old:
    old.submit(product).result()
    kept = show("before the import")
    import jittor as jt

    kept += show("after the import")
    one = jt.array(np.ones(10, np.float32))
    kept += show("after jt.array")
    (one * 2).numpy()
    lost = show("after an operator")
    early = old.submit(product).result()
print(f"seen: a thread from before the import: {early}")
print(f"seen: np.nextafter(0, 1) > 0: {np.nextafter(0, 1) > 0}")
assert {*kept, early} == {"5e-324"} and {*lost} == {"0"} and not np.nextafter(0, 1) > 0
print("seen: all as expected")
PYTHON
HOME="$folder" use_mkl=0 use_mpi=0 nvcc_path="" log_silent=1 \
  python_config_path="$(dirname "$(readlink -f "$folder/env/bin/python")")/python3-config" \
  "$folder/env/bin/python" "$folder/subnormals.py" 2>&1 | tee "$folder/log" | grep -o "seen: .*\|.*Error.*" || true
grep -q "seen: all as expected" "$folder/log"
