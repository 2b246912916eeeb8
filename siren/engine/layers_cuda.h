// Layer by layer: a kernel for each product with weights, with a sine layer or its adjoint at its end, one for
// all outer products, and memory-bound ones for the rest. For any width, precision and GPU from Ampere on.
//
// The matrices of all layers are kept, a row for each point and stream: row = ((p / 16) streams + stream) 16 +
// p % 16, so that a tensor-core fragment of 16 rows holds one stream of 16 points, and the thread that holds
// one stream of a point holds the others.
#pragma once

#include "step_cuda.h"
#include "tensor_cuda.h"

namespace siren {
namespace gpu {
namespace {

constexpr int depth_tile = 32;  // depth of a step of a product
constexpr int outer_threads = 256;

// 16-row fragments a warp holds.
__host__ __device__ constexpr int fragments(int streams) { return streams == 3 ? 3 : 4; }
// Points are padded to a multiple of this, which makes whole tiles of rows.
constexpr int point_group(int streams) { return streams == 1 ? 128 : 32; }

// What a matrix of sine outputs contributes to the network's outputs: a number for each group of 32
// columns, row and channel, (groups, rows, channels). `weights` are the output layer's, (channels,
// width); null where a layer is not the last.
struct OutputParts {
    float* parts;
    const float* weights;
    int channels, rows, groups;
};

// From a row's eight columns at `column`; the four threads of a group of 32 columns are neighbours.
__device__ inline void write_output_part(const OutputParts& output, const float* h, int row,
                                         int column, int width) {
    for (int c = 0; c < output.channels; ++c) {
        float w[8], sum = 0;
        load8(output.weights + size_t(c) * width + column, w);
#pragma unroll
        for (int j = 0; j < 8; ++j) sum = fmaf(w[j], h[j], sum);
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (threadIdx.x % 4 == 0) {
            output.parts[(size_t(column / 32) * output.rows + row) * output.channels + c] = sum;
        }
    }
}

// ---- Products with weights: Z = A B, and a sine layer or its adjoint on Z --------------------------

// Rows in shared memory are padded by 16 bytes: eight of them, one below the other, then lie in
// different banks.
constexpr int padding = 8;

template <class Precision, int streams>
struct ProductShape {
    static constexpr int threads = 256;
    static constexpr int rows = 2 * 16 * fragments(streams);  // of a tile
    static constexpr int stages = Precision::pieces == 1 ? 4 : 3;
    static constexpr int stride = depth_tile + padding;
    static constexpr int plane_a = rows * stride, plane_b = column_tile * stride;
    static constexpr int stage = Precision::pieces * (plane_a + plane_b);
    static constexpr int shares = threads / 128;  // of sums, in each block
    static constexpr size_t bytes = stages * stage * sizeof(typename Precision::Piece) +
                                    3 * shares * column_tile * sizeof(float);
};

// What happens to a tile of Z: a sine layer, the last one with its part of the outputs, or the adjoint
// of one, the first one's without d but with the sums that make its weights' gradient.
enum class End { sine, last_sine, adjoint, first_adjoint };

template <class Precision>
struct Ending {
    Matrix<Precision> h;  // sine: written
    Matrix<Precision> x;  // sine: written as sine() left it, if keep; adjoint: read
    Matrix<Precision> d;  // adjoint: written
    const float* bias;    // sine
    bool keep;            // sine
    OutputParts output;   // last sine
    // Adjoint: sums over the value rows of d, the bias's gradient, in shares (share, width); for the
    // first layer (share, 3, width): those of d times what the weights' two columns were multiplied
    // by, then the bias's.
    float* sums;
    Points points;    // first adjoint: x is computed anew from these
    Vectors vectors;  // first adjoint
};

// The gridDim.x blocks take tiles of rows in turn; blockIdx.y is the tile of columns.
template <class Precision, int streams, End kind>
__global__ void __launch_bounds__(256, 1)
    product_kernel(Matrix<Precision> a, Matrix<Precision> b, Ending<Precision> end, int tiles,
                   int width) {
    typedef typename Precision::Piece Piece;
    typedef ProductShape<Precision, streams> Shape;
    constexpr int F = fragments(streams);
    constexpr bool first = kind == End::first_adjoint, adjoint = kind == End::adjoint || first;
    constexpr int sum_rows = first ? 3 : 1;
    extern __shared__ __align__(16) unsigned char shared_memory[];
    Piece* const shared = reinterpret_cast<Piece*>(shared_memory);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = warp / 4 * 16 * F, warp_column = warp % 4 * 64;
    const int column0 = blockIdx.y * column_tile;
    const int steps = width / depth_tile;
    const int first_tile = blockIdx.x, tile_step = gridDim.x;
    const int total = (max(tiles - first_tile, 0) + tile_step - 1) / tile_step * steps;

    // A thread copies the same 16 bytes of every 64th row.
    const int copied_row = threadIdx.x / (depth_tile / 8), copied_k = threadIdx.x % (depth_tile / 8) * 8;
    constexpr int rows_at_once = Shape::threads / (depth_tile / 8);
    const Piece* next_a = a.data + (size_t(first_tile) * Shape::rows + copied_row) * width + copied_k;
    const Piece* next_b = b.data + size_t(column0 + copied_row) * width + copied_k;
    int fetched = 0, fetched_step = 0;
    const auto fetch = [&] {
        if (fetched < total) {
            Piece* const stage = shared + fetched % Shape::stages * Shape::stage +
                                 copied_row * Shape::stride + copied_k;
#pragma unroll
            for (int piece = 0; piece < Precision::pieces; ++piece) {
                Piece* const stage_a = stage + piece * Shape::plane_a;
                Piece* const stage_b = stage + Precision::pieces * Shape::plane_a + piece * Shape::plane_b;
#pragma unroll
                for (int i = 0; i < Shape::rows; i += rows_at_once) {
                    if (Shape::rows % rows_at_once && i + copied_row >= Shape::rows) continue;
                    copy16(stage_a + i * Shape::stride, next_a + piece * a.plane + size_t(i) * width);
                }
#pragma unroll
                for (int i = 0; i < column_tile; i += rows_at_once) {
                    copy16(stage_b + i * Shape::stride, next_b + piece * b.plane + size_t(i) * width);
                }
            }
        }
        commit_copies();
        ++fetched;
        next_a += depth_tile;
        next_b += depth_tile;
        if (++fetched_step == steps) {
            fetched_step = 0;
            next_a += (size_t(tile_step) * Shape::rows - 1) * width;
            next_b -= width;
        }
    };

    // Each of a warp's first four lanes has 16 columns to itself.
    float* const own_sums = reinterpret_cast<float*>(shared + Shape::stages * Shape::stage) +
                            warp * 64 * sum_rows + lane * 8;
    if (adjoint && lane < 4) {
        for (int q = 0; q < 2 * sum_rows; ++q) {
            for (int j = 0; j < 8; ++j) own_sums[q * 32 + j] = 0;
        }
    }
    float sums[F][8][4];
    const int a_offset = (warp_row + lane % 16) * Shape::stride + lane / 16 * 8;
    const int b_offset = Precision::pieces * Shape::plane_a +
                         (warp_column + lane / 16 * 8 + lane % 8) * Shape::stride + lane / 8 % 2 * 8;
    const auto load_a = [&](int number, int k, int piece, int i, uint32_t (&r)[4]) {
        const Piece* const stage = shared + number % Shape::stages * Shape::stage;
        load_matrices<false>(r, stage + a_offset + piece * Shape::plane_a + i * 16 * Shape::stride + k);
    };
    const auto load_b = [&](int number, int k, int piece, int pair, uint32_t (&r)[4]) {
        const Piece* const stage = shared + number % Shape::stages * Shape::stage;
        load_matrices<false>(r,
                             stage + b_offset + piece * Shape::plane_b + pair * 16 * Shape::stride + k);
    };
    StepOperands<Piece, F> operands[2];
    // Operands are loaded a step of 16 ahead, unless two pieces leave no registers for that.
    constexpr bool ahead = Precision::pieces == 1;
    for (int i = 0; i < Shape::stages - !ahead; ++i) fetch();
    if (ahead) {
        wait_copies<Shape::stages - 1>();
        __syncthreads();
    }
    int tile = first_tile, step = 0;
#pragma unroll 1
    for (int number = 0; number < total; ++number) {
        if (step == 0) {
            if (adjoint && !first) {  // what the end will read should be on its way
                for (int i = threadIdx.x; i < Shape::rows * 4; i += Shape::threads) {
                    const int row = i / 4;
                    const size_t at = (size_t(tile) * Shape::rows + row) * width + column0 + i % 4 * 64;
#pragma unroll
                    for (int piece = 0; piece < Precision::pieces; ++piece) {
                        prefetch(end.x.data + piece * end.x.plane + at);
                    }
                }
            }
            clear(sums);
        }
        if (ahead) {
            if (step == 0) operands[0].load(load_a, load_b, number, 0);
            operands[1].load(load_a, load_b, number, 16);
            operands[0].multiply(sums);
        }
        wait_copies<Shape::stages - 2>();
        __syncthreads();
        fetch();
        if (ahead) {
            if (step + 1 < steps) operands[0].load(load_a, load_b, number + 1, 0);
            operands[1].multiply(sums);
        } else {
#pragma unroll
            for (int k = 0; k < depth_tile; k += 16) {
                multiply_step<Precision, F>(
                    sums,
                    [&](int piece, int i, uint32_t (&r)[4]) { load_a(number, k, piece, i, r); },
                    [&](int piece, int pair, uint32_t (&r)[4]) { load_b(number, k, piece, pair, r); });
            }
        }
        if (++step < steps) continue;
        step = 0;

        const size_t row0 = size_t(tile) * Shape::rows + warp_row + lane / 4;
        // Rows g and g + 8 of the fragments, of so many at once that their loads overlap.
        constexpr int batch = Precision::pieces == 1 ? 2 : 1;
#pragma unroll
        for (int turn = 0; turn < 4; turn += batch) {
            const int half_columns = turn / 2;
            const int column = column0 + warp_column + half_columns * 32 + lane % 4 * 8;
            const auto offset = [&](int i, int b) {
                return (row0 + i * 16 + (turn % 2 + b) * 8) * width + column;
            };
            Raw8<Precision> raw_x[batch][F];
            float bias[8], w0[8], w1[8], sums_d[sum_rows][8] = {};
            if (first) {
                load8(end.vectors.first(0) + column, w0);
                load8(end.vectors.first(1) + column, w1);
                load8(end.vectors.bias(0) + column, bias);
            } else if (adjoint) {
#pragma unroll
                for (int b = 0; b < batch; ++b) {
#pragma unroll
                    for (int i = 0; i < F; ++i) raw_x[b][i].load(end.x, offset(i, b));
                }
            } else {
                load8(end.bias + column, bias);
            }
#pragma unroll
            for (int b = 0; b < batch; ++b) {
#pragma unroll
                for (int f = 0; f < F; f += streams) {
                    const int half = turn % 2 + b;
                    float z[streams][8], x[streams][8];
#pragma unroll
                    for (int s = 0; s < streams; ++s) {
#pragma unroll
                        for (int j = 0; j < 8; ++j) {
                            z[s][j] = sums[f + s][half_columns * 4 + j / 2][half * 2 + j % 2];
                        }
                        if (adjoint && !first) raw_x[b][f + s].unpack(x[s]);
                    }
                    float coordinates[2] = {};
                    if (first) {
                        const int row = int(row0) + f * 16 + half * 8;
                        const int point = row / 16 / streams * 16 + row % 16;
                        if (point < end.points.count) {
                            coordinates[0] = end.points.coordinates[2 * point];
                            coordinates[1] = end.points.coordinates[2 * point + 1];
                        }
                    }
#pragma unroll
                    for (int j = 0; j < 8; ++j) {
                        float value[streams], other[streams];
#pragma unroll
                        for (int s = 0; s < streams; ++s) {
                            value[s] = z[s][j];
                            if (adjoint && !first) other[s] = x[s][j];
                        }
                        if (first) {
                            float all_h[streams];
                            first_inputs<streams>(end.points, w0[j], w1[j], bias[j], coordinates[0],
                                                  coordinates[1], other);
                            sine<Precision, streams>(other, all_h);
                            sine_adjoint<streams>(other, value);
                        } else if (adjoint) {
                            sine_adjoint<streams>(other, value);
                        } else {
                            value[0] += bias[j];
                            sine<Precision, streams>(value, other);
                        }
#pragma unroll
                        for (int s = 0; s < streams; ++s) {
                            z[s][j] = adjoint ? value[s] : other[s];
                            if (!adjoint) x[s][j] = value[s];
                        }
                        if (adjoint) sums_d[sum_rows - 1][j] += value[0];
                        if (first) {
#pragma unroll
                            for (int q = 0; q < 2; ++q) {
                                sums_d[q % sum_rows][j] = fmaf(coordinates[q], value[0],
                                                               sums_d[q % sum_rows][j]);
                                if (streams == 1) continue;
                                sums_d[q % sum_rows][j] =
                                    fmaf(end.points.scale[q], value[(1 + q) % streams],
                                         sums_d[q % sum_rows][j]);
                            }
                        }
                    }
#pragma unroll
                    for (int s = 0; s < streams; ++s) {
                        if (first) continue;
                        store8(adjoint ? end.d : end.h, offset(f + s, b), z[s]);
                        if (!adjoint && end.keep) store8(end.x, offset(f + s, b), x[s]);
                        if (kind == End::last_sine) {
                            const int row = int(row0) + (f + s) * 16 + half * 8;
                            write_output_part(end.output, z[s], row, column, width);
                        }
                    }
                }
            }
#pragma unroll
            for (int q = 0; adjoint && q < sum_rows; ++q) {
#pragma unroll
                for (int j = 0; j < 8; ++j) {
#pragma unroll
                    for (int other = 4; other < 32; other *= 2) {
                        sums_d[q][j] += __shfl_xor_sync(0xffffffffu, sums_d[q][j], other);
                    }
                    if (lane < 4) own_sums[(2 * q + half_columns) * 32 + j] += sums_d[q][j];
                }
            }
        }
        tile += tile_step;
    }
    if (adjoint && lane < 4) {
        const size_t share = blockIdx.x * Shape::shares + warp / 4;
        for (int q = 0; q < sum_rows; ++q) {
            float* const result =
                end.sums + (share * sum_rows + q) * width + column0 + warp_column + lane * 8;
            for (int j = 0; j < 8; ++j) {
                result[j] = own_sums[2 * q * 32 + j];
                result[32 + j] = own_sums[(2 * q + 1) * 32 + j];
            }
        }
    }
}

// ---- Outer products: D^T H of all layers, over shares of the rows ------------------------------------

template <class Precision>
struct OuterShape {
    static constexpr int stages = Precision::pieces == 1 ? 4 : 3;
    static constexpr int stride_a = 128 + padding, stride_b = column_tile + padding;
    static constexpr int plane_a = depth_tile * stride_a, plane_b = depth_tile * stride_b;
    static constexpr int stage = Precision::pieces * (plane_a + plane_b);
    static constexpr size_t bytes = size_t(stages) * stage * sizeof(typename Precision::Piece);
};

// Block (x, y, z): rows of share x, columns [128 y, 128 y + 128) of D, and z = layer column_tiles + tile
// of columns of H. Layers of d and h lie `layer_size` elements apart; partial is (layer, share, width,
// width).
template <class Precision>
__global__ void __launch_bounds__(outer_threads, 1)
    outer_kernel(Matrix<Precision> d, Matrix<Precision> h, size_t layer_size, float* partial, int rows,
                 int width) {
    typedef typename Precision::Piece Piece;
    typedef OuterShape<Precision> Shape;
    extern __shared__ __align__(16) unsigned char shared_memory[];
    Piece* const shared = reinterpret_cast<Piece*>(shared_memory);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 64;
    const int layer = blockIdx.z / (width / column_tile);
    const int column0 = blockIdx.z % (width / column_tile) * column_tile;
    d.data += layer * layer_size;
    h.data += layer * layer_size;
    const int all_steps = rows / depth_tile;
    const int begin = int(int64_t(all_steps) * blockIdx.x / gridDim.x);
    const int total = int(int64_t(all_steps) * (blockIdx.x + 1) / gridDim.x) - begin;

    // A thread copies the same column of every 16th row of D's and every 8th of H's.
    const int row_a = threadIdx.x / 16, column_a = threadIdx.x % 16 * 8;
    const int row_b = threadIdx.x / 32, column_b = threadIdx.x % 32 * 8;
    const Piece* next_a = d.data + (size_t(begin) * depth_tile + row_a) * width + blockIdx.y * 128 +
                          column_a;
    const Piece* next_b = h.data + (size_t(begin) * depth_tile + row_b) * width + column0 + column_b;
    int fetched = 0;
    const auto fetch = [&] {
        if (fetched < total) {
            Piece* const stage = shared + fetched % Shape::stages * Shape::stage;
#pragma unroll
            for (int piece = 0; piece < Precision::pieces; ++piece) {
                Piece* const a = stage + piece * Shape::plane_a + row_a * Shape::stride_a + column_a;
                Piece* const b = stage + Precision::pieces * Shape::plane_a + piece * Shape::plane_b +
                                 row_b * Shape::stride_b + column_b;
#pragma unroll
                for (int i = 0; i < depth_tile; i += 16) {
                    copy16(a + i * Shape::stride_a, next_a + piece * d.plane + size_t(i) * width);
                }
#pragma unroll
                for (int i = 0; i < depth_tile; i += 8) {
                    copy16(b + i * Shape::stride_b, next_b + piece * h.plane + size_t(i) * width);
                }
            }
            next_a += size_t(depth_tile) * width;
            next_b += size_t(depth_tile) * width;
        }
        commit_copies();
        ++fetched;
    };

    float sums[4][8][4];
    clear(sums);
    const int a_offset =
        (lane / 16 * 8 + lane % 8) * Shape::stride_a + warp_row + lane / 8 % 2 * 8;
    const int b_offset = Precision::pieces * Shape::plane_a + lane % 16 * Shape::stride_b +
                         warp_column + lane / 16 * 8;
    const auto load_a = [&](int number, int k, int piece, int i, uint32_t (&r)[4]) {
        const Piece* const stage = shared + number % Shape::stages * Shape::stage;
        load_matrices<true>(r, stage + a_offset + piece * Shape::plane_a + k * Shape::stride_a + i * 16);
    };
    const auto load_b = [&](int number, int k, int piece, int pair, uint32_t (&r)[4]) {
        const Piece* const stage = shared + number % Shape::stages * Shape::stage;
        load_matrices<true>(r,
                            stage + b_offset + piece * Shape::plane_b + k * Shape::stride_b + pair * 16);
    };
    if (Precision::pieces == 1) {  // operands are loaded a step of 16 ahead
        StepOperands<Piece, 4> operands[2];
        for (int i = 0; i < Shape::stages; ++i) fetch();
        wait_copies<Shape::stages - 1>();
        __syncthreads();
        if (total > 0) operands[0].load(load_a, load_b, 0, 0);
#pragma unroll 1
        for (int number = 0; number < total; ++number) {
            operands[1].load(load_a, load_b, number, 16);
            operands[0].multiply(sums);
            wait_copies<Shape::stages - 2>();
            __syncthreads();
            fetch();
            if (number + 1 < total) operands[0].load(load_a, load_b, number + 1, 0);
            operands[1].multiply(sums);
        }
    } else {
        for (int i = 0; i < Shape::stages - 1; ++i) fetch();
#pragma unroll 1
        for (int number = 0; number < total; ++number) {
            wait_copies<Shape::stages - 2>();
            __syncthreads();
            fetch();
#pragma unroll
            for (int k = 0; k < depth_tile; k += 16) {
                multiply_step<Precision, 4>(
                    sums,
                    [&](int piece, int i, uint32_t (&r)[4]) { load_a(number, k, piece, i, r); },
                    [&](int piece, int pair, uint32_t (&r)[4]) { load_b(number, k, piece, pair, r); });
            }
        }
    }
    float* const result =
        partial + ((size_t(layer) * gridDim.x + blockIdx.x) * width + blockIdx.y * 128) * width +
        column0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = warp_row + i * 16 + half * 8 + lane / 4;
                const int column = warp_column + j * 8 + lane % 4 * 2;
                *reinterpret_cast<float2*>(result + size_t(row) * width + column) =
                    make_float2(sums[i][j][half * 2], sums[i][j][half * 2 + 1]);
            }
        }
    }
}

