// Arithmetic in kernels: the numbers that enter products, and sines with their adjoints.
//
// A number is kept as `pieces` 16-bit floats that add up to it:
//     fp32: two halves, 22 bits, three products      fp16: one half, 11 bits, TF32's precision
//     bf16: one bfloat16, 8 bits
// Sums are float32. Half ends at 6e-8 and 65504, so cotangents are scaled by a power of two that fits the largest
// (gradient.h), derivatives by one that brings the first layer's near 1 (pass.h), and what is still too large becomes
// 65504.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/runtime.h"

namespace siren {
namespace gpu {
namespace {

struct Fp32 {
    typedef __half Piece;
    static constexpr int pieces = 2;
};
struct Fp16 {
    typedef __half Piece;
    static constexpr int pieces = 1;
};
struct Bf16 {
    typedef __nv_bfloat16 Piece;
    static constexpr int pieces = 1;
};

// A matrix as pieces, plane after plane.
template <class Precision>
struct Matrix {
    typedef typename Precision::Piece Piece;
    Piece* data;
    size_t plane;  // elements
};

__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// Two floats as neighboring elements, the first one in the lower half.
__device__ inline uint32_t to_pieces(float first, float second, __half) {
    uint32_t result;
#if CUDART_VERSION >= 12010
    asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(second), "f"(first));
#else
    const float most = 65504;  // a NaN stays one
    if (fabsf(first) > most) first = copysignf(most, first);
    if (fabsf(second) > most) second = copysignf(most, second);
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(second), "f"(first));
#endif
    return result;
}
__device__ inline uint32_t to_pieces(float first, float second, __nv_bfloat16) {
    uint32_t result;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(second), "f"(first));
    return result;
}

// Two neighboring elements as floats.
template <class Piece>
__device__ inline float2 to_floats(unsigned packed) {
    const Piece* const pair = reinterpret_cast<const Piece*>(&packed);
    return make_float2(to_float(pair[0]), to_float(pair[1]));
}

// Eight neighboring elements of a plane, 16 bytes.
template <class Piece>
__device__ inline uint4 pack8(const float* x) {
    return make_uint4(to_pieces(x[0], x[1], Piece()), to_pieces(x[2], x[3], Piece()),
                      to_pieces(x[4], x[5], Piece()), to_pieces(x[6], x[7], Piece()));
}
template <class Piece>
__device__ inline void unpack8(const uint4& packed, float* x) {
    const Piece* const pieces = reinterpret_cast<const Piece*>(&packed);
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] = to_float(pieces[j]);
}

// Eight neighboring elements of all planes.
template <class Precision>
__device__ inline void store8(const Matrix<Precision>& matrix, size_t offset, const float* x) {
    typedef typename Precision::Piece Piece;
    float rest[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) rest[i] = x[i];
#pragma unroll
    for (int piece = 0; piece < Precision::pieces; ++piece) {
        uint4 packed;
        uint32_t* const pairs = reinterpret_cast<uint32_t*>(&packed);
#pragma unroll
        for (int i = 0; i < 8; i += 2) {  // pair by pair, which takes fewer registers
            pairs[i / 2] = to_pieces(rest[i], rest[i + 1], Piece());
            if (piece + 1 == Precision::pieces) continue;
            const Piece* const pair = reinterpret_cast<const Piece*>(&pairs[i / 2]);
            rest[i] -= to_float(pair[0]);
            rest[i + 1] -= to_float(pair[1]);
        }
        *reinterpret_cast<uint4*>(matrix.data + piece * matrix.plane + offset) = packed;
    }
}

// Eight elements as they are in memory, so that several loads can be under way at once.
template <class Precision>
struct Raw8 {
    uint4 pieces[Precision::pieces];

