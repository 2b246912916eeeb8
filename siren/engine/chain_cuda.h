// A training step's way through the whole network in one kernel, where a row's activations fit: for
// networks 256 wide, in 16-bit precision, on processors with enough shared memory. Included by
// siren_cuda.h.
//
// A block takes tiles of rows forward through all layers, computes the loss, and takes them back. What
// enters the next product stays in shared memory, as does x of the last layer but one until the way
// back; weights pass by, from the L2 cache. Written to memory is what the outer products need, h and
// d, and x of the layers below.
//
// The scale of the cotangents must be known before any of them is rounded. The blocks agree on it after
// their first tiles, which are spread over all points.
//
// The code for a tile's end is long, because registers cannot be indexed at run time, and a block
// passes through all of it: it must fit into the instruction cache.
#pragma once

template <class Precision, int streams>
struct ChainShape {
    static constexpr int threads = 256, width = column_tile;
    static constexpr int most_channels = 4;
    static constexpr int F = fragments(streams), rows = 2 * 16 * F;  // of a tile
    static constexpr int stages = 3, stride = width + padding;
    static constexpr int tile = rows * stride, stage = width * depth_tile, output = 8 * stride;
    static constexpr int kept_x = 4 * F, kept_s = streams == 1 ? 0 : 4 * (F / streams);

    static constexpr size_t bytes(int hidden_layers, int channels) {
        return (tile + stages * stage + output) * sizeof(typename Precision::Piece) +
               (kept_x + kept_s) * threads * sizeof(uint4) +
               sizeof(float) *
                   (size_t(3 + hidden_layers + channels) * width + 4 * rows + rows * 8);
    }
};

// Where things are; layers of h, x and d lie `layer_size` elements apart.
template <class Precision>
struct ChainArguments {
    Points points;
    Parameters parameters;
    Vectors vectors;
    Matrix<Precision> weights;  // packed
    Matrix<Precision> h, x, d;
    size_t layer_size;
    Error error;
    unsigned *largest, *arrived;  // zero at the start
    float *bias_partial, *first_partial, *output_partial;  // as finish_kernel wants them
    int shares;
    double* point_sums;
};

// All blocks wait here for all; `arrived` counts them.
__device__ inline void wait_for_all_blocks(unsigned* arrived) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(arrived, 1);
        while (atomicAdd(arrived, 0) < gridDim.x) __nanosleep(100);
        __threadfence();
    }
    __syncthreads();
}

// Sums of eight numbers over the lanes l, l + 4, ... of a warp: x[0] of lane l becomes that of number l / 4.
__device__ inline void sum_over_rows(float (&x)[8]) {
#pragma unroll
    for (int n = 4; n > 0; n /= 2) {
        const bool upper = threadIdx.x & 4 * n;
#pragma unroll
        for (int k = 0; k < n; ++k) {
            const float mine = upper ? x[k + n] : x[k], other = upper ? x[k] : x[k + n];
            x[k] = mine + __shfl_xor_sync(0xffffffffu, other, 4 * n);
        }
    }
}

