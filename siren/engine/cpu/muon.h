// The matrix part of Muon, on the products of gemm.h.
#pragma once

#include <cmath>
#include <cstddef>

#include "cpu/gemm.h"

namespace siren {

// The nearest orthogonal matrix to a square one (n, n), roughly: five Newton-Schulz iterations
//     X <- a X + (b G + c G^2) X,  G = X X^T,
// from X = matrix / |matrix|_F, whose coefficients take every singular value near 1 rather than
// to 1 (Jordan et al. 2024, Muon).
inline void orthogonalize_one(const float* matrix, int n, float* x) {
    const float a = 3.4445f, b = -4.7750f, c = 2.0315f;
    static thread_local Workspace workspace;
    const size_t size = size_t(n) * n;
    float* const gram = workspace.reserve(3 * size);
    float* const polynomial = gram + size;
    float* const product = polynomial + size;

    double square = 0;
    for (size_t i = 0; i < size; ++i) square += double(matrix[i]) * matrix[i];
    const float factor = float(1 / (std::sqrt(square) + 1e-7));
    for (size_t i = 0; i < size; ++i) x[i] = factor * matrix[i];
    for (int iteration = 0; iteration < 5; ++iteration) {
        matmul(x, x, gram, n, n, n, true);
        matmul(gram, gram, polynomial, n, n, n, true);  // a Gram matrix is its own transpose
        for (size_t i = 0; i < size; ++i) polynomial[i] = b * gram[i] + c * polynomial[i];
        matmul(polynomial, x, product, n, n, n);
        for (size_t i = 0; i < size; ++i) x[i] = a * x[i] + product[i];
    }
}

// The same for `count` matrices, one after the other.
inline void orthogonalize(const float* matrices, int count, int n, float* results) {
    const size_t size = size_t(n) * n;
    for (int i = 0; i < count; ++i) orthogonalize_one(matrices + i * size, n, results + i * size);
}

}  // namespace siren
