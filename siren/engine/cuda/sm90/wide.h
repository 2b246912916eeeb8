// A training step layer by layer, for networks wider than 256 in 16-bit precision: a kernel for each product with
// weights, with a sine layer or its adjoint as epilogue, one for the first layer, and one for the way back through the
// output layer. tile.h has the epilogues, outer.h the outer products, and outputs.h the loss.
#pragma once

#include "cuda/launch.h"
#include "cuda/outputs.h"
#include "cuda/sm90/pipeline.h"
#include "cuda/sm90/tile.h"
#include "cuda/tuning.h"

namespace siren {
namespace gpu {
namespace {

// Where 256 columns, number `columns`, of a tile begin in h or d of a layer, and in its kept x.
__host__ __device__ inline size_t tile_place(int tile, int columns, int width) {
    return (size_t(tile) * width + size_t(columns) * column_tile) * 64;
}
template <class Shape>
__device__ inline size_t kept_place(int tile, int columns, int width) {
    return (size_t(tile) * (width / column_tile) + columns) * Shape::kept;
}

// Copies 256 columns of a few rows, by a whole block; a barrier must follow.
__device__ inline void copy_vectors(const float* source, int stride, int rows, float* destination) {
    for (int i = threadIdx.x; i < rows * column_tile; i += blockDim.x) {
        destination[i] = source[size_t(i / column_tile) * stride + i % column_tile];
    }
}

// Clears 256 columns of a few rows of sums, by one of so many threads.
__device__ inline void clear_vectors(float* accumulators, int stride, int rows, int thread, int threads) {
    for (int i = thread; i < rows * column_tile; i += threads) {
        accumulators[i / column_tile * stride + i % column_tile] = 0;
    }
}

// Coordinates of a tile's points; zeros beyond the last.
template <class Precision, int streams>
__device__ inline typename Tile<Precision, streams>::Coordinates coordinates_of_tile(
    const Tile<Precision, streams>& tile, int number, const Points& points) {
    return tile.coordinates([&](int i) {
        const int point = number * TileShape<Precision, streams>::points + i;
        return point < points.count ? __ldg(reinterpret_cast<const float2*>(points.coordinates) + point)
                                    : make_float2(0, 0);
    });
}

template <class Precision, int streams>
struct WideFirstStorage {
    unsigned char tile[TileShape<Precision, streams>::bytes];
    float vectors[3][column_tile];  // the first layer's: both columns of weights, biases
};

// The first layer's h. Blocks of 128 threads: (tile, 256 columns).
template <class Precision, int streams>
__global__ void __launch_bounds__(TileShape<Precision, streams>::threads, 4)
    wide_first_kernel(Points points, Vectors vectors, typename Precision::Piece* h) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    follow();
    typedef TileShape<Precision, streams> Shape;
    extern __shared__ __align__(1024) unsigned char aligned_memory[];
    auto& shared = *reinterpret_cast<WideFirstStorage<Precision, streams>*>(aligned_memory);
    const Tile<Precision, streams> tile(shared.tile, threadIdx.x, 1);
    copy_vectors(vectors.data + blockIdx.y * column_tile, vectors.width, 3, &shared.vectors[0][0]);
    __syncthreads();
    tile.first_layer(points, &shared.vectors[0][0], coordinates_of_tile(tile, blockIdx.x, points));
    tile.end();
    if (threadIdx.x > 0) return;
    bulk_store(h + tile_place(blockIdx.x, blockIdx.y, vectors.width), shared.tile, Shape::bytes);
    wait_bulk_read();
#endif
}

template <class Precision, int streams>
struct WideShape {
    typedef typename Precision::Piece Piece;
    typedef TileShape<Precision, streams> OfTile;
    static constexpr int cluster = tuning::cluster, groups = tuning::consumer_groups, group_threads = OfTile::threads;
    static constexpr int threads = (groups + 1) * group_threads, stages = tuning::wide_stages;

