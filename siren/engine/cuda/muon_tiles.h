// The kernel of a step of Muon for wide matrices: `muon` of reference.py, as in muon.h, but tile by tile.
//
// An iteration X <- a X + b G X + c G G X, where G = X X^T, is three products: G, P = a 1 + b G + c G G, and P X. The
// blocks of the grid share out the tiles of each, and wait for each other before the next. For a tile of r x c a block
// fetches r rows and c columns; a panel of 16 rows, as in muon.h, needs all of X. G and P are symmetric: tiles above the
// diagonal are those below it, transposed.
//
// The first iteration's polynomial needs X's Schatten-8 norm, the eighth root of the sum of squares of G G. That product
// is computed once for it alone, which takes no memory and hardly longer than to keep it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/launch.h"
#include "cuda/muon_step.h"
#include "cuda/numerics.h"
#include "cuda/tile_matrix.h"
#ifdef SIREN_HOPPER
#include "cuda/sm90/tile_product.h"
#else
#include "cuda/sm80/tile_product.h"
#endif

namespace siren {
namespace gpu {
namespace {

template <class Piece>
struct MuonTiles : MuonStep {
    Piece *x, *next, *gram, *polynomial;  // (count, padded, padded), in slabs
    double* direction_sums;               // squares of each strip of the direction
    double* trace_sums;                   // each tile's part of the trace of G^4, in the first iteration

