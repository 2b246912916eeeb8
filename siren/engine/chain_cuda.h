// A training step's way through the whole network in one kernel, on Hopper processors: for networks 256 wide,
// in 16-bit precision. The outer products that follow it are in tile_outer_cuda.h.
//
// Blocks go in pairs, called clusters, which read weights together. A block has two groups of four warps
// and a thread that fetches weights. Each group takes tiles of 64 rows forward through all layers,
// computes the loss, and takes them back; while one group multiplies, the other computes sines. Both
// multiply by the same weights, one after the other, and these are then replaced by the next layer's.
//
// Written to memory is what the outer products need, h (but for the first layer's) and d. x stays in the L2 cache,
// in a place of each thread's own. On an H100 the energy of all these bytes limits the speed of derivatives' losses.
//
// The scale of the cotangents must be known before any of them is rounded. The groups agree on it after their first
// tiles, which are spread over all points. Where a later tile has larger cotangents, as at a star in a flat
// picture, its group goes on with a smaller scale. So each tile's d has the scale that is noted for it, and sums
// over tiles are taken without.
#pragma once

#include "tile_cuda.h"

namespace siren {
namespace gpu {
namespace {

// What is in shared memory for each row of a tile: small operands for sums over the rows, and the
// cotangents of the outputs.
template <class Precision>
struct ChainRows {
    // Columns 2 q and 2 q + 1, which add up, are for
    // channel q's cotangents,
    typename Precision::Piece cotangents[64 * 8];
    // and the first layer's inputs: q = 0, 1 those of its weights' columns, q = 2 that of its bias.
    typename Precision::Piece inputs[64 * 8];
    float all_cotangents[64][4];
    // What the outputs should be, or their given cotangents, and weights of points; the first of these
    // is for the thread that has copied it.
    float wanted[64][4], weights[64][4];
    float2 coordinates[2][64];  // of the points of this tile and the next
    float biases[4];            // of the output
    unsigned largest[4];        // of each warp's cotangents so far, as bits
};

template <class Precision, int streams, int channels>
struct ChainShape {
    typedef typename Precision::Piece Piece;
    typedef TileShape<Precision, streams> OfTile;
    static constexpr int width = OfTile::width;
    static constexpr int cluster = 2, groups = 2, group_threads = OfTile::threads;
    static constexpr int threads = (groups + 1) * group_threads;
    static constexpr int stages = 4, stage_bytes = OfTile::weight_bytes;

    static constexpr size_t bytes(int hidden_layers) {
        return stages * stage_bytes + groups * OfTile::bytes + width * 8 * sizeof(Piece) +
               groups * sizeof(ChainRows<Precision>) +
               (3 + hidden_layers + channels) * width * sizeof(float) + 2 * stages * sizeof(uint64_t);
    }
};

// Where things are; layers of h and d lie `layer_size` elements apart. The first layer's h is not kept.
template <class Precision>
struct ChainArguments {
    Points points;
    Parameters parameters;
    Vectors vectors;
    const typename Precision::Piece* weights;  // see operand_place()
    typename Precision::Piece *h, *d;
    size_t layer_size;
    uint4* kept;
    Error error;
    unsigned *largest, *arrived;           // zero at the start
    float* scales;                          // of each tile's d; 0: nothing but zeros
    float *first_partial, *output_partial;  // as finish_kernel wants them
    double* point_sums;                     // of each share, 1 + channels
};

template <class Precision, int streams, int channels>
__device__ inline void fetch_chain_weights(const ChainArguments<Precision>& c, unsigned char* weights,
                                           uint64_t* full, uint64_t* empty, int turns) {
    typedef ChainShape<Precision, streams, channels> Shape;
    constexpr int part = Shape::stage_bytes / Shape::cluster;
    const int layers = c.parameters.hidden_layers, rank = blockIdx.x % Shape::cluster;
    unsigned stage = 0, parity = 1;
    for (int turn = 0; turn < turns; ++turn) {
        for (int product = 0; product < 2 * layers; ++product) {
            // Layers forward, then transposed back.
            const int matrix =
                product < layers ? 2 * product : 2 * (2 * layers - 1 - product) + 1;
            const auto* const source = reinterpret_cast<const unsigned char*>(
                c.weights + size_t(matrix) * Shape::width * Shape::width);
#pragma unroll 1
            for (int block = 0; block < 4; ++block) {
                wait_idly_for(&empty[stage], parity);
                expect_bytes(&full[stage], Shape::stage_bytes);
                copy_to_blocks(weights + stage * Shape::stage_bytes + rank * part,
                               source + block * Shape::stage_bytes + rank * part, part, &full[stage],
                               (1 << Shape::cluster) - 1);
                if (++stage == Shape::stages) {
                    stage = 0;
                    parity ^= 1;
                }
            }
        }
    }
}

template <class Precision, int streams, int channels>
__device__ inline void follow_chain(const ChainArguments<Precision>& c, unsigned char* weights,
                                    unsigned char* tile_memory,
                                    const typename Precision::Piece* output_weights,
                                    ChainRows<Precision>& rows, const float* vectors, uint64_t* full,
                                    uint64_t* empty, int turns) {
    typedef typename Precision::Piece Piece;
    typedef ChainShape<Precision, streams, channels> Shape;
    typedef typename Shape::OfTile OfTile;
    constexpr int width = Shape::width;
    constexpr int supervised = streams == 3 ? 2 : 1, first_supervised = streams - supervised;
    const int layers = c.parameters.hidden_layers;
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / Shape::group_threads, 0);
    // Named barriers: each group's own, and those at which the groups wait for their turns to multiply.
    const Tile<Precision, streams> tile(tile_memory, threadIdx.x % Shape::group_threads, 1 + group);
    const int turn_barrier = 3;
    const int thread = tile.thread, lane = tile.lane, warp = tile.warp;
    const int all_groups = gridDim.x * Shape::groups, share = blockIdx.x * Shape::groups + group;
    const int tiles = OfTile::tiles(c.points.count);
    const int begin = int(int64_t(tiles) * share / all_groups);
    const int end = int(int64_t(tiles) * (share + 1) / all_groups);

