// What every kernel is given: the parameters, points and loss of a call, and the parameters packed as products read
// them.
#pragma once

#include "cuda/launch.h"
#include "cuda/numerics.h"

namespace siren {
namespace gpu {
namespace {

// ---- A call's data ---------------------------------------------------------------------------------

constexpr int column_tile = 256;  // columns of a product's tile; widths are padded to whole ones

// The parameters as cpu/binding.h describes them.
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

enum class Loss { squared_error, variation };

// What is differentiated: mean times the sum of (output - target)^2 over points and the supervised streams (1 or
// 2, see cpu/siren.h); or, if `given` is not null, the sum of outputs times these cotangents; or, if `tensors` (points,
// 3) is not null, mean times the sum of variations, `variation` of reference.py, of three streams.
struct Error {
    const float *target, *given;
    float mean;
    const float* tensors;
    float smallest;
};

// Points are padded to a multiple of this, which makes whole tiles of rows on every path.
constexpr int point_group(int streams) { return streams == 1 ? 128 : 32; }

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

// What follows a product: a sine layer, the last one with its part of the outputs; or the adjoint of one, the first
// one's without d but with the sums that are its weights' gradient.
enum class Epilogue { sine, last_sine, adjoint, first_adjoint };

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

// Eight neighboring units of the first layer.
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
// then the four fragments f of a thread hold eight neighboring columns, 8 t to 8 t + 7.
__host__ __device__ inline int packed_row(int n) {
    const int t = n % 32 / 8, f = n % 8 / 2, e = n % 2;
    return n / 32 * 32 + 8 * f + 2 * t + e;
}

// Where element (n, k) of a matrix is that wgmma will read (sm90/ptx.h): in tiles of 256 rows, which are blocks of 64
// columns.
__host__ __device__ inline size_t packed_place(int n, int k, int width) {
    return size_t(n / column_tile) * column_tile * width +
           size_t(k / 64 * column_tile + n % column_tile) * 64 + (k % 64 / 8 ^ n % 8) * 8 + k % 8;
}

// What packing writes. Matrices (2 (layer - 1) + orientation) lie one after the other, for wgmma if `operands`, else for
// mma. Counters are cleared, one of each kind for each chunk.
template <class Precision>
struct Packed {
    Vectors vectors;
    Matrix<Precision> matrices;
    bool operands;
    unsigned *largest, *arrived;
    int chunks;
};

// Eight columns of a row of the vectors.
template <class Precision>
__device__ inline void pack_vectors(const Parameters& p, const Packed<Precision>& to, int row, int column) {
    if (row >= 3 + p.hidden_layers + p.channels) return;
    for (int chunk = column / 8; row == 0 && chunk < to.chunks; chunk += gridDim.x * blockDim.x) {
        to.largest[chunk] = to.arrived[chunk] = 0;
    }
    for (int i = column; i < min(column + 8, to.vectors.width); ++i) {
        float x = 0;
        if (i >= p.width) {
        } else if (row < 2) {
            x = p.omega * p.flat[2 * i + row];
        } else if (row < 3 + p.hidden_layers) {
            x = p.omega * p.flat[p.bias(row - 2) + i];
        } else {
            const int channel = row - 3 - p.hidden_layers;
            x = p.flat[p.weight(p.hidden_layers + 1) + size_t(channel) * p.width + i];
        }
        to.vectors.data[size_t(row) * to.vectors.width + i] = x;
    }
}

// Blocks (x, y, z): columns in blocks of 8; row; matrix, or, last of all, the vectors.
template <class Precision>
__global__ void pack_kernel(Parameters p, Packed<Precision> to) {
    follow();
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * 8, row = blockIdx.y, width = to.vectors.width;
    const int matrix = blockIdx.z, layer = 1 + matrix / 2;
    if (matrix == 2 * p.hidden_layers) return pack_vectors(p, to, row, column);
    if (column >= width) return;
    const bool transposed = matrix % 2;
    const float* const w = p.flat + p.weight(layer);
    float x[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        const bool inside = column + j < p.width && row < p.width;
        const size_t at = transposed ? size_t(column + j) * p.width + row : size_t(row) * p.width + column + j;
        x[j] = inside ? p.omega * w[at] : 0.0f;
    }
    const size_t place =
        to.operands ? packed_place(row, column, width) : size_t(packed_row(row)) * width + column;
    store8(to.matrices, size_t(matrix) * width * width + place, x);
}

}  // namespace
}  // namespace gpu
}  // namespace siren
