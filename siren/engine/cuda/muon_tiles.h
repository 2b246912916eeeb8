// The kernel of a step of Muon for wide matrices: `muon` of reference.py, as in muon.h, but tile by tile.
//
// An iteration X <- a X + b G X + c G G X, where G = X X^T, is three products: G, P = a 1 + b G + c G G, and P X. The
// blocks of the grid share out the square tiles of each, and wait for each other before the next. For a tile a block
// fetches as many rows and columns; for a panel of 16 rows, as in muon.h, all of X. G and P are symmetric: tiles above
// the diagonal are those below it, transposed.
//
// The first iteration's polynomial needs X's Schatten-8 norm, the eighth root of the sum of squares of G G. A block that
// has a single tile of that product keeps it in registers until the norm is known. X begins as in muon.h.
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

// Of one matrix that is so many tiles wide.
__host__ __device__ inline int tile_count(Tiles which, int across) {
    return which == Tiles::all ? across * across : across * (across + 1) / 2;
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
template <int threads, class Piece>
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
        store_sum_over_block<threads>(sum, m.direction_sums + share);
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
        const float factor = initial_scale(width, sum_of<8>(m.direction_sums + matrix * shares, shares));
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
    typename Product::SharedStorage product;
    typename Product::Piece tile[Product::side * Product::side];
};

// The products of an iteration, as far as they are this block's.
template <class Product>
class TiledIteration {
    typedef typename Product::Piece Piece;
    typedef typename Product::Sums Sums;
    static constexpr int side = Product::side;

public:
    __device__ TiledIteration(const MuonTiles<Piece>& m, MuonTilesStorage<Product>& shared)
        : m_(m), product_(shared.product), tile_(shared.tile) {}

    // G = X X^T.
    __device__ __forceinline__ void compute_gram(const Piece* x) {
        for_each_tile(Tiles::lower, [&](const MuonTile& tile) {
            Sums sums;
            multiply<Right::transposed>(x, x, tile, sums);
            store_symmetric(m_.gram, tile, [&](int i, int, int) { return make_float2(sums[i], sums[i + 1]); });
        });
    }

    // The sum of squares of G G, in parts. `square` gets the block's last tile of G G.
    __device__ __forceinline__ void compute_trace(Sums& square) {
        for_each_tile(Tiles::lower, [&](const MuonTile& tile) {
            multiply<Right::transposed>(m_.gram, m_.gram, tile, square);
            double sum = 0;
            Product::for_each_pair([&](int i, int, int) {
                sum += double(square[i]) * square[i] + double(square[i + 1]) * square[i + 1];
            });
            store_sum_over_block<Product::threads>(tile.row == tile.column ? sum : 2 * sum, m_.trace_sums + tile.number);
        });
    }

    // P = a 1 + b G + c G G. Its own tile of G is copied meanwhile to where that of P will be. In the first iteration
    // `square` is as compute_trace() left it.
    __device__ __forceinline__ void compute_polynomial(int iteration, Sums& square) {
        const int tiles = tile_count(Tiles::lower, m_.padded / side);
        const bool is_known = iteration == 0 && m_.muon.count * tiles <= gridDim.x;
        for_each_tile(Tiles::lower, [&](const MuonTile& tile) {
            for_each_eight<side>(m_.gram + tile.matrix * m_.matrix_size(), m_.padded, tile.row, tile.column, tile_,
                                 [](Piece* from, Piece* to) { cp_async_16(to, from); });
            cp_async_commit();
            Polynomial p = m_.polynomials[iteration];
            if (iteration == 0) {
                p = normalized(p, sum_of<8>(m_.trace_sums + tile.matrix * tiles, tiles));
            }
            if (!is_known) multiply<Right::transposed>(m_.gram, m_.gram, tile, square);
            cp_async_wait<0>();
            __syncthreads();
            store_symmetric(m_.polynomial, tile, [&](int i, int row, int column) {
                const float2 g = to_floats<Piece>(*pair_of_tile(row, column));
                const int right = tile.column + column - tile.row - row;  // of the diagonal
                return make_float2(p.b * g.x + p.c * square[i] + (right == 0 ? p.a : 0.0f),
                                   p.b * g.y + p.c * square[i + 1] + (right == -1 ? p.a : 0.0f));
            });
        });
    }

    // The next X, P X.
    __device__ __forceinline__ void apply_polynomial(const Piece* x, Piece* next) {
        for_each_tile(Tiles::all, [&](const MuonTile& tile) {
            Sums sums;
            multiply<Right::as_stored>(m_.polynomial, x, tile, sums);
            Product::for_each_pair([&](int i, int row, int column) {
                *pair_of_tile(row, column) = to_pieces(sums[i], sums[i + 1], Piece());
            });
            __syncthreads();
            store_tile<side>(next + tile.matrix * m_.matrix_size(), m_.padded, tile.row, tile.column, tile_);
            __syncthreads();
        });
    }

