// A training step layer by layer on Hopper processors, for networks wider than chain_cuda.h takes, in 16-bit precision:
// a kernel for each product with weights, with a sine layer or its adjoint at its end, and one each for the first
// layer and for the way back through the output. tile_cuda.h has what they do with tiles, and how these lie in
// memory; outer products are in tile_outer_cuda.h, and the loss is layers_cuda.h's.
#pragma once

#include "layers_cuda.h"
#include "tile_cuda.h"

namespace siren {
namespace gpu {
namespace {

// Where a tile's 256 columns number `columns` begin in a layer of tiles, and in what is kept of one.
__host__ __device__ inline size_t tile_place(int tile, int columns, int width) {
    return (size_t(tile) * width + size_t(columns) * column_tile) * 64;
}
template <class Shape>
__device__ inline size_t kept_place(int tile, int columns, int width) {
    return (size_t(tile) * (width / column_tile) + columns) * Shape::kept;
}

// 256 columns of a few rows, by a whole block; visible to it after a barrier.
__device__ inline void copy_vectors(const float* source, int stride, int rows, float* destination) {
    for (int i = threadIdx.x; i < rows * column_tile; i += blockDim.x) {
        destination[i] = source[size_t(i / column_tile) * stride + i % column_tile];
    }
}

// Sums of 256 columns, before anything is added, by one of so many threads.
__device__ inline void clear_vectors(float* sums, int stride, int rows, int thread, int threads) {
    for (int i = thread; i < rows * column_tile; i += threads) {
        sums[i / column_tile * stride + i % column_tile] = 0;
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

// The first layer's h. Blocks of 128 threads: (tile, 256 columns).
template <class Precision, int streams>
__global__ void __launch_bounds__(TileShape<Precision, streams>::threads, 4)
    wide_first_kernel(Points points, Vectors vectors, typename Precision::Piece* h) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    typedef TileShape<Precision, streams> Shape;
    extern __shared__ __align__(1024) unsigned char aligned_memory[];
    float* const first = reinterpret_cast<float*>(aligned_memory + Shape::bytes);
    const Tile<Precision, streams> tile(aligned_memory, threadIdx.x, 1);
    copy_vectors(vectors.data + blockIdx.y * column_tile, vectors.width, 3, first);
    __syncthreads();
    tile.first_sines(points, first, coordinates_of_tile(tile, blockIdx.x, points));
    tile.end();
    if (threadIdx.x > 0) return;
    copy_to_memory(h + tile_place(blockIdx.x, blockIdx.y, vectors.width), aligned_memory, Shape::bytes);
    wait_until_read();
#endif
}

template <class Precision, int streams>
struct WideShape {
    typedef typename Precision::Piece Piece;
    typedef TileShape<Precision, streams> OfTile;
    static constexpr int cluster = 2, groups = 2, group_threads = OfTile::threads;
    static constexpr int threads = (groups + 1) * group_threads, stages = 3;
    static constexpr int stage_bytes = groups * OfTile::block_bytes + OfTile::weight_bytes;
    static constexpr size_t bytes = stages * stage_bytes + groups * OfTile::bytes +
                                    column_tile * 8 * sizeof(Piece) + 3 * column_tile * sizeof(float) +
                                    2 * stages * sizeof(uint64_t);
};

// A product of tiles with weights, and what its end needs.
template <class Precision>
struct WideProduct {
    typedef typename Precision::Piece Piece;
    const Piece *tiles, *weights;  // the latter packed as operands, see operand_place()
    Piece* result;                 // h or d, but for the first adjoint
    uint4* kept;                   // sine: written; adjoint: read
    const float* vectors;          // sine: biases; first adjoint: the first layer's three rows
    OutputParts output;            // last sine
    float* first_partial;          // first adjoint: sums, (share, 3, width)
    Points points;
    int count, width;  // of tiles, and their columns
};

template <class Precision, int streams>
__device__ inline void fetch_wide_operands(const WideProduct<Precision>& c, unsigned char* stages,
                                           uint64_t* full, uint64_t* empty, int turns) {
    typedef WideShape<Precision, streams> Shape;
    typedef typename Shape::OfTile OfTile;
    constexpr int own = OfTile::weight_bytes / Shape::cluster;
    const int rank = blockIdx.x % Shape::cluster, blocks = c.width / block_columns;
    const auto* const weights =
        reinterpret_cast<const unsigned char*>(c.weights + size_t(blockIdx.y) * column_tile * c.width) +
        rank * own;
    unsigned stage = 0, parity = 1;
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
            unsigned char* const to = stages + stage * Shape::stage_bytes;
            wait_for(&empty[stage], parity);
            expect_bytes(&full[stage], Shape::stage_bytes);
#pragma unroll
            for (int group = 0; group < Shape::groups; ++group) {
                copy_to_block(to + group * OfTile::block_bytes, tiles[group] + block * OfTile::block_bytes,
                              OfTile::block_bytes, &full[stage]);
            }
            copy_to_blocks(to + Shape::groups * OfTile::block_bytes + rank * own,
                           weights + size_t(block) * OfTile::weight_bytes, own, &full[stage],
                           (1 << Shape::cluster) - 1);
            if (++stage == Shape::stages) {
                stage = 0;
                parity ^= 1;
            }
        }
    }
}

// A group's tiles. `small` are small operands: last sine: the output weights; first adjoint: place for inputs.
template <class Precision, int streams, End kind>
__device__ inline void multiply_wide_tiles(const WideProduct<Precision>& c, const unsigned char* stages,
                                           unsigned char* tile_memory,
                                           typename Precision::Piece* small, const float* vectors,
                                           uint64_t* full, uint64_t* empty, int turns) {
    typedef typename Precision::Piece Piece;
    typedef WideShape<Precision, streams> Shape;
    typedef typename Shape::OfTile OfTile;
    constexpr bool first = kind == End::first_adjoint;
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / Shape::group_threads, 0);
    const Tile<Precision, streams> tile(tile_memory, threadIdx.x % Shape::group_threads, 1 + group);
    const int blocks = c.width / block_columns;
    const uint64_t own_operand = rows_operand(stages + group * OfTile::block_bytes);
    const uint64_t weights_operand = rows_operand(stages + Shape::groups * OfTile::block_bytes);
    float* const first_partial =
        c.first_partial + size_t(blockIdx.x * Shape::groups + group) * 3 * c.width + blockIdx.y * column_tile;
    if (first) {
        clear_vectors(first_partial, c.width, 3, tile.thread, Shape::group_threads);
        tile.wait_for_group();
    }
    int stage = 0;
    unsigned parity = 0;
    const auto release = [&](int stage) {
        if (tile.lane == 0 && tile.warp < Shape::cluster) arrive_at(&empty[stage], tile.warp);
    };
#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
        const int number = (turn * gridDim.x + blockIdx.x) * Shape::groups + group;
        const bool inside = number < c.count;
        const int there = inside ? number : c.count - 1;
        uint4* const kept = c.kept + kept_place<OfTile>(there, blockIdx.y, c.width) + tile.thread;
        typename Tile<Precision, streams>::Kept loaded;
        if (kind == End::adjoint) tile.load_kept(kept, loaded);
        float sums[128];
        int last = -1;
#pragma unroll 1
        for (int block = 0; block < blocks; ++block) {
            wait_for(&full[stage], parity);
            begin_products();
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const int offset = stage * Shape::stage_bytes + k * 32;
                multiply<false>(sums, operand_at(own_operand, offset), operand_at(weights_operand, offset),
                                block + k > 0, Piece());
            }
            commit_products();
            if (block > 0) {
                wait_products<1>();
                release(last);
            }
            last = stage;
            if (++stage == Shape::stages) {
                stage = 0;
                parity ^= 1;
            }
        }
        wait_products<0>();
        release(last);

