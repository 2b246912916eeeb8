// A training step's way through the whole network in one kernel, on Hopper processors: for networks 256 wide,
// in 16-bit precision. The outer products that follow it are in chain_outer_cuda.h.
//
// Blocks go in pairs, called clusters, which read weights together. A block has two groups of four warps
// and a thread that fetches weights. Each group takes tiles of 64 rows forward through all layers,
// computes the loss, and takes them back; while one group multiplies, the other computes sines. Both
// multiply by the same weights, one after the other, and these are then replaced by the next layer's.
//
// Written to memory is what the outer products need, h (but for the first layer's) and d, as tiles of 64
// rows: four blocks of 64 columns, as products read them (see hopper_cuda.h). Such copies need no
// thread's time. Each thread keeps x, as sine() leaves it, for the way back in a place of its own, which
// stays in the L2 cache. On an H100 the energy of all these bytes limits the speed of derivatives' losses.
//
// The scale of the cotangents must be known before any of them is rounded. The groups agree on it after
// their first tiles, which are spread over all points.
#pragma once

#include "hopper_cuda.h"
#include "step_cuda.h"

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
};

// With derivatives, a point has four rows, of which neighbouring groups of four lanes have two each; these
// exchange half of their columns, and then each thread has all streams of one point. Gradients leave
// the fourth row free; of every 16 rows, the free ones hold a fifth point. Its streams are with four pairs
// of such groups, each of which then takes all of them for a quarter of the columns.
template <class Precision, int streams, int channels>
struct ChainShape {
    typedef typename Precision::Piece Piece;
    static constexpr int width = column_tile, rows = 64;  // of a tile
    static constexpr bool fifth = streams == 3;
    static constexpr int points = streams == 1 ? rows : fifth ? rows / 16 * 5 : rows / 4;
    static constexpr int cluster = 2, groups = 2;
    static constexpr int group_threads = 128, threads = (groups + 1) * group_threads;
    static constexpr int block_bytes = rows * block_columns * sizeof(Piece);
    static constexpr int tile_bytes = 4 * block_bytes;
    static constexpr int stages = 4, stage_bytes = width * block_columns * sizeof(Piece);
    static constexpr int steps = 16;  // of 16 columns, in which an end takes a tile

    // A thread has eight numbers of a step: one stream of eight points' columns, or all of two.
    static constexpr int items = streams == 1 ? 8 : 2, columns = streams == 1 ? 4 : 2;
    static constexpr int points_of_thread = streams == 1 ? 2 : 1;
    __device__ static constexpr int number(int item, int stream) { return 2 * stream + item; }
    __device__ static constexpr int column(int item) {
        return streams == 1 ? item / 4 * 2 + item % 2 : item;
    }
    __device__ static constexpr int point(int item) { return streams == 1 ? item / 2 % 2 : 0; }

