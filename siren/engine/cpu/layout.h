// How the parameters, and their gradient, lie in memory in a call of siren.h: packing them before it, and adding up the
// threads' gradients after it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cpu/gemm.h"
#include "cpu/parallel.h"
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

namespace detail {

inline size_t aligned(size_t floats) { return (floats + 15) / 16 * 16; }

// Offsets, in floats, of one copy of the parameters (or of their gradient) in kernel layout:
// vectors and matrices padded with zeros to whole panels. A padded unit has h = sin 0 = 0 and
// receives no cotangent, so padding never reaches a result.
struct Layout {
    int width, hidden_layers, channels;  // width is the padded one
    bool quartered;                      // whether matrices are in quarters

    enum class Matrices : bool { whole, in_quarters };  // the latter where they are large enough

    Layout(const Network& net, Matrices matrices)
        : width(round_up(net.width, panel)),
          hidden_layers(net.hidden_layers),
          channels(net.channels),
          quartered(matrices == Matrices::in_quarters && has_quarters(width)) {}

    // Quarters need room for the sums of a weight matrix, or for the seven products of a gradient.
    size_t matrix_size() const { return (quartered ? 2 : 1) * size_t(width) * width; }
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
        const int rows = quartered ? width / 2 : width;
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

// All parameters but the hidden matrices.
inline void pack_vectors(const Network& net, const Layout& layout, float* data) {
    const int width = layout.width;
    for (int column = 0; column < 2; ++column) {
        pack_vector(net.weights[0] + column, net.width, 2, net.omega, data + layout.first(column),
                    width);
    }
    for (int l = 0; l <= net.hidden_layers; ++l) {
        pack_vector(net.biases[l], net.width, 1, net.omega, data + layout.bias(l), width);
    }
    for (int c = 0; c < net.channels; ++c) {
        pack_vector(net.weights[net.hidden_layers + 1] + size_t(c) * net.width, net.width, 1, 1.0f,
                    data + layout.output(c), width);
    }
    pack_vector(net.biases[net.hidden_layers + 1], net.channels, 1, 1.0f,
                data + layout.output_bias(), net.channels);
}

// One thread's share of the packing of all hidden matrices: some panels of each.
inline void pack_matrices(const Network& net, const Layout& layout, bool backward, float* data,
                          float* transposed, int thread, int threads) {
    const int width = layout.width, panels = width / panel;
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

// One thread's share of what follows the packing of quarters: the right sums of some matrices.
inline void pack_sums(const Layout& layout, bool backward, float* data, float* transposed, int thread,
                      int threads) {
    const int orientations = backward ? 2 : 1;
    const int matrices = orientations * layout.hidden_layers;
    for (int i = thread; i < matrices; i += threads) {
        const int layer = 1 + i / orientations;
        float* const matrix = i % orientations == 0
                                  ? transposed + (layer - 1) * layout.matrix_size()
                                  : data + layout.matrix(layer);
        right_sums(matrix, layout.width, layout.width, matrix + size_t(layout.width) * layout.width);
    }
}

// Sums over the threads' partial gradients, in order.
struct Partial {
    const float* data;  // `size` floats of each thread, one after the other
    int parts;
    size_t size;

    // result[0], [stride], ... = factor times the sums of n floats from `offset` on.
    void total(size_t offset, int n, int stride, float factor, float* result) const {
        for (int i = 0; i < n; i += lanes) {
            Vector x{};
            for (int t = 0; t < parts; ++t) x += at(data + t * size + offset + i);
            x *= factor;
            for (int q = 0; q < std::min(lanes, n - i); ++q) *(result + (i + q) * stride) = x[q];
        }
    }
};

// The gradient of all parameters but the hidden matrices, times omega where it was folded into them.
inline void reduce_vectors(const Network& net, const Layout& layout, const Partial& partial,
                           const Gradients& gradients) {
    const int last = net.hidden_layers + 1;
    for (int column = 0; column < 2; ++column) {
        partial.total(layout.first(column), net.width, 2, net.omega, gradients.weights[0] + column);
    }
    for (int l = 0; l < last; ++l) {
        partial.total(layout.bias(l), net.width, 1, net.omega, gradients.biases[l]);
    }
    for (int c = 0; c < net.channels; ++c) {
        partial.total(layout.output(c), net.width, 1, 1.0f,
                      gradients.weights[last] + size_t(c) * net.width);
    }
    partial.total(layout.output_bias(), net.channels, 1, 1.0f, gradients.biases[last]);
}

// One thread's share of the sums over the threads' gradients of the matrices: some rows of each.
inline void reduce_matrices(const Network& net, const Layout& layout, const Partial& partial,
                            const Gradients& gradients, int thread, int threads) {
    const int begin = int(share(net.width, thread, threads));
    const int end = int(share(net.width, thread + 1, threads));
    for (int l = 1; l <= net.hidden_layers; ++l) {
        for (int i = begin; i < end; ++i) {
            for (int j = 0; j < net.width; j += panel) {
                partial.total(layout.matrix(l) + layout.gradient_element(i, j),
                              std::min(panel, net.width - j), 1, net.omega,
                              gradients.weights[l] + size_t(i) * net.width + j);
            }
        }
    }
}

}  // namespace detail
}  // namespace siren
