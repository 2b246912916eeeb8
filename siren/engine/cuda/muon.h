// The kernel of a step of Muon, with Adam on all parameters that are not in a hidden matrix: `muon` of reference.py.
//
// A block has a panel of 16 rows of a matrix, and the blocks of a matrix go through phases together: as a cluster, with
// its barriers, or, where there are more than 16 or no clusters, with barriers of the whole grid. An iteration
// X <- a X + b Y + c Z, where G = X X^T, Y = G X and Z = G Y, takes two phases: with all of X at hand a panel of G gives
// the same panel of Y, and with all of Y one of Z. X and Y go through the L2 cache in 16 bits; sums, and Z, are float32.
// At 256 units a product takes a microsecond, as long as a barrier of the grid or as fetching X, so there are as few of
// these as can be.
//
// X begins with the Frobenius norm n^(1/4): for random matrices the entries of X, G and Y then are well within half's
// range, and for a matrix of rank one, of which Y has the largest entries, too.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cuda/grid_barrier.h"
#include "cuda/launch.h"
#include "cuda/numerics.h"
#include "cuda/runtime.h"
#include "cuda/sm80/mma.h"
#ifdef SIREN_HOPPER
#include "cuda/sm90/ptx.h"
#endif
#include "optimizer_numbers.h"

namespace siren {
namespace gpu {
namespace {

constexpr int muon_threads = 256, muon_warps = muon_threads / 32, most_iterations = 8;
constexpr int panel_rows = 16;
#ifdef SIREN_HOPPER
constexpr int muon_block = 256;
#else
constexpr int muon_block = 128;  // 32 KB, where shared memory has 99
#endif
constexpr int warp_columns = muon_block / muon_warps;

// Matrices in 16 bits are squares of muon_block rows and columns, one after the other, each of which a single copy takes
// to shared memory. In every eight rows of a square the groups of eight columns are in other places, so that eight rows
// of such a group are in different banks.
__device__ constexpr int place_in_square(int row, int column) {
    return row * muon_block + (column / 8 ^ row % 8) * 8 + column % 8;
}

// Where an element of 16 rows of a matrix is, counted from the first one.
__device__ constexpr int place_in_panel(int row, int column) {
    return column / muon_block * (muon_block * muon_block) + place_in_square(row, column % muon_block);
}

// 16 rows of a matrix, and where their first elements are.
struct Panel {
    int number, matrix;     // among those of all matrices, and of which it is
    int rows;               // that are there
    size_t in_squares;      // in matrices of 16 bits
    int64_t in_parameters;  // among parameters and their gradient
    size_t in_averages;     // in the momentum
};

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
    bool clustered;  // the panels of each matrix are a cluster of blocks
    int padded;  // width of the matrices in memory, a multiple of muon_block; the rest is 0
    int iterations;
    Polynomial polynomials[most_iterations];
    Piece *x, *next, *y, *gram;  // (count, padded, padded)
    float* z;                    // of the first iteration, in the same places
    double* direction_sums;      // squares of each panel of the direction (count, panels)
    double* trace_sums;          // each panel's part of the trace of G^4, in the first iteration

    __host__ __device__ int panels() const { return padded / panel_rows; }  // of a matrix
    __host__ __device__ int squares() const { return padded / muon_block; }  // of a row of them
    __device__ int64_t layer() const { return int64_t(muon.width) * muon.width + muon.width; }  // its numbers
    __device__ size_t square(int matrix, int row, int column) const {
        return ((size_t(matrix) * squares() + row) * squares() + column) * muon_block * muon_block;
    }
    __device__ Panel panel(int number) const {
        const int matrix = number / panels(), row = number % panels() * panel_rows;
        return {number,
                matrix,
                max(0, min(panel_rows, muon.width - row)),
                square(matrix, row / muon_block, 0) + place_in_square(row % muon_block, 0),
                muon.start + matrix * layer() + int64_t(row) * muon.width,
                (size_t(matrix) * muon.width + row) * muon.width};
    }
    // From which block on they take Adam's step: with clusters, those that have no panel.
    __device__ int first_adam_block() const { return clustered ? muon.count * panels() : 0; }
};

// A block's shared memory: a square of the right operand, and two panels that are left operands.
template <class Piece>
struct MuonStorage {
    Piece *square, *left, *gram;
    uint64_t* copied;       // a barrier
    unsigned parity = 0;    // of its next phase