    static constexpr size_t bytes(int hidden_layers) {
        return stages * stage_bytes + groups * tile_bytes + width * 8 * sizeof(Piece) +
               groups * sizeof(ChainRows<Precision>) +
               (3 + hidden_layers + channels) * width * sizeof(float) + 2 * stages * sizeof(uint64_t);
    }
    // Which of a warp's 16 rows has a stream of its point i, or the fifth's fourth, which is empty.
    __device__ static constexpr int row_of_warp(int i, int stream) {
        return streams == 1 ? i : i < 4 ? 2 * i + stream / 2 + stream % 2 * 8 : 9 + 2 * stream;
    }
    __device__ static constexpr int row(int point, int stream) {
        return point / (points / 4) * 16 + row_of_warp(point % (points / 4), stream);
    }
    __host__ __device__ static constexpr int tiles(int points_there) {
        return (points_there + points - 1) / points;
    }
    static constexpr size_t kept_bytes(int hidden_layers, int blocks) {
        return size_t(blocks) * groups * (hidden_layers - 1) * steps * group_threads * sizeof(uint4);
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
    float *first_partial, *output_partial;  // as finish_kernel wants them
    double* point_sums;                     // of each share, 1 + channels
};

// x as the sum of two pieces.
template <class Piece>
__device__ inline void split(float x, Piece& high, Piece& low) {
    const uint32_t first = to_pieces(x, 0, Piece());
    high = *reinterpret_cast<const Piece*>(&first);
    const uint32_t second = to_pieces(x - to_float(high), 0, Piece());
    low = *reinterpret_cast<const Piece*>(&second);
}

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
                                    unsigned char* tile, const typename Precision::Piece* output_weights,
                                    ChainRows<Precision>& rows, const float* all_vectors, uint64_t* full,
                                    uint64_t* empty, int turns) {
    typedef typename Precision::Piece Piece;
    typedef ChainShape<Precision, streams, channels> Shape;
    constexpr int width = Shape::width, items = Shape::items, columns = Shape::columns;
    constexpr int points = Shape::points_of_thread;
    constexpr int supervised = streams == 3 ? 2 : 1, first_supervised = streams - supervised;
    const int layers = c.parameters.hidden_layers;
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / Shape::group_threads, 0);
    const int thread = threadIdx.x % Shape::group_threads;
    const int lane = thread % 32, warp = thread / 32;
    const bool odd = streams > 1 && lane & 4;
    const int all_groups = gridDim.x * Shape::groups, share = blockIdx.x * Shape::groups + group;
    const int tiles = Shape::tiles(c.points.count);
    const int begin = int(int64_t(tiles) * share / all_groups);
    const int end = int(int64_t(tiles) * (share + 1) / all_groups);

    // Named barriers: a group's own, and that at which it waits for its turn to multiply.
    const auto wait_for_group = [&] { wait_at(1 + group, Shape::group_threads); };
    const int turn_barrier = 3;

    // The tile's column of the first of a thread's numbers of a step is own_column + 16 step.
    const int own_column = lane % 4 * 2 + (odd ? 8 : 0);
    const auto vector = [&](int row, int step, float(&x)[columns]) {
#pragma unroll
        for (int i = 0; i < columns; i += 2) {
            const float2 pair = *reinterpret_cast<const float2*>(all_vectors + row * width + own_column +
                                                                 16 * step + i / 2 * 8);
            x[i] = pair.x;
            x[i + 1] = pair.y;
        }
    };

    // A step's numbers to the tile. This lane has the address of a row of 8 columns.
    const int matrix = lane / 8, matrix_row = lane % 8;
    const int stored_row = streams == 1 ? warp * 16 + matrix_row + matrix % 2 * 8
                                        : warp * 16 + matrix_row / 2 * 2 + matrix / 2 + matrix % 2 * 8;
    const int stored_half = streams == 1 ? matrix / 2 : matrix_row % 2;
    const uint32_t stored =
        shared_address(tile) + stored_row * 128 + (stored_half ^ stored_row % 8) * 16;
    const auto to_tile = [&](int step, const uint4& packed) {
        store_matrices((stored ^ step % 4 * 32) + step / 4 * Shape::block_bytes, packed.x, packed.y,
                       packed.z, packed.w);
    };
    // The fifth point: pair of groups of lanes `pair` begins with its stream `pair` of all columns and ends
    // with all streams of those of step 4 quarter + pair.
    const int pair = lane / 8;
    const auto take_streams = [&](float(&x)[4][2]) {
#pragma unroll
        for (int bit = 2; bit > 0; bit /= 2) {
            const bool upper = pair & bit;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                if (k & bit) continue;
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float &low = x[k][e], &high = x[k + bit][e];
                    const float got = __shfl_xor_sync(0xffffffffu, upper ? low : high, 8 * bit);
                    low = upper ? got : low;
                    high = upper ? high : got;
                }
            }
        }
    };
    const auto vector_of_fifth = [&](int row, int quarter, float(&x)[2]) {
        const float2 both = *reinterpret_cast<const float2*>(all_vectors + row * width + own_column +
                                                             64 * quarter + 16 * pair);
        x[0] = both.x;
        x[1] = both.y;
    };
    const int row_of_fifth = warp * 16 + 9;  // and every other one that follows
    const int stored_row_of_fifth = row_of_fifth + 2 * matrix;
    const uint32_t stored_fifth = shared_address(tile) + stored_row_of_fifth * 128 +
                                  (matrix_row ^ stored_row_of_fifth % 8) * 16;
    const auto fifth_to_tile = [&](int quarter, const float(&x)[4][2]) {  // after the others
        const uint4 packed = pack8<Piece>(x[0]);
        store_matrices(stored_fifth + quarter * Shape::block_bytes, packed.x, packed.y, packed.z,
                       packed.w);
    };

    // x as sine() left it, of streams and two columns; cotangents g in place.
    const auto adjoint_of_fifth = [&](const float(&x)[8], float(&g)[4][2]) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            float own_x[streams], own_g[streams];
