// As Tile of cpu/tile.h, with products of AMX: the streams of a unit at 16 points are a vector.
#pragma once

#include <algorithm>
#include <cstddef>

#include "cpu/amx/layout.h"
#include "cpu/amx/product.h"
#include "cpu/layout.h"
#include "cpu/sine.h"
#include "cpu/tile_memory.h"
#include "cpu/vector.h"

namespace siren {
namespace amx {

using detail::aligned;
using detail::Layout;
using detail::Weights;

constexpr int tile_columns = 256;  // points times streams in a tile

// All layers for one tile of points, on one thread. Columns of its matrices are vectors of 16 points:
// of 32 points, the two vectors of each stream one after the other. Rows are units.
//
// There are matrices of float32, in result blocks of 32 units and 16 columns, those of the same units
// one after the other; and split ones, operands of products:
//     streams of h      B, lines are columns, depth is units     for the next layer's x
//     cotangents of x   B, likewise                              for the cotangents of h before them
//     cotangents of x   A, lines are units, depth is columns     for the gradient of W, with
//     streams of h      B, lines are units, depth is columns     these: 32 units of the first, transposed
template <int streams>
class Tile : public detail::TileMemory {
public:
    static constexpr int point_group = 2 * lanes;
    static constexpr int max_points =
        std::max(tile_columns / streams / point_group * point_group, point_group);

    // Without `keep`, layers share buffers, and only forward() may be called.
    static size_t scratch_size(const Layout& layout, bool keep) {
        const size_t matrix = size_t(streams) * max_points * layout.width;
        const size_t layers = layout.hidden_layers + 1;
        return size_of_points(layout, streams, max_points)
               + (keep ? 2 * layers + 4 : 3) * matrix + size_t(streams) * max_points * block_lines;
    }

    static Layout layout_of(const Network& net) { return {net, Layout::Matrices::whole}; }

    static constexpr auto pack_matrices = amx::pack_matrices;
    static constexpr auto reduce_matrices = amx::reduce_matrices;

    Tile(const Weights& weights, const float* scale, float* scratch, bool keep)
        : TileMemory(weights, scale, scratch, keep, streams, max_points, point_group) {}

    float& output(int stream, int point, int channel) {
        return output_[channel * columns() + column(stream, point)];
    }
    float& cotangent(int stream, int point, int channel) {
        return cotangent_[channel * columns() + column(stream, point)];
    }

    void forward() {
        const Tiles tiles;
        for (int block = 0; block < blocks(); ++block) {
            each_place(block, [&](Place place) { first_layer(place); });
        }
        for (int l = 1; l <= layout_.hidden_layers; ++l) {
            multiply(pairs(weights_.matrix_transposed(l)), outputs(l - 1), x_then_cosine(l),
                     [&](Place place) { sine_layer(l, place); });
        }
        output_layer();
    }

    // Adds this tile's share of the gradient to `gradient`.
    void backward(float* gradient) {
        const Tiles tiles;
        const int last = layout_.hidden_layers;
        output_layer_adjoint(gradient);
        for (int block = 0; block < blocks(); ++block) {
            each_place(block, [&](Place place) { sine_layer_adjoint(last, place, gradient); });
        }
        for (int l = last; l > 0; --l) {
            add_outer_products(l, gradient + layout_.matrix(l));
            multiply(pairs(weights_.matrix(l)), cotangents(l), cotangents_of_h(), [&](Place place) {
                if (l > 1) {
                    sine_layer_adjoint(l - 1, place, gradient);
                } else {
                    first_layer_adjoint(place, gradient);
                }
            });
        }
    }

private:
    int columns() const { return streams * points_; }
    int vectors() const { return columns() / lanes; }
    int blocks() const { return layout_.width / block_lines; }  // of units
    static int vector(int stream, int point) {  // the one with a point
        return (point / point_group * streams + stream) * 2 + point % point_group / lanes;
    }
    static int column(int stream, int point) { return vector(stream, point) * lanes + point % lanes; }

    float* buffer(int i) const { return matrices_ + size_t(i) * columns() * layout_.width; }
    static TilePair* pairs(float* matrix) { return reinterpret_cast<TilePair*>(matrix); }
    static const TilePair* pairs(const float* matrix) { return reinterpret_cast<const TilePair*>(matrix); }
    // Streams of h after layer l.
    TilePair* outputs(int l) const { return pairs(buffer(keep_ ? 2 * l : l % 2)); }
    // Streams of x before the sine of layer l; once that is taken, cos x is in the place of x itself.
    float* x_then_cosine(int l) const { return buffer(keep_ ? 2 * l + 1 : 2); }
    float* cotangents_of_h() const { return buffer(2 * layout_.hidden_layers + 2); }
    // Cotangents of x before the sine of layer l, which come from those of the layer after it.
    TilePair* cotangents(int l) const { return pairs(buffer(2 * layout_.hidden_layers + 3 + l % 2)); }
    TilePair* cotangents_by_unit() const { return pairs(buffer(2 * layout_.hidden_layers + 5)); }
    TilePair* outputs_by_unit() const { return pairs(buffer(2 * layout_.hidden_layers + 6)); }  // a block's

