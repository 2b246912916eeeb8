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

// A consumer group's part, as one of its threads does it. `kind`: the variation has a kernel of its own, since it takes
// registers. All functions are inlined, so that ptxas sees where the accumulators of products are.
template <class Precision, int streams, int channels, Loss kind>
class ChainConsumer {
    typedef typename Precision::Piece Piece;
    typedef ChainArguments<Precision> Arguments;
    typedef ChainShape<Precision, streams, channels> Shape;
    typedef typename Shape::OfTile OfTile;
    static constexpr int width = Shape::width;
    static constexpr int supervised = streams == 3 ? 2 : 1, first_supervised = streams - supervised;
    static constexpr bool varied = kind == Loss::variation;
    // The named barriers at which groups wait for their turns to multiply; before it come each group's own.
    static constexpr int turn_barrier = 3;

    // Whose turn it is after a product.
    enum class Next { other_group, nobody };

public:
    __device__ __forceinline__ ChainConsumer(const Arguments& c, typename Shape::SharedStorage& shared,
                                             int turns)
        : shared_(shared), turns_(turns), layers_(c.parameters.hidden_layers),
          group_(__shfl_sync(0xffffffffu, threadIdx.x / Shape::group_threads, 0)), rows_(shared.rows[group_]),
          pipeline_(shared.pipeline(layers_)), vectors_(shared.vectors()),
          tile_(shared.tiles[group_], threadIdx.x % Shape::group_threads, 1 + group_), thread_(tile_.thread),
          lane_(tile_.lane), warp_(tile_.warp), channel_(lane_ % 4), all_groups_(gridDim.x * Shape::groups),
          share_(blockIdx.x * Shape::groups + group_) {
        const int tiles = OfTile::tiles(c.points.count);
        begin_ = int(int64_t(tiles) * share_ / all_groups_);
        end_ = int(int64_t(tiles) * (share_ + 1) / all_groups_);
        own_kept_ = c.kept + size_t(share_) * (layers_ - 1) * OfTile::kept + thread_;
        tile_descriptor_ = k_major_descriptor(shared.tiles[group_]);
        weights_descriptor_ = k_major_descriptor(shared.weights);
        first_sums_ = c.first_sums + share_ * 3 * width;
        output_sums_ = c.output_sums + share_ * channels * width;
    }

    __device__ __forceinline__ void run(const Arguments& c) {
        float accumulators[128];
        if (group_ == 1) named_barrier_arrive(turn_barrier, 2 * Shape::group_threads);
        clear_sums(c);
        load_coordinates(c, 0);
#pragma unroll 1
        for (int turn = 0; turn < turns_; ++turn) {
            const int number = begin_ + turn;  // from `end` on, nothing is at its points
            float y[4], g[2];  // y belongs here: in cotangents(), ptxas serialized wgmma with four streams (C7511)
            load_wanted(c, number);
            forward(c, turn, number, accumulators);
            tile_.multiply_small(shared_.output_weights, y);
            cp_async_wait<0>();
            const float most = cotangents(c, number, y, g);
            const float scale = agree_on_scale(c, turn, number, most);
            scale_cotangents(scale, g);
            backward(c, turn, number, scale, accumulators);
        }
        cp_async_wait<0>();
        if (thread_ == 0) wait_bulk_written();
        store_point_sums(c);
    }

private:
    __device__ __forceinline__ void clear_sums(const Arguments& c) {
        for (int i = thread_; i < 3 * width; i += Shape::group_threads) first_sums_[i] = 0;
        for (int i = thread_; i < channels * width; i += Shape::group_threads) output_sums_[i] = 0;
        if (thread_ < channels) {
            rows_.biases[thread_] = c.parameters.flat[c.parameters.bias(layers_ + 1) + thread_];
        }
        tile_.group_sync();
    }

    // A tile's coordinates are loaded a tile ahead.
    __device__ __forceinline__ void load_coordinates(const Arguments& c, int turn) {
        const int point = (begin_ + turn) * OfTile::points + thread_;
        if (thread_ >= OfTile::points) return;
        const bool inside = begin_ + turn < end_ && point < c.points.count;
        cp_async_or_zero<8>(&rows_.coordinates[turn % 2][thread_],
                            c.points.coordinates + (inside ? 2 * point : 0), inside);
        cp_async_commit();
    }
    __device__ __forceinline__ typename Tile<Precision, streams>::Coordinates coordinates(int turn) const {
        return tile_.coordinates([&](int point) { return rows_.coordinates[turn % 2][point]; });
    }

    // Has one of the thread's two rows, for its channel, something to be compared with? It is of `point`.
    __device__ __forceinline__ bool compared(const Arguments& c, int number, int half, int& point) const {
        point = number * OfTile::points + tile_.point_of(half);
        const int stream = tile_.stream_of(half);
        return number < end_ && point < c.points.count && channel_ < (varied ? 3 : channels) && stream < streams &&
               (c.error.given || varied || stream >= first_supervised);
    }