#pragma unroll
            for (int s = 0; s < streams; ++s) {
                own_x[s] = x[2 * s + e];
                own_g[s] = g[s][e];
            }
            sine_adjoint<streams>(own_x, own_g);
#pragma unroll
            for (int s = 0; s < streams; ++s) g[s][e] = own_g[s];
            g[3][e] = 0;
        }
    };

    // Before and after a tile is written.
    const auto begin_tile = [&] {
        if (thread == 0) wait_until_read();
        wait_for_group();
    };
    const auto end_tile = [&] {
        hand_to_copies();
        wait_for_group();
    };

    // What is kept for the way back.
    uint4* const own_kept =
        c.kept + size_t(share) * (layers - 1) * Shape::steps * Shape::group_threads + thread;
    const auto kept_of_layer = [&](int l) {
        return own_kept + (l - 1) * Shape::steps * Shape::group_threads;
    };
    const auto place = [&](int step) { return step * Shape::group_threads; };

    // sums = the tile times the weights that are next; the tile is copied to its place in a layer, if any.
    float sums[128];
    const uint64_t tile_operand = rows_operand(tile);
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
                multiply<false>(sums, operand_at(tile_operand, block * Shape::block_bytes + k * 32),
                                operand_at(weights_operand, stage * Shape::stage_bytes + k * 32),
                                block + k > 0, Piece());
            }
            commit_products();
            if (block == 0 && thread == 0 && layer && number < end) {
                copy_to_memory(layer + size_t(number) * Shape::rows * width, tile, Shape::tile_bytes);
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

    // A step's numbers, of which a thread then has all streams.
    const auto numbers = [&](int step, float(&x)[8]) {
        if (streams == 1) {
#pragma unroll
            for (int i = 0; i < 8; ++i) x[i] = sums[8 * step + i];
        }
#pragma unroll
        for (int i = 0; i < 4 && streams > 1; ++i) {
            const float lower = sums[8 * step + i], upper = sums[8 * step + 4 + i];
            const float own = odd ? upper : lower;
            const float got = __shfl_xor_sync(0xffffffffu, odd ? lower : upper, 4);
            x[i] = odd ? got : own;
            x[4 + i] = odd ? own : got;
        }
    };

    // Sums over the tile's rows times a small operand's columns, added to the `count` rows of this share.
    for (int column = thread; column < width; column += Shape::group_threads) {
        for (int q = 0; q < 3; ++q) c.first_partial[(share * 3 + q) * width + column] = 0;
        for (int q = 0; q < channels; ++q) {
            c.output_partial[(share * channels + q) * width + column] = 0;
        }
    }
    if (thread < channels) {
        rows.biases[thread] = c.parameters.flat[c.parameters.bias(layers + 1) + thread];
    }
    wait_for_group();
    const uint64_t columns_of_tile = columns_operand(tile, Shape::block_bytes);
    const auto add_sums_of_rows = [&](const Piece* operand, float* partial, int count) {
        float totals[4][4];
        const uint64_t factors = small_operand(operand);
        begin_products();
#pragma unroll
        for (int block = 0; block < 4; ++block) {
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                multiply_8<true>(totals[block],
                                 operand_at(columns_of_tile, block * Shape::block_bytes + k * 2048),
                                 operand_at(factors, k * small_bytes), k > 0, Piece());
            }
        }
        commit_products();
        wait_products<0>();
        if (lane % 4 >= count) return;
        float* const own = partial + (share * count + lane % 4) * width + warp * 16 + lane / 4;
#pragma unroll
        for (int block = 0; block < 4; ++block) {  // nobody else adds to these; it need not wait
            atomicAdd(own + block * 64, totals[block][0] + totals[block][1]);
            atomicAdd(own + block * 64 + 8, totals[block][2] + totals[block][3]);
        }
    };

    double loss = 0;
    float output_bias = 0;  // of channel lane % 4
    float scale = 1;
    bool agreed = false;

    // A tile's coordinates are loaded a tile ahead.
    const auto load_coordinates = [&](int turn) {
        const int point = (begin + turn) * Shape::points + thread;
        if (thread >= Shape::points) return;
        const bool inside = begin + turn < end && point < c.points.count;
        copy_or_clear<8>(&rows.coordinates[turn % 2][thread],
                         c.points.coordinates + (inside ? 2 * point : 0), inside);
        commit_copies();
    };
    const int points_of_warp = Shape::points / 4;
    const int own_point = warp * points_of_warp + (streams == 1 ? lane / 4 : pair);  // and that 8 later
    load_coordinates(0);
    // In products a thread has two rows, and channel lane % 4 of the output.
    const int channel = lane % 4;
    const auto row_of = [&](int half) { return warp * 16 + lane / 4 + half * 8; };
    const auto in_fifth = [&](int half) { return Shape::fifth && odd && half == 1; };
    const auto stream_of = [&](int half) {
        return streams == 1 ? 0 : in_fifth(half) ? pair : odd * 2 + half;
    };

