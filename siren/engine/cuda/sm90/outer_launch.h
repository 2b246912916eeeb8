// The launch of the outer products, which chain.h and wide.h share.
#pragma once

#include "cuda/sm90/cluster.h"
#include "cuda/sm90/outer.h"
#include "cuda/workspace.h"

namespace siren {
namespace gpu {
namespace {

// Whether the first layer's H is in memory, or computed by outer_tiles_kernel().
enum class FirstH { stored, computed };

// D^T H of all layers, and the sums of D's value rows.
template <int streams, class Precision>
void multiply_outer(const Context<Precision>& c, const Points& points, FirstH first_h) {
    const bool compute_first = first_h == FirstH::computed;
    typedef OuterTilesShape<Precision, streams> Shape;
    const int column_tiles = c.plan.column_tiles();
    const ClusterLaunch launch(
        dim3(c.plan.outer_shares, 2 * column_tiles, c.p.hidden_layers * column_tiles), Shape::threads,
        Shape::bytes, dim3(1, Shape::cluster));
    launch(outer_tiles_kernel<Precision, streams>, points, c.vectors(), c.memory.d, c.memory.h, c.plan.plane,
           compute_first, compute_first ? c.memory.scales : nullptr, c.memory.outer_sums, c.memory.bias_sums,
           Shape::OfTile::tiles(points.count), c.plan.width);
}

}  // namespace
}  // namespace gpu
}  // namespace siren
