// Layer by layer: a kernel for each product with weights, with a sine layer or its adjoint as epilogue, one for all
// outer products, and memory-bound ones for the rest. For any width, precision and GPU from Ampere on.
//
// Matrices have a row for each point and stream: row = ((p / 16) streams + stream) 16 + p % 16. So a tensor core's
// fragment of 16 rows holds one stream of 16 points, and the thread that holds one stream of a point holds the others.
#pragma once

#include "cuda/gradient.h"
#include "cuda/outputs.h"
#include "cuda/parameters.h"
#include "cuda/sm80/mma.h"

namespace siren {
namespace gpu {
namespace {

constexpr int outer_threads = 256;

// 16-row fragments a warp holds.
__host__ __device__ constexpr int fragments(int streams) { return streams == 3 ? 3 : 4; }

// Writes a row's part from its eight columns at `column`; the four threads of 32 columns are neighbors.
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
    static constexpr int stages = tuning::product_stages(Precision::pieces);
    static constexpr int depth = tuning::depth(Precision::pieces);
    static constexpr int shares = threads / 128;  // of sums, in each block

    struct Stage {
        typename Precision::Piece a[Precision::pieces][rows][depth + padding];
        typename Precision::Piece b[Precision::pieces][column_tile][depth + padding];
    };
    struct SharedStorage {
        Stage stages[ProductShape::stages];
        float sums[3 * shares * column_tile];
    };
    static constexpr size_t bytes = sizeof(SharedStorage);
};

template <class Precision>
struct EpilogueArguments {
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

// Fetches the operands of a product's steps, one after the other, to the pipeline's stages.
template <class Precision, int streams>
class ProductLoader {
    typedef typename Precision::Piece Piece;
    typedef ProductShape<Precision, streams> Shape;
    // A thread copies the same 16 bytes of every 64th row.
    static constexpr int rows_at_once = Shape::threads / (Shape::depth / 8);

public:
    __device__ __forceinline__ ProductLoader(typename Shape::SharedStorage& shared, const Matrix<Precision>& a,
                                             const Matrix<Precision>& b, int width, int steps, int total)
        : shared_(shared), plane_a_(a.plane), plane_b_(b.plane), width_(width), steps_(steps), total_(total),
          row_(threadIdx.x / (Shape::depth / 8)), k_(threadIdx.x % (Shape::depth / 8) * 8),
          next_a_(a.data + (size_t(blockIdx.x) * Shape::rows + row_) * width + k_),
          next_b_(b.data + size_t(blockIdx.y * column_tile + row_) * width + k_) {}