    // Row `unit` of a block of units in a float32 matrix, at a vector of columns.
    float* row(float* matrix, int block, int vector, int unit) const {
        return matrix + (size_t(block) * vectors() + vector) * result_block + unit * lanes;
    }

    // Two neighboring units at 32 points: the first one's number in a block of units, the number of the
    // first point, and its vector.
    struct Place {
        int block, unit, point, vector;
        int first_unit() const { return block * block_lines + unit; }  // in the network
    };
    template <class Visit>
    void each_place(int block, const Visit& visit) const {
        for (int point = 0; point < points_; point += point_group) {
            for (int unit = 0; unit < block_lines; unit += 2) {
                visit(Place{block, unit, point, vector(0, point)});
            }
        }
    }

    // c = a b for a packed weight matrix a and split streams b; calls visit(place) for each place of c, a block
    // of units after the other.
    template <class Visit>
    void multiply(const TilePair* a, const TilePair* b, float* c, const Visit& visit) const {
        const size_t depth = blocks();
        for (int block = 0; block < blocks(); ++block) {
            for (int v = 0; v < vectors(); v += 2) {
                product<Sum::from_zero>(a + 2 * block * depth, b + v * depth, blocks(), row(c, block, v, 0));
            }
            each_place(block, visit);
        }
    }

    // Streams of a unit at both vectors of 32 points.
    struct Streams {
        Vector half[2][streams];
    };

    // Splits streams as lines of B that are columns.
    void store_columns(TilePair* matrix, Place place, const Streams (&units)[2]) const {
        for (int s = 0; s < streams; ++s) {
            for (int half = 0; half < 2; ++half) {
                TilePair& pair = matrix[size_t(place.vector + 2 * s + half) * blocks() + place.block];
                store_split(units[0].half[half][s], units[1].half[half][s], pair, place.unit / 2);
            }
        }
    }

    // Splits streams as lines of A that are units.
    void store_units(TilePair* matrix, Place place, const Streams (&units)[2]) const {
        const size_t strip = place.first_unit() / tile_lines;
        for (int s = 0; s < streams; ++s) {
            TilePair& pair = matrix[strip * (vectors() / 2) + place.vector / 2 + s];
            for (int i = 0; i < 2; ++i) {
                store_split(units[i].half[0][s], units[i].half[1][s], pair, place.unit % tile_lines + i);
            }
        }
    }

    // Streams of a unit at a vector of points, from a float32 matrix.
    void load_streams(float* matrix, Place place, int i, int half, Vector* x) const {
        for (int s = 0; s < streams; ++s) {
            x[s] = at(row(matrix, place.block, place.vector + 2 * s + half, place.unit + i));
        }
    }

    // h of a unit at a vector of columns.
    Vector output_of(int l, int unit, int v) const {
        return joined(outputs(l)[size_t(v) * blocks() + unit / block_lines], unit % block_lines / 2, unit % 2);
    }

    // x and its streams before the first sine.
    void first_streams(int unit, int point, Vector* x) const {
        const float w0 = weights_.data[layout_.first(0) + unit], w1 = weights_.data[layout_.first(1) + unit];
        const float bias = weights_.data[layout_.bias(0) + unit];
        x[0] = w0 * at(coordinates_ + point) + (w1 * at(coordinates_ + points_ + point) + bias);
        if (streams >= 3) {
            x[1] = broadcast(w0 * scale_[0]);
            x[2] = broadcast(w1 * scale_[1]);
        }
        if (streams == 4) x[3] = Vector{};
    }

    void first_layer(Place place) const {
        Streams h[2];
        for (int i = 0; i < 2; ++i) {
            for (int half = 0; half < 2; ++half) {
                Vector x[streams];
                first_streams(place.first_unit() + i, place.point + half * lanes, x);
                detail::sine<streams>(x, h[i].half[half],
                                      at(row(x_then_cosine(0), place.block, place.vector + half, place.unit + i)));
            }
        }
        store_columns(outputs(0), place, h);
    }

    void sine_layer(int l, Place place) const {
        float* const matrix = x_then_cosine(l);
        Streams h[2];
        for (int i = 0; i < 2; ++i) {
            const float bias = weights_.data[layout_.bias(l) + place.first_unit() + i];
            for (int half = 0; half < 2; ++half) {
                Vector x[streams];
                load_streams(matrix, place, i, half, x);
                x[0] += bias;
                detail::sine<streams>(x, h[i].half[half],
                                      at(row(matrix, place.block, place.vector + half, place.unit + i)));
            }
        }
        store_columns(outputs(l), place, h);
    }

