// SIREN (arXiv:2006.09661) on the CPU: streams of the network, losses on them, and the gradient
// with respect to all parameters, in one pass over tiles of points small enough to stay in cache.
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

#include "cpu/gemm.h"
#include "cpu/parallel.h"
#include "cpu/sincos.h"
#include "cpu/strassen.h"
#include "cpu/vector.h"

namespace siren {

// weights[l] is (outputs, inputs), row-major; biases[l] is (outputs). There are hidden_layers + 2
// of each, with sizes 2 -> width -> ... -> width -> channels.
struct Network {
    int width, hidden_layers, channels;
    float omega;
    const float* const* weights;
    const float* const* biases;
};

// Where gradients are written, in the shapes of the parameters.
struct Gradients {
    float* const* weights;
    float* const* biases;
};

inline int stream_count(int order) { return order == 0 ? 1 : order == 1 ? 3 : 4; }

namespace detail {

// Points times streams in a tile: enough rows to repay a pass over the weights and over the sums of
// their gradient, few enough for a layer to stay in the second-level cache. Measured on Zen 5 (1 MB):
// 96 to 216 rows are within 1 % of each other, 288 to 480 up to 10 % slower. On Zen 1 (512 KB): 144 and
// 192 are within 0.2 %, 96 1 to 2 % slower.
constexpr int tile_rows = 192;

// Points come in groups of this many, so that half the rows of a tile are whole register blocks.
constexpr int point_group = 2 * block_rows;

inline size_t aligned(size_t floats) { return (floats + 15) / 16 * 16; }

// Offsets, in floats, of one copy of the parameters (or of their gradient) in kernel layout:
// vectors and matrices padded with zeros to whole panels. A padded unit has h = sin 0 = 0 and
// receives no cotangent, so padding never reaches a result.
struct Layout {
    int width, hidden_layers, channels;  // width is the padded one

    explicit Layout(const Network& net)
        : width(round_up(net.width, panel)),
          hidden_layers(net.hidden_layers),
          channels(net.channels) {}

