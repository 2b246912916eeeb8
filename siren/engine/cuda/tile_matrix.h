// Matrices of 16-bit numbers that are multiplied tile by tile: how they lie in memory, and how a tile goes there.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/numerics.h"

namespace siren {
namespace gpu {
namespace {

// A matrix is cut into slabs of 64 columns, 128 bytes a row, so that any rows of a slab are one piece of memory. The
// groups of eight columns are in other places in every eight rows: those of eight rows are then in different banks of
// shared memory. wgmma calls this the 128-byte swizzle.
constexpr int slab_columns = 64;

// Where an element is in a matrix of so many rows, or in a tile of it.
__host__ __device__ constexpr int place_in_slabs(int rows, int row, int column) {
    return (column / slab_columns * rows + row) * slab_columns + (column / 8 % 8 ^ row % 8) * 8 + column % 8;
}

// How a matrix enters a product on its right.
enum class Right { as_stored, transposed };

// The operands of a product of square matrices of `size` rows, and the first row and column of a tile of it.
template <class Piece>
struct TileOperands {
    const Piece *left, *right;
    int size, row, column;

    // Rows of the left operand for step k of 64 of the depth, one piece of memory; and of a transposed right one.
    __device__ const Piece* left_rows(int k) const { return left + place_in_slabs(size, row, k * slab_columns); }
    __device__ const Piece* right_rows(int k) const { return right + place_in_slabs(size, column, k * slab_columns); }
    // 64 rows of a right operand that is not, of one of the tile's slabs.
    __device__ const Piece* right_slab(int k, int slab) const {
        return right + place_in_slabs(size, k * slab_columns, column + slab * slab_columns);
    }
};

// Calls visit(8 elements of the matrix, the same of the tile) for this thread's part of a tile in shared memory.
template <int side, class Piece, class Visit>
__device__ inline void for_each_eight(Piece* matrix, int size, int row, int column, Piece* tile, const Visit& visit) {
#pragma unroll
    for (int slab = 0; slab < side / slab_columns; ++slab) {
        Piece* const rows_of_slab = matrix + place_in_slabs(size, row, column + slab * slab_columns);
        for (int i = threadIdx.x * 8; i < side * slab_columns; i += blockDim.x * 8) {
            visit(rows_of_slab + i, tile + slab * side * slab_columns + i);
        }
    }
}

// Stores a tile that is in shared memory.
template <int side, class Piece>
__device__ inline void store_tile(Piece* matrix, int size, int row, int column, Piece* tile) {
    for_each_eight<side>(matrix, size, row, column, tile, [](Piece* to, Piece* from) {
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    });
}

}  // namespace
}  // namespace gpu
}  // namespace siren
