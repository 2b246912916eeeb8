// SIREN (arXiv:2006.09661) on an NVIDIA GPU: what cpu/siren.h computes, by matrix products on tensor cores with the
// sine layers and their adjoints as epilogues. See there for the mathematics.
//
// A call packs the parameters, takes its points through the network chunk by chunk, and adds up the gradient. Between,
// a chunk takes one of three paths, each with a launcher, which plans the work and launches the kernels:
//     layers  sm80/layers.h  a kernel for each layer; any width, precision and GPU from Ampere on
//     chain   sm90/chain.h   all layers in one kernel; training steps in 16 bits, up to 256 units wide, on Hopper
//     wide    sm90/wide.h    a kernel for each layer; the same for wider networks
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "cuda/gradient.h"
#include "cuda/launch.h"
#include "cuda/plan.h"
#include "cuda/sm80/layers_launch.h"
#include "cuda/workspace.h"
#ifdef SIREN_HOPPER
#include "cuda/sm90/chain_launch.h"
#include "cuda/sm90/wide_launch.h"
#endif

namespace siren {
namespace gpu {
namespace {

// Derivatives are kept in units that bring those of the first layer near 1, powers of two.
inline Points points_in_units(const Parameters& p, const float* scale) {
    const float unit = p.omega * std::max(std::abs(scale[0]), std::abs(scale[1]));
    const float kappa = unit > 0 ? std::exp2(std::round(std::log2(2 / unit))) : 1.0f;
    Points points{};
    for (int i = 0; i < 2; ++i) points.scale[i] = kappa * scale[i];
    points.inverse[0] = 1;
    points.inverse[1] = points.inverse[2] = 1 / kappa;
    points.inverse[3] = 1 / (kappa * kappa);
    return points;
}

enum class Wanted { outputs, gradient };

// `narrow`: the network is not wider than a product's tile.
template <class Precision, int streams, int channels, bool narrow, Loss kind = Loss::squared_error>
class Pass {
    typedef LayersLauncher<Precision, streams, channels> Layers;
#ifdef SIREN_HOPPER
    static constexpr bool has_tiles = Precision::pieces == 1 && channels <= 4;
    typedef typename std::conditional<narrow, ChainLauncher<Precision, streams, channels, kind>,
                                      WideLauncher<Precision, streams, channels>>::type Tiled;
    typedef typename std::conditional<has_tiles, Tiled, Layers>::type Fastest;
#else
    static constexpr bool has_tiles = false;
    typedef Layers Fastest;
#endif

public:
    Pass(const Parameters& p, const float* scale, int64_t n, Wanted wanted)
        : Pass(p, scale, make_plan(p, n, wanted == Wanted::gradient)) {}

    int64_t chunk_points() const { return c_.plan.points; }

    // Evaluates points (count, 2), at most chunk_points().
    void forward(const float* coordinates, int count) {
        take_points(coordinates, count);
        Layers(c_).forward(points_);
    }

    // The streams (count, streams, channels).
    void outputs(float* result) { Layers(c_).outputs(points_, result); }

    // Squared error against target, and its gradient, at points (count, 2): of chunk number 0 written, of
    // others added.
    void squared_error(int chunk, const float* coordinates, int count, const float* target, double mean,
                       const Result& result) {
        differentiate(chunk, coordinates, count, {target, nullptr, float(mean), nullptr, 0}, mean, result);
    }

    // The same of the variation, with three streams. Tensors are (count, 3).
    void variation(int chunk, const float* coordinates, int count, const float* tensors, float smallest, double mean,
                   const Result& result) {
        differentiate(chunk, coordinates, count, {nullptr, nullptr, float(mean), tensors, smallest}, mean, result);
    }

    // The same from given cotangents (count, streams, channels), without a loss.
    void product(int chunk, const float* coordinates, int count, const float* cotangent, float* gradient) {
        differentiate(chunk, coordinates, count, {nullptr, cotangent, 1, nullptr, 0}, 1,
                      {nullptr, gradient, nullptr, nullptr});
    }