#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
        const int number = begin + turn;  // from `end` on, nothing is at its points
        const auto compare = [&](int half, int& point) {
            point = number * Shape::points +
                    (in_fifth(half) ? warp * points_of_warp + 4
                                    : own_point + (streams == 1 ? half * 8 : 0));
            return number < end && point < c.points.count && channel < channels &&
                   stream_of(half) < streams && (c.error.given || stream_of(half) >= first_supervised);
        };
#pragma unroll
        for (int half = 0; half < 2; ++half) {  // this thread itself will need it
            int point;
            const bool compared = compare(half, point);
            const size_t at = c.error.given
                                  ? size_t(point) * streams + stream_of(half)
                                  : size_t(point) * supervised + stream_of(half) - first_supervised;
            const float* const all = c.error.given ? c.error.given : c.error.target;
            copy_or_clear<4>(&rows.wanted[row_of(half)][channel],
                             all + (compared ? at * channels + channel : 0), compared);
            if (c.error.weight) {
                copy_or_clear<4>(&rows.weights[row_of(half)][channel],
                                 c.error.weight + (compared ? point : 0), compared);
            }
        }
        commit_copies();

        // The first layer.
        wait_copies<1>();
        begin_tile();
        float2 at[points], at_fifth;
        const auto read_coordinates = [&] {
#pragma unroll
            for (int p = 0; p < points; ++p) at[p] = rows.coordinates[turn % 2][own_point + p * 8];
            if (Shape::fifth) at_fifth = rows.coordinates[turn % 2][warp * points_of_warp + 4];
        };
        read_coordinates();
        float first[2][3][columns];
        const auto load_first = [&](int step) {
#pragma unroll
            for (int row = 0; row < 3; ++row) vector(row, step, first[step % 2][row]);
        };
        const auto inputs_of_fifth = [&](int quarter, float(&x)[2][streams]) {
            float w0[2], w1[2], bias[2];
            vector_of_fifth(0, quarter, w0);
            vector_of_fifth(1, quarter, w1);
            vector_of_fifth(2, quarter, bias);
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                first_inputs<streams>(c.points, w0[e], w1[e], bias[e], at_fifth.x, at_fifth.y, x[e]);
            }
        };
        load_first(0);
