// A tile of 64 rows and 256 columns, and the epilogues of products on it: sine layers and their adjoints. A group of
// four warps takes a product's accumulators from its registers and leaves the result in shared memory, as an operand
// of the next product.
//
// In memory, h and d of a layer are tiles, one after the other, and a tile is blocks of 64 columns as wgmma reads them
// (ptx.h), so that bulk copies take whole blocks. x, as sine() leaves it, is kept in the order of threads. tile_shape.h
// says which row is whose.
#pragma once

#include "cuda/gradient.h"
#include "cuda/parameters.h"
#include "cuda/sm90/fifth_point.h"
#include "cuda/sm90/ptx.h"
#include "cuda/sm90/tile_shape.h"
#include "cuda/tuning.h"

namespace siren {
namespace gpu {
namespace {

// x as a sum of two pieces.
template <class Piece>
__device__ inline void split(float x, Piece& high, Piece& low) {
    const uint32_t first = to_pieces(x, 0, Piece());
    high = *reinterpret_cast<const Piece*>(&first);
    const uint32_t second = to_pieces(x - to_float(high), 0, Piece());
    low = *reinterpret_cast<const Piece*>(&second);
}

// Writes x, split in two, to columns 2 q and 2 q + 1 of a small operand.
template <class Piece>
__device__ inline void store_split(Piece* operand, int row, int q, float x) {
    Piece* const place = operand + small_place(row, 2 * q);
    split(x, place[0], place[8]);
}

// Writes 256 columns of the output weights to a small operand, each channel q split in columns 2 q and 2 q + 1; by a
// whole block.
template <class Piece>
__device__ inline void write_output_weights(const float* weights, int stride, int channels,
                                            Piece* operand) {
    for (int i = threadIdx.x; i < column_tile * 4; i += blockDim.x) {
        const int k = i % column_tile, q = i / column_tile;
        store_split(operand, k, q, q < channels ? weights[size_t(q) * stride + k] : 0.0f);
    }
}

// One thread's view of its group's tile in shared memory. Arguments that are rows of 256 float32 (`first`, the first
// layer's three; biases; output weights) are of the tile's columns.
template <class Precision, int streams>
class Tile {
public:
    typedef typename Precision::Piece Piece;
    typedef TileShape<Precision, streams> Shape;
    typedef FifthPoint<Precision, streams> Fifth;
    typedef uint4 Kept[tuning::kept_ahead];  // of a few steps

    // The points of a thread's numbers, and its warp's fifth.
    struct Coordinates {
        float2 own[Shape::points_of_thread], fifth;
    };

    const int thread, lane, warp;

    // The barrier is the group's own.
    __device__ Tile(unsigned char* memory, int thread, int barrier)
        : thread(thread), lane(thread % 32), warp(thread / 32), memory_(memory), barrier_(barrier),
          odd_(streams > 1 && lane & 4), pair_(lane / 8), own_column_(lane % 4 * 2 + (odd_ ? 8 : 0)),
          stored_(address_to_store()), fifth_(memory, lane, warp) {}

    __device__ void group_sync() const { named_barrier_sync(barrier_, Shape::threads); }
    // Call these before and after writing the tile.
    __device__ void begin() const {
        if (thread == 0) wait_bulk_read();
        group_sync();
    }
    __device__ void end() const {
        fence_async_proxy();
        group_sync();
    }

    // A product's accumulators are of two rows of a thread, `half` 0 and 1.
    __device__ int row_of(int half) const { return warp * 16 + lane / 4 + half * 8; }
    __device__ int stream_of(int half) const {
        return streams == 1 ? 0 : fifth_.has_row(half) ? pair_ : odd_ * 2 + half;
    }
    __device__ int point_of(int half) const {
        return fifth_.has_row(half) ? fifth_.point() : own_point(streams == 1 ? half : 0);
    }
    // coordinates_of(point) returns those of a point of the tile.
    template <class CoordinatesOf>
    __device__ Coordinates coordinates(const CoordinatesOf& coordinates_of) const {
        Coordinates result;
#pragma unroll
        for (int p = 0; p < Shape::points_of_thread; ++p) result.own[p] = coordinates_of(own_point(p));
        fifth_.load(coordinates_of, result.fifth);
        return result;
    }

