// The fifth point, for which three streams leave room in every 16 rows of a tile (see the table in tile_shape.h).
//
// Its streams are where a fourth stream of the other points would be: in the last two of a thread's eight numbers of a
// step. Lanes with pair = lane / 8 have stream `pair` there, and none of the others. So the numbers of four steps, a
// quarter of the columns, are gathered and then exchanged, after which these lanes have all streams of the two columns
// that were theirs in step 4 quarter + pair.
#pragma once

#include "cuda/numerics.h"
#include "cuda/parameters.h"
#include "cuda/sm90/ptx.h"
#include "cuda/sm90/tile_shape.h"

namespace siren {
namespace gpu {
namespace {

// There is none: nothing is done.
template <class Precision, int streams>
struct FifthPoint {
    struct Numbers {
        __device__ void take(int, const float (&)[8]) {}
    };
    template <int channels>
    struct Cotangents {};

    __device__ FifthPoint(const void*, int, int) {}
    __device__ static constexpr bool has_row(int) { return false; }
    __device__ static constexpr int point() { return 0; }
    template <class... Arguments>
    __device__ void load(const Arguments&...) const {}
    template <class... Arguments>
    __device__ void first_layer(const Arguments&...) const {}
    template <class... Arguments>
    __device__ void sine_layer(const Arguments&...) const {}
    template <class... Arguments>
    __device__ void output_adjoint(const Arguments&...) const {}
    template <class... Arguments>
    __device__ void sine_layer_adjoint(const Arguments&...) const {}
    template <class... Arguments>
    __device__ void first_layer_adjoint(const Arguments&...) const {}
};

// A thread's view of its warp's. Functions with a `step` are called after each step of an epilogue has been stored, and
// act after the last one of a quarter.
template <class Precision>
struct FifthPoint<Precision, 3> {
    typedef typename Precision::Piece Piece;
    typedef TileShape<Precision, 3> Shape;
    static constexpr int streams = 3;

    // Of one stream and the two columns of each of four steps; after exchange(), of all streams (the fourth is empty) and
    // two columns.
    struct Numbers {
        float all[4][2];

        // From a step's numbers.
        __device__ void take(int step, const float (&numbers)[8]) {
            all[step % 4][0] = numbers[6];
            all[step % 4][1] = numbers[7];
        }
    };
    template <int channels>
    struct Cotangents {
        float all[streams][channels];
    };

    __device__ FifthPoint(const void* memory, int lane, int warp)
        : pair_(lane / 8), odd_(lane & 4), warp_(warp), own_column_(lane % 4 * 2 + (odd_ ? 8 : 0)) {
        const int row = first_row() + 2 * pair_;
        stored_ = shared_address(memory) + row * 128 + (lane % 8 ^ row % 8) * 16;
    }

    // Is the thread's row `half` its?
    __device__ bool has_row(int half) const { return odd_ && half == 1; }
    __device__ int point() const { return warp_ * Shape::points_of_warp + 4; }

    // Its coordinates, from coordinates_of(point of the tile).
    template <class CoordinatesOf>
    __device__ void load(const CoordinatesOf& coordinates_of, float2& at) const {
        at = coordinates_of(point());
    }
    // Its outputs' cotangents, from those of all rows.
    template <int channels>
    __device__ void load(const float (&rows)[64][4], Cotangents<channels>& cotangents) const {
#pragma unroll
        for (int s = 0; s < streams; ++s) {
#pragma unroll
            for (int q = 0; q < channels; ++q) cotangents.all[s][q] = rows[first_row() + 2 * s][q];
        }
    }

    // The first layer's h.
    __device__ void first_layer(int step, const Points& points, const float* first, float2 at) const {
        if (step % 4 < 3) return;
        float x[2][streams], h[2][streams];
        Numbers all_h = {};
        first_inputs_of(points, first, step / 4, at, x);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            sine<Precision, streams>(x[e], h[e]);
#pragma unroll
            for (int s = 0; s < streams; ++s) all_h.all[s][e] = h[e][s];
        }
        store(step / 4, all_h);
    }

    // From a product, in x, to h in the tile. x, as sine() leaves it, goes where that of a fourth stream would be: to the
    // accumulators and to what is kept of the quarter's steps.
    __device__ void sine_layer(int step, const float* bias, Numbers& x, float (&accumulators)[128],
                               uint4 (&to_keep)[4]) const {
        if (step % 4 < 3) return;
        float own_bias[2];
        Numbers all_h = {};
        vector(bias, step / 4, own_bias);
        exchange(x);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            float own_x[streams], h[streams];
#pragma unroll
            for (int s = 0; s < streams; ++s) own_x[s] = x.all[s][e];
            own_x[0] += own_bias[e];
            sine<Precision, streams>(own_x, h);
#pragma unroll
            for (int s = 0; s < streams; ++s) {
                x.all[s][e] = own_x[s];
                all_h.all[s][e] = h[s];
            }
        }
        store(step / 4, all_h);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            if (k < streams) to_keep[k].w = to_pieces(x.all[k][0], x.all[k][1], Piece());
            accumulators[8 * (step - 3 + k) + 6] = x.all[k][0];
            accumulators[8 * (step - 3 + k) + 7] = x.all[k][1];
        }
    }