    bool quartered() const { return has_quarters(width); }
    // Quarters need room for the sums of a weight matrix, or for the seven products of a gradient.
    size_t matrix_size() const { return (quartered() ? 2 : 1) * size_t(width) * width; }
    // First layer: both columns of W, then b.
    size_t first(int column) const { return size_t(column) * width; }
    size_t bias(int layer) const { return size_t(2 + layer) * width; }  // layer 0 .. hidden_layers
    size_t output(int channel) const { return bias(hidden_layers + 1 + channel); }
    size_t output_bias() const { return output(channels); }
    size_t matrix(int layer) const {  // layer 1 .. hidden_layers
        return output_bias() + aligned(channels) + (layer - 1) * matrix_size();
    }
    size_t size() const { return matrix(hidden_layers + 1); }
    // Where element (i, j) of a matrix's gradient is, from its start; quarters lie one by one.
    size_t gradient_element(int i, int j) const {
        const int rows = quartered() ? width / 2 : width;
        const size_t quarter = size_t(i / rows) + 2 * (j / rows);
        const int row = i % rows, column = j % rows;
        return (quarter * rows + column / panel * panel) * rows + row * panel + column % panel;
    }
};

// The parameters packed for one call: omega W and omega b, each hidden W in both orientations.
struct Weights {
    Layout layout;
    const float* data;        // matrices as (outputs, inputs), for cotangents
    const float* transposed;  // matrices as (inputs, outputs), for streams
    const float* matrix(int layer) const { return data + layout.matrix(layer); }
    const float* matrix_transposed(int layer) const {
        return transposed + (layer - 1) * layout.matrix_size();
    }
    // Behind each matrix are its sums, if it has quarters.
    const float* sums(const float* matrix) const {
        return matrix + size_t(layout.width) * layout.width;
    }
};

inline void pack_vector(const float* source, int n, int stride, float factor, float* destination,
                        int padded) {
    for (int i = 0; i < padded; ++i) destination[i] = i < n ? factor * source[i * stride] : 0.0f;
}

// One thread's share of the packing: some panels of every matrix, and thread 0 the vectors.
inline void pack(const Network& net, const Layout& layout, bool backward, float* data,
                 float* transposed, int thread, int threads) {
    const int width = layout.width, panels = width / panel;
    if (thread == 0) {
        for (int column = 0; column < 2; ++column) {
            pack_vector(net.weights[0] + column, net.width, 2, net.omega,
                        data + layout.first(column), width);
        }
        for (int l = 0; l <= net.hidden_layers; ++l) {
            pack_vector(net.biases[l], net.width, 1, net.omega, data + layout.bias(l), width);
        }
        for (int c = 0; c < net.channels; ++c) {
            pack_vector(net.weights[net.hidden_layers + 1] + size_t(c) * net.width, net.width, 1,
                        1.0f, data + layout.output(c), width);
        }
        pack_vector(net.biases[net.hidden_layers + 1], net.channels, 1, 1.0f,
                    data + layout.output_bias(), net.channels);
    }
    const int begin = int(share(panels, thread, threads));
    const int end = int(share(panels, thread + 1, threads));
    for (int l = 1; l <= net.hidden_layers; ++l) {
        for (int j = begin; j < end; ++j) {
            const size_t offset = size_t(j) * width * panel;
            pack_panel_transposed(net.weights[l], net.width, net.width, net.omega, j,
                                  transposed + (l - 1) * layout.matrix_size() + offset, width);
            if (!backward) continue;
            pack_panel(net.weights[l], net.width, net.width, net.omega, j,
                       data + layout.matrix(l) + offset, width);
        }
    }
}

// One thread's share of what follows the packing: the right sums of some matrices.
inline void pack_sums(const Layout& layout, bool backward, float* data, float* transposed, int thread,
                      int threads) {
    const int orientations = backward ? 2 : 1;
    const int matrices = layout.quartered() ? orientations * layout.hidden_layers : 0;
    for (int i = thread; i < matrices; i += threads) {
        const int layer = 1 + i / orientations;
        float* const matrix = i % orientations == 0
                                  ? transposed + (layer - 1) * layout.matrix_size()
                                  : data + layout.matrix(layer);
        right_sums(matrix, layout.width, layout.width, matrix + size_t(layout.width) * layout.width);
    }
}

// One thread's share of the last step: some rows of every gradient, summed over the threads'
// partial sums in order, times omega where omega was folded into the parameters.
inline void reduce(const Network& net, const Layout& layout, const float* partial, int parts,
                   const Gradients& gradients, int thread, int threads) {
    const size_t size = aligned(layout.size());
    const auto total = [&](size_t offset, int n, int stride, float factor, float* result) {
        for (int i = 0; i < n; i += lanes) {
            Vector x{};
            for (int t = 0; t < parts; ++t) x += at(partial + t * size + offset + i);
            x *= factor;
            for (int q = 0; q < std::min(lanes, n - i); ++q) *(result + (i + q) * stride) = x[q];
        }
    };
    const int last = net.hidden_layers + 1;
    if (thread == 0) {
        for (int column = 0; column < 2; ++column) {
            total(layout.first(column), net.width, 2, net.omega, gradients.weights[0] + column);
        }
        for (int l = 0; l < last; ++l) {
            total(layout.bias(l), net.width, 1, net.omega, gradients.biases[l]);
        }
        for (int c = 0; c < net.channels; ++c) {
            total(layout.output(c), net.width, 1, 1.0f,
                  gradients.weights[last] + size_t(c) * net.width);
        }
        total(layout.output_bias(), net.channels, 1, 1.0f, gradients.biases[last]);
    }
    const int begin = int(share(net.width, thread, threads));
    const int end = int(share(net.width, thread + 1, threads));
    for (int l = 1; l < last; ++l) {
        for (int i = begin; i < end; ++i) {
            for (int j = 0; j < net.width; j += panel) {
                total(layout.matrix(l) + layout.gradient_element(i, j),
                      std::min(panel, net.width - j), 1, net.omega,
                      gradients.weights[l] + size_t(i) * net.width + j);
            }
        }
    }
}

// All layers for one tile of points, on one thread. Rows of its matrices are ordered by half of the
// points, then stream, then point: products add up the rows of the two halves (strassen.h), and only
// the same streams, being of the same size, can be added without loss.
template <int streams>
class Tile {
public:
    static constexpr int max_points = tile_rows / streams / point_group * point_group;