    // Starts to load that.
    __device__ __forceinline__ void load_wanted(const Arguments& c, int number) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {  // needed by the same thread
            int point;
            const bool inside = compared(c, number, half, point);
            const int stream = tile_.stream_of(half), row = tile_.row_of(half);
            const size_t at = c.error.given ? size_t(point) * streams + stream
                                             : size_t(point) * supervised + stream - first_supervised;
            const float* const all = varied ? c.error.tensors : c.error.given ? c.error.given : c.error.target;
            const size_t offset = varied ? size_t(point) * 3 + channel_ : at * channels + channel_;
            cp_async_or_zero<4>(&rows_.wanted[row][channel_], all + (inside ? offset : 0), inside);
        }
        cp_async_commit();
    }

    // Through all sine layers: h of the last one is left in the tile, and its x in the accumulators.
    __device__ __forceinline__ void forward(const Arguments& c, int turn, int number, float (&accumulators)[128]) {
        cp_async_wait<1>();
        tile_.begin();
        tile_.first_layer(c.points, vectors_, coordinates(turn));
        tile_.end();
#pragma unroll 1
        for (int l = 1; l <= layers_; ++l) {
            multiply_tile(l > 1 ? c.h + (l - 2) * c.layer_size : nullptr, number, Next::other_group, accumulators);
            tile_.begin();
            tile_.sine_epilogue(accumulators, vectors_ + (2 + l) * width, kept_of_layer(l), l < layers_);
            tile_.end();
        }
    }

    // x of a layer, kept for the way back.
    __device__ __forceinline__ uint4* kept_of_layer(int l) const { return own_kept_ + (l - 1) * OfTile::kept; }

    // The mainloop: accumulators = the tile times the next weights. Meanwhile the tile is stored to its place in `layer`,
    // if any.
    __device__ __forceinline__ void multiply_tile(Piece* layer, int number, Next next, float (&accumulators)[128]) {
        named_barrier_sync(turn_barrier + group_, 2 * Shape::group_threads);
#pragma unroll
        for (int block = 0; block < 4; ++block) {
            pipeline_.wait_full(state_);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                wgmma<Major::k>(accumulators, advance_descriptor(tile_descriptor_, block * OfTile::block_bytes + k * 32),
                                advance_descriptor(weights_descriptor_, state_.stage * Shape::stage_bytes + k * 32),
                                block + k > 0, Piece());
            }
            wgmma_commit();
            if (block == 0 && thread_ == 0 && layer && number < end_) {
                bulk_store(layer + size_t(number) * OfTile::rows * width, shared_.tiles[group_], OfTile::bytes);
            }
            if (block > 0) {
                wgmma_wait<1>();
                release(state_.previous_stage());
            }
            state_.advance();
        }
        if (next == Next::other_group) named_barrier_arrive(turn_barrier + 1 - group_, 2 * Shape::group_threads);
        wgmma_wait<0>();
        release(state_.previous_stage());
    }
    __device__ __forceinline__ void release(int stage) {
        if (lane_ == 0 && warp_ < Shape::cluster) pipeline_.release(stage, warp_);
    }

    // From outputs y, as multiply_small() leaves them, to the cotangents of the thread's two rows and channel, without
    // their scale; adds up the loss and the output bias. Returns the largest.
    __device__ __forceinline__ float cotangents(const Arguments& c, int number, const float (&y)[4], float (&all_g)[2]) {
        float g[2], most = 0;
        // Copies: members that are written under a condition would cost branches.
        double loss = loss_;
        float output_bias = output_bias_;
        if (varied) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                rows_.all_cotangents[tile_.row_of(half)][channel_] =
                    (y[2 * half] + y[2 * half + 1]) * c.points.inverse[1];
            }
            tile_.group_sync();
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int stream = tile_.stream_of(half), row = tile_.row_of(half);
            const float inverse = stream == 0   ? c.points.inverse[0]
                                  : stream == 3 ? c.points.inverse[3]
                                                : c.points.inverse[1];
            const float wanted = rows_.wanted[row][channel_];
            int point;
            g[half] = 0;
            const bool inside = compared(c, number, half, point);
            if (varied) {
                if (inside) {
                    g[half] = vary_row<OfTile, channels>(c.points, c.error, rows_.all_cotangents, rows_.wanted, row,
                                                         tile_.point_of(half), stream, channel_, loss);
                }
            } else if (inside) {
                float residual = (y[2 * half] + y[2 * half + 1]) * inverse - wanted;
                if (stream == 0) residual += rows_.biases[channel_];
                if (!c.error.given) loss += double(residual) * residual;
                g[half] = c.error.given ? wanted * inverse : 2 * c.error.mean * residual * inverse;
            }
            if (stream == 0) output_bias += g[half];
            most = fmaxf(most, fabsf(g[half]));
        }
        loss_ = loss;
        output_bias_ = output_bias;
        all_g[0] = g[0];
        all_g[1] = g[1];
        return most;
    }

    // The scale of a tile's cotangents, of which the thread's largest is `most`. All groups agree on one after their
    // first tiles.
    __device__ __forceinline__ float agree_on_scale(const Arguments& c, int turn, int number, float most) {
        const unsigned largest_of_warp = __reduce_max_sync(0xffffffffu, __float_as_uint(most));
        if (turn == 0) {
            if (lane_ == 0) atomicMax(c.largest, largest_of_warp);
            tile_.group_sync();
            if (thread_ == 0) {
                __threadfence();
                atomicAdd(c.arrived, 1);
                while (atomicAdd(c.arrived, 0) < all_groups_) __nanosleep(100);
                __threadfence();
            }
            tile_.group_sync();
            // Room for larger ones keeps most tiles at one scale, which is cheapest.
            const float room = (1 << tuning::cotangent_room) * __uint_as_float(__ldcg(c.largest));
            if (lane_ == 0) rows_.largest[warp_] = __float_as_uint(room);
        } else if (lane_ == 0) {
            rows_.largest[warp_] = max(rows_.largest[warp_], largest_of_warp);
        }
        tile_.group_sync();
        const unsigned largest = max(max(rows_.largest[0], rows_.largest[1]),
                                     max(rows_.largest[2], rows_.largest[3]));
        const float scale =
            largest > 0 ? cotangent_scale(largest, tuning::cotangent_exponent(streams) + tuning::cotangent_room) : 0.0f;
        if (thread_ == 0 && number < end_) c.scales[number] = scale;
        return scale;
    }

    // Leaves scaled cotangents to all, and adds the output weights' gradient up.
    __device__ __forceinline__ void scale_cotangents(float scale, float (&g)[2]) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = tile_.row_of(half);
            g[half] *= scale;
            rows_.all_cotangents[row][channel_] = g[half];
            store_split(rows_.cotangents, row, channel_, g[half]);
        }
        tile_.end();
        tile_.add_row_sums(rows_.cotangents, output_sums_, width, channels, reciprocal(scale));
    }

    // Through all layers; the last one's x are where its accumulators were.
    __device__ __forceinline__ void backward(const Arguments& c, int turn, int number, float scale,
                                             float (&accumulators)[128]) {
        tile_.begin();
        tile_.template output_adjoint<channels>(rows_.all_cotangents, vectors_ + (3 + layers_) * width,
                                                [&](int step, float(&x)[8]) {
#pragma unroll
                                                    for (int i = 0; i < 8; ++i) x[i] = accumulators[8 * step + i];
                                                });
        tile_.end();
#pragma unroll 1
        for (int l = layers_ - 1; l > 0; --l) {
            typename Tile<Precision, streams>::Kept loaded;
            tile_.prefetch_kept(kept_of_layer(l), loaded);
            multiply_tile(c.d + l * c.layer_size, number, Next::other_group, accumulators);
            tile_.begin();
            tile_.adjoint_epilogue(accumulators, kept_of_layer(l), loaded);
            tile_.end();
        }
        load_coordinates(c, turn + 1);
        multiply_tile(c.d, number, group_ == 1 && turn + 1 == turns_ ? Next::nobody : Next::other_group, accumulators);
        tile_.begin();
        const auto at = coordinates(turn);
        tile_.write_inputs(rows_.inputs, c.points, at);
        tile_.first_adjoint_epilogue(accumulators, c.points, vectors_, at);
        tile_.end();
        tile_.add_row_sums(rows_.inputs, first_sums_, width, 3, reciprocal(scale));
    }

    // Sums of points, for each warp: the loss, and each channel's cotangents.
    __device__ __forceinline__ void store_point_sums(const Arguments& c) {
        double* const point_sums = c.point_sums + size_t(share_ * 4 + warp_) * (1 + channels);
        double all_output_bias = output_bias_;
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) {
            loss_ += __shfl_xor_sync(0xffffffffu, loss_, offset);
            if (offset > 2) all_output_bias += __shfl_xor_sync(0xffffffffu, all_output_bias, offset);
        }
        if (lane_ == 0) point_sums[0] = loss_;
        if (lane_ < channels) point_sums[1 + lane_] = all_output_bias;
    }

    typename Shape::SharedStorage& shared_;
    const int turns_, layers_, group_;
    ChainRows<Precision>& rows_;
    Pipeline<Shape::stages>& pipeline_;
    const float* const vectors_;
    const Tile<Precision, streams> tile_;
    const int thread_, lane_, warp_, channel_;  // channel: of the output, for two rows
    const int all_groups_, share_;
    int begin_, end_;  // of this share's tiles
    uint4* own_kept_;
    uint64_t tile_descriptor_, weights_descriptor_;
    float *first_sums_, *output_sums_;  // over all rows of this share
    PipelineState<Shape::stages> state_;
    double loss_ = 0;
    float output_bias_ = 0;  // of the channel
};

template <class Precision, int streams, int channels, Loss kind>
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
        ChainConsumer<Precision, streams, channels, kind>(c, shared, turns).run(c);
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
