// SIREN (arXiv:2006.09661) on an NVIDIA GPU: what siren_cpu.h computes, by matrix products on tensor
// cores with the sine layers and their adjoints fused to their ends. See there for the mathematics.
//
// Points go in chunks, so that memory does not grow with their number. Within a chunk the matrices
// of all layers are kept, a row for each point and stream: row = ((p / 16) streams + stream) 16 + p % 16,
// so that a tensor-core fragment of 16 rows holds one stream of 16 points, and the thread that holds
// one stream of a point holds the others.
//
// Numbers that enter products are kept as `pieces` 16-bit floats which add up to the number:
//     fp32: two halves, 22 bits, three products      fp16: one half, 11 bits, TF32's precision
//     bf16: one bfloat16, 8 bits
// Sums are float32 always. Half reaches from 6e-8 to 65504 only, so cotangents are scaled by a power
// of two that fits their largest, derivatives by one that brings those of the first layer near 1, and
// what is too large all the same becomes 65504.
//
// On Hopper processors, training steps of networks 256 wide in 16 bits go all the way in one kernel, see
// chain_cuda.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace siren {
namespace gpu {
namespace {  // each of Jittor's operations is a library that registers kernels of its own

inline void check(cudaError_t error) {
    if (error != cudaSuccess) {
        throw std::runtime_error(std::string("CUDA error: ") + cudaGetErrorString(error));
    }
}

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

constexpr int column_tile = 256;  // columns of a product's tile; widths are padded to whole ones
constexpr int depth_tile = 32;    // depth of a step of a product
constexpr int outer_threads = 256;
constexpr int chunk_rows = 1 << 18;  // bounds the memory of a chunk

// 16-row fragments a warp holds.
__host__ __device__ constexpr int fragments(int streams) { return streams == 3 ? 3 : 4; }
// Points are padded to a multiple of this, which makes whole tiles of rows.
constexpr int point_group(int streams) { return streams == 1 ? 128 : 32; }

// A matrix as pieces, plane after plane.
template <class Precision>
struct Matrix {
    typedef typename Precision::Piece Piece;
    Piece* data;
    size_t plane;  // elements
};

__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// Two floats as neighbouring elements, the first one in the lower half.
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

// Eight neighbouring elements of a plane, 16 bytes.
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

// Eight neighbouring elements of all planes.
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
        for (int i = 0; i < 8; i += 2) {  // a pair's rest at once, or registers would not suffice
            pairs[i / 2] = to_pieces(rest[i], rest[i + 1], Piece());
            if (piece + 1 == Precision::pieces) continue;
            const Piece* const pair = reinterpret_cast<const Piece*>(&pairs[i / 2]);
            rest[i] -= to_float(pair[0]);
            rest[i + 1] -= to_float(pair[1]);
        }
        *reinterpret_cast<uint4*>(matrix.data + piece * matrix.plane + offset) = packed;
    }
}

// Eight elements as they are in memory; loads of several such can be under way at once.
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

// Streams of x to streams of h, from the sine s and cosine c of x. What their adjoint needs takes the
// place of x: c, and how h[1], h[2] and h[3] fall with x[0].
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

// The parameters as binding.h describes them.
struct Parameters {
    const float* flat;
    int width, hidden_layers, channels;
    float omega;

    __host__ __device__ size_t weight(int layer) const {
        if (layer == 0) return 0;
        return 3 * size_t(width) + size_t(layer - 1) * (size_t(width) * width + width);
    }
    __host__ __device__ size_t bias(int layer) const {
        const size_t rows = layer <= hidden_layers ? width : channels;
        return weight(layer) + rows * (layer == 0 ? 2 : width);
    }
};

// Points and streams of a chunk, and the derivatives' units. `inverse` takes streams as they are kept
// to those asked for.
struct Points {
    const float* coordinates;  // (count, 2)
    int count, padded;
    float scale[2], inverse[4];
};

// What is differentiated: mean sum of weight (output - target)^2 over points (1 or 2 of the streams,
// see binding.h; weight may be null), or, if it is not null, the product of outputs and `given`.
struct Error {
    const float *target, *weight, *given;
    float mean;
};

// Padded float32 vectors: the first layer's two columns, biases, and the output layer's rows.
struct Vectors {
    float* data;
    int width;
    __host__ __device__ const float* first(int column) const { return data + size_t(column) * width; }
    __host__ __device__ const float* bias(int layer) const { return data + size_t(2 + layer) * width; }
    __host__ __device__ const float* output(int hidden_layers, int channel) const {
        return data + size_t(3 + hidden_layers + channel) * width;
    }
};

// What a matrix of sine outputs contributes to the network's outputs: a number for each group of 32
// columns, row and channel, (groups, rows, channels). `weights` are the output layer's, (channels,
// width); null where a layer is not the last.
struct OutputParts {
    float* parts;
    const float* weights;
    int channels, rows, groups;
};

__device__ inline void load8(const float* source, float* x) {
    reinterpret_cast<float4*>(x)[0] = reinterpret_cast<const float4*>(source)[0];
    reinterpret_cast<float4*>(x)[1] = reinterpret_cast<const float4*>(source)[1];
}

// From a row's eight columns at `column`; the four threads of a group of 32 columns are neighbours.
__device__ inline void write_output_part(const OutputParts& output, const float* h, int row,
                                         int column, int width) {
    for (int c = 0; c < output.channels; ++c) {
        float w[8], sum = 0;
        load8(output.weights + size_t(c) * width + column, w);
#pragma unroll
        for (int j = 0; j < 8; ++j) sum = fmaf(w[j], h[j], sum);
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (threadIdx.x % 4 == 0) {
            output.parts[(size_t(column / 32) * output.rows + row) * output.channels + c] = sum;
        }
    }
}

// Streams of x before the first sine at a point, for one unit with weights w0, w1 and a bias.
template <int streams>
__device__ inline void first_inputs(const Points& points, float w0, float w1, float bias, float row,
                                    float column, float* x) {
    x[0] = fmaf(w0, row, fmaf(w1, column, bias));
    if (streams >= 3) {
        x[1] = w0 * points.scale[0];
        x[2] = w1 * points.scale[1];
    }
    if (streams == 4) x[3] = 0;
}

// ---- Tensor cores -------------------------------------------------------------------------------

__device__ inline uint32_t shared_address(const void* p) {
    return uint32_t(__cvta_generic_to_shared(p));
}

__device__ inline void copy16(void* destination, const void* source) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(shared_address(destination)),
                 "l"(source));
}
__device__ inline void prefetch(const void* address) {
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(address));
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;\n" ::); }
template <int pending>
__device__ inline void wait_copies() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(pending));
}

template <bool transposed>
__device__ inline void load_matrices(uint32_t (&r)[4], const void* row) {
    if (transposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(shared_address(row)));
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(shared_address(row)));
    }
}

__device__ inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                    __half) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                    __nv_bfloat16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <int rows>
__device__ inline void clear(float (&sums)[rows][8][4]) {
#pragma unroll
    for (int i = 0; i < rows; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
#pragma unroll
            for (int k = 0; k < 4; ++k) sums[i][j][k] = 0;
        }
    }
}

// sums += A B for two fragments of 8 columns, `pair`, whose operands are in registers.
template <class Piece, int rows>
__device__ inline void multiply_pair(float (&sums)[rows][8][4], const uint32_t (&a)[rows][4],
                                     const uint32_t (&b)[4], int pair) {
#pragma unroll
    for (int i = 0; i < rows; ++i) {
        multiply_add(sums[i][2 * pair], a[i], b[0], b[1], Piece());
        multiply_add(sums[i][2 * pair + 1], a[i], b[2], b[3], Piece());
    }
}

// One step of depth 16 for a warp: sums[i][j] += A_i B_j for its fragments i of rows and its 8 of
// columns. load_a(piece, i, registers) and load_b(piece, pair of columns, registers) fetch fragments.
template <class Precision, int rows, class LoadA, class LoadB>
__device__ inline void multiply_step(float (&sums)[rows][8][4], const LoadA& load_a,
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
                multiply_pair<Piece>(sums, a[piece_a], b, pair);
            }
        }
    }
}

