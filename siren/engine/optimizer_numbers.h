// The numbers that jt.code carries along for a step of an optimizer.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define SIREN_EVERYWHERE __host__ __device__  // on the CPU and on a GPU
#else
#define SIREN_EVERYWHERE
#endif

namespace siren {

// As `reference.AdamNumbers`.
struct AdamNumbers {
    double rate, correction, beta_1, beta_2, eps;

    template <class Data>
    explicit AdamNumbers(Data& data)
        : rate(data["rate"]),
          correction(data["correction"]),
          beta_1(data["beta_1"]),
          beta_2(data["beta_2"]),
          eps(data["eps"]) {}
};

// As `reference.MuonNumbers`, and where the hidden matrices are among the parameters.
struct MuonNumbers {
    float rate, momentum;
    int count, width;  // of the matrices
    int64_t start;     // of the first; each is followed by its bias

    template <class Data>
    explicit MuonNumbers(Data& data)
        : rate(float(data["matrix_rate"])),
          momentum(float(data["momentum"])),
          count(int(data["count"])),
          width(int(data["width"])),
          start(int64_t(data["start"])) {}
};

// Coefficients of one iteration of orthogonalization, which takes a singular value s to a s + b s^3 + c s^5.
struct Polynomial {
    float a, b, c;

    // That of s / scale.
    SIREN_EVERYWHERE Polynomial of_quotient(double scale) const {
        const double cube = scale * scale * scale;
        return {float(a / scale), float(b / cube), float(c / (cube * scale * scale))};
    }
};

// What a step of Adam reads: parameters, their gradient and both moments.
struct AdamInputs {
    const float *parameters, *gradient, *mean, *square;
};

// What it writes: new parameters and moments.
struct AdamOutputs {
    float *parameters, *mean, *square;
};

}  // namespace siren
