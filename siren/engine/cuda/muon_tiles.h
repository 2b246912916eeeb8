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
    double* direction_sums;               // squares of each share of the direction
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

// Each matrix is shared out evenly among blocks: `shares` blocks have one each, or a block has all of several matrices.
__device__ inline int shares_of_matrix(const MuonStep& m) { return max(1, int(gridDim.x) / m.muon.count); }

// Calls visit(share, matrix) for each share of this block; the share is counted among those of all matrices.
template <class Visit>
__device__ inline void for_each_share(const MuonStep& m, const Visit& visit) {
    const int shares = shares_of_matrix(m);
    for (int share = blockIdx.x; share < m.muon.count * shares; share += gridDim.x) visit(share, share / shares);
}

// A warp's part of a share: two rows, of which a lane has every 32nd of 256 columns.
constexpr int warp_rows = 2, lane_columns = 8, strip_columns = 32 * lane_columns;
typedef float Strip[warp_rows][lane_columns];

// Calls visit(row, column) for the first element of each of this lane's strips of a share.
template <class Visit>
__device__ inline void for_each_strip(const MuonStep& m, int share, const Visit& visit) {
    const int shares = shares_of_matrix(m), warps = blockDim.x / 32;
    const int across = (m.padded + strip_columns - 1) / strip_columns, strips = m.padded / warp_rows * across;
#pragma unroll 1
    for (int strip = share % shares * warps + threadIdx.x / 32; strip < strips; strip += shares * warps) {
        visit(strip / across * warp_rows, strip % across * strip_columns + int(threadIdx.x) % 32);
    }
}

// Calls visit(i, j, row, column) for each element of a strip.
template <class Visit>
__device__ inline void for_each_element(int row, int column, const Visit& visit) {
#pragma unroll
    for (int i = 0; i < warp_rows; ++i) {
#pragma unroll
        for (int j = 0; j < lane_columns; ++j) visit(i, j, row + i, column + 32 * j);
    }
}

// Loads a strip of (width, width); 0 beyond it. All is loaded before anything is stored, which loads would wait for.
__device__ inline void load_strip(const float* matrix, int width, int row, int column, Strip& to) {
    for_each_element(row, column, [&](int i, int j, int at_row, int at_column) {
        to[i][j] = at_row < width && at_column < width ? matrix[at_row * width + at_column] : 0.0f;
    });
}

// The momentum, and the squares of the direction that looks a step ahead.
template <class Piece>
__device__ inline void step_momentum(const MuonTiles<Piece>& m) {
    const int width = m.muon.width;
    const float momentum = m.muon.momentum;
    for_each_share(m, [&](int share, int matrix) {
        const float* const gradient = m.in.gradient + m.muon.start + matrix * m.layer();
        const float* const average = m.average + size_t(matrix) * width * width;
        float* const new_average = m.new_average + size_t(matrix) * width * width;
        double sum = 0;
        for_each_strip(m, share, [&](int first_row, int first_column) {
            Strip slopes, averages;
            load_strip(gradient, width, first_row, first_column, slopes);
            load_strip(average, width, first_row, first_column, averages);
            for_each_element(first_row, first_column, [&](int i, int j, int row, int column) {
                const float result = momentum * averages[i][j] + slopes[i][j];
                if (row < width && column < width) new_average[row * width + column] = result;
                const float direction = momentum * result + slopes[i][j];
                sum += double(direction) * direction;
            });
        });
        store_sum_over_block(sum, m.direction_sums + share);
    });
}

// X at the start.
template <class Piece>
__device__ inline void scale_direction(const MuonTiles<Piece>& m) {
    const int width = m.muon.width, shares = shares_of_matrix(m);
    for_each_share(m, [&](int share, int matrix) {
        const float* const gradient = m.in.gradient + m.muon.start + matrix * m.layer();
        const float* const average = m.new_average + size_t(matrix) * width * width;
        Piece* const x = m.x + matrix * m.matrix_size();
        const float factor = initial_scale(width, sum_of(m.direction_sums + matrix * shares, shares));
        for_each_strip(m, share, [&](int first_row, int first_column) {
            Strip slopes, averages;
            load_strip(gradient, width, first_row, first_column, slopes);
            load_strip(average, width, first_row, first_column, averages);
            for_each_element(first_row, first_column, [&](int i, int j, int row, int column) {
                const float direction = m.muon.momentum * averages[i][j] + slopes[i][j];
                const uint32_t pieces = to_pieces(factor * direction, 0, Piece());
                if (column >= m.padded) return;
                x[place_in_slabs(m.padded, row, column)] = *reinterpret_cast<const Piece*>(&pieces);
            });
        });
    });
}

// ---- Iterations -------------------------------------------------------------------------------------------------