template <class Precision, int streams>
__global__ void __launch_bounds__(256, 1) chain_kernel(ChainArguments<Precision> c) {
    typedef typename Precision::Piece Piece;
    typedef ChainShape<Precision, streams> Shape;
    constexpr int F = Shape::F, width = Shape::width, rows = Shape::rows, stride = Shape::stride;
    constexpr int supervised = streams == 3 ? 2 : 1, first_supervised = streams - supervised;
    static_assert(Precision::pieces == 1, "rows would not fit");
    const int layers = c.parameters.hidden_layers, channels = c.parameters.channels;
    const int vectors = 3 + layers + channels;

    extern __shared__ __align__(16) unsigned char shared_memory[];
    Piece* const tile = reinterpret_cast<Piece*>(shared_memory);
    Piece* const weights = tile + Shape::tile;
    Piece* const output_weights = weights + Shape::stages * Shape::stage;
    uint4* const all_kept = reinterpret_cast<uint4*>(output_weights + Shape::output);
    float* const all_vectors =
        reinterpret_cast<float*>(all_kept + (Shape::kept_x + Shape::kept_s) * Shape::threads);
    float* const all_coordinates = all_vectors + vectors * width;
    float* const outputs = all_coordinates + 4 * rows;  // (rows, 8); then cotangents

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = warp / 4 * 16 * F, warp_column = warp % 4 * 64;
    const int own_row = warp_row + lane / 4, own_column = warp_column + lane % 4 * 8;
    const int tiles = c.points.padded * streams / rows;
    const int begin = int(int64_t(tiles) * blockIdx.x / gridDim.x);
    const int end = int(int64_t(tiles) * (blockIdx.x + 1) / gridDim.x);

    // A thread has, of a tile, the rows own_row + 16 i + 8 half and the columns own_column + 32 side to
    // own_column + 32 side + 7.
    const auto in_tile = [&](int i, int half, int side) -> uint4& {
        return *reinterpret_cast<uint4*>(tile + (own_row + i * 16 + half * 8) * stride + own_column +
                                         side * 32);
    };
    // What it keeps for the way back.
    const auto kept_x = [&](int i, int half, int side) -> uint4& {
        return all_kept[((side * 2 + half) * F + i) * Shape::threads + threadIdx.x];
    };
    const auto kept_s = [&](int i, int half, int side) -> uint4& {
        return all_kept[(Shape::kept_x + (side * 2 + half) * (F / streams) + i / streams) *
                            Shape::threads +
                        threadIdx.x];
    };
    const auto vector = [&](int row, int side, float(&x)[8]) {
        load8(all_vectors + row * width + own_column + side * 32, x);
    };
    const int output_vector = 3 + layers;

    // Sums over rows are kept in memory. Each lane has a column of each side to itself; two warps have
    // the same columns and different shares.
    const int share = blockIdx.x * 2 + warp / 4;
    const auto sum_of = [&](float* sums, int row, int side) -> float& {
        return sums[unsigned(row * width + own_column + lane / 4 + side * 32)];
    };
    for (int side = 0; side < 2; ++side) {
        for (int l = 1; l <= layers; ++l) sum_of(c.bias_partial, l * c.shares + share, side) = 0;
        for (int q = 0; q < 3; ++q) sum_of(c.first_partial, share * 3 + q, side) = 0;
        for (int q = 0; q < channels; ++q) sum_of(c.output_partial, share * channels + q, side) = 0;
    }
    const auto add_sums = [&](float* sums, int row, int side, float(&x)[8]) {
        sum_over_rows(x);
        __syncwarp();  // what follows must not be mixed with what precedes: registers are few
        atomicAdd(&sum_of(sums, row, side), x[0]);  // nobody else does; it need not wait
    };

    for (int i = threadIdx.x; i < vectors * width; i += Shape::threads) {
        all_vectors[i] = c.vectors.data[i];
    }
    for (int i = threadIdx.x; i < 4 * width; i += Shape::threads) {  // as two pieces
        const int q = i / width, k = i % width;
        const float w = q < channels ? c.vectors.output(layers, q)[k] : 0.0f;
        const uint32_t piece = to_pieces(w, 0, Piece());
        const float rest = w - to_float(*reinterpret_cast<const Piece*>(&piece));
        const uint32_t pieces = to_pieces(w, rest, Piece());
        output_weights[q * stride + k] = reinterpret_cast<const Piece*>(&pieces)[0];
        output_weights[(q + 4) * stride + k] = reinterpret_cast<const Piece*>(&pieces)[1];
    }

    // Weights come in the order of use: layers forward, then transposed back. The 16-byte pieces of a
    // row are exchanged so that eight rows' lie in different banks.
    constexpr int steps = width / depth_tile;
    const int copied_row = threadIdx.x / 4, copied_k = threadIdx.x % 4;
    const auto product_weights = [&](int number) {
        const int matrix = number < layers ? 2 * number : 2 * (2 * layers - 1 - number) + 1;
        return c.weights.data + matrix * width * width + copied_row * width + copied_k * 8;
    };
    int to_fetch = (end - begin) * 2 * layers * steps, fetched_product = 0, fetched_step = 0;
    const Piece* source = product_weights(0);
    Piece* const first_copy = weights + (copied_row * 4 + (copied_k ^ copied_row / 2 % 4)) * 8;
    Piece* copy = first_copy;
    const auto fetch = [&] {
        if (to_fetch > 0) {
#pragma unroll
            for (int row = 0; row < width; row += Shape::threads / 4) {
                copy16(copy + row * depth_tile, source + row * width);
            }
        }
        commit_copies();
        --to_fetch;
        source += depth_tile;
        copy += Shape::stage;
        if (copy == first_copy + Shape::stages * Shape::stage) copy = first_copy;
        if (++fetched_step == steps) {
            fetched_step = 0;
            if (++fetched_product == 2 * layers) fetched_product = 0;
            source = product_weights(fetched_product);
        }
    };
    for (int i = 0; i < Shape::stages; ++i) fetch();

    // sums = the tile times the weights that are next. Operands are loaded a step of 16 ahead.
    const Piece* stage = weights;  // that is multiplied by
    float sums[F][8][4];
    const Piece* const a_row = tile + (warp_row + lane % 16) * stride + lane / 16 * 8;
    const int b_offset = (warp_column + lane / 16 * 8 + lane % 8) * depth_tile +
                         (lane / 8 % 2 ^ lane % 8 / 2) * 8;
    const auto multiply = [&] {
        uint32_t a[2][F][4], b[2][4][4];
        const auto load = [&](int buffer, int k) {
            const Piece* const b_row = stage + (b_offset ^ k % depth_tile);
#pragma unroll
            for (int pair = 0; pair < 4; ++pair) {
                load_matrices<false>(b[buffer][pair], b_row + pair * 16 * depth_tile);
            }
#pragma unroll
            for (int i = 0; i < F; ++i) load_matrices<false>(a[buffer][i], a_row + i * 16 * stride + k);
        };
        const auto multiply_by = [&](int buffer) {
#pragma unroll
            for (int pair = 0; pair < 4; ++pair) {
                multiply_pair<Piece>(sums, a[buffer], b[buffer][pair], pair);
            }
        };
        clear(sums);
        wait_copies<Shape::stages - 1>();
        __syncthreads();
        load(0, 0);
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            load(1, step * depth_tile + 16);
            multiply_by(0);
            wait_copies<Shape::stages - 2>();
            __syncthreads();  // all have read this stage, and, at the end, the tile
            fetch();
            stage += Shape::stage;
            if (stage == weights + Shape::stages * Shape::stage) stage = weights;
            if (step + 1 < steps) load(0, (step + 1) * depth_tile);
            multiply_by(1);
        }
    };

    double loss = 0;
    float output_bias[Shape::most_channels] = {};
    float scale = 1;
    bool agreed = false;
    const auto agree = [&] {
        wait_for_all_blocks(c.arrived);
        const unsigned largest = __ldcg(c.largest);
        scale = cotangent_scale(&largest, streams);
        agreed = true;
    };

    constexpr int points = rows / streams;
    const auto coordinate = [&](int number) {
        const int i = 2 * number * points + threadIdx.x;
        return i < 2 * c.points.count ? c.points.coordinates[i] : 0.0f;
    };
    float next_coordinate = coordinate(begin);
