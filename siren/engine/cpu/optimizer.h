// A step of Adam or Muon on flat parameters, in one sweep over memory: `adam` and `muon` of
// reference.py.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/muon.h"
#include "cpu/parallel.h"
#include "optimizer_numbers.h"

namespace siren {

// The step of Adam with those numbers.
struct Adam : AdamNumbers {
    using AdamNumbers::AdamNumbers;

    // The step for `n` numbers, which begin at `start` among the parameters and at `state` among the
    // moments.
    void range(const AdamInputs& in, const AdamOutputs& out, size_t start, size_t state,
               size_t n) const {
        const float* const p = in.parameters + start;
        const float* const g = in.gradient + start;
        const float* const m = in.mean + state;
        const float* const v = in.square + state;
        float* const new_p = out.parameters + start;
        float* const new_m = out.mean + state;
        float* const new_v = out.square + state;
        const float keep_m = float(beta_1), keep_v = float(beta_2);
        const float add_m = float(1 - beta_1), add_v = float(1 - beta_2);
        const float scale = float(1 / correction), least = float(eps), step = float(rate);
#pragma GCC ivdep
        for (size_t i = 0; i < n; ++i) {
            new_m[i] = keep_m * m[i] + add_m * g[i];
            new_v[i] = keep_v * v[i] + add_v * g[i] * g[i];
            // Under -Ofast the root of a denormal number may be infinite.
            const float root = std::sqrt(std::max(new_v[i], FLT_MIN));
            new_p[i] = p[i] - step * new_m[i] / (scale * root + least);
        }
    }

    // The step for all `n` parameters, in pieces that are the same for any number of threads. Below a
    // million parameters a second thread saves less than waiting for it costs on a busy machine.
    void all(const AdamInputs& in, const AdamOutputs& out, int64_t n) const {
        constexpr int64_t piece = 1 << 14;
        const int pieces = int((n + piece - 1) / piece);
        const int threads = n < 1 << 20 ? 1 : std::min(pieces, max_threads());
        parallel(threads, [=](int thread) {
            const int64_t first = share(pieces, thread, threads) * piece;
            const int64_t end = std::min(n, share(pieces, thread + 1, threads) * piece);
            range(in, out, first, first, end - first);
        });
    }
};

// `muon` of reference.py.
struct Muon : MuonNumbers {
    Adam adam;
    std::vector<Polynomial> polynomials;

    template <class Data>
    Muon(Data& data, const std::vector<Polynomial>& polynomials)
        : MuonNumbers(data), adam(data), polynomials(polynomials) {}

    // `average` is the matrices' momentum (count, width, width), and `new_average` what it becomes.
    // The moments of Adam are those of all other parameters, in their order.
    void step(const AdamInputs& in, const AdamOutputs& out, const float* average,
              float* new_average, int64_t parameters) const {
        const int64_t size = int64_t(width) * width, layer = size + width;
        static thread_local Workspace workspace;
        float* const direction = workspace.reserve(count * size);
        detail::Orthogonalization iteration(count, width);
        Team::run(detail::repays_team(count, width), [&](Team& team) {
            team.each(count * width + 1, [&](int row) {
                if (row == 0) return others(in, out, parameters);
                const int64_t first = int64_t(row - 1) * width;
                const int64_t place = start + (row - 1) / width * layer + first % size;
                nesterov(in.gradient + place, average + first, new_average + first,
                         direction + first);
            });
            const auto store = [&](int matrix, int row, int column, const float* values, int valid) {
                const int64_t first = start + matrix * layer + int64_t(row) * width + column;
                for (int i = 0; i < valid; ++i) {
                    out.parameters[first + i] = in.parameters[first + i] - rate * values[i];
                }
            };
            iteration.run(team, direction, polynomials, store);
        });
    }

private:
    // Adam's step for all parameters that are not in a matrix.
    void others(const AdamInputs& in, const AdamOutputs& out, int64_t parameters) const {
        const int64_t size = int64_t(width) * width, layer = size + width;
        adam.range(in, out, 0, 0, start);
        for (int matrix = 0; matrix < count; ++matrix) {
            adam.range(in, out, start + matrix * layer + size, start + matrix * width, width);
        }
        const int64_t end = start + count * layer;
        adam.range(in, out, end, start + int64_t(count) * width, parameters - end);
    }

    // One row of the momentum, and of the direction that looks a step ahead.
    void nesterov(const float* gradient, const float* average, float* new_average,
                  float* direction) const {
        for (int i = 0; i < width; ++i) {
            new_average[i] = momentum * average[i] + gradient[i];
            direction[i] = momentum * new_average[i] + gradient[i];
        }
    }
};

}  // namespace siren
