// A tile of a product of matrices on Ampere and later: cp.async to a pipeline in shared memory, and mma.
#pragma once

#include "cuda/sm80/mma.h"
#include "cuda/tile_matrix.h"

namespace siren {
namespace gpu {
namespace {

// By warps of 32 rows and half of the columns each.
template <class Piece_, int side_>
class TileProduct {
public:
    typedef Piece_ Piece;
    static constexpr int side = side_, threads = 2 * side, stages = 4;

    typedef TileStage<Piece, side> Stage;
    struct SharedStorage {
        Stage stages[TileProduct::stages];
    };
    static constexpr int row_fragments = 2, column_fragments = side / 16;
    typedef float Sums[side / 2];  // fragments of 16 x 8, row by row

    __device__ explicit TileProduct(SharedStorage& shared) : shared_(shared) {}

    // Of matrices of at least three slabs.
    template <Right right>
    __device__ __forceinline__ void multiply(const TileOperands<Piece>& operands, Sums& sums) {
        const int steps = operands.size / slab_columns;
#pragma unroll
        for (int i = 0; i < side / 2; ++i) sums[i] = 0;
        for (int k = 0; k < stages - 1; ++k) fetch<right>(operands, k);
#pragma unroll 1
        for (int k = 0; k < steps; ++k) {
            cp_async_wait<stages - 2>();
            __syncthreads();
            if (k + stages - 1 < steps) {
                fetch<right>(operands, k + stages - 1);
            } else {
                cp_async_commit();  // so that as many are under way
            }
            multiply_stage<right>(shared_.stages[k % stages], sums);
        }
        __syncthreads();
    }

    // The memory of the stages, between two products.
    static constexpr size_t borrowed_bytes = sizeof(Stage) * stages;
    __device__ Piece* borrow_stages() { return shared_.stages[0].left; }
    __device__ void return_stages() { __syncthreads(); }

    // Calls visit(i, row, column) for each pair of sums of this thread, i and i + 1, which are neighbors in a row.
    template <class Visit>
    __device__ __forceinline__ static void for_each_pair(const Visit& visit) {
        const int row = warp_row() + threadIdx.x % 32 / 4, column = warp_column() + threadIdx.x % 4 * 2;
#pragma unroll
        for (int i = 0; i < side / 2; i += 2) {
            const int fragment = i / 4;
            visit(i, row + fragment / column_fragments * 16 + i / 2 % 2 * 8, column + fragment % column_fragments * 8);
        }
    }

private:
    __device__ static int warp_row() { return threadIdx.x / 64 * 32; }
    __device__ static int warp_column() { return threadIdx.x / 32 % 2 * (side / 2); }

    template <Right right>
    __device__ __forceinline__ void fetch(const TileOperands<Piece>& operands, int k) {
        shared_.stages[k % stages].template fetch<right>(operands, k, [](Piece* to, const Piece* from, int count) {
            for (int i = threadIdx.x * 8; i < count; i += threads * 8) cp_async_16(to + i, from + i);
        });
        cp_async_commit();
    }

    template <Right right>
    __device__ __forceinline__ void multiply_stage(const Stage& stage, Sums& sums) {
        constexpr bool transposed = right == Right::transposed;
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int k = 0; k < slab_columns; k += 16) {
            uint32_t a[row_fragments][4], b[column_fragments / 2][4];
#pragma unroll
            for (int i = 0; i < row_fragments; ++i) {
                const int row = warp_row() + 16 * i + lane % 16;
                ldmatrix<Load::as_stored>(a[i], stage.left + place_in_slabs(side, row, k + lane / 16 * 8));
            }
#pragma unroll
            for (int j = 0; j < column_fragments / 2; ++j) {
                const int column = warp_column() + 16 * j;
                const int place = transposed
                                      ? place_in_slabs(side, column + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8)
                                      : place_in_slabs(slab_columns, k + lane % 16, column + lane / 16 * 8);
                ldmatrix<transposed ? Load::as_stored : Load::transposed>(b[j], stage.right + place);
            }
#pragma unroll
            for (int i = 0; i < row_fragments; ++i) {
#pragma unroll
                for (int j = 0; j < column_fragments; ++j) {
                    float(&fragment)[4] = reinterpret_cast<float(&)[4]>(sums[4 * (i * column_fragments + j)]);
                    mma(fragment, a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1], Piece());
                }
            }
        }
    }

    SharedStorage& shared_;
};

}  // namespace
}  // namespace gpu
}  // namespace siren
