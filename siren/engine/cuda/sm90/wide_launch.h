// The wide path: launches wide.h's kernels, one after the other, and the outer products.
#pragma once

#include <algorithm>

#include "cuda/sm90/outer_launch.h"
#include "cuda/sm90/wide.h"

namespace siren {
namespace gpu {
namespace {

template <class Precision, int streams, int channels>
class WideLauncher {
    typedef typename Precision::Piece Piece;
    typedef TileShape<Precision, streams> OfTile;
    typedef WideShape<Precision, streams> Shape;

public:
    explicit WideLauncher(const Context<Precision>& context) : c_(context), plan_(context.plan) {}

    // Returns false where the kernels do not fit this GPU.
    static bool plan(const Parameters& p, int64_t n, Plan& plan) {
        const ClusterLaunch launch(dim3(Shape::cluster), Shape::threads, Shape::bytes, dim3(Shape::cluster));
        const int clusters = launch.most_clusters(wide_product_kernel<Precision, streams, Epilogue::sine>);
        if (clusters == 0) return false;
        plan.cut(n, point_group(streams), OfTile::points, OfTile::rows);
        plan.tiles = OfTile::tiles(int(plan.points));
        plan.blocks = Shape::cluster * std::max(1, clusters / plan.column_tiles());
        plan.output_shares = 2 * plan.multiprocessors;
        plan.first_shares = plan.blocks * Shape::groups;
        plan.outer_shares = plan.bias_shares = best_outer_shares(p, plan);
        plan.scaled = plan.output_scaled = true;
        plan.h_layers = p.hidden_layers + 1;
        plan.d_layers = p.hidden_layers;  // not the first
        plan.kept = size_t(p.hidden_layers) * plan.tiles * plan.column_tiles() * OfTile::kept;
        return true;
    }

    // Returns how many shares of point_sums there are.
    int step(const Points& points, const Error& error, int chunk) {
        const int last = c_.p.hidden_layers;
        const OutputParts parts = c_.output_parts(points, streams, plan_.column_tiles());
        unsigned* const largest = c_.memory.largest + chunk;

        first_layer(points);
        for (int l = 1; l < last; ++l) {
            product<Epilogue::sine>(points, c_.h(l - 1).data, l, Packing::forward, l, c_.vectors().bias(l),
                                    c_.h(l).data);
        }
        product<Epilogue::last_sine>(points, c_.h(last - 1).data, last, Packing::forward, last, c_.vectors().bias(last),
                                     c_.h(last).data);
        launch(cotangent_kernel<streams>, blocks(points.count), 256, points, c_.p, parts, error, c_.memory.cotangents,
               largest, c_.memory.point_sums);
        output_adjoint(points, largest);
        for (int l = last; l > 1; --l) {
            product<Epilogue::adjoint>(points, d(l), l, Packing::backward, l - 1, nullptr, d(l - 1));
        }
        product<Epilogue::first_adjoint>(points, d(1), 1, Packing::backward, 0, c_.vectors().first(0), nullptr);
        multiply_outer<streams>(c_, points, FirstH::stored);
        return blocks(points.count);
    }

private:
    // Outer products take, for each turn of blocks, the time of the tiles of a share and of writing its sums.
    static int best_outer_shares(const Parameters& p, const Plan& plan) {
        const int units = 2 * plan.column_tiles() * plan.column_tiles() * p.hidden_layers;
        int best = 1;
        double least = 0;
        for (int shares = 1; shares <= tuning::most_outer_shares; ++shares) {
            const int turns = (units * shares + plan.multiprocessors - 1) / plan.multiprocessors;
            const double time = turns * (double(plan.tiles) / shares + tuning::tiles_of_a_share);
            if (shares == 1 || time < least) {
                least = time;
                best = shares;
            }
        }
        return best;
    }

    void first_layer(const Points& points) {
        const ClusterLaunch launch(dim3(OfTile::tiles(points.count), plan_.column_tiles()), OfTile::threads,
                                   sizeof(WideFirstStorage<Precision, streams>), dim3(1));
        launch(wide_first_kernel<Precision, streams>, points, c_.vectors(), c_.h(0).data);
    }

    void output_adjoint(const Points& points, const unsigned* largest) {
        const int last = c_.p.hidden_layers;
        const ClusterLaunch launch(dim3(plan_.output_shares, plan_.column_tiles()), OfTile::threads,
                                   sizeof(WideOutputStorage<Precision, streams, channels>), dim3(1));
        launch(wide_output_kernel<Precision, streams, channels>, points, c_.vectors().output(last, 0), c_.h(last).data,
               kept(last), d(last), c_.memory.cotangents, largest, c_.memory.output_sums, OfTile::tiles(points.count),
               plan_.width);
    }

    // Tiles times the weights of hidden layer `weights`; the epilogue is that of `layer`.
    template <Epilogue kind>
    void product(const Points& points, const Piece* tiles, int weights, Packing packing, int layer,
                 const float* vectors, Piece* result) {
        const WideProduct<Precision> product{tiles,
                                             c_.weights(weights, packing).data,
                                             result,
                                             layer > 0 ? kept(layer) : nullptr,
                                             vectors,
                                             c_.output_parts(points, streams, plan_.column_tiles()),
                                             c_.memory.first_sums,
                                             points,
                                             OfTile::tiles(points.count),
                                             plan_.width};
        const ClusterLaunch launch(dim3(plan_.blocks, plan_.column_tiles()), Shape::threads, Shape::bytes,
                                   dim3(Shape::cluster));
        launch(wide_product_kernel<Precision, streams, kind>, product);
    }

    Piece* d(int l) const { return c_.memory.d + (l - 1) * plan_.plane; }
    uint4* kept(int l) const { return c_.memory.kept + (l - 1) * (plan_.kept / c_.p.hidden_layers); }

    const Context<Precision>& c_;
    const Plan& plan_;
};

}  // namespace
}  // namespace gpu
}  // namespace siren
