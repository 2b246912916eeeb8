// The CPU kernels as a plain library, so that a test can compile them for other instruction sets.
#include "cpu/binding.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>

namespace {

siren::Call make(int width, int hidden_layers, int channels, int order, float omega,
                 const float* scale) {
    std::map<std::string, double> numbers{
        {"width", width},         {"hidden_layers", hidden_layers}, {"channels", channels},
        {"order", order},         {"omega_0", omega},               {"scale_row", scale[0]},
        {"scale_column", scale[1]}};
    return siren::Call(numbers);
}

}  // namespace

extern "C" {

int vector_lanes() { return siren::lanes; }

void sincos_array(const float* x, float* sine, float* cosine, int64_t n) {
    for (int64_t i = 0; i < n; i += siren::lanes) {
        const size_t bytes = sizeof(float) * std::min<int64_t>(n - i, siren::lanes);
        siren::Vector v{}, s, c;
        std::memcpy(&v, x + i, bytes);
        siren::sincos(v, s, c);
        std::memcpy(sine + i, &s, bytes);
        std::memcpy(cosine + i, &c, bytes);
    }
}

void streams(int width, int hidden_layers, int channels, int order, float omega,
             const float* scale, const float* parameters, const float* coordinates, int64_t n,
             float* output) {
    make(width, hidden_layers, channels, order, omega, scale)
        .streams(parameters, coordinates, n, output);
}

void product(int width, int hidden_layers, int channels, int order, float omega,
             const float* scale, const float* parameters, const float* coordinates, int64_t n,
             const float* cotangent, float* gradient) {
    make(width, hidden_layers, channels, order, omega, scale)
        .product(parameters, coordinates, cotangent, n, gradient);
}

void loss(int width, int hidden_layers, int channels, int order, float omega, const float* scale,
          const float* parameters, const float* coordinates, int64_t n, const float* target,
          float* loss, float* gradient) {
    make(width, hidden_layers, channels, order, omega, scale)
        .loss(parameters, coordinates, target, n, 1.0, loss, gradient);
}

// coefficients: a, b and c of each of the polynomials, one polynomial after the other.
void orthogonalize(const float* matrices, int count, int n, int polynomials,
                   const float* coefficients, float* results) {
    std::vector<siren::Polynomial> list;
    for (const float* p = coefficients; p < coefficients + 3 * polynomials; p += 3) {
        list.push_back({p[0], p[1], p[2]});
    }
    siren::orthogonalize(matrices, count, n, list, results);
}

}  // extern "C"
