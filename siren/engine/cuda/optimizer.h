// A step of Muon on a GPU, with Adam on all parameters that are not in a hidden matrix: `muon` of reference.py, in one
// kernel.
//
// All blocks go through phases together, with a barrier of the grid between two of them: momentum; the direction,
// scaled; and for each iteration G = X X^T, G^2 and X <- a X + (b G + c G^2) X. In a product each block computes tiles
// of its own and reads what the others have written, which is in the L2 cache. Matrices are 16-bit numbers, sums are
// float32. At 256 units a product takes two microseconds, so that launching kernels one by one would take longer than
// what they do.
//
// X begins with the Frobenius norm n^(1/4): for random matrices the entries of X, G and G^2 then are well within half's
// range, and for a matrix of rank one, of which G^2 has the entries of largest sum, too.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "cuda/grid_barrier.h"
#include "cuda/memory.h"
#include "cuda/numerics.h"
#include "cuda/runtime.h"
#include "cuda/sm80/mma.h"
#include "optimizer_numbers.h"

namespace siren {
namespace gpu {
namespace {

constexpr int muon_threads = 256, most_iterations = 8;
constexpr int muon_rows = 32, muon_columns = 64;  // of a tile; a warp has 16 x 16 of it
constexpr int muon_depth = 256;                   // of a product at a time, which is
constexpr int muon_step = 64;                     // loaded in steps of this
static_assert(muon_depth == 4 * muon_step && muon_columns % muon_step == 0, "see multiply_tile()");

template <class Piece>
struct MuonArguments {
    AdamInputs in;
    AdamOutputs out;
    const float* average;
    float* new_average;
    AdamNumbers adam;
    MuonNumbers muon;
    int64_t parameters;
    GridBarrier barrier;
    int padded;  // width of the matrices in memory, a multiple of a tile's columns; the rest is 0
    int iterations;
    Polynomial polynomials[most_iterations];
    Piece *x, *next, *gram, *square;  // (count, padded, padded)
    double* row_sums;                 // squares of the direction's rows (count, padded)
    double* tile_sums;                // squares of G^2 in the first iteration (count, tiles)

