// What Jittor's generated code calls on a GPU: as cpu/binding.h, with pointers to device memory. SIREN_ORDER,
// SIREN_PRECISION, SIREN_CHANNELS and SIREN_NARROW say what is compiled: all combinations would take minutes.
#pragma once

#include "cuda/pass.h"
#include "numbers.h"

namespace siren {

struct Call : Numbers {
    float smallest;  // of a variation
    double weight;

    template <class Data>
    explicit Call(Data& data) : Numbers(data), smallest(float(data["smallest"])), weight(data["weight"]) {}

    void streams(const float* parameters, const float* coordinates, int64_t n, float* output) const {
        Pass pass(network(parameters), scale, n, false);
        for_each_chunk(pass, n, [&](int, int64_t begin, int count) {
            pass.forward(coordinates + 2 * begin, count);
            pass.outputs(output + begin * stream_count * channels);
        });
    }

    void product(const float* parameters, const float* coordinates, const float* cotangent, int64_t n,
                 float* gradient) const {
        Pass pass(network(parameters), scale, n, true);
        for_each_chunk(pass, n, [&](int chunk, int64_t begin, int count) {
            pass.product(chunk, coordinates + 2 * begin, count,
                         cotangent + begin * stream_count * channels, gradient);
        });
    }

    void loss(const float* parameters, const float* coordinates, const float* target,
              int64_t n, float* loss, float* gradient) const {
        const int supervised = SIREN_ORDER == 1 ? 2 : 1;
        const double mean = 1.0 / (double(n) * supervised * channels);
        Pass pass(network(parameters), scale, n, true);
        for_each_chunk(pass, n, [&](int chunk, int64_t begin, int count) {
            pass.squared_error(chunk, coordinates + 2 * begin, count,
                               target + begin * supervised * channels, mean, loss, gradient);
        });
    }

    void variation(const float* parameters, const float* coordinates, const float* tensors, int64_t n, float* loss,
                   float* gradient) const {
        Pass pass(network(parameters), scale, n, true, true);
        for_each_chunk(pass, n, [&](int chunk, int64_t begin, int count) {
            pass.variation(chunk, coordinates + 2 * begin, count, tensors + 3 * begin, smallest, weight / double(n),
                           loss, gradient);
        });
    }

private:
    static constexpr int stream_count = SIREN_ORDER == 0 ? 1 : SIREN_ORDER + 2;
    typedef gpu::Pass<gpu::SIREN_PRECISION, stream_count, SIREN_CHANNELS, SIREN_NARROW> Pass;

    gpu::Parameters network(const float* flat) const {
        return {flat, width, hidden_layers, channels, omega};
    }

    // Calls visit(number, first point, count).
    template <class Visit>
    static void for_each_chunk(const Pass& pass, int64_t n, const Visit& visit) {
        int chunk = 0;
        for (int64_t begin = 0; begin < n; begin += pass.chunk_points()) {
            visit(chunk++, begin, int(std::min(pass.chunk_points(), n - begin)));
        }
    }
};

}  // namespace siren
