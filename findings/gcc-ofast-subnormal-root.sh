#!/usr/bin/env bash
# g++ 13 and later, -Ofast in a shared library: the square root of a subnormal number is -inf, and the
# option -mrecip=none, which should turn approximations off, changes nothing.
#
# -Ofast takes sqrt(x) from an approximation of 1 / sqrt(x) where x is not 0. Up to g++ 12 a library linked with
# -Ofast also switched the processor to take subnormal numbers for 0, in the whole process that loads it, and
# so the root was 0. From g++ 13 on only programs do that: the mode is no longer changed behind one's back, and
# the approximation meets numbers that it was never meant for. It concerns any framework that compiles kernels
# with -Ofast at run time. -mno-recip helps.
#
# Seen on 2026-11-28, x86-64 with AVX-512:
#
#     g++ 12.2.0                mode changed: yes  sqrt(1e-41) = 0
#     g++ 14.2.0, 16.2.0        mode changed: no   sqrt(1e-41) = -inf
#     the same, -mrecip=none    mode changed: no   sqrt(1e-41) = -inf
#     the same, -mno-recip      mode changed: no   sqrt(1e-41) = 3.16222e-21
set -euo pipefail
compiler="${CXX:-g++}"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cat >"$folder/root.cc" <<'CODE'
extern "C" void root(const float* x, float* y, int n) {
    for (int i = 0; i < n; i++) y[i] = __builtin_sqrtf(x[i]);
}
CODE
cat >"$folder/main.cc" <<'CODE'
#include <dlfcn.h>
#include <xmmintrin.h>
#include <cstdio>
int main(int, char** names) {
    const unsigned before = _mm_getcsr();
    void* const library = dlopen(names[1], RTLD_NOW);
    const bool changed = (before ^ _mm_getcsr()) & 0x8040;
    float x[64], y[64];
    for (float& each : x) each = 1e-41f;
    ((void (*)(const float*, float*, int))dlsym(library, "root"))(x, y, 64);
    std::printf("mode changed: %-3s  sqrt(1e-41) = %g\n", changed ? "yes" : "no", y[0]);
}
CODE
"$compiler" "$folder/main.cc" -o "$folder/main" -ldl
version="$("$compiler" -dumpfullversion)"
seen() { # seen [OPTION]
  "$compiler" -Ofast -march=native "$@" -fPIC -shared "$folder/root.cc" -o "$folder/root.so"
  "$folder/main" "$folder/root.so"
}
plain="$(seen)" none="$(seen -mrecip=none)" no_recip="$(seen -mno-recip)"
printf '%s\n' "g++ $version                $plain" "g++ $version -mrecip=none  $none" "g++ $version -mno-recip    $no_recip"
if ((${version%%.*} >= 13)); then
  [[ "$plain$none" == *"no "*"-inf"*"no "*"-inf" && "$no_recip" == *"3.16222e-21" ]]
else
  [[ "$plain" == *"yes"*"= 0" ]]
fi
