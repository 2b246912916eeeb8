// The end of a training step: sums over shares of the points become the flat gradient. And the scale of cotangents,
// which those sums may have.
#pragma once

#include "cuda/numerics.h"
#include "cuda/tuning.h"

namespace siren {
namespace gpu {
namespace {

// A power of two that brings the largest, given as bits, to 2^exponent.
__device__ inline float cotangent_scale(unsigned largest, int exponent) {
    const int biased = 254 + exponent - int(largest >> 23);
    return __uint_as_float(unsigned(min(max(biased, 2), 252)) << 23);
}

// Of such a scale, exactly; of 0 a finite number.
__device__ inline float reciprocal(float scale) {
    return __uint_as_float((254u << 23) - __float_as_uint(scale));
}

__device__ inline void keep_largest(float x, unsigned* largest) {
    unsigned bits = __float_as_uint(fabsf(x));
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        bits = max(bits, __shfl_down_sync(0xffffffffu, bits, offset));
    }
    if (threadIdx.x % 32 == 0) atomicMax(largest, bits);
}

// Sum over a block of 256 threads, for thread 0.
__device__ inline double block_sum(double x) {
    __shared__ double warps[8];
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_down_sync(0xffffffffu, x, offset);
    __syncthreads();
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
    __syncthreads();
    if (threadIdx.x != 0) return 0;
    for (int i = 1; i < 8; ++i) x += warps[i];
    return x;
}

// A block for each of the sums: the loss, if wanted, and the output biases' gradient.
__global__ void finish_sums_kernel(const double* sums, int shares, double mean, float* loss,
                                   float* gradient, bool add) {
    double sum = 0;
    for (int i = threadIdx.x; i < shares; i += blockDim.x) {
        sum += sums[size_t(i) * gridDim.x + blockIdx.x];
    }
    sum = block_sum(sum);
    if (threadIdx.x != 0) return;
    float* const result = blockIdx.x == 0 ? loss : gradient + blockIdx.x - 1;
    if (!result) return;
    *result = float(blockIdx.x == 0 ? mean * sum : sum) + (add ? *result : 0.0f);
}

// A part of the gradient: for each of its layers and first `wanted` rows, the sum over shares (layer,
// share, rows, width). Element (row, column) of layer l is
// gradient[l layer_stride + row row_stride + column column_stride].
struct Part {
    const float* shares;
    int count, rows, wanted, layers;
    float factor;
    bool scaled;  // by the scale of the cotangents
    float* gradient;
    size_t layer_stride, row_stride, column_stride;
};

struct Parts {
    Part part[4];
};

// Writes or adds the sums, times factor. Blocks of 256 threads: (256 / at_once columns, rows of all
// parts); `at_once` threads share the work for a column.
template <int at_once>
__global__ void finish_kernel(Parts parts, int streams, int columns, int width,
                              const unsigned* largest, bool add) {
    constexpr int block_columns = 256 / at_once;
    __shared__ float shared[at_once][block_columns];
    const int lane = threadIdx.x % block_columns, first = threadIdx.x / block_columns;
    const int column = blockIdx.x * block_columns + lane;
    int index = blockIdx.y, number = 0;
    while (index >= parts.part[number].wanted * parts.part[number].layers) {
        index -= parts.part[number].wanted * parts.part[number].layers;
        ++number;
    }
    const Part part = parts.part[number];
    const int row = index % part.wanted, layer = index / part.wanted;
    float sum = 0;
#pragma unroll 8
    for (int share = first; share < part.count; share += at_once) {
        sum += part.shares[((size_t(layer) * part.count + share) * part.rows + row) * width + column];
    }
    shared[first][lane] = sum;
    __syncthreads();
    if (first > 0 || column >= columns) return;
    for (int i = 1; i < at_once; ++i) sum += shared[i][lane];
    const float scale = part.scaled ? cotangent_scale(*largest, tuning::cotangent_exponent(streams)) : 1.0f;
    const float factor = part.factor / scale;
    float& result = part.gradient[layer * part.layer_stride + row * part.row_stride +
                                  column * part.column_stride];
    result = factor * sum + (add ? result : 0.0f);
}

}  // namespace
}  // namespace gpu
}  // namespace siren
