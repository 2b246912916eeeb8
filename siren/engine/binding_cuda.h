// What Jittor's generated code calls on a GPU: binding.h's Call with the kernels of siren_cuda.h.
// All pointers are to device memory.
#pragma once

#include "siren_cuda.h"

namespace siren {

struct Call {
    int width, hidden_layers, channels, order, precision;
    float omega, scale[2];

    template <class Data>
    explicit Call(Data& data)
        : width(int(data["width"])),
          hidden_layers(int(data["hidden_layers"])),
          channels(int(data["channels"])),
          order(int(data["order"])),
          precision(int(data["precision"])),
          omega(float(data["omega_0"])),
          scale{float(data["scale_row"]), float(data["scale_column"])} {}

    void streams(const float* parameters, const float* coordinates, int64_t n, float* output) const {
        with_pass(parameters, n, false, [&](auto& pass, int streams) {
            for_each_chunk(pass, n, [&](int64_t begin, int count) {
                pass.forward(coordinates + 2 * begin, count, output + begin * streams * channels);
            });
        });
    }

    void product(const float* parameters, const float* coordinates, const float* cotangent, int64_t n,
                 float* gradient) const {
        with_pass(parameters, n, true, [&](auto& pass, int streams) {
            for_each_chunk(pass, n, [&](int64_t begin, int count) {
                pass.forward(coordinates + 2 * begin, count, pass.output());
                pass.given(cotangent + begin * streams * channels, gradient, begin > 0);
                pass.backward(gradient, begin > 0);
            });
        });
    }

    void loss(const float* parameters, const float* coordinates, const float* target,
              const float* weight, int64_t n, float* loss, float* gradient) const {
        const int supervised = order == 1 ? 2 : 1;
        with_pass(parameters, n, true, [&](auto& pass, int) {
            for_each_chunk(pass, n, [&](int64_t begin, int count) {
                pass.forward(coordinates + 2 * begin, count, pass.output());
                pass.residual(target + begin * supervised * channels,
                              weight ? weight + begin : nullptr,
                              1.0 / (double(n) * supervised * channels), loss, gradient,
                              begin > 0);
                pass.backward(gradient, begin > 0);
            });
        });
    }

private:
    template <class Work>
    void with_pass(const float* flat, int64_t n, bool keep, const Work& work) const {
        const gpu::Parameters parameters{flat, width, hidden_layers, channels, omega};
        if (precision == 0) return with_streams<gpu::Fp32>(parameters, n, keep, work);
        if (precision == 1) return with_streams<gpu::Fp16>(parameters, n, keep, work);
        with_streams<gpu::Bf16>(parameters, n, keep, work);
    }

    template <class Precision, class Work>
    void with_streams(const gpu::Parameters& parameters, int64_t n, bool keep,
                      const Work& work) const {
        if (order == 0) {
            gpu::Pass<Precision, 1> pass(parameters, scale, n, keep);
            return work(pass, 1);
        }
        if (order == 1) {
            gpu::Pass<Precision, 3> pass(parameters, scale, n, keep);
            return work(pass, 3);
        }
        gpu::Pass<Precision, 4> pass(parameters, scale, n, keep);
        work(pass, 4);
    }

    template <class Pass, class Visit>
    static void for_each_chunk(const Pass& pass, int64_t n, const Visit& visit) {
        for (int64_t begin = 0; begin < n; begin += pass.chunk_points()) {
            visit(begin, int(std::min(pass.chunk_points(), n - begin)));
        }
    }
};

}  // namespace siren
