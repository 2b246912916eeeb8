// The end of a training step: sums over shares of the points become the flat gradient. And the scale of cotangents,
// which those sums may have.
#pragma once

#include "cuda/launch.h"
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

// Where loss, if wanted, and gradient go, and what is added to them: null, or another loss with its gradient, or, from
// the second chunk on, what is there already.
struct Result {
    float *loss, *gradient;
    const float *plus_loss, *plus_gradient;

    __device__ float plus(const float* place) const {
        return plus_gradient ? plus_gradient[place - gradient] : 0.0f;
    }
};

// Sums over points: the loss, and then the gradient of the output's biases.
struct PointSums {
    const double* shares;  // (count, sums)
    int count;
    double mean;
    float* biases;
    int sums;
};

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

    __host__ __device__ int all_rows() const { return wanted * layers; }
};

struct Parts {
    Part part[4];
};

// All sums of a step, and how many blocks of 256 threads they take: those of `large` have a column a thread, those of
// `small` 32 threads for a column, since they have many more shares than columns, and each of the points' sums a block.
struct Finish {
    PointSums points;
    Part large;
    Parts small;
    int streams, columns, width;
    const unsigned* largest;
    Result result;

    __host__ __device__ int large_columns() const { return (columns + 255) / 256; }  // in blocks
    __host__ __device__ int small_columns() const { return (columns + 7) / 8; }
    __host__ __device__ int large_blocks() const { return large_columns() * large.all_rows(); }
    __host__ __device__ int small_blocks() const {
        int rows = 0;
        for (int i = 0; i < 4; ++i) rows += small.part[i].all_rows();
        return small_columns() * rows;
    }
    __host__ __device__ int blocks() const { return large_blocks() + small_blocks() + points.sums; }
};

// The sum number `index` over points.
__device__ inline void finish_points(const PointSums& points, int index, const Result& result) {
    double sum = 0;
    for (int i = threadIdx.x; i < points.count; i += blockDim.x) sum += points.shares[size_t(i) * points.sums + index];
    sum = block_sum(sum);
    if (threadIdx.x != 0) return;
    if (index > 0) {
        float* const bias = points.biases + index - 1;
        *bias = float(sum) + result.plus(bias);
    } else if (result.loss) {
        *result.loss = float(points.mean * sum) + (result.plus_loss ? *result.plus_loss : 0.0f);
    }
}

// Row `row` of a part, times factor: 256 / at_once columns, from block `block` of them on.
template <int at_once>
__device__ inline void finish_row(const Finish& f, const Part& part, int row, int block) {
    constexpr int block_columns = 256 / at_once;
    __shared__ float shared[at_once][block_columns];
    const int lane = threadIdx.x % block_columns, first = threadIdx.x / block_columns;
    const int column = block * block_columns + lane, layer = row / part.wanted;
    row %= part.wanted;
    float sum = 0;
#pragma unroll 8
    for (int share = first; share < part.count; share += at_once) {
        sum += part.shares[((size_t(layer) * part.count + share) * part.rows + row) * f.width + column];
    }
    if (at_once > 1) {
        shared[first][lane] = sum;
        __syncthreads();
    }
    if (first > 0 || column >= f.columns) return;
    for (int i = 1; i < at_once; ++i) sum += shared[i][lane];
    const float scale = part.scaled ? cotangent_scale(*f.largest, tuning::cotangent_exponent(f.streams)) : 1.0f;
    const float factor = part.factor / scale;
    float* const place =
        part.gradient + layer * part.layer_stride + row * part.row_stride + column * part.column_stride;
    *place = factor * sum + f.result.plus(place);
}

// Writes or adds all sums.
__global__ void finish_kernel(Finish f) {
    follow();
    int block = blockIdx.x;
    if (block < f.large_blocks()) {
        return finish_row<1>(f, f.large, block / f.large_columns(), block % f.large_columns());
    }
    block -= f.large_blocks();
    if (block >= f.small_blocks()) return finish_points(f.points, block - f.small_blocks(), f.result);
    int row = block / f.small_columns(), number = 0;
    while (row >= f.small.part[number].all_rows()) row -= f.small.part[number++].all_rows();
    finish_row<32>(f, f.small.part[number], row, block % f.small_columns());
}

}  // namespace
}  // namespace gpu
}  // namespace siren
