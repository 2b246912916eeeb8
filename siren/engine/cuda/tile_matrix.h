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
};

// What a tile needs for a step of 64 of the depth.
template <class Piece, int side>
struct TileStage {
    Piece left[side * slab_columns], right[side * slab_columns];

    // Calls copy(to, from, count) for each piece of memory that step k takes.
    template <Right right_is, class Copy>
    __device__ __forceinline__ void fetch(const TileOperands<Piece>& operands, int k, const Copy& copy) {
        const int size = operands.size, depth = k * slab_columns;
        copy(left, operands.left + place_in_slabs(size, operands.row, depth), side * slab_columns);
        if (right_is == Right::transposed) {
            copy(right, operands.right + place_in_slabs(size, operands.column, depth), side * slab_columns);
            return;
        }
        constexpr int square = slab_columns * slab_columns;
#pragma unroll
        for (int slab = 0; slab < side / slab_columns; ++slab) {
            const int column = operands.column + slab * slab_columns;
            copy(right + slab * square, operands.right + place_in_slabs(size, depth, column), square);
        }
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