    // Without `keep`, layers share buffers, and only forward() may be called.
    static size_t scratch_size(const Layout& layout, bool keep) {
        const size_t matrix = size_t(streams) * max_points * layout.width;
        const size_t layers = layout.hidden_layers + 1;
        return aligned(2 * max_points) + 2 * aligned(size_t(streams) * max_points * layout.channels)
               + (keep ? 2 * layers + 4 : 4) * matrix;
    }

    Tile(const Weights& weights, const float* scale, float* scratch, bool keep)
        : weights_(weights), layout_(weights.layout), keep_(keep) {
        scale_[0] = scale[0];
        scale_[1] = scale[1];
        const size_t outputs = aligned(size_t(streams) * max_points * layout_.channels);
        coordinates_ = scratch;
        output_ = coordinates_ + aligned(2 * max_points);
        cotangent_ = output_ + outputs;
        matrices_ = cotangent_ + outputs;
    }

    // Takes `count` coordinates (count, 2). The tile is filled up to whole groups with points whose
    // cotangent stays zero.
    void load(const float* coordinates, int count) {
        points_ = round_up(count, point_group);
        for (int p = 0; p < points_; ++p) {
            coordinates_[p] = p < count ? coordinates[2 * p] : 0.0f;
            coordinates_[points_ + p] = p < count ? coordinates[2 * p + 1] : 0.0f;
        }
        std::fill_n(cotangent_, size_t(rows()) * layout_.channels, 0.0f);
    }

    float& output(int stream, int point, int channel) {
        return output_[row(stream, point) * layout_.channels + channel];
    }
    float& cotangent(int stream, int point, int channel) {
        return cotangent_[row(stream, point) * layout_.channels + channel];
    }

    void forward() {
        const int width = layout_.width;
        for (int j = 0; j < width; j += panel) first_layer(j);
        for (int l = 1; l <= layout_.hidden_layers; ++l) {
            product(outputs(l - 1), weights_.matrix_transposed(l), inputs(l),
                    [&](int j) { sine_layer(l, j); });
        }
        output_layer();
    }

    // Adds this tile's share of the gradient to `gradient`, in the layout of the parameters.
    void backward(float* gradient) {
        const int width = layout_.width;
        float* g = buffer(2 * layout_.hidden_layers + 4);
        float* next = buffer(2 * layout_.hidden_layers + 5);
        output_layer_adjoint(g, gradient);
        for (int l = layout_.hidden_layers; l > 0; --l) {
            for (int j = 0; j < width; j += panel) sine_layer_adjoint(l, j, g, gradient);
            add_outer_products(g, outputs(l - 1), gradient + layout_.matrix(l));
            product(g, weights_.matrix(l), next, [](int) {});
            std::swap(g, next);
        }
        for (int j = 0; j < width; j += panel) first_layer_adjoint(j, g, gradient);
    }

private:
    int rows() const { return streams * points_; }
    size_t row(int stream, int point) const {
        const int half = points_ / 2;
        return size_t(point / half * (streams - 1) + stream) * half + point;
    }
    // Between the streams of a point, in a column panel.
    size_t stream_stride() const { return size_t(points_ / 2) * panel; }
    // Calls visit(point, offset of its first stream in a column panel).
    template <class Visit>
    void each_point(const Visit& visit) const {
        for (int half = 0; half < 2; ++half) {
            const int begin = half * (points_ / 2), end = begin + points_ / 2;
            size_t offset = row(0, begin) * panel;
            for (int p = begin; p < end; ++p, offset += panel) visit(p, offset);
        }
    }
    float* buffer(int i) const { return matrices_ + size_t(i) * rows() * layout_.width; }
    // Streams of h after layer l.
    float* outputs(int l) const { return buffer(keep_ ? 2 * l + 2 : 1 + l % 2); }
    // Streams of x before the sine of layer l; once that is taken, cos x is in the place of x.
    float* inputs(int l) const { return buffer(keep_ ? 2 * l + 3 : 3); }
    // Sums of quarters: left ones of a product, right ones of outer products.
    float* left() const { return buffer(0); }
    float* right() const { return buffer(1); }