// A block's shared memory: the product's, and a tile as it will be in the matrix.
template <class Product>
struct MuonTilesStorage {
    typedef typename Product::Piece Piece;
    typename Product::SharedStorage product;
    Piece tile[Product::rows * Product::columns];
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

// Stores a tile of a symmetric matrix, and its mirror image. compute(i, row, column) gives a pair of it, as a float2.
template <class Product, class Compute>
__device__ __forceinline__ void store_symmetric(const MuonStep& m, Product& product, MuonTilesStorage<Product>& shared,
                                                const MuonTile& tile, typename Product::Piece* matrix,
                                                const Compute& compute) {
    typedef typename Product::Piece Piece;
    constexpr int rows = Product::rows, columns = Product::columns;
    Piece* const transposed = product.borrow_stage();
    product.for_each_pair([&](int i, int row, int column) {
        const float2 result = compute(i, row, column);
        const uint32_t pieces = to_pieces(result.x, result.y, Piece());
        const Piece* const pair = reinterpret_cast<const Piece*>(&pieces);
        *pair_in_tile<Product>(shared.tile, row, column) = pieces;
        transposed[place_in_slabs(columns, column, row)] = pair[0];
        transposed[place_in_slabs(columns, column + 1, row)] = pair[1];
    });
    __syncthreads();
    store_tile<rows, columns>(matrix, m.padded, tile.row, tile.column, shared.tile);
    if (has_mirror<Product>(tile)) store_tile<columns, rows>(matrix, m.padded, tile.column, tile.row, transposed);
    product.return_stage();
}

template <class Product>
__device__ __forceinline__ void compute_gram(const MuonTiles<typename Product::Piece>& m, Product& product,
                                             MuonTilesStorage<Product>& shared, const typename Product::Piece* x) {
    for_each_tile<Product>(m, Tiles::lower, [&](const MuonTile& tile) {
        const size_t matrix = tile.matrix * m.matrix_size();
        typename Product::Sums sums;
        product.template multiply<Right::transposed>({x + matrix, x + matrix, m.padded, tile.row, tile.column}, sums);
        store_symmetric(m, product, shared, tile, m.gram + matrix,
                        [&](int i, int, int) { return make_float2(sums[i], sums[i + 1]); });
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
        product.for_each_pair([&](int i, int, int) {
            sum += double(sums[i]) * sums[i] + double(sums[i + 1]) * sums[i + 1];
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
        store_symmetric(m, product, shared, tile, m.polynomial + matrix, [&](int i, int row, int column) {
            const float2 g = to_floats<Piece>(*pair_in_tile<Product>(shared.tile, row, column));
            const int right = tile.column + column - tile.row - row;  // of the diagonal
            return make_float2(p.b * g.x + p.c * sums[i] + (right == 0 ? p.a : 0.0f),
                               p.b * g.y + p.c * sums[i + 1] + (right == -1 ? p.a : 0.0f));
        });
    });
}

// The next X.
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
        product.for_each_pair([&](int i, int row, int column) {
            *pair_in_tile<Product>(shared.tile, row, column) = to_pieces(sums[i], sums[i + 1], Piece());
        });
        __syncthreads();
        store_tile<Product::rows, Product::columns>(next + matrix, m.padded, tile.row, tile.column, shared.tile);
        __syncthreads();
    });
}

// That of the last iteration moves the parameters, which are asked for before the product.
template <class Product>
__device__ __forceinline__ void move_parameters(const MuonTiles<typename Product::Piece>& m, Product& product,
                                                const typename Product::Piece* x) {
    const int width = m.muon.width;
    for_each_tile<Product>(m, Tiles::all, [&](const MuonTile& tile) {
        const size_t matrix = tile.matrix * m.matrix_size();
        const int64_t first = m.muon.start + tile.matrix * m.layer() + tile.row * width + tile.column;
        const float* const from = m.in.parameters + first;
        float* const to = m.out.parameters + first;
        const int rows = width - tile.row, columns = width - tile.column;  // that are there
        typename Product::Sums sums, before;
        product.for_each_pair([&](int i, int row, int column) {
            before[i] = row < rows && column < columns ? from[row * width + column] : 0.0f;
            before[i + 1] = row < rows && column + 1 < columns ? from[row * width + column + 1] : 0.0f;
        });
        product.template multiply<Right::as_stored>({m.polynomial + matrix, x + matrix, m.padded, tile.row, tile.column},
                                                    sums);
        product.for_each_pair([&](int i, int row, int column) {
            if (row >= rows) return;
            if (column < columns) to[row * width + column] = before[i] - m.muon.rate * sums[i];
            if (column + 1 < columns) to[row * width + column + 1] = before[i + 1] - m.muon.rate * sums[i + 1];
        });
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
    step_momentum(m);
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
        if (last) {
            move_parameters(m, product, x);
        } else {
            apply_polynomial(m, product, shared, x, next);
        }
    }
#endif
}

}  // namespace
}  // namespace gpu
}  // namespace siren