// ---- Products with weights: Z = A B, and a sine layer or its adjoint on Z --------------------------

// Weights are packed so that B's columns n of a group of 32 are stored as rows in the order
//     n = 8 t + 2 f + e   at   8 f + 2 t + e,     t < 4, f < 4, e < 2:
// then the four fragments f of a thread hold eight neighbouring columns, 8 t to 8 t + 7.
__host__ __device__ inline int packed_row(int n) {
    const int t = n % 32 / 8, f = n % 8 / 2, e = n % 2;
    return n / 32 * 32 + 8 * f + 2 * t + e;
}

// Where row n of a matrix 256 wide has column k as an operand of Hopper's products (see hopper_cuda.h):
// in four blocks of 64 columns.
__host__ __device__ inline size_t operand_place(int n, int k) {
    return size_t(k / 64 * column_tile + n) * 64 + (k % 64 / 8 ^ n % 8) * 8 + k % 8;
}

// Rows in shared memory are padded by 16 bytes: eight of them, one below the other, then lie in
// different banks.
constexpr int padding = 8;

template <class Precision, int streams>
struct ProductShape {
    static constexpr int threads = 256;
    static constexpr int rows = 2 * 16 * fragments(streams);  // of a tile
    static constexpr int stages = Precision::pieces == 1 ? 4 : 3;
    static constexpr int stride = depth_tile + padding;
    static constexpr int plane_a = rows * stride, plane_b = column_tile * stride;
    static constexpr int stage = Precision::pieces * (plane_a + plane_b);
    static constexpr int shares = threads / 128;  // of sums, in each block
    static constexpr size_t bytes = stages * stage * sizeof(typename Precision::Piece) +
                                    3 * shares * column_tile * sizeof(float);
};

// What happens to a tile of Z: a sine layer, the last one with its part of the outputs, or the adjoint
// of one, the first one's without d but with the sums that make its weights' gradient.
enum class End { sine, last_sine, adjoint, first_adjoint };

template <class Precision>
struct Ending {
    Matrix<Precision> h;  // sine: written
    Matrix<Precision> x;  // sine: written as sine() left it, if keep; adjoint: read
    Matrix<Precision> d;  // adjoint: written
    const float* bias;    // sine
    bool keep;            // sine
    OutputParts output;   // last sine
    // Adjoint: sums over the value rows of d, the bias's gradient, in shares (share, width); for the
    // first layer (share, 3, width): those of d times what the weights' two columns were multiplied
    // by, then the bias's.
    float* sums;
    Points points;    // first adjoint: x is computed anew from these
    Vectors vectors;  // first adjoint
};

// The gridDim.x blocks take tiles of rows in turn; blockIdx.y is the tile of columns.
template <class Precision, int streams, End kind>
__global__ void __launch_bounds__(256, 1)
    product_kernel(Matrix<Precision> a, Matrix<Precision> b, Ending<Precision> end, int tiles,
                   int width) {
    typedef typename Precision::Piece Piece;
    typedef ProductShape<Precision, streams> Shape;
    constexpr int F = fragments(streams);
    constexpr bool first = kind == End::first_adjoint, adjoint = kind == End::adjoint || first;
    constexpr int sum_rows = first ? 3 : 1;
    extern __shared__ __align__(16) unsigned char shared_memory[];
    Piece* const shared = reinterpret_cast<Piece*>(shared_memory);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = warp / 4 * 16 * F, warp_column = warp % 4 * 64;
    const int column0 = blockIdx.y * column_tile;
    const int steps = width / depth_tile;
    const int first_tile = blockIdx.x, tile_step = gridDim.x;
    const int total = (max(tiles - first_tile, 0) + tile_step - 1) / tile_step * steps;

    // A thread copies the same 16 bytes of every 64th row.
    const int copied_row = threadIdx.x / (depth_tile / 8), copied_k = threadIdx.x % (depth_tile / 8) * 8;
    constexpr int rows_at_once = Shape::threads / (depth_tile / 8);
    const Piece* next_a = a.data + (size_t(first_tile) * Shape::rows + copied_row) * width + copied_k;
    const Piece* next_b = b.data + size_t(column0 + copied_row) * width + copied_k;
    int fetched = 0, fetched_step = 0;
    const auto fetch = [&] {
        if (fetched < total) {
            Piece* const stage = shared + fetched % Shape::stages * Shape::stage +
                                 copied_row * Shape::stride + copied_k;
#pragma unroll
            for (int piece = 0; piece < Precision::pieces; ++piece) {
                Piece* const stage_a = stage + piece * Shape::plane_a;
                Piece* const stage_b = stage + Precision::pieces * Shape::plane_a + piece * Shape::plane_b;
#pragma unroll
                for (int i = 0; i < Shape::rows; i += rows_at_once) {
                    if (Shape::rows % rows_at_once && i + copied_row >= Shape::rows) continue;
                    copy16(stage_a + i * Shape::stride, next_a + piece * a.plane + size_t(i) * width);
                }
#pragma unroll
                for (int i = 0; i < column_tile; i += rows_at_once) {
                    copy16(stage_b + i * Shape::stride, next_b + piece * b.plane + size_t(i) * width);
                }
            }
        }
        commit_copies();
        ++fetched;
        next_a += depth_tile;
        next_b += depth_tile;
        if (++fetched_step == steps) {
            fetched_step = 0;
            next_a += (size_t(tile_step) * Shape::rows - 1) * width;
            next_b -= width;
        }
    };

    // Each of a warp's first four lanes has 16 columns to itself.
    float* const own_sums = reinterpret_cast<float*>(shared + Shape::stages * Shape::stage) +
                            warp * 64 * sum_rows + lane * 8;
    if (adjoint && lane < 4) {
        for (int q = 0; q < 2 * sum_rows; ++q) {
            for (int j = 0; j < 8; ++j) own_sums[q * 32 + j] = 0;
        }
    }
    float sums[F][8][4];
    const int a_offset = (warp_row + lane % 16) * Shape::stride + lane / 16 * 8;
    const int b_offset = Precision::pieces * Shape::plane_a +
                         (warp_column + lane / 16 * 8 + lane % 8) * Shape::stride + lane / 8 % 2 * 8;
    const auto load_a = [&](int number, int k, int piece, int i, uint32_t (&r)[4]) {
        const Piece* const stage = shared + number % Shape::stages * Shape::stage;
        load_matrices<false>(r, stage + a_offset + piece * Shape::plane_a + i * 16 * Shape::stride + k);
    };
    const auto load_b = [&](int number, int k, int piece, int pair, uint32_t (&r)[4]) {
        const Piece* const stage = shared + number % Shape::stages * Shape::stage;
        load_matrices<false>(r,
                             stage + b_offset + piece * Shape::plane_b + pair * 16 * Shape::stride + k);
    };
    uint32_t a_ahead[2][F][4], b_ahead[2][4][4];
    const auto load = [&](int buffer, int number, int k) {
#pragma unroll
        for (int i = 0; i < F; ++i) load_a(number, k, 0, i, a_ahead[buffer][i]);
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) load_b(number, k, 0, pair, b_ahead[buffer][pair]);
    };
    const auto multiply = [&](int buffer) {
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {
            multiply_pair<Piece>(sums, a_ahead[buffer], b_ahead[buffer][pair], pair);
        }
    };
    // Operands are loaded a step of 16 ahead, unless two pieces leave no registers for that.
    constexpr bool ahead = Precision::pieces == 1;
    for (int i = 0; i < Shape::stages - !ahead; ++i) fetch();
    if (ahead) {
        wait_copies<Shape::stages - 1>();
        __syncthreads();
    }
    int tile = first_tile, step = 0;
