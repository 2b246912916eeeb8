// The constants that were chosen by measurement, with what was measured: milliseconds of a step of fit / gradient /
// Laplacian at 256x256 in fp16, 256 units wide unless said otherwise, on an H100 or H200. They change speed and
// memory, and the order of sums, but not what is computed. To measure one anew: benchmarks/kernels.cu; all that was
// tried is in benchmarks/NOTES.md, "The CUDA engine".
#pragma once

#include <cstddef>

namespace siren {
namespace gpu {
namespace {
namespace tuning {

// ---- All paths

// Numbers of a layer's matrix in a chunk, which bounds the memory of a call. A quarter of it, of which a layer would
// stay in the L2 cache, takes 16 % longer at 512 units and 12 % longer at 1024.
constexpr int chunk_values = 1 << 26;

// The largest cotangent of the outputs is scaled to 2 to this power. Derivatives grow from layer to layer, to 1e4
// times in a network that has learnt a Laplacian, and so do cotangents on the way back: at 2^9 the Laplacian's reach
// 1.5e5, where half ends at 65504. At 2^3 a factor of 14 is left (float64 emulation).
__host__ __device__ constexpr int cotangent_exponent(int streams) {
    return streams == 1 ? 8 : streams == 3 ? 5 : 3;
}

// ---- sm80: a pipeline stage's depth, and how many stages are under way, for one or two pieces a number. Operands are
// loaded a step ahead of the products; loaded when needed, with simpler outer products: 0.63 / - / 2.12 instead of
// 0.36 / - / 1.27 (all layers in one kernel, then).

#ifdef SIREN_HOPPER
constexpr size_t shared_memory = 227 << 10;  // of a block
constexpr int depth(int) { return 32; }
constexpr int product_stages(int pieces) { return pieces == 1 ? 4 : 3; }
constexpr int outer_product_stages(int pieces) { return pieces == 1 ? 4 : 3; }
#else
// The least that a GPU from Ampere on has. Measured on an H100: fp16 0.508 / 1.418 / 1.800, no slower than with 227 KB;
// fp32 1.26 / 3.57 / 4.55 instead of 1.09 / 3.16 / 3.98.
constexpr size_t shared_memory = 99 << 10;
constexpr int depth(int pieces) { return pieces == 1 ? 32 : 16; }
constexpr int product_stages(int pieces) { return pieces == 1 ? 3 : 2; }
constexpr int outer_product_stages(int) { return 3; }
#endif

// ---- sm90

// Blocks of a cluster, which fetch weights together. With four, only 120 blocks fit on 132 multiprocessors: 0.560
// for the Laplacian's chain kernel instead of 0.531.
constexpr int cluster = 2;

// Consumer groups of four warps in a block; one multiplies while the other computes sines. Groups of eight warps:
// 0.213 / 0.84 / 0.94 instead of 0.209 / 0.71 / 0.78.
constexpr int consumer_groups = 2;

// Registers of a consumer's and of a producer's thread: together all of a multiprocessor's 65536.
constexpr int consumer_registers = 240, producer_registers = 24;

// Pipeline stages: as many as shared memory (227 KB) has room for beside two tiles of 32 KB.
constexpr int chain_stages = 4;  // of 32 KB: 64 columns of weights
constexpr int wide_stages = 3;   // of 48 KB: those, and 64 columns of two tiles
constexpr int outer_stages = 4;  // of 48 KB: 128 columns of D and 256 of H; no tiles beside them

// Steps of an epilogue for which x is loaded ahead, from the L2 cache, before a product. Exchanges between lanes go
// one or two steps ahead instead: three or four made no difference.
constexpr int kept_ahead = 8;

// How much larger than those of the first tiles cotangents may become before a tile gets a scale of its own, as an
// exponent of two.
constexpr int cotangent_room = 1;

// Writing the sums of a share of the outer products takes about as long as so many tiles (512 and 1024 units).
constexpr int tiles_of_a_share = 8;
constexpr int most_outer_shares = 16;

}  // namespace tuning
}  // namespace
}  // namespace gpu
}  // namespace siren