    static size_t bytes(int padded) {
        return (size_t(muon_block) * muon_block + 2 * size_t(panel_rows) * padded) * sizeof(Piece);
    }
    __device__ MuonStorage(unsigned char* memory, int padded, uint64_t* copied)
        : square(reinterpret_cast<Piece*>(memory)), left(square + muon_block * muon_block),
          gram(left + panel_rows * padded), copied(copied) {
#ifdef SIREN_HOPPER
        if (threadIdx.x == 0) {
            init_barrier(copied, 1);
            fence_barrier_init();
        }
#endif
    }
};

// Calls visit(panel) for each panel of this block.
template <class Piece, class Visit>
__device__ void for_each_panel(const MuonArguments<Piece>& m, const Visit& visit) {
    for (int i = blockIdx.x; i < m.muon.count * m.panels(); i += gridDim.x) visit(m.panel(i));
}

__device__ inline double sum_over_warp(double x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

// Writes the sum over a block's threads, in a fixed order.
__device__ __noinline__ void store_sum_over_block(double x, double* result) {
    __shared__ double warps[muon_warps];
    x = sum_over_warp(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int warp = 1; warp < muon_warps; ++warp) x += warps[warp];
    *result = x;
}

// The sum of `count` numbers that blocks have written, for each thread of a warp.
__device__ __noinline__ double sum_of(const double* numbers, int count) {
    double sum = 0;
#pragma unroll 1
    for (int i = threadIdx.x % 32; i < count; i += 32) sum += __ldcg(numbers + i);
    return sum_over_warp(sum);
}

// Adam's step for the parameters outside of matrices, which are `others` in number. With clusters, blocks that have
// nothing else to do take it.
template <class Piece>
__device__ void step_adam(const MuonArguments<Piece>& m) {
    const AdamNumbers& adam = m.adam;
    const float keep_mean = float(adam.beta_1), keep_square = float(adam.beta_2);
    const float add_mean = float(1 - adam.beta_1), add_square = float(1 - adam.beta_2);
    const float scale = float(1 / adam.correction), least = float(adam.eps), rate = float(adam.rate);
    const int64_t start = m.muon.start, biases = int64_t(m.muon.count) * m.muon.width, layer = m.layer();
    const int64_t others = m.parameters - m.muon.count * (layer - m.muon.width);
    const int first = m.first_adam_block();
    for (int64_t i = (int(blockIdx.x) - first) * muon_threads + int(threadIdx.x); i >= 0 && i < others;
         i += int64_t(gridDim.x - first) * muon_threads) {
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

// A thread's elements of 16 rows and 256 columns: of each of a warp's rows every 32nd.
constexpr int thread_rows = panel_rows / muon_warps, thread_columns = 8, section_columns = 32 * thread_columns;
typedef float Section[thread_rows][thread_columns];

// Calls visit(i, j, row, column) for those from column `begin` on.
template <class Visit>
__device__ inline void for_each_element(int begin, const Visit& visit) {
    const int row = threadIdx.x / 32 * thread_rows, column = begin + threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < thread_rows; ++i) {
#pragma unroll
        for (int j = 0; j < thread_columns; ++j) visit(i, j, row + i, column + 32 * j);
    }
}

// Loads these elements of (rows, width); 0 beyond it. All are loaded before anything is stored: a store between two
// loads, which might be to the same place, would make the second one wait for the memory.
__device__ inline void load_section(const float* from, int rows, int width, int begin, Section& to) {
    for_each_element(begin, [&](int i, int j, int row, int column) {
        to[i][j] = row < rows && column < width ? from[row * width + column] : 0.0f;
    });
}

// The momentum, and the squares of the direction that looks a step ahead.
template <class Piece>
__device__ void step_momentum(const MuonArguments<Piece>& m, const Panel& panel) {
    const int width = m.muon.width;
    const float momentum = m.muon.momentum;
    float* const new_average = m.new_average + panel.in_averages;
    double sum = 0;
#pragma unroll 1
    for (int begin = 0; begin < width; begin += section_columns) {
        Section slopes, averages;
        load_section(m.in.gradient + panel.in_parameters, panel.rows, width, begin, slopes);
        load_section(m.average + panel.in_averages, panel.rows, width, begin, averages);
        for_each_element(begin, [&](int i, int j, int row, int column) {
            const float average = momentum * averages[i][j] + slopes[i][j];
            if (row < panel.rows && column < width) new_average[row * width + column] = average;
            const float direction = momentum * average + slopes[i][j];
            sum += double(direction) * direction;
        });
    }
    store_sum_over_block(sum, m.direction_sums + panel.number);
}

// X at the start. The sum over panels is asked for after a section has been, so that both are waited for together.
template <class Piece>
__device__ void scale_direction(const MuonArguments<Piece>& m, const Panel& panel) {
    const int width = m.muon.width;
    Piece* const x = m.x + panel.in_squares;
#pragma unroll 1
    for (int begin = 0; begin < m.padded; begin += section_columns) {
        Section slopes, averages;
        load_section(m.in.gradient + panel.in_parameters, panel.rows, width, begin, slopes);
        load_section(m.new_average + panel.in_averages, panel.rows, width, begin, averages);
        const double sum = sum_of(m.direction_sums + panel.matrix * m.panels(), m.panels());
        const float factor = sum > 0 ? sqrtf(sqrtf(float(width))) * float(rsqrt(sum)) : 0.0f;
        for_each_element(begin, [&](int i, int j, int row, int column) {
            const float direction = m.muon.momentum * averages[i][j] + slopes[i][j];
            const uint32_t pieces = to_pieces(factor * direction, 0, Piece());
            if (column < m.padded) x[place_in_panel(row, column)] = *reinterpret_cast<const Piece*>(&pieces);
        });
    }
}

// Starts to copy `count` elements to shared memory.
template <class Piece>
__device__ inline void start_copy(Piece* to, const Piece* from, int count) {
    for (int i = threadIdx.x * 8; i < count; i += muon_threads * 8) cp_async_16(to + i, from + i);
    cp_async_commit();
}

// Starts to copy a panel that is a left operand: of each square 16 rows.
template <class Piece>
__device__ inline void start_copy_of_panel(const MuonArguments<Piece>& m, Piece* to, const Piece* matrices,
                                           const Panel& panel) {
    for (int k = 0; k < m.squares(); ++k) {
        start_copy(to + k * panel_rows * muon_block, matrices + panel.in_squares + k * muon_block * muon_block,
                   panel_rows * muon_block);
    }
}

// Copies a square to shared memory, where nobody needs what was there; waits for it and for all other copies. (In one
// bulk copy 128 KB take 0.9 us, with cp.async 2.2.)
template <class Piece>
__device__ inline void copy_square(MuonStorage<Piece>& shared, const Piece* from) {
    constexpr int count = muon_block * muon_block;
#ifdef SIREN_HOPPER
    if (threadIdx.x == 0) {
        constexpr int parts = 8;
        fence_async_proxy();
        expect_bytes(shared.copied, count * sizeof(Piece));
        for (int i = 0; i < parts; ++i) {
            bulk_copy(shared.square + i * (count / parts), from + i * (count / parts), count / parts * sizeof(Piece),
                      shared.copied);
        }
    }
    wait_barrier(shared.copied, shared.parity);
    shared.parity ^= 1;
#else
    start_copy(shared.square, from, count);
#endif
    cp_async_wait<0>();
    __syncthreads();
}

// The fragments of the right operand for 16 of the depth, from k on, and 16 of the product's columns. It is the square,
// or, if `transposed`, the square's transpose.
template <bool transposed, class Piece>
__device__ inline void load_right(const Piece* square, int column, int k, uint32_t (&b)[4]) {
    const int lane = threadIdx.x % 32;
    const int row = transposed ? column + lane % 8 + lane / 16 * 8 : k + lane % 16;
    const int first = transposed ? k + lane / 8 % 2 * 8 : column + lane / 16 * 8;
    ldmatrix<!transposed>(b, square + place_in_square(row, first));
}

// A warp's sums of a product, 16 rows and warp_columns columns, as fragments of 16 x 8.
typedef float Sums[warp_columns / 8][4];

// sums += left times the square or its transpose. Fragments are loaded a step ahead.
template <bool transposed, class Piece>
__device__ inline void multiply_square(const Piece* left, const Piece* square, Sums& sums) {
    constexpr int pairs = warp_columns / 16;
    const int lane = threadIdx.x % 32, column = threadIdx.x / 32 * warp_columns;
    uint32_t a[4], b[pairs][4], next_a[4], next_b[pairs][4];
    const auto load = [&](int k) {
        ldmatrix<false>(next_a, left + place_in_square(lane % 16, k + lane / 16 * 8));
#pragma unroll
        for (int pair = 0; pair < pairs; ++pair) load_right<transposed>(square, column + 16 * pair, k, next_b[pair]);
    };
    load(0);
#pragma unroll 4
    for (int k = 0; k < muon_block; k += 16) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            a[i] = next_a[i];
#pragma unroll
            for (int pair = 0; pair < pairs; ++pair) b[pair][i] = next_b[pair][i];
        }
        if (k + 16 < muon_block) load(k + 16);
#pragma unroll
        for (int j = 0; j < 2 * pairs; ++j) mma(sums[j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1], Piece());
    }
}

// A thread's pairs of neighbouring elements among a block's sums, 16 rows and muon_block columns.
constexpr int thread_pairs = 2 * (warp_columns / 8);

__device__ inline float2 pair_of(const Sums& sums, int i) {
    return make_float2(sums[i / 2][i % 2 * 2], sums[i / 2][i % 2 * 2 + 1]);
}

// Calls visit(i, row, column) for each pair of column `block` of squares; row and column are those in the panel.
template <class Visit>
__device__ inline void for_each_pair(int block, const Visit& visit) {
    const int lane = threadIdx.x % 32;
    const int row = lane / 4, column = block * muon_block + threadIdx.x / 32 * warp_columns + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < thread_pairs; ++i) visit(i, row + i % 2 * 8, column + i / 2 * 8);
}

// sums += the panel `left` times column `block` of squares of a matrix, or of its transpose. `there`: its only square is
// in shared memory already. Copies that have been started are waited for.
template <bool transposed, class Piece>
__device__ inline void multiply_panel(const MuonArguments<Piece>& m, MuonStorage<Piece>& shared, const Piece* left,
                                      const Piece* matrices, int matrix, int block, bool there, Sums& sums) {
#pragma unroll 1
    for (int k = 0; k < m.squares(); ++k) {
        if (!there) {
            if (block + k > 0) __syncthreads();  // the square before has been read
            copy_square(shared, matrices + (transposed ? m.square(matrix, block, k) : m.square(matrix, k, block)));
        }
        multiply_square<transposed>(left + k * panel_rows * muon_block, static_cast<const Piece*>(shared.square), sums);
    }
}

template <class Piece>
__device__ inline void store_pair(Piece* to, float2 pair) {
    *reinterpret_cast<uint32_t*>(to) = to_pieces(pair.x, pair.y, Piece());
}

// A panel of G = X X^T and of Y = G X.
template <class Piece>
__device__ void multiply_by_gram(const MuonArguments<Piece>& m, MuonStorage<Piece>& shared, const Panel& panel,
                                 const Piece* x) {
    Piece *const gram = m.gram + panel.in_squares, *const y = m.y + panel.in_squares;
    __syncthreads();
    start_copy_of_panel(m, shared.left, x, panel);
#pragma unroll 1
    for (int block = 0; block < m.squares(); ++block) {
        Sums sums = {};
        multiply_panel<true>(m, shared, shared.left, x, panel.matrix, block, false, sums);
        for_each_pair(block, [&](int i, int row, int column) {
            store_pair(shared.gram + block * panel_rows * muon_block + place_in_square(row, column % muon_block),
                       pair_of(sums, i));
            store_pair(gram + place_in_panel(row, column), pair_of(sums, i));
        });
    }
    __syncthreads();
#pragma unroll 1
    for (int block = 0; block < m.squares(); ++block) {
        Sums sums = {};
        multiply_panel<false>(m, shared, shared.gram, x, panel.matrix, block, m.squares() == 1, sums);
        for_each_pair(block, [&](int i, int row, int column) {
            store_pair(y + place_in_panel(row, column), pair_of(sums, i));
        });
    }
}

template <class Piece>
__device__ inline float2 to_floats(unsigned packed) {
    const Piece* const pair = reinterpret_cast<const Piece*>(&packed);
    return make_float2(to_float(pair[0]), to_float(pair[1]));
}

// A thread's pairs of X and of Y, and, in the last iteration, the parameters that are there.
template <class Piece>
struct Operands {
    unsigned x[thread_pairs], y[thread_pairs];
    float2 parameters[thread_pairs];