#pragma unroll 1
    for (int number = 0; number < total; ++number) {
        if (step == 0) {
            if (adjoint && !first) {  // what the end will read should be on its way
                for (int i = threadIdx.x; i < Shape::rows * 4; i += Shape::threads) {
                    const int row = i / 4;
                    const size_t at = (size_t(tile) * Shape::rows + row) * width + column0 + i % 4 * 64;
#pragma unroll
                    for (int piece = 0; piece < Precision::pieces; ++piece) {
                        prefetch(end.x.data + piece * end.x.plane + at);
                    }
                }
            }
            clear(sums);
        }
        if (ahead) {
            if (step == 0) load(0, number, 0);
            load(1, number, 16);
            multiply(0);
        }
        wait_copies<Shape::stages - 2>();
        __syncthreads();
        fetch();
        if (ahead) {
            if (step + 1 < steps) load(0, number + 1, 0);
            multiply(1);
        } else {
#pragma unroll
            for (int k = 0; k < depth_tile; k += 16) {
                multiply_step<Precision, F>(
                    sums,
                    [&](int piece, int i, uint32_t (&r)[4]) { load_a(number, k, piece, i, r); },
                    [&](int piece, int pair, uint32_t (&r)[4]) { load_b(number, k, piece, pair, r); });
            }
        }
        if (++step < steps) continue;
        step = 0;

        const size_t row0 = size_t(tile) * Shape::rows + warp_row + lane / 4;
        // Rows g and g + 8 of the fragments, of so many at once that their loads overlap.
        constexpr int batch = Precision::pieces == 1 ? 2 : 1;
#pragma unroll
        for (int turn = 0; turn < 4; turn += batch) {
            const int half_columns = turn / 2;
            const int column = column0 + warp_column + half_columns * 32 + lane % 4 * 8;
            const auto offset = [&](int i, int b) {
                return (row0 + i * 16 + (turn % 2 + b) * 8) * width + column;
            };
            Raw8<Precision> raw_x[batch][F];
            float bias[8], w0[8], w1[8], sums_d[sum_rows][8] = {};
            if (first) {
                load8(end.vectors.first(0) + column, w0);
                load8(end.vectors.first(1) + column, w1);
                load8(end.vectors.bias(0) + column, bias);
            } else if (adjoint) {
#pragma unroll
                for (int b = 0; b < batch; ++b) {
#pragma unroll
                    for (int i = 0; i < F; ++i) raw_x[b][i].load(end.x, offset(i, b));
                }
            } else {
                load8(end.bias + column, bias);
            }
#pragma unroll
            for (int b = 0; b < batch; ++b) {
#pragma unroll
                for (int f = 0; f < F; f += streams) {
                    const int half = turn % 2 + b;
                    float z[streams][8], x[streams][8];
#pragma unroll
                    for (int s = 0; s < streams; ++s) {
#pragma unroll
                        for (int j = 0; j < 8; ++j) {
                            z[s][j] = sums[f + s][half_columns * 4 + j / 2][half * 2 + j % 2];
                        }
                        if (adjoint && !first) raw_x[b][f + s].unpack(x[s]);
                    }
                    float coordinates[2] = {};
                    if (first) {
                        const int row = int(row0) + f * 16 + half * 8;
                        const int point = row / 16 / streams * 16 + row % 16;
                        if (point < end.points.count) {
                            coordinates[0] = end.points.coordinates[2 * point];
                            coordinates[1] = end.points.coordinates[2 * point + 1];
                        }
                    }
#pragma unroll
                    for (int j = 0; j < 8; ++j) {
                        float value[streams], other[streams];
#pragma unroll
                        for (int s = 0; s < streams; ++s) {
                            value[s] = z[s][j];
                            if (adjoint && !first) other[s] = x[s][j];
                        }
                        if (first) {
                            float all_h[streams];
                            first_inputs<streams>(end.points, w0[j], w1[j], bias[j], coordinates[0],
                                                  coordinates[1], other);
                            sine<Precision, streams>(other, all_h);
                            sine_adjoint<streams>(other, value);
                        } else if (adjoint) {
                            sine_adjoint<streams>(other, value);
                        } else {
                            value[0] += bias[j];
                            sine<Precision, streams>(value, other);
                        }
#pragma unroll
                        for (int s = 0; s < streams; ++s) {
                            z[s][j] = adjoint ? value[s] : other[s];
                            if (!adjoint) x[s][j] = value[s];
                        }
                        if (adjoint) sums_d[sum_rows - 1][j] += value[0];
                        if (first) {
#pragma unroll
                            for (int q = 0; q < 2; ++q) {
                                sums_d[q % sum_rows][j] = fmaf(coordinates[q], value[0],
                                                               sums_d[q % sum_rows][j]);
                                if (streams == 1) continue;
                                sums_d[q % sum_rows][j] =
                                    fmaf(end.points.scale[q], value[(1 + q) % streams],
                                         sums_d[q % sum_rows][j]);
                            }
                        }
                    }
#pragma unroll
                    for (int s = 0; s < streams; ++s) {
                        if (first) continue;
                        store8(adjoint ? end.d : end.h, offset(f + s, b), z[s]);
                        if (!adjoint && end.keep) store8(end.x, offset(f + s, b), x[s]);
                        if (kind == End::last_sine) {
                            const int row = int(row0) + (f + s) * 16 + half * 8;
                            write_output_part(end.output, z[s], row, column, width);
                        }
                    }
                }
            }
#pragma unroll
            for (int q = 0; adjoint && q < sum_rows; ++q) {
#pragma unroll
                for (int j = 0; j < 8; ++j) {
#pragma unroll
                    for (int other = 4; other < 32; other *= 2) {
                        sums_d[q][j] += __shfl_xor_sync(0xffffffffu, sums_d[q][j], other);
                    }
                    if (lane < 4) own_sums[(2 * q + half_columns) * 32 + j] += sums_d[q][j];
                }
            }
        }
        tile += tile_step;
    }
    if (adjoint && lane < 4) {
        const size_t share = blockIdx.x * Shape::shares + warp / 4;
        for (int q = 0; q < sum_rows; ++q) {
            float* const result =
                end.sums + (share * sum_rows + q) * width + column0 + warp_column + lane * 8;
            for (int j = 0; j < 8; ++j) {
                result[j] = own_sums[2 * q * 32 + j];
                result[32 + j] = own_sums[(2 * q + 1) * 32 + j];
            }
        }
    }
}

// ---- Outer products: D^T H of all layers, over shares of the rows ------------------------------------

template <class Precision>
struct OuterShape {
    static constexpr int stages = Precision::pieces == 1 ? 4 : 3;
    static constexpr int stride_a = 128 + padding, stride_b = column_tile + padding;
    static constexpr int plane_a = depth_tile * stride_a, plane_b = depth_tile * stride_b;
    static constexpr int stage = Precision::pieces * (plane_a + plane_b);
    static constexpr size_t bytes = size_t(stages) * stage * sizeof(typename Precision::Piece);
};