    // c = a b for a[rows, width] and a packed weight matrix b; calls done(j) when column panel j of c
    // is ready.
    template <class Done>
    void product(const float* a, const float* b, float* c, const Done& done) const {
        const int width = layout_.width;
        if (!layout_.quartered()) {
            for (int j = 0; j < width; j += panel) {
                product_panel(a, b + size_t(j) * width, c + size_t(j) * rows(), rows(), width);
                done(j);
            }
            return;
        }
        left_sums(a, rows(), width, false, left());
        for (int j = 0; j < width / 2; j += panel) {
            strassen_panels(a, left(), b, weights_.sums(b), c, rows(), width, width, j);
            done(j);
            done(width / 2 + j);
        }
    }

    // Adds g^T h to the gradient of a matrix.
    void add_outer_products(const float* g, const float* h, float* gradient) const {
        const int width = layout_.width;
        if (!layout_.quartered()) {
            const size_t stride = size_t(rows()) * panel;
            return outer_products(g, stride, h, stride, gradient, rows(), width, width);
        }
        left_sums(g, rows(), width, true, left());
        right_sums(h, rows(), width, right());
        strassen_outer(g, left(), h, right(), gradient, rows(), width, width);
    }

    void first_layer(int j) const {
        const size_t stride = stream_stride();
        for (int v = 0; v < panel; v += lanes) {
            const Vector w0 = at(weights_.data + layout_.first(0) + j + v);
            const Vector w1 = at(weights_.data + layout_.first(1) + j + v);
            const Vector bias = at(weights_.data + layout_.bias(0) + j + v);
            const Vector x0 = w0 * scale_[0], x1 = w1 * scale_[1];
            float* const all_h = outputs(0) + size_t(j) * rows() + v;
            float* const all_cosine = inputs(0) + size_t(j) * rows() + v;
            each_point([&](int p, size_t offset) {
                float* const h = all_h + offset;
                float* const cosine = all_cosine + offset;
                Vector s, c;
                sincos(w0 * coordinates_[p] + (w1 * coordinates_[points_ + p] + bias), s, c);
                at(cosine) = c;
                at(h) = s;
                if (streams >= 3) {
                    at(h + stride) = c * x0;
                    at(h + 2 * stride) = c * x1;
                }
                if (streams == 4) at(h + 3 * stride) = -s * (x0 * x0 + x1 * x1);
            });
        }
    }

    void first_layer_adjoint(int j, const float* cotangents, float* gradient) const {
        const size_t stride = stream_stride();
        for (int v = 0; v < panel; v += lanes) {
            const Vector x0 = at(weights_.data + layout_.first(0) + j + v) * scale_[0];
            const Vector x1 = at(weights_.data + layout_.first(1) + j + v) * scale_[1];
            const float* const all_h = outputs(0) + size_t(j) * rows() + v;
            const float* const all_cosine = inputs(0) + size_t(j) * rows() + v;
            const float* const all_g = cotangents + size_t(j) * rows() + v;
            Vector bias{}, dw0{}, dw1{}, dx0{}, dx1{};
            each_point([&](int p, size_t offset) {
                const float* const h = all_h + offset;
                const float* const cosine = all_cosine + offset;
                const float* const g = all_g + offset;
                const Vector s = at(h), c = at(cosine);
                Vector d = c * at(g);
                if (streams >= 3) {
                    const Vector g0 = at(g + stride), g1 = at(g + 2 * stride);
                    d -= s * (g0 * x0 + g1 * x1);
                    dx0 += c * g0;
                    dx1 += c * g1;
                }
                if (streams == 4) {
                    const Vector laplacian = at(g + 3 * stride);
                    d -= c * (x0 * x0 + x1 * x1) * laplacian;
                    dx0 -= 2.0f * s * x0 * laplacian;
                    dx1 -= 2.0f * s * x1 * laplacian;
                }
                bias += d;
                dw0 += d * coordinates_[p];
                dw1 += d * coordinates_[points_ + p];
            });
            at(gradient + layout_.bias(0) + j + v) += bias;
            at(gradient + layout_.first(0) + j + v) += dw0 + dx0 * scale_[0];
            at(gradient + layout_.first(1) + j + v) += dw1 + dx1 * scale_[1];
        }
    }

