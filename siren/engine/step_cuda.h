// What a training step has to do whichever kernels take it through the layers: from the flat parameters to
// what these read, and from the sums they leave to the flat gradient.
#pragma once

#include "arithmetic_cuda.h"

namespace siren {
namespace gpu {
namespace {

// ---- A step's data ---------------------------------------------------------------------------------

constexpr int column_tile = 256;  // columns of a product's tile; widths are padded to whole ones

// The parameters as binding.h describes them.
struct Parameters {
    const float* flat;
    int width, hidden_layers, channels;
    float omega;

    __host__ __device__ size_t weight(int layer) const {
        if (layer == 0) return 0;
        return 3 * size_t(width) + size_t(layer - 1) * (size_t(width) * width + width);
    }
    __host__ __device__ size_t bias(int layer) const {
        const size_t rows = layer <= hidden_layers ? width : channels;
        return weight(layer) + rows * (layer == 0 ? 2 : width);
    }
};

// Points and streams of a chunk, and the derivatives' units. `inverse` takes streams as they are kept
// to those asked for.
struct Points {
    const float* coordinates;  // (count, 2)
    int count, padded;
    float scale[2], inverse[4];
};

// What is differentiated: mean sum of weight (output - target)^2 over points (1 or 2 of the streams,
// see binding.h; weight may be null), or, if it is not null, the product of outputs and `given`.
struct Error {
    const float *target, *weight, *given;
    float mean;
};

// Padded float32 vectors: the first layer's two columns, biases, and the output layer's rows.
struct Vectors {
    float* data;
    int width;
    __host__ __device__ const float* first(int column) const { return data + size_t(column) * width; }
    __host__ __device__ const float* bias(int layer) const { return data + size_t(2 + layer) * width; }
    __host__ __device__ const float* output(int hidden_layers, int channel) const {
        return data + size_t(3 + hidden_layers + channel) * width;
    }
};

// Streams of x before the first sine at a point, for one unit with weights w0, w1 and a bias.
template <int streams>
__device__ inline void first_inputs(const Points& points, float w0, float w1, float bias, float row,
                                    float column, float* x) {
    x[0] = fmaf(w0, row, fmaf(w1, column, bias));
    if (streams >= 3) {
        x[1] = w0 * points.scale[0];
        x[2] = w1 * points.scale[1];
    }
    if (streams == 4) x[3] = 0;
}

// Eight neighbouring units of the first layer.
struct FirstUnits {
    float w0[8], w1[8], bias[8];

    __device__ FirstUnits(const Vectors& vectors, int column) {
        load8(vectors.first(0) + column, w0);
        load8(vectors.first(1) + column, w1);
        load8(vectors.bias(0) + column, bias);
    }
    // Their streams at a point, and x as sine() leaves it.
    template <class Precision, int streams>
    __device__ void sines(const Points& points, float row, float column, float (&all_h)[streams][8],
                          float (&all_x)[streams][8]) const {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            float x[streams], h[streams];
            first_inputs<streams>(points, w0[j], w1[j], bias[j], row, column, x);
            sine<Precision, streams>(x, h);
#pragma unroll
            for (int s = 0; s < streams; ++s) {
                all_h[s][j] = h[s];
                all_x[s][j] = x[s];
            }
        }
    }
};

// ---- Parameters, as products read them ----------------------------------------------------------------

// Weights are packed so that B's columns n of a group of 32 are stored as rows in the order
//     n = 8 t + 2 f + e   at   8 f + 2 t + e,     t < 4, f < 4, e < 2:
// then the four fragments f of a thread hold eight neighbouring columns, 8 t to 8 t + 7.
__host__ __device__ inline int packed_row(int n) {
    const int t = n % 32 / 8, f = n % 8 / 2, e = n % 2;
    return n / 32 * 32 + 8 * f + 2 * t + e;
}

// Where row n of a matrix has column k as an operand of Hopper's products (see hopper_cuda.h): in tiles of 256 rows,
// which are blocks of 64 columns.
__host__ __device__ inline size_t operand_place(int n, int k, int width) {
    return size_t(n / column_tile) * column_tile * width +
           size_t(k / 64 * column_tile + n % column_tile) * 64 + (k % 64 / 8 ^ n % 8) * 8 + k % 8;
}

__global__ void pack_vectors_kernel(Parameters p, Vectors v, unsigned* largest, int chunks) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    for (int chunk = i; row == 0 && chunk < chunks; chunk += gridDim.x * blockDim.x) {
        largest[chunk] = 0;
    }
    if (i >= v.width) return;
    float x = 0;
    if (i < p.width) {
        if (row < 2) {
            x = p.omega * p.flat[2 * i + row];
        } else if (row < 3 + p.hidden_layers) {
            x = p.omega * p.flat[p.bias(row - 2) + i];
        } else {
            const int channel = row - 3 - p.hidden_layers;
            x = p.flat[p.weight(p.hidden_layers + 1) + size_t(channel) * p.width + i];
        }
    }
    v.data[size_t(row) * v.width + i] = x;
}

// blockIdx: (k in blocks, n, 2 (layer - 1) + orientation); all matrices lie one after the other, for
// product_kernel, or as operands of chain_kernel and wide_product_kernel.
template <class Precision>
__global__ void pack_matrices_kernel(Parameters p, Matrix<Precision> packed, int width, bool operands) {
    const int k = (blockIdx.x * blockDim.x + threadIdx.x) * 8, n = blockIdx.y;
    const int layer = 1 + blockIdx.z / 2;
    const bool transposed = blockIdx.z % 2;
    if (k >= width) return;
    const float* const w = p.flat + p.weight(layer);
    float x[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        const bool inside = k + j < p.width && n < p.width;
        const size_t at = transposed ? size_t(k + j) * p.width + n : size_t(n) * p.width + k + j;
        x[j] = inside ? p.omega * w[at] : 0.0f;
    }
    const size_t place = operands ? operand_place(n, k, width) : size_t(packed_row(n)) * width + k;
    store8(packed, size_t(blockIdx.z) * width * width + place, x);
}

// ---- The gradient, from sums over shares of the points ------------------------------------------------

// The scale brings the largest cotangent of the outputs to 2^exponent. Derivatives grow from layer to
// layer, to 1e4 times in a network that has learnt a Laplacian, and so do cotangents going back.
__host__ __device__ constexpr int cotangent_exponent(int streams) {
    return streams == 1 ? 8 : streams == 3 ? 5 : 3;
}
// A power of two, whose reciprocal is one too. `largest` are a float's bits.
__device__ inline float cotangent_scale(unsigned largest, int exponent) {
    const int biased = 254 + exponent - int(largest >> 23);
    return __uint_as_float(unsigned(min(max(biased, 2), 252)) << 23);
}

// Of such a scale; of 0 a finite number.
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
    const float scale = part.scaled ? cotangent_scale(*largest, cotangent_exponent(streams)) : 1.0f;
    const float factor = part.factor / scale;
    float& result = part.gradient[layer * part.layer_stride + row * part.row_stride +
                                  column * part.column_stride];
    result = factor * sum + (add ? result : 0.0f);
}

}  // namespace
}  // namespace gpu
}  // namespace siren
