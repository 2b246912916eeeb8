// The outer products D^T H of all layers, over shares of the tiles that chain_cuda.h or wide_cuda.h has left; and the
// first layer's H, which the former has not.
#pragma once

#include "tile_cuda.h"

namespace siren {
namespace gpu {
namespace {

template <class Precision, int streams>
struct TileOuterShape {
    typedef TileShape<Precision, streams> OfTile;
    static constexpr int cluster = 2, groups = 2, group_threads = OfTile::threads;
    static constexpr int threads = (groups + 1) * group_threads, stages = 4;
    static constexpr int block_bytes = OfTile::block_bytes;
    static constexpr int stage_bytes = (2 + 4) * block_bytes;
    static constexpr size_t bytes = stages * stage_bytes + 256 + 2 * stages * sizeof(uint64_t);
};

// Half of the first layer's h of a tile, 128 columns, by a group of four warps. A thread has eight columns,
// and every eighth point.
template <class Precision, int streams>
struct TileFirstLayer {
    typedef typename Precision::Piece Piece;
    typedef TileOuterShape<Precision, streams> Shape;
    static constexpr int points = (Shape::OfTile::points + 7) / 8;
    const Points all;
    const int first_point, piece;
    const FirstUnits units;
    float2 at[2][points];  // of this tile and the next

    __device__ TileFirstLayer(const Points& points, const Vectors& vectors, int first_column, int thread)
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
    // To shared memory, as hopper_cuda.h wants operands.
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

// Blocks go in pairs that fetch H together, half of it each; or compute it, and copy it to each other.
// Block (x, y, z): tiles of share x, columns [128 y, 128 y + 128) of D, and, for layer z / (width / 256), the
// z % (width / 256)th 256 columns of H. partial is (layer, share, width, width); bias_partial, the sums of
// D's value rows, (layer, share, width). `compute_first`: width is 256, and h begins with the second layer's.
// `scales`: what each tile of D was multiplied by, which the sums are not, a power of two, or 0 where D is; or null.
template <class Precision, int streams>
__global__ void __launch_bounds__(TileOuterShape<Precision, streams>::threads, 1)
    tile_outer_kernel(Points points, Vectors vectors, const typename Precision::Piece* d,
                      const typename Precision::Piece* h, size_t layer_size, bool compute_first,
                      const float* scales, float* partial, float* bias_partial, int tiles, int width) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    typedef typename Precision::Piece Piece;
    typedef TileOuterShape<Precision, streams> Shape;
    const size_t tile_bytes = size_t(width / block_columns) * Shape::block_bytes;
    const int h_tiles = width / column_tile, layer = blockIdx.z / h_tiles, h_tile = blockIdx.z % h_tiles;
    const int rank = blockIdx.y % Shape::cluster;
    extern __shared__ __align__(1024) unsigned char aligned_memory[];
    Piece* const values = reinterpret_cast<Piece*>(aligned_memory + Shape::stages * Shape::stage_bytes);
    uint64_t* const full = reinterpret_cast<uint64_t*>(values + 128);
    uint64_t* const empty = full + Shape::stages;
    const int begin = int(int64_t(tiles) * blockIdx.x / gridDim.x);
    const int end = int(int64_t(tiles) * (blockIdx.x + 1) / gridDim.x);
    const bool first = compute_first && layer == 0;
    if (threadIdx.x == 0) {
        create_stage_barriers(full, empty, Shape::stages, first ? 1 + Shape::group_threads : 1,
                              Shape::groups * Shape::cluster);
    }
    if (threadIdx.x < 128) {  // a column that is 1 in rows of values, and seven of 0
        const int row = threadIdx.x / 8, column = threadIdx.x % 8;
        const bool value = streams == 1 || (row < 8 && row % 2 == 0) || (streams == 3 && row == 9);
        values[small_place(row, column)] = Piece(column == 0 && value ? 1.0f : 0.0f);
        hand_to_copies();
    }
    __syncthreads();
    wait_for_cluster();

