// What both kernels of a step of Muon share: their arguments, Adam's step, and sums over a block and over blocks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/grid_barrier.h"
#include "cuda/numerics.h"
#include "optimizer_numbers.h"

namespace siren {
namespace gpu {
namespace {

constexpr int most_iterations = 8;

// Matrices in memory have `padded` rows and columns, of which those from width on are 0.
struct MuonStep {
    AdamInputs in;
    AdamOutputs out;
    const float* average;
    float* new_average;
    AdamNumbers adam;
    MuonNumbers muon;
    int64_t parameters;
    GridBarrier barrier;
    int padded;
    int iterations;
    Polynomial polynomials[most_iterations];

    __device__ int64_t layer() const { return int64_t(muon.width) * muon.width + muon.width; }  // its numbers
};

// Adam's step for the parameters outside of matrices, by the blocks from `first_block` on.
template <int threads>
__device__ inline void step_adam(const MuonStep& m, int first_block) {
    const AdamNumbers& adam = m.adam;
    const float keep_mean = float(adam.beta_1), keep_square = float(adam.beta_2);
    const float add_mean = float(1 - adam.beta_1), add_square = float(1 - adam.beta_2);
    const float scale = float(1 / adam.correction), least = float(adam.eps), rate = float(adam.rate);
    const int64_t start = m.muon.start, biases = int64_t(m.muon.count) * m.muon.width, layer = m.layer();
    const int64_t others = m.parameters - m.muon.count * (layer - m.muon.width);
    for (int64_t i = (int(blockIdx.x) - first_block) * threads + int(threadIdx.x); i >= 0 && i < others;
         i += int64_t(gridDim.x - first_block) * threads) {
        int64_t at = i;
        if (i >= start + biases) {
            at = i - biases + m.muon.count * layer;
        } else if (i >= start) {
            const int64_t matrix = (i - start) / m.muon.width;
            at = start + (matrix + 1) * layer - m.muon.width + (i - start) % m.muon.width;
        }
        const float g = m.in.gradient[at];
        const float mean = keep_mean * m.in.mean[i] + add_mean * g;
        const float square = keep_square * m.in.square[i] + add_square * g * g;
        m.out.mean[i] = mean;
        m.out.square[i] = square;
        m.out.parameters[at] = m.in.parameters[at] - rate * mean / (scale * sqrtf(square) + least);
    }
}

__device__ inline double sum_over_warp(double x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

// Writes the sum over a block's threads, in a fixed order.
template <int threads>
__device__ __noinline__ void store_sum_over_block(double x, double* result) {
    __shared__ double warps[threads / 32];
    x = sum_over_warp(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int warp = 1; warp < threads / 32; ++warp) x += warps[warp];
    *result = x;
}

// The sum of `count` numbers that blocks have written, for each thread of a warp. Of so many of its numbers a thread does
// not wait for one before it asks for the next.
template <int together>
__device__ __noinline__ double sum_of(const double* numbers, int count) {
    double sum = 0;
#pragma unroll together
    for (int i = threadIdx.x % 32; i < count; i += 32) sum += __ldcg(numbers + i);
    return sum_over_warp(sum);
}

// What X is multiplied by at the start, which brings its Frobenius norm to the fourth root of its width; from the sum of
// its squares.
__device__ inline float initial_scale(int width, double squares) {
    return squares > 0 ? sqrtf(sqrtf(float(width))) * float(rsqrt(squares)) : 0.0f;
}

// The polynomial of X divided by its Schatten-8 norm, the eighth root of the trace of (X X^T)^4.
__device__ inline Polynomial normalized(const Polynomial& p, double trace) {
    return p.of_quotient(trace > 0 ? sqrtf(sqrtf(sqrtf(float(trace)))) : 1.0f);
}

}  // namespace
}  // namespace gpu
}  // namespace siren