    struct Stage {  // 64 columns of each group's tile, and of the weights
        unsigned char tiles[groups][OfTile::block_bytes];
        unsigned char weights[OfTile::weight_bytes];
    };
    struct SharedStorage {
        Stage stages[WideShape::stages];
        unsigned char tiles[groups][OfTile::bytes];  // that epilogues leave
        Piece small[column_tile * 8];                // small operands: output weights, or each group's first inputs
        float vectors[3][column_tile];               // as WideProduct has them
        Pipeline<WideShape::stages> pipeline;
    };
    static constexpr int stage_bytes = sizeof(Stage);
    static constexpr size_t bytes = sizeof(SharedStorage);
};

// A product of tiles with weights, and what its epilogue needs.
template <class Precision>
struct WideProduct {
    typedef typename Precision::Piece Piece;
    const Piece *tiles, *weights;  // the latter packed as operands, see packed_place()
    Piece* result;                 // h or d, but for the first adjoint
    uint4* kept;                   // sine: written; adjoint: read
    const float* vectors;          // sine: biases; first adjoint: the first layer's three rows
    OutputParts output;            // last sine
    float* first_sums;             // first adjoint: (share, 3, width)
    Points points;
    int count, width;  // of tiles, and their columns
};

template <class Precision, int streams>
__device__ inline void run_wide_producer(const WideProduct<Precision>& c,
                                         typename WideShape<Precision, streams>::SharedStorage& shared,
                                         int turns) {
    typedef WideShape<Precision, streams> Shape;
    typedef typename Shape::OfTile OfTile;
    constexpr int own = OfTile::weight_bytes / Shape::cluster;
    const int rank = blockIdx.x % Shape::cluster, blocks = c.width / block_columns;
    const auto* const weights =
        reinterpret_cast<const unsigned char*>(c.weights + size_t(blockIdx.y) * column_tile * c.width) +
        rank * own;
    PipelineState<Shape::stages> state;
    for (int turn = 0; turn < turns; ++turn) {
        const unsigned char* tiles[Shape::groups];
#pragma unroll
        for (int group = 0; group < Shape::groups; ++group) {
            const int number = (turn * gridDim.x + blockIdx.x) * Shape::groups + group;
            tiles[group] = reinterpret_cast<const unsigned char*>(
                c.tiles + tile_place(min(number, c.count - 1), 0, c.width));
        }
#pragma unroll 1
        for (int block = 0; block < blocks; ++block) {
            typename Shape::Stage& stage = shared.stages[state.stage];
            uint64_t* const full = &shared.pipeline.full[state.stage];
            shared.pipeline.wait_empty(state);
            expect_bytes(full, Shape::stage_bytes);
#pragma unroll
            for (int group = 0; group < Shape::groups; ++group) {
                bulk_copy(stage.tiles[group], tiles[group] + block * OfTile::block_bytes, OfTile::block_bytes,
                          full);
            }
            bulk_copy_multicast(stage.weights + rank * own, weights + size_t(block) * OfTile::weight_bytes, own,
                                full, (1 << Shape::cluster) - 1);
            state.advance();
        }
    }
}

// Multiplies the tiles of this thread's group, and finishes them.
template <class Precision, int streams, Epilogue kind>
__device__ inline void run_wide_consumer(const WideProduct<Precision>& c,
                                         typename WideShape<Precision, streams>::SharedStorage& shared,
                                         int turns) {
    typedef typename Precision::Piece Piece;
    typedef WideShape<Precision, streams> Shape;
    typedef typename Shape::OfTile OfTile;
    constexpr bool first = kind == Epilogue::first_adjoint;
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / Shape::group_threads, 0);
    const Tile<Precision, streams> tile(shared.tiles[group], threadIdx.x % Shape::group_threads, 1 + group);
    Piece* const small = shared.small + (first ? group * 64 * 8 : 0);
    const float* const vectors = &shared.vectors[0][0];
    const int blocks = c.width / block_columns;
    const uint64_t own_descriptor = k_major_descriptor(shared.stages[0].tiles[group]);
    const uint64_t weights_descriptor = k_major_descriptor(shared.stages[0].weights);
    float* const first_sums =
        c.first_sums + size_t(blockIdx.x * Shape::groups + group) * 3 * c.width + blockIdx.y * column_tile;
    if (first) {
        clear_vectors(first_sums, c.width, 3, tile.thread, Shape::group_threads);
        tile.group_sync();
    }
    PipelineState<Shape::stages> state;
    const auto release = [&](int stage) {
        if (tile.lane == 0 && tile.warp < Shape::cluster) shared.pipeline.release(stage, tile.warp);
    };
#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
        const int number = (turn * gridDim.x + blockIdx.x) * Shape::groups + group;
        const bool inside = number < c.count;
        const int there = inside ? number : c.count - 1;
        uint4* const kept = c.kept + kept_place<OfTile>(there, blockIdx.y, c.width) + tile.thread;
        typename Tile<Precision, streams>::Kept loaded;
        if (kind == Epilogue::adjoint) tile.prefetch_kept(kept, loaded);
        float accumulators[128];
        int last = -1;
#pragma unroll 1
        for (int block = 0; block < blocks; ++block) {
            shared.pipeline.wait_full(state);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const int offset = state.stage * Shape::stage_bytes + k * 32;
                wgmma<Major::k>(accumulators, advance_descriptor(own_descriptor, offset),
                             advance_descriptor(weights_descriptor, offset), block + k > 0, Piece());
            }
            wgmma_commit();
            if (block > 0) {
                wgmma_wait<1>();
                release(last);
            }
            last = state.stage;
            state.advance();
        }
        wgmma_wait<0>();
        release(last);

