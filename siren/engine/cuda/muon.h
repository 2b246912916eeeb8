// The kernel of a step of Muon up to 256 units, with Adam on all parameters that are not in a hidden matrix: `muon` of
// reference.py. That of wider networks is in muon_tiles.h.
//
// A block has a panel of 16 rows of a matrix, and the blocks of a matrix go through phases together: as a cluster, with
// its barriers, or, where there are none, with barriers of the whole grid. An iteration
// X <- a X + b Y + c Z, where G = X X^T, Y = G X and Z = G Y, takes two phases: with all of X at hand a panel of G gives
// the same panel of Y, and with all of Y one of Z. X and Y go through the L2 cache in 16 bits; sums, and Z, are float32.
// At 256 units a product takes a microsecond, as long as a barrier of the grid or as fetching X, so there are as few of
// these as can be.
//
// X begins with the Frobenius norm n^(1/4): for random matrices the entries of X, G and Y then are well within half's
// range, and for a matrix of rank one, of which Y has the largest entries, too.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cuda/launch.h"
#include "cuda/muon_panels.h"
#include "cuda/muon_products.h"
#include "cuda/numerics.h"
#ifdef SIREN_HOPPER
#include "cuda/sm90/ptx.h"
#endif
#include "optimizer_numbers.h"