    // That of the last iteration, by which the parameters move. It goes through shared memory, so that a warp has
    // neighbors in a row.
    __device__ __forceinline__ void move_parameters(const Piece* x) {
        constexpr int pitch = side + 8;  // so that the rows of a thread's neighbors are in other banks
        static_assert(side * pitch * sizeof(float) <= Product::borrowed_bytes, "the stages have no room");
        for_each_tile(Tiles::all, [&](const MuonTile& tile) {
            Sums sums;
            multiply<Right::as_stored>(m_.polynomial, x, tile, sums);
            float* const direction = reinterpret_cast<float*>(product_.borrow_stages());
            Product::for_each_pair([&](int i, int row, int column) {
                *reinterpret_cast<float2*>(direction + row * pitch + column) = make_float2(sums[i], sums[i + 1]);
            });
            __syncthreads();
            const int64_t first = m_.muon.start + tile.matrix * m_.layer() + tile.row * m_.muon.width + tile.column;
            subtract_tile<pitch>(m_.in.parameters + first, direction, m_.out.parameters + first,
                                 m_.muon.width - tile.row, m_.muon.width - tile.column);
            product_.return_stages();
        });
    }

private:
    // Calls visit(tile) for each tile of this block.
    template <class Visit>
    __device__ __forceinline__ void for_each_tile(Tiles which, const Visit& visit) {
        const int across = m_.padded / side, tiles = tile_count(which, across);
#pragma unroll 1
        for (int number = blockIdx.x; number < m_.muon.count * tiles; number += gridDim.x) {
            int row = 0, column = number % tiles;
            for (;; ++row) {
                const int in_row = which == Tiles::all ? across : row + 1;
                if (column < in_row) break;
                column -= in_row;
            }
            visit(MuonTile{number, number / tiles, row * side, column * side});
        }
    }

    template <Right right_is>
    __device__ __forceinline__ void multiply(const Piece* left, const Piece* right, const MuonTile& tile, Sums& sums) {
        const size_t matrix = tile.matrix * m_.matrix_size();
        product_.template multiply<right_is>({left + matrix, right + matrix, m_.padded, tile.row, tile.column}, sums);
    }

    // Neighbors in a row of the tile in shared memory.
    __device__ uint32_t* pair_of_tile(int row, int column) {
        return reinterpret_cast<uint32_t*>(tile_ + place_in_slabs(side, row, column));
    }

    // Stores a tile of a symmetric matrix, and its mirror image. compute(i, row, column) gives a pair of it, a float2.
    template <class Compute>
    __device__ __forceinline__ void store_symmetric(Piece* matrices, const MuonTile& tile, const Compute& compute) {
        Piece* const matrix = matrices + tile.matrix * m_.matrix_size();
        Piece* const transposed = product_.borrow_stages();
        Product::for_each_pair([&](int i, int row, int column) {
            const float2 result = compute(i, row, column);
            const uint32_t pieces = to_pieces(result.x, result.y, Piece());
            const Piece* const pair = reinterpret_cast<const Piece*>(&pieces);
            *pair_of_tile(row, column) = pieces;
            transposed[place_in_slabs(side, column, row)] = pair[0];
            transposed[place_in_slabs(side, column + 1, row)] = pair[1];
        });
        __syncthreads();
        store_tile<side>(matrix, m_.padded, tile.row, tile.column, tile_);
        if (tile.row != tile.column) store_tile<side>(matrix, m_.padded, tile.column, tile.row, transposed);
        product_.return_stages();
    }

    // to = from - rate * direction, for so many rows and columns of a tile as are there.
    template <int pitch>
    __device__ __forceinline__ void subtract_tile(const float* from, const float* direction, float* to, int rows,
                                                  int columns) {
        constexpr int rows_of_warp = side / (Product::threads / 32), batch = 8, columns_of_lane = side / 32;
        const int width = m_.muon.width, lane = threadIdx.x % 32, end = (threadIdx.x / 32 + 1) * rows_of_warp;
#pragma unroll 1
        for (int begin = end - rows_of_warp; begin < end; begin += batch) {
            float before[batch][columns_of_lane];  // all are loaded before the first is stored
            const auto for_each = [&](const auto& visit) {
#pragma unroll
                for (int i = 0; i < batch; ++i) {
#pragma unroll
                    for (int j = 0; j < columns_of_lane; ++j) {
                        const int row = begin + i, column = lane + 32 * j;
                        if (row < rows && column < columns) visit(before[i][j], row, column);
                    }
                }
            };
            for_each([&](float& x, int row, int column) { x = from[row * width + column]; });
            for_each([&](float& x, int row, int column) {
                to[row * width + column] = x - m_.muon.rate * direction[row * pitch + column];
            });
        }
    }

    const MuonTiles<Piece>& m_;
    Product product_;
    Piece* const tile_;
};

template <class Product>
__global__ void __launch_bounds__(Product::threads) muon_tiles_kernel(MuonTiles<typename Product::Piece> m) {
#if !defined(SIREN_HOPPER) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
    typedef typename Product::Piece Piece;
    extern __shared__ __align__(1024) unsigned char muon_tiles_memory[];
    typename Product::Sums square;
    TiledIteration<Product> products(m, *reinterpret_cast<MuonTilesStorage<Product>*>(muon_tiles_memory));
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
    step_adam<Product::threads>(m, 0);
    step_momentum<Product::threads>(m);
    wait();
    scale_direction(m);
    for (int iteration = 0; iteration < m.iterations; ++iteration) {
        const bool odd = iteration % 2;
        const Piece* const x = odd ? m.next : m.x;
        wait();
        products.compute_gram(x);
        wait();
        if (iteration == 0) {
            products.compute_trace(square);
            wait();
        }
        products.compute_polynomial(iteration, square);
        wait();
        if (iteration + 1 == m.iterations) {
            products.move_parameters(x);
        } else {
            products.apply_polynomial(x, odd ? m.x : m.next);
        }
    }
#endif
}

}  // namespace
}  // namespace gpu
}  // namespace siren