#pragma unroll
        for (int step = 0; step < Shape::steps; ++step) {
            if (step + 1 < Shape::steps) load_first(step + 1);
            const float(&own)[3][columns] = first[step % 2];
            float all_h[8] = {};
#pragma unroll
            for (int i = 0; i < items; ++i) {
                const int k = Shape::column(i), p = Shape::point(i);
                float x[streams], h[streams];
                first_inputs<streams>(c.points, own[0][k], own[1][k], own[2][k], at[p].x, at[p].y, x);
                sine<Precision, streams>(x, h);
#pragma unroll
                for (int s = 0; s < streams; ++s) all_h[Shape::number(i, s)] = h[s];
            }
            to_tile(step, pack8<Piece>(all_h));
            if (!Shape::fifth || step % 4 < 3) continue;
            float x[2][streams], h[2][streams], five_h[4][2] = {};
            inputs_of_fifth(step / 4, x);
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                sine<Precision, streams>(x[e], h[e]);
#pragma unroll
                for (int s = 0; s < streams; ++s) five_h[s][e] = h[e][s];
            }
            fifth_to_tile(step / 4, five_h);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int q = lane % 4, stream = stream_of(half);
            float input = 0;
            if (q < 2) {
                const float2& own = in_fifth(half) ? at_fifth : at[streams == 1 ? half : 0];
                input = stream == 0       ? (q == 0 ? own.x : own.y)
                        : stream == 1 + q ? (q == 0 ? c.points.scale[0] : c.points.scale[1])
                                          : 0.0f;
            }
            if (q == 2 && stream == 0) input = 1;
            Piece* const place = rows.inputs + small_place(row_of(half), 2 * q);
            split(input, place[0], place[8]);
        }
        end_tile();

        // Forward.
#pragma unroll 1
        for (int l = 1; l <= layers; ++l) {
            const bool last = l == layers;
            multiply_tile(l > 1 ? c.h + (l - 2) * c.layer_size : nullptr, number, false);
            begin_tile();
            uint4* const kept = kept_of_layer(l);
            uint4 to_keep[4];
            float five[4][2];
            // Numbers are exchanged two steps ahead, and sines begun one step ahead.
            float bias[3][columns], next_x[3][8], next_s[2][items], next_c[2][items];
            const auto exchange = [&](int step) {
                vector(2 + l, step, bias[step % 3]);
                numbers(step, next_x[step % 3]);
            };
            const auto begin_sines = [&](int step) {
#pragma unroll
                for (int i = 0; i < items; ++i) {
                    sine_and_cosine<Precision>(
                        next_x[step % 3][i] + bias[step % 3][Shape::column(i)], next_s[step % 2][i],
                        next_c[step % 2][i]);
                }
            };
            exchange(0);
            exchange(1);
            begin_sines(0);
#pragma unroll
            for (int step = 0; step < Shape::steps; ++step) {
                if (step + 2 < Shape::steps) exchange(step + 2);
                if (step + 1 < Shape::steps) begin_sines(step + 1);
                float(&all_x)[8] = next_x[step % 3], all_h[8] = {};
#pragma unroll
                for (int i = 0; i < items; ++i) {
                    float x[streams], h[streams];
#pragma unroll
                    for (int s = 0; s < streams; ++s) x[s] = all_x[Shape::number(i, s)];
                    sine_streams<streams>(next_s[step % 2][i], next_c[step % 2][i], x, h);
#pragma unroll
                    for (int s = 0; s < streams; ++s) {
                        all_x[Shape::number(i, s)] = x[s];
                        all_h[Shape::number(i, s)] = h[s];
                    }
                }
                to_tile(step, pack8<Piece>(all_h));
#pragma unroll
                for (int i = 0; i < (Shape::fifth ? 6 : 8); ++i) {
                    sums[8 * step + i] = all_x[i];  // for the last layer
                }
                to_keep[step % 4] = pack8<Piece>(all_x);
                if (!Shape::fifth) store_if(!last, kept + place(step), to_keep[step % 4]);
                if (!Shape::fifth) continue;
                five[step % 4][0] = all_x[6];
                five[step % 4][1] = all_x[7];
                if (step % 4 < 3) continue;
                float bias_of_fifth[2], five_h[4][2] = {};
                vector_of_fifth(2 + l, step / 4, bias_of_fifth);
                take_streams(five);
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float x[streams], h[streams];
#pragma unroll
                    for (int s = 0; s < streams; ++s) x[s] = five[s][e];
                    x[0] += bias_of_fifth[e];
                    sine<Precision, streams>(x, h);
#pragma unroll
                    for (int s = 0; s < streams; ++s) {
                        five[s][e] = x[s];
                        five_h[s][e] = h[s];
                    }
                }
                fifth_to_tile(step / 4, five_h);
#pragma unroll
                for (int k = 0; k < 4; ++k) {  // the fifth point's x with those of the others
                    if (k < streams) to_keep[k].w = to_pieces(five[k][0], five[k][1], Piece());
                    store_if(!last, kept + place(step - 3 + k), to_keep[k]);
                    sums[8 * (step - 3 + k) + 6] = five[k][0];
                    sums[8 * (step - 3 + k) + 7] = five[k][1];
                }
            }
            end_tile();
        }

        // The output of channel lane % 4 for two rows, and its cotangents.
        float y[4];
        begin_products();
