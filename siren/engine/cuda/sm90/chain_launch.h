// The chain path: launches chain.h's kernel, which takes points through all layers and back, and the outer products.
#pragma once

#include <algorithm>

#include "cuda/sm90/chain.h"
#include "cuda/sm90/outer_launch.h"

namespace siren {
namespace gpu {
namespace {

template <class Precision, int streams, int channels, Loss kind>
class ChainLauncher {
    typedef ChainShape<Precision, streams, channels> Shape;

public:
    explicit ChainLauncher(const Context<Precision>& context) : c_(context) {}

    // Returns false where the kernel does not fit this GPU.
    static bool plan(const Parameters& p, int64_t n, Plan& plan) {
        const int most_blocks = count_blocks(p);
        if (most_blocks == 0) return false;
        plan.cut(n, point_group(streams), Shape::OfTile::points, Shape::OfTile::rows);
        plan.tiles = Shape::OfTile::tiles(int(plan.points));
        // No more blocks than make the largest share of the tiles as small as it can be: more would only use energy.
        const int most_groups = Shape::groups * most_blocks, cluster_groups = Shape::groups * Shape::cluster;
        const int turns = (plan.tiles + most_groups - 1) / most_groups;
        plan.blocks = (plan.tiles + cluster_groups * turns - 1) / (cluster_groups * turns) * Shape::cluster;
        plan.output_shares = plan.first_shares = plan.blocks * Shape::groups;
        plan.outer_shares = plan.bias_shares = std::max(1, plan.multiprocessors / (2 * p.hidden_layers));
        plan.h_layers = p.hidden_layers - 1;  // neither the first nor the last
        plan.d_layers = p.hidden_layers;      // not the first
        plan.kept = size_t(plan.output_shares) * (p.hidden_layers - 1) * Shape::OfTile::kept;
        return true;
    }

    // Returns how many shares of point_sums there are.
    int step(const Points& points, const Error& error, int chunk) {
        const Workspace<Precision>& m = c_.memory;
        const ChainArguments<Precision> arguments{
            points,           c_.p,     c_.vectors(),       m.weights,         m.h,      m.d,
            c_.plan.plane,    m.kept,   error,              m.largest + chunk, m.arrived + chunk,
            m.scales,         m.first_sums, m.output_sums,  m.point_sums};
        launch(c_.p, c_.plan.blocks)(chain_kernel<Precision, streams, channels, kind>, arguments);
        multiply_outer<streams>(c_, points, FirstH::computed);
        return 4 * c_.plan.output_shares;
    }

private:
    // How many blocks can be there at the same time, as they must be: they wait for each other (`arrived`). A kernel that
    // follows is set up only when all of them run. Asking takes longer than a launch, so the answer is kept.
    static int count_blocks(const Parameters& p) {
        static int layers = 0, blocks = 0;
        if (layers != p.hidden_layers) {
            blocks = Shape::cluster * launch(p, Shape::cluster).most_clusters(chain_kernel<Precision, streams, channels, kind>);
            layers = p.hidden_layers;
        }
        return blocks;
    }
    static ClusterLaunch launch(const Parameters& p, int blocks) {
        return {dim3(blocks), Shape::threads, Shape::bytes(p.hidden_layers), dim3(Shape::cluster)};
    }

    const Context<Precision>& c_;
};

}  // namespace
}  // namespace gpu
}  // namespace siren
