// A training step through all layers and back in one kernel: for networks up to 256 wide, in 16-bit precision. outer.h
// follows it, with the outer products.
//
// A block has a producer, one thread that fetches weights, and two consumer groups of four warps. A group takes tiles
// of 64 rows forward through all layers, computes the loss, and takes them back. While one group multiplies, the other
// is in an epilogue. Both multiply by the same weights, one after the other, and the next layer's then replace these.
// Blocks go in clusters of two, and each fetches half of the weights for both.
//
// Written to memory is what outer products need: h, but for the first layer's, and d. x stays in the L2 cache. On an
// H100 the energy that all these bytes take limits the speed of derivatives' losses.
//
// The scale of cotangents must be known before any of them is rounded. The groups agree on it after their first tiles,
// which are spread over all points. Where a later tile has larger cotangents, as at a star in a flat picture, its
// group goes on with a smaller scale. So each tile's d has a scale of its own, in `scales`, and sums over tiles are
// taken without it.
#pragma once

#include "cuda/launch.h"
#include "cuda/sm90/pipeline.h"
#include "cuda/sm90/tile.h"
#include "cuda/tuning.h"

namespace siren {
namespace gpu {
namespace {

// A group's shared memory for each row of its tile.
template <class Precision>
struct ChainRows {
    // Small operands, each q split in columns 2 q and 2 q + 1: channel q's cotangents;
    typename Precision::Piece cotangents[64 * 8];
    // the first layer's inputs, q = 0, 1 those of its weights' columns, q = 2 that of its bias.
    typename Precision::Piece inputs[64 * 8];
    float all_cotangents[64][4];
    float wanted[64][4];        // what the outputs should be, or their given cotangents, or the point's tensor
    float2 coordinates[2][64];  // of the points of this tile and the next
    float biases[4];            // of the output
    unsigned largest[4];        // of each warp's cotangents so far, as bits
};

template <class Precision, int streams, int channels>
struct ChainShape {
    typedef typename Precision::Piece Piece;
    typedef TileShape<Precision, streams> OfTile;
    static constexpr int width = OfTile::width;
    static constexpr int cluster = tuning::cluster, groups = tuning::consumer_groups, group_threads = OfTile::threads;
    static constexpr int threads = (groups + 1) * group_threads;
    static constexpr int stages = tuning::chain_stages, stage_bytes = OfTile::weight_bytes;

