// The PTX instructions of all GPUs from Ampere on, as functions: mma, by which a warp multiplies fragments in
// registers, ldmatrix, which loads these, and cp.async.
#pragma once

#include "cuda/numerics.h"

namespace siren {
namespace gpu {
namespace {

__device__ inline uint32_t shared_address(const void* p) {
    return uint32_t(__cvta_generic_to_shared(p));
}

__device__ inline void cp_async_16(void* destination, const void* source) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(shared_address(destination)),
                 "l"(source));
}
__device__ inline void prefetch(const void* address) {
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(address));
}
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::); }
template <int pending>
__device__ inline void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(pending));
}

// How ldmatrix takes each matrix of 8 x 8 elements.
enum class Load { as_stored, transposed };

template <Load load>
__device__ inline void ldmatrix(uint32_t (&r)[4], const void* row) {
    if (load == Load::transposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(shared_address(row)));
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(shared_address(row)));
    }
}

__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                    __half) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                    __nv_bfloat16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <int rows>
__device__ inline void clear(float (&accumulators)[rows][8][4]) {
#pragma unroll
    for (int i = 0; i < rows; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
#pragma unroll
            for (int k = 0; k < 4; ++k) accumulators[i][j][k] = 0;
        }
    }
}

// accumulators += A B for two fragments of 8 columns, `pair`, whose operands are in registers.
template <class Piece, int rows>
__device__ inline void multiply_pair(float (&accumulators)[rows][8][4], const uint32_t (&a)[rows][4],
                                     const uint32_t (&b)[4], int pair) {
#pragma unroll
    for (int i = 0; i < rows; ++i) {
        mma(accumulators[i][2 * pair], a[i], b[0], b[1], Piece());
        mma(accumulators[i][2 * pair + 1], a[i], b[2], b[3], Piece());
    }
}

// The operands of a warp's step of depth 16, in one piece, loaded ahead of the step. load_a and load_b fetch fragments
// as for multiply_step(), of pipeline stage `number`, from depth k on.
template <class Piece, int rows>
struct StepOperands {
    uint32_t a[rows][4], b[4][4];

    template <class LoadA, class LoadB>
    __device__ void load(const LoadA& load_a, const LoadB& load_b, int number, int k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (i < rows) load_a(number, k, 0, i, a[i]);
            load_b(number, k, 0, i, b[i]);
        }
    }
    __device__ void multiply(float (&accumulators)[rows][8][4]) const {
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) multiply_pair<Piece>(accumulators, a, b[pair], pair);
    }
};

// One step of depth 16 for a warp: accumulators[i][j] += A_i B_j for its fragments i of rows and its 8 of
// columns. load_a(piece, i, registers) and load_b(piece, pair of columns, registers) fetch fragments.
template <class Precision, int rows, class LoadA, class LoadB>
__device__ inline void multiply_step(float (&accumulators)[rows][8][4], const LoadA& load_a,
                                     const LoadB& load_b) {
    typedef typename Precision::Piece Piece;
    uint32_t a[Precision::pieces][rows][4];
#pragma unroll
    for (int piece = 0; piece < Precision::pieces; ++piece) {
#pragma unroll
        for (int i = 0; i < rows; ++i) load_a(piece, i, a[piece][i]);
    }
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
#pragma unroll
        for (int piece_b = 0; piece_b < Precision::pieces; ++piece_b) {
            uint32_t b[4];
            load_b(piece_b, pair, b);
#pragma unroll
            for (int piece_a = 0; piece_a < Precision::pieces - piece_b; ++piece_a) {
                multiply_pair<Piece>(accumulators, a[piece_a], b, pair);
            }
        }
    }
}

}  // namespace
}  // namespace gpu
}  // namespace siren
