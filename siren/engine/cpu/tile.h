// Forward and back through all layers, for a tile of points whose layers fit the cache. siren.h has the mathematics.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include "cpu/gemm.h"
#include "cpu/layout.h"
#include "cpu/sincos.h"
#include "cpu/strassen.h"
#include "cpu/vector.h"

namespace siren {
namespace detail {

// Points times streams in a tile: enough rows to repay a pass over the weights and over the sums of
// their gradient, few enough for a layer to stay in the second-level cache. Measured on Zen 5 (1 MB):
// 96 to 216 rows are within 1 % of each other, 288 to 480 up to 10 % slower. On Zen 1 (512 KB): 144 and
// 192 are within 0.2 %, 96 1 to 2 % slower.
constexpr int tile_rows = 192;

// Points come in groups of this many, so that half the rows of a tile are whole register blocks.
constexpr int point_group = 2 * block_rows;

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
            product(outputs(l - 1), weights_.matrix_transposed(l), x_then_cosine(l),
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
    // Streams of x before the sine of layer l; once that is taken, cos x is in the place of x itself.
    float* x_then_cosine(int l) const { return buffer(keep_ ? 2 * l + 3 : 3); }
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
        left_sums(a, rows(), width, Left::as_stored, left());
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
        left_sums(g, rows(), width, Left::transposed, left());
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
            float* const all_cosine = x_then_cosine(0) + size_t(j) * rows() + v;
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
            const float* const all_cosine = x_then_cosine(0) + size_t(j) * rows() + v;
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
            float* const all_x = x_then_cosine(l) + size_t(j) * rows() + v;
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
            const float* const all_x = x_then_cosine(l) + size_t(j) * rows() + v;
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

}  // namespace detail
}  // namespace siren