// Block (x, y, z): rows of share x, columns [128 y, 128 y + 128) of D, and z = layer column_tiles + tile
// of columns of H. Layers of d and h lie `layer_size` elements apart; partial is (layer, share, width,
// width).
template <class Precision>
__global__ void __launch_bounds__(outer_threads, 1)
    outer_kernel(Matrix<Precision> d, Matrix<Precision> h, size_t layer_size, float* partial, int rows,
                 int width) {
    typedef typename Precision::Piece Piece;
    typedef OuterShape<Precision> Shape;
    extern __shared__ __align__(16) unsigned char shared_memory[];
    Piece* const shared = reinterpret_cast<Piece*>(shared_memory);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 64;
    const int layer = blockIdx.z / (width / column_tile);
    const int column0 = blockIdx.z % (width / column_tile) * column_tile;
    d.data += layer * layer_size;
    h.data += layer * layer_size;
    const int all_steps = rows / depth_tile;
    const int begin = int(int64_t(all_steps) * blockIdx.x / gridDim.x);
    const int total = int(int64_t(all_steps) * (blockIdx.x + 1) / gridDim.x) - begin;

    // A thread copies the same column of every 16th row of D's and every 8th of H's.
    const int row_a = threadIdx.x / 16, column_a = threadIdx.x % 16 * 8;
    const int row_b = threadIdx.x / 32, column_b = threadIdx.x % 32 * 8;
    const Piece* next_a = d.data + (size_t(begin) * depth_tile + row_a) * width + blockIdx.y * 128 +
                          column_a;
    const Piece* next_b = h.data + (size_t(begin) * depth_tile + row_b) * width + column0 + column_b;
    int fetched = 0;
    const auto fetch = [&] {
        if (fetched < total) {
            Piece* const stage = shared + fetched % Shape::stages * Shape::stage;
#pragma unroll
            for (int piece = 0; piece < Precision::pieces; ++piece) {
                Piece* const a = stage + piece * Shape::plane_a + row_a * Shape::stride_a + column_a;
                Piece* const b = stage + Precision::pieces * Shape::plane_a + piece * Shape::plane_b +
                                 row_b * Shape::stride_b + column_b;
#pragma unroll
                for (int i = 0; i < depth_tile; i += 16) {
                    copy16(a + i * Shape::stride_a, next_a + piece * d.plane + size_t(i) * width);
                }
#pragma unroll
                for (int i = 0; i < depth_tile; i += 8) {
                    copy16(b + i * Shape::stride_b, next_b + piece * h.plane + size_t(i) * width);
                }
            }
            next_a += size_t(depth_tile) * width;
            next_b += size_t(depth_tile) * width;
        }
        commit_copies();
        ++fetched;
    };

    float sums[4][8][4];
    clear(sums);
    const int a_offset =
        (lane / 16 * 8 + lane % 8) * Shape::stride_a + warp_row + lane / 8 % 2 * 8;
    const int b_offset = Precision::pieces * Shape::plane_a + lane % 16 * Shape::stride_b +
                         warp_column + lane / 16 * 8;
    const auto load_a = [&](int number, int k, int piece, int i, uint32_t (&r)[4]) {
        const Piece* const stage = shared + number % Shape::stages * Shape::stage;
        load_matrices<true>(r, stage + a_offset + piece * Shape::plane_a + k * Shape::stride_a + i * 16);
    };
    const auto load_b = [&](int number, int k, int piece, int pair, uint32_t (&r)[4]) {
        const Piece* const stage = shared + number % Shape::stages * Shape::stage;
        load_matrices<true>(r,
                            stage + b_offset + piece * Shape::plane_b + k * Shape::stride_b + pair * 16);
    };
    if (Precision::pieces == 1) {  // operands are loaded a step of 16 ahead
        uint32_t a[2][4][4], b[2][4][4];
        const auto load = [&](int buffer, int number, int k) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                load_a(number, k, 0, i, a[buffer][i]);
                load_b(number, k, 0, i, b[buffer][i]);
            }
        };
        const auto multiply = [&](int buffer) {
#pragma unroll
            for (int pair = 0; pair < 4; ++pair) {
                multiply_pair<Piece>(sums, a[buffer], b[buffer][pair], pair);
            }
        };
        for (int i = 0; i < Shape::stages; ++i) fetch();
        wait_copies<Shape::stages - 1>();
        __syncthreads();
        if (total > 0) load(0, 0, 0);
#pragma unroll 1
        for (int number = 0; number < total; ++number) {
            load(1, number, 16);
            multiply(0);
            wait_copies<Shape::stages - 2>();
            __syncthreads();
            fetch();
            if (number + 1 < total) load(0, number + 1, 0);
            multiply(1);
        }
    } else {
        for (int i = 0; i < Shape::stages - 1; ++i) fetch();
#pragma unroll 1
        for (int number = 0; number < total; ++number) {
            wait_copies<Shape::stages - 2>();
            __syncthreads();
            fetch();
#pragma unroll
            for (int k = 0; k < depth_tile; k += 16) {
                multiply_step<Precision, 4>(
                    sums,
                    [&](int piece, int i, uint32_t (&r)[4]) { load_a(number, k, piece, i, r); },
                    [&](int piece, int pair, uint32_t (&r)[4]) { load_b(number, k, piece, pair, r); });
            }
        }
    }
    float* const result =
        partial + ((size_t(layer) * gridDim.x + blockIdx.x) * width + blockIdx.y * 128) * width +
        column0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = warp_row + i * 16 + half * 8 + lane / 4;
                const int column = warp_column + j * 8 + lane % 4 * 2;
                *reinterpret_cast<float2*>(result + size_t(row) * width + column) =
                    make_float2(sums[i][j][half * 2], sums[i][j][half * 2 + 1]);
            }
        }
    }
}

// ---- Everything else: memory-bound, a thread for eight columns ------------------------------------

// The scale brings the largest cotangent of the outputs to 2^exponent. Derivatives grow from layer to
// layer, to 1e4 times in a network that has learnt a Laplacian, and so do cotangents going back.
__host__ __device__ constexpr int cotangent_exponent(int streams) {
    return streams == 1 ? 8 : streams == 3 ? 5 : 3;
}
__device__ inline float cotangent_scale(const unsigned* largest, int streams) {
    const float x = __uint_as_float(*largest);
    if (!(x > 1e-30f) || x > 1e30f) return 1.0f;
    return exp2f(cotangent_exponent(streams) - floorf(log2f(x)));
}

__global__ void pack_vectors_kernel(Parameters p, Vectors v, unsigned* largest, int chunks) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    for (int chunk = i; row == 0 && chunk < chunks; chunk += gridDim.x * blockDim.x) {
        largest[chunk] = 0;
    }
    if (i >= v.width) return;
    float x = 0;
    if (i < p.width) {
        if (row < 2) {
            x = p.omega * p.flat[2 * i + row];
        } else if (row < 3 + p.hidden_layers) {
            x = p.omega * p.flat[p.bias(row - 2) + i];
        } else {
            const int channel = row - 3 - p.hidden_layers;
            x = p.flat[p.weight(p.hidden_layers + 1) + size_t(channel) * p.width + i];
        }
    }
    v.data[size_t(row) * v.width + i] = x;
}

// blockIdx: (k in blocks, n, 2 (layer - 1) + orientation); all matrices lie one after the other, for
// product_kernel, or as operands of chain_kernel.
template <class Precision>
__global__ void pack_matrices_kernel(Parameters p, Matrix<Precision> packed, int width, bool operands) {
    const int k = (blockIdx.x * blockDim.x + threadIdx.x) * 8, n = blockIdx.y;
    const int layer = 1 + blockIdx.z / 2;
    const bool transposed = blockIdx.z % 2;
    if (k >= width) return;
    const float* const w = p.flat + p.weight(layer);
    float x[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        const bool inside = k + j < p.width && n < p.width;
        const size_t at = transposed ? size_t(k + j) * p.width + n : size_t(n) * p.width + k + j;
        x[j] = inside ? p.omega * w[at] : 0.0f;
    }
    const size_t place = operands ? operand_place(n, k) : size_t(packed_row(n)) * width + k;
    store8(packed, size_t(blockIdx.z) * width * width + place, x);
}

// Row of the first stream of a point; further streams follow 16 rows apart.
template <int streams>
__device__ inline size_t row_of(int point) {
    return size_t(point / 16) * 16 * streams + point % 16;
}

template <class Precision, int streams>
__global__ void first_layer_kernel(Points points, Vectors v, Matrix<Precision> h,
                                   Matrix<Precision> x, bool keep, OutputParts output) {
    const int vectors = v.width / 8;
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const int point = i / vectors, column = i % vectors * 8;
    if (point >= points.padded) return;
    const bool inside = point < points.count;
    const float row = inside ? points.coordinates[2 * point] : 0.0f;
    const float col = inside ? points.coordinates[2 * point + 1] : 0.0f;
    float all_h[streams][8], all_x[streams][8], all_w0[8], all_w1[8], bias[8];
    load8(v.first(0) + column, all_w0);
    load8(v.first(1) + column, all_w1);
    load8(v.bias(0) + column, bias);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        float z[streams], value[streams];
        first_inputs<streams>(points, all_w0[j], all_w1[j], bias[j], row, col, z);
        sine<Precision, streams>(z, value);
#pragma unroll
        for (int s = 0; s < streams; ++s) {
            all_h[s][j] = value[s];
            all_x[s][j] = z[s];
        }
    }
