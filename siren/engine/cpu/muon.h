// The matrix part of Muon, on the products of gemm.h: what reference.py calls `orthogonalize`.
//
// An iteration is X <- X P with P = a I + b G + c G^2 and G = X^T X. (With X X^T on the left the
// result is the same; from the right no matrix need ever be transposed.) Both X^T X and G^2 = G^T G
// are symmetric: only blocks on and below the diagonal are computed, the others are mirrored.
//
// Every block of a result is computed in one piece by one thread. So results do not depend, bit for
// bit, on the number of threads, nor on which thread computes what.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "cpu/gemm.h"
#include "cpu/team.h"
#include "optimizer_numbers.h"

namespace siren {

namespace detail {

// Memory layout of a square matrix (n, n): column panels, padded with zeros so that each matrix can
// be either operand of a product.
struct Square {
    int n, panels, rows;

    explicit Square(int n)
        : n(n),
          panels(round_up(n, panel) / panel),
          rows(std::max(round_up(n, block_rows), panels * panel)) {}

    size_t stride() const { return size_t(rows) * panel; }  // from a panel to the next
    size_t size() const { return panels * stride(); }
    size_t block(int i, int j) const { return j * stride() + size_t(i) * panel * panel; }
    int lower_blocks() const { return panels * (panels + 1) / 2; }
};

// to = the transpose of from, both [panel, panel].
inline void transpose_block(const float* from, float* to) {
    for (int i = 0; i < panel; ++i) {
        for (int j = 0; j < panel; ++j) to[j * panel + i] = from[i * panel + j];
    }
}

// Block (i, j), i >= j, of a symmetric matrix.
struct LowerBlock {
    int i, j;

    // Number `index` of Square::lower_blocks(), row after row.
    explicit LowerBlock(int index) : i(0), j(index) {
        while (j > i) j -= ++i;
    }
};

// Block (i, j) of X^T X, summed over strips of rows that fit the first-level cache.
inline void gram_block(const Square& shape, const float* x, LowerBlock at, float* block) {
    constexpr int strip = 2048 / panel;
    const float* const a = x + at.i * shape.stride();
    const float* const b = x + at.j * shape.stride();
    std::fill_n(block, panel * panel, 0.0f);
    for (int row = 0; row < shape.n; row += strip) {
        const size_t start = size_t(row) * panel;
        outer_products(a + start, 0, b + start, 0, block, std::min(strip, shape.n - row), panel, panel);
    }
}

// block = a I + b G + c block on the diagonal, b G + c block elsewhere, where G is block `gram`.
inline void combine_block(Polynomial p, bool diagonal, const float* gram, float* block) {
    for (int i = 0; i < panel * panel; ++i) block[i] = p.b * gram[i] + p.c * block[i];
    if (diagonal) {
        for (int i = 0; i < panel; ++i) block[i * (panel + 1)] += p.a;
    }
}

// A stack of matrices on the way to orthogonal ones. All threads of a team call the same functions.
class NewtonSchulz {
public:
    NewtonSchulz(int count, int n)
        : shape_(n), count_(count), squares_(count * std::max(n, shape_.lower_blocks())) {
        static thread_local Workspace workspace;
        const size_t size = count * shape_.size();
        x_[0] = workspace.reserve(4 * size);
        x_[1] = x_[0] + size;
        gram_ = x_[1] + size;
        polynomial_ = gram_ + size;
    }

    // Orthogonalizes `matrices`, dense and row-major, one after the other. Results go to
    // store(matrix, row, column, values, valid), of which `valid` values from `column` on are in
    // the matrix; it is called in any order and by any thread.
    template <class Store>
    void run(Team& team, const float* matrices, const std::vector<Polynomial>& polynomials,
             const Store& store) {
        load(team, matrices);
        const int last = int(polynomials.size()) - 1;
        for (int i = 0; i <= last; ++i) {
            const float* const x = x_[i % 2];
            compute_gram(team, x);
            if (i == 0) {
                first_polynomial(team, polynomials[0]);
            } else {
                next_polynomial(team, polynomials[i]);
            }
            if (i < last) {
                multiply(team, x, x_[(i + 1) % 2]);
            } else {
                multiply_into(team, x, store);
            }
        }
    }

private:
    // X = each of `matrices`, dense and row-major, divided by its Frobenius norm.
    void load(Team& team, const float* matrices) {
        const int n = shape_.n;
        const size_t size = size_t(n) * n;
        each(team, n, [&](int matrix, int row) {
            const float* const values = matrices + matrix * size + size_t(row) * n;
            double sum = 0;
            for (int i = 0; i < n; ++i) sum += double(values[i]) * values[i];
            squares_[matrix * n + row] = sum;
        });
        const std::vector<double> squares = sums(n);
        each(team, shape_.panels, [&](int matrix, int j) {
            const float factor = float(1 / std::max(std::sqrt(squares[matrix]), 1e-37));
            pack_panel(matrices + matrix * size, n, n, factor, j,
                       x_[0] + matrix * shape_.size() + j * shape_.stride(), shape_.rows);
        });
    }

    // G = X^T X.
    void compute_gram(Team& team, const float* x) {
        each(team, shape_.lower_blocks(), [&](int matrix, int index) {
            const LowerBlock at(index);
            gram_block(shape_, x + matrix * shape_.size(), at, gram_ + offset(matrix, at));
            mirror(gram_, matrix, at);
        });
    }