    __device__ __forceinline__ void fetch() {
        if (fetched_ < total_) {
            typename Shape::Stage& stage = shared_.stages[fetched_ % Shape::stages];
#pragma unroll
            for (int piece = 0; piece < Precision::pieces; ++piece) {
#pragma unroll
                for (int i = 0; i < Shape::rows; i += rows_at_once) {
                    if (Shape::rows % rows_at_once && i + row_ >= Shape::rows) continue;
                    cp_async_16(&stage.a[piece][row_ + i][k_], next_a_ + piece * plane_a_ + size_t(i) * width_);
                }
#pragma unroll
                for (int i = 0; i < column_tile; i += rows_at_once) {
                    cp_async_16(&stage.b[piece][row_ + i][k_], next_b_ + piece * plane_b_ + size_t(i) * width_);
                }
            }
        }
        cp_async_commit();
        ++fetched_;
        next_a_ += Shape::depth;
        next_b_ += Shape::depth;
        if (++fetched_step_ == steps_) {
            fetched_step_ = 0;
            next_a_ += (size_t(gridDim.x) * Shape::rows - 1) * width_;
            next_b_ -= width_;
        }
    }

private:
    typename Shape::SharedStorage& shared_;
    const size_t plane_a_, plane_b_;
    const int width_, steps_, total_, row_, k_;
    const Piece *next_a_, *next_b_;
    int fetched_ = 0, fetched_step_ = 0;
};

// Asks for what an adjoint's epilogue will read of a tile.
template <class Precision, int streams>
__device__ __forceinline__ void prefetch_x(const Matrix<Precision>& x, int tile, int width) {
    typedef ProductShape<Precision, streams> Shape;
    for (int i = threadIdx.x; i < Shape::rows * 4; i += Shape::threads) {
        const int row = i / 4;
        const size_t at = (size_t(tile) * Shape::rows + row) * width + blockIdx.y * column_tile + i % 4 * 64;
#pragma unroll
        for (int piece = 0; piece < Precision::pieces; ++piece) prefetch(x.data + piece * x.plane + at);
    }
}

// The epilogue of eight columns of a point's rows: from z and, for an adjoint, x to what is stored in their place, and
// sums of d over rows. w0, w1 and bias are the first layer's, or bias the layer's.
template <class Precision, int streams, Epilogue kind, int sum_rows>
__device__ __forceinline__ void finish_columns(const Points& points, const float (&w0)[8], const float (&w1)[8],
                                               const float (&bias)[8], const float (&coordinates)[2],
                                               float (&z)[streams][8], float (&x)[streams][8],
                                               float (&sums_d)[sum_rows][8]) {
    constexpr bool first = kind == Epilogue::first_adjoint, adjoint = kind == Epilogue::adjoint || first;
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
            first_inputs<streams>(points, w0[j], w1[j], bias[j], coordinates[0],
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
                    fmaf(points.scale[q], value[(1 + q) % streams],
                         sums_d[q % sum_rows][j]);
            }
        }
    }
}

// The epilogue of a tile: a sine layer or its adjoint, from a warp's accumulators to memory.
template <class Precision, int streams, Epilogue kind>
__device__ __forceinline__ void finish_product(const EpilogueArguments<Precision>& epilogue, int tile, int width,
                                               const float (&accumulators)[fragments(streams)][8][4],
                                               float* own_sums) {
    typedef ProductShape<Precision, streams> Shape;
    constexpr int F = fragments(streams);
    constexpr bool first = kind == Epilogue::first_adjoint, adjoint = kind == Epilogue::adjoint || first;
    constexpr int sum_rows = first ? 3 : 1;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = warp / 4 * 16 * F, warp_column = warp % 4 * 64, column0 = blockIdx.y * column_tile;
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
            load8(epilogue.vectors.first(0) + column, w0);
            load8(epilogue.vectors.first(1) + column, w1);
            load8(epilogue.vectors.bias(0) + column, bias);
        } else if (adjoint) {
#pragma unroll
            for (int b = 0; b < batch; ++b) {
#pragma unroll
                for (int i = 0; i < F; ++i) raw_x[b][i].load(epilogue.x, offset(i, b));
            }
        } else {
            load8(epilogue.bias + column, bias);
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
                        z[s][j] = accumulators[f + s][half_columns * 4 + j / 2][half * 2 + j % 2];
                    }
                    if (adjoint && !first) raw_x[b][f + s].unpack(x[s]);
                }
                float coordinates[2] = {};
                if (first) {
                    const int row = int(row0) + f * 16 + half * 8;
                    const int point = row / 16 / streams * 16 + row % 16;
                    if (point < epilogue.points.count) {
                        coordinates[0] = epilogue.points.coordinates[2 * point];
                        coordinates[1] = epilogue.points.coordinates[2 * point + 1];
                    }
                }
                finish_columns<Precision, streams, kind>(epilogue.points, w0, w1, bias, coordinates, z, x, sums_d);
