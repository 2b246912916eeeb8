// The matrices of cpu/muon.h as two bf16 for each number, on the products of amx/product.h.
//
// A product contracts lines along their depth: G = X^T X takes X's columns as lines, X P its rows and, since P
// is symmetric, those of P. Every matrix is stored as lines of A: X twice, by rows and by columns, and all of
// the symmetric ones, of which a block on or below the diagonal is computed, and transposed to its mirror
// image. Columns j and 16 + j of a block of 32 are a pair. (A product does not ask in which order its depth
// is, as long as both operands have it in the same.)
//
// Operand B of a product, the same lines in B's order, is made by the thread that needs it: for a group of
// columns of blocks, which it then multiplies by all rows of blocks.
//
// Three products of bf16 for each number are needed: with one, the direction of random matrices of 256 and
// 512 units is 2 % from float64's, with two 1.3 %, with these 0.004 %.
#pragma once

#include <algorithm>
#include <cstddef>

#include "cpu/amx/product.h"
#include "cpu/gemm.h"
#include "cpu/parallel.h"
#include "optimizer_numbers.h"

namespace siren {
namespace amx {

// A block of 32 by 32 float32 numbers, as product() gives it: columns 0 to 15, then 16 to 31.
struct alignas(64) Block {
    float values[2 * result_block];

    Vector& row(int half, int i) { return at(values + half * result_block + i * tile_lines); }
    const Vector& row(int half, int i) const { return at(values + half * result_block + i * tile_lines); }
};

// The four tiles of a block as an operand, in two neighboring strips of `pairs` pairs each.
struct Operand {
    TilePair* first;
    int pairs;

    TilePair& strip(int i) const { return first[size_t(i) * pairs]; }
};

// Rows become lines of A.
inline void store_rows(const Block& block, Operand to) {
    for (int i = 0; i < block_lines; ++i) {
        store_split(block.row(0, i), block.row(1, i), to.strip(i / tile_lines), i % tile_lines);
    }
}

// And back.
inline void load_rows(Operand from, Block& block) {
    for (int i = 0; i < block_lines; ++i) {
        for (int half = 0; half < 2; ++half) {
            block.row(half, i) = joined(from.strip(i / tile_lines), i % tile_lines, half);
        }
    }
}

// Lines of A that are rows -> lines of A that are columns.
inline void transpose_lines(Operand rows, Operand columns) {
    const TilePair &upper = rows.strip(0), &lower = rows.strip(1);
    TilePair &left = columns.strip(0), &right = columns.strip(1);
    transpose_pairs(upper.high, lower.high, left.high, right.high);
    transpose_pairs(upper.low, lower.low, left.low, right.low);
}

// Lines of A -> the same lines of B.
inline void turn_lines(Operand a, Operand b) {
    for (int i = 0; i < 2; ++i) {
        transpose_tile(a.strip(i).high, b.strip(i).high);
        transpose_tile(a.strip(i).low, b.strip(i).low);
    }
}

// As FloatMatrices.
class SplitMatrices {
public:
    using PerThread = Tiles;

    SplitMatrices(int count, int n)
        : n_(n),
          blocks_(round_up(n, block_lines) / block_lines),
          group_(std::max(1, blocks_ / 8)),
          matrix_(size_t(2) * blocks_ * blocks_) {
        static thread_local Workspace workspace;
        x_[0] = reserve(workspace, 3 * count * matrix_);
        x_[1] = x_[0] + count * matrix_;
        columns_ = x_[1] + count * matrix_;
    }

    int parts_of_load() const { return blocks_ * blocks_; }
    int parts_of_gram() const { return (blocks_ + group_ - 1) / group_; }
    int parts_of_product() const { return parts_of_gram(); }

    void load(int matrix, int part, const float* values, float factor) const {
        const int i = part / blocks_, j = part % blocks_;
        const int rows = std::min(block_lines, n_ - i * block_lines);
        Block block;
        for (int half = 0; half < 2; ++half) {
            const int column = j * block_lines + half * tile_lines;
            const int columns = std::max(0, std::min(tile_lines, n_ - column));
            const __mmask16 inside = __mmask16((1 << columns) - 1);
            for (int row = 0; row < block_lines; ++row) {
                const float* const from = values + size_t(i * block_lines + row) * n_ + column;
                const __m512 x = row < rows ? _mm512_maskz_loadu_ps(inside, from) : _mm512_setzero_ps();
                block.row(half, row) = (Vector)x * factor;
            }
        }
        store_x(x_[0], matrix, i, j, block);
    }

    void compute_gram(int step, int matrix, int part) const {
        each_product(columns_, columns_, matrix, part, Which::lower, [&](int i, int j, Block& block) {
            store_symmetric(gram(step), matrix, i, j, block);
        });
    }

    // Leaves blocks of G^2 in the place of those of P.
    float compute_square(int matrix, int part) const {
        float total = 0;
        each_product(gram(0), gram(0), matrix, part, Which::lower, [&](int i, int j, Block& block) {
            float sum = 0;
            for (const float x : block.values) sum += x * x;
            total += i == j ? sum : 2 * sum;
            store_rows(block, place(columns_, matrix, i, j));
        });
        return total;
    }