    void sine_layer(int l, int j) const {
        const size_t stride = stream_stride();
        for (int v = 0; v < panel; v += lanes) {
            const Vector bias = at(weights_.data + layout_.bias(l) + j + v);
            float* const all_h = outputs(l) + size_t(j) * rows() + v;
            float* const all_x = inputs(l) + size_t(j) * rows() + v;
            each_point([&](int p, size_t offset) {
                float* const h = all_h + offset;
                float* const x = all_x + offset;
                Vector s, c;
                sincos(at(x) + bias, s, c);
                at(x) = c;
                at(h) = s;
                if (streams >= 3) {
                    const Vector x0 = at(x + stride), x1 = at(x + 2 * stride);
                    at(h + stride) = c * x0;
                    at(h + 2 * stride) = c * x1;
                    if (streams == 4) {
                        at(h + 3 * stride) = c * at(x + 3 * stride) - s * (x0 * x0 + x1 * x1);
                    }
                }
            });
        }
    }

    // From cotangents of h to those of x, in place.
    void sine_layer_adjoint(int l, int j, float* cotangents, float* gradient) const {
        const size_t stride = stream_stride();
        for (int v = 0; v < panel; v += lanes) {
            const float* const all_h = outputs(l) + size_t(j) * rows() + v;
            const float* const all_x = inputs(l) + size_t(j) * rows() + v;
            float* const all_g = cotangents + size_t(j) * rows() + v;
            Vector bias{};
            each_point([&](int p, size_t offset) {
                const float* const h = all_h + offset;
                const float* const x = all_x + offset;
                float* const g = all_g + offset;
                const Vector s = at(h), c = at(x);
                Vector d = c * at(g);
                if (streams >= 3) {
                    const Vector x0 = at(x + stride), x1 = at(x + 2 * stride);
                    Vector g0 = at(g + stride), g1 = at(g + 2 * stride);
                    Vector sine_terms = g0 * x0 + g1 * x1;
                    g0 *= c;
                    g1 *= c;
                    if (streams == 4) {
                        const Vector laplacian = at(g + 3 * stride);
                        const Vector twice = 2.0f * s * laplacian;
                        sine_terms += laplacian * at(x + 3 * stride);
                        d -= c * (x0 * x0 + x1 * x1) * laplacian;
                        g0 -= twice * x0;
                        g1 -= twice * x1;
                        at(g + 3 * stride) = c * laplacian;
                    }
                    d -= s * sine_terms;
                    at(g + stride) = g0;
                    at(g + 2 * stride) = g1;
                }
                at(g) = d;
                bias += d;
            });
            at(gradient + layout_.bias(l) + j + v) += bias;
        }
    }

    void output_layer() {
        const float* bias = weights_.data + layout_.output_bias();
        for (int row = 0; row < rows(); ++row) {
            for (int c = 0; c < layout_.channels; ++c) {
                const float* w = weights_.data + layout_.output(c);
                const float* h = outputs(layout_.hidden_layers) + size_t(row) * panel;
                Vector sum0{}, sum1{};
                for (int j = 0; j < layout_.width; j += panel, h += size_t(rows()) * panel) {
                    sum0 += at(h) * at(w + j);
                    sum1 += at(h + lanes) * at(w + j + lanes);
                }
                const bool is_value = row % (rows() / 2) < points_ / 2;  // no bias in derivatives
                output_[size_t(row) * layout_.channels + c] =
                    sum(sum0 + sum1) + (is_value ? bias[c] : 0.0f);
            }
        }
    }