#pragma unroll 1
    for (int number = begin; number < end; ++number) {
        const auto in_memory = [&](const Matrix<Precision>& matrix, int l, int i, int half,
                                   int side) -> uint4& {
            const size_t row = size_t(number) * rows + own_row + i * 16 + half * 8;
            return *reinterpret_cast<uint4*>(matrix.data + l * c.layer_size + row * width + own_column +
                                             side * 32);
        };
        // Of two tiles: some warps may still be at the last one.
        float* const coordinates = all_coordinates + number % 2 * 2 * rows;
        if (threadIdx.x < 2 * points) {
            coordinates[threadIdx.x] = next_coordinate;
            next_coordinate = coordinate(number + 1);
        }
        __syncthreads();
        const auto position = [&](int i, int half, float(&x)[2]) {
            const int row = own_row + i * 16 + half * 8, point = row / 16 / streams * 16 + row % 16;
            x[0] = coordinates[2 * point];
            x[1] = coordinates[2 * point + 1];
        };

        // From sines, x as sine() left it and cotangents g of h to d of layer l, which is written and
        // added to total_d.
        const auto end_adjoint = [&](int l, int f, int half, int side, const float(&sines)[8],
                                     const auto& x, const auto& g, float(&total_d)[8]) {
            float d[streams][8];
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                float all_x[streams], value[streams];
#pragma unroll
                for (int s = 0; s < streams; ++s) {
                    all_x[s] = x(s, j);
                    value[s] = g(s, j);
                }
                sine_adjoint<streams>(sines[j], all_x, value);
#pragma unroll
                for (int s = 0; s < streams; ++s) d[s][j] = value[s];
                total_d[j] += value[0];
            }
#pragma unroll
            for (int s = 0; s < streams; ++s) {
                const uint4 packed = pack8<Piece>(d[s]);
                in_tile(f + s, half, side) = packed;
                in_memory(c.d, l, f + s, half, side) = packed;
            }
        };

        // The first layer.
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            float w0[8], w1[8], bias[8];
            vector(0, side, w0);
            vector(1, side, w1);
            vector(2, side, bias);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