        typename Tile<Precision, streams>::Coordinates at;
        if (first) at = coordinates_of_tile(tile, number, c.points);
        tile.begin();
        if (kind == End::sine || kind == End::last_sine) tile.sines(sums, vectors, kept, inside);
        if (kind == End::adjoint) tile.adjoints_of_kept(sums, kept, loaded);
        if (first) {
            tile.write_inputs(small, c.points, at);
            tile.first_adjoints(sums, c.points, vectors, at);
        }
        tile.end();
        if (!inside) continue;
        if (first) {
            tile.add_sums_of_rows(small, first_partial, c.width, 3, 1);
            continue;
        }
        if (tile.thread == 0) {
            copy_to_memory(c.result + tile_place(number, blockIdx.y, c.width), tile_memory, OfTile::bytes);
        }
        if (kind != End::last_sine) continue;
        float y[4];
        tile.multiply_rows(small, y);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int point = number * OfTile::points + tile.point_of(half);
            const int stream = tile.stream_of(half), channel = tile.lane % 4;
            if (point >= c.points.count || stream >= streams || channel >= c.output.channels) continue;
            const size_t row = blockIdx.y * size_t(c.output.rows) + row_of<streams>(point) + 16 * stream;
            c.output.parts[row * c.output.channels + channel] = y[2 * half] + y[2 * half + 1];
        }
    }
    if (tile.thread == 0) wait_until_written();
}

