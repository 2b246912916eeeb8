#!/usr/bin/env bash
# Jittor 1.3.11 without a GPU: seeds 0 and 1 are the same run, and those of other small seeds are related.
#
# The seed becomes the state of the C++ library's default engine, which in libstdc++ multiplies. 0 is taken for 1,
# and each number of seed 2 is twice that of seed 1, less 1 where it would exceed 1: between the seeds a and b,
# if they have no common divisor, the correlation is 1 / (a b). The first number of a small seed is the seed
# times 7.8e-6. Normally distributed numbers of 0 and 1 are equal too; those of 1 and 2 show no linear
# correlation. Large numbers that something else draws, such as numpy.random.SeedSequence, are better seeds.
#
# Seen on 2026-11-28 with jittor 1.3.11.0, numpy 1.26.4, Python 3.11.7, g++ 12.2, for 100000 numbers each:
#
#     jt.random, jt.randn, the weights of jt.nn.Linear, seeds 0 and 1: equal
#     jt.random              seeds 1 and 2, 1 and 3, 2 and 3, 2 and 4: correlation 0.499, 0.335, 0.165, 0.504
#     the weights of jt.nn.Linear                       seeds 1 and 2: correlation 0.498
#     jt.random                         seeds 821328062 and 455923687: correlation -0.004
set -euo pipefail
python="${PYTHON:-python3}" # 3.9 to 3.12
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==1.26.4 astunparse==1.6.3 six pillow tqdm
"$folder/env/bin/pip" install -q --no-deps jittor==1.3.11.0
cat >"$folder/seeds.py" <<'PYTHON'
import jittor as jt
import numpy as np


def draw(seed, how):
    jt.set_global_seed(seed)
    return how().numpy().ravel()


def correlation(one, other, how):
    return np.corrcoef(draw(one, how), draw(other, how))[0, 1]


def uniform():
    return jt.random((100000,))


def normal():
    return jt.randn((100000,))


def weights():
    return jt.nn.Linear(300, 300).weight


for how in uniform, normal, weights:
    equal = (draw(0, how) == draw(1, how)).all()
    print(f"seen: {how.__name__:7}  0 and 1: {'equal' if equal else 'different'}")
    assert equal, "seeds 0 and 1 differ"
for one, other in (1, 2), (1, 3), (2, 3), (2, 4):
    seen = correlation(one, other, uniform)
    print(f"seen: uniform  {one} and {other}: correlation {seen:.3f}")
    assert abs(seen - {2: 1 / 2, 3: 1 / 3, 6: 1 / 6, 8: 1 / 2}[one * other]) < 0.02
for how in weights, normal:
    print(f"seen: {how.__name__:7}  1 and 2: correlation {correlation(1, 2, how):.3f}")
large = np.random.SeedSequence(0).generate_state(2) % 2**30
print(f"seen: uniform  {large[0]} and {large[1]}: correlation {correlation(*map(int, large), uniform):.3f}")
print("seen: the first numbers of seeds 1 to 4:", *(f"{draw(seed, uniform)[0]:.2e}" for seed in (1, 2, 3, 4)))
print("seen: all as expected")
PYTHON
HOME="$folder" use_mkl=0 use_mpi=0 nvcc_path="" log_silent=1 \
  python_config_path="$(dirname "$(readlink -f "$folder/env/bin/python")")/python3-config" \
  "$folder/env/bin/python" "$folder/seeds.py" 2>&1 | tee "$folder/log" | grep -o "seen: .*\|.*Error.*" || true
grep -q "seen: all as expected" "$folder/log"