#pragma unroll
                for (int s = 0; s < streams; ++s) {
                    if (first) continue;
                    store8(adjoint ? epilogue.d : epilogue.h, offset(f + s, b), z[s]);
                    if (!adjoint && epilogue.keep) store8(epilogue.x, offset(f + s, b), x[s]);
                    if (kind == Epilogue::last_sine) {
                        const int row = int(row0) + (f + s) * 16 + half * 8;
                        write_output_part(epilogue.output, z[s], row, column, width);
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
}

// The gridDim.x blocks take tiles of rows in turn; blockIdx.y is the tile of columns.
template <class Precision, int streams, Epilogue kind>
__global__ void __launch_bounds__(256, 1)
    product_kernel(Matrix<Precision> a, Matrix<Precision> b, EpilogueArguments<Precision> epilogue, int tiles,
                   int width) {
    typedef typename Precision::Piece Piece;
    typedef ProductShape<Precision, streams> Shape;
    constexpr int F = fragments(streams);
    constexpr bool first = kind == Epilogue::first_adjoint, adjoint = kind == Epilogue::adjoint || first;
    constexpr int sum_rows = first ? 3 : 1;
    static_assert(Shape::bytes <= tuning::shared_memory, "fewer stages, or less depth");
    extern __shared__ __align__(16) unsigned char shared_memory[];
    auto& shared = *reinterpret_cast<typename Shape::SharedStorage*>(shared_memory);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = warp / 4 * 16 * F, warp_column = warp % 4 * 64;
    const int column0 = blockIdx.y * column_tile;
    const int steps = width / Shape::depth;
    const int first_tile = blockIdx.x, tile_step = gridDim.x;
    const int total = (max(tiles - first_tile, 0) + tile_step - 1) / tile_step * steps;

    ProductLoader<Precision, streams> loader(shared, a, b, width, steps, total);

    // Each of a warp's first four lanes has 16 columns to itself.
    float* const own_sums = shared.sums + warp * 64 * sum_rows + lane * 8;
    if (adjoint && lane < 4) {
        for (int q = 0; q < 2 * sum_rows; ++q) {
            for (int j = 0; j < 8; ++j) own_sums[q * 32 + j] = 0;
        }
    }
    float accumulators[F][8][4];
    const int a_row = warp_row + lane % 16, a_k = lane / 16 * 8;
    const int b_row = warp_column + lane / 16 * 8 + lane % 8, b_k = lane / 8 % 2 * 8;
    const auto load_a = [&](int number, int k, int piece, int i, uint32_t (&r)[4]) {
        ldmatrix<Load::as_stored>(r, &shared.stages[number % Shape::stages].a[piece][a_row + i * 16][a_k + k]);
    };
    const auto load_b = [&](int number, int k, int piece, int pair, uint32_t (&r)[4]) {
        ldmatrix<Load::as_stored>(r, &shared.stages[number % Shape::stages].b[piece][b_row + pair * 16][b_k + k]);
    };
    StepOperands<Piece, F> operands[2];
    // Operands are loaded a step of 16 ahead; two pieces leave no registers for that.
    constexpr bool ahead = Precision::pieces == 1;
    static_assert(!ahead || Shape::depth == 32, "two steps of 16 take turns");
    for (int i = 0; i < Shape::stages - !ahead; ++i) loader.fetch();
    if (ahead) {
        cp_async_wait<Shape::stages - 1>();
        __syncthreads();
    }
    int tile = first_tile, step = 0;
#pragma unroll 1
    for (int number = 0; number < total; ++number) {
        if (step == 0) {
            if (adjoint && !first) prefetch_x<Precision, streams>(epilogue.x, tile, width);
            clear(accumulators);
        }
        if (ahead) {
            if (step == 0) operands[0].load(load_a, load_b, number, 0);
            operands[1].load(load_a, load_b, number, 16);
            operands[0].multiply(accumulators);
        }
        cp_async_wait<Shape::stages - 2>();
        __syncthreads();
        loader.fetch();
        if (ahead) {
            if (step + 1 < steps) operands[0].load(load_a, load_b, number + 1, 0);
            operands[1].multiply(accumulators);
        } else {
#pragma unroll
            for (int k = 0; k < Shape::depth; k += 16) {
                multiply_step<Precision, F>(
                    accumulators,
                    [&](int piece, int i, uint32_t (&r)[4]) { load_a(number, k, piece, i, r); },
                    [&](int piece, int pair, uint32_t (&r)[4]) { load_b(number, k, piece, pair, r); });
            }
        }
        if (++step < steps) continue;
        step = 0;

        finish_product<Precision, streams, kind>(epilogue, tile, width, accumulators, own_sums);
        tile += tile_step;
    }
    if (adjoint && lane < 4) {
        const size_t share = blockIdx.x * Shape::shares + warp / 4;
        for (int q = 0; q < sum_rows; ++q) {
            float* const result =
                epilogue.sums + (share * sum_rows + q) * width + column0 + warp_column + lane * 8;
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
    static constexpr int stages = tuning::outer_product_stages(Precision::pieces);
    static constexpr int depth = tuning::depth(Precision::pieces);

    struct Stage {
        typename Precision::Piece d[Precision::pieces][depth][128 + padding];
        typename Precision::Piece h[Precision::pieces][depth][column_tile + padding];
    };
    struct SharedStorage {
        Stage stages[OuterShape::stages];
    };
    static constexpr size_t bytes = sizeof(SharedStorage);
};

// Writes a block's sums, 128 rows and 256 columns, to a matrix of that width.
__device__ __forceinline__ void store_outer(const float (&accumulators)[4][8][4], float* result, int width) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 64;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = warp_row + i * 16 + half * 8 + lane / 4;
                const int column = warp_column + j * 8 + lane % 4 * 2;
                *reinterpret_cast<float2*>(result + size_t(row) * width + column) =
                    make_float2(accumulators[i][j][half * 2], accumulators[i][j][half * 2 + 1]);
            }
        }
    }
}