    // The first layer's h.
    __device__ void first_layer(const Points& points, const float* first, const Coordinates& at) const {
        float vectors[2][3][columns];
        load_first(first, 0, vectors[0]);
#pragma unroll
        for (int step = 0; step < Shape::steps; ++step) {
            if (step + 1 < Shape::steps) load_first(first, step + 1, vectors[(step + 1) % 2]);
            const float(&own)[3][columns] = vectors[step % 2];
            float all_h[8] = {};
#pragma unroll
            for (int i = 0; i < items; ++i) {
                const int k = Shape::column(i), p = Shape::point(i);
                float x[streams], h[streams];
                first_inputs<streams>(points, own[0][k], own[1][k], own[2][k], at.own[p].x, at.own[p].y, x);
                sine<Precision, streams>(x, h);
#pragma unroll
                for (int s = 0; s < streams; ++s) all_h[Shape::number(i, s)] = h[s];
            }
            store(step, all_h);
            fifth_.first_layer(step, points, first, at.fifth);
        }
    }

    // Writes what the first layer multiplies its weights' columns q = 0, 1 and its bias, q = 2, by: a small operand
    // with each q split in columns 2 q and 2 q + 1.
    __device__ void write_inputs(Piece* operand, const Points& points, const Coordinates& at) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int q = lane % 4, stream = stream_of(half);
            float input = 0;
            if (q < 2) {
                const float2& own = fifth_.has_row(half) ? at.fifth : at.own[streams == 1 ? half : 0];
                input = stream == 0       ? (q == 0 ? own.x : own.y)
                        : stream == 1 + q ? (q == 0 ? points.scale[0] : points.scale[1])
                                          : 0.0f;
            }
            if (q == 2 && stream == 0) input = 1;
            store_split(operand, row_of(half), q, input);
        }
    }

    // From accumulators to h in the tile. x, as sine() leaves it, takes the accumulators' place and, if `keep`, goes to
    // `kept`, where this thread's steps are Shape::threads apart.
    __device__ void sine_epilogue(float (&accumulators)[128], const float* bias, uint4* kept, bool keep) const {
        uint4 to_keep[4];
        typename Fifth::Numbers x_of_fifth;
        // Numbers are exchanged two steps ahead, and sines begun one step ahead.
        float biases[3][columns], next_x[3][8], next_s[2][items], next_c[2][items];
        const auto prepare_step = [&](int step) {
            vector(bias, step, biases[step % 3]);
            exchange(accumulators, step, next_x[step % 3]);
        };
        const auto begin_sines = [&](int step) {
#pragma unroll
            for (int i = 0; i < items; ++i) {
                sine_and_cosine<Precision>(next_x[step % 3][i] + biases[step % 3][Shape::column(i)],
                                           next_s[step % 2][i], next_c[step % 2][i]);
            }
        };
        prepare_step(0);
        prepare_step(1);
        begin_sines(0);
#pragma unroll
        for (int step = 0; step < Shape::steps; ++step) {
            if (step + 2 < Shape::steps) prepare_step(step + 2);
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
            store(step, all_h);
#pragma unroll
            for (int i = 0; i < 8; ++i) accumulators[8 * step + i] = all_x[i];
            to_keep[step % 4] = pack8<Piece>(all_x);
            x_of_fifth.take(step, all_x);
            fifth_.sine_layer(step, bias, x_of_fifth, accumulators, to_keep);
            constexpr int together = Shape::fifth ? 4 : 1;  // steps, the fifth point's x with those of the others
            const int first = step + 1 - together;
#pragma unroll
            for (int k = first; k <= step && first % together == 0; ++k) {
                store_if(keep, kept + k * Shape::threads, to_keep[k % 4]);
            }
        }
    }

    // From cotangents of the outputs, four channels for each row of the tile, to d of the last sine layer. x_of(step,
    // numbers) returns that layer's x as sine() left it.
    template <int channels, class XOf>
    __device__ void output_adjoint(const float (&all_cotangents)[64][4], const float* output_weights,
                                    const XOf& x_of) const {
        constexpr int points = Shape::points_of_thread;
        float cotangents[points * streams][channels];
#pragma unroll
        for (int i = 0; i < points * streams; ++i) {
            const int row = streams == 1 ? row_of(i) : warp * 16 + Shape::row_of_warp(pair_, i);
#pragma unroll
            for (int q = 0; q < channels; ++q) cotangents[i][q] = all_cotangents[row][q];
        }
        typename Fifth::template Cotangents<channels> cotangents_of_fifth;
        fifth_.load(all_cotangents, cotangents_of_fifth);
        float w[2][channels][columns];
        typename Fifth::Numbers x_of_fifth;
        const auto load_step = [&](int step) {
#pragma unroll
            for (int q = 0; q < channels; ++q) vector(output_weights + q * width, step, w[step % 2][q]);
        };
        load_step(0);
#pragma unroll
        for (int step = 0; step < Shape::steps; ++step) {
            float all_g[8] = {}, all_x[8];
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
            x_of(step, all_x);
            x_of_fifth.take(step, all_x);
            adjoints(all_x, all_g);
            store(step, all_g);
            fifth_.output_adjoint(step, cotangents_of_fifth, output_weights, x_of_fifth);
        }
    }

