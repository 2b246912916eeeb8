// One vector type for every processor: its width is chosen by what the compiler targets.
#pragma once

namespace siren {

// A matrix product works on blocks of `block_rows` rows and two vectors of columns: as many sums as
// leave registers for two vectors of B and one element of A.
#if defined(__AVX512F__)
constexpr int lanes = 16, block_rows = 12;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int lanes = 8, block_rows = 6;
#else
constexpr int lanes = 4, block_rows = 4;
#endif

typedef float Vector __attribute__((vector_size(lanes * 4), may_alias));
typedef int IntVector __attribute__((vector_size(lanes * 4), may_alias));

inline Vector& at(float* p) { return *reinterpret_cast<Vector*>(p); }
inline const Vector& at(const float* p) { return *reinterpret_cast<const Vector*>(p); }

inline Vector broadcast(float x) { return Vector{} + x; }

inline float sum(Vector v) {
    float total = 0;
    for (int i = 0; i < lanes; ++i) total += v[i];
    return total;
}

// Hides from the optimizer where a value came from. Under -ffast-math it may otherwise reassociate
// (x + big) - big to x, and add up the parts of a split constant that exist to be subtracted one by
// one.
inline Vector opaque(Vector v) {
#if defined(__AVX512F__)
    __asm__("" : "+v"(v));
#elif defined(__SSE2__)
    __asm__("" : "+x"(v));
#elif defined(__aarch64__)
    __asm__("" : "+w"(v));
#else
    __asm__("" : "+m"(v));
#endif
    return v;
}

}  // namespace siren