#pragma unroll
    for (int s = 0; s < streams; ++s) {
        const size_t offset = (row_of<streams>(point) + 16 * s) * v.width + column;
        store8(h, offset, all_h[s]);
        if (keep) store8(x, offset, all_x[s]);
        if (output.weights) {
            write_output_part(output, all_h[s], row_of<streams>(point) + 16 * s, column, v.width);
        }
    }
}

// One of the network's outputs, in the units asked for.
template <int streams>
__device__ inline float output_value(const Points& points, const Parameters& p,
                                     const OutputParts& output, int point, int stream, int channel) {
    const size_t row = row_of<streams>(point) + 16 * stream;
    float sum = 0;
    for (int group = 0; group < output.groups; ++group) {
        sum += output.parts[(size_t(group) * output.rows + row) * output.channels + channel];
    }
    const float bias = stream == 0 ? p.flat[p.bias(p.hidden_layers + 1) + channel] : 0.0f;
    return sum * points.inverse[stream] + bias;
}

// result is (count, streams, channels).
template <int streams>
__global__ void output_kernel(Points points, Parameters p, OutputParts output, float* result) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const int point = i / p.channels / streams;
    if (point >= points.count) return;
    result[i] = output_value<streams>(points, p, output, point, i / p.channels % streams,
                                      i % p.channels);
}

__device__ inline void keep_largest(float x, unsigned* largest) {
    unsigned bits = __float_as_uint(fabsf(x));
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        bits = max(bits, __shfl_down_sync(0xffffffffu, bits, offset));
    }
    if (threadIdx.x % 32 == 0) atomicMax(largest, bits);
}

// Sum over a block of 256 threads, for thread 0.
__device__ inline double block_sum(double x) {
    __shared__ double warps[8];
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_down_sync(0xffffffffu, x, offset);
    __syncthreads();
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
    __syncthreads();
    if (threadIdx.x != 0) return 0;
    for (int i = 1; i < 8; ++i) x += warps[i];
    return x;
}

// From outputs to the cotangents (count, streams, channels) of the squared error, in the units of the
// streams as they are kept. sums[block] has the block's share of the loss, before the mean, and of
// the output biases' gradient: 1 + channels numbers.
template <int streams>
__global__ void cotangent_kernel(Points points, Parameters p, OutputParts output,
                                 Error error, float* cotangent, unsigned* largest, double* sums) {
    const int channels = p.channels;
    constexpr int supervised = streams == 3 ? 2 : 1, first = streams - supervised;
    const int point = blockIdx.x * blockDim.x + threadIdx.x;
    const size_t start = size_t(point) * streams * channels;
    double loss = 0;
    float most = 0;
    if (point < points.count) {
        const float w = error.weight ? error.weight[point] : 1.0f;
#pragma unroll
        for (int s = 0; s < streams; ++s) {
            for (int c = 0; c < channels; ++c) {
                const size_t i = start + s * channels + c;
                float g = 0;
                if (error.given) {
                    g = error.given[i] * points.inverse[s];
                } else if (s >= first) {
                    const size_t k = size_t(point) * supervised + s - first;
                    const float residual = output_value<streams>(points, p, output, point, s, c) -
                                           error.target[k * channels + c];
                    loss += double(w * residual) * residual;
                    g = 2 * error.mean * w * residual * points.inverse[s];
                }
                most = fmaxf(most, fabsf(g));
                cotangent[i] = g;
            }
        }
    }
    keep_largest(most, largest);
    sums += size_t(blockIdx.x) * (1 + channels);
    loss = block_sum(loss);
    if (threadIdx.x == 0) sums[0] = loss;
    for (int c = 0; c < channels; ++c) {
        const double bias = block_sum(point < points.count ? cotangent[start + c] : 0.0f);
        if (threadIdx.x == 0) sums[1 + c] = bias;
    }
}

// A block for each of the sums: the loss, if wanted, and the output biases' gradient.
__global__ void finish_sums_kernel(const double* sums, int shares, double mean, float* loss,
                                   float* gradient, bool add) {
    double sum = 0;
    for (int i = threadIdx.x; i < shares; i += blockDim.x) {
        sum += sums[size_t(i) * gridDim.x + blockIdx.x];
    }
    sum = block_sum(sum);
    if (threadIdx.x != 0) return;
    float* const result = blockIdx.x == 0 ? loss : gradient + blockIdx.x - 1;
    if (!result) return;
    *result = float(blockIdx.x == 0 ? mean * sum : sum) + (add ? *result : 0.0f);
}

// A block of 256 threads, of which each has sums of 8 of 256 columns over one of 8 parts of the rows:
// the sum over the parts of column threadIdx.x.
__device__ inline float sum_of_parts(const float (&sums)[8], float (&shared)[8][256]) {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 8; ++j) shared[threadIdx.x / 32][threadIdx.x % 32 * 8 + j] = sums[j];
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < 8; ++i) sum += shared[i][threadIdx.x];
    return sum;
}

// Cotangents of the output to those of the last sine layer's input, d; sums of d's value rows to
// bias_partial[block]; and for `at_once` channels from `channel` on, the output weights' gradient to
// partial[block][channel]. Blocks of 256 threads: (share of points, 256 columns). Only the first
// channels' launch writes d and its sums.
template <class Precision, int streams, int at_once>
__global__ void __launch_bounds__(256, 2)
    output_adjoint_kernel(Points points, Parameters p, Vectors v, Matrix<Precision> h,
                          Matrix<Precision> x, Matrix<Precision> d, const float* cotangent,
                          const unsigned* largest, int channel, float* bias_partial,
                          float* partial) {
    constexpr int parts = 8, at_a_time = streams == 1 ? 4 / Precision::pieces : 1;
    __shared__ float shared[parts][256];
    const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
    const int column = blockIdx.y * 256 + lane * 8;
    const size_t next = size_t(16) * v.width;
    const float scale = cotangent_scale(largest, streams);
    float bias[8] = {}, sums[at_once][8] = {};
    const int step = gridDim.x * parts;
    for (int point0 = blockIdx.x * parts + part; point0 < points.padded; point0 += at_a_time * step) {
        Raw8<Precision> raw_h[at_a_time][streams], raw_x[at_a_time][streams];
#pragma unroll
        for (int i = 0; i < at_a_time; ++i) {
            const int point = min(point0 + i * step, points.padded - 1);
            const size_t offset = row_of<streams>(point) * v.width + column;
#pragma unroll
            for (int s = 0; s < streams; ++s) {
                raw_h[i][s].load(h, offset + s * next);
                if (channel == 0) raw_x[i][s].load(x, offset + s * next);
            }
        }
#pragma unroll
        for (int i = 0; i < at_a_time; ++i) {
            const int point = point0 + i * step;
            if (point >= points.padded) continue;
            const size_t offset = row_of<streams>(point) * v.width + column;
            const float* const y = cotangent + size_t(point) * streams * p.channels;
            const bool inside = point < points.count;
            float all_h[streams][8];
#pragma unroll
            for (int s = 0; s < streams; ++s) {
                raw_h[i][s].unpack(all_h[s]);
#pragma unroll
                for (int q = 0; q < at_once; ++q) {
                    if (!inside || channel + q >= p.channels) continue;
                    const float g = y[s * p.channels + channel + q];
#pragma unroll
                    for (int j = 0; j < 8; ++j) sums[q][j] = fmaf(g, all_h[s][j], sums[q][j]);
                }
            }
            if (channel > 0) continue;
            float g[streams][8] = {}, all_x[streams][8];
            for (int c = 0; inside && c < p.channels; ++c) {
                float w[8];
                load8(v.output(p.hidden_layers, c) + column, w);
#pragma unroll
                for (int s = 0; s < streams; ++s) {
                    const float scaled = scale * y[s * p.channels + c];
#pragma unroll
                    for (int j = 0; j < 8; ++j) g[s][j] = fmaf(scaled, w[j], g[s][j]);
                }
            }
#pragma unroll
            for (int s = 0; s < streams; ++s) raw_x[i][s].unpack(all_x[s]);
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                float value[streams], other[streams];
#pragma unroll
                for (int s = 0; s < streams; ++s) {
                    value[s] = g[s][j];
                    other[s] = all_x[s][j];
                }
                sine_adjoint<streams>(other, value);
#pragma unroll
                for (int s = 0; s < streams; ++s) g[s][j] = value[s];
                bias[j] += value[0];
            }
#pragma unroll
            for (int s = 0; s < streams; ++s) store8(d, offset + s * next, g[s]);
        }
    }
    const int own = blockIdx.y * 256 + threadIdx.x;
    if (channel == 0) bias_partial[size_t(blockIdx.x) * v.width + own] = sum_of_parts(bias, shared);
