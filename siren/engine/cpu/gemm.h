// Dense matrix products on register blocks.
//
// Every matrix inside the engine is stored in column panels: columns [j*panel, (j+1)*panel) of all
// rows lie together, row after row. Element (i, j) of a matrix with `rows` rows is
//     data[(j / panel) * rows * panel + i * panel + j % panel].
// One layout then serves as either operand and as the result, transposed or not, without packing
// in between, and a panel of an activation stays in the first-level cache.
#pragma once

#include <algorithm>
#include <cstddef>

#include "cpu/vector.h"

namespace siren {

constexpr int panel = 2 * lanes;

inline int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// c[block_rows, panel] = a[block_rows, depth] b[depth, panel] + start, or without start if null. The
// panels of a lie `stride` floats apart; depth is a multiple of `panel`. Never inlined: all registers
// are needed for the sums. Never unrolled over a whole panel: under -Ofast GCC then regroups the sums of
// products and spills them, and a step takes 1.3 times as long (g++ 12, AVX2). Both begin alike, with or
// without `start`: otherwise all sums reach the loop through memory.
__attribute__((noinline)) inline void product_block(const float* a, size_t stride, const float* b,
                                                    const float* start, float* c, int depth) {
    alignas(sizeof(Vector)) static const float zeros[block_rows * panel] = {};
    if (!start) start = zeros;
    Vector sums[block_rows][2];
#pragma GCC unroll 12
    for (int i = 0; i < block_rows; ++i) {
        sums[i][0] = at(start + i * panel);
        sums[i][1] = at(start + i * panel + lanes);
    }
    for (int p = 0; p < depth; p += panel, a += stride) {
#pragma GCC unroll 4
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
        product_block(a + i * panel, size_t(rows) * panel, b, nullptr, c + i * panel, depth);
    }
}

// c[height, panel] += sum over rows of a[row, height]^T b[row, panel].
template <int height>
__attribute__((noinline)) void outer_block(const float* a, const float* b, float* c, int rows) {
    for (int i = 0; i < height; ++i) {
        // The sum lives in a farther cache than the operands: ask for it ahead of use.
        __builtin_prefetch(c + i * panel, 1);
        __builtin_prefetch(c + i * panel + lanes, 1);
    }
    Vector sums[height][2];
    for (int i = 0; i < height; ++i) sums[i][0] = sums[i][1] = Vector{};
#pragma GCC unroll 2
    for (int row = 0; row < rows; ++row, a += panel, b += panel) {
        const Vector b0 = at(b), b1 = at(b + lanes);
#pragma GCC unroll 12
        for (int i = 0; i < height; ++i) {
            const Vector x = broadcast(a[i]);
            sums[i][0] += x * b0;
            sums[i][1] += x * b1;
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < height; ++i, c += panel) {
        at(c) += sums[i][0];
        at(c + lanes) += sums[i][1];
    }
}

// C += A^T B for a[rows, m], b[rows, n], c[m, n], the panels of a and b lying as far apart as their
// strides say; m and n are multiples of panel. The columns of a panel of A are handled in three
// blocks, as even as can be, each of which fits the registers.
inline void outer_products(const float* a, size_t a_stride, const float* b, size_t b_stride, float* c,
                           int rows, int m, int n) {
    constexpr int first = (panel + 2) / 3, second = (panel + 1) / 3, third = panel / 3;
    for (int j = 0; j < n; j += panel, b += b_stride) {
        const float* x = a;
        for (int i = 0; i < m; i += panel, x += a_stride, c += panel * panel) {
            outer_block<first>(x, b, c, rows);
            outer_block<second>(x + first, b, c + first * panel, rows);
            outer_block<third>(x + first + second, b, c + (first + second) * panel, rows);
        }
    }
}

// Packs panel number j of factor * source, a dense row-major (rows, columns) matrix, into
// destination[padded_rows, panel]; zeros beyond the matrix.
inline void pack_panel(const float* source, int rows, int columns, float factor, int j,
                       float* destination, int padded_rows) {
    const int valid = std::min(panel, columns - j * panel);
    source += j * panel;
    for (int i = 0; i < rows; ++i, source += columns, destination += panel) {
        for (int q = 0; q < valid; ++q) destination[q] = factor * source[q];
        for (int q = valid; q < panel; ++q) destination[q] = 0;
    }
    std::fill_n(destination, size_t(padded_rows - rows) * panel, 0.0f);
}

// The same for the transposed matrix: source is (columns, rows). Rows go in strips, so that the
// scattered writes of a strip stay in the first-level cache.
inline void pack_panel_transposed(const float* source, int rows, int columns, float factor, int j,
                                  float* destination, int padded_rows) {
    constexpr int strip = 16;
    const int valid = std::min(panel, columns - j * panel);
    source += size_t(j) * panel * rows;
    if (valid < panel) std::fill_n(destination, size_t(rows) * panel, 0.0f);
    for (int start = 0; start < rows; start += strip) {
        const int end = std::min(rows, start + strip);
        for (int q = 0; q < valid; ++q) {
            const float* column = source + size_t(q) * rows;
            for (int i = start; i < end; ++i) destination[i * panel + q] = factor * column[i];
        }
    }
    std::fill_n(destination + size_t(rows) * panel, size_t(padded_rows - rows) * panel, 0.0f);
}

}  // namespace siren