#pragma unroll
                for (int f = 0; f < F; f += streams) {
                    float at[2], h[streams][8];
                    position(f, half, at);
#pragma unroll
                    for (int j = 0; j < 8; ++j) {
                        float x[streams], value[streams];
                        first_inputs<streams>(c.points, w0[j], w1[j], bias[j], at[0], at[1], x);
                        sine<Precision, streams>(x, value);
#pragma unroll
                        for (int s = 0; s < streams; ++s) h[s][j] = value[s];
                    }
#pragma unroll
                    for (int s = 0; s < streams; ++s) {
                        const uint4 packed = pack8<Piece>(h[s]);
                        in_tile(f + s, half, side) = packed;
                        in_memory(c.h, 0, f + s, half, side) = packed;
                    }
                }
            }
        }

        // Forward.
#pragma unroll 1
        for (int l = 1; l <= layers; ++l) {
            multiply();
            const bool last = l == layers, keep = l == layers - 1;
#pragma unroll
            for (int side = 0; side < 2; ++side) {
                float bias[8];
                vector(2 + l, side, bias);
#pragma unroll
                for (int half = 0; half < 2; ++half) {
#pragma unroll
                    for (int f = 0; f < F; f += streams) {
                        float all_h[streams][8], all_x[streams][8];
#pragma unroll
                        for (int j = 0; j < 8; ++j) {
                            float x[streams], value[streams];
#pragma unroll
                            for (int s = 0; s < streams; ++s) {
                                x[s] = sums[f + s][side * 4 + j / 2][half * 2 + j % 2];
                            }
                            x[0] += bias[j];
                            sine<Precision, streams>(x, value);
#pragma unroll
                            for (int s = 0; s < streams; ++s) {
                                all_h[s][j] = value[s];
                                all_x[s][j] = x[s];
                                sums[f + s][side * 4 + j / 2][half * 2 + j % 2] = x[s];
                            }
                        }
#pragma unroll
                        for (int s = 0; s < streams; ++s) {
                            const uint4 h = pack8<Piece>(all_h[s]);
                            const uint4 x = pack8<Piece>(all_x[s]);
                            in_tile(f + s, half, side) = h;
                            if (keep) kept_x(f + s, half, side) = x;
                            if (keep && streams > 1 && s == 0) kept_s(f, half, side) = h;
                            if (!last) in_memory(c.h, l, f + s, half, side) = h;
                            if (!last && !keep) in_memory(c.x, l, f + s, half, side) = x;
                        }
                    }
                }
            }
        }

        // A thread for each row will compare its output with what it should be.
        const int row = number * rows + threadIdx.x;
        const int point = row / 16 / streams * 16 + row % 16, stream = row / 16 % streams;
        const bool compare = threadIdx.x < rows && point < c.points.count &&
                             (c.error.given || stream >= first_supervised);
        const size_t compared = c.error.given ? size_t(point) * streams + stream
                                              : size_t(point) * supervised + stream - first_supervised;
        float wanted[Shape::most_channels] = {}, weight = 1;
        if (compare) {
#pragma unroll
            for (int q = 0; q < Shape::most_channels; ++q) {
                if (q >= channels) break;
                wanted[q] = (c.error.given ? c.error.given : c.error.target)[compared * channels + q];
            }
            if (c.error.weight) weight = c.error.weight[point];
        }

        // The output, by one warp for 16 rows.
        __syncthreads();
        if (warp * 16 < rows) {
            float y[2][4] = {};
            const Piece* const left = tile + (warp * 16 + lane % 16) * stride + lane / 16 * 8;
            const Piece* const right = output_weights + lane % 8 * stride + lane / 8 * 8;
#pragma unroll 4
            for (int k = 0; k < width; k += 32) {
                uint32_t a0[4], a1[4], b[4];
                load_matrices<false>(a0, left + k);
                load_matrices<false>(a1, left + k + 16);
                load_matrices<false>(b, right + k);
                multiply_add(y[0], a0, b[0], b[1], Piece());
                multiply_add(y[1], a1, b[2], b[3], Piece());
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                outputs[(warp * 16 + lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] =
                    y[0][i] + y[1][i];
            }
        }
        __syncthreads();

        // Its cotangents.
        float most = 0;
        if (threadIdx.x < rows) {
            float inverse = c.points.inverse[0];
#pragma unroll
            for (int s = 1; s < streams; ++s) inverse = stream == s ? c.points.inverse[s] : inverse;
#pragma unroll
            for (int q = 0; q < Shape::most_channels; ++q) {
                if (q >= channels) break;
                float g = 0;
                if (compare && c.error.given) {
                    g = wanted[q] * inverse;
                } else if (compare) {
                    const float* const pieces = outputs + threadIdx.x * 8 + q;
                    float y = (pieces[0] + pieces[4]) * inverse;
                    if (stream == 0) y += c.parameters.flat[c.parameters.bias(layers + 1) + q];
                    const float residual = y - wanted[q];
                    loss += double(weight * residual) * residual;
                    g = 2 * c.error.mean * weight * residual * inverse;
                }
                if (stream == 0) output_bias[q] += g;
                most = fmaxf(most, fabsf(g));
                outputs[threadIdx.x * 8 + q] = g;
            }
        }
        if (!agreed) {
            keep_largest(most, c.largest);
            agree();
        }
        __syncthreads();

        // The output layer's weights, but for the first channel's.
#pragma unroll 1
        for (int q = 1; q < channels; ++q) {
#pragma unroll
            for (int side = 0; side < 2; ++side) {
                float total_h[8] = {};
#pragma unroll
                for (int half = 0; half < 2; ++half) {
#pragma unroll
                    for (int i = 0; i < F; ++i) {
                        float h[8];
                        unpack8<Piece>(in_tile(i, half, side), h);
                        const float g = outputs[(own_row + i * 16 + half * 8) * 8 + q];
#pragma unroll
                        for (int j = 0; j < 8; ++j) total_h[j] = fmaf(g, h[j], total_h[j]);
                    }
                }
                add_sums(c.output_partial, share * channels + q, side, total_h);
            }
        }

        // The first channel's, and the cotangents of the last sine's input.
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            float w0[8], total_h[8] = {}, total_d[8] = {};
            vector(output_vector, side, w0);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
#pragma unroll
                for (int f = 0; f < F; f += streams) {
                    float sine[8], all_g[streams][8];
#pragma unroll
                    for (int s = 0; s < streams; ++s) {
                        const float* const cotangents =
                            outputs + (own_row + (f + s) * 16 + half * 8) * 8;
                        float h[8];
                        unpack8<Piece>(in_tile(f + s, half, side), h);
#pragma unroll
                        for (int j = 0; j < 8; ++j) {
                            total_h[j] = fmaf(cotangents[0], h[j], total_h[j]);
                            all_g[s][j] = scale * cotangents[0] * w0[j];
                            if (s == 0) sine[j] = h[j];
                        }
#pragma unroll 1
                        for (int q = 1; q < channels; ++q) {
                            float w[8];
                            vector(output_vector + q, side, w);
#pragma unroll
                            for (int j = 0; j < 8; ++j) {
                                all_g[s][j] = fmaf(scale * cotangents[q], w[j], all_g[s][j]);
                            }
                        }
                    }
                    const auto x = [&](int s, int j) {
                        return sums[f + s][side * 4 + j / 2][half * 2 + j % 2];
                    };
                    const auto g = [&](int s, int j) { return all_g[s][j]; };
                    end_adjoint(layers, f, half, side, sine, x, g, total_d);
                }
            }
            add_sums(c.output_partial, share * channels, side, total_h);
            add_sums(c.bias_partial, layers * c.shares + share, side, total_d);
        }

        // Back.
