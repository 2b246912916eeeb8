// What a block of muon.h's kernel works on: panels of 16 rows of a matrix, where they lie in memory, and sums over them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/muon_step.h"
#ifdef SIREN_HOPPER
#include "cuda/sm90/ptx.h"
#endif

namespace siren {
namespace gpu {
namespace {

constexpr int muon_threads = 256, muon_warps = muon_threads / 32;
constexpr int panel_rows = 16;
#ifdef SIREN_HOPPER
constexpr int muon_block = 256;
#else
constexpr int muon_block = 128;  // 32 KB, where shared memory has 99
#endif
constexpr int warp_columns = muon_block / muon_warps;

// Matrices in 16 bits are squares of muon_block rows and columns, one after the other, each of which a single copy takes
// to shared memory. In every eight rows of a square the groups of eight columns are in other places, so that eight rows
// of such a group are in different banks.
__device__ constexpr int place_in_square(int row, int column) {
    return row * muon_block + (column / 8 ^ row % 8) * 8 + column % 8;
}

// Where an element of 16 rows of a matrix is, counted from the first one.
__device__ constexpr int place_in_panel(int row, int column) {
    return column / muon_block * (muon_block * muon_block) + place_in_square(row, column % muon_block);
}

// 16 rows of a matrix, and where their first elements are.
struct Panel {
    int number, matrix;     // among those of all matrices, and of which it is
    int rows;               // that are there
    size_t in_squares;      // in matrices of 16 bits
    int64_t in_parameters;  // among parameters and their gradient
    size_t in_averages;     // in the momentum
};

// `padded` is a multiple of muon_block.
template <class Piece>
struct MuonArguments : MuonStep {
    bool clustered;              // the panels of each matrix are a cluster of blocks
    Piece *x, *next, *y, *gram;  // (count, padded, padded)
    float* z;                    // of the first iteration, in the same places
    double* direction_sums;      // squares of each panel of the direction (count, panels)
    double* trace_sums;          // each panel's part of the trace of G^4, in the first iteration

    explicit MuonArguments(const MuonStep& step) : MuonStep(step) {}
    __host__ __device__ int panels() const { return padded / panel_rows; }  // of a matrix
    __host__ __device__ int squares() const { return padded / muon_block; }  // of a row of them
    __device__ size_t square(int matrix, int row, int column) const {
        return ((size_t(matrix) * squares() + row) * squares() + column) * muon_block * muon_block;
    }
    __device__ Panel panel(int number) const {
        const int matrix = number / panels(), row = number % panels() * panel_rows;
        return {number,
                matrix,
                max(0, min(panel_rows, muon.width - row)),
                square(matrix, row / muon_block, 0) + place_in_square(row % muon_block, 0),
                muon.start + matrix * layer() + int64_t(row) * muon.width,
                (size_t(matrix) * muon.width + row) * muon.width};
    }
    // First block that does Adam's step: with clusters, the first one that has no panel.
    __device__ int first_adam_block() const { return clustered ? muon.count * panels() : 0; }
};

// A block's shared memory: a square of the right operand, and two panels that are left operands.
template <class Piece>
struct MuonStorage {
    Piece *square, *left, *gram;
    uint64_t* copied;       // a barrier
    unsigned parity = 0;    // of its next phase

    static size_t bytes(int padded) {
        return (size_t(muon_block) * muon_block + 2 * size_t(panel_rows) * padded) * sizeof(Piece);
    }
    __device__ MuonStorage(unsigned char* memory, int padded, uint64_t* copied)
        : square(reinterpret_cast<Piece*>(memory)), left(square + muon_block * muon_block),
          gram(left + panel_rows * padded), copied(copied) {
#ifdef SIREN_HOPPER
        if (threadIdx.x == 0) {
            init_barrier(copied, 1);
            fence_barrier_init();
        }
#endif
    }
};

// Calls visit(panel) for each panel of this block.
template <class Piece, class Visit>
__device__ void for_each_panel(const MuonArguments<Piece>& m, const Visit& visit) {
    for (int i = blockIdx.x; i < m.muon.count * m.panels(); i += gridDim.x) visit(m.panel(i));
}

// A thread's elements of 16 rows and 256 columns: of each of a warp's rows every 32nd.
constexpr int thread_rows = panel_rows / muon_warps, thread_columns = 8, section_columns = 32 * thread_columns;
typedef float Section[thread_rows][thread_columns];

// Calls visit(i, j, row, column) for those from column `begin` on.
template <class Visit>
__device__ inline void for_each_element(int begin, const Visit& visit) {
    const int row = threadIdx.x / 32 * thread_rows, column = begin + threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < thread_rows; ++i) {
#pragma unroll
        for (int j = 0; j < thread_columns; ++j) visit(i, j, row + i, column + 32 * j);
    }
}

// Loads these elements of (rows, width); 0 beyond it. All are loaded before anything is stored: a store between two
// loads, which might be to the same place, would make the second one wait for the memory.
__device__ inline void load_section(const float* from, int rows, int width, int begin, Section& to) {
    for_each_element(begin, [&](int i, int j, int row, int column) {
        to[i][j] = row < rows && column < width ? from[row * width + column] : 0.0f;
    });
}

}  // namespace
}  // namespace gpu
}  // namespace siren
