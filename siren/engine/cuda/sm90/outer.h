// The outer products D^T H of all layers, which are the weights' gradient, over shares of the tiles that chain.h or
// wide.h has left. chain.h does not leave the first layer's H, which is computed here.
#pragma once

#include "cuda/launch.h"
#include "cuda/sm90/pipeline.h"
#include "cuda/sm90/tile.h"
#include "cuda/tuning.h"

namespace siren {
namespace gpu {
namespace {

template <class Precision, int streams>
struct OuterTilesShape {
    typedef TileShape<Precision, streams> OfTile;
    static constexpr int cluster = tuning::cluster, groups = tuning::consumer_groups, group_threads = OfTile::threads;
    static constexpr int threads = (groups + 1) * group_threads, stages = tuning::outer_stages;
    static constexpr int block_bytes = OfTile::block_bytes;
    static constexpr int half_bytes = 2 * block_bytes;  // of H, which each block of a pair fetches; all of D

    struct Stage {
        unsigned char d[half_bytes];
        unsigned char h[2][half_bytes];
    };
    struct SharedStorage {
        Stage stages[OuterTilesShape::stages];
        typename Precision::Piece values[64 * 8 / 4];  // a small operand of 16 rows: 1 in value rows
        Pipeline<OuterTilesShape::stages> pipeline;
    };
    static constexpr int stage_bytes = sizeof(Stage);
    static constexpr size_t bytes = sizeof(SharedStorage);
};

// Computes half of a tile of the first layer's h, 128 columns, as a producer of four warps. A thread has eight columns,
// and every eighth point.
template <class Precision, int streams>
struct FirstLayerProducer {
    typedef typename Precision::Piece Piece;
    typedef OuterTilesShape<Precision, streams> Shape;
    static constexpr int points = (Shape::OfTile::points + 7) / 8;
    const Points all;
    const int first_point, piece;
    const FirstUnits units;
    float2 at[2][points];  // of this tile and the next