namespace siren {
namespace gpu {
namespace {

// The phases, in their order. A barrier between two of them lets each block read what all have written.
template <class Piece>
__device__ void step_momentum(const MuonArguments<Piece>& m, const Panel& panel);
template <class Piece>
__device__ void scale_direction(const MuonArguments<Piece>& m, const Panel& panel);
template <class Piece>
__device__ void gram_and_y(const MuonArguments<Piece>& m, MuonStorage<Piece>& shared, const Panel& panel, const Piece* x);
template <class Piece>
__device__ void z_and_update(const MuonArguments<Piece>& m, MuonStorage<Piece>& shared, const Panel& panel,
                             int iteration, const Piece* x, Piece* next);
template <class Piece>
__device__ void normalize_first(const MuonArguments<Piece>& m, const Panel& panel, const Piece* x, Piece* next);

template <class Piece>
__global__ void __launch_bounds__(muon_threads) muon_kernel(MuonArguments<Piece> m) {
    extern __shared__ __align__(128) unsigned char muon_memory[];
    __shared__ uint64_t copied;
    MuonStorage<Piece> shared(muon_memory, m.padded, &copied);
    follow();
    const auto wait = [&] {
#ifdef SIREN_HOPPER
        fence_async_proxy();  // what has been written here is for bulk copies
        if (m.clustered) return cluster_sync();
#endif
        m.barrier.wait();
    };
    step_adam<muon_threads>(m, m.first_adam_block());
    for_each_panel(m, [&](const Panel& panel) { step_momentum(m, panel); });
    wait();
    for_each_panel(m, [&](const Panel& panel) { scale_direction(m, panel); });
    for (int iteration = 0; iteration < m.iterations; ++iteration) {
        const bool odd = iteration % 2;
        const Piece* const x = odd ? m.next : m.x;
        Piece* const next = odd ? m.x : m.next;
        wait();
        for_each_panel(m, [&](const Panel& panel) { gram_and_y(m, shared, panel, x); });
        wait();
        for_each_panel(m, [&](const Panel& panel) { z_and_update(m, shared, panel, iteration, x, next); });
        if (iteration > 0) continue;
        wait();
        for_each_panel(m, [&](const Panel& panel) { normalize_first(m, panel, x, next); });
    }
}

// The momentum, and the squares of the direction that looks a step ahead.
template <class Piece>
__device__ void step_momentum(const MuonArguments<Piece>& m, const Panel& panel) {
    const int width = m.muon.width;
    const float momentum = m.muon.momentum;
    float* const new_average = m.new_average + panel.in_averages;
    double sum = 0;
#pragma unroll 1
    for (int begin = 0; begin < width; begin += section_columns) {
        Section slopes, averages;
        load_section(m.in.gradient + panel.in_parameters, panel.rows, width, begin, slopes);
        load_section(m.average + panel.in_averages, panel.rows, width, begin, averages);
        for_each_element(begin, [&](int i, int j, int row, int column) {
            const float average = momentum * averages[i][j] + slopes[i][j];
            if (row < panel.rows && column < width) new_average[row * width + column] = average;
            const float direction = momentum * average + slopes[i][j];
            sum += double(direction) * direction;
        });
    }
    store_sum_over_block<muon_threads>(sum, m.direction_sums + panel.number);
}

// X at the start. The sum over panels is asked for after a section has been, so that both are waited for together.
template <class Piece>
__device__ void scale_direction(const MuonArguments<Piece>& m, const Panel& panel) {
    const int width = m.muon.width;
    Piece* const x = m.x + panel.in_squares;
#pragma unroll 1
    for (int begin = 0; begin < m.padded; begin += section_columns) {
        Section slopes, averages;
        load_section(m.in.gradient + panel.in_parameters, panel.rows, width, begin, slopes);
        load_section(m.new_average + panel.in_averages, panel.rows, width, begin, averages);
        const double sum = sum_of<1>(m.direction_sums + panel.matrix * m.panels(), m.panels());
        const float factor = initial_scale(width, sum);
        for_each_element(begin, [&](int i, int j, int row, int column) {
            const float direction = m.muon.momentum * averages[i][j] + slopes[i][j];
            const uint32_t pieces = to_pieces(factor * direction, 0, Piece());
            if (column < m.padded) x[place_in_panel(row, column)] = *reinterpret_cast<const Piece*>(&pieces);
        });
    }
}

// A panel of G = X X^T and of Y = G X.
template <class Piece>
__device__ void gram_and_y(const MuonArguments<Piece>& m, MuonStorage<Piece>& shared, const Panel& panel,
                           const Piece* x) {
    Piece *const gram = m.gram + panel.in_squares, *const y = m.y + panel.in_squares;
    __syncthreads();
    start_copy_of_panel(m, shared.left, x, panel);
#pragma unroll 1
    for (int block = 0; block < m.squares(); ++block) {
        Sums sums = {};
        multiply_panel<Right::transposed>(m, shared, shared.left, x, panel.matrix, block, Squares::in_global_memory, sums);
        for_each_pair(block, [&](int i, int row, int column) {
            store_pair(shared.gram + block * panel_rows * muon_block + place_in_square(row, column % muon_block),
                       pair_of(sums, i));
            store_pair(gram + place_in_panel(row, column), pair_of(sums, i));
        });
    }
    __syncthreads();
    const Squares squares_of_x = m.squares() == 1 ? Squares::already_in_shared_memory : Squares::in_global_memory;
#pragma unroll 1
    for (int block = 0; block < m.squares(); ++block) {
        Sums sums = {};
        multiply_panel<Right::as_stored>(m, shared, shared.gram, x, panel.matrix, block, squares_of_x, sums);
        for_each_pair(block, [&](int i, int row, int column) {
            store_pair(y + place_in_panel(row, column), pair_of(sums, i));
        });
    }
}

// A thread's pairs of X and of Y, and, in the last iteration, the parameters that are there.
template <class Piece>
struct Operands {
    unsigned x[thread_pairs], y[thread_pairs];
    float2 parameters[thread_pairs];