// ---- Everything else: memory-bound, a thread for eight columns ------------------------------------

// Row of the first stream of a point; further streams follow 16 rows apart.
template <int streams>
__device__ inline size_t row_of(int point) {
    return size_t(point / 16) * 16 * streams + point % 16;
}

template <class Precision, int streams>
__global__ void first_layer_kernel(Points points, Vectors v, Matrix<Precision> h,
                                   Matrix<Precision> x, bool keep, OutputParts output) {
    const int vectors = v.width / 8;
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const int point = i / vectors, column = i % vectors * 8;
    if (point >= points.padded) return;
    const bool inside = point < points.count;
    const float row = inside ? points.coordinates[2 * point] : 0.0f;
    const float col = inside ? points.coordinates[2 * point + 1] : 0.0f;
    float all_h[streams][8], all_x[streams][8];
    FirstUnits(v, column).sines<Precision>(points, row, col, all_h, all_x);
#pragma unroll
    for (int s = 0; s < streams; ++s) {
        const size_t offset = (row_of<streams>(point) + 16 * s) * v.width + column;
        store8(h, offset, all_h[s]);
        if (keep) store8(x, offset, all_x[s]);
        if (output.weights) {
            write_output_part(output, all_h[s], row_of<streams>(point) + 16 * s, column, v.width);
        }
    }
}