        typename Tile<Precision, streams>::Coordinates at;
        if (first) at = coordinates_of_tile(tile, number, c.points);
        tile.begin();
        if (kind == Epilogue::sine || kind == Epilogue::last_sine) {
            tile.sine_epilogue(accumulators, vectors, kept, inside);
        }
        if (kind == Epilogue::adjoint) tile.adjoint_epilogue(accumulators, kept, loaded);
        if (first) {
            tile.write_inputs(small, c.points, at);
            tile.first_adjoint_epilogue(accumulators, c.points, vectors, at);
        }
        tile.end();
        if (!inside) continue;
        if (first) {
            tile.add_row_sums(small, first_sums, c.width, 3, 1);
            continue;
        }
        if (tile.thread == 0) {
            bulk_store(c.result + tile_place(number, blockIdx.y, c.width), shared.tiles[group], OfTile::bytes);
        }
        if (kind != Epilogue::last_sine) continue;
        float y[4];
        tile.multiply_small(small, y);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int point = number * OfTile::points + tile.point_of(half);
            const int stream = tile.stream_of(half), channel = tile.lane % 4;
            if (point >= c.points.count || stream >= streams || channel >= c.output.channels) continue;
            const size_t row = blockIdx.y * size_t(c.output.rows) + row_of<streams>(point) + 16 * stream;
            c.output.parts[row * c.output.channels + channel] = y[2 * half] + y[2 * half + 1];
        }
    }
    if (tile.thread == 0) wait_bulk_written();
}

// Blocks (x, y): pairs of tiles, in turn; 256 columns. Each of a cluster's blocks fetches a part of the weights for
// all of them.
template <class Precision, int streams, Epilogue kind>
__global__ void __launch_bounds__(WideShape<Precision, streams>::threads, 1)
    wide_product_kernel(WideProduct<Precision> c) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    typedef typename Precision::Piece Piece;
    typedef WideShape<Precision, streams> Shape;
    typedef typename Shape::OfTile OfTile;
    extern __shared__ __align__(1024) unsigned char aligned_memory[];
    auto& shared = *reinterpret_cast<typename Shape::SharedStorage*>(aligned_memory);
    if (threadIdx.x == 0) shared.pipeline.init(1, Shape::groups * Shape::cluster);
    cluster_sync();
    follow();
    if (kind != Epilogue::adjoint) {
        copy_vectors(c.vectors + blockIdx.y * column_tile, c.width, kind == Epilogue::first_adjoint ? 3 : 1,
                     &shared.vectors[0][0]);
    }
    if (kind == Epilogue::last_sine) {
        write_output_weights(c.output.weights + blockIdx.y * column_tile, c.width, c.output.channels, shared.small);
        fence_async_proxy();
    }
    __syncthreads();

    const int at_once = gridDim.x * Shape::groups, turns = (c.count + at_once - 1) / at_once;
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / Shape::group_threads, 0);
    if (group < Shape::groups) {
        increase_registers<tuning::consumer_registers>();
        run_wide_consumer<Precision, streams, kind>(c, shared, turns);
    } else {
        decrease_registers<tuning::producer_registers>();
        if (threadIdx.x == Shape::groups * Shape::group_threads) {
            run_wide_producer<Precision, streams>(c, shared, turns);
        }
        __syncwarp();
    }
    cluster_sync();  // the other block may still write to this one's memory
