// The matrix part of Muon: what reference.py calls `orthogonalize`.
//
// An iteration is X <- X P with P = a I + b G + c G^2 and G = X^T X. (With X X^T on the left the
// result is the same; from the right no float32 matrix need ever be transposed.) Both X^T X and
// G^2 = G^T G are symmetric: only blocks on and below the diagonal are computed, the others are mirrored.
// Products are of float32 (muon_matrices.h), or, where SIREN_AMX is defined, of two bf16 for each
// (amx/muon_matrices.h).
//
// Every block of a result is computed in one piece by one thread. So results do not depend, bit for
// bit, on the number of threads, nor on which thread computes what.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/muon_matrices.h"
#include "cpu/team.h"
#include "optimizer_numbers.h"
#ifdef SIREN_AMX
#include "cpu/amx/muon_matrices.h"
#endif

namespace siren {

namespace detail {

// A stack of matrices on the way to orthogonal ones. All threads of a team call the same functions.
template <class Matrices>
class NewtonSchulz {
public:
    NewtonSchulz(int count, int n)
        : n_(n),
          count_(count),
          matrices_(count, n),
          parts_(matrices_.parts_of_gram()),
          squares_(count * std::max(n, parts_)) {}

    // Orthogonalizes `matrices`, dense and row-major, one after the other. Results go to
    // store(matrix, row, column, values, valid), of which `valid` values from `column` on are in
    // the matrix; it is called in any order and by any thread.
    template <class Store>
    void run(Team& team, const float* matrices, const std::vector<Polynomial>& polynomials,
             const Store& store) {
        const typename Matrices::PerThread state;
        load(team, matrices);
        const int last = int(polynomials.size()) - 1;
        for (int step = 0; step <= last; ++step) {
            each(team, parts_, [&](int matrix, int part) {
                matrices_.compute_gram(step, matrix, part);
            });
            if (step == 0) {
                first_polynomial(team, polynomials[0]);
            } else {
                each(team, parts_, [&](int matrix, int part) {
                    matrices_.compute_polynomial(step, polynomials[step], matrix, part);
                });
            }
            each(team, matrices_.parts_of_product(), [&](int matrix, int part) {
                if (step < last) {
                    matrices_.multiply(step, matrix, part);
                } else {
                    matrices_.multiply_into(step, matrix, part, store);
                }
            });
        }
    }

private:
    // X = each of `matrices`, dense and row-major, divided by its Frobenius norm.
    void load(Team& team, const float* matrices) {
        const size_t size = size_t(n_) * n_;
        each(team, n_, [&](int matrix, int row) {
            const float* const values = matrices + matrix * size + size_t(row) * n_;
            double sum = 0;
            for (int i = 0; i < n_; ++i) sum += double(values[i]) * values[i];
            squares_[matrix * n_ + row] = sum;
        });
        const std::vector<double> squares = sums(n_);
        each(team, matrices_.parts_of_load(), [&](int matrix, int part) {
            const float factor = float(1 / std::max(std::sqrt(squares[matrix]), 1e-37));
            matrices_.load(matrix, part, matrices + matrix * size, factor);
        });
    }

    // P of the first step, for X divided by its Schatten-8 norm, the eighth root of the trace of G^4.
    void first_polynomial(Team& team, Polynomial p) {
        each(team, parts_, [&](int matrix, int part) {
            squares_[matrix * parts_ + part] = matrices_.compute_square(matrix, part);
        });
        const std::vector<double> traces = sums(parts_);
        each(team, parts_, [&](int matrix, int part) {
            const double norm = std::pow(traces[matrix], 1 / 8.0);
            matrices_.compute_first_polynomial(p.of_quotient(std::max(norm, 1e-3)), matrix, part);
        });
    }

    // work(matrix, unit) for all matrices and unit = 0 .. units-1.
    template <class Work>
    void each(Team& team, int units, const Work& work) const {
        team.each(count_ * units, [&](int k) { work(k / units, k % units); });
    }

    // For each matrix the sum of its `terms` numbers in squares_, always in the same order.
    std::vector<double> sums(int terms) const {
        std::vector<double> result(count_);
        for (int i = 0; i < count_ * terms; ++i) result[i / terms] += squares_[i];
        return result;
    }

    const int n_, count_;
    const Matrices matrices_;
    const int parts_;              // of G and P
    std::vector<double> squares_;  // partial sums
};

#ifdef SIREN_AMX
using Orthogonalization = NewtonSchulz<amx::SplitMatrices>;
#else
using Orthogonalization = NewtonSchulz<FloatMatrices>;
#endif

// Do products of `count` matrices (n, n) repay a team of threads?
inline bool repays_team(int count, int n) { return double(count) * n * n * n > 1 << 20; }

}  // namespace detail

// As `orthogonalize` of reference.py, of `count` dense row-major matrices (n, n) one after the other.
inline void orthogonalize(const float* matrices, int count, int n,
                          const std::vector<Polynomial>& polynomials, float* results) {
    detail::Orthogonalization iteration(count, n);
    Team::run(detail::repays_team(count, n), [&](Team& team) {
        iteration.run(team, matrices, polynomials,
                      [=](int matrix, int row, int column, const float* values, int valid) {
                          const size_t first = (size_t(matrix) * n + row) * n + column;
                          std::copy_n(values, valid, results + first);
                      });
    });
}

}  // namespace siren
