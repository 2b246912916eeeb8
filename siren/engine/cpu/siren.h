// SIREN (arXiv:2006.09661) on the CPU: streams of the network, losses on them, and the gradient
// with respect to all parameters, in one pass over tiles of points small enough to stay in cache.
// Products are of float32 (tile.h), or, where SIREN_AMX is defined, of two bf16 for each (amx/).
//
// The network maps coordinates (row, column) through `hidden_layers` + 1 sine layers of `width`
// units, h <- sin(omega (W h + b)), and a linear layer to `channels` outputs.
//
// Streams are what is known of the network at a point, carried through the layers in forward mode:
//     order 0: u            order 1: u, u_0, u_1            order 2: u, u_0, u_1, Laplacian
// with derivatives in coordinates divided by scale[2]: scale = {1, 1} gives those of u itself, the
// grid spacing gives pixel units. The Laplacian is scale[0]^2 u_00 + scale[1]^2 u_11.
//
// In terms of x = omega (W h + b) and of the streams of x (a linear layer maps each stream by
// the same W, and omega is folded into W), a sine layer and its adjoint are, with s = sin x and
// c = cos x, subscript i for the two derivatives, L for the Laplacian and g for cotangents:
//     h   = s                              x~   = c g - s (g_0 x_0 + g_1 x_1 + g_L x_L)
//     h_i = c x_i                                 - c (x_0^2 + x_1^2) g_L
//     h_L = c x_L - s (x_0^2 + x_1^2)      x~_i = c g_i - 2 s x_i g_L
//                                          x~_L = c g_L
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/layout.h"
#include "cpu/parallel.h"
#include "cpu/tile.h"
#ifdef SIREN_AMX
#include "cpu/amx/tile.h"
#endif