#pragma unroll
    for (int q = 0; q < at_once; ++q) {
        if (channel + q >= p.channels) continue;
        const size_t row = size_t(blockIdx.x) * p.channels + channel + q;
        partial[row * v.width + own] = sum_of_parts(sums[q], shared);
    }
}

// The first layer's weights, where no product ends with their sums: partial[block][q][column] = sum
// over the points of a share of what the weights' column q, 0 or 1, was multiplied by, times d.
// Blocks of 256 threads: (share, 256 columns).
template <class Precision, int streams>
__global__ void first_adjoint_kernel(Points points, int width, Matrix<Precision> d, float* partial) {
    constexpr int parts = 8, unrolled = 4;
    __shared__ float shared[parts][256];
    const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
    const int column = blockIdx.y * 256 + lane * 8;
    const size_t next = size_t(16) * width;
    float sums[2][8] = {};
    const int step = gridDim.x * parts;
    for (int first = blockIdx.x * parts + part; first < points.count; first += unrolled * step) {
        Raw8<Precision> raw[unrolled][streams < 3 ? 1 : 3];  // the Laplacian's row has no part
        float x[unrolled][2];
#pragma unroll
        for (int i = 0; i < unrolled; ++i) {
            const int point = min(first + i * step, points.count - 1);
            const size_t offset = row_of<streams>(point) * width + column;
#pragma unroll
            for (int s = 0; s < streams && s < 3; ++s) raw[i][s].load(d, offset + s * next);
            const bool inside = first + i * step < points.count;
            for (int q = 0; q < 2; ++q) x[i][q] = inside ? points.coordinates[2 * point + q] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < unrolled; ++i) {
            if (first + i * step >= points.count) continue;
            float value[8];
            raw[i][0].unpack(value);
#pragma unroll
            for (int q = 0; q < 2; ++q) {
#pragma unroll
                for (int j = 0; j < 8; ++j) sums[q][j] = fmaf(x[i][q], value[j], sums[q][j]);
                if (streams < 3) continue;
                float derivative[8];
                raw[i][streams < 3 ? 0 : 1 + q].unpack(derivative);
#pragma unroll
                for (int j = 0; j < 8; ++j) {
                    sums[q][j] = fmaf(points.scale[q], derivative[j], sums[q][j]);
                }
            }
        }
    }
#pragma unroll
    for (int q = 0; q < 2; ++q) {
        partial[(size_t(blockIdx.x) * 2 + q) * width + blockIdx.y * 256 + threadIdx.x] =
            sum_of_parts(sums[q], shared);
    }
}

// A part of the gradient: for each of its layers and first `wanted` rows, the sum over shares (layer,
// share, rows, width). Element (row, column) of layer l is
// gradient[l layer_stride + row row_stride + column column_stride].
struct Part {
    const float* shares;
    int count, rows, wanted, layers;
    float factor;
    bool scaled;  // by the scale of the cotangents
    float* gradient;
    size_t layer_stride, row_stride, column_stride;
};

struct Parts {
    Part part[4];
};

// Writes or adds the sums, times factor. Blocks of 256 threads: (256 / at_once columns, rows of all
// parts); `at_once` threads share the work for a column.
template <int at_once>
__global__ void finish_kernel(Parts parts, int streams, int columns, int width,
                              const unsigned* largest, bool add) {
    constexpr int block_columns = 256 / at_once;
    __shared__ float shared[at_once][block_columns];
    const int lane = threadIdx.x % block_columns, first = threadIdx.x / block_columns;
    const int column = blockIdx.x * block_columns + lane;
    int index = blockIdx.y, number = 0;
    while (index >= parts.part[number].wanted * parts.part[number].layers) {
        index -= parts.part[number].wanted * parts.part[number].layers;
        ++number;
    }
    const Part part = parts.part[number];
    const int row = index % part.wanted, layer = index / part.wanted;
    float sum = 0;
#pragma unroll 8
    for (int share = first; share < part.count; share += at_once) {
        sum += part.shares[((size_t(layer) * part.count + share) * part.rows + row) * width + column];
    }
    shared[first][lane] = sum;
    __syncthreads();
    if (first > 0 || column >= columns) return;
    for (int i = 1; i < at_once; ++i) sum += shared[i][lane];
    const float factor = part.scaled ? part.factor / cotangent_scale(largest, streams) : part.factor;
    float& result = part.gradient[layer * part.layer_stride + row * part.row_stride +
                                  column * part.column_stride];
    result = factor * sum + (add ? result : 0.0f);
}

// ---- All layers in one kernel -------------------------------------------------------------------------

#ifdef SIREN_HOPPER
#include "hopper_cuda.h"

#include "chain_cuda.h"
#endif

// ---- One pass over all points -----------------------------------------------------------------------

// Device memory that is kept between calls and only grows.
class Workspace {
public:
    void* reserve(size_t bytes) {
        if (bytes > size_) {
            check(cudaFree(data_));
            data_ = nullptr;
            size_ = 0;
            check(cudaMalloc(&data_, bytes));
            size_ = bytes;
        }
        return data_;
    }

private:
    void* data_ = nullptr;
    size_t size_ = 0;
};

inline Workspace& workspace() {
    static Workspace shared;
    return shared;
}

template <class Kernel>
void allow_shared_memory(Kernel kernel, size_t bytes) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
}

inline int blocks(size_t items, int threads = 256) { return int((items + threads - 1) / threads); }