    // P = a I + b G + c G^2.
    void next_polynomial(Team& team, Polynomial p) {
        each(team, shape_.lower_blocks(), [&](int matrix, int index) {
            const LowerBlock at(index);
            square_block(matrix, at);
            finish_block(p, matrix, at);
        });
    }

    // The same for X divided by its Schatten-8 norm, the eighth root of the trace of G^4.
    void first_polynomial(Team& team, Polynomial p) {
        const int blocks = shape_.lower_blocks();
        each(team, blocks, [&](int matrix, int index) {
            const LowerBlock at(index);
            const float* const block = square_block(matrix, at);
            float sum = 0;
            for (int i = 0; i < panel * panel; ++i) sum += block[i] * block[i];
            squares_[matrix * blocks + index] = at.i == at.j ? sum : 2 * sum;
        });
        const std::vector<double> traces = sums(blocks);
        each(team, blocks, [&](int matrix, int index) {
            const double norm = std::pow(traces[matrix], 1 / 8.0);
            finish_block(p.of_quotient(std::max(norm, 1e-3)), matrix, LowerBlock(index));
        });
    }

    // to = X P.
    void multiply(Team& team, const float* x, float* to) {
        each_strip(team, [&](int matrix, int i, int j) {
            product(x, matrix, i, j, to + matrix * shape_.size() + j * shape_.stride() + i * panel);
        });
    }

    // The same, given to `store`.
    template <class Store>
    void multiply_into(Team& team, const float* x, const Store& store) {
        each_strip(team, [&](int matrix, int i, int j) {
            alignas(sizeof(Vector)) float block[block_rows * panel];
            product(x, matrix, i, j, block);
            const int valid = std::min(panel, shape_.n - j * panel);
            for (int row = i; row < std::min(i + block_rows, shape_.n); ++row) {
                store(matrix, row, j * panel, block + (row - i) * panel, valid);
            }
        });
    }

    // work(matrix, unit) for all matrices and unit = 0 .. units-1.
    template <class Work>
    void each(Team& team, int units, const Work& work) const {
        team.each(count_ * units, [&](int k) { work(k / units, k % units); });
    }

    // work(matrix, i, j) for each register block of a product, at row i of panel j; a thread takes
    // some of them, one below the other, at a time.
    template <class Work>
    void each_strip(Team& team, const Work& work) const {
        constexpr int strips = 4;
        const int blocks = round_up(shape_.n, block_rows) / block_rows;
        each(team, shape_.panels * strips, [&](int matrix, int unit) {
            const int j = unit / strips, strip = unit % strips;
            const int end = int(share(blocks, strip + 1, strips));
            for (int block = int(share(blocks, strip, strips)); block < end; ++block) {
                work(matrix, block * block_rows, j);
            }
        });
    }

    // block = rows i and after of panel j of X P.
    void product(const float* x, int matrix, int i, int j, float* block) const {
        const size_t start = matrix * shape_.size();
        product_block(x + start + i * panel, shape_.stride(),
                      polynomial_ + start + j * shape_.stride(), nullptr, block,
                      shape_.panels * panel);
    }

    // Computes a block of G^2 in the place of that of P.
    float* square_block(int matrix, LowerBlock at) const {
        float* const block = polynomial_ + offset(matrix, at);
        gram_block(shape_, gram_ + matrix * shape_.size(), at, block);
        return block;
    }

    // From a block of G^2 to that of P, and its mirror image.
    void finish_block(Polynomial p, int matrix, LowerBlock at) const {
        const size_t start = offset(matrix, at);
        combine_block(p, at.i == at.j, gram_ + start, polynomial_ + start);
        mirror(polynomial_, matrix, at);
    }

    void mirror(float* matrices, int matrix, LowerBlock at) const {
        if (at.i == at.j) return;
        float* const m = matrices + matrix * shape_.size();
        transpose_block(m + shape_.block(at.i, at.j), m + shape_.block(at.j, at.i));
    }

    size_t offset(int matrix, LowerBlock at) const {
        return matrix * shape_.size() + shape_.block(at.i, at.j);
    }

    // For each matrix the sum of its `terms` numbers in squares_, always in the same order.
    std::vector<double> sums(int terms) const {
        std::vector<double> result(count_);
        for (int i = 0; i < count_ * terms; ++i) result[i / terms] += squares_[i];
        return result;
    }

    const Square shape_;
    const int count_;
    float *x_[2], *gram_, *polynomial_;
    std::vector<double> squares_;  // partial sums
};

// Do products of `count` matrices (n, n) repay a team of threads?
inline bool repays_team(int count, int n) { return double(count) * n * n * n > 1 << 20; }

}  // namespace detail

// As `orthogonalize` of reference.py, of `count` dense row-major matrices (n, n) one after the other.
inline void orthogonalize(const float* matrices, int count, int n,
                          const std::vector<Polynomial>& polynomials, float* results) {
    detail::NewtonSchulz iteration(count, n);
    Team::run(detail::repays_team(count, n), [&](Team& team) {
        iteration.run(team, matrices, polynomials,
                      [=](int matrix, int row, int column, const float* values, int valid) {
                          const size_t first = (size_t(matrix) * n + row) * n + column;
                          std::copy_n(values, valid, results + first);
                      });
    });
}

}  // namespace siren