    explicit MuonTiles(const MuonStep& step) : MuonStep(step) {}
    __host__ __device__ size_t matrix_size() const { return size_t(padded) * padded; }
};

// A tile, by its first row and column; the number is among those of all matrices.
struct MuonTile {
    int number, matrix, row, column;
};

// Which tiles of a product: all, or of a symmetric one those that reach the lower triangle.
enum class Tiles { all, lower };

// Of one matrix.
template <class Product>
__host__ __device__ inline int tile_count(Tiles which, int padded) {
    const int down = padded / Product::rows, across = padded / Product::columns;
    return which == Tiles::all ? down * across : down * (down + 1) / 2 * (Product::rows / Product::columns);
}

// Calls visit(tile) for each tile of this block.
template <class Product, class Visit>
__device__ __forceinline__ void for_each_tile(const MuonStep& m, Tiles which, const Visit& visit) {
    const int tiles = tile_count<Product>(which, m.padded);
#pragma unroll 1
    for (int number = blockIdx.x; number < m.muon.count * tiles; number += gridDim.x) {
        int row = 0, column = number % tiles;
        for (;; ++row) {
            const int across = which == Tiles::all ? m.padded / Product::columns
                                                   : (row + 1) * (Product::rows / Product::columns);
            if (column < across) break;
            column -= across;
        }
        visit(MuonTile{number, number / tiles, row * Product::rows, column * Product::columns});
    }
}

// ---- From the gradient to X -------------------------------------------------------------------------------------

// These phases go through strips: a row for each warp of a block, and 256 columns.
constexpr int strip_columns = 256, lane_columns = strip_columns / 32;

// Of one matrix.
__host__ __device__ inline int strip_count(int padded, int threads) {
    return padded / (threads / 32) * ((padded + strip_columns - 1) / strip_columns);
}

// A thread's elements of a strip: every 32nd of a row, from `column` on.
struct StripPlace {
    int number, matrix, row, column;
};

// Calls visit(place) for each strip of this block.
template <class Visit>
__device__ inline void for_each_strip(const MuonStep& m, const Visit& visit) {
    const int warps = blockDim.x / 32, strips = strip_count(m.padded, blockDim.x), down = m.padded / warps;
#pragma unroll 1
    for (int number = blockIdx.x; number < m.muon.count * strips; number += gridDim.x) {
        const int strip = number % strips, row = strip % down * warps + threadIdx.x / 32;
        visit(StripPlace{number, number / strips, row, strip / down * strip_columns + int(threadIdx.x) % 32});
    }
}

// Loads them from (width, width); 0 beyond it. All are loaded before anything is stored, which they would wait for.
__device__ inline void load_strip(const float* matrix, int width, const StripPlace& place, float (&to)[lane_columns]) {
#pragma unroll
    for (int j = 0; j < lane_columns; ++j) {
        const int column = place.column + 32 * j;
        to[j] = place.row < width && column < width ? matrix[place.row * width + column] : 0.0f;
    }
}

// The momentum, and the squares of the direction that looks a step ahead.
__device__ inline void step_momentum(const MuonStep& m, double* direction_sums) {
    const int width = m.muon.width;
    const float momentum = m.muon.momentum;
    for_each_strip(m, [&](const StripPlace& place) {
        const size_t first = size_t(place.matrix) * width * width;
        float slopes[lane_columns], averages[lane_columns];
        load_strip(m.in.gradient + m.muon.start + place.matrix * m.layer(), width, place, slopes);
        load_strip(m.average + first, width, place, averages);
        double sum = 0;
#pragma unroll
        for (int j = 0; j < lane_columns; ++j) {
            const int column = place.column + 32 * j;
            const float average = momentum * averages[j] + slopes[j];
            if (place.row < width && column < width) m.new_average[first + place.row * width + column] = average;
            const float direction = momentum * average + slopes[j];
            sum += double(direction) * direction;
        }
        store_sum_over_block(sum, direction_sums + place.number);
    });
}

// X at the start.
template <class Piece>
__device__ inline void scale_direction(const MuonTiles<Piece>& m) {
    const int width = m.muon.width, strips = strip_count(m.padded, blockDim.x);
    for_each_strip(m, [&](const StripPlace& place) {
        float slopes[lane_columns], averages[lane_columns];
        load_strip(m.in.gradient + m.muon.start + place.matrix * m.layer(), width, place, slopes);
        load_strip(m.new_average + size_t(place.matrix) * width * width, width, place, averages);
        const float factor = initial_scale(width, sum_of(m.direction_sums + place.matrix * strips, strips));
        Piece* const x = m.x + place.matrix * m.matrix_size();
#pragma unroll
        for (int j = 0; j < lane_columns; ++j) {
            const int column = place.column + 32 * j;
            const uint32_t pieces = to_pieces(factor * (m.muon.momentum * averages[j] + slopes[j]), 0, Piece());
            if (column >= m.padded) continue;
            x[place_in_slabs(m.padded, place.row, column)] = *reinterpret_cast<const Piece*>(&pieces);
        }
    });
}

// ---- Iterations -------------------------------------------------------------------------------------------------

// A block's shared memory: the product's, and a tile as it will be in the matrix, and transposed.
template <class Product>
struct MuonTilesStorage {
    typedef typename Product::Piece Piece;
    typename Product::SharedStorage product;
    Piece tile[Product::rows * Product::columns], transposed[Product::rows * Product::columns];
};

// Whether a tile has another one above the diagonal.
template <class Product>
__device__ inline bool has_mirror(const MuonTile& tile) {
    return tile.column + Product::columns <= tile.row;
}

// A pair of neighbors in a row of a tile in shared memory.
template <class Product>
__device__ inline uint32_t* pair_in_tile(typename Product::Piece* tile, int row, int column) {
    return reinterpret_cast<uint32_t*>(tile + place_in_slabs(Product::rows, row, column));
}

// Keeps a pair of a symmetric matrix.
template <class Product>
__device__ inline void keep_pair(MuonTilesStorage<Product>& shared, int row, int column, float first, float second) {
    typedef typename Product::Piece Piece;
    const uint32_t pieces = to_pieces(first, second, Piece());
    const Piece* const pair = reinterpret_cast<const Piece*>(&pieces);
    *pair_in_tile<Product>(shared.tile, row, column) = pieces;
    shared.transposed[place_in_slabs(Product::columns, column, row)] = pair[0];
    shared.transposed[place_in_slabs(Product::columns, column + 1, row)] = pair[1];
}

// Stores a tile of a symmetric matrix.
template <class Product>
__device__ inline void store_symmetric(const MuonStep& m, MuonTilesStorage<Product>& shared, const MuonTile& tile,
                                       typename Product::Piece* matrix) {
    constexpr int rows = Product::rows, columns = Product::columns;
    __syncthreads();
    store_tile<rows, columns>(matrix, m.padded, tile.row, tile.column, shared.tile);
    if (has_mirror<Product>(tile)) store_tile<columns, rows>(matrix, m.padded, tile.column, tile.row, shared.transposed);
    __syncthreads();
}

template <class Product>
__device__ __forceinline__ void compute_gram(const MuonTiles<typename Product::Piece>& m, Product& product,
                                             MuonTilesStorage<Product>& shared, const typename Product::Piece* x) {
    for_each_tile<Product>(m, Tiles::lower, [&](const MuonTile& tile) {
        const size_t matrix = tile.matrix * m.matrix_size();
        typename Product::Sums sums;
        product.template multiply<Right::transposed>({x + matrix, x + matrix, m.padded, tile.row, tile.column}, sums);
        product.for_each_pair(sums, [&](int row, int column, float first, float second) {
            keep_pair(shared, row, column, first, second);
        });
        store_symmetric(m, shared, tile, m.gram + matrix);
    });
}

// The sum of squares of G G, in parts.
template <class Product>
__device__ __forceinline__ void compute_trace(const MuonTiles<typename Product::Piece>& m, Product& product) {
    for_each_tile<Product>(m, Tiles::lower, [&](const MuonTile& tile) {
        const auto* const gram = m.gram + tile.matrix * m.matrix_size();
        typename Product::Sums sums;
        product.template multiply<Right::transposed>({gram, gram, m.padded, tile.row, tile.column}, sums);
        double sum = 0;
        product.for_each_pair(sums, [&](int, int, float first, float second) {
            sum += double(first) * first + double(second) * second;
        });
        store_sum_over_block(has_mirror<Product>(tile) ? 2 * sum : sum, m.trace_sums + tile.number);
    });
}

template <class Product>
__device__ __forceinline__ void compute_polynomial(const MuonTiles<typename Product::Piece>& m, Product& product,
                                                   MuonTilesStorage<Product>& shared, int iteration) {
    typedef typename Product::Piece Piece;
    constexpr int rows = Product::rows, columns = Product::columns;
    for_each_tile<Product>(m, Tiles::lower, [&](const MuonTile& tile) {
        const size_t matrix = tile.matrix * m.matrix_size();
        for_each_eight<rows, columns>(m.gram + matrix, m.padded, tile.row, tile.column, shared.tile,
                                      [](Piece* from, Piece* to) { cp_async_16(to, from); });
        cp_async_commit();
        Polynomial p = m.polynomials[iteration];
        if (iteration == 0) {
            const int tiles = tile_count<Product>(Tiles::lower, m.padded);
            p = normalized(p, sum_of(m.trace_sums + tile.matrix * tiles, tiles));
        }
        typename Product::Sums sums;
        product.template multiply<Right::transposed>({m.gram + matrix, m.gram + matrix, m.padded, tile.row, tile.column},
                                                     sums);
        cp_async_wait<0>();
        __syncthreads();
        product.for_each_pair(sums, [&](int row, int column, float first, float second) {
            const float2 g = to_floats<Piece>(*pair_in_tile<Product>(shared.tile, row, column));
            const int right = tile.column + column - tile.row - row;  // of the diagonal
            keep_pair(shared, row, column, p.b * g.x + p.c * first + (right == 0 ? p.a : 0.0f),
                      p.b * g.y + p.c * second + (right == -1 ? p.a : 0.0f));
        });
        store_symmetric(m, shared, tile, m.polynomial + matrix);
    });
}

// Moves the parameters by a tile of the last X.
template <class Product>
__device__ __forceinline__ void move_parameters(const MuonStep& m, const MuonTile& tile, const typename Product::Sums& sums) {
    const int width = m.muon.width;
    const float* const from = m.in.parameters + m.muon.start + tile.matrix * m.layer();
    float* const to = m.out.parameters + m.muon.start + tile.matrix * m.layer();
    Product::for_each_pair(sums, [&](int row, int column, float first, float second) {
        row += tile.row;
        column += tile.column;
        const int place = row * width + column;
        if (row < width && column < width) to[place] = from[place] - m.muon.rate * first;
        if (row < width && column + 1 < width) to[place + 1] = from[place + 1] - m.muon.rate * second;
    });
}

// The next X, or, in the last iteration, the parameters.
template <class Product>
__device__ __forceinline__ void apply_polynomial(const MuonTiles<typename Product::Piece>& m, Product& product,
                                                 MuonTilesStorage<Product>& shared, const typename Product::Piece* x,
                                                 typename Product::Piece* next) {
    typedef typename Product::Piece Piece;
    for_each_tile<Product>(m, Tiles::all, [&](const MuonTile& tile) {
        const size_t matrix = tile.matrix * m.matrix_size();
        typename Product::Sums sums;
        product.template multiply<Right::as_stored>({m.polynomial + matrix, x + matrix, m.padded, tile.row, tile.column},
                                                    sums);
        if (!next) return move_parameters<Product>(m, tile, sums);
        product.for_each_pair(sums, [&](int row, int column, float first, float second) {
            *pair_in_tile<Product>(shared.tile, row, column) = to_pieces(first, second, Piece());
        });
        __syncthreads();
        store_tile<Product::rows, Product::columns>(next + matrix, m.padded, tile.row, tile.column, shared.tile);
        __syncthreads();
    });
}

template <class Product>
__global__ void __launch_bounds__(Product::threads) muon_tiles_kernel(MuonTiles<typename Product::Piece> m) {
#if !defined(SIREN_HOPPER) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
    typedef typename Product::Piece Piece;
    extern __shared__ __align__(1024) unsigned char muon_tiles_memory[];
    auto& shared = *reinterpret_cast<MuonTilesStorage<Product>*>(muon_tiles_memory);
    Product product(shared.product);
    follow();
    const auto wait = [&] {
#ifdef SIREN_HOPPER
        fence_async_proxy_global();  // what has been written here is for bulk copies
        m.barrier.wait();
        fence_async_proxy_global();
#else
        m.barrier.wait();
#endif
    };
    step_adam(m, 0);
    step_momentum(m, m.direction_sums);
    wait();
    scale_direction(m);
    for (int iteration = 0; iteration < m.iterations; ++iteration) {
        const bool odd = iteration % 2, last = iteration + 1 == m.iterations;
        const Piece* const x = odd ? m.next : m.x;
        Piece* const next = odd ? m.x : m.next;
        wait();
        compute_gram(m, product, shared, x);
        wait();
        if (iteration == 0) {
            compute_trace(m, product);
            wait();
        }
        compute_polynomial(m, product, shared, iteration);
        wait();
        apply_polynomial(m, product, shared, x, last ? nullptr : next);
    }
#endif
}

}  // namespace
}  // namespace gpu
}  // namespace siren
