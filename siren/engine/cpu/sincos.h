// Sine and cosine together, a vector at a time.
#pragma once

#include "cpu/vector.h"

namespace siren {

// x = n pi + r with |r| <= pi/2 gives sin x = (-1)^n sin r and cos x = (-1)^n cos r: a period of
// pi, not pi/2, needs one more term in each polynomial but no exchange of the two. The reduction is
// Cody and Waite's: n times each of the first two parts of pi is exact up to |x| = 1e4, with or
// without fused multiply-add. The polynomials are minimax fits. Absolute error below 2e-7.
inline void sincos(Vector x, Vector& sine, Vector& cosine) {
    const float round_to_integer = 12582912.0f;  // 1.5 * 2^23: adding it leaves no fraction bits
    const Vector shifted = opaque(x * 0.318309886183790672f + round_to_integer);
    const Vector n = shifted - round_to_integer;
    Vector r = opaque(x - n * 3.140625f);
    r = opaque(r - n * 0.0009675025939941406f);
    r = r - n * 1.5099580252808664e-07f;

    const Vector t = r * r;
    Vector p = t * 2.5999031549872598e-06f - 0.00019806547788903117f;
    p = p * t + 0.008333016186952591f;
    p = p * t - 0.16666656732559204f;
    p = (p * t) * r + r;
    Vector q = t * -2.6075662162838853e-07f + 2.476180816302076e-05f;
    q = q * t - 0.0013888402609154582f;
    q = q * t + 0.04166664183139801f;
    q = q * t - 0.5f;
    q = q * t + 1.0f;

    const IntVector sign = (IntVector)shifted << 31;  // the lowest bit of `shifted` is that of n
    sine = (Vector)((IntVector)p ^ sign);
    cosine = (Vector)((IntVector)q ^ sign);
}

}  // namespace siren