// One of the network's outputs, in the units asked for.
template <int streams>
__device__ inline float output_value(const Points& points, const Parameters& p,
                                     const OutputParts& output, int point, int stream, int channel) {
    const size_t row = row_of<streams>(point) + 16 * stream;
    float sum = 0;
    for (int group = 0; group < output.groups; ++group) {
        sum += output.parts[(size_t(group) * output.rows + row) * output.channels + channel];
    }
    const float bias = stream == 0 ? p.flat[p.bias(p.hidden_layers + 1) + channel] : 0.0f;
    return sum * points.inverse[stream] + bias;
}

// result is (count, streams, channels).
template <int streams>
__global__ void output_kernel(Points points, Parameters p, OutputParts output, float* result) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const int point = i / p.channels / streams;
    if (point >= points.count) return;
    result[i] = output_value<streams>(points, p, output, point, i / p.channels % streams,
                                      i % p.channels);
}

// From outputs to the cotangents (count, streams, channels) of the squared error, in the units of the
// streams as they are kept. sums[block] has the block's share of the loss, before the mean, and of
// the output biases' gradient: 1 + channels numbers.
template <int streams>
__global__ void cotangent_kernel(Points points, Parameters p, OutputParts output,
                                 Error error, float* cotangent, unsigned* largest, double* sums) {
    const int channels = p.channels;
    constexpr int supervised = streams == 3 ? 2 : 1, first = streams - supervised;
    const int point = blockIdx.x * blockDim.x + threadIdx.x;
    const size_t start = size_t(point) * streams * channels;
    double loss = 0;
    float most = 0;
    if (point < points.count) {
        const float w = error.weight ? error.weight[point] : 1.0f;
#pragma unroll
        for (int s = 0; s < streams; ++s) {
            for (int c = 0; c < channels; ++c) {
                const size_t i = start + s * channels + c;
                float g = 0;
                if (error.given) {
                    g = error.given[i] * points.inverse[s];
                } else if (s >= first) {
                    const size_t k = size_t(point) * supervised + s - first;
                    const float residual = output_value<streams>(points, p, output, point, s, c) -
                                           error.target[k * channels + c];
                    loss += double(w * residual) * residual;
                    g = 2 * error.mean * w * residual * points.inverse[s];
                }
                most = fmaxf(most, fabsf(g));
                cotangent[i] = g;
            }
        }
    }
    keep_largest(most, largest);
    sums += size_t(blockIdx.x) * (1 + channels);
    loss = block_sum(loss);
    if (threadIdx.x == 0) sums[0] = loss;
    for (int c = 0; c < channels; ++c) {
        const double bias = block_sum(point < points.count ? cotangent[start + c] : 0.0f);
        if (threadIdx.x == 0) sums[1 + c] = bias;
    }
}