#pragma unroll
        for (int k = 0; k < width / 16; ++k) {
            multiply_8<false>(y, operand_at(tile_operand, k / 4 * Shape::block_bytes + k % 4 * 32),
                              operand_at(small_operand(output_weights), k * small_bytes), k > 0,
                              Piece());
        }
        commit_products();
        wait_products<0>();
        float g[2], most = 0;
        wait_copies<0>();
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int stream = stream_of(half);
            const float inverse = stream == 0   ? c.points.inverse[0]
                                  : stream == 3 ? c.points.inverse[3]
                                                : c.points.inverse[1];
            const float wanted = rows.wanted[row_of(half)][channel];
            const float weight = c.error.weight ? rows.weights[row_of(half)][channel] : 1.0f;
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
        if (!agreed) {
            keep_largest(most, c.largest);
            wait_for_group();
            if (thread == 0) {
                __threadfence();
                atomicAdd(c.arrived, 1);
                while (atomicAdd(c.arrived, 0) < all_groups) __nanosleep(100);
                __threadfence();
            }
            wait_for_group();
            const unsigned largest = __ldcg(c.largest);
            scale = cotangent_scale(&largest, streams);
            agreed = true;
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = row_of(half);
            g[half] *= scale;
            rows.all_cotangents[row][channel] = g[half];
            Piece* const place = rows.cotangents + small_place(row, 2 * channel);
            split(g[half], place[0], place[8]);
        }
        end_tile();
        add_sums_of_rows(rows.cotangents, c.output_partial, channels);

        // The cotangents of the last sine's input.
        float cotangents[points * streams][channels];
#pragma unroll
        for (int i = 0; i < points * streams; ++i) {
            const int row = streams == 1 ? row_of(i) : warp * 16 + Shape::row_of_warp(pair, i);
#pragma unroll
            for (int q = 0; q < channels; ++q) cotangents[i][q] = rows.all_cotangents[row][q];
        }
        float cotangents_of_fifth[streams][channels];
#pragma unroll
        for (int s = 0; s < streams && Shape::fifth; ++s) {
#pragma unroll
            for (int q = 0; q < channels; ++q) {
                cotangents_of_fifth[s][q] = rows.all_cotangents[row_of_fifth + 2 * s][q];
            }
        }
        begin_tile();
        float w[2][channels][columns];
        const auto load_step = [&](int step) {
#pragma unroll
            for (int q = 0; q < channels; ++q) vector(3 + layers + q, step, w[step % 2][q]);
        };
        load_step(0);