    __device__ void load(const Matrix<Precision>& matrix, size_t offset) {
#pragma unroll
        for (int piece = 0; piece < Precision::pieces; ++piece) {
            pieces[piece] =
                *reinterpret_cast<const uint4*>(matrix.data + piece * matrix.plane + offset);
        }
    }
    __device__ void unpack(float* x) const {
        typedef typename Precision::Piece Piece;
#pragma unroll
        for (int piece = 0; piece < Precision::pieces; ++piece) {
            float part[8];
            unpack8<Piece>(pieces[piece], part);
#pragma unroll
            for (int i = 0; i < 8; ++i) x[i] = piece == 0 ? part[i] : x[i] + part[i];
        }
    }
};

template <class Precision>
__device__ inline void load8(const Matrix<Precision>& matrix, size_t offset, float* x) {
    Raw8<Precision> raw;
    raw.load(matrix, offset);
    raw.unpack(x);
}

// Cody and Waite's reduction by pi, and minimax polynomials, as in sincos.h. The processor's own
// sine, whose error grows as 6e-8 |x|, is enough for 16 bits.
template <class Precision>
__device__ inline void sine_and_cosine(float x, float& sine, float& cosine) {
    if (Precision::pieces == 1) {
        sine = __sinf(x);
        cosine = __cosf(x);
        return;
    }
    const float n = rintf(x * 0.318309886183790672f);
    float r = fmaf(n, -3.140625f, x);
    r = fmaf(n, -0.0009675025939941406f, r);
    r = fmaf(n, -1.5099580252808664e-07f, r);
    const float t = r * r;
    float p = fmaf(t, 2.5999031549872598e-06f, -0.00019806547788903117f);
    p = fmaf(p, t, 0.008333016186952591f);
    p = fmaf(p, t, -0.16666656732559204f);
    p = fmaf(p * t, r, r);
    float q = fmaf(t, -2.6075662162838853e-07f, 2.476180816302076e-05f);
    q = fmaf(q, t, -0.0013888402609154582f);
    q = fmaf(q, t, 0.04166664183139801f);
    q = fmaf(q, t, -0.5f);
    q = fmaf(q, t, 1.0f);
    const unsigned sign = unsigned(int(n)) << 31;
    sine = __uint_as_float(__float_as_uint(p) ^ sign);
    cosine = __uint_as_float(__float_as_uint(q) ^ sign);
}

// From streams of x, and sine s and cosine c of x[0], to streams of h. What the adjoint needs takes the place of x: c,
// and the negative derivatives of h[1], h[2] and h[3] by x[0].
template <int streams>
__device__ inline void sine_streams(float s, float c, float* x, float* h) {
    h[0] = s;
    if (streams == 4) {
        const float squares = x[1] * x[1] + x[2] * x[2];
        h[3] = c * x[3] - s * squares;
        x[3] = s * x[3] + c * squares;
    }
    if (streams >= 3) {
        h[1] = c * x[1];
        h[2] = c * x[2];
        x[1] *= s;
        x[2] *= s;
    }
    x[0] = c;
}

template <class Precision, int streams>
__device__ inline void sine(float* x, float* h) {
    float s, c;
    sine_and_cosine<Precision>(x[0], s, c);
    sine_streams<streams>(s, c, x, h);
}

// Cotangents of h to those of x, in place, from x as sine() left it.
template <int streams>
__device__ inline void sine_adjoint(const float* x, float* g) {
    const float c = x[0];
    float d = c * g[0];
    if (streams >= 3) {
        d -= x[1] * g[1] + x[2] * g[2];
        g[1] *= c;
        g[2] *= c;
    }
    if (streams == 4) {
        const float twice = 2.0f * g[3];
        d -= x[3] * g[3];
        g[1] -= x[1] * twice;
        g[2] -= x[2] * twice;
        g[3] *= c;
    }
    g[0] = d;
}

__device__ inline void load8(const float* source, float* x) {
    reinterpret_cast<float4*>(x)[0] = reinterpret_cast<const float4*>(source)[0];
    reinterpret_cast<float4*>(x)[1] = reinterpret_cast<const float4*>(source)[1];
}

}  // namespace
}  // namespace gpu
}  // namespace siren
