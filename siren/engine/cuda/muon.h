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
__host__ __device__ constexpr int place_in_square(int row, int column) {
    return row * muon_block + (column / 8 ^ row % 8) * 8 + column % 8;
}

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
    __device__ int64_t layer() const { return int64_t(muon.width) * muon.width + muon.width; }
    __device__ size_t square(int matrix, int row, int column) const {
        return ((size_t(matrix) * squares() + row) * squares() + column) * muon_block * muon_block;
    }
    __device__ size_t place(int matrix, int row, int column) const {
        return square(matrix, row / muon_block, column / muon_block) +
               place_in_square(row % muon_block, column % muon_block);
    }
    // Among the parameters.
    __device__ int64_t parameter(int matrix, int row) const {
        return muon.start + matrix * layer() + int64_t(row) * muon.width;
    }
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

struct Panel {
    int matrix, first_row;
};

// Calls visit(panel) for each panel of this block.
template <class Piece, class Visit>
__device__ void for_each_panel(const MuonArguments<Piece>& m, const Visit& visit) {
    for (int i = blockIdx.x; i < m.muon.count * m.panels(); i += gridDim.x) {
        visit(Panel{i / m.panels(), i % m.panels() * panel_rows});
    }
}

__device__ inline double sum_over_warp(double x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

// Writes the sum over a block's threads, in a fixed order.
__device__ inline void store_sum_over_block(double x, double* result) {
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

// Calls visit(row, column, load(row, column)) for the elements of a panel, of those that are above `rows` and left of
// `columns`. A warp takes rows, 256 columns at a time, and loads all of these first: a store between two loads, which
// might be to the same place, would make each wait for the memory.
template <class Load, class Visit>
__device__ void for_each_element(const Panel& panel, int rows, int columns, const Load& load, const Visit& visit) {
    constexpr int at_once = 8, warp_rows = panel_rows / muon_warps;
    const int first_row = panel.first_row + threadIdx.x / 32 * warp_rows;
    for (int begin = threadIdx.x % 32; begin < columns; begin += 32 * at_once) {
        decltype(load(0, 0)) loaded[warp_rows][at_once];
        const auto for_each = [&](auto&& work) {
#pragma unroll
            for (int i = 0; i < warp_rows; ++i) {
#pragma unroll
                for (int j = 0; j < at_once; ++j) {
                    const int row = first_row + i, column = begin + 32 * j;
                    if (row < rows && column < columns) work(row, column, loaded[i][j]);
                }
            }
        };
        for_each([&](int row, int column, auto& element) { element = load(row, column); });
        for_each([&](int row, int column, const auto& element) { visit(row, column, element); });
    }
}

// An element's gradient and momentum.
template <class Piece>
__device__ inline float2 slope_and_average(const MuonArguments<Piece>& m, const float* averages, int matrix, int row,
                                           int column) {
    return make_float2(m.in.gradient[m.parameter(matrix, row) + column],
                       averages[(int64_t(matrix) * m.muon.width + row) * m.muon.width + column]);
}

// The momentum, and the squares of the direction that looks a step ahead.
template <class Piece>
__device__ void step_momentum(const MuonArguments<Piece>& m, const Panel& panel) {
    const int n = m.muon.width;
    const float momentum = m.muon.momentum;
    double sum = 0;
    const auto load = [&](int row, int column) {
        return slope_and_average(m, m.average, panel.matrix, row, column);
    };
    for_each_element(panel, n, n, load, [&](int row, int column, float2 element) {
        const float average = momentum * element.y + element.x;
        m.new_average[(int64_t(panel.matrix) * n + row) * n + column] = average;
        const float direction = momentum * average + element.x;
        sum += double(direction) * direction;
    });
    store_sum_over_block(sum, m.direction_sums + panel.matrix * m.panels() + panel.first_row / panel_rows);
}

// X at the start.
template <class Piece>
__device__ void scale_direction(const MuonArguments<Piece>& m, const Panel& panel) {
    const int n = m.muon.width;
    const float momentum = m.muon.momentum;
    const double sum = sum_of(m.direction_sums + panel.matrix * m.panels(), m.panels());
    const float factor = sum > 0 ? float(sqrt(sqrt(double(n))) / sqrt(sum)) : 0.0f;
    const auto load = [&](int row, int column) {
        return row < n && column < n ? slope_and_average(m, m.new_average, panel.matrix, row, column)
                                     : make_float2(0, 0);
    };
    for_each_element(panel, m.padded, m.padded, load, [&](int row, int column, float2 element) {
        const uint32_t pieces = to_pieces(factor * (momentum * element.y + element.x), 0, Piece());
        m.x[m.place(panel.matrix, row, column)] = *reinterpret_cast<const Piece*>(&pieces);
    });
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
        start_copy(to + k * panel_rows * muon_block, matrices + m.place(panel.matrix, panel.first_row, k * muon_block),
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

// accumulators += a warp's 16 rows and warp_columns columns of left times the square or its transpose. Fragments are
// loaded a step ahead.
template <bool transposed, class Piece>
__device__ inline void multiply_square(const Piece* left, const Piece* square, float (&accumulators)[warp_columns / 8][4]) {
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
        for (int j = 0; j < 2 * pairs; ++j) mma(accumulators[j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1], Piece());
    }
}

// Calls visit(row, column, pair, load(row, column)) for pairs of neighbouring elements of the panel `left` times a matrix
// of `matrices`, or its transpose; what is loaded is, before the product. `there`: the matrix is in shared memory
// already. Copies that have been started are waited for.
template <bool transposed, class Piece, class Load, class Visit>
__device__ void multiply_panel(const MuonArguments<Piece>& m, MuonStorage<Piece>& shared, const Piece* left,
                               const Piece* matrices, int matrix, bool there, const Load& load, const Visit& visit) {
    constexpr int tiles = warp_columns / 8;
    for (int block = 0; block < m.squares(); ++block) {
        const int lane = threadIdx.x % 32, row = lane / 4;
        const int column = block * muon_block + threadIdx.x / 32 * warp_columns + lane % 4 * 2;
        decltype(load(0, 0)) loaded[2 * tiles];
#pragma unroll
        for (int i = 0; i < 2 * tiles; ++i) loaded[i] = load(row + i / tiles * 8, column + i % tiles * 8);
        float accumulators[tiles][4] = {};
        for (int k = 0; k < m.squares(); ++k) {
            if (!there) {
                if (block + k > 0) __syncthreads();  // the square before has been read
                copy_square(shared, matrices + (transposed ? m.square(matrix, block, k) : m.square(matrix, k, block)));
            }
            multiply_square<transposed>(left + k * panel_rows * muon_block, static_cast<const Piece*>(shared.square),
                                        accumulators);
        }
#pragma unroll
        for (int i = 0; i < 2 * tiles; ++i) {
            const float* const pair = accumulators[i % tiles] + i / tiles * 2;
            visit(row + i / tiles * 8, column + i % tiles * 8, make_float2(pair[0], pair[1]), loaded[i]);
        }
    }
}

// A panel of G = X X^T and of Y = G X.
template <class Piece>
__device__ void multiply_by_gram(const MuonArguments<Piece>& m, MuonStorage<Piece>& shared, const Panel& panel,
                                 const Piece* x) {
    const auto nothing = [](int, int) { return 0; };
    const auto store = [](Piece* to, float2 pair) {
        *reinterpret_cast<uint32_t*>(to) = to_pieces(pair.x, pair.y, Piece());
    };
    __syncthreads();
    start_copy_of_panel(m, shared.left, x, panel);
    multiply_panel<true>(m, shared, shared.left, x, panel.matrix, false, nothing,
                         [&](int row, int column, float2 pair, int) {
        const int square = column / muon_block;
        store(shared.gram + square * panel_rows * muon_block + place_in_square(row, column % muon_block), pair);
        store(m.gram + m.place(panel.matrix, panel.first_row + row, column), pair);
    });
    __syncthreads();
    multiply_panel<false>(m, shared, shared.gram, x, panel.matrix, m.squares() == 1, nothing,
                          [&](int row, int column, float2 pair, int) {
        store(m.y + m.place(panel.matrix, panel.first_row + row, column), pair);
    });
}

// Two neighbouring elements of X and of Y.
struct MuonPair {
    unsigned x, y;
};

template <class Piece>
__device__ inline float2 to_floats(unsigned packed) {
    const Piece* const pair = reinterpret_cast<const Piece*>(&packed);
    return make_float2(to_float(pair[0]), to_float(pair[1]));
}

// From what other blocks have written.
template <class Piece>
__device__ inline MuonPair load_pair(const Piece* x, const Piece* y, size_t at) {
    return {__ldcg(reinterpret_cast<const unsigned*>(x + at)), __ldcg(reinterpret_cast<const unsigned*>(y + at))};
}

// Two neighbouring elements of the next X, from those of Z; of the last one, the parameters.
template <class Piece>
__device__ inline void apply_polynomial(const MuonArguments<Piece>& m, const Polynomial& p, bool last, int matrix, int row,
                                        int column, const MuonPair& pair, float2 z, Piece* next) {
    const float2 x = to_floats<Piece>(pair.x), y = to_floats<Piece>(pair.y);
    const float result[2] = {p.a * x.x + p.b * y.x + p.c * z.x, p.a * x.y + p.b * y.y + p.c * z.y};
    if (!last) {
        *reinterpret_cast<uint32_t*>(next + m.place(matrix, row, column)) = to_pieces(result[0], result[1], Piece());
        return;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        if (row >= m.muon.width || column + i >= m.muon.width) continue;
        const int64_t place = m.parameter(matrix, row) + column + i;
        m.out.parameters[place] = m.in.parameters[place] - m.muon.rate * result[i];
    }
}

// A panel of Z = G Y, and what becomes of it: of the first iteration it is kept, since X has not been divided by its
// Schatten-8 norm, the eighth root of the trace of G^4 = <Y, Z>.
template <class Piece>
__device__ void multiply_again(const MuonArguments<Piece>& m, MuonStorage<Piece>& shared, const Panel& panel,
                               int iteration, const Piece* x, Piece* next) {
    const Piece *const y = m.y, *const gram = m.gram;
    const auto place = [&](int row, int column) { return m.place(panel.matrix, panel.first_row + row, column); };
    const auto load = [&](int row, int column) { return load_pair(x, y, place(row, column)); };
    double sum = 0;
    __syncthreads();
    start_copy_of_panel(m, shared.left, gram, panel);
    multiply_panel<false>(m, shared, shared.left, y, panel.matrix, false, load,
                          [&](int row, int column, float2 z, MuonPair pair) {
        if (iteration > 0) {
            return apply_polynomial(m, m.polynomials[iteration], iteration + 1 == m.iterations, panel.matrix,
                                    panel.first_row + row, column, pair, z, next);
        }
        *reinterpret_cast<float2*>(m.z + place(row, column)) = z;
        const float2 own_y = to_floats<Piece>(pair.y);
        sum += double(z.x) * own_y.x + double(z.y) * own_y.y;
    });
    if (iteration == 0) {
        store_sum_over_block(sum, m.trace_sums + panel.matrix * m.panels() + panel.first_row / panel_rows);
    }
}

// The first iteration's end.
template <class Piece>
__device__ void finish_first(const MuonArguments<Piece>& m, const Panel& panel, const Piece* x, Piece* next) {
    const double trace = sum_of(m.trace_sums + panel.matrix * m.panels(), m.panels());
    const Polynomial p = m.polynomials[0].of_quotient(trace > 0 ? sqrt(sqrt(sqrt(trace))) : 1.0);
    struct Loaded {
        MuonPair pair;
        float2 z;
    };
    const auto load = [&](int row, int column) {
        const size_t at = m.place(panel.matrix, row, 2 * column);
        return Loaded{load_pair(x, static_cast<const Piece*>(m.y), at), *reinterpret_cast<const float2*>(m.z + at)};
    };
    for_each_element(panel, m.padded, m.padded / 2, load, [&](int row, int column, const Loaded& loaded) {
        apply_polynomial(m, p, m.iterations == 1, panel.matrix, row, 2 * column, loaded.pair, loaded.z, next);
    });
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
    for_each_panel(m, [&](const Panel& panel) { step_momentum(m, panel); });
    step_adam(m);
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