    struct SharedStorage {
        unsigned char weights[stages][stage_bytes];
        unsigned char tiles[groups][OfTile::bytes];
        Piece output_weights[width * 8];  // a small operand
        ChainRows<Precision> rows[groups];
        // What follows depends on the network's depth. Rows of 256 float32: the first layer's three, the others'
        // biases, and the output weights.
        __device__ float* vectors() { return reinterpret_cast<float*>(this + 1); }
        // Last, so that the compiler does not know its address: otherwise this takes the uniform registers that
        // descriptors need, and accumulators are spilled.
        __device__ Pipeline<stages>& pipeline(int hidden_layers) {
            return *reinterpret_cast<Pipeline<stages>*>(vectors() + numbers(hidden_layers));
        }
    };
    __host__ __device__ static constexpr int numbers(int hidden_layers) {  // in its vectors
        return (3 + hidden_layers + channels) * width;
    }
    static constexpr size_t bytes(int hidden_layers) {
        return sizeof(SharedStorage) + numbers(hidden_layers) * sizeof(float) + sizeof(Pipeline<stages>);
    }
};

// Layers of h and d lie `layer_size` elements apart. h begins with the second layer, d too.
template <class Precision>
struct ChainArguments {
    Points points;
    Parameters parameters;
    Vectors vectors;
    const typename Precision::Piece* weights;  // see packed_place()
    typename Precision::Piece *h, *d;
    size_t layer_size;
    uint4* kept;
    Error error;
    unsigned *largest, *arrived;      // zero at the start
    float* scales;                    // of each tile's d; 0: nothing but zeros
    float *first_sums, *output_sums;  // as finish_kernel wants them
    double* point_sums;               // of each share, 1 + channels
};

// The variation's cotangent for a row of a tile and a channel, from `values` (64, 4), the outputs of all rows, and the
// tensor of each row's point. Adds each point's variation to the loss once.
template <class OfTile, int channels>
__device__ inline float vary_row(const Points& points, const Error& error, const float (*values)[4],
                                 const float (*tensors)[4], int row, int point, int stream, int channel, double& loss) {
    const float* const d = tensors[row];
    float energy = 0, along = 0;
#pragma unroll
    for (int c = 0; c < channels; ++c) {
        const float down = values[OfTile::row(point, 1)][c], across = values[OfTile::row(point, 2)][c];
        const float along_row = d[0] * down + d[1] * across, along_column = d[1] * down + d[2] * across;
        energy += down * along_row + across * along_column;
        if (c == channel) along = stream == 1 ? along_row : along_column;
    }
    const float root = sqrtf(energy / channels + error.smallest * error.smallest);
    if (stream == 0 && channel == 0) loss += root;
    return stream > 0 && channel < channels ? error.mean / (channels * root) * along * points.inverse[1] : 0.0f;
}

template <class Precision, int streams, int channels>
__device__ inline void run_chain_producer(
    const ChainArguments<Precision>& c,
    typename ChainShape<Precision, streams, channels>::SharedStorage& shared, int turns) {
    typedef ChainShape<Precision, streams, channels> Shape;
    constexpr int part = Shape::stage_bytes / Shape::cluster;
    const int layers = c.parameters.hidden_layers, rank = blockIdx.x % Shape::cluster;
    Pipeline<Shape::stages>& pipeline = shared.pipeline(layers);
    PipelineState<Shape::stages> state;
    for (int turn = 0; turn < turns; ++turn) {
        for (int product = 0; product < 2 * layers; ++product) {
            // Layers forward, then transposed back.
            const int matrix =
                product < layers ? 2 * product : 2 * (2 * layers - 1 - product) + 1;
            const auto* const source = reinterpret_cast<const unsigned char*>(
                c.weights + size_t(matrix) * Shape::width * Shape::width);
#pragma unroll 1
            for (int block = 0; block < 4; ++block) {
                pipeline.wait_empty_sleeping(state);
                uint64_t* const full = &pipeline.full[state.stage];
                expect_bytes(full, Shape::stage_bytes);
                bulk_copy_multicast(shared.weights[state.stage] + rank * part,
                                    source + block * Shape::stage_bytes + rank * part, part, full,
                                    (1 << Shape::cluster) - 1);
                state.advance();
            }
        }
    }
}

// `varied`: the loss is a variation; in a kernel of its own, since it takes registers.
template <class Precision, int streams, int channels, bool varied>
__device__ inline void run_chain_consumer(
    const ChainArguments<Precision>& c,
    typename ChainShape<Precision, streams, channels>::SharedStorage& shared, int turns) {
    typedef typename Precision::Piece Piece;
    typedef ChainShape<Precision, streams, channels> Shape;
    typedef typename Shape::OfTile OfTile;
    constexpr int width = Shape::width;
    constexpr int supervised = streams == 3 ? 2 : 1, first_supervised = streams - supervised;
    const int layers = c.parameters.hidden_layers;
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / Shape::group_threads, 0);
    ChainRows<Precision>& rows = shared.rows[group];
    Pipeline<Shape::stages>& pipeline = shared.pipeline(layers);
    const float* const vectors = shared.vectors();
    // Named barriers: each group's own, and those at which the groups wait for their turns to multiply.
    const Tile<Precision, streams> tile(shared.tiles[group], threadIdx.x % Shape::group_threads, 1 + group);
    const int turn_barrier = 3;
    const int thread = tile.thread, lane = tile.lane, warp = tile.warp;
    const int all_groups = gridDim.x * Shape::groups, share = blockIdx.x * Shape::groups + group;
    const int tiles = OfTile::tiles(c.points.count);
    const int begin = int(int64_t(tiles) * share / all_groups);
    const int end = int(int64_t(tiles) * (share + 1) / all_groups);

    const auto bias = [&](int layer) { return vectors + (2 + layer) * width; };
    const float* const output_vectors = vectors + (3 + layers) * width;

    // x, kept for the way back.
    uint4* const own_kept = c.kept + size_t(share) * (layers - 1) * OfTile::kept + thread;
    const auto kept_of_layer = [&](int l) { return own_kept + (l - 1) * OfTile::kept; };

    // The mainloop: accumulators = the tile times the next weights. Meanwhile the tile is stored to its place in `layer`,
    // if any.
    float accumulators[128];
    const uint64_t tile_descriptor = k_major_descriptor(shared.tiles[group]);
    const uint64_t weights_descriptor = k_major_descriptor(shared.weights);
    PipelineState<Shape::stages> state;
    const auto release = [&](int stage) {
        if (lane == 0 && warp < Shape::cluster) pipeline.release(stage, warp);
    };
    const auto multiply_tile = [&](Piece* layer, int number, bool last) {
        named_barrier_sync(turn_barrier + group, 2 * Shape::group_threads);
#pragma unroll
        for (int block = 0; block < 4; ++block) {
            pipeline.wait_full(state);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                wgmma<Major::k>(accumulators, advance_descriptor(tile_descriptor, block * OfTile::block_bytes + k * 32),
                                advance_descriptor(weights_descriptor, state.stage * Shape::stage_bytes + k * 32),
                                block + k > 0, Piece());
            }
            wgmma_commit();
            if (block == 0 && thread == 0 && layer && number < end) {
                bulk_store(layer + size_t(number) * OfTile::rows * width, shared.tiles[group],
                           OfTile::bytes);
            }
            if (block > 0) {
                wgmma_wait<1>();
                release(state.previous_stage());
            }
            state.advance();
        }
        if (!last) named_barrier_arrive(turn_barrier + 1 - group, 2 * Shape::group_threads);
        wgmma_wait<0>();
        release(state.previous_stage());
    };
    if (group == 1) named_barrier_arrive(turn_barrier, 2 * Shape::group_threads);