#pragma unroll
        for (int step = 0; step < Shape::steps; ++step) {
            float all_g[8] = {};
            if (step + 1 < Shape::steps) load_step(step + 1);
#pragma unroll
            for (int q = 0; q < channels; ++q) {
#pragma unroll
                for (int i = 0; i < items; ++i) {
#pragma unroll
                    for (int s = 0; s < streams; ++s) {
                        float& g = all_g[Shape::number(i, s)];
                        g = fmaf(cotangents[Shape::point(i) + s][q], w[step % 2][q][Shape::column(i)],
                                 g);
                    }
                }
            }
#pragma unroll
            for (int i = 0; i < items; ++i) {
                float x[streams], g[streams];
#pragma unroll
                for (int s = 0; s < streams; ++s) {
                    x[s] = sums[8 * step + Shape::number(i, s)];
                    g[s] = all_g[Shape::number(i, s)];
                }
                sine_adjoint<streams>(x, g);
#pragma unroll
                for (int s = 0; s < streams; ++s) all_g[Shape::number(i, s)] = g[s];
            }
            to_tile(step, pack8<Piece>(all_g));
            if (!Shape::fifth || step % 4 < 3) continue;
            float five_g[4][2] = {};
#pragma unroll
            for (int q = 0; q < channels; ++q) {
                float w[2];
                vector_of_fifth(3 + layers + q, step / 4, w);
#pragma unroll
                for (int s = 0; s < streams; ++s) {
                    five_g[s][0] = fmaf(cotangents_of_fifth[s][q], w[0], five_g[s][0]);
                    five_g[s][1] = fmaf(cotangents_of_fifth[s][q], w[1], five_g[s][1]);
                }
            }
            float five_x[8];
#pragma unroll
            for (int k = 0; k < 8; ++k) five_x[k] = sums[8 * (step - 3 + k / 2) + 6 + k % 2];
            adjoint_of_fifth(five_x, five_g);
            fifth_to_tile(step / 4, five_g);
        }
        end_tile();

        // Back. What was kept is loaded in time.
        constexpr int ahead = 8;
#pragma unroll 1
        for (int l = layers - 1; l > 0; --l) {
            const uint4* const kept = kept_of_layer(l);
            uint4 loaded[ahead];
            float five_x[8], five_g[4][2];
#pragma unroll
            for (int step = 0; step < ahead; ++step) loaded[step] = __ldcg(kept + place(step));
            multiply_tile(c.d + l * c.layer_size, number, false);
            begin_tile();
            float two_g[2][8];
            numbers(0, two_g[0]);
#pragma unroll
            for (int step = 0; step < Shape::steps; ++step) {
                const uint4 own = loaded[step % ahead];
                if (step + ahead < Shape::steps) {
                    loaded[step % ahead] = __ldcg(kept + place(step + ahead));
                }
                if (step + 1 < Shape::steps) numbers(step + 1, two_g[(step + 1) % 2]);
                float(&all_g)[8] = two_g[step % 2], all_x[8];
                unpack8<Piece>(own, all_x);
                five_x[step % 4 * 2] = all_x[6];
                five_x[step % 4 * 2 + 1] = all_x[7];
                five_g[step % 4][0] = all_g[6];
                five_g[step % 4][1] = all_g[7];
#pragma unroll
                for (int i = 0; i < items; ++i) {
                    float x[streams], g[streams];
#pragma unroll
                    for (int s = 0; s < streams; ++s) {
                        x[s] = all_x[Shape::number(i, s)];
                        g[s] = all_g[Shape::number(i, s)];
                    }
                    sine_adjoint<streams>(x, g);
#pragma unroll
                    for (int s = 0; s < streams; ++s) all_g[Shape::number(i, s)] = g[s];
                }
                to_tile(step, pack8<Piece>(all_g));
                if (!Shape::fifth || step % 4 < 3) continue;
                take_streams(five_g);
                adjoint_of_fifth(five_x, five_g);
                fifth_to_tile(step / 4, five_g);
            }
            end_tile();
        }

        // The first layer's weights and bias; its x and h are computed anew.
        load_coordinates(turn + 1);
        multiply_tile(c.d, number, group == 1 && turn + 1 == turns);
        begin_tile();
        read_coordinates();
        float two_g[2][8], five_g[4][2];
        const auto prepare_step = [&](int step) {
            load_first(step);
            numbers(step, two_g[step % 2]);
        };
        prepare_step(0);