    // Of the parameters, as rows of float32: biases from the third on, then the output weights.
    const auto bias = [&](int layer) { return vectors + (2 + layer) * width; };
    const float* const output_vectors = vectors + (3 + layers) * width;

    // What is kept for the way back.
    uint4* const own_kept = c.kept + size_t(share) * (layers - 1) * OfTile::kept + thread;
    const auto kept_of_layer = [&](int l) { return own_kept + (l - 1) * OfTile::kept; };

    // sums = the tile times the weights that are next; the tile is copied to its place in a layer, if any.
    float sums[128];
    const uint64_t tile_operand = rows_operand(tile_memory);
    const uint64_t weights_operand = rows_operand(weights);
    int stage = 0;
    unsigned parity = 0;
    const auto release = [&](int stage) {
        if (lane == 0 && warp < Shape::cluster) arrive_at(&empty[stage], warp);
    };
    const auto multiply_tile = [&](Piece* layer, int number, bool last) {
        wait_at(turn_barrier + group, 2 * Shape::group_threads);
#pragma unroll
        for (int block = 0; block < 4; ++block) {
            wait_for(&full[stage], parity);
            begin_products();
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                multiply<false>(sums, operand_at(tile_operand, block * OfTile::block_bytes + k * 32),
                                operand_at(weights_operand, stage * Shape::stage_bytes + k * 32),
                                block + k > 0, Piece());
            }
            commit_products();
            if (block == 0 && thread == 0 && layer && number < end) {
                copy_to_memory(layer + size_t(number) * OfTile::rows * width, tile_memory, OfTile::bytes);
            }
            if (block > 0) {
                wait_products<1>();
                release((stage + Shape::stages - 1) % Shape::stages);
            }
            if (++stage == Shape::stages) {
                stage = 0;
                parity ^= 1;
            }
        }
        if (!last) arrive_named(turn_barrier + 1 - group, 2 * Shape::group_threads);
        wait_products<0>();
        release((stage + Shape::stages - 1) % Shape::stages);
    };
    if (group == 1) arrive_named(turn_barrier, 2 * Shape::group_threads);

    // Sums over all rows of this share.
    float* const first_partial = c.first_partial + share * 3 * width;
    float* const output_partial = c.output_partial + share * channels * width;
    for (int i = thread; i < 3 * width; i += Shape::group_threads) first_partial[i] = 0;
    for (int i = thread; i < channels * width; i += Shape::group_threads) output_partial[i] = 0;
    if (thread < channels) {
        rows.biases[thread] = c.parameters.flat[c.parameters.bias(layers + 1) + thread];
    }
    tile.wait_for_group();

    double loss = 0;
    float output_bias = 0;  // of channel lane % 4

