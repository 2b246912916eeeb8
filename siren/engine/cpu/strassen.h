// Matrix products by seven products of halves instead of eight: one level of Strassen's algorithm in
// Winograd's form, for C = A B with all three in quarters (X11 X12; X21 X22):
//     S1 = A21 + A22   S2 = S1 - A11    S3 = A11 - A21   S4 = A12 - S2
//     T1 = B12 - B11   T2 = B22 - T1    T3 = B22 - B12   T4 = B21 - T2
//     P1 = A11 B11   P2 = A12 B21   P3 = S4 B22   P4 = A22 T4   P5 = S1 T1   P6 = S2 T2   P7 = S3 T3
//     C11 = P1 + P2             C12 = P1 + P6 + P5 + P3
//     C21 = P1 + P6 + P7 + P4   C22 = P1 + P6 + P7 + P5
// The sums cost a few percent of the multiplications saved. One level doubles the rounding error at
// most, which stays far below that of float32 sine layers; more levels would not pay at these sizes.
#pragma once

#include "cpu/gemm.h"

namespace siren {

// A matrix in column panels that lie `stride` floats apart, or a quarter of one.
struct View {
    float* data;
    size_t stride;
};
struct ConstView {
    const float* data;
    size_t stride;
};

// Quarter (p, q), p and q in {0, 1}, of a matrix of (rows, columns).
inline ConstView quarter(const float* matrix, int rows, int columns, int p, int q) {
    const size_t stride = size_t(rows) * panel;
    return {matrix + q * (columns / 2 / panel) * stride + p * stride / 2, stride};
}

// Is a square matrix of this width cut in quarters? Small ones do not repay the sums.
inline bool has_quarters(int width) { return width % (2 * panel) == 0 && width >= 4 * panel; }

// How a matrix enters a product on its left.
enum class Left : bool { as_stored, transposed };

// sums = four matrices of (rows / 2, columns / 2), S1 to S4 of a, or of a transposed.
inline void left_sums(const float* a, int rows, int columns, Left left, float* sums) {
    const bool transposed = left == Left::transposed;
    const ConstView a11 = quarter(a, rows, columns, 0, 0), a22 = quarter(a, rows, columns, 1, 1);
    const ConstView a12 = quarter(a, rows, columns, transposed, !transposed);
    const ConstView a21 = quarter(a, rows, columns, !transposed, transposed);
    const size_t run = size_t(rows) / 2 * panel, size = run * (columns / 2 / panel);
    for (size_t j = 0; j < size_t(columns / 2 / panel); ++j, sums += run) {
        const size_t start = j * a11.stride;
        for (size_t i = 0; i < run; i += lanes) {
            const Vector x11 = at(a11.data + start + i), x21 = at(a21.data + start + i);
            const Vector s1 = x21 + at(a22.data + start + i), s2 = s1 - x11;
            at(sums + i) = s1;
            at(sums + size + i) = s2;
            at(sums + 2 * size + i) = x11 - x21;
            at(sums + 3 * size + i) = at(a12.data + start + i) - s2;
        }
    }
}

// sums = four matrices of (rows / 2, columns / 2), T1 to T4 of b.
inline void right_sums(const float* b, int rows, int columns, float* sums) {
    const ConstView b11 = quarter(b, rows, columns, 0, 0), b12 = quarter(b, rows, columns, 0, 1);
    const ConstView b21 = quarter(b, rows, columns, 1, 0), b22 = quarter(b, rows, columns, 1, 1);
    const size_t run = size_t(rows) / 2 * panel, size = run * (columns / 2 / panel);
    for (size_t j = 0; j < size_t(columns / 2 / panel); ++j, sums += run) {
        const size_t start = j * b11.stride;
        for (size_t i = 0; i < run; i += lanes) {
            const Vector x12 = at(b12.data + start + i), x22 = at(b22.data + start + i);
            const Vector t1 = x12 - at(b11.data + start + i), t2 = x22 - t1;
            at(sums + i) = t1;
            at(sums + size + i) = t2;
            at(sums + 2 * size + i) = x22 - x12;
            at(sums + 3 * size + i) = at(b21.data + start + i) - t2;
        }
    }
}

// Panels j and columns / 2 + j of C = A B, given the left sums of a[rows, depth] and the right sums
// of b[depth, columns]. rows is a multiple of 2 block_rows, depth and columns of 2 panel.
inline void strassen_panels(const float* a, const float* s, const float* b, const float* t, float* c,
                            int rows, int depth, int columns, int j) {
    const size_t s_stride = size_t(rows) / 2 * panel, s_size = s_stride * (depth / 2 / panel);
    const size_t t_stride = size_t(depth) / 2 * panel, t_size = t_stride * (columns / 2 / panel);
    const ConstView a11 = quarter(a, rows, depth, 0, 0), a12 = quarter(a, rows, depth, 0, 1);
    const ConstView a22 = quarter(a, rows, depth, 1, 1);
    const size_t b_offset = size_t(j) * depth, c_offset = size_t(j) * rows;
    const float* const b11 = quarter(b, depth, columns, 0, 0).data + b_offset;
    const float* const b21 = quarter(b, depth, columns, 1, 0).data + b_offset;
    const float* const b22 = quarter(b, depth, columns, 1, 1).data + b_offset;
    t += size_t(j) / panel * t_stride;
    float* const c11 = c + c_offset;
    float* const c12 = c11 + size_t(columns) / 2 * rows;
    float* const c21 = c11 + s_stride;
    float* const c22 = c12 + s_stride;
    const int half = depth / 2, end = int(s_stride), step = block_rows * panel;
    // One product after the other, so that the half-panel of B stays in the first-level cache.
    const auto add = [=](const float* x, size_t x_stride, const float* y, const float* start, float* z) {
        for (int i = 0; i < end; i += step) {
            product_block(x + i, x_stride, y, start ? start + i : nullptr, z + i, half);
        }
    };
    add(a11.data, a11.stride, b11, nullptr, c12);
    add(a12.data, a12.stride, b21, c12, c11);
    add(s + s_size, s_stride, t + t_size, c12, c12);
    add(s + 2 * s_size, s_stride, t + 2 * t_size, c12, c22);
    add(a22.data, a22.stride, t + 3 * t_size, c22, c21);
    for (int i = 0; i < end; i += step) {
        alignas(sizeof(Vector)) float p5[block_rows * panel];
        product_block(s + i, s_stride, t, nullptr, p5, half);
        for (int q = 0; q < step; q += lanes) {
            at(c22 + i + q) += at(p5 + q);
            at(c12 + i + q) += at(p5 + q);
        }
    }
    add(s + 3 * s_size, s_stride, b22, c12, c12);
}

// products += the seven products, (m / 2, n / 2) each, of A^T B for a[rows, m], b[rows, n], given the
// left sums of a transposed and the right sums of b.
inline void strassen_outer(const float* a, const float* s, const float* b, const float* t,
                           float* products, int rows, int m, int n) {
    const size_t stride = size_t(rows) / 2 * panel;
    const size_t s_size = stride * (m / 2 / panel), t_size = stride * (n / 2 / panel);
    const size_t size = size_t(m / 2) * (n / 2);
    const auto add = [&](int product, ConstView x, ConstView y) {
        outer_products(x.data, x.stride, y.data, y.stride, products + (product - 1) * size, rows / 2,
                       m / 2, n / 2);
    };
    const auto sum = [&](const float* sums, size_t sums_size, int i) {
        return ConstView{sums + (i - 1) * sums_size, stride};
    };
    add(1, quarter(a, rows, m, 0, 0), quarter(b, rows, n, 0, 0));
    add(2, quarter(a, rows, m, 1, 0), quarter(b, rows, n, 1, 0));
    add(3, sum(s, s_size, 4), quarter(b, rows, n, 1, 1));
    add(4, quarter(a, rows, m, 1, 1), sum(t, t_size, 4));
    add(5, sum(s, s_size, 1), sum(t, t_size, 1));
    add(6, sum(s, s_size, 2), sum(t, t_size, 2));
    add(7, sum(s, s_size, 3), sum(t, t_size, 3));
}

// Turns the seven products, `size` floats each, into C11, C21, C12 and C22 one after the other.
inline void strassen_combine(float* products, size_t size) {
    for (size_t i = 0; i < size; i += lanes) {
        float* const p = products + i;
        const Vector p1 = at(p), p5 = at(p + 4 * size);
        const Vector u2 = p1 + at(p + 5 * size), u3 = u2 + at(p + 6 * size);
        const Vector c12 = u2 + p5 + at(p + 2 * size);
        at(p) = p1 + at(p + size);
        at(p + size) = u3 + at(p + 3 * size);
        at(p + 2 * size) = c12;
        at(p + 3 * size) = u3 + p5;
    }
}

}  // namespace siren