    // Sums over all rows of this share.
    float* const first_sums = c.first_sums + share * 3 * width;
    float* const output_sums = c.output_sums + share * channels * width;
    for (int i = thread; i < 3 * width; i += Shape::group_threads) first_sums[i] = 0;
    for (int i = thread; i < channels * width; i += Shape::group_threads) output_sums[i] = 0;
    if (thread < channels) {
        rows.biases[thread] = c.parameters.flat[c.parameters.bias(layers + 1) + thread];
    }
    tile.group_sync();

    double loss = 0;
    float output_bias = 0;  // of channel lane % 4

    // A tile's coordinates are loaded a tile ahead.
    const auto load_coordinates = [&](int turn) {
        const int point = (begin + turn) * OfTile::points + thread;
        if (thread >= OfTile::points) return;
        const bool inside = begin + turn < end && point < c.points.count;
        cp_async_or_zero<8>(&rows.coordinates[turn % 2][thread],
                         c.points.coordinates + (inside ? 2 * point : 0), inside);
        cp_async_commit();
    };
    load_coordinates(0);
    const int channel = lane % 4;  // of the output, for two rows

#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
        const int number = begin + turn;  // from `end` on, nothing is at its points
        const auto compare = [&](int half, int& point) {
            point = number * OfTile::points + tile.point_of(half);
            const int stream = tile.stream_of(half);
            return number < end && point < c.points.count && channel < (varied ? 3 : channels) && stream < streams &&
                   (c.error.given || varied || stream >= first_supervised);
        };
#pragma unroll
        for (int half = 0; half < 2; ++half) {  // needed by the same thread
            int point;
            const bool compared = compare(half, point);
            const int stream = tile.stream_of(half), row = tile.row_of(half);
            const size_t at = c.error.given ? size_t(point) * streams + stream
                                            : size_t(point) * supervised + stream - first_supervised;
            const float* const all = varied ? c.error.tensors : c.error.given ? c.error.given : c.error.target;
            const size_t offset = varied ? size_t(point) * 3 + channel : at * channels + channel;
            cp_async_or_zero<4>(&rows.wanted[row][channel], all + (compared ? offset : 0), compared);
        }
        cp_async_commit();

        // Forward.
        cp_async_wait<1>();
        tile.begin();
        const auto coordinates_of = [&](int point) { return rows.coordinates[turn % 2][point]; };
        tile.first_layer(c.points, vectors, tile.coordinates(coordinates_of));
        tile.end();
#pragma unroll 1
        for (int l = 1; l <= layers; ++l) {
            multiply_tile(l > 1 ? c.h + (l - 2) * c.layer_size : nullptr, number, false);
            tile.begin();
            tile.sine_epilogue(accumulators, bias(l), kept_of_layer(l), l < layers);
            tile.end();
        }