    __host__ __device__ int tiles() const { return padded / muon_rows * (padded / muon_columns); }  // of a matrix
    __device__ int64_t layer() const { return int64_t(muon.width) * muon.width + muon.width; }
};

// A block's operands. Rows are 16 bytes longer than they need be, so that eight neighbours are in different banks.
template <class Piece>
struct MuonStorage {
    static constexpr int stride = muon_depth + 8, narrow_stride = muon_columns + 8;
    static constexpr int right_pieces = muon_depth * narrow_stride > muon_columns * stride ? muon_depth * narrow_stride
                                                                                        : muon_columns * stride;
    Piece left[muon_rows * stride], second[muon_rows * stride];
    Piece right[right_pieces];
    double warp_sums[muon_threads / 32];
};

__device__ inline double sum_over_warp(double x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

// The sum of `count` numbers that other blocks have written, for each thread of a warp.
__device__ inline double sum_of(const double* numbers, int count) {
    double sum = 0;
    for (int i = threadIdx.x % 32; i < count; i += 32) sum += __ldcg(numbers + i);
    return sum_over_warp(sum);
}

// Adam's step for the parameters outside of matrices, which are `others` in number.
template <class Piece>
__device__ void step_adam(const MuonArguments<Piece>& m) {
    const AdamNumbers& adam = m.adam;
    const float keep_mean = float(adam.beta_1), keep_square = float(adam.beta_2);
    const float add_mean = float(1 - adam.beta_1), add_square = float(1 - adam.beta_2);
    const float scale = float(1 / adam.correction), least = float(adam.eps), rate = float(adam.rate);
    const int64_t start = m.muon.start, biases = int64_t(m.muon.count) * m.muon.width, layer = m.layer();
    const int64_t others = m.parameters - m.muon.count * (layer - m.muon.width);
    for (int64_t i = int64_t(blockIdx.x) * muon_threads + threadIdx.x; i < others; i += int64_t(gridDim.x) * muon_threads) {
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

// Calls visit(matrix, row) for each row of the padded matrices, a warp for each.
template <class Piece, class Visit>
__device__ void for_each_row(const MuonArguments<Piece>& m, const Visit& visit) {
    constexpr int warps = muon_threads / 32;
    for (int i = blockIdx.x * warps + threadIdx.x / 32; i < m.muon.count * m.padded; i += gridDim.x * warps) {
        visit(i / m.padded, i % m.padded);
    }
}

// The momentum, and the squares of the direction that looks a step ahead.
template <class Piece>
__device__ void step_momentum(const MuonArguments<Piece>& m) {
    const int n = m.muon.width;
    const float momentum = m.muon.momentum;
    for_each_row(m, [&](int matrix, int row) {
        double sum = 0;
        if (row < n) {
            const float* const gradient = m.in.gradient + m.muon.start + matrix * m.layer() + int64_t(row) * n;
            const int64_t first = (int64_t(matrix) * n + row) * n;
            for (int i = threadIdx.x % 32; i < n; i += 32) {
                const float g = gradient[i], average = momentum * m.average[first + i] + g;
                m.new_average[first + i] = average;
                const float direction = momentum * average + g;
                sum += double(direction) * direction;
            }
        }
        sum = sum_over_warp(sum);
        if (threadIdx.x % 32 == 0) m.row_sums[matrix * m.padded + row] = sum;
    });
}

// X at the start.
template <class Piece>
__device__ void scale_direction(const MuonArguments<Piece>& m) {
    const int n = m.muon.width;
    const float momentum = m.muon.momentum;
    for_each_row(m, [&](int matrix, int row) {
        const double sum = sum_of(m.row_sums + matrix * m.padded, m.padded);
        const double factor = sum > 0 ? sqrt(sqrt(double(n))) / sqrt(sum) : 0.0;
        const float* const gradient = m.in.gradient + m.muon.start + matrix * m.layer() + int64_t(row) * n;
        const int64_t first = (int64_t(matrix) * n + row) * n;
        uint32_t* const x = reinterpret_cast<uint32_t*>(m.x + (int64_t(matrix) * m.padded + row) * m.padded);
        for (int i = threadIdx.x % 32; i < m.padded / 2; i += 32) {
            float pair[2];
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const int column = 2 * i + j;
                pair[j] = row < n && column < n ? float(factor * (momentum * m.new_average[first + column] +
                                                                  gradient[column]))
                                                : 0.0f;
            }
            x[i] = to_pieces(pair[0], pair[1], Piece());
        }
    });
}

// Where a tile is: of which matrix, and its first row and column.
struct MuonTile {
    int matrix, row, column;

    template <class Piece>
    __device__ MuonTile(const MuonArguments<Piece>& m, int number) {
        const int columns = m.padded / muon_columns, tile = number % m.tiles();
        matrix = number / m.tiles();
        row = tile / columns * muon_rows;
        column = tile % columns * muon_columns;
    }
};

// Starts to copy `rows` rows of `pieces` elements, from `source` with `stride` to shared memory.
template <class Piece>
__device__ inline void copy_rows(Piece* to, int to_stride, const Piece* source, int stride, int rows, int pieces) {
    const int vectors = pieces / 8;
    for (int i = threadIdx.x; i < rows * vectors; i += muon_threads) {
        const int row = i / vectors, column = i % vectors * 8;
        cp_async_16(to + row * to_stride + column, source + size_t(row) * stride + column);
    }
}

// A fragment's 8 elements: factor times it plus second_factor times another.
template <class Piece>
__device__ inline void combine(uint32_t (&a)[4], const uint32_t (&second)[4], float factor, float second_factor) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const Piece* const x = reinterpret_cast<const Piece*>(&a[i]);
        const Piece* const y = reinterpret_cast<const Piece*>(&second[i]);
        a[i] = to_pieces(factor * to_float(x[0]) + second_factor * to_float(y[0]),
                         factor * to_float(x[1]) + second_factor * to_float(y[1]), Piece());
    }
}

// Operands of a product of tiles. `left` is a matrix, or, with `second`, a sum of two with factors. `right` is a matrix
// whose rows are the product's columns, or, if `transposed`, its rows.
template <class Piece>
struct MuonOperands {
    const Piece *left, *second, *right;
    float factor, second_factor;
};

// Starts to copy the operands of a tile for `muon_step` of the depth, from `begin` on, to `at` in shared memory.
template <bool combined, bool transposed, class Piece>
__device__ inline void copy_step(const MuonArguments<Piece>& m, MuonStorage<Piece>& shared, const MuonTile& tile,
                                 const MuonOperands<Piece>& operands, int begin, int at) {
    typedef MuonStorage<Piece> Storage;
    const size_t matrix = size_t(tile.matrix) * m.padded * m.padded;
    const size_t left = matrix + size_t(tile.row) * m.padded + begin;
    copy_rows(shared.left + at, Storage::stride, operands.left + left, m.padded, muon_rows, muon_step);
    if (combined) copy_rows(shared.second + at, Storage::stride, operands.second + left, m.padded, muon_rows, muon_step);
    if (transposed) {
        copy_rows(shared.right + at * Storage::narrow_stride, Storage::narrow_stride,
                  operands.right + matrix + size_t(begin) * m.padded + tile.column, m.padded, muon_step, muon_columns);
    } else {
        copy_rows(shared.right + at, Storage::stride, operands.right + matrix + size_t(tile.column) * m.padded + begin,
                  m.padded, muon_columns, muon_step);
    }
    cp_async_commit();
}

// accumulators += a warp's 16 x 16 elements of the tile's product, for `muon_step` of the depth that is at `at`.
template <bool combined, bool transposed, class Piece>
__device__ inline void multiply_step(MuonStorage<Piece>& shared, const MuonOperands<Piece>& operands, int at,
                                     float (&accumulators)[2][4]) {
    typedef MuonStorage<Piece> Storage;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = warp / 4 * 16, column = warp % 4 * 16;
#pragma unroll
    for (int k = at; k < at + muon_step; k += 16) {
        uint32_t a[4], b[4];
        const int left = (row + lane % 16) * Storage::stride + k + lane / 16 * 8;
        ldmatrix<false>(a, shared.left + left);
        if (combined) {
            uint32_t second[4];
            ldmatrix<false>(second, shared.second + left);
            combine<Piece>(a, second, operands.factor, operands.second_factor);
        }
        if (transposed) {
            ldmatrix<true>(b, shared.right + (k + lane % 16) * Storage::narrow_stride + column + lane / 16 * 8);
        } else {
            ldmatrix<false>(b, shared.right + (column + lane % 8 + lane / 16 * 8) * Storage::stride + k + lane / 8 % 2 * 8);
        }
        mma(accumulators[0], a, b[0], b[1], Piece());
        mma(accumulators[1], a, b[2], b[3], Piece());
    }
}

// accumulators += a warp's 16 x 16 elements of the tile's product.
template <bool combined, bool transposed, class Piece>
__device__ void multiply_tile(const MuonArguments<Piece>& m, MuonStorage<Piece>& shared, const MuonTile& tile,
                              const MuonOperands<Piece>& operands, float (&accumulators)[2][4]) {
    for (int begin = 0; begin < m.padded; begin += muon_depth) {
        __syncthreads();  // what was here before has been read
#pragma unroll
        for (int at = 0; at < muon_depth; at += muon_step) {
            if (begin + at < m.padded) {
                copy_step<combined, transposed>(m, shared, tile, operands, begin + at, at);
            } else {
                cp_async_commit();  // an empty group, so that as many follow as below
            }
        }
#pragma unroll
        for (int step = 0; step < muon_depth / muon_step; ++step) {
            if (step == 0) cp_async_wait<3>();
            if (step == 1) cp_async_wait<2>();
            if (step == 2) cp_async_wait<1>();
            if (step == 3) cp_async_wait<0>();
            __syncthreads();
            if (begin + step * muon_step < m.padded) {
                multiply_step<combined, transposed>(shared, operands, step * muon_step, accumulators);
            }
        }
    }
}

// Calls visit(row, column, first, second) for pairs of neighbouring elements in a row, as accumulators have them.
template <class Visit>
__device__ void for_each_pair(const MuonTile& tile, const float (&accumulators)[2][4], const Visit& visit) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int fragment = 0; fragment < 2; ++fragment) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            visit(tile.row + warp / 4 * 16 + half * 8 + lane / 4,
                  tile.column + warp % 4 * 16 + fragment * 8 + lane % 4 * 2, accumulators[fragment][2 * half],
                  accumulators[fragment][2 * half + 1]);
        }
    }
}

