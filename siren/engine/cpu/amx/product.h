// Matrix products on the tiles of Intel's Advanced Matrix Extensions (AMX), which multiply bf16 and add up
// in float32: 16 times as many multiplications a cycle as AVX-512 does with float32.
//
// A float32 number x is split into two of bf16, high = x rounded to 8 bits and low = x - high rounded to 8
// bits, 16 to 17 bits in all. Of the four products of two such numbers, low times low is left out.
//
// Operands are made of pairs of tiles, the high and the low parts of 32 numbers in each of 16 lines (rows of
// A or columns of B). Along the depth of the product the pairs of the same lines follow one another: a strip.
//     A: row i of a tile has 32 numbers of line i, one after the other.
//     B: row k of a tile has numbers 2k and 2k + 1 of line 0, then of line 1, and so on.
// The result is in blocks of 32 rows and 16 columns, row after row.
#pragma once

#if !defined(__AMX_BF16__) || !defined(__AVX512BW__)
#error "the compiler does not use this processor's AMX: g++ 11 or clang 12 and newer do"
#endif

// g++ 12 takes the undefined operand of its own unmasked intrinsics for a mistake.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu/vector.h"

namespace siren {
namespace amx {

constexpr int tile_lines = 16, tile_depth = 32;
constexpr int block_lines = 2 * tile_lines;              // of A, and of B, in a product of blocks
constexpr size_t result_block = block_lines * tile_lines;  // floats

// 16 rows of 16 pairs of bf16: the high parts of 32 numbers of 16 lines, and the low parts.
struct TilePair {
    uint32_t high[16][16], low[16][16];
};

// While it exists, its thread may use tiles of 16 rows of 64 bytes. The process has asked the kernel for them
// before (allow_amx in siren/runtime/machine.py).
class Tiles {
public:
    Tiles() {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t bytes[16] = {};
            uint8_t rows[16] = {};
        } configuration;
        for (int tile = 0; tile < 8; ++tile) {
            configuration.bytes[tile] = 64;
            configuration.rows[tile] = 16;
        }
        _tile_loadconfig(&configuration);
    }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

// The bits of x, rounded to those of a bf16 in the upper half. (The lower half is not cleared.)
inline IntVector rounded(Vector x) { return (IntVector)x + 0x8000; }

// The upper halves of two vectors of 32-bit numbers, one of each in turn.
inline __m512i interleaved(IntVector even, IntVector odd) {
    return _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32((__m512i)even, 16), (__m512i)odd);
}

// Splits numbers, of which `even` and `odd` are neighbors along the depth, into row `row` of a pair.
inline void store_split(Vector even, Vector odd, TilePair& pair, int row) {
    const int upper = int(0xFFFF0000);
    const IntVector even_high = rounded(even) & upper, odd_high = rounded(odd) & upper;
    const Vector even_low = even - (Vector)even_high, odd_low = odd - (Vector)odd_high;
    _mm512_store_si512(pair.high[row], interleaved(even_high, odd_high));
    _mm512_store_si512(pair.low[row], interleaved(rounded(even_low), rounded(odd_low)));
}

// Numbers `parity`, 2 + parity, ... of a row of a pair.
inline Vector joined(const TilePair& pair, int row, int parity) {
    const __m512i high = _mm512_load_si512(pair.high[row]), low = _mm512_load_si512(pair.low[row]);
    const __m512i upper = _mm512_set1_epi32(int(0xFFFF0000));
    if (parity) return (Vector)_mm512_and_si512(high, upper) + (Vector)_mm512_and_si512(low, upper);
    return (Vector)_mm512_slli_epi32(high, 16) + (Vector)_mm512_slli_epi32(low, 16);
}

enum class Sum : bool { from_zero, from_c };

// c = a b^T, or c += a b^T, for two neighboring strips of `pairs` pairs of each: two blocks of results, the
// one of the first strip of b and that of the second. Sines between the steps of a product are not hidden
// behind it on Emerald Rapids: both take as long together as one after the other.
template <Sum sum>
__attribute__((noinline)) void product(const TilePair* a, const TilePair* b, int pairs, float* c) {
    constexpr long row = 64;
    // The compiler does not know that tiles are loaded from memory, and stored to it.
    __asm__ volatile("" ::: "memory");
    if (sum == Sum::from_c) {
        _tile_loadd(0, c, row);
        _tile_loadd(1, c + result_block, row);
        _tile_loadd(2, c + result_block / 2, row);
        _tile_loadd(3, c + result_block * 3 / 2, row);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int k = 0; k < pairs; ++k) {
        const TilePair *const a0 = a + k, *const a1 = a0 + pairs, *const b0 = b + k, *const b1 = b0 + pairs;
        _tile_loadd(4, a0->high, row);
        _tile_loadd(6, b0->low, row);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b1->low, row);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a1->high, row);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(6, b0->high, row);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b1->high, row);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(4, a0->low, row);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a1->low, row);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, row);
    _tile_stored(1, c + result_block, row);
    _tile_stored(2, c + result_block / 2, row);
    _tile_stored(3, c + result_block * 3 / 2, row);
    __asm__ volatile("" ::: "memory");
}

inline float sum(Vector x) { return _mm512_reduce_add_ps((__m512)x); }

// The transpose of 16 by 16 numbers of 32 bits.
inline void transpose(const uint32_t (&from)[16][16], __m512i (&to)[16]) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; ++i) a[i] = _mm512_load_si512(from[i]);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const __m512i x = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
        const __m512i y = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xDD);
        const __m512i z = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
        const __m512i w = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xDD);
        to[i] = _mm512_shuffle_i32x4(x, z, 0x88);
        to[i + 4] = _mm512_shuffle_i32x4(y, w, 0x88);
        to[i + 8] = _mm512_shuffle_i32x4(x, z, 0xDD);
        to[i + 12] = _mm512_shuffle_i32x4(y, w, 0xDD);
    }
}

inline void transpose_tile(const uint32_t (&from)[16][16], uint32_t (&to)[16][16]) {
    __m512i rows[16];
    transpose(from, rows);
    for (int i = 0; i < 16; ++i) _mm512_store_si512(to[i], rows[i]);
}

// The transpose of 32 by 32 numbers of 16 bits: of rows 0 to 15, then of rows 16 to 31, where columns 2k and
// 2k + 1 are pair k, come the even columns, then the odd ones, where rows i and 16 + i are pair i.
inline void transpose_pairs(const uint32_t (&first)[16][16], const uint32_t (&second)[16][16],
                            uint32_t (&even)[16][16], uint32_t (&odd)[16][16]) {
    __m512i x[16], y[16];
    transpose(first, x);
    transpose(second, y);
    for (int k = 0; k < 16; ++k) {
        _mm512_store_si512(even[k], _mm512_mask_blend_epi16(0xAAAAAAAA, x[k], _mm512_slli_epi32(y[k], 16)));
        _mm512_store_si512(odd[k], interleaved((IntVector)x[k], (IntVector)y[k]));
    }
}

}  // namespace amx
}  // namespace siren

#pragma GCC diagnostic pop