template <class Precision, int streams, int channels>
class Pass {
    typedef typename Precision::Piece Piece;
    typedef Matrix<Precision> Rows;
    static constexpr int group = point_group(streams);

public:
    // `keep`: what backward() needs is kept.
    Pass(const Parameters& parameters, const float* scale, int64_t n, bool keep)
        : p_(parameters), keep_(keep) {
        int device = 0;
        check(cudaGetDevice(&device));
        check(cudaDeviceGetAttribute(&processors_, cudaDevAttrMultiProcessorCount, device));
        width_ = (p_.width + column_tile - 1) / column_tile * column_tile;
        if (keep && width_ == column_tile && p_.hidden_layers > 0) prepare_chain(Chainable());
        const float unit = p_.omega * std::max(std::abs(scale[0]), std::abs(scale[1]));
        const float kappa = unit > 0 ? std::exp2(std::round(std::log2(2 / unit))) : 1.0f;
        for (int i = 0; i < 2; ++i) points_.scale[i] = kappa * scale[i];
        points_.inverse[0] = 1;
        points_.inverse[1] = points_.inverse[2] = 1 / kappa;
        points_.inverse[3] = 1 / (kappa * kappa);

        const int64_t most = int64_t(chunk_rows) / rows_.rows * rows_.points / group * group;
        const int64_t padded = (n + group - 1) / group * group;
        const int64_t chunks = std::max<int64_t>((padded + most - 1) / most, 1);
        chunk_points_ = (padded / group + chunks - 1) / chunks * group;
        chunks_ = int(chunks);
        shares_ = chained_ ? chain_shares(Chainable()) : 2 * processors_;

        plane_ = size_t(chunk_points_ + rows_.points - 1) / rows_.points * rows_.rows * width_;
        const int layers = p_.hidden_layers + 1;
        const size_t values = size_t(chunk_points_) * streams * p_.channels;
        const int column_tiles = width_ / column_tile;
        splits_ = std::max(1, processors_ / (2 * column_tiles * column_tiles *
                                             std::max(1, p_.hidden_layers)));
        // Measured first, then laid out.
        for (int turn = 0; turn < 2; ++turn) {
            char* const start =
                turn == 0 ? nullptr : static_cast<char*>(workspace().reserve(used_));
            used_ = 0;
            // See chain_cuda.h for what is not kept there.
            const int kept_h = chained_ ? p_.hidden_layers - 1 : layers;
            h_ = take<Piece>(start, Precision::pieces * plane_ * (keep ? kept_h : 2));
            if (keep) {
                if (chained_) kept_ = take<uint4>(start, kept_bytes_ / sizeof(uint4));
                if (!chained_) x_ = take<Piece>(start, Precision::pieces * plane_ * layers);
                d_ = take<Piece>(start, Precision::pieces * plane_ * (chained_ ? p_.hidden_layers : layers));
                outer_partial_ =
                    take<float>(start, size_t(p_.hidden_layers) * splits_ * width_ * width_);
                bias_partial_ = take<float>(start, size_t(layers) * std::max(shares_, splits_) * width_);
                first_partial_ = take<float>(start, size_t(shares_) * 3 * width_);
                output_partial_ = take<float>(start, size_t(shares_) * p_.channels * width_);
                cotangent_ = take<float>(start, values);
                point_sums_ = take<double>(start, std::max(blocks(chunk_points_), 4 * shares_) *
                                                      (1 + p_.channels));
                all_largest_ = take<unsigned>(start, 2 * chunks);
            }
            output_parts_ = take<float>(start, width_ / 32 * values);
            packed_plane_ = size_t(2 * p_.hidden_layers) * width_ * width_;
            packed_ = take<Piece>(start, Precision::pieces * packed_plane_);
            vectors_.width = width_;
            vectors_.data = take<float>(start, size_t(3 + p_.hidden_layers + p_.channels) * width_);
        }
        pack_vectors_kernel<<<dim3(blocks(width_), 3 + p_.hidden_layers + p_.channels), 256>>>(
            p_, vectors_, all_largest_, keep ? 2 * chunks_ : 0);
        if (p_.hidden_layers > 0) {
            pack_matrices_kernel<Precision>
                <<<dim3(blocks(width_ / 8, 32), width_, 2 * p_.hidden_layers), 32>>>(
                    p_, Rows{packed_, packed_plane_}, width_, chained_);
        }
        check(cudaGetLastError());
    }

    int64_t chunk_points() const { return chunk_points_; }
    bool chained() const { return chained_; }

    // Evaluates points (count, 2), at most chunk_points().
    void forward(const float* coordinates, int count) {
        take_points(coordinates, count);
        const int last = p_.hidden_layers;
        parts_ = {output_parts_, vectors_.output(last, 0), p_.channels, points_.padded * streams,
                  width_ / 32};
        // A product's end computes the first layer's x anew.
        first_layer_kernel<Precision, streams><<<blocks(size_t(points_.padded) * width_ / 8), 256>>>(
            points_, vectors_, h(0), x(0), keep_ && last == 0, last == 0 ? parts_ : OutputParts{});
        for (int l = 1; l <= last; ++l) {
            const Ending<Precision> end{h(l),   x(l),    {},      vectors_.bias(l), keep_,
                                        parts_, nullptr, points_, vectors_};
            if (l < last) product<End::sine>(h(l - 1), weights(l, false), end);
            if (l == last) product<End::last_sine>(h(l - 1), weights(l, false), end);
        }
        check(cudaGetLastError());
    }

    // The streams (count, streams, channels).
    void outputs(float* result) {
        output_kernel<streams>
            <<<blocks(size_t(points_.count) * streams * p_.channels), 256>>>(points_, p_, parts_, result);
        check(cudaGetLastError());
    }

    // Weighted squared error against target, and its gradient, at points (count, 2): of chunk number 0
    // written, of others added.
    void squared_error(int chunk, const float* coordinates, int count, const float* target,
                       const float* weight, double mean, float* loss, float* gradient) {
        differentiate(chunk, coordinates, count, {target, weight, nullptr, float(mean)}, mean, loss,
                      gradient);
    }

    // The same from given cotangents (count, streams, channels), without a loss.
    void product(int chunk, const float* coordinates, int count, const float* cotangent,
                 float* gradient) {
        differentiate(chunk, coordinates, count, {nullptr, nullptr, cotangent, 1}, 1, nullptr,
                      gradient);
    }

private:
    template <class T>
    T* take(char* start, size_t count) {
        T* const result = reinterpret_cast<T*>(start + used_);
        used_ += (count * sizeof(T) + 255) / 256 * 256;
        return result;
    }
    void take_points(const float* coordinates, int count) {
        points_.coordinates = coordinates;
        points_.count = count;
        points_.padded = (count + group - 1) / group * group;
    }
    size_t layer_size() const { return Precision::pieces * plane_; }
    // Planes are one after the other within a layer.
    Rows h(int l) const { return {h_ + (keep_ ? l : l % 2) * layer_size(), plane_}; }
    Rows x(int l) const { return {x_ + l * layer_size(), plane_}; }
    Rows d(int l) const { return {d_ + l * layer_size(), plane_}; }
    float* bias_partial(int l) const { return bias_partial_ + size_t(l) * shares_ * width_; }
    Rows weights(int l, bool transposed) const {
        const size_t index = 2 * (l - 1) + transposed;
        return {packed_ + index * width_ * width_, packed_plane_};
    }

    template <End kind>
    void product(Rows a, Rows b, const Ending<Precision>& end) {
        typedef ProductShape<Precision, streams> Shape;
        const auto kernel = product_kernel<Precision, streams, kind>;
        const int tiles = points_.padded * streams / Shape::rows;
        allow_shared_memory(kernel, Shape::bytes);
        // As many blocks as have shares of the bias, even if there are fewer tiles.
        kernel<<<dim3(processors_, width_ / column_tile), Shape::threads, Shape::bytes>>>(
            a, b, end, tiles, width_);
    }

    void differentiate(int chunk, const float* coordinates, int count, const Error& error,
                       double mean, float* loss, float* gradient) {
        const int last = p_.hidden_layers, width = p_.width;
        const bool add = chunk > 0;
        unsigned* const largest = all_largest_ + chunk;
        int sums = 4 * shares_;
        if (chained_) {
            take_points(coordinates, count);
            chain(error, largest, all_largest_ + chunks_ + chunk, Chainable());
        } else {
            forward(coordinates, count);
            sums = blocks(count);
            backward(error, largest);
        }
        finish_sums_kernel<<<1 + p_.channels, 256>>>(point_sums_, sums, mean, loss,
                                                     gradient + p_.bias(last + 1), add);
        if (last > 0 && !chained_) {
            const size_t bytes = OuterShape<Precision>::bytes;
            allow_shared_memory(outer_kernel<Precision>, bytes);
            outer_kernel<Precision>
                <<<dim3(splits_, width_ / 128, last * (width_ / column_tile)), outer_threads, bytes>>>(
                    d(1), h(0), layer_size(), outer_partial_, points_.padded * streams, width_);
        }

        const size_t layer = size_t(width) * width + width;
        float* const first_bias = last > 0 ? first_partial_ + 2 * size_t(width_) : bias_partial(0);
        if (last > 0) {
            const Parts products{{{outer_partial_, splits_, width_, width, last, p_.omega, true,
                                   gradient + p_.weight(1), layer, size_t(width), 1}}};
            finish_kernel<1><<<dim3(blocks(width), last * width), 256>>>(products, streams, width, width_,
                                                                         largest, add);
        }
        const Parts sums_of_rows{{
            {bias_partial(1), chained_ ? splits_ : shares_, 1, 1, last, p_.omega, true,
             gradient + p_.bias(1), layer, 0, 1},
            {first_partial_, shares_, last > 0 ? 3 : 2, 2, 1, p_.omega, true, gradient, 0, 1, 2},
            {first_bias, shares_, last > 0 ? 3 : 1, 1, 1, p_.omega, true, gradient + p_.bias(0), 0, 0, 1},
            {output_partial_, shares_, p_.channels, p_.channels, 1, 1.0f, chained_,
             gradient + p_.weight(last + 1), 0, size_t(width), 1},
        }};
        finish_kernel<32><<<dim3(blocks(width, 8), last + 3 + p_.channels), 256>>>(
            sums_of_rows, streams, width, width_, largest, add);
        check(cudaGetLastError());
    }

