// The products of muon.h's kernel: a panel of 16 rows, in shared memory, times a matrix that comes there square by square.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/muon_panels.h"
#include "cuda/numerics.h"
#include "cuda/sm80/mma.h"
#include "cuda/tile_matrix.h"

namespace siren {
namespace gpu {
namespace {

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

// The fragments of the right operand, the square or its transpose, for 16 of the depth, from k on, and 16 of the
// product's columns.
template <Right right, class Piece>
__device__ inline void load_right(const Piece* square, int column, int k, uint32_t (&b)[4]) {
    constexpr bool transposed = right == Right::transposed;
    const int lane = threadIdx.x % 32;
    const int row = transposed ? column + lane % 8 + lane / 16 * 8 : k + lane % 16;
    const int first = transposed ? k + lane / 8 % 2 * 8 : column + lane / 16 * 8;
    ldmatrix<transposed ? Load::as_stored : Load::transposed>(b, square + place_in_square(row, first));
}

// A warp's sums of a product, 16 rows and warp_columns columns, as fragments of 16 x 8.
typedef float Sums[warp_columns / 8][4];

// sums += left times the square or its transpose. Fragments are loaded a step ahead.
template <Right right, class Piece>
__device__ inline void multiply_square(const Piece* left, const Piece* square, Sums& sums) {
    constexpr int pairs = warp_columns / 16;
    const int lane = threadIdx.x % 32, column = threadIdx.x / 32 * warp_columns;
    uint32_t a[4], b[pairs][4], next_a[4], next_b[pairs][4];
    const auto load = [&](int k) {
        ldmatrix<Load::as_stored>(next_a, left + place_in_square(lane % 16, k + lane / 16 * 8));
#pragma unroll
        for (int pair = 0; pair < pairs; ++pair) load_right<right>(square, column + 16 * pair, k, next_b[pair]);
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

// A thread's pairs of neighboring elements among a block's sums, 16 rows and muon_block columns.
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

// Where the squares of a right operand are: in global memory, or, where there is only one, in shared memory already.
enum class Squares { in_global_memory, already_in_shared_memory };

// sums += the panel `left` times column `block` of squares of a matrix, or of its transpose. Copies that have been
// started are waited for.
template <Right right, class Piece>
__device__ inline void multiply_panel(const MuonArguments<Piece>& m, MuonStorage<Piece>& shared, const Piece* left,
                                      const Piece* matrices, int matrix, int block, Squares squares, Sums& sums) {
    constexpr bool transposed = right == Right::transposed;
#pragma unroll 1
    for (int k = 0; k < m.squares(); ++k) {
        if (squares == Squares::in_global_memory) {
            if (block + k > 0) __syncthreads();  // the square before has been read
            copy_square(shared, matrices + (transposed ? m.square(matrix, block, k) : m.square(matrix, k, block)));
        }
        multiply_square<right>(left + k * panel_rows * muon_block, static_cast<const Piece*>(shared.square), sums);
    }
}

template <class Piece>
__device__ inline void store_pair(Piece* to, float2 pair) {
    *reinterpret_cast<uint32_t*>(to) = to_pieces(pair.x, pair.y, Piece());
}

}  // namespace
}  // namespace gpu
}  // namespace siren