        // The output and its cotangents.
        float y[4], g[2], most = 0;
        tile.multiply_small(shared.output_weights, y);
        cp_async_wait<0>();
        if (varied) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                rows.all_cotangents[tile.row_of(half)][channel] = (y[2 * half] + y[2 * half + 1]) * c.points.inverse[1];
            }
            tile.group_sync();
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int stream = tile.stream_of(half), row = tile.row_of(half);
            const float inverse = stream == 0   ? c.points.inverse[0]
                                  : stream == 3 ? c.points.inverse[3]
                                                : c.points.inverse[1];
            const float wanted = rows.wanted[row][channel];
            int point;
            g[half] = 0;
            const bool compared = compare(half, point);
            if (varied) {
                if (compared) {
                    g[half] = vary_row<OfTile, channels>(c.points, c.error, rows.all_cotangents, rows.wanted, row,
                                                         tile.point_of(half), stream, channel, loss);
                }
            } else if (compared) {
                float residual = (y[2 * half] + y[2 * half + 1]) * inverse - wanted;
                if (stream == 0) residual += rows.biases[channel];
                if (!c.error.given) loss += double(residual) * residual;
                g[half] = c.error.given ? wanted * inverse
                                        : 2 * c.error.mean * residual * inverse;
            }
            if (stream == 0) output_bias += g[half];
            most = fmaxf(most, fabsf(g[half]));
        }
        const unsigned largest_of_warp = __reduce_max_sync(0xffffffffu, __float_as_uint(most));
        if (turn == 0) {
            if (lane == 0) atomicMax(c.largest, largest_of_warp);
            tile.group_sync();
            if (thread == 0) {
                __threadfence();
                atomicAdd(c.arrived, 1);
                while (atomicAdd(c.arrived, 0) < all_groups) __nanosleep(100);
                __threadfence();
            }
            tile.group_sync();
            // Room for larger ones keeps most tiles at one scale, which is cheapest.
            const float room = (1 << tuning::cotangent_room) * __uint_as_float(__ldcg(c.largest));
            if (lane == 0) rows.largest[warp] = __float_as_uint(room);
        } else if (lane == 0) {
            rows.largest[warp] = max(rows.largest[warp], largest_of_warp);
        }
        tile.group_sync();
        const unsigned largest = max(max(rows.largest[0], rows.largest[1]),
                                     max(rows.largest[2], rows.largest[3]));
        const float scale =
            largest > 0 ? cotangent_scale(largest, tuning::cotangent_exponent(streams) + tuning::cotangent_room) : 0.0f;
        if (thread == 0 && number < end) c.scales[number] = scale;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = tile.row_of(half);
            g[half] *= scale;
            rows.all_cotangents[row][channel] = g[half];
            store_split(rows.cotangents, row, channel, g[half]);
        }
        tile.end();
        tile.add_row_sums(rows.cotangents, output_sums, width, channels, reciprocal(scale));

        // Back. The last layer's x are where its accumulators were.
        tile.begin();
        tile.template output_adjoint<channels>(rows.all_cotangents, output_vectors,
                                                [&](int step, float(&x)[8]) {
#pragma unroll
                                                    for (int i = 0; i < 8; ++i) x[i] = accumulators[8 * step + i];
                                                });
        tile.end();
#pragma unroll 1
        for (int l = layers - 1; l > 0; --l) {
            typename Tile<Precision, streams>::Kept loaded;
            tile.prefetch_kept(kept_of_layer(l), loaded);
            multiply_tile(c.d + l * c.layer_size, number, false);
            tile.begin();
            tile.adjoint_epilogue(accumulators, kept_of_layer(l), loaded);
            tile.end();
        }
        load_coordinates(turn + 1);
        multiply_tile(c.d, number, group == 1 && turn + 1 == turns);
        tile.begin();
        const auto at = tile.coordinates(coordinates_of);
        tile.write_inputs(rows.inputs, c.points, at);
        tile.first_adjoint_epilogue(accumulators, c.points, vectors, at);
        tile.end();
        tile.add_row_sums(rows.inputs, first_sums, width, 3, reciprocal(scale));
    }
    cp_async_wait<0>();
    if (thread == 0) wait_bulk_written();

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

template <class Precision, int streams, int channels, bool varied>
__global__ void __launch_bounds__(ChainShape<Precision, streams, channels>::threads, 1)
    chain_kernel(ChainArguments<Precision> c) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    typedef ChainShape<Precision, streams, channels> Shape;
    typedef typename Shape::OfTile OfTile;
    extern __shared__ __align__(1024) unsigned char aligned_memory[];
    auto& shared = *reinterpret_cast<typename Shape::SharedStorage*>(aligned_memory);
    const int layers = c.parameters.hidden_layers;
    if (threadIdx.x == 0) shared.pipeline(layers).init(1, Shape::groups * Shape::cluster);
    follow();
    for (int i = threadIdx.x; i < Shape::numbers(layers); i += Shape::threads) {
        shared.vectors()[i] = c.vectors.data[i];
    }
    write_output_weights(c.vectors.output(layers, 0), Shape::width, channels, shared.output_weights);
    fence_async_proxy();
    __syncthreads();
    cluster_sync();

    const int all_tiles = OfTile::tiles(c.points.count), groups = gridDim.x * Shape::groups;
    const int turns = (all_tiles + groups - 1) / groups;
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / Shape::group_threads, 0);
    if (group < Shape::groups) {
        increase_registers<tuning::consumer_registers>();
        run_chain_consumer<Precision, streams, channels, varied>(c, shared, turns);
    } else {
        decrease_registers<tuning::producer_registers>();
        if (threadIdx.x == Shape::groups * Shape::group_threads) {
            run_chain_producer<Precision, streams, channels>(c, shared, turns);
        }
        __syncwarp();
    }
    cluster_sync();  // the other block may still write to this one's memory
#endif
}

}  // namespace
}  // namespace gpu
}  // namespace siren