// Block (x, y, z): rows of share x, columns [128 y, 128 y + 128) of D, and z = layer column_tiles + tile
// of columns of H. Layers of d and h lie `layer_size` elements apart; partial is (layer, share, width,
// width).
template <class Precision>
__global__ void __launch_bounds__(outer_threads, 1)
    outer_kernel(Matrix<Precision> d, Matrix<Precision> h, size_t layer_size, float* partial, int rows,
                 int width) {
    typedef typename Precision::Piece Piece;
    typedef OuterShape<Precision> Shape;
    static_assert(Shape::bytes <= tuning::shared_memory, "fewer stages, or less depth");
    extern __shared__ __align__(16) unsigned char shared_memory[];
    auto& shared = *reinterpret_cast<typename Shape::SharedStorage*>(shared_memory);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 64;
    const int layer = blockIdx.z / (width / column_tile);
    const int column0 = blockIdx.z % (width / column_tile) * column_tile;
    d.data += layer * layer_size;
    h.data += layer * layer_size;
    const int all_steps = rows / Shape::depth;
    const int begin = int(int64_t(all_steps) * blockIdx.x / gridDim.x);
    const int total = int(int64_t(all_steps) * (blockIdx.x + 1) / gridDim.x) - begin;

    // A thread copies the same column of every 16th row of D's and every 8th of H's.
    const int row_d = threadIdx.x / 16, column_d = threadIdx.x % 16 * 8;
    const int row_h = threadIdx.x / 32, column_h = threadIdx.x % 32 * 8;
    const Piece* next_d = d.data + (size_t(begin) * Shape::depth + row_d) * width + blockIdx.y * 128 +
                          column_d;
    const Piece* next_h = h.data + (size_t(begin) * Shape::depth + row_h) * width + column0 + column_h;
    int fetched = 0;
    const auto fetch = [&] {
        if (fetched < total) {
            typename Shape::Stage& stage = shared.stages[fetched % Shape::stages];
#pragma unroll
            for (int piece = 0; piece < Precision::pieces; ++piece) {
#pragma unroll
                for (int i = 0; i < Shape::depth; i += 16) {
                    cp_async_16(&stage.d[piece][row_d + i][column_d], next_d + piece * d.plane + size_t(i) * width);
                }
#pragma unroll
                for (int i = 0; i < Shape::depth; i += 8) {
                    cp_async_16(&stage.h[piece][row_h + i][column_h], next_h + piece * h.plane + size_t(i) * width);
                }
            }
            next_d += size_t(Shape::depth) * width;
            next_h += size_t(Shape::depth) * width;
        }
        cp_async_commit();
        ++fetched;
    };

    float accumulators[4][8][4];
    clear(accumulators);
    const int d_k = lane / 16 * 8 + lane % 8, d_column = warp_row + lane / 8 % 2 * 8;
    const int h_k = lane % 16, h_column = warp_column + lane / 16 * 8;
    const auto load_d = [&](int number, int k, int piece, int i, uint32_t (&r)[4]) {
        ldmatrix<Load::transposed>(r, &shared.stages[number % Shape::stages].d[piece][d_k + k][d_column + i * 16]);
    };
    const auto load_h = [&](int number, int k, int piece, int pair, uint32_t (&r)[4]) {
        ldmatrix<Load::transposed>(r, &shared.stages[number % Shape::stages].h[piece][h_k + k][h_column + pair * 16]);
    };
    if (Precision::pieces == 1) {  // operands are loaded a step of 16 ahead
        StepOperands<Piece, 4> operands[2];
        for (int i = 0; i < Shape::stages; ++i) fetch();
        cp_async_wait<Shape::stages - 1>();
        __syncthreads();
        if (total > 0) operands[0].load(load_d, load_h, 0, 0);
#pragma unroll 1
        for (int number = 0; number < total; ++number) {
            operands[1].load(load_d, load_h, number, 16);
            operands[0].multiply(accumulators);
            cp_async_wait<Shape::stages - 2>();
            __syncthreads();
            fetch();
            if (number + 1 < total) operands[0].load(load_d, load_h, number + 1, 0);
            operands[1].multiply(accumulators);
        }
    } else {
        for (int i = 0; i < Shape::stages - 1; ++i) fetch();
#pragma unroll 1
        for (int number = 0; number < total; ++number) {
            cp_async_wait<Shape::stages - 2>();
            __syncthreads();
            fetch();
#pragma unroll
            for (int k = 0; k < Shape::depth; k += 16) {
                multiply_step<Precision, 4>(
                    accumulators,
                    [&](int piece, int i, uint32_t (&r)[4]) { load_d(number, k, piece, i, r); },
                    [&](int piece, int pair, uint32_t (&r)[4]) { load_h(number, k, piece, pair, r); });
            }
        }
    }
    float* const result =
        partial + ((size_t(layer) * gridDim.x + blockIdx.x) * width + blockIdx.y * 128) * width +
        column0;
    store_outer(accumulators, result, width);
}

