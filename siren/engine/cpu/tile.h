// Forward and back through all layers, for a tile of points whose layers fit the cache. siren.h has the mathematics.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include "cpu/gemm.h"
#include "cpu/layout.h"
#include "cpu/sine.h"
#include "cpu/strassen.h"
#include "cpu/tile_memory.h"
#include "cpu/vector.h"

namespace siren {
namespace detail {

// Points times streams in a tile: enough rows to repay a pass over the weights and over the sums of
// their gradient, few enough for a layer to stay in the second-level cache. Measured on Zen 5 (1 MB):
// 96 to 216 rows are within 1 % of each other, 288 to 480 up to 10 % slower. On Zen 1 (512 KB): 144 and
// 192 are within 0.2 %, 96 1 to 2 % slower.
constexpr int tile_rows = 192;

// All layers for one tile of points, on one thread. Rows of its matrices are ordered by half of the
// points, then stream, then point: products add up the rows of the two halves (strassen.h), and only
// the same streams, being of the same size, can be added without loss.
template <int streams>
class Tile : public TileMemory {
public:
    // Points come in groups of this many, so that half the rows of a tile are whole register blocks.
    static constexpr int point_group = 2 * block_rows;
    static constexpr int max_points = tile_rows / streams / point_group * point_group;

    // Without `keep`, layers share buffers, and only forward() may be called.
    static size_t scratch_size(const Layout& layout, bool keep) {
        const size_t matrix = size_t(streams) * max_points * layout.width;
        const size_t layers = layout.hidden_layers + 1;
        return size_of_points(layout, streams, max_points)
               + (keep ? 2 * layers + 4 : 4) * matrix;
    }

    static Layout layout_of(const Network& net) { return {net, Layout::Matrices::in_quarters}; }

    static constexpr auto pack_matrices = detail::pack_matrices;
    static constexpr auto reduce_matrices = detail::reduce_matrices;

    Tile(const Weights& weights, const float* scale, float* scratch, bool keep)
        : TileMemory(weights, scale, scratch, keep, streams, max_points, point_group) {}

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
        if (!layout_.quartered) {
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
        if (!layout_.quartered) {
            const size_t stride = size_t(rows()) * panel;
            return outer_products(g, stride, h, stride, gradient, rows(), width, width);
        }
        left_sums(g, rows(), width, Left::transposed, left());
        right_sums(h, rows(), width, right());
        strassen_outer(g, left(), h, right(), gradient, rows(), width, width);
    }

    // Streams of a point in a column panel.
    void load_streams(const float* from, Vector* x) const {
        for (int s = 0; s < streams; ++s) x[s] = at(from + s * stream_stride());
    }
    void store_streams(const Vector* x, float* to) const {
        for (int s = 0; s < streams; ++s) at(to + s * stream_stride()) = x[s];
    }

    // What comes before the first sine: lanes from column j on.
    struct First {
        Vector w0, w1, bias, x0, x1;

        First(const Tile& tile, int j)
            : w0(at(tile.weights_.data + tile.layout_.first(0) + j)),
              w1(at(tile.weights_.data + tile.layout_.first(1) + j)),
              bias(at(tile.weights_.data + tile.layout_.bias(0) + j)),
              x0(w0 * tile.scale_[0]),
              x1(w1 * tile.scale_[1]) {}

        // Streams of x at a point; without x itself where only its sine and cosine are needed.
        void streams_of(const float* row, const float* column, Vector* x) const {
            x[0] = row ? w0 * *row + (w1 * *column + bias) : Vector{};
            if (streams >= 3) {
                x[1] = x0;
                x[2] = x1;
            }
            if (streams == 4) x[3] = Vector{};
        }
    };

    void first_layer(int j) const {
        for (int v = j; v < j + panel; v += lanes) {
            const First first(*this, v);
            float* const all_h = outputs(0) + size_t(j) * rows() + (v - j);
            float* const all_cosine = x_then_cosine(0) + size_t(j) * rows() + (v - j);
            each_point([&](int p, size_t offset) {
                Vector x[streams], h[streams];
                first.streams_of(coordinates_ + p, coordinates_ + points_ + p, x);
                sine<streams>(x, h, at(all_cosine + offset));
                store_streams(h, all_h + offset);
            });
        }
    }

    void first_layer_adjoint(int j, const float* cotangents, float* gradient) const {
        for (int v = j; v < j + panel; v += lanes) {
            const First first(*this, v);
            const size_t start = size_t(j) * rows() + (v - j);
            Vector bias{}, dw0{}, dw1{}, dx0{}, dx1{};
            each_point([&](int p, size_t offset) {
                Vector x[streams], g[streams];
                first.streams_of(nullptr, nullptr, x);
                load_streams(cotangents + start + offset, g);
                sine_adjoint<streams>(at(outputs(0) + start + offset),
                                      at(x_then_cosine(0) + start + offset), x, g);
                bias += g[0];
                dw0 += g[0] * coordinates_[p];
                dw1 += g[0] * coordinates_[points_ + p];
                if (streams >= 3) {
                    dx0 += g[1];
                    dx1 += g[2];
                }
            });
            at(gradient + layout_.bias(0) + v) += bias;
            at(gradient + layout_.first(0) + v) += dw0 + dx0 * scale_[0];
            at(gradient + layout_.first(1) + v) += dw1 + dx1 * scale_[1];
        }
    }

    void sine_layer(int l, int j) const {
        for (int v = 0; v < panel; v += lanes) {
            const Vector bias = at(weights_.data + layout_.bias(l) + j + v);
            float* const all_h = outputs(l) + size_t(j) * rows() + v;
            float* const all_x = x_then_cosine(l) + size_t(j) * rows() + v;
            each_point([&](int, size_t offset) {
                Vector x[streams], h[streams];
                load_streams(all_x + offset, x);
                x[0] += bias;
                sine<streams>(x, h, at(all_x + offset));
                store_streams(h, all_h + offset);
            });
        }
    }

    // From cotangents of h to those of x, in place.
    void sine_layer_adjoint(int l, int j, float* cotangents, float* gradient) const {
        for (int v = 0; v < panel; v += lanes) {
            const float* const all_h = outputs(l) + size_t(j) * rows() + v;
            const float* const all_x = x_then_cosine(l) + size_t(j) * rows() + v;
            float* const all_g = cotangents + size_t(j) * rows() + v;
            Vector bias{};
            each_point([&](int, size_t offset) {
                Vector x[streams], g[streams];
                load_streams(all_x + offset, x);
                load_streams(all_g + offset, g);
                sine_adjoint<streams>(at(all_h + offset), x[0], x, g);
                store_streams(g, all_g + offset);
                bias += g[0];
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

};

}  // namespace detail
}  // namespace siren