    // A tile's coordinates are loaded a tile ahead.
    const auto load_coordinates = [&](int turn) {
        const int point = (begin + turn) * OfTile::points + thread;
        if (thread >= OfTile::points) return;
        const bool inside = begin + turn < end && point < c.points.count;
        copy_or_clear<8>(&rows.coordinates[turn % 2][thread],
                         c.points.coordinates + (inside ? 2 * point : 0), inside);
        commit_copies();
    };
    load_coordinates(0);
    const int channel = lane % 4;  // of the output, for two rows

#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
        const int number = begin + turn;  // from `end` on, nothing is at its points
        const auto compare = [&](int half, int& point) {
            point = number * OfTile::points + tile.point_of(half);
            const int stream = tile.stream_of(half);
            return number < end && point < c.points.count && channel < channels && stream < streams &&
                   (c.error.given || stream >= first_supervised);
        };
#pragma unroll
        for (int half = 0; half < 2; ++half) {  // this thread itself will need it
            int point;
            const bool compared = compare(half, point);
            const int stream = tile.stream_of(half), row = tile.row_of(half);
            const size_t at = c.error.given ? size_t(point) * streams + stream
                                            : size_t(point) * supervised + stream - first_supervised;
            const float* const all = c.error.given ? c.error.given : c.error.target;
            copy_or_clear<4>(&rows.wanted[row][channel], all + (compared ? at * channels + channel : 0),
                             compared);
            if (c.error.weight) {
                copy_or_clear<4>(&rows.weights[row][channel], c.error.weight + (compared ? point : 0),
                                 compared);
            }
        }
        commit_copies();

        // Forward.
        wait_copies<1>();
        tile.begin();
        const auto coordinates_of = [&](int point) { return rows.coordinates[turn % 2][point]; };
        tile.first_sines(c.points, vectors, tile.coordinates(coordinates_of));
        tile.end();
#pragma unroll 1
        for (int l = 1; l <= layers; ++l) {
            multiply_tile(l > 1 ? c.h + (l - 2) * c.layer_size : nullptr, number, false);
            tile.begin();
            tile.sines(sums, bias(l), kept_of_layer(l), l < layers);
            tile.end();
        }

        // The output and its cotangents.
        float y[4], g[2], most = 0;
        tile.multiply_rows(output_weights, y);
        wait_copies<0>();
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int stream = tile.stream_of(half), row = tile.row_of(half);
            const float inverse = stream == 0   ? c.points.inverse[0]
                                  : stream == 3 ? c.points.inverse[3]
                                                : c.points.inverse[1];
            const float wanted = rows.wanted[row][channel];
            const float weight = c.error.weight ? rows.weights[row][channel] : 1.0f;
            int point;
            g[half] = 0;
            if (compare(half, point)) {
                float residual = (y[2 * half] + y[2 * half + 1]) * inverse - wanted;
                if (stream == 0) residual += rows.biases[channel];
                if (!c.error.given) loss += double(weight * residual) * residual;
                g[half] = c.error.given ? wanted * inverse
                                        : 2 * c.error.mean * weight * residual * inverse;
            }
            if (stream == 0) output_bias += g[half];
            most = fmaxf(most, fabsf(g[half]));
        }
        const unsigned largest_of_warp = __reduce_max_sync(0xffffffffu, __float_as_uint(most));
        if (turn == 0) {
            if (lane == 0) atomicMax(c.largest, largest_of_warp);
            tile.wait_for_group();
            if (thread == 0) {
                __threadfence();
                atomicAdd(c.arrived, 1);
                while (atomicAdd(c.arrived, 0) < all_groups) __nanosleep(100);
                __threadfence();
            }
            tile.wait_for_group();
            // Room for twice as much keeps most tiles at one scale, which is cheapest.
            const float room = 2 * __uint_as_float(__ldcg(c.largest));
            if (lane == 0) rows.largest[warp] = __float_as_uint(room);
        } else if (lane == 0) {
            rows.largest[warp] = max(rows.largest[warp], largest_of_warp);
        }
        tile.wait_for_group();
        const unsigned largest = max(max(rows.largest[0], rows.largest[1]),
                                     max(rows.largest[2], rows.largest[3]));
        const float scale =
            largest > 0 ? cotangent_scale(largest, cotangent_exponent(streams) + 1) : 0.0f;
        if (thread == 0 && number < end) c.scales[number] = scale;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = tile.row_of(half);
            g[half] *= scale;
            rows.all_cotangents[row][channel] = g[half];
            store_split(rows.cotangents, row, channel, g[half]);
        }
        tile.end();
        tile.add_sums_of_rows(rows.cotangents, output_partial, width, channels, reciprocal(scale));

        // Back. The last layer's x are where its sums were.
        tile.begin();
        tile.template output_adjoints<channels>(rows.all_cotangents, output_vectors,
                                                [&](int step, float(&x)[8]) {
#pragma unroll
                                                    for (int i = 0; i < 8; ++i) x[i] = sums[8 * step + i];
                                                });
        tile.end();
