// The Adam update in one pass over memory.
#pragma once

#include <cmath>
#include <cstdint>

#include "parallel.h"

namespace siren {

// Adam (arXiv:1412.6980) on arrays of n: m and v are the running means of g and g^2,
// p -= step_size m / (sqrt(v) + eps). The bias corrections are the caller's, in step_size and eps.
inline void adam(float* p, float* m, float* v, const float* g, int64_t n, float step_size,
                 float beta1, float beta2, float eps) {
    const int64_t worthwhile = 1 << 15;  // below this a thread costs more than it saves
    const int threads = int(std::min<int64_t>(max_threads(), n / worthwhile + 1));
    parallel(threads, [=](int thread) {
        const int64_t end = share(n, thread + 1, threads);
#pragma GCC ivdep
        for (int64_t i = share(n, thread, threads); i < end; ++i) {
            m[i] = beta1 * m[i] + (1 - beta1) * g[i];
            v[i] = beta2 * v[i] + (1 - beta2) * g[i] * g[i];
            p[i] -= step_size * m[i] / (std::sqrt(v[i]) + eps);
        }
    });
}

}  // namespace siren
