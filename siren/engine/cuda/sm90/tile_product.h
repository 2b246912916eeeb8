// A tile of a product of matrices on Hopper: bulk copies to a pipeline in shared memory, and wgmma.
#pragma once

#include "cuda/sm90/pipeline.h"
#include "cuda/sm90/ptx.h"
#include "cuda/tile_matrix.h"

namespace siren {
namespace gpu {
namespace {

// By a group of four warps for each 64 rows. Thread 0 also fetches the operands.
template <class Piece_, int side_>
class TileProduct {
public:
    typedef Piece_ Piece;
    static constexpr int side = side_, threads = 2 * side, stages = 4;

    typedef TileStage<Piece, side> Stage;
    struct SharedStorage {
        Stage stages[TileProduct::stages];
        Pipeline<TileProduct::stages> pipeline;
    };
    typedef float Sums[side / 2];

    __device__ explicit TileProduct(SharedStorage& shared) : shared_(shared) {
        if (threadIdx.x == 0) shared_.pipeline.init(1, threads / 32);
        __syncthreads();
    }

    // Of matrices of at least three slabs.
    template <Right right>
    __device__ __forceinline__ void multiply(const TileOperands<Piece>& operands, Sums& sums) {
        constexpr bool transposed = right == Right::transposed;
        const int steps = operands.size / slab_columns;
        if (threadIdx.x == 0) {
            for (int k = 0; k < stages - 1; ++k) fetch<right>(operands, k);
        }
        const uint64_t left_descriptor =
            k_major_descriptor(shared_.stages[0].left + threadIdx.x / 128 * 64 * slab_columns);
        const uint64_t right_descriptor =
            transposed ? k_major_descriptor(shared_.stages[0].right)
                       : mn_major_descriptor(shared_.stages[0].right, slab_columns * slab_columns * sizeof(Piece));
#pragma unroll 1
        for (int k = 0; k < steps; ++k) {
            __syncwarp();
            shared_.pipeline.wait_full(consumed_);
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < slab_columns / 16; ++i) {  // 16 columns are 32 bytes, 16 rows 2048
                const int stage = consumed_.stage * int(sizeof(Stage));
                wgmma_tile<transposed ? Major::k : Major::mn>(
                    sums, advance_descriptor(left_descriptor, stage + 32 * i),
                    advance_descriptor(right_descriptor, stage + (transposed ? 32 : 2048) * i), k > 0 || i > 0, Piece());
            }
            wgmma_commit();
            wgmma_wait<1>();
            if (k > 0) release(consumed_.previous_stage());
            if (threadIdx.x == 0 && k + stages - 1 < steps) fetch<right>(operands, k + stages - 1);
            consumed_.advance();
        }
        __syncwarp();
        wgmma_wait<0>();
        release(consumed_.previous_stage());
    }

    // The memory of the stages, between two products.
    static constexpr size_t borrowed_bytes = sizeof(Stage) * stages;
    __device__ Piece* borrow_stages() {
        __syncthreads();  // all have multiplied
        return shared_.stages[0].left;
    }
    __device__ void return_stages() {
        fence_async_proxy();  // bulk copies come there next
        __syncthreads();
    }

    // Calls visit(i, row, column) for each pair of sums of this thread, i and i + 1, which are neighbors in a row.
    template <class Visit>
    __device__ __forceinline__ static void for_each_pair(const Visit& visit) {
        const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
        for (int i = 0; i < side / 2; i += 2) visit(i, row + i / 2 % 2 * 8, column + i / 4 * 8);
    }

private:
    template <Right right>
    __device__ __forceinline__ void fetch(const TileOperands<Piece>& operands, int k) {
        uint64_t* const full = &shared_.pipeline.full[fetched_.stage];
        shared_.pipeline.wait_empty(fetched_);
        expect_bytes(full, sizeof(Stage));
        shared_.stages[fetched_.stage].template fetch<right>(
            operands, k, [&](Piece* to, const Piece* from, int count) { bulk_copy(to, from, count * sizeof(Piece), full); });
        fetched_.advance();
    }

    __device__ __forceinline__ void release(int stage) {
        if (threadIdx.x % 32 == 0) arrive(&shared_.pipeline.empty[stage]);
    }

    SharedStorage& shared_;
    PipelineState<stages> fetched_, consumed_;  // the former is thread 0's
};

}  // namespace
}  // namespace gpu
}  // namespace siren