// A block of 256 threads, of which each has sums of 8 of 256 columns over one of 8 parts of the rows:
// the sum over the parts of column threadIdx.x.
__device__ inline float sum_of_parts(const float (&sums)[8], float (&shared)[8][256]) {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 8; ++j) shared[threadIdx.x / 32][threadIdx.x % 32 * 8 + j] = sums[j];
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < 8; ++i) sum += shared[i][threadIdx.x];
    return sum;
}

// Cotangents of the output to those of the last sine layer's input, d; sums of d's value rows to
// bias_partial[block]; and for `at_once` channels from `channel` on, the output weights' gradient to
// partial[block][channel]. Blocks of 256 threads: (share of points, 256 columns). Only the first
// channels' launch writes d and its sums.
template <class Precision, int streams, int at_once>
__global__ void __launch_bounds__(256, 2)
    output_adjoint_kernel(Points points, Parameters p, Vectors v, Matrix<Precision> h,
                          Matrix<Precision> x, Matrix<Precision> d, const float* cotangent,
                          const unsigned* largest, int channel, float* bias_partial,
                          float* partial) {
    constexpr int parts = 8, at_a_time = streams == 1 ? 4 / Precision::pieces : 1;
    __shared__ float shared[parts][256];
    const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
    const int column = blockIdx.y * 256 + lane * 8;
    const size_t next = size_t(16) * v.width;
    const float scale = cotangent_scale(*largest, cotangent_exponent(streams));
    float bias[8] = {}, sums[at_once][8] = {};
    const int step = gridDim.x * parts;
    for (int point0 = blockIdx.x * parts + part; point0 < points.padded; point0 += at_a_time * step) {
        Raw8<Precision> raw_h[at_a_time][streams], raw_x[at_a_time][streams];
#pragma unroll
        for (int i = 0; i < at_a_time; ++i) {
            const int point = min(point0 + i * step, points.padded - 1);
            const size_t offset = row_of<streams>(point) * v.width + column;
#pragma unroll
            for (int s = 0; s < streams; ++s) {
                raw_h[i][s].load(h, offset + s * next);
                if (channel == 0) raw_x[i][s].load(x, offset + s * next);
            }
        }
#pragma unroll
        for (int i = 0; i < at_a_time; ++i) {
            const int point = point0 + i * step;
            if (point >= points.padded) continue;
            const size_t offset = row_of<streams>(point) * v.width + column;
            const float* const y = cotangent + size_t(point) * streams * p.channels;
            const bool inside = point < points.count;
            float all_h[streams][8];
#pragma unroll
            for (int s = 0; s < streams; ++s) {
                raw_h[i][s].unpack(all_h[s]);
#pragma unroll
                for (int q = 0; q < at_once; ++q) {
                    if (!inside || channel + q >= p.channels) continue;
                    const float g = y[s * p.channels + channel + q];
#pragma unroll
                    for (int j = 0; j < 8; ++j) sums[q][j] = fmaf(g, all_h[s][j], sums[q][j]);
                }
            }
            if (channel > 0) continue;
            float g[streams][8] = {}, all_x[streams][8];
            for (int c = 0; inside && c < p.channels; ++c) {
                float w[8];
                load8(v.output(p.hidden_layers, c) + column, w);
#pragma unroll
                for (int s = 0; s < streams; ++s) {
                    const float scaled = scale * y[s * p.channels + c];
#pragma unroll
                    for (int j = 0; j < 8; ++j) g[s][j] = fmaf(scaled, w[j], g[s][j]);
                }
            }
#pragma unroll
            for (int s = 0; s < streams; ++s) raw_x[i][s].unpack(all_x[s]);
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                float value[streams], other[streams];
#pragma unroll
                for (int s = 0; s < streams; ++s) {
                    value[s] = g[s][j];
                    other[s] = all_x[s][j];
                }
                sine_adjoint<streams>(other, value);
#pragma unroll
                for (int s = 0; s < streams; ++s) g[s][j] = value[s];
                bias[j] += value[0];
            }
#pragma unroll
            for (int s = 0; s < streams; ++s) store8(d, offset + s * next, g[s]);
        }
    }
    const int own = blockIdx.y * 256 + threadIdx.x;
    if (channel == 0) bias_partial[size_t(blockIdx.x) * v.width + own] = sum_of_parts(bias, shared);