// to = source times its transpose. With `tile_sums`, also the squares of each tile's elements.
template <class Piece>
__device__ void multiply_by_transpose(const MuonArguments<Piece>& m, MuonStorage<Piece>& shared, const Piece* source,
                                      Piece* to, double* tile_sums) {
    for (int number = blockIdx.x; number < m.muon.count * m.tiles(); number += gridDim.x) {
        const MuonTile tile(m, number);
        float accumulators[2][4] = {};
        multiply_tile<false, false>(m, shared, tile, MuonOperands<Piece>{source, nullptr, source, 1, 0}, accumulators);
        double sum = 0;
        for_each_pair(tile, accumulators, [&](int row, int column, float first, float second) {
            *reinterpret_cast<uint32_t*>(to + (size_t(tile.matrix) * m.padded + row) * m.padded + column) =
                to_pieces(first, second, Piece());
            sum += double(first) * first + double(second) * second;
        });
        if (!tile_sums) continue;
        sum = sum_over_warp(sum);
        if (threadIdx.x % 32 == 0) shared.warp_sums[threadIdx.x / 32] = sum;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int warp = 1; warp < muon_threads / 32; ++warp) sum += shared.warp_sums[warp];
            tile_sums[number] = sum;
        }
    }
}

// The polynomial of s / norm.
__device__ inline Polynomial polynomial_of_quotient(Polynomial p, double norm) {
    const double cube = norm * norm * norm;
    return {float(p.a / norm), float(p.b / cube), float(p.c / (cube * norm * norm))};
}