    // Layer by layer; the sums of the last and the first layer with them.
    void backward(const Error& error, unsigned* largest) {
        const int last = p_.hidden_layers;
        cotangent_kernel<streams><<<blocks(points_.count), 256>>>(points_, p_, parts_, error,
                                                                  cotangent_, largest, point_sums_);
        const dim3 shares(shares_, width_ / 256);
        const auto output_adjoint = p_.channels == 1
                                        ? output_adjoint_kernel<Precision, streams, 1>
                                        : output_adjoint_kernel<Precision, streams, 3>;
        for (int channel = 0; channel < p_.channels; channel += 3) {
            output_adjoint<<<shares, 256>>>(points_, p_, vectors_, h(last), x(last), d(last),
                                            cotangent_, largest, channel, bias_partial(last),
                                            output_partial_);
        }
        for (int l = last; l > 0; --l) {
            Ending<Precision> end{{}, x(l - 1), d(l - 1), nullptr,  false,
                                  {}, nullptr,  points_,  vectors_};
            end.sums = l > 1 ? bias_partial(l - 1) : first_partial_;
            if (l > 1) product<End::adjoint>(d(l), weights(l, true), end);
            if (l == 1) product<End::first_adjoint>(d(l), weights(l, true), end);
        }
        if (last == 0) {
            first_adjoint_kernel<Precision, streams>
                <<<shares, 256>>>(points_, width_, d(0), first_partial_);
        }
    }

#ifdef SIREN_HOPPER
    typedef std::integral_constant<bool, Precision::pieces == 1 && channels <= 4> Chainable;

    // A pair of blocks for each two processors, as many as can be there at the same time.
    // attributes[1] makes a launch cooperative.
    static cudaLaunchConfig_t in_clusters(dim3 grid, int threads, size_t bytes, dim3 cluster,
                                          cudaLaunchAttribute (&attributes)[2]) {
        attributes[0].id = cudaLaunchAttributeClusterDimension;
        attributes[0].val.clusterDim.x = cluster.x;
        attributes[0].val.clusterDim.y = cluster.y;
        attributes[0].val.clusterDim.z = cluster.z;
        attributes[1].id = cudaLaunchAttributeCooperative;
        attributes[1].val.cooperative = 1;
        cudaLaunchConfig_t config{};
        config.gridDim = grid;
        config.blockDim = dim3(threads);
        config.dynamicSmemBytes = bytes;
        config.attrs = attributes;
        config.numAttrs = 1;
        return config;
    }
    cudaLaunchConfig_t chain_launch(int blocks, cudaLaunchAttribute (&attributes)[2]) const {
        typedef ChainShape<Precision, streams, channels> Shape;
        cudaLaunchConfig_t config =
            in_clusters(dim3(blocks), Shape::threads, Shape::bytes(p_.hidden_layers),
                        dim3(Shape::cluster), attributes);
        config.numAttrs = 2;
        return config;
    }

    void prepare_chain(std::true_type) {
        typedef ChainShape<Precision, streams, channels> Shape;
        const auto kernel = chain_kernel<Precision, streams, channels>;
        const size_t bytes = Shape::bytes(p_.hidden_layers);
        int device = 0, most_bytes = 0, clusters = 0;
        check(cudaGetDevice(&device));
        check(cudaDeviceGetAttribute(&most_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
        if (bytes > size_t(most_bytes)) return;
        allow_shared_memory(kernel, bytes);
        cudaLaunchAttribute attributes[2];
        const cudaLaunchConfig_t config = chain_launch(Shape::cluster, attributes);
        check(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config));
        if (clusters == 0) return;
        chained_ = true;
        chain_blocks_ = clusters * Shape::cluster;
        rows_ = {Shape::points, Shape::rows};
    }

    // No more blocks than make the largest share of a chunk's tiles as small as it can be.
    int chain_shares(std::true_type) {
        typedef ChainShape<Precision, streams, channels> Shape;
        const int tiles = Shape::tiles(int(chunk_points_));
        const int turns = (tiles + Shape::groups * chain_blocks_ - 1) / (Shape::groups * chain_blocks_);
        const int of_cluster = Shape::groups * Shape::cluster * turns;
        chain_blocks_ = (tiles + of_cluster - 1) / of_cluster * Shape::cluster;
        kept_bytes_ = Shape::kept_bytes(p_.hidden_layers, chain_blocks_);
        return chain_blocks_ * Shape::groups;
    }

    void chain(const Error& error, unsigned* largest, unsigned* arrived, std::true_type) {
        typedef ChainShape<Precision, streams, channels> Shape;
        typedef ChainOuterShape<Precision, streams> Outer;
        ChainArguments<Precision> arguments{
            points_, p_,    vectors_, packed_, h_,             d_,              plane_,
            kept_,   error, largest,  arrived, first_partial_, output_partial_, point_sums_};
        cudaLaunchAttribute attributes[2];
        cudaLaunchConfig_t config = chain_launch(chain_blocks_, attributes);
        check(cudaLaunchKernelEx(&config, chain_kernel<Precision, streams, channels>, arguments));
        const auto outer = chain_outer_kernel<Precision, streams>;
        allow_shared_memory(outer, Outer::bytes);
        config = in_clusters(dim3(splits_, Outer::cluster, p_.hidden_layers), Outer::threads,
                             Outer::bytes, dim3(1, Outer::cluster), attributes);
        check(cudaLaunchKernelEx(&config, outer, points_, vectors_, static_cast<const Piece*>(d_),
                                 static_cast<const Piece*>(h_), plane_, outer_partial_,
                                 bias_partial(1), Shape::tiles(points_.count)));
    }
#else
    typedef std::false_type Chainable;
#endif
    void prepare_chain(std::false_type) {}
    int chain_shares(std::false_type) { return 0; }
    void chain(const Error&, unsigned*, unsigned*, std::false_type) {}

    const Parameters p_;
    const bool keep_;
    bool chained_ = false;
    int chain_blocks_ = 0;
    struct {
        int points, rows;
    } rows_{1, streams};  // that so many points take
    size_t kept_bytes_ = 0;
    int processors_ = 0, width_ = 0, splits_ = 0, shares_ = 0;
    int64_t chunk_points_ = 0;
    int chunks_ = 1;
    size_t plane_ = 0, packed_plane_ = 0, used_ = 0;
    Points points_{};
    Vectors vectors_{};
    OutputParts parts_{};
    Piece *h_ = nullptr, *x_ = nullptr, *d_ = nullptr, *packed_ = nullptr;
    uint4* kept_ = nullptr;
    float *outer_partial_ = nullptr, *bias_partial_ = nullptr, *first_partial_ = nullptr;
    float *output_partial_ = nullptr, *output_parts_ = nullptr, *cotangent_ = nullptr;
    double* point_sums_ = nullptr;
    unsigned* all_largest_ = nullptr;
};

}  // namespace
}  // namespace gpu
}  // namespace siren