    // From cotangents of h to those of x; x is that of layer l, or, in the first, computed anew.
    void adjoint(int l, Place place, int i, int half, Vector* x, Vector* g) const {
        load_streams(cotangents_of_h(), place, i, half, g);
        const int v = place.vector + half, unit = place.first_unit() + i;
        const Vector s = streams == 1 ? Vector{} : output_of(l, unit, v);
        detail::sine_adjoint<streams>(s, at(row(x_then_cosine(l), place.block, v, place.unit + i)), x, g);
    }

    // The cotangents are split in both ways.
    void sine_layer_adjoint(int l, Place place, float* gradient) const {
        Streams g[2];
        for (int i = 0; i < 2; ++i) {
            for (int half = 0; half < 2; ++half) {
                Vector x[streams];
                load_streams(x_then_cosine(l), place, i, half, x);
                adjoint(l, place, i, half, x, g[i].half[half]);
            }
            gradient[layout_.bias(l) + place.first_unit() + i] += sum(g[i].half[0][0] + g[i].half[1][0]);
        }
        store_units(cotangents_by_unit(), place, g);
        store_columns(cotangents(l), place, g);
    }

    void first_layer_adjoint(Place place, float* gradient) const {
        for (int i = 0; i < 2; ++i) {
            Vector bias{}, dw0{}, dw1{};
            for (int half = 0; half < 2; ++half) {
                const int point = place.point + half * lanes;
                Vector x[streams], g[streams];
                first_streams(place.first_unit() + i, point, x);
                adjoint(0, place, i, half, x, g);
                bias += g[0];
                dw0 += g[0] * at(coordinates_ + point);
                dw1 += g[0] * at(coordinates_ + points_ + point);
                if (streams >= 3) {
                    dw0 += g[1] * scale_[0];
                    dw1 += g[2] * scale_[1];
                }
            }
            float* const to = gradient + place.first_unit() + i;
            to[layout_.bias(0)] += sum(bias);
            to[layout_.first(0)] += sum(dw0);
            to[layout_.first(1)] += sum(dw1);
        }
    }

    void output_layer() {
        const float* const bias = weights_.data + layout_.output_bias();
        for (int c = 0; c < layout_.channels; ++c) {
            const float* const w = weights_.data + layout_.output(c);
            for (int v = 0; v < vectors(); ++v) {
                const bool is_value = v / 2 % streams == 0;  // no bias in derivatives
                Vector y{};
                if (is_value) y += bias[c];
                for (int unit = 0; unit < layout_.width; ++unit) {
                    y += w[unit] * output_of(layout_.hidden_layers, unit, v);
                }
                at(output_ + c * columns() + v * lanes) = y;
            }
        }
    }

    void output_layer_adjoint(float* gradient) const {
        const int channels = layout_.channels;
        for (int p = 0; p < points_; ++p) {
            for (int c = 0; c < channels; ++c) {
                gradient[layout_.output_bias() + c] += cotangent_[c * columns() + column(0, p)];
            }
        }
        for (int unit = 0; unit < layout_.width; ++unit) {
            for (int c = 0; c < channels; ++c) {
                const float w = weights_.data[layout_.output(c) + unit];
                Vector dw{};
                for (int v = 0; v < vectors(); ++v) {
                    const Vector y = at(cotangent_ + c * columns() + v * lanes);
                    dw += y * output_of(layout_.hidden_layers, unit, v);
                    Vector& g = at(row(cotangents_of_h(), unit / block_lines, v, unit % block_lines));
                    g = c == 0 ? y * w : g + y * w;
                }
                gradient[layout_.output(c) + unit] += sum(dw);
            }
        }
    }

    // Streams of h of a block as lines of B that are units: the even ones are a strip, the odd ones the next.
    void transpose_outputs(int l, int block) const {
        const int depth = vectors() / 2;
        for (int v = 0; v < depth; ++v) {
            const TilePair* const from = outputs(l) + size_t(2 * v) * blocks() + block;
            TilePair* const to = outputs_by_unit() + v;
            transpose_pairs(from->high, from[blocks()].high, to->high, to[depth].high);
            transpose_pairs(from->low, from[blocks()].low, to->low, to[depth].low);
        }
    }

    // Adds the products of the cotangents of x of layer l with the streams of h before it.
    void add_outer_products(int l, float* gradient) const {
        const int depth = vectors() / 2;
        for (int j = 0; j < blocks(); ++j) {
            transpose_outputs(l - 1, j);
            for (int i = 0; i < blocks(); ++i, gradient += 2 * result_block) {
                product<Sum::from_c>(cotangents_by_unit() + size_t(2 * i) * depth, outputs_by_unit(), depth,
                                     gradient);
            }
        }
    }

};

}  // namespace amx
}  // namespace siren
