// What a sine layer does to the streams of a vector of points or units, and its adjoint. siren.h has the
// mathematics; a stream that is a constant zero costs nothing.
#pragma once

#include "cpu/sincos.h"
#include "cpu/vector.h"

namespace siren {
namespace detail {

// Streams of h and the cosine of x, from the streams of x.
template <int streams>
inline void sine(const Vector* x, Vector* h, Vector& cosine) {
    Vector s, c;
    sincos(x[0], s, c);
    h[0] = s;
    cosine = c;
    if (streams >= 3) {
        h[1] = c * x[1];
        h[2] = c * x[2];
    }
    if (streams == 4) h[3] = c * x[3] - s * (x[1] * x[1] + x[2] * x[2]);
}

// From cotangents of h to those of x, in place, given s = sin x and c = cos x; x[0] is not used.
template <int streams>
inline void sine_adjoint(Vector s, Vector c, const Vector* x, Vector* g) {
    Vector d = c * g[0];
    if (streams >= 3) {
        Vector sine_terms = g[1] * x[1] + g[2] * x[2];
        g[1] *= c;
        g[2] *= c;
        if (streams == 4) {
            const Vector twice = 2.0f * s * g[3];
            sine_terms += g[3] * x[3];
            d -= c * (x[1] * x[1] + x[2] * x[2]) * g[3];
            g[1] -= twice * x[1];
            g[2] -= twice * x[2];
            g[3] *= c;
        }
        d -= s * sine_terms;
    }
    g[0] = d;
}

}  // namespace detail
}  // namespace siren