// X <- a X + (b G + c G^2) X; the last one moves the parameters.
template <class Piece>
__device__ void apply_polynomial(const MuonArguments<Piece>& m, MuonStorage<Piece>& shared, int iteration,
                                 const Piece* x, Piece* next) {
    for (int number = blockIdx.x; number < m.muon.count * m.tiles(); number += gridDim.x) {
        const MuonTile tile(m, number);
        Polynomial p = m.polynomials[iteration];
        if (iteration == 0) {  // X has not been divided by its Schatten-8 norm yet
            const double trace = sum_of(m.tile_sums + tile.matrix * m.tiles(), m.tiles());
            p = polynomial_of_quotient(p, trace > 0 ? sqrt(sqrt(sqrt(trace))) : 1.0);
        }
        float accumulators[2][4] = {};
        multiply_tile<true, true>(m, shared, tile, MuonOperands<Piece>{m.gram, m.square, x, p.b, p.c}, accumulators);
        const int n = m.muon.width;
        for_each_pair(tile, accumulators, [&](int row, int column, float first, float second) {
            const size_t at = (size_t(tile.matrix) * m.padded + row) * m.padded + column;
            const uint32_t packed = __ldcg(reinterpret_cast<const unsigned*>(x + at));
            const Piece* const pair = reinterpret_cast<const Piece*>(&packed);
            const float result[2] = {p.a * to_float(pair[0]) + first, p.a * to_float(pair[1]) + second};
            if (iteration + 1 < m.iterations) {
                *reinterpret_cast<uint32_t*>(next + at) = to_pieces(result[0], result[1], Piece());
                return;
            }
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                if (row >= n || column + j >= n) continue;
                const int64_t place = m.muon.start + tile.matrix * m.layer() + int64_t(row) * n + column + j;
                m.out.parameters[place] = m.in.parameters[place] - m.muon.rate * result[j];
            }
        });
    }
}