#pragma unroll
        for (int step = 0; step < Shape::steps; ++step) {
            if (step + 1 < Shape::steps) prepare_step(step + 1);
            const float(&own)[3][columns] = first[step % 2];
            float(&all_g)[8] = two_g[step % 2];
            five_g[step % 4][0] = all_g[6];
            five_g[step % 4][1] = all_g[7];
#pragma unroll
            for (int i = 0; i < items; ++i) {
                const int k = Shape::column(i), p = Shape::point(i);
                float x[streams], h[streams], g[streams];
                first_inputs<streams>(c.points, own[0][k], own[1][k], own[2][k], at[p].x, at[p].y, x);
                sine<Precision, streams>(x, h);
#pragma unroll
                for (int s = 0; s < streams; ++s) g[s] = all_g[Shape::number(i, s)];
                sine_adjoint<streams>(x, g);
#pragma unroll
                for (int s = 0; s < streams; ++s) all_g[Shape::number(i, s)] = g[s];
            }
            to_tile(step, pack8<Piece>(all_g));
            if (!Shape::fifth || step % 4 < 3) continue;
            float x[2][streams], h[2][streams], five_x[8];
            inputs_of_fifth(step / 4, x);
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                sine<Precision, streams>(x[e], h[e]);
#pragma unroll
                for (int s = 0; s < streams; ++s) five_x[2 * s + e] = x[e][s];
            }
            take_streams(five_g);
            adjoint_of_fifth(five_x, five_g);
            fifth_to_tile(step / 4, five_g);
        }
        end_tile();
        add_sums_of_rows(rows.inputs, c.first_partial, 3);
    }
    wait_copies<0>();
    if (thread == 0) wait_until_written();

    // Sums of points, for each warp: the loss, and each channel's cotangents.
    double* const point_sums = c.point_sums + size_t(share * 4 + warp) * (1 + channels);
    double bias = output_bias;
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        loss += __shfl_xor_sync(0xffffffffu, loss, offset);
        if (offset > 2) bias += __shfl_xor_sync(0xffffffffu, bias, offset);
    }
    if (lane == 0) point_sums[0] = loss;
    if (lane < channels) point_sums[1 + lane] = bias;
}

template <class Precision, int streams, int channels>
__global__ void __launch_bounds__(ChainShape<Precision, streams, channels>::threads, 1)
    chain_kernel(ChainArguments<Precision> c) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    typedef ChainShape<Precision, streams, channels> Shape;
    extern __shared__ __align__(1024) unsigned char aligned_memory[];
    unsigned char* const weights = aligned_memory;
    unsigned char* const tiles = weights + Shape::stages * Shape::stage_bytes;
    auto* const output_weights =
        reinterpret_cast<typename Precision::Piece*>(tiles + Shape::groups * Shape::tile_bytes);
    auto* const rows = reinterpret_cast<ChainRows<Precision>*>(output_weights + Shape::width * 8);
    float* const vectors = reinterpret_cast<float*>(rows + Shape::groups);
    const int all_vectors = (3 + c.parameters.hidden_layers + channels) * Shape::width;
    uint64_t* const full = reinterpret_cast<uint64_t*>(vectors + all_vectors);
    uint64_t* const empty = full + Shape::stages;

    if (threadIdx.x == 0) {
        for (int i = 0; i < Shape::stages; ++i) {
            create_barrier(&full[i], 1);
            create_barrier(&empty[i], Shape::groups * Shape::cluster);
        }
        publish_barriers();
    }
    for (int i = threadIdx.x; i < all_vectors; i += Shape::threads) vectors[i] = c.vectors.data[i];
    for (int i = threadIdx.x; i < Shape::width * 4; i += Shape::threads) {
        const int k = i % Shape::width, q = i / Shape::width;
        const float* const w = c.vectors.output(c.parameters.hidden_layers, q);
        typename Precision::Piece* const place = output_weights + small_place(k, 2 * q);
        split(q < channels ? w[k] : 0.0f, place[0], place[8]);
    }
    hand_to_copies();
    __syncthreads();
    wait_for_cluster();

    const int all_tiles = Shape::tiles(c.points.count), groups = gridDim.x * Shape::groups;
    const int turns = (all_tiles + groups - 1) / groups;
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / Shape::group_threads, 0);
    if (group < Shape::groups) {
        take_registers<240>();
        follow_chain<Precision, streams, channels>(c, weights, tiles + group * Shape::tile_bytes,
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