#pragma unroll 1
        for (int l = layers; l > 1; --l) {
            multiply();
#pragma unroll
            for (int side = 0; side < 2; ++side) {
                float total_d[8] = {};
#pragma unroll
                for (int half = 0; half < 2; ++half) {
#pragma unroll
                    for (int f = 0; f < F; f += streams) {
                        float sine[8] = {}, all_x[streams][8];
                        if (streams > 1) unpack8<Piece>(kept_s(f, half, side), sine);
#pragma unroll
                        for (int s = 0; s < streams; ++s) {
                            unpack8<Piece>(kept_x(f + s, half, side), all_x[s]);
                        }
                        if (l > 2) {  // those of the layer below, in time for the next turn
#pragma unroll
                            for (int s = 0; s < streams; ++s) {
                                copy16(&kept_x(f + s, half, side),
                                       &in_memory(c.x, l - 2, f + s, half, side));
                            }
                            if (streams > 1) {
                                copy16(&kept_s(f, half, side), &in_memory(c.h, l - 2, f, half, side));
                            }
                        }
                        const auto x = [&](int s, int j) { return all_x[s][j]; };
                        const auto g = [&](int s, int j) {
                            return sums[f + s][side * 4 + j / 2][half * 2 + j % 2];
                        };
                        end_adjoint(l - 1, f, half, side, sine, x, g, total_d);
                    }
                }
                add_sums(c.bias_partial, (l - 1) * c.shares + share, side, total_d);
            }
        }

        // The first layer's weights and bias; its x and h are computed anew.
        multiply();
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            float w0[8], w1[8], bias[8], totals[3][8] = {};
            vector(0, side, w0);
            vector(1, side, w1);
            vector(2, side, bias);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