    const int group = __shfl_sync(0xffffffffu, threadIdx.x / Shape::group_threads, 0);
    const int thread = threadIdx.x % Shape::group_threads;
    int stage = 0;
    unsigned parity = 0;
    const auto advance = [&] {
        if (++stage == Shape::stages) {
            stage = 0;
            parity ^= 1;
        }
    };
    if (group == Shape::groups) {
        constexpr int own = 2 * Shape::block_bytes;  // of D, and of H
        const auto* const all_d =
            reinterpret_cast<const unsigned char*>(d + layer * layer_size) + blockIdx.y * own;
        if (first) {
            TileFirstLayer<Precision, streams> computed(points, vectors, 128 * rank, thread);
            computed.load(begin);
            for (int tile = begin; tile < end; ++tile) {
                unsigned char* const copy = aligned_memory + stage * Shape::stage_bytes;
                unsigned char* const half = copy + own + rank * own;
                computed.load(tile + 1);
                wait_for(&empty[stage], parity ^ 1);
                if (thread == 0) {
                    expect_bytes(&full[stage], 2 * own);
                    copy_to_block(copy, all_d + tile * tile_bytes, own, &full[stage]);
                }
                computed.write(half);
                hand_to_copies();
                arrive(&full[stage]);
                wait_at(1, Shape::group_threads);
                if (thread == 0) copy_to_other_block(half, own, &full[stage], 1 - rank);
                advance();
            }
        } else if (thread == 0) {
            const auto* const all_h =
                reinterpret_cast<const unsigned char*>(h + (layer - compute_first) * layer_size) +
                h_tile * 2 * own + rank * own;
            for (int tile = begin; tile < end; ++tile) {
                unsigned char* const copy = aligned_memory + stage * Shape::stage_bytes;
                wait_for(&empty[stage], parity ^ 1);
                expect_bytes(&full[stage], Shape::stage_bytes);
                copy_to_block(copy, all_d + tile * tile_bytes, own, &full[stage]);
                copy_to_blocks(copy + own + rank * own, all_h + tile * tile_bytes, own,
                               &full[stage], (1 << Shape::cluster) - 1);
                advance();
            }
        }
        __syncwarp();
        wait_for_cluster();
        return;
    }

    float sums[128], value_sums[4];
    const uint64_t all_a = columns_operand(aligned_memory + group * Shape::block_bytes, Shape::block_bytes);
    const uint64_t all_b =
        columns_operand(aligned_memory + 2 * Shape::block_bytes, Shape::block_bytes);
    const uint64_t value_operand = small_operand(values);
    int last = -1;
    float scale = 0;  // of the sums
    const auto scale_of = [&](int tile) { return scales && tile < end ? __ldg(scales + tile) : 0.0f; };
    float next_scale = scale_of(begin);
#pragma unroll 1
    for (int tile = begin; tile < end; ++tile) {
        const float own_scale = next_scale;
        next_scale = scale_of(tile + 1);
        if (own_scale != 0 && own_scale != scale) {  // seldom
            if (scale != 0) {
                const float ratio = own_scale * reciprocal(scale);
                wait_products<0>();
#pragma unroll
                for (int i = 0; i < 128; ++i) sums[i] *= ratio;
#pragma unroll
                for (int i = 0; i < 4; ++i) value_sums[i] *= ratio;
            }
            scale = own_scale;
        }
        wait_for(&full[stage], parity);
        begin_products();
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int offset = stage * Shape::stage_bytes + k * 2048;
            multiply<true>(sums, operand_at(all_a, offset), operand_at(all_b, offset), last >= 0 || k > 0,
                           Piece());
            multiply_8<true>(value_sums, operand_at(all_a, offset), value_operand, last >= 0 || k > 0, Piece());
        }
        commit_products();
        wait_products<1>();
        if (last >= 0 && thread % 32 == 0 && thread / 32 < Shape::cluster) {
            arrive_at(&empty[last], thread / 32);
        }
        last = stage;
        advance();
    }
    wait_products<0>();
    if (last < 0) {
#pragma unroll
        for (int i = 0; i < 128; ++i) sums[i] = 0;
        value_sums[0] = value_sums[2] = 0;
    }
    wait_for_cluster();  // the other block's copies may still arrive here

    const float factor = scale != 0 ? reciprocal(scale) : 1.0f;
    const size_t part = size_t(layer) * gridDim.x + blockIdx.x;
    const int row = blockIdx.y * 128 + group * 64 + thread / 32 * 16 + thread % 32 / 4;
    const int column = h_tile * column_tile + thread % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float* const result = partial + (part * width + row + half * 8) * width + column;
#pragma unroll
        for (int j = 0; j < 32; ++j) {
            *reinterpret_cast<float2*>(result + j * 8) =
                make_float2(factor * sums[4 * j + half * 2], factor * sums[4 * j + half * 2 + 1]);
        }
        if (column == 0) bias_partial[part * width + row + half * 8] = factor * value_sums[half * 2];
    }
#endif
}

}  // namespace
}  // namespace gpu
}  // namespace siren