#pragma unroll 1
        for (int l = layers - 1; l > 0; --l) {
            typename Tile<Precision, streams>::Kept loaded;
            tile.load_kept(kept_of_layer(l), loaded);
            multiply_tile(c.d + l * c.layer_size, number, false);
            tile.begin();
            tile.adjoints_of_kept(sums, kept_of_layer(l), loaded);
            tile.end();
        }
        load_coordinates(turn + 1);
        multiply_tile(c.d, number, group == 1 && turn + 1 == turns);
        tile.begin();
        const auto at = tile.coordinates(coordinates_of);
        tile.write_inputs(rows.inputs, c.points, at);
        tile.first_adjoints(sums, c.points, vectors, at);
        tile.end();
        tile.add_sums_of_rows(rows.inputs, first_partial, width, 3, reciprocal(scale));
    }
    wait_copies<0>();
    if (thread == 0) wait_until_written();

    // Sums of points, for each warp: the loss, and each channel's cotangents.
    double* const point_sums = c.point_sums + size_t(share * 4 + warp) * (1 + channels);
    double all_output_bias = output_bias;
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        loss += __shfl_xor_sync(0xffffffffu, loss, offset);
        if (offset > 2) all_output_bias += __shfl_xor_sync(0xffffffffu, all_output_bias, offset);
    }
    if (lane == 0) point_sums[0] = loss;
    if (lane < channels) point_sums[1 + lane] = all_output_bias;
}

template <class Precision, int streams, int channels>
__global__ void __launch_bounds__(ChainShape<Precision, streams, channels>::threads, 1)
    chain_kernel(ChainArguments<Precision> c) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    typedef ChainShape<Precision, streams, channels> Shape;
    typedef typename Shape::OfTile OfTile;
    extern __shared__ __align__(1024) unsigned char aligned_memory[];
    unsigned char* const weights = aligned_memory;
    unsigned char* const tiles = weights + Shape::stages * Shape::stage_bytes;
    auto* const output_weights =
        reinterpret_cast<typename Precision::Piece*>(tiles + Shape::groups * OfTile::bytes);
    auto* const rows = reinterpret_cast<ChainRows<Precision>*>(output_weights + Shape::width * 8);
    float* const vectors = reinterpret_cast<float*>(rows + Shape::groups);
    const int all_vectors = (3 + c.parameters.hidden_layers + channels) * Shape::width;
    uint64_t* const full = reinterpret_cast<uint64_t*>(vectors + all_vectors);
    uint64_t* const empty = full + Shape::stages;

    if (threadIdx.x == 0) {
        create_stage_barriers(full, empty, Shape::stages, 1, Shape::groups * Shape::cluster);
    }
    for (int i = threadIdx.x; i < all_vectors; i += Shape::threads) vectors[i] = c.vectors.data[i];
    write_output_operand(c.vectors.output(c.parameters.hidden_layers, 0), Shape::width, channels,
                         output_weights);
    hand_to_copies();
    __syncthreads();
    wait_for_cluster();

    const int all_tiles = OfTile::tiles(c.points.count), groups = gridDim.x * Shape::groups;
    const int turns = (all_tiles + groups - 1) / groups;
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / Shape::group_threads, 0);
    if (group < Shape::groups) {
        take_registers<240>();
        follow_chain<Precision, streams, channels>(c, weights, tiles + group * OfTile::bytes,
                                                   output_weights, rows[group], vectors, full, empty,
                                                   turns);
    } else {
        give_registers<24>();
        if (threadIdx.x == Shape::groups * Shape::group_threads) {
            fetch_chain_weights<Precision, streams, channels>(c, weights, full, empty, turns);
        }
        __syncwarp();
    }
    wait_for_cluster();  // the other block may still write to this one's memory
#endif
}

}  // namespace
}  // namespace gpu
}  // namespace siren