#pragma unroll
                for (int f = 0; f < F; f += streams) {
                    float at[2];
                    position(f, half, at);
#pragma unroll
                    for (int j = 0; j < 8; ++j) {
                        float x[streams], h[streams], value[streams];
                        first_inputs<streams>(c.points, w0[j], w1[j], bias[j], at[0], at[1], x);
                        sine<Precision, streams>(x, h);
#pragma unroll
                        for (int s = 0; s < streams; ++s) {
                            value[s] = sums[f + s][side * 4 + j / 2][half * 2 + j % 2];
                        }
                        sine_adjoint<streams>(h[0], x, value);
#pragma unroll
                        for (int q = 0; q < 2; ++q) {
                            totals[q][j] = fmaf(at[q], value[0], totals[q][j]);
                            if (streams == 1) continue;
                            totals[q][j] =
                                fmaf(c.points.scale[q], value[(1 + q) % streams], totals[q][j]);
                        }
                        totals[2][j] += value[0];
                    }
                }
            }
#pragma unroll
            for (int q = 0; q < 3; ++q) add_sums(c.first_partial, share * 3 + q, side, totals[q]);
        }
    }
    if (!agreed) agree();

    double* const point_sums = c.point_sums + size_t(blockIdx.x) * (1 + channels);
    loss = block_sum(loss);
    if (threadIdx.x == 0) point_sums[0] = loss;
#pragma unroll
    for (int q = 0; q < Shape::most_channels; ++q) {
        if (q >= channels) break;
        const double bias = block_sum(output_bias[q]);
        if (threadIdx.x == 0) point_sums[1 + q] = bias;
    }
}