    __device__ FirstLayerProducer(const Points& points, const Vectors& vectors, int first_column, int thread)
        : all(points), first_point(thread / 16), piece(thread % 16),
          units(vectors, first_column + piece * 8) {}
    __device__ void load(int tile) {
#pragma unroll
        for (int i = 0; i < points; ++i) {
            const int point = min(tile * Shape::OfTile::points + first_point + 8 * i, all.count - 1);
            at[0][i] = at[1][i];
            at[1][i] = __ldg(reinterpret_cast<const float2*>(all.coordinates) + point);
        }
    }
    // Writes that half to shared memory, swizzled.
    __device__ void write(unsigned char* half) const {
        unsigned char* const block = half + piece / 8 * Shape::block_bytes;
#pragma unroll
        for (int i = 0; i < points; ++i) {
            const int point = first_point + 8 * i;
            if (point >= Shape::OfTile::points) continue;
            float all_h[streams][8], all_x[streams][8];
            units.template sines<Precision>(all, at[0][i].x, at[0][i].y, all_h, all_x);
            const auto place = [&](int stream) {
                const int row = Shape::OfTile::row(point, stream);
                return reinterpret_cast<uint4*>(block + row * 128 + (piece % 8 ^ row % 8) * 16);
            };
#pragma unroll
            for (int s = 0; s < streams; ++s) *place(s) = pack8<Piece>(all_h[s]);
            if (Shape::OfTile::fifth && point % 5 == 4) *place(3) = uint4{};
        }
    }
};

// A small operand of 16 rows: its column 0 is 1 in value rows; all else is 0.
template <int streams, class Piece>
__device__ __forceinline__ void write_value_rows(Piece* operand) {
    if (threadIdx.x >= 128) return;
    const int row = threadIdx.x / 8, column = threadIdx.x % 8;
    const bool value = streams == 1 || (row < 8 && row % 2 == 0) || (streams == 3 && row == 9);
    operand[small_place(row, column)] = Piece(column == 0 && value ? 1.0f : 0.0f);
    fence_async_proxy();
}

// The producer, one thread: fetches this block's half of D, and its part of H for both blocks.
template <class Shape>
__device__ __forceinline__ void produce_outer_tiles(typename Shape::SharedStorage& shared, const unsigned char* own_d,
                                                    const unsigned char* own_h, size_t tile_bytes, int begin, int end,
                                                    int rank) {
    constexpr int own = Shape::half_bytes;
    PipelineState<Shape::stages> state;
    for (int tile = begin; tile < end; ++tile) {
        typename Shape::Stage& stage = shared.stages[state.stage];
        uint64_t* const full = &shared.pipeline.full[state.stage];
        shared.pipeline.wait_empty(state);
        expect_bytes(full, Shape::stage_bytes);
        bulk_copy(stage.d, own_d + tile * tile_bytes, own, full);
        bulk_copy_multicast(stage.h[rank], own_h + tile * tile_bytes, own, full, (1 << Shape::cluster) - 1);
        state.advance();
    }
}

// The producer of the first layer, four warps: fetches D, computes a half of H and copies it to the other block.
template <class Precision, int streams>
__device__ __forceinline__ void produce_first(typename OuterTilesShape<Precision, streams>::SharedStorage& shared,
                                              const Points& points, const Vectors& vectors,
                                              const unsigned char* own_d, size_t tile_bytes, int begin, int end,
                                              int thread) {
    typedef OuterTilesShape<Precision, streams> Shape;
    constexpr int own = Shape::half_bytes;
    const int rank = blockIdx.y % Shape::cluster;
    PipelineState<Shape::stages> state;
    FirstLayerProducer<Precision, streams> computed(points, vectors, 128 * rank, thread);
    computed.load(begin);
    for (int tile = begin; tile < end; ++tile) {
        typename Shape::Stage& stage = shared.stages[state.stage];
        uint64_t* const full = &shared.pipeline.full[state.stage];
        computed.load(tile + 1);
        shared.pipeline.wait_empty(state);
        if (thread == 0) {
            expect_bytes(full, 2 * own);
            bulk_copy(stage.d, own_d + tile * tile_bytes, own, full);
        }
        computed.write(stage.h[rank]);
        fence_async_proxy();
        arrive(full);
        named_barrier_sync(1, Shape::group_threads);
        if (thread == 0) bulk_copy_to_peer(stage.h[rank], own, full, 1 - rank);
        state.advance();
    }
}

__device__ __forceinline__ void multiply_sums(float (&accumulators)[128], float (&value_accumulators)[4], float factor) {
#pragma unroll
    for (int i = 0; i < 128; ++i) accumulators[i] *= factor;
#pragma unroll
    for (int i = 0; i < 4; ++i) value_accumulators[i] *= factor;
}

// Stores a group's sums, times `factor`: 64 rows from `first_row` on, and 256 columns.
__device__ __forceinline__ void store_outer_sums(const float (&accumulators)[128], const float (&value_accumulators)[4],
                                                 float factor, size_t part, int first_row, int first_column, int width,
                                                 int thread, float* partial, float* bias_sums) {
    const int row = first_row + thread / 32 * 16 + thread % 32 / 4, column = first_column + thread % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float* const result = partial + (part * width + row + half * 8) * width + column;
#pragma unroll
        for (int j = 0; j < 32; ++j) {
            *reinterpret_cast<float2*>(result + j * 8) =
                make_float2(factor * accumulators[4 * j + half * 2], factor * accumulators[4 * j + half * 2 + 1]);
        }
        if (column == 0) bias_sums[part * width + row + half * 8] = factor * value_accumulators[half * 2];
    }
}

// Blocks (x, y, z): tiles of share x; columns [128 y, 128 y + 128) of D; 256 columns number z % (width / 256) of H, of
// layer z / (width / 256). Each of a pair of blocks fetches half of H for both, or computes it and copies it to the
// other. partial is (layer, share, width, width); bias_sums, sums of D's value rows, is (layer, share, width).
// `compute_first`: width is 256, and h begins with the second layer's. `scales` is null, or the power of two by which
// each tile of D was multiplied (0 where it is zeros), and which the sums are divided by.
template <class Precision, int streams>
__global__ void __launch_bounds__(OuterTilesShape<Precision, streams>::threads, 1)
    outer_tiles_kernel(Points points, Vectors vectors, const typename Precision::Piece* d,
                      const typename Precision::Piece* h, size_t layer_size, bool compute_first,
                      const float* scales, float* partial, float* bias_sums, int tiles, int width) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    typedef typename Precision::Piece Piece;
    typedef OuterTilesShape<Precision, streams> Shape;
    const size_t tile_bytes = size_t(width / block_columns) * Shape::block_bytes;
    const int h_tiles = width / column_tile, layer = blockIdx.z / h_tiles, h_tile = blockIdx.z % h_tiles;
    const int rank = blockIdx.y % Shape::cluster;
    extern __shared__ __align__(1024) unsigned char aligned_memory[];
    auto& shared = *reinterpret_cast<typename Shape::SharedStorage*>(aligned_memory);
    const int begin = int(int64_t(tiles) * blockIdx.x / gridDim.x);
    const int end = int(int64_t(tiles) * (blockIdx.x + 1) / gridDim.x);
    const bool first = compute_first && layer == 0;
    if (threadIdx.x == 0) {
        shared.pipeline.init(first ? 1 + Shape::group_threads : 1, Shape::groups * Shape::cluster);
    }
    write_value_rows<streams>(shared.values);
    __syncthreads();
    cluster_sync();
    follow();