namespace siren {

inline int stream_count(int order) { return order == 0 ? 1 : order == 1 ? 3 : 4; }

namespace detail {

// Packs the parameters, calls visit(tile, begin, end, thread) for tiles of points [begin, end) that
// share n points evenly among threads, and, given gradients, has each tile run backward after its
// visit and sums the result. The schedule is fixed, so equal thread counts give equal bits.
template <class Tile, class Visit>
void run_tiles(const Network& net, const float* coordinates, int64_t n, const float* scale,
               const Gradients* gradients, const Visit& visit) {
    static thread_local Workspace workspace;
    const Layout layout = Tile::layout_of(net);
    constexpr int group = Tile::point_group;
    const int64_t groups = (n + group - 1) / group;
    const int threads = int(std::max<int64_t>(std::min<int64_t>(max_threads(), groups), 1));
    const bool keep = gradients != nullptr;

    const size_t size = aligned(layout.size());
    const size_t matrices = aligned(layout.hidden_layers * layout.matrix_size());
    const size_t scratch = aligned(Tile::scratch_size(layout, keep));
    float* const data = workspace.reserve(size + matrices + threads * (scratch + keep * size));
    float* const transposed = data + size;
    float* const tiles = transposed + matrices;
    const Partial partial{tiles + threads * scratch, threads, size};

    parallel(threads, [&](int thread) {
        if (thread == 0) pack_vectors(net, layout, data);
        Tile::pack_matrices(net, layout, keep, data, transposed, thread, threads);
    });
    if (layout.quartered) {
        parallel(threads, [&](int thread) {
            pack_sums(layout, keep, data, transposed, thread, threads);
        });
    }
    const Weights weights{layout, data, transposed};
    parallel(threads, [&](int thread) {
        float* gradient = tiles + threads * scratch + thread * size;
        if (keep) std::fill_n(gradient, size, 0.0f);
        Tile tile(weights, scale, tiles + thread * scratch, keep);
        const int64_t first = share(groups, thread, threads);
        const int64_t count = share(groups, thread + 1, threads) - first;
        const int64_t tile_count = (count * group + Tile::max_points - 1) / Tile::max_points;
        for (int64_t t = 0; t < tile_count; ++t) {
            const int64_t begin = (first + count * t / tile_count) * group;
            const int64_t end = std::min(n, (first + count * (t + 1) / tile_count) * group);
            tile.load(coordinates + 2 * begin, int(end - begin));
            tile.forward();
            visit(tile, begin, end, thread);
            if (keep) tile.backward(gradient);
        }
        if (!keep || !layout.quartered) return;
        for (int l = 1; l <= layout.hidden_layers; ++l) {
            strassen_combine(gradient + layout.matrix(l), size_t(layout.width) * layout.width / 4);
        }
    });
    if (!keep) return;
    parallel(threads, [&](int thread) {
        if (thread == 0) reduce_vectors(net, layout, partial, *gradients);
        Tile::reduce_matrices(net, layout, partial, *gradients, thread, threads);
    });
}

template <int streams, class Visit>
void for_each_tile(const Network& net, const float* coordinates, int64_t n, const float* scale,
                   const Gradients* gradients, const Visit& visit) {
#ifdef SIREN_AMX
    run_tiles<amx::Tile<streams>>(net, coordinates, n, scale, gradients, visit);
#else
    run_tiles<Tile<streams>>(net, coordinates, n, scale, gradients, visit);
#endif
}

template <int streams>
void forward(const Network& net, const float* coordinates, int64_t n, const float* scale,
             float* output) {
    for_each_tile<streams>(
        net, coordinates, n, scale, nullptr,
        [&](auto& tile, int64_t begin, int64_t end, int) {
            float* y = output + begin * streams * net.channels;
            for (int p = 0; p < end - begin; ++p) {
                for (int s = 0; s < streams; ++s) {
                    for (int c = 0; c < net.channels; ++c) *y++ = tile.output(s, p, c);
                }
            }
        });
}

template <int streams>
void backward(const Network& net, const float* coordinates, const float* cotangent, int64_t n,
              const float* scale, const Gradients& gradients) {
    for_each_tile<streams>(
        net, coordinates, n, scale, &gradients,
        [&](auto& tile, int64_t begin, int64_t end, int) {
            const float* y = cotangent + begin * streams * net.channels;
            for (int p = 0; p < end - begin; ++p) {
                for (int s = 0; s < streams; ++s) {
                    for (int c = 0; c < net.channels; ++c) tile.cotangent(s, p, c) = *y++;
                }
            }
        });
}

template <int streams>
double squared_error(const Network& net, const float* coordinates, const float* target,
                     int64_t n, const float* scale, double weight, const Gradients& gradients) {
    constexpr int supervised = streams == 3 ? 2 : 1, first = streams - supervised;
    const double mean = weight / (double(n) * supervised * net.channels);
    std::vector<double> losses(max_threads(), 0.0);
    for_each_tile<streams>(
        net, coordinates, n, scale, &gradients,
        [&](auto& tile, int64_t begin, int64_t end, int thread) {
            const float* y = target + begin * supervised * net.channels;
            double loss = 0;
            for (int p = 0; p < end - begin; ++p) {
                for (int s = first; s < streams; ++s) {
                    for (int c = 0; c < net.channels; ++c) {
                        const float residual = tile.output(s, p, c) - *y++;
                        loss += double(residual) * residual;
                        tile.cotangent(s, p, c) = float(2 * mean) * residual;
                    }
                }
            }
            losses[thread] += loss;
        });
    double loss = 0;
    for (double part : losses) loss += part;
    return loss * mean;
}

}  // namespace detail

// Streams of the network: output is (n, stream_count(order), channels) at coordinates (n, 2).
inline void forward(const Network& net, const float* coordinates, int64_t n, int order,
                    const float scale[2], float* output) {
    if (order == 0) return detail::forward<1>(net, coordinates, n, scale, output);
    if (order == 1) return detail::forward<3>(net, coordinates, n, scale, output);
    detail::forward<4>(net, coordinates, n, scale, output);
}

// Vector-Jacobian product: the gradient of sum(cotangent * forward(...)) with respect to all
// parameters. cotangent is (n, stream_count(order), channels). Streams are computed anew, so
// memory does not grow with n.
inline void backward(const Network& net, const float* coordinates, const float* cotangent,
                     int64_t n, int order, const float scale[2], const Gradients& gradients) {
    if (order == 0) {
        return detail::backward<1>(net, coordinates, cotangent, n, scale, gradients);
    }
    if (order == 1) {
        return detail::backward<3>(net, coordinates, cotangent, n, scale, gradients);
    }
    detail::backward<4>(net, coordinates, cotangent, n, scale, gradients);
}

// Mean squared error of the highest-order streams, and its gradient with respect to all parameters:
// weight sum_n,k,c (y[n, k, c] - target[n, k, c])^2 / (n K channels) with y = u (order 0, K = 1), the
// gradient (order 1, K = 2) or the Laplacian (order 2, K = 1). target is (n, K, channels). Returns
// the loss.
inline double squared_error(const Network& net, const float* coordinates, const float* target,
                            int64_t n, int order, const float scale[2], double weight,
                            const Gradients& gradients) {
    if (order == 0) {
        return detail::squared_error<1>(net, coordinates, target, n, scale, weight, gradients);
    }
    if (order == 1) {
        return detail::squared_error<3>(net, coordinates, target, n, scale, weight, gradients);
    }
    return detail::squared_error<4>(net, coordinates, target, n, scale, weight, gradients);
}

}  // namespace siren
