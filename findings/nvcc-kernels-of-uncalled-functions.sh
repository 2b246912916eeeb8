#!/usr/bin/env bash
# nvcc 13: a header of kernels costs its whole compilation, whichever of its functions a program calls. An inline
# function that nothing calls leaves nothing in the host's code, but the kernel templates that it launches are
# compiled for the GPU all the same, and stay in the object. In a member function of a class template they are not.
#
# It concerns whoever compiles kernels at run time from headers. Wrapping our class of five such functions into a
# template with a default argument saved a quarter to two fifths of the time.
#
# Seen on 2026-11-30, CUDA 13.5.37 (no GPU needed), kernels in the PTX:
#
#     launched by a member function that is called        compiled
#     launched by one that is not called                  compiled
#     the same, of a class template, called               compiled
#     the same, of a class template, not called           left out
#     launched by an inline function that is not called   compiled
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q nvidia-cuda-nvcc==13.5.37 nvidia-cuda-crt==13.5.37 nvidia-nvvm==13.5.37 \
  nvidia-cuda-runtime==13.5.37 nvidia-cuda-cccl==13.3.5.0.6
nvcc="$(find "$folder/env" -name nvcc -type f | head -n 1)"
cat >"$folder/kernels.cu" <<'CODE'
struct Called {};
struct NotCalled {};
struct CalledOfTemplate {};
struct NotCalledOfTemplate {};
struct InlineNotCalled {};

template <class Who>
__global__ void kernel(float* x) {
    x[threadIdx.x] += 1;
}

struct Calls {
    void first(float* x) const { kernel<Called><<<1, 32>>>(x); }
    void second(float* x) const { kernel<NotCalled><<<1, 32>>>(x); }
};

template <class = void>
struct CallsOfTemplate {
    void first(float* x) const { kernel<CalledOfTemplate><<<1, 32>>>(x); }
    void second(float* x) const { kernel<NotCalledOfTemplate><<<1, 32>>>(x); }
};

inline void third(float* x) { kernel<InlineNotCalled><<<1, 32>>>(x); }

int main() {
    Calls().first(nullptr);
    CallsOfTemplate<>().first(nullptr);
}
CODE
"$nvcc" -O3 -arch=sm_90 -ptx "$folder/kernels.cu" -o "$folder/kernels.ptx"
seen=""
for who in 6Called 9NotCalled 16CalledOfTemplate 19NotCalledOfTemplate 15InlineNotCalled; do
  grep -q "\.entry _Z6kernelI${who}E" "$folder/kernels.ptx" && how=compiled || how="left out"
  echo "${who##*[0-9]}: $how"
  seen+="$how, "
done
[[ "$seen" == "compiled, compiled, compiled, left out, compiled, " ]]