// ---- Everything else: memory-bound, a thread for eight columns ------------------------------------

// The first layer's h; epilogues compute its x anew.
template <class Precision, int streams>
__global__ void first_layer_kernel(Points points, Vectors v, Matrix<Precision> h) {
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

// From cotangents of the outputs to d of the last sine layer, the sums of its value rows, bias_sums[block], and, for
// `at_once` channels from `channel` on, the output weights' gradient, partial[block][channel]. Blocks of 256 threads:
// (share of points, 256 columns). Only the launch for channel 0 writes d and its sums.
template <class Precision, int streams, int at_once>
__global__ void __launch_bounds__(256, 2)
    output_adjoint_kernel(Points points, Parameters p, Vectors v, Matrix<Precision> h,
                          Matrix<Precision> x, Matrix<Precision> d, const float* cotangent,
                          const unsigned* largest, int channel, float* bias_sums,
                          float* partial) {
    constexpr int parts = 8, at_a_time = streams == 1 ? 4 / Precision::pieces : 1;
    __shared__ float shared[parts][256];
    const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
    const int column = blockIdx.y * 256 + lane * 8;
    const size_t next = size_t(16) * v.width;
    const float scale = cotangent_scale(*largest, tuning::cotangent_exponent(streams));
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
    if (channel == 0) bias_sums[size_t(blockIdx.x) * v.width + own] = sum_of_parts(bias, shared);
#pragma unroll
    for (int q = 0; q < at_once; ++q) {
        if (channel + q >= p.channels) continue;
        const size_t row = size_t(blockIdx.x) * p.channels + channel + q;
        partial[row * v.width + own] = sum_of_parts(sums[q], shared);
    }
}

}  // namespace
}  // namespace gpu
}  // namespace siren