    void compute_first_polynomial(Polynomial p, int matrix, int part) const {
        each_block(part, Which::lower, [&](int i, int j) {
            Block block;
            load_rows(place(columns_, matrix, i, j), block);
            store_polynomial(0, p, matrix, i, j, block);
        });
    }

    void compute_polynomial(int step, Polynomial p, int matrix, int part) const {
        each_product(gram(step), gram(step), matrix, part, Which::lower, [&](int i, int j, Block& block) {
            store_polynomial(step, p, matrix, i, j, block);
        });
    }

    // Columns of the next X take the place of those of P that this part alone reads, and has read.
    void multiply(int step, int matrix, int part) const {
        each_product(x_[step % 2], columns_, matrix, part, Which::all, [&](int i, int j, Block& block) {
            store_x(x_[(step + 1) % 2], matrix, i, j, block);
        });
    }

    template <class Store>
    void multiply_into(int step, int matrix, int part, const Store& store) const {
        each_product(x_[step % 2], columns_, matrix, part, Which::all, [&](int i, int j, Block& block) {
            for (int half = 0; half < 2; ++half) {
                const int column = j * block_lines + half * tile_lines;
                const int valid = std::min(tile_lines, n_ - column);
                if (valid <= 0) return;
                for (int row = 0; row < std::min(block_lines, n_ - i * block_lines); ++row) {
                    const float* const values = block.values + half * result_block + row * tile_lines;
                    store(matrix, i * block_lines + row, column, values, valid);
                }
            }
        });
    }

private:
    static TilePair* reserve(Workspace& workspace, size_t pairs) {
        return reinterpret_cast<TilePair*>(workspace.reserve(pairs * sizeof(TilePair) / sizeof(float)));
    }

    TilePair* gram(int step) const { return x_[(step + 1) % 2]; }

    // Lines of block `line` at depth `depth`, in blocks.
    Operand place(TilePair* operand, int matrix, int line, int depth) const {
        return {operand + matrix * matrix_ + size_t(2 * line) * blocks_ + depth, blocks_};
    }

    // visit(i, j) for all blocks of a part, or those on and below the diagonal.
    enum class Which { all, lower };
    template <class Visit>
    void each_block(int part, Which which, const Visit& visit) const {
        const int begin = part * group_, end = std::min(blocks_, begin + group_);
        for (int i = which == Which::lower ? begin : 0; i < blocks_; ++i) {
            for (int j = begin; j < (which == Which::lower ? std::min(end, i + 1) : end); ++j) visit(i, j);
        }
    }

    // visit(i, j, block) for such blocks of the product of the lines of a and those of b.
    template <class Visit>
    void each_product(TilePair* a, TilePair* b, int matrix, int part, Which which, const Visit& visit) const {
        static thread_local Workspace workspace;
        const size_t block_size = size_t(2) * blocks_;
        TilePair* const turned = reserve(workspace, group_ * block_size);
        const int begin = part * group_;
        for (int j = begin; j < std::min(blocks_, begin + group_); ++j) {
            for (int k = 0; k < blocks_; ++k) {
                turn_lines(place(b, matrix, j, k), {turned + (j - begin) * block_size + k, blocks_});
            }
        }
        Block block;
        each_block(part, which, [&](int i, int j) {
            product<Sum::from_zero>(place(a, matrix, i, 0).first, turned + (j - begin) * block_size, blocks_,
                                    block.values);
            visit(i, j, block);
        });
    }

    void store_x(TilePair* to, int matrix, int i, int j, const Block& block) const {
        const Operand rows = place(to, matrix, i, j);
        store_rows(block, rows);
        transpose_lines(rows, place(columns_, matrix, j, i));
    }

    void store_symmetric(TilePair* to, int matrix, int i, int j, const Block& block) const {
        const Operand rows = place(to, matrix, i, j);
        store_rows(block, rows);
        if (i != j) transpose_lines(rows, place(to, matrix, j, i));
    }

    // From a block of G^2 to that of P = a I + b G + c G^2, and its mirror image.
    void store_polynomial(int step, Polynomial p, int matrix, int i, int j, Block& block) const {
        Block gram_block;
        load_rows(place(gram(step), matrix, i, j), gram_block);
        for (size_t k = 0; k < 2 * result_block; ++k) {
            block.values[k] = p.b * gram_block.values[k] + p.c * block.values[k];
        }
        if (i == j) {
            for (int k = 0; k < block_lines; ++k) block.row(k / tile_lines, k)[k % tile_lines] += p.a;
        }
        store_symmetric(columns_, matrix, i, j, block);
    }

    const int n_, blocks_;
    const int group_;      // columns of blocks in a part of a product
    const size_t matrix_;  // pairs of an operand
    TilePair* x_[2];       // X by rows, of this step and then of the next; G until then
    TilePair* columns_;    // X by columns, and P
};

}  // namespace amx
}  // namespace siren