// Blocks go in pairs that fetch weights together: (pairs of tiles in turn, 256 columns).
template <class Precision, int streams, End kind>
__global__ void __launch_bounds__(WideShape<Precision, streams>::threads, 1)
    wide_product_kernel(WideProduct<Precision> c) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    typedef typename Precision::Piece Piece;
    typedef WideShape<Precision, streams> Shape;
    typedef typename Shape::OfTile OfTile;
    extern __shared__ __align__(1024) unsigned char aligned_memory[];
    unsigned char* const stages = aligned_memory;
    unsigned char* const tiles = stages + Shape::stages * Shape::stage_bytes;
    Piece* const small = reinterpret_cast<Piece*>(tiles + Shape::groups * OfTile::bytes);
    float* const vectors = reinterpret_cast<float*>(small + column_tile * 8);
    uint64_t* const full = reinterpret_cast<uint64_t*>(vectors + 3 * column_tile);
    uint64_t* const empty = full + Shape::stages;
    if (threadIdx.x == 0) {
        create_stage_barriers(full, empty, Shape::stages, 1, Shape::groups * Shape::cluster);
    }
    if (kind != End::adjoint) {
        copy_vectors(c.vectors + blockIdx.y * column_tile, c.width, kind == End::first_adjoint ? 3 : 1,
                     vectors);
    }
    if (kind == End::last_sine) {
        write_output_operand(c.output.weights + blockIdx.y * column_tile, c.width, c.output.channels, small);
        hand_to_copies();
    }
    __syncthreads();
    wait_for_cluster();

    const int at_once = gridDim.x * Shape::groups, turns = (c.count + at_once - 1) / at_once;
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / Shape::group_threads, 0);
    if (group < Shape::groups) {
        take_registers<240>();
        multiply_wide_tiles<Precision, streams, kind>(
            c, stages, tiles + group * OfTile::bytes,
            kind == End::first_adjoint ? small + group * 64 * 8 : small, vectors, full, empty, turns);
    } else {
        give_registers<24>();
        if (threadIdx.x == Shape::groups * Shape::group_threads) {
            fetch_wide_operands<Precision, streams>(c, stages, full, empty, turns);
        }
        __syncwarp();
    }
    wait_for_cluster();  // the other block may still write to this one's memory
#endif
}

template <class Precision, int streams>
struct WideOutputShape {
    typedef TileShape<Precision, streams> OfTile;
    static constexpr size_t bytes(int channels) {
        return OfTile::bytes + 64 * 8 * sizeof(typename Precision::Piece) + 64 * 4 * sizeof(float) +
               channels * column_tile * sizeof(float) + sizeof(uint64_t);
    }
};

// Cotangents of the output (count, streams, channels), and the last layer's h, to the last layer's d and sums that
// make the output weights' gradient, (share, channels, width). Blocks of 128 threads: (share of the tiles, 256
// columns).
template <class Precision, int streams, int channels>
__global__ void __launch_bounds__(TileShape<Precision, streams>::threads, 4)
    wide_output_kernel(Points points, const float* output_weights, const typename Precision::Piece* h,
                       const uint4* all_kept, typename Precision::Piece* d, const float* cotangent,
                       const unsigned* largest, float* all_partial, int count, int width) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    typedef typename Precision::Piece Piece;
    typedef TileShape<Precision, streams> Shape;
    extern __shared__ __align__(1024) unsigned char aligned_memory[];
    Piece* const operand = reinterpret_cast<Piece*>(aligned_memory + Shape::bytes);
    auto& cotangents = *reinterpret_cast<float(*)[64][4]>(operand + 64 * 8);
    float* const weights = &cotangents[0][0] + 64 * 4;
    uint64_t* const full = reinterpret_cast<uint64_t*>(weights + channels * column_tile);
    const Tile<Precision, streams> tile(aligned_memory, threadIdx.x, 1);
    float* const partial = all_partial + size_t(blockIdx.x) * channels * width + blockIdx.y * column_tile;
    clear_vectors(partial, width, channels, tile.thread, Shape::threads);
    copy_vectors(output_weights + blockIdx.y * column_tile, width, channels, weights);
    if (threadIdx.x == 0) create_barrier(full, 1);
    hand_to_copies();
    __syncthreads();
    const float scale = cotangent_scale(*largest, cotangent_exponent(streams));
    unsigned parity = 0;
#pragma unroll 1
    for (int number = blockIdx.x; number < count; number += gridDim.x) {
        const size_t place = tile_place(number, blockIdx.y, width);
        if (threadIdx.x == 0) {
            wait_until_read();
            expect_bytes(full, Shape::bytes);
            copy_to_block(aligned_memory, h + place, Shape::bytes, full);
        }
        const uint4* const kept = all_kept + kept_place<Shape>(number, blockIdx.y, width) + tile.thread;
        typename Tile<Precision, streams>::Kept loaded;
        tile.load_kept(kept, loaded);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int point = number * Shape::points + tile.point_of(half), row = tile.row_of(half);
            const int stream = tile.stream_of(half), channel = tile.lane % 4;
            const bool there = point < points.count && stream < streams && channel < channels;
            const float g =
                there ? scale * cotangent[(size_t(point) * streams + stream) * channels + channel] : 0.0f;
            cotangents[row][channel] = g;
            store_split(operand, row, channel, g);
        }
        tile.end();
        wait_for(full, parity);
        parity ^= 1;
        tile.add_sums_of_rows(operand, partial, width, channels, 1);
        tile.begin();
        tile.template output_adjoints<channels>(
            cotangents, weights,
            [&](int step, float(&x)[8]) { tile.next_kept(kept, step, loaded, x); });
        tile.end();
        if (threadIdx.x == 0) copy_to_memory(d + place, aligned_memory, Shape::bytes);
    }
    if (threadIdx.x == 0) wait_until_written();
#endif
}

}  // namespace
}  // namespace gpu
}  // namespace siren
