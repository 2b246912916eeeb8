// The hidden matrices, and their gradient, as the products of amx/product.h take and make them.
#pragma once

#include <algorithm>
#include <cstddef>

#include "cpu/amx/product.h"
#include "cpu/layout.h"
#include "cpu/parallel.h"

namespace siren {
namespace amx {

// Splits 32 lines of 32 numbers each, at lines[i * block_lines + k], as rows of A, into two neighboring
// strips of `pairs` pairs.
inline void store_rows(const float* lines, int pairs, TilePair* to) {
    for (int i = 0; i < block_lines; ++i, lines += block_lines) {
        TilePair& pair = to[i / tile_lines * pairs];
        alignas(64) float even[tile_depth / 2], odd[tile_depth / 2];
        for (int k = 0; k < tile_depth / 2; ++k) {
            even[k] = lines[2 * k];
            odd[k] = lines[2 * k + 1];
        }
        store_split(at(even), at(odd), pair, i % tile_lines);
    }
}

// One thread's share of the packing of omega W for all hidden W: as rows of A, and for a backward pass
// transposed ones too.
inline void pack_matrices(const Network& net, const detail::Layout& layout, bool backward, float* data,
                          float* transposed, int thread, int threads) {
    const int blocks = layout.width / block_lines;
    const auto strip = [&](float* matrix, int i, int k) {
        return reinterpret_cast<TilePair*>(matrix) + size_t(2 * i) * blocks + k;
    };
    alignas(64) float block[block_lines * block_lines], turned[block_lines * block_lines];
    const int all = net.hidden_layers * blocks * blocks;
    for (int n = int(share(all, thread, threads)); n < share(all, thread + 1, threads); ++n) {
        const int l = 1 + n / (blocks * blocks), i = n / blocks % blocks, k = n % blocks;
        for (int row = 0; row < block_lines; ++row) {
            for (int column = 0; column < block_lines; ++column) {
                const int from = i * block_lines + row, to = k * block_lines + column;
                const bool inside = from < net.width && to < net.width;
                const float x = inside ? net.omega * net.weights[l][size_t(from) * net.width + to] : 0.0f;
                block[row * block_lines + column] = turned[column * block_lines + row] = x;
            }
        }
        store_rows(block, blocks, strip(transposed + (l - 1) * layout.matrix_size(), i, k));
        if (backward) store_rows(turned, blocks, strip(data + layout.matrix(l), k, i));
    }
}

// One thread's share of the sums over the threads' gradients of the matrices. Of each block of 32 inputs,
// the even ones are the columns of one block of results, and the odd ones those of the next.
inline void reduce_matrices(const Network& net, const detail::Layout& layout,
                            const detail::Partial& partial, const Gradients& gradients, int thread,
                            int threads) {
    const int begin = int(share(net.width, thread, threads));
    const int end = int(share(net.width, thread + 1, threads));
    for (int l = 1; l <= net.hidden_layers; ++l) {
        for (int i = begin; i < end; ++i) {
            for (int j = 0; j < net.width; j += block_lines) {
                const size_t row = layout.matrix(l) + size_t(j) * layout.width
                                   + i / block_lines * 2 * result_block + i % block_lines * tile_lines;
                for (int parity = 0; parity < 2; ++parity) {
                    const int count = std::min(tile_lines, (net.width - j - parity + 1) / 2);
                    partial.total(row + parity * result_block, count, 2, net.omega,
                                  gradients.weights[l] + size_t(i) * net.width + j + parity);
                }
            }
        }
    }
}

}  // namespace amx
}  // namespace siren
