#!/usr/bin/env bash
# Jittor 1.3.11 with NumPy 2: the values that come back are whatever was in memory; no error says so.
#
# pip keeps the two apart (Jittor requires numpy<2), but an environment in which something else has
# installed NumPy 2 later has both. Jittor reads the size of an element from NumPy's descriptor, where
# NumPy 2 keeps flags: it is 0, and so is every length in bytes. Nothing is copied.
#
# Seen on 2026-11-28 with jittor 1.3.11.0, Python 3.11.7, g++ 12.2:
#
#     numpy 1.26.4  values that come back: 1000 of 1000
#     numpy 2.4.6   values that come back: 0 of 1000
set -euo pipefail
python="${PYTHON:-python3}" # 3.9 to 3.12
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/env"
pip="$folder/env/bin/pip"
"$pip" install -q jittor==1.3.11.0 numpy==1.26.4
cat >"$folder/arrays.py" <<'PYTHON'
import jittor as jt, numpy as np
sent = np.arange(1000, dtype=np.float32) + 0.625
held = np.full(1000, -7, np.float32)
del held  # so that memory which is given out again holds something else
print("values that come back:", int((jt.array(sent).numpy() == sent).sum()), "of", sent.size)
PYTHON
run() { # without downloads and a GPU; the script that Jittor looks for beside the interpreter is named
  HOME="$folder" use_mkl=0 use_mpi=0 nvcc_path="" log_silent=1 \
    python_config_path="$(dirname "$(readlink -f "$folder/env/bin/python")")/python3-config" \
    "$folder/env/bin/python" "$folder/arrays.py" 2>&1 | grep "values that"
}
first="$(run)"
echo "numpy 1.26.4  $first"
"$pip" install -q --no-deps numpy==2.4.6 2>/dev/null
second="$(run)"
echo "numpy 2.4.6   $second"
[[ "$first" == *" 1000 of 1000" && "$second" == *" 0 of 1000" ]]