    // Loads x of the first steps; to be called before the product whose epilogue needs it.
    __device__ void prefetch_kept(const uint4* kept, Kept& loaded) const {
#pragma unroll
        for (int step = 0; step < ahead; ++step) {
            loaded[step] = __ldcg(kept + step * Shape::threads);
        }
    }
    // x of a step, as it was kept; to be called for each step in turn.
    __device__ void take_kept(const uint4* kept, int step, Kept& loaded, float (&x)[8]) const {
        const uint4 own = loaded[step % ahead];
        if (step + ahead < Shape::steps) {
            loaded[step % ahead] = __ldcg(kept + (step + ahead) * Shape::threads);
        }
        unpack8<Piece>(own, x);
    }

    // From accumulators, which are cotangents of h, to d in the tile.
    __device__ void adjoint_epilogue(const float (&accumulators)[128], const uint4* kept, Kept& loaded) const {
        typename Fifth::Numbers x_of_fifth, g_of_fifth;
        float g_of_two_steps[2][8];
        exchange(accumulators, 0, g_of_two_steps[0]);
#pragma unroll
        for (int step = 0; step < Shape::steps; ++step) {
            float(&all_g)[8] = g_of_two_steps[step % 2], all_x[8];
            take_kept(kept, step, loaded, all_x);
            if (step + 1 < Shape::steps) exchange(accumulators, step + 1, g_of_two_steps[(step + 1) % 2]);
            x_of_fifth.take(step, all_x);
            g_of_fifth.take(step, all_g);
            adjoints(all_x, all_g);
            store(step, all_g);
            fifth_.sine_layer_adjoint(step, x_of_fifth, g_of_fifth);
        }
    }

    // The same for the first layer, whose x is computed anew.
    __device__ void first_adjoint_epilogue(const float (&accumulators)[128], const Points& points, const float* first,
                                   const Coordinates& at) const {
        float vectors[2][3][columns], g_of_two_steps[2][8];
        typename Fifth::Numbers g_of_fifth;
        const auto prepare_step = [&](int step) {
            load_first(first, step, vectors[step % 2]);
            exchange(accumulators, step, g_of_two_steps[step % 2]);
        };
        prepare_step(0);
#pragma unroll
        for (int step = 0; step < Shape::steps; ++step) {
            if (step + 1 < Shape::steps) prepare_step(step + 1);
            const float(&own)[3][columns] = vectors[step % 2];
            float(&all_g)[8] = g_of_two_steps[step % 2];
            g_of_fifth.take(step, all_g);
#pragma unroll
            for (int i = 0; i < items; ++i) {
                const int k = Shape::column(i), p = Shape::point(i);
                float x[streams], h[streams], g[streams];
                first_inputs<streams>(points, own[0][k], own[1][k], own[2][k], at.own[p].x, at.own[p].y, x);
                sine<Precision, streams>(x, h);
#pragma unroll
                for (int s = 0; s < streams; ++s) g[s] = all_g[Shape::number(i, s)];
                sine_adjoint<streams>(x, g);
#pragma unroll
                for (int s = 0; s < streams; ++s) all_g[Shape::number(i, s)] = g[s];
            }
            store(step, all_g);
            fifth_.first_layer_adjoint(step, points, first, at.fifth, g_of_fifth);
        }
    }

    // The tile times a small operand of 256 rows: for this thread's two rows and q = lane % 4 the result is
    // y[2 half] + y[2 half + 1]. (If they were added here, ptxas would serialize wgmma.)
    __device__ void multiply_small(const Piece* operand, float (&y)[4]) const {
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < width / 16; ++k) {
            wgmma_8<Major::k>(y,
                              advance_descriptor(k_major_descriptor(memory_), k / 4 * Shape::block_bytes + k % 4 * 32),
                              advance_descriptor(small_descriptor(operand), k * small_bytes), k > 0, Piece());
        }
        wgmma_commit();
        wgmma_wait<0>();
    }