    // Room for the coordinates of a chunk and for its targets or tensors.
    float* coordinates() const { return c_.memory.coordinates; }
    float* targets() const { return c_.memory.targets; }

private:
    struct Planned {
        Plan plan;
        bool tiled;  // the path is Fastest; else by layers
    };
    static Planned make_plan(const Parameters& p, int64_t n, bool keep) {
        Plan plan(p, keep);
        const bool tiled = has_tiles && keep && Fastest::plan(p, n, plan);
        if (!tiled) Layers::plan(p, n, plan);
        return {plan, tiled};
    }

    Pass(const Parameters& p, const float* scale, const Planned& planned)
        : tiled_(planned.tiled),
          c_{p, planned.plan, Workspace<Precision>(p, planned.plan, streams)},
          points_(points_in_units(p, scale)) {
        const int rows = std::max(c_.plan.width, 3 + p.hidden_layers + p.channels);
        const Packed<Precision> packed{c_.vectors(),        c_.weights(1, Packing::forward), tiled_,
                                       c_.memory.largest,   c_.memory.arrived,    c_.plan.keep ? c_.plan.chunks : 0};
        launch(pack_kernel<Precision>, dim3(blocks(c_.plan.width / 8, 32), rows, 2 * p.hidden_layers + 1), 32, p, packed);
    }

    void take_points(const float* coordinates, int count) {
        constexpr int group = point_group(streams);
        points_.coordinates = coordinates;
        points_.count = count;
        points_.padded = (count + group - 1) / group * group;
    }

    void differentiate(int chunk, const float* coordinates, int count, const Error& error, double mean,
                       Result result) {
        take_points(coordinates, count);
        const int shares = tiled_ ? Fastest(c_).step(points_, error, chunk) : Layers(c_).step(points_, error, chunk);
        if (chunk > 0) {
            result.plus_loss = result.loss;
            result.plus_gradient = result.gradient;
        }
        finish_gradient(chunk, shares, mean, result);
    }

    // From sums over shares to the flat gradient.
    void finish_gradient(int chunk, int point_shares, double mean, const Result& result) {
        const Parameters& p = c_.p;
        const Plan& plan = c_.plan;
        const Workspace<Precision>& sums = c_.memory;
        float* const gradient = result.gradient;
        const int hidden = p.hidden_layers, output = hidden + 1;
        const size_t width = p.width, layer = width * width + width;
        const Part outer{sums.outer_sums, plan.outer_shares, plan.width, p.width, hidden, p.omega, plan.scaled,
                         gradient + p.weight(1), layer, width, 1};
        const Part biases{sums.bias_sums, plan.bias_shares, 1, 1, hidden, p.omega, plan.scaled,
                          gradient + p.bias(1), layer, 0, 1};
        const Part first_weights{sums.first_sums, plan.first_shares, 3, 2, 1, p.omega, plan.scaled,
                                 gradient, 0, 1, 2};
        const Part first_bias{sums.first_sums + 2 * size_t(plan.width), plan.first_shares, 3, 1, 1, p.omega,
                              plan.scaled, gradient + p.bias(0), 0, 0, 1};
        const Part output_weights{sums.output_sums, plan.output_shares, p.channels, p.channels, 1, 1.0f,
                                  plan.output_scaled, gradient + p.weight(output), 0, width, 1};

        const Finish finish{{sums.point_sums, point_shares, mean, gradient + p.bias(output), 1 + p.channels},
                            outer,
                            {{biases, first_weights, first_bias, output_weights}},
                            streams,
                            p.width,
                            plan.width,
                            sums.largest + chunk,
                            result};
        launch(finish_kernel, finish.blocks(), 256, finish);
    }

    const bool tiled_;
    const Context<Precision> c_;
    Points points_;  // of the chunk
};

}  // namespace
}  // namespace gpu
}  // namespace siren