#pragma unroll
    for (int q = 0; q < at_once; ++q) {
        if (channel + q >= p.channels) continue;
        const size_t row = size_t(blockIdx.x) * p.channels + channel + q;
        partial[row * v.width + own] = sum_of_parts(sums[q], shared);
    }
}

// The first layer's weights, where no product ends with their sums: partial[block][q][column] = sum
// over the points of a share of what the weights' column q, 0 or 1, was multiplied by, times d.
// Blocks of 256 threads: (share, 256 columns).
template <class Precision, int streams>
__global__ void first_adjoint_kernel(Points points, int width, Matrix<Precision> d, float* partial) {
    constexpr int parts = 8, unrolled = 4;
    __shared__ float shared[parts][256];
    const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
    const int column = blockIdx.y * 256 + lane * 8;
    const size_t next = size_t(16) * width;
    float sums[2][8] = {};
    const int step = gridDim.x * parts;
    for (int first = blockIdx.x * parts + part; first < points.count; first += unrolled * step) {
        Raw8<Precision> raw[unrolled][streams < 3 ? 1 : 3];  // the Laplacian's row has no part
        float x[unrolled][2];
#pragma unroll
        for (int i = 0; i < unrolled; ++i) {
            const int point = min(first + i * step, points.count - 1);
            const size_t offset = row_of<streams>(point) * width + column;
#pragma unroll
            for (int s = 0; s < streams && s < 3; ++s) raw[i][s].load(d, offset + s * next);
            const bool inside = first + i * step < points.count;
            for (int q = 0; q < 2; ++q) x[i][q] = inside ? points.coordinates[2 * point + q] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < unrolled; ++i) {
            if (first + i * step >= points.count) continue;
            float value[8];
            raw[i][0].unpack(value);
#pragma unroll
            for (int q = 0; q < 2; ++q) {
#pragma unroll
                for (int j = 0; j < 8; ++j) sums[q][j] = fmaf(x[i][q], value[j], sums[q][j]);
                if (streams < 3) continue;
                float derivative[8];
                raw[i][streams < 3 ? 0 : 1 + q].unpack(derivative);
#pragma unroll
                for (int j = 0; j < 8; ++j) {
                    sums[q][j] = fmaf(points.scale[q], derivative[j], sums[q][j]);
                }
            }
        }
    }
#pragma unroll
    for (int q = 0; q < 2; ++q) {
        partial[(size_t(blockIdx.x) * 2 + q) * width + blockIdx.y * 256 + threadIdx.x] =
            sum_of_parts(sums[q], shared);
    }
}

}  // namespace
}  // namespace gpu
}  // namespace siren