    const int group = __shfl_sync(0xffffffffu, threadIdx.x / Shape::group_threads, 0);
    const int thread = threadIdx.x % Shape::group_threads;
    PipelineState<Shape::stages> state;
    if (group == Shape::groups) {
        const auto* const own_d =
            reinterpret_cast<const unsigned char*>(d + layer * layer_size) + blockIdx.y * Shape::half_bytes;
        if (first) {
            produce_first<Precision, streams>(shared, points, vectors, own_d, tile_bytes, begin, end, thread);
        } else if (thread == 0) {
            const auto* const own_h =
                reinterpret_cast<const unsigned char*>(h + (layer - compute_first) * layer_size) +
                h_tile * 2 * Shape::half_bytes + rank * Shape::half_bytes;
            produce_outer_tiles<Shape>(shared, own_d, own_h, tile_bytes, begin, end, rank);
        }
        __syncwarp();
        cluster_sync();
        return;
    }

    float accumulators[128], value_accumulators[4];
    const uint64_t d_descriptor =
        mn_major_descriptor(shared.stages[0].d + group * Shape::block_bytes, Shape::block_bytes);
    const uint64_t h_descriptor = mn_major_descriptor(shared.stages[0].h, Shape::block_bytes);
    const uint64_t value_descriptor = small_descriptor(shared.values);
    int last = -1;
    float scale = 0;  // of the accumulators
    const auto scale_of = [&](int tile) { return scales && tile < end ? __ldg(scales + tile) : 0.0f; };
    float next_scale = scale_of(begin);
#pragma unroll 1
    for (int tile = begin; tile < end; ++tile) {
        const float own_scale = next_scale;
        next_scale = scale_of(tile + 1);
        if (own_scale != 0 && own_scale != scale) {  // seldom
            if (scale != 0) {
                wgmma_wait<0>();
                multiply_sums(accumulators, value_accumulators, own_scale * reciprocal(scale));
            }
            scale = own_scale;
        }
        shared.pipeline.wait_full(state);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int offset = state.stage * Shape::stage_bytes + k * 2048;
            const uint64_t a = advance_descriptor(d_descriptor, offset), b = advance_descriptor(h_descriptor, offset);
            const bool add = last >= 0 || k > 0;
            wgmma<Major::mn>(accumulators, a, b, add, Piece());
            wgmma_8<Major::mn>(value_accumulators, a, value_descriptor, add, Piece());
        }
        wgmma_commit();
        wgmma_wait<1>();
        if (last >= 0 && thread % 32 == 0 && thread / 32 < Shape::cluster) {
            shared.pipeline.release(last, thread / 32);
        }
        last = state.stage;
        state.advance();
    }
    wgmma_wait<0>();
    if (last < 0) {
#pragma unroll
        for (int i = 0; i < 128; ++i) accumulators[i] = 0;
        value_accumulators[0] = value_accumulators[2] = 0;
    }
    cluster_sync();  // the other block's copies may still arrive here

    const size_t part = size_t(layer) * gridDim.x + blockIdx.x;
    store_outer_sums(accumulators, value_accumulators, scale != 0 ? reciprocal(scale) : 1.0f, part,
                     blockIdx.y * 128 + group * 64, h_tile * column_tile, width, thread, partial, bias_sums);
#endif
}

}  // namespace
}  // namespace gpu
}  // namespace siren