    __device__ Operands(const MuonArguments<Piece>& m, const Panel& panel, int block, const Piece* x_matrices, bool last) {
        const Piece *const x_panel = x_matrices + panel.in_squares, *const y_panel = m.y + panel.in_squares;
        const float* const parameters_panel = m.in.parameters + panel.in_parameters;
        for_each_pair(block, [&](int i, int row, int column) {
            x[i] = __ldcg(reinterpret_cast<const unsigned*>(x_panel + place_in_panel(row, column)));
            y[i] = __ldcg(reinterpret_cast<const unsigned*>(y_panel + place_in_panel(row, column)));
        });
        if (!last) return;
        for_each_pair(block, [&](int i, int row, int column) {
            const float* const place = parameters_panel + row * m.muon.width + column;
            parameters[i].x = row < panel.rows && column < m.muon.width ? place[0] : 0.0f;
            parameters[i].y = row < panel.rows && column + 1 < m.muon.width ? place[1] : 0.0f;
        });
    }
};

// Stores the next X, or, of the last one, the parameters.
template <class Piece>
__device__ inline void apply_polynomial(const MuonArguments<Piece>& m, const Polynomial& p, bool last, const Panel& panel,
                                        int block, const Operands<Piece>& operands, const Sums& z, Piece* next) {
    const auto result = [&](int i) {
        const float2 x = to_floats<Piece>(operands.x[i]), y = to_floats<Piece>(operands.y[i]), own = pair_of(z, i);
        return make_float2(p.a * x.x + p.b * y.x + p.c * own.x, p.a * x.y + p.b * y.y + p.c * own.y);
    };
    if (!last) {
        Piece* const next_panel = next + panel.in_squares;
        for_each_pair(block, [&](int i, int row, int column) {
            store_pair(next_panel + place_in_panel(row, column), result(i));
        });
        return;
    }
    float* const parameters = m.out.parameters + panel.in_parameters;
    for_each_pair(block, [&](int i, int row, int column) {
        float* const place = parameters + row * m.muon.width + column;
        const float2 pair = result(i);
        if (row < panel.rows && column < m.muon.width) place[0] = operands.parameters[i].x - m.muon.rate * pair.x;
        if (row < panel.rows && column + 1 < m.muon.width) place[1] = operands.parameters[i].y - m.muon.rate * pair.y;
    });
}

// A panel of Z = G Y, and what becomes of it: of the first iteration it is kept, since X has not been divided by its
// Schatten-8 norm, the eighth root of the trace of G^4 = <Y, Z>.
template <class Piece>
__device__ void multiply_again(const MuonArguments<Piece>& m, MuonStorage<Piece>& shared, const Panel& panel,
                               int iteration, const Piece* x, Piece* next) {
    const Piece *const y = m.y, *const gram = m.gram;
    const bool last = iteration + 1 == m.iterations;
    double sum = 0;
    __syncthreads();
    start_copy_of_panel(m, shared.left, gram, panel);
#pragma unroll 1
    for (int block = 0; block < m.squares(); ++block) {
        const Operands<Piece> operands(m, panel, block, x, last);
        Sums z = {};
        multiply_panel<false>(m, shared, shared.left, y, panel.matrix, block, false, z);
        if (iteration > 0) {
            apply_polynomial(m, m.polynomials[iteration], last, panel, block, operands, z, next);
            continue;
        }
        float* const kept = m.z + panel.in_squares;
        for_each_pair(block, [&](int i, int row, int column) {
            const float2 own = pair_of(z, i), own_y = to_floats<Piece>(operands.y[i]);
            *reinterpret_cast<float2*>(kept + place_in_panel(row, column)) = own;
            sum += double(own.x) * own_y.x + double(own.y) * own_y.y;
        });
    }
    if (iteration == 0) store_sum_over_block(sum, m.trace_sums + panel.number);
}

// The first iteration's end. Operands are asked for before the sum over panels, as in scale_direction().
template <class Piece>
__device__ void finish_first(const MuonArguments<Piece>& m, const Panel& panel, const Piece* x, Piece* next) {
    const bool last = m.iterations == 1;
    const float* const kept = m.z + panel.in_squares;
#pragma unroll 1
    for (int block = 0; block < m.squares(); ++block) {
        const Operands<Piece> operands(m, panel, block, x, last);
        Sums z;
        for_each_pair(block, [&](int i, int row, int column) {
            const float2 pair = *reinterpret_cast<const float2*>(kept + place_in_panel(row, column));
            z[i / 2][i % 2 * 2] = pair.x;
            z[i / 2][i % 2 * 2 + 1] = pair.y;
        });
        const double trace = sum_of(m.trace_sums + panel.matrix * m.panels(), m.panels());
        const Polynomial p = m.polynomials[0].of_quotient(trace > 0 ? sqrtf(sqrtf(sqrtf(float(trace)))) : 1.0f);
        apply_polynomial(m, p, last, panel, block, operands, z, next);
    }
}

template <class Piece>
__global__ void __launch_bounds__(muon_threads) muon_kernel(MuonArguments<Piece> m) {
    extern __shared__ __align__(128) unsigned char muon_memory[];
    __shared__ uint64_t copied;
    MuonStorage<Piece> shared(muon_memory, m.padded, &copied);
    follow();
    const auto wait = [&] {
#ifdef SIREN_HOPPER
        fence_async_proxy();  // what has been written here is for bulk copies
        if (m.clustered) return cluster_sync();
#endif
        m.barrier.wait();
    };
    step_adam(m);
    for_each_panel(m, [&](const Panel& panel) { step_momentum(m, panel); });
    wait();
    for_each_panel(m, [&](const Panel& panel) { scale_direction(m, panel); });
    for (int iteration = 0; iteration < m.iterations; ++iteration) {
        const bool odd = iteration % 2;
        const Piece* const x = odd ? m.next : m.x;
        Piece* const next = odd ? m.x : m.next;
        wait();
        for_each_panel(m, [&](const Panel& panel) { multiply_by_gram(m, shared, panel, x); });
        wait();
        for_each_panel(m, [&](const Panel& panel) { multiply_again(m, shared, panel, iteration, x, next); });
        if (iteration > 0) continue;
        wait();
        for_each_panel(m, [&](const Panel& panel) { finish_first(m, panel, x, next); });
    }
}

}  // namespace
}  // namespace gpu
}  // namespace siren