    // The tile, transposed, times a small operand of 64 rows: adds `factor` times the result for q < count to row q of
    // partial, whose rows are `stride` long. Only this group adds to them.
    __device__ void add_row_sums(const Piece* operand, float* partial, int stride, int count,
                                     float factor) const {
        float totals[4][4];
        const uint64_t columns_of_tile = mn_major_descriptor(memory_, Shape::block_bytes);
        const uint64_t factors = small_descriptor(operand);
        wgmma_fence();
#pragma unroll
        for (int block = 0; block < 4; ++block) {
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                wgmma_8<Major::mn>(totals[block],
                                 advance_descriptor(columns_of_tile, block * Shape::block_bytes + k * 2048),
                                 advance_descriptor(factors, k * small_bytes), k > 0, Piece());
            }
        }
        wgmma_commit();
        wgmma_wait<0>();
        if (lane % 4 >= count) return;
        float* const own = partial + lane % 4 * stride + warp * 16 + lane / 4;
#pragma unroll
        for (int block = 0; block < 4; ++block) {  // atomicAdd, because nothing waits for it
            atomicAdd(own + block * 64, factor * (totals[block][0] + totals[block][1]));
            atomicAdd(own + block * 64 + 8, factor * (totals[block][2] + totals[block][3]));
        }
    }

private:
    static constexpr int width = Shape::width, items = Shape::items, columns = Shape::columns;
    static constexpr int ahead = tuning::kept_ahead;

    __device__ int own_point(int p) const {
        return warp * Shape::points_of_warp + (streams == 1 ? lane / 4 : pair_) + p * 8;
    }

    // The tile's column of the first of a thread's numbers of a step is own_column_ + 16 step.
    __device__ void vector(const float* row, int step, float (&x)[columns]) const {
#pragma unroll
        for (int i = 0; i < columns; i += 2) {
            const float2 pair = *reinterpret_cast<const float2*>(row + own_column_ + 16 * step + i / 2 * 8);
            x[i] = pair.x;
            x[i + 1] = pair.y;
        }
    }
    __device__ void load_first(const float* first, int step, float (&x)[3][columns]) const {
#pragma unroll
        for (int row = 0; row < 3; ++row) vector(first + row * width, step, x[row]);
    }

    // A step's numbers from the accumulators, exchanged so that the thread has all streams of each point.
    __device__ void exchange(const float (&accumulators)[128], int step, float (&x)[8]) const {
        if (streams == 1) {
#pragma unroll
            for (int i = 0; i < 8; ++i) x[i] = accumulators[8 * step + i];
        }
#pragma unroll
        for (int i = 0; i < 4 && streams > 1; ++i) {
            const float lower = accumulators[8 * step + i], upper = accumulators[8 * step + 4 + i];
            const float own = odd_ ? upper : lower;
            const float received = __shfl_xor_sync(0xffffffffu, odd_ ? lower : upper, 4);
            x[i] = odd_ ? received : own;
            x[4 + i] = odd_ ? own : received;
        }
    }
    // For stmatrix this lane has the address of a row of 8 columns, here of step 0.
    __device__ uint32_t address_to_store() const {
        const int matrix = lane / 8, row = lane % 8;
        const int stored_row = streams == 1 ? warp * 16 + row + matrix % 2 * 8
                                            : warp * 16 + row / 2 * 2 + matrix / 2 + matrix % 2 * 8;
        const int half = streams == 1 ? matrix / 2 : row % 2;
        return shared_address(memory_) + stored_row * 128 + (half ^ stored_row % 8) * 16;
    }
    // Writes a step's numbers to the tile.
    __device__ void store(int step, const float (&x)[8]) const {
        const uint4 packed = pack8<Piece>(x);
        stmatrix((stored_ ^ step % 4 * 32) + step / 4 * Shape::block_bytes, packed.x, packed.y,
                       packed.z, packed.w);
    }
    // Applies the sine's adjoint to a step's cotangents g, in place; x is as sine() left it.
    __device__ void adjoints(const float (&all_x)[8], float (&all_g)[8]) const {
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
    }

    unsigned char* const memory_;
    const int barrier_;
    const bool odd_;
    const int pair_, own_column_;
    const uint32_t stored_;
    const Fifth fifth_;
};

}  // namespace
}  // namespace gpu
}  // namespace siren