template <class Piece>
__global__ void __launch_bounds__(muon_threads) muon_kernel(MuonArguments<Piece> m) {
    extern __shared__ __align__(16) unsigned char muon_memory[];
    auto& shared = *reinterpret_cast<MuonStorage<Piece>*>(muon_memory);
    step_momentum(m);
    step_adam(m);
    m.barrier.wait();
    scale_direction(m);
    for (int iteration = 0; iteration < m.iterations; ++iteration) {
        const bool odd = iteration % 2;
        Piece* const x = odd ? m.next : m.x;
        m.barrier.wait();
        multiply_by_transpose(m, shared, static_cast<const Piece*>(x), m.gram, nullptr);
        m.barrier.wait();
        multiply_by_transpose(m, shared, static_cast<const Piece*>(m.gram), m.square,
                              iteration == 0 ? m.tile_sums : nullptr);
        m.barrier.wait();
        apply_polynomial(m, shared, iteration, static_cast<const Piece*>(x), odd ? m.x : m.next);
    }
}

}  // namespace
}  // namespace gpu

namespace {

// `muon` of reference.py, on products of 16-bit numbers.
class Muon {
    typedef gpu::SIREN_PRECISION::Piece Piece;

public:
    template <class Data>
    explicit Muon(Data& data) : adam_(data), muon_(data), polynomials_(polynomials_of(data)) {
        if (polynomials_.size() > gpu::most_iterations) throw std::runtime_error("too many iterations of Muon");
    }

    // As cpu/optimizer.h has it.
    void step(const AdamInputs& in, const AdamOutputs& out, const float* average, float* new_average,
              int64_t parameters) const {
        gpu::MuonArguments<Piece> m{in, out, average, new_average, adam_, muon_, parameters,
                                    gpu::GridBarrier::create()};
        m.padded = gpu::blocks(muon_.width, gpu::muon_columns) * gpu::muon_columns;
        m.iterations = int(polynomials_.size());
        std::copy(polynomials_.begin(), polynomials_.end(), m.polynomials);
        gpu::Arena measured(nullptr);
        lay_out(measured, m);
        gpu::Arena arena(gpu::DeviceMemory::shared().reserve(measured.used()));
        lay_out(arena, m);

        static const int most_blocks = count_blocks();
        const int grid = std::min(most_blocks, muon_.count * m.tiles());
        void* arguments[] = {&m};
        gpu::check(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(gpu::muon_kernel<Piece>), dim3(grid),
                                               dim3(gpu::muon_threads), arguments, bytes, nullptr));
    }

private:
    static constexpr size_t bytes = sizeof(gpu::MuonStorage<Piece>);

    static void lay_out(gpu::Arena& arena, gpu::MuonArguments<Piece>& m) {
        const size_t size = size_t(m.muon.count) * m.padded * m.padded;
        for (Piece** const matrix : {&m.x, &m.next, &m.gram, &m.square}) arena.take(*matrix, size);
        arena.take(m.row_sums, size_t(m.muon.count) * m.padded);
        arena.take(m.tile_sums, size_t(m.muon.count) * m.tiles());
    }

    // How many blocks can be there at the same time, which the barriers need.
    static int count_blocks() {
        gpu::allow_shared_memory(gpu::muon_kernel<Piece>, bytes);
        int blocks = 0;
        gpu::check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, gpu::muon_kernel<Piece>, gpu::muon_threads,
                                                                 bytes));
        return blocks * gpu::device_attribute(cudaDevAttrMultiProcessorCount);
    }

    const AdamNumbers adam_;
    const MuonNumbers muon_;
    const std::vector<Polynomial> polynomials_;
};

}  // namespace
}  // namespace siren