    // From the outputs' cotangents to d of the last sine layer, whose x the sine has left.
    template <int channels>
    __device__ void output_adjoint(int step, const Cotangents<channels>& cotangents, const float* output_weights,
                                   const Numbers& x) const {
        if (step % 4 < 3) return;
        Numbers g = {};
#pragma unroll
        for (int q = 0; q < channels; ++q) {
            float w[2];
            vector(output_weights + q * Shape::width, step / 4, w);
#pragma unroll
            for (int s = 0; s < streams; ++s) {
                g.all[s][0] = fmaf(cotangents.all[s][q], w[0], g.all[s][0]);
                g.all[s][1] = fmaf(cotangents.all[s][q], w[1], g.all[s][1]);
            }
        }
        store_adjoint(step / 4, x, g);
    }

    // From cotangents of h, as a product leaves them, to d. x is as it has been kept.
    __device__ void sine_layer_adjoint(int step, const Numbers& x, Numbers& g) const {
        if (step % 4 < 3) return;
        exchange(g);
        store_adjoint(step / 4, x, g);
    }

    // The same for the first layer, whose x is computed anew.
    __device__ void first_layer_adjoint(int step, const Points& points, const float* first, float2 at,
                                        Numbers& g) const {
        if (step % 4 < 3) return;
        float x[2][streams], h[2][streams];
        Numbers all_x;
        first_inputs_of(points, first, step / 4, at, x);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            sine<Precision, streams>(x[e], h[e]);
#pragma unroll
            for (int s = 0; s < streams; ++s) all_x.all[s][e] = x[e][s];
        }
        exchange(g);
        store_adjoint(step / 4, all_x, g);
    }

private:
    __device__ int first_row() const { return warp_ * 16 + 9; }  // and every other one that follows

    __device__ void exchange(Numbers& x) const {
#pragma unroll
        for (int bit = 2; bit > 0; bit /= 2) {
            const bool upper = pair_ & bit;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                if (k & bit) continue;
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float &low = x.all[k][e], &high = x.all[k + bit][e];
                    const float received = __shfl_xor_sync(0xffffffffu, upper ? low : high, 8 * bit);
                    low = upper ? received : low;
                    high = upper ? high : received;
                }
            }
        }
    }

    // The numbers of a row of the tile's columns that go with this thread's, after exchange().
    __device__ void vector(const float* row, int quarter, float (&x)[2]) const {
        const float2 pair = *reinterpret_cast<const float2*>(row + own_column_ + 64 * quarter + 16 * pair_);
        x[0] = pair.x;
        x[1] = pair.y;
    }

    // What the first sine is taken of, for both columns.
    __device__ void first_inputs_of(const Points& points, const float* first, int quarter, float2 at,
                                    float (&x)[2][streams]) const {
        float w0[2], w1[2], bias[2];
        vector(first, quarter, w0);
        vector(first + Shape::width, quarter, w1);
        vector(first + 2 * Shape::width, quarter, bias);
#pragma unroll
        for (int e = 0; e < 2; ++e) first_inputs<streams>(points, w0[e], w1[e], bias[e], at.x, at.y, x[e]);
    }

    // Applies the sine's adjoint to cotangents g, in place, and writes them to the tile.
    __device__ void store_adjoint(int quarter, const Numbers& x, Numbers& g) const {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            float own_x[streams], own_g[streams];
#pragma unroll
            for (int s = 0; s < streams; ++s) {
                own_x[s] = x.all[s][e];
                own_g[s] = g.all[s][e];
            }
            sine_adjoint<streams>(own_x, own_g);
#pragma unroll
            for (int s = 0; s < streams; ++s) g.all[s][e] = own_g[s];
            g.all[3][e] = 0;
        }
        store(quarter, g);
    }

    __device__ void store(int quarter, const Numbers& x) const {
        const uint4 packed = pack8<Piece>(x.all[0]);
        stmatrix(stored_ + quarter * Shape::block_bytes, packed.x, packed.y, packed.z, packed.w);
    }

    const int pair_;
    const bool odd_;
    const int warp_, own_column_;
    uint32_t stored_;
};

}  // namespace
}  // namespace gpu
}  // namespace siren
