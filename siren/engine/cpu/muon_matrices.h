// The matrices of cpu/muon.h in float32, on the products of gemm.h.
#pragma once

#include <algorithm>
#include <cstddef>

#include "cpu/gemm.h"
#include "cpu/parallel.h"
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

    // Number `index`, row after row.
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

// X, G and P of a stack of matrices. Every function computes a part of one matrix, which no other part has;
// `step` is the iteration's number.
class FloatMatrices {
public:
    struct PerThread {  // exists while a thread calls them
        PerThread() {}
    };

    FloatMatrices(int count, int n) : shape_(n) {
        static thread_local Workspace workspace;
        const size_t size = count * shape_.size();
        x_[0] = workspace.reserve(4 * size);
        x_[1] = x_[0] + size;
        gram_ = x_[1] + size;
        polynomial_ = gram_ + size;
    }

    int parts_of_load() const { return shape_.panels; }
    int parts_of_gram() const { return shape_.panels * (shape_.panels + 1) / 2; }  // and of P
    int parts_of_product() const { return shape_.panels * strips; }

    // X = values times factor, of values dense and row-major.
    void load(int matrix, int part, const float* values, float factor) const {
        pack_panel(values, shape_.n, shape_.n, factor, part,
                   x_[0] + matrix * shape_.size() + part * shape_.stride(), shape_.rows);
    }

    // G = X^T X.
    void compute_gram(int step, int matrix, int part) const {
        const LowerBlock at(part);
        gram_block(shape_, x_[step % 2] + matrix * shape_.size(), at, gram_ + offset(matrix, at));
        mirror(gram_, matrix, at);
    }

    // G^2 of the first step; returns the sum of its squares.
    float compute_square(int matrix, int part) const {
        const LowerBlock at(part);
        const float* const block = square_block(matrix, at);
        float sum = 0;
        for (int i = 0; i < panel * panel; ++i) sum += block[i] * block[i];
        return at.i == at.j ? sum : 2 * sum;
    }

    // P = a I + b G + c G^2 of the first step, of that G^2.
    void compute_first_polynomial(Polynomial p, int matrix, int part) const {
        finish_block(p, matrix, LowerBlock(part));
    }

    // P of another step.
    void compute_polynomial(int, Polynomial p, int matrix, int part) const {
        const LowerBlock at(part);
        square_block(matrix, at);
        finish_block(p, matrix, at);
    }

    // The next step's X = X P.
    void multiply(int step, int matrix, int part) const {
        float* const to = x_[(step + 1) % 2] + matrix * shape_.size();
        each_block(part, [&](int i, int j) {
            product(step, matrix, i, j, to + j * shape_.stride() + i * panel);
        });
    }

    // X P, given to `store` as NewtonSchulz::run says.
    template <class Store>
    void multiply_into(int step, int matrix, int part, const Store& store) const {
        each_block(part, [&](int i, int j) {
            alignas(sizeof(Vector)) float block[block_rows * panel];
            product(step, matrix, i, j, block);
            const int valid = std::min(panel, shape_.n - j * panel);
            for (int row = i; row < std::min(i + block_rows, shape_.n); ++row) {
                store(matrix, row, j * panel, block + (row - i) * panel, valid);
            }
        });
    }

private:
    static constexpr int strips = 4;

    // work(i, j) for each register block of a part of a product, at row i of panel j: some of them, one
    // below the other.
    template <class Work>
    void each_block(int part, const Work& work) const {
        const int blocks = round_up(shape_.n, block_rows) / block_rows;
        const int j = part / strips, strip = part % strips;
        const int end = int(share(blocks, strip + 1, strips));
        for (int block = int(share(blocks, strip, strips)); block < end; ++block) {
            work(block * block_rows, j);
        }
    }

    // block = rows i and after of panel j of X P.
    void product(int step, int matrix, int i, int j, float* block) const {
        const size_t start = matrix * shape_.size();
        product_block(x_[step % 2] + start + i * panel, shape_.stride(),
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

    const Square shape_;
    float *x_[2], *gram_, *polynomial_;
};

}  // namespace detail
}  // namespace siren
