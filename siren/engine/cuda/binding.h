// What Jittor's generated code calls on a GPU: as cpu/binding.h, with pointers to device memory. SIREN_ORDER,
// SIREN_PRECISION, SIREN_CHANNELS and SIREN_NARROW say what is compiled: all combinations would take minutes.
#pragma once

#include "cuda/pass.h"
#include "cuda/points.h"
#include "numbers.h"

namespace siren {

// A template: of a template's functions only those that are called are compiled, and so only their kernels.
template <class = void>
struct AnyCall : Numbers {
    using Numbers::Numbers;

    void streams(const float* parameters, const float* coordinates, int64_t n, float* output) const {
        Pass pass(network(parameters), scale, n, gpu::Wanted::outputs);
        for_each_chunk(pass, n, [&](int, int64_t begin, int count) {
            pass.forward(coordinates + 2 * begin, count);
            pass.outputs(output + begin * stream_count * channels);
        });
    }

    void product(const float* parameters, const float* coordinates, const float* cotangent, int64_t n,
                 float* gradient) const {
        Pass pass(network(parameters), scale, n, gpu::Wanted::gradient);
        for_each_chunk(pass, n, [&](int chunk, int64_t begin, int count) {
            pass.product(chunk, coordinates + 2 * begin, count,
                         cotangent + begin * stream_count * channels, gradient);
        });
    }

    void loss(const float* parameters, const float* coordinates, const float* target,
              int64_t n, double weight, float* loss, float* gradient) const {
        Pass pass(network(parameters), scale, n, gpu::Wanted::gradient);
        for_each_chunk(pass, n, [&](int chunk, int64_t begin, int count) {
            pass.squared_error(chunk, coordinates + 2 * begin, count, target + begin * supervised * channels,
                               weight * mean(n), {loss, gradient, nullptr, nullptr});
        });
    }

    // The same of stored points, which are gathered chunk by chunk.
    template <class Value>
    void loss(const float* parameters, const gpu::Selection& selection, const gpu::StoredPoints<Value>& points,
              double weight, float* loss, float* gradient) const {
        const int64_t n = selection.count;
        Pass pass(network(parameters), scale, n, gpu::Wanted::gradient);
        for_each_chunk(pass, n, [&](int chunk, int64_t begin, int count) {
            gpu::gather(selection.part(begin, count), points, pass.coordinates(), pass.targets());
            pass.squared_error(chunk, pass.coordinates(), count, pass.targets(), weight * mean(n),
                               {loss, gradient, nullptr, nullptr});
        });
    }

    // `weight` times the mean variation at n random points, added to a loss and its gradient.
    void variation(const float* parameters, const gpu::RandomPoints& points, int64_t n, float smallest, double weight,
                   const gpu::Result& result) const {
        gpu::Pass<gpu::SIREN_PRECISION, stream_count, SIREN_CHANNELS, SIREN_NARROW, gpu::Loss::variation> pass(
            network(parameters), scale, n, gpu::Wanted::gradient);
        for_each_chunk(pass, n, [&](int chunk, int64_t begin, int count) {
            gpu::draw(points, begin, count, pass.coordinates(), pass.targets());
            pass.variation(chunk, pass.coordinates(), count, pass.targets(), smallest, weight / double(n), result);
        });
    }

private:
    static constexpr int supervised = SIREN_ORDER == 1 ? 2 : 1;
    double mean(int64_t n) const { return 1.0 / (double(n) * supervised * channels); }
    static constexpr int stream_count = SIREN_ORDER == 0 ? 1 : SIREN_ORDER + 2;
    typedef gpu::Pass<gpu::SIREN_PRECISION, stream_count, SIREN_CHANNELS, SIREN_NARROW> Pass;

    gpu::Parameters network(const float* flat) const {
        return {flat, width, hidden_layers, channels, omega};
    }

    // Calls visit(number, first point, count).
    template <class AnyPass, class Visit>
    static void for_each_chunk(const AnyPass& pass, int64_t n, const Visit& visit) {
        int chunk = 0;
        for (int64_t begin = 0; begin < n; begin += pass.chunk_points()) {
            visit(chunk++, begin, int(std::min(pass.chunk_points(), n - begin)));
        }
    }
};

typedef AnyCall<> Call;

}  // namespace siren