    void output_layer_adjoint(float* cotangents, float* gradient) {
        const int channels = layout_.channels;
        for (int p = 0; p < points_; ++p) {
            for (int c = 0; c < channels; ++c) {
                gradient[layout_.output_bias() + c] += cotangent(0, p, c);
            }
        }
        for (int j = 0; j < layout_.width; j += lanes) {
            const size_t start = size_t(j / panel) * panel * rows() + j % panel;
            const float* h = outputs(layout_.hidden_layers) + start;
            float* g = cotangents + start;
            for (int c = 0; c < channels; ++c) {
                const Vector w = at(weights_.data + layout_.output(c) + j);
                Vector dw{};
                for (int row = 0; row < rows(); ++row) {
                    const float y = cotangent_[size_t(row) * channels + c];
                    dw += y * at(h + size_t(row) * panel);
                    Vector& sum = at(g + size_t(row) * panel);
                    sum = c == 0 ? y * w : sum + y * w;
                }
                at(gradient + layout_.output(c) + j) += dw;
            }
        }
    }

    const Weights weights_;
    const Layout layout_;
    const bool keep_;
    float scale_[2];
    int points_ = 0;
    float *coordinates_, *output_, *cotangent_, *matrices_;
};

// Packs the parameters, calls visit(tile, begin, end, thread) for tiles of points [begin, end) that
// share n points evenly among threads, and, given gradients, has each tile run backward after its
// visit and sums the result. The schedule is fixed, so equal thread counts give equal bits.
template <int streams, class Visit>
void for_each_tile(const Network& net, const float* coordinates, int64_t n, const float* scale,
                   const Gradients* gradients, const Visit& visit) {
    static thread_local Workspace workspace;
    const Layout layout(net);
    const int64_t groups = (n + point_group - 1) / point_group;
    const int threads = int(std::max<int64_t>(std::min<int64_t>(max_threads(), groups), 1));
    const bool keep = gradients != nullptr;

    const size_t size = aligned(layout.size());
    const size_t matrices = aligned(layout.hidden_layers * layout.matrix_size());
    const size_t scratch = aligned(Tile<streams>::scratch_size(layout, keep));
    float* const data = workspace.reserve(size + matrices + threads * (scratch + keep * size));
    float* const transposed = data + size;
    float* const tiles = transposed + matrices;
    float* const partial = tiles + threads * scratch;

    parallel(threads, [&](int thread) {
        pack(net, layout, keep, data, transposed, thread, threads);
    });
    parallel(threads, [&](int thread) {
        pack_sums(layout, keep, data, transposed, thread, threads);
    });
    const Weights weights{layout, data, transposed};
    parallel(threads, [&](int thread) {
        float* gradient = partial + thread * size;
        if (keep) std::fill_n(gradient, size, 0.0f);
        Tile<streams> tile(weights, scale, tiles + thread * scratch, keep);
        const int64_t first = share(groups, thread, threads);
        const int64_t count = share(groups, thread + 1, threads) - first;
        const int64_t tile_count = (count * point_group + tile.max_points - 1) / tile.max_points;
        for (int64_t t = 0; t < tile_count; ++t) {
            const int64_t begin = (first + count * t / tile_count) * point_group;
            const int64_t end = std::min(n, (first + count * (t + 1) / tile_count) * point_group);
            tile.load(coordinates + 2 * begin, int(end - begin));
            tile.forward();
            visit(tile, begin, end, thread);
            if (keep) tile.backward(gradient);
        }
        if (!keep || !layout.quartered()) return;
        for (int l = 1; l <= layout.hidden_layers; ++l) {
            strassen_combine(gradient + layout.matrix(l), size_t(layout.width) * layout.width / 4);
        }
    });
    if (!keep) return;
    parallel(threads, [&](int thread) {
        reduce(net, layout, partial, threads, *gradients, thread, threads);
    });
}

template <int streams>
void forward(const Network& net, const float* coordinates, int64_t n, const float* scale,
             float* output) {
    for_each_tile<streams>(
        net, coordinates, n, scale, nullptr,
        [&](Tile<streams>& tile, int64_t begin, int64_t end, int) {
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
        [&](Tile<streams>& tile, int64_t begin, int64_t end, int) {
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
        [&](Tile<streams>& tile, int64_t begin, int64_t end, int thread) {
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