#endif
}

template <class Precision, int streams, int channels>
struct WideOutputStorage {
    unsigned char tile[TileShape<Precision, streams>::bytes];
    typename Precision::Piece operand[64 * 8];  // the cotangents as a small operand
    float cotangents[64][4];
    float weights[channels][column_tile];
    uint64_t full;  // barrier: the tile's h is there
};

// From cotangents of the outputs (count, streams, channels), and h and x of the last layer, to its d and to the output
// weights' gradient (share, channels, width). Blocks of 128 threads: (share of the tiles, 256 columns).
template <class Precision, int streams, int channels>
__global__ void __launch_bounds__(TileShape<Precision, streams>::threads, 4)
    wide_output_kernel(Points points, const float* output_weights, const typename Precision::Piece* h,
                       const uint4* all_kept, typename Precision::Piece* d, const float* cotangent,
                       const unsigned* largest, float* all_partial, int count, int width) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    follow();
    typedef TileShape<Precision, streams> Shape;
    extern __shared__ __align__(1024) unsigned char aligned_memory[];
    auto& shared = *reinterpret_cast<WideOutputStorage<Precision, streams, channels>*>(aligned_memory);
    const Tile<Precision, streams> tile(shared.tile, threadIdx.x, 1);
    float* const partial = all_partial + size_t(blockIdx.x) * channels * width + blockIdx.y * column_tile;
    clear_vectors(partial, width, channels, tile.thread, Shape::threads);
    copy_vectors(output_weights + blockIdx.y * column_tile, width, channels, &shared.weights[0][0]);
    if (threadIdx.x == 0) init_barrier(&shared.full, 1);
    fence_async_proxy();
    __syncthreads();
    const float scale = cotangent_scale(*largest, tuning::cotangent_exponent(streams));
    unsigned parity = 0;
#pragma unroll 1
    for (int number = blockIdx.x; number < count; number += gridDim.x) {
        const size_t place = tile_place(number, blockIdx.y, width);
        if (threadIdx.x == 0) {
            wait_bulk_read();
            expect_bytes(&shared.full, Shape::bytes);
            bulk_copy(shared.tile, h + place, Shape::bytes, &shared.full);
        }
        const uint4* const kept = all_kept + kept_place<Shape>(number, blockIdx.y, width) + tile.thread;
        typename Tile<Precision, streams>::Kept loaded;
        tile.prefetch_kept(kept, loaded);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int point = number * Shape::points + tile.point_of(half), row = tile.row_of(half);
            const int stream = tile.stream_of(half), channel = tile.lane % 4;
            const bool there = point < points.count && stream < streams && channel < channels;
            const float g =
                there ? scale * cotangent[(size_t(point) * streams + stream) * channels + channel] : 0.0f;
            shared.cotangents[row][channel] = g;
            store_split(shared.operand, row, channel, g);
        }
        tile.end();
        wait_barrier(&shared.full, parity);
        parity ^= 1;
        tile.add_row_sums(shared.operand, partial, width, channels, 1);
        tile.begin();
        tile.template output_adjoint<channels>(
            shared.cotangents, &shared.weights[0][0],
            [&](int step, float(&x)[8]) { tile.take_kept(kept, step, loaded, x); });
        tile.end();
        if (threadIdx.x == 0) bulk_store(d + place, shared.tile, Shape::bytes);
    }
    if (threadIdx.x == 0) wait_bulk_written();
#endif
}

}  // namespace
}  // namespace gpu
}  // namespace siren
