// Dense matrix products on register blocks.
//
// Every matrix inside the engine is stored in column panels: columns [j*panel, (j+1)*panel) of all
// rows lie together, row after row. Element (i, j) of a matrix with `rows` rows is
//     data[(j / panel) * rows * panel + i * panel + j % panel].
// One layout then serves as either operand and as the result, transposed or not, without packing
// in between, and a panel of an activation stays in the first-level cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "parallel.h"
#include "vector.h"

namespace siren {

constexpr int panel = 2 * lanes;

inline int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// c[block_rows, panel] = a[block_rows, depth] b[depth, panel]. The panels of a lie `stride` floats
// apart; depth is a multiple of `panel`.
inline void product_block(const float* a, size_t stride, const float* b, float* c, int depth) {
    Vector sums[block_rows][2];
    for (int i = 0; i < block_rows; ++i) sums[i][0] = sums[i][1] = Vector{};
    for (int p = 0; p < depth; p += panel, a += stride) {
        for (int k = 0; k < panel; ++k, b += panel) {
            const Vector b0 = at(b), b1 = at(b + lanes);
#pragma GCC unroll 12
            for (int i = 0; i < block_rows; ++i) {
                const Vector x = broadcast(a[i * panel + k]);
                sums[i][0] += x * b0;
                sums[i][1] += x * b1;
            }
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < block_rows; ++i, c += panel) {
        at(c) = sums[i][0];
        at(c + lanes) = sums[i][1];
    }
}

// One panel of C = A B: c[rows, panel] from all of a[rows, depth] and one panel b[depth, panel].
// `rows` is a multiple of block_rows, `depth` of panel.
inline void product_panel(const float* a, const float* b, float* c, int rows, int depth) {
    for (int i = 0; i < rows; i += block_rows) {
        product_block(a + i * panel, size_t(rows) * panel, b, c + i * panel, depth);
    }
}

// c[outer_rows, panel] += sum over rows of a[row, outer_rows]^T b[row, panel].
inline void outer_block(const float* a, const float* b, float* c, int rows) {
    for (int i = 0; i < outer_rows; ++i) {
        // The accumulator lives in a farther cache than the operands: ask for it ahead of use.
        __builtin_prefetch(c + i * panel, 1);
        __builtin_prefetch(c + i * panel + lanes, 1);
    }
    Vector sums[outer_rows][2];
    for (int i = 0; i < outer_rows; ++i) sums[i][0] = sums[i][1] = Vector{};
    for (int row = 0; row < rows; ++row, a += panel, b += panel) {
        const Vector b0 = at(b), b1 = at(b + lanes);
#pragma GCC unroll 8
        for (int i = 0; i < outer_rows; ++i) {
            const Vector x = broadcast(a[i]);
            sums[i][0] += x * b0;
            sums[i][1] += x * b1;
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < outer_rows; ++i, c += panel) {
        at(c) += sums[i][0];
        at(c + lanes) += sums[i][1];
    }
}

// C += A^T B for a[rows, m], b[rows, n], c[m, n]; m and n are multiples of panel.
inline void outer_products(const float* a, const float* b, float* c, int rows, int m, int n) {
    for (int j = 0; j < n; j += panel) {
        for (int i = 0; i < m; i += outer_rows) {
            outer_block(a + size_t(i / panel) * rows * panel + i % panel, b + size_t(j) * rows,
                        c + size_t(j) * m + i * panel, rows);
        }
    }
}

// Packs panel number j of factor * source, a dense row-major (rows, columns) matrix, into
// destination[padded_rows, panel]; zeros beyond the matrix.
inline void pack_panel(const float* source, int rows, int columns, float factor, int j,
                       float* destination, int padded_rows) {
    const int valid = std::min(panel, columns - j * panel);
    std::fill_n(destination, size_t(padded_rows) * panel, 0.0f);
    for (int i = 0; i < rows; ++i) {
        const float* row = source + size_t(i) * columns + j * panel;
        for (int q = 0; q < valid; ++q) destination[i * panel + q] = factor * row[q];
    }
}

// The same for the transposed matrix: source is (columns, rows).
inline void pack_panel_transposed(const float* source, int rows, int columns, float factor, int j,
                                  float* destination, int padded_rows) {
    const int valid = std::min(panel, columns - j * panel);
    std::fill_n(destination, size_t(padded_rows) * panel, 0.0f);
    for (int q = 0; q < valid; ++q) {
        const float* column = source + size_t(j * panel + q) * rows;
        for (int i = 0; i < rows; ++i) destination[i * panel + q] = factor * column[i];
    }
}

}  // namespace siren
