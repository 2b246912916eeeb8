// The layers path: launches layers.h's kernels, one after the other.
#pragma once

#include <algorithm>

#include "cuda/sm80/layers.h"
#include "cuda/workspace.h"

namespace siren {
namespace gpu {
namespace {

template <class Precision, int streams, int channels>
class LayersLauncher {
public:
    explicit LayersLauncher(const Context<Precision>& context) : c_(context), p_(context.p), plan_(context.plan) {}

    static bool plan(const Parameters& p, int64_t n, Plan& plan) {
        plan.cut(n, point_group(streams), 1, streams);
        plan.output_shares = plan.first_shares = plan.bias_shares = 2 * plan.multiprocessors;
        const int matrices = plan.column_tiles() * plan.column_tiles() * p.hidden_layers;
        plan.outer_shares = std::max(1, plan.multiprocessors / (2 * matrices));
        plan.scaled = true;
        plan.h_layers = plan.keep ? p.hidden_layers + 1 : 2;
        plan.x_layers = plan.d_layers = p.hidden_layers + 1;
        return true;
    }

    // Leaves parts of the outputs, and, with `keep`, h and x of all layers.
    void forward(const Points& points) {
        const int last = p_.hidden_layers;
        first_layer_kernel<Precision, streams><<<blocks(size_t(points.padded) * plan_.width / 8), 256>>>(
            points, c_.vectors(), c_.h(0));
        for (int l = 1; l <= last; ++l) {
            const EpilogueArguments<Precision> epilogue{c_.h(l),
                                                        c_.x(l),
                                                        {},
                                                        c_.vectors().bias(l),
                                                        plan_.keep,
                                                        output_parts(points),
                                                        nullptr,
                                                        points,
                                                        c_.vectors()};
            if (l < last) product<Epilogue::sine>(c_.h(l - 1), c_.weights(l, Packing::forward), epilogue);
            if (l == last) product<Epilogue::last_sine>(c_.h(l - 1), c_.weights(l, Packing::forward), epilogue);
        }
        check(cudaGetLastError());
    }

    // The streams (count, streams, channels), after forward().
    void outputs(const Points& points, float* result) {
        output_kernel<streams><<<blocks(size_t(points.count) * streams * p_.channels), 256>>>(
            points, p_, output_parts(points), result);
        check(cudaGetLastError());
    }

    // Forward and back; returns how many shares of point_sums there are.
    int step(const Points& points, const Error& error, int chunk) {
        forward(points);
        backward(points, error, c_.memory.largest + chunk);
        return blocks(points.count);
    }

private:
    void backward(const Points& points, const Error& error, unsigned* largest) {
        const int last = p_.hidden_layers;
        launch(cotangent_kernel<streams>, blocks(points.count), 256, points, p_, output_parts(points), error,
               c_.memory.cotangents, largest, c_.memory.point_sums);
        constexpr int at_once = channels == 1 ? 1 : 3;
        for (int channel = 0; channel < p_.channels; channel += at_once) {
            output_adjoint_kernel<Precision, streams, at_once>
                <<<dim3(plan_.output_shares, plan_.column_tiles()), 256>>>(
                    points, p_, c_.vectors(), c_.h(last), c_.x(last), c_.d(last), c_.memory.cotangents, largest,
                    channel, c_.bias_sums(last), c_.memory.output_sums);
        }
        for (int l = last; l > 0; --l) {
            EpilogueArguments<Precision> epilogue{};
            epilogue.x = c_.x(l - 1);
            epilogue.d = c_.d(l - 1);
            epilogue.points = points;
            epilogue.vectors = c_.vectors();
            epilogue.sums = l > 1 ? c_.bias_sums(l - 1) : c_.memory.first_sums;
            if (l > 1) product<Epilogue::adjoint>(c_.d(l), c_.weights(l, Packing::backward), epilogue);
            if (l == 1) product<Epilogue::first_adjoint>(c_.d(l), c_.weights(l, Packing::backward), epilogue);
        }
        const size_t bytes = OuterShape<Precision>::bytes;
        allow_shared_memory(outer_kernel<Precision>, bytes);
        outer_kernel<Precision>
            <<<dim3(plan_.outer_shares, plan_.width / 128, last * plan_.column_tiles()), outer_threads, bytes>>>(
                c_.d(1), c_.h(0), c_.layer_size(), c_.memory.outer_sums, points.padded * streams, plan_.width);
        check(cudaGetLastError());
    }

    template <Epilogue kind>
    void product(const Matrix<Precision>& a, const Matrix<Precision>& b,
                 const EpilogueArguments<Precision>& epilogue) {
        typedef ProductShape<Precision, streams> Shape;
        const auto kernel = product_kernel<Precision, streams, kind>;
        const int tiles = epilogue.points.padded * streams / Shape::rows;
        allow_shared_memory(kernel, Shape::bytes);
        // As many blocks as have shares of the bias, even if there are fewer tiles.
        kernel<<<dim3(plan_.multiprocessors, plan_.column_tiles()), Shape::threads, Shape::bytes>>>(
            a, b, epilogue, tiles, plan_.width);
    }

    OutputParts output_parts(const Points& points) const {
        return c_.output_parts(points, streams, plan_.width / 32);
    }

    const Context<Precision>& c_;
    const Parameters& p_;
    const Plan& plan_;
};

}  // namespace
}  // namespace gpu
}  // namespace siren