    __device__ Operands(const MuonArguments<Piece>& m, const Panel& panel, int block, const Piece* x_matrices, bool last) {
        const Piece *const x_panel = x_matrices + panel.in_squares, *const y_panel = m.y + panel.in_squares;
        const float* const parameters_panel = m.in.parameters + panel.in_parameters;
        for_each_pair(block, [&](int i, int row, int column) {
            x[i] = __ldcg(reinterpret_cast<const unsigned*>(x_panel + place_in_panel(row, column)));
            y[i] = __ldcg(reinterpret_cast<const unsigned*>(y_panel + place_in_panel(row, column)));
        });
        if (!last) return;
        for_each_pair(block, [&](int i, int row, int column) {
            const float* const place = parameters_panel + row * m.muon.width + column;
            parameters[i].x = row < panel.rows && column < m.muon.width ? place[0] : 0.0f;
            parameters[i].y = row < panel.rows && column + 1 < m.muon.width ? place[1] : 0.0f;
        });
    }
};

// Stores the next X, or, of the last one, the parameters.
template <class Piece>
__device__ inline void apply_polynomial(const MuonArguments<Piece>& m, const Polynomial& p, bool last, const Panel& panel,
                                        int block, const Operands<Piece>& operands, const Sums& z, Piece* next) {
    const auto result = [&](int i) {
        const float2 x = to_floats<Piece>(operands.x[i]), y = to_floats<Piece>(operands.y[i]), own = pair_of(z, i);
        return make_float2(p.a * x.x + p.b * y.x + p.c * own.x, p.a * x.y + p.b * y.y + p.c * own.y);
    };
    if (!last) {
        Piece* const next_panel = next + panel.in_squares;
        for_each_pair(block, [&](int i, int row, int column) {
            store_pair(next_panel + place_in_panel(row, column), result(i));
        });
        return;
    }
    float* const parameters = m.out.parameters + panel.in_parameters;
    for_each_pair(block, [&](int i, int row, int column) {
        float* const place = parameters + row * m.muon.width + column;
        const float2 pair = result(i);
        if (row < panel.rows && column < m.muon.width) place[0] = operands.parameters[i].x - m.muon.rate * pair.x;
        if (row < panel.rows && column + 1 < m.muon.width) place[1] = operands.parameters[i].y - m.muon.rate * pair.y;
    });
}

// A panel of Z = G Y, and what becomes of it: of the first iteration it is kept, since X has not been divided by its
// Schatten-8 norm, the eighth root of the trace of G^4 = <Y, Z>.
template <class Piece>
__device__ void z_and_update(const MuonArguments<Piece>& m, MuonStorage<Piece>& shared, const Panel& panel,
                             int iteration, const Piece* x, Piece* next) {
    const Piece *const y = m.y, *const gram = m.gram;
    const bool last = iteration + 1 == m.iterations;
    double sum = 0;
    __syncthreads();
    start_copy_of_panel(m, shared.left, gram, panel);
#pragma unroll 1
    for (int block = 0; block < m.squares(); ++block) {
        const Operands<Piece> operands(m, panel, block, x, last);
        Sums z = {};
        multiply_panel<Right::as_stored>(m, shared, shared.left, y, panel.matrix, block, Squares::in_global_memory, z);
        if (iteration > 0) {
            apply_polynomial(m, m.polynomials[iteration], last, panel, block, operands, z, next);
            continue;
        }
        float* const kept = m.z + panel.in_squares;
        for_each_pair(block, [&](int i, int row, int column) {
            const float2 own = pair_of(z, i), own_y = to_floats<Piece>(operands.y[i]);
            *reinterpret_cast<float2*>(kept + place_in_panel(row, column)) = own;
            sum += double(own.x) * own_y.x + double(own.y) * own_y.y;
        });
    }
    if (iteration == 0) store_sum_over_block<muon_threads>(sum, m.trace_sums + panel.number);
}

// The first iteration's end: X, Y and Z of X divided by its Schatten-8 norm. Operands are asked for before the sum over
// panels, as in scale_direction().
template <class Piece>
__device__ void normalize_first(const MuonArguments<Piece>& m, const Panel& panel, const Piece* x, Piece* next) {
    const bool last = m.iterations == 1;
    const float* const kept = m.z + panel.in_squares;
#pragma unroll 1
    for (int block = 0; block < m.squares(); ++block) {
        const Operands<Piece> operands(m, panel, block, x, last);
        Sums z;
        for_each_pair(block, [&](int i, int row, int column) {
            const float2 pair = *reinterpret_cast<const float2*>(kept + place_in_panel(row, column));
            z[i / 2][i % 2 * 2] = pair.x;
            z[i / 2][i % 2 * 2 + 1] = pair.y;
        });
        const double trace = sum_of<1>(m.trace_sums + panel.matrix * m.panels(), m.panels());
        const Polynomial p = normalized(m.polynomials[0], trace);
        apply_polynomial(m, p, last, panel, block, operands, z, next);
    }
}

}  // namespace
}  // namespace gpu
}  // namespace siren
