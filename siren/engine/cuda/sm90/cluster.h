// What the launchers of chain.h and wide.h share: blocks in clusters, and the launch of the outer products.
#pragma once

#include "cuda/sm90/outer.h"
#include "cuda/workspace.h"

namespace siren {
namespace gpu {
namespace {

// How to launch blocks in clusters; a cooperative launch has all blocks running at the same time, or fails.
struct ClusterLaunch {
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t config{};

    ClusterLaunch(dim3 grid, int threads, size_t bytes, dim3 cluster, bool cooperative = false) {
        attributes[0].id = cudaLaunchAttributeClusterDimension;
        attributes[0].val.clusterDim.x = cluster.x;
        attributes[0].val.clusterDim.y = cluster.y;
        attributes[0].val.clusterDim.z = cluster.z;
        attributes[1].id = cudaLaunchAttributeCooperative;
        attributes[1].val.cooperative = 1;
        config.gridDim = grid;
        config.blockDim = dim3(threads);
        config.dynamicSmemBytes = bytes;
        config.attrs = attributes;
        config.numAttrs = cooperative ? 2 : 1;
    }
    ClusterLaunch(const ClusterLaunch&) = delete;  // `config` points into it

    // How many such clusters can be there at the same time; 0 where one needs more than there is.
    template <class Kernel>
    int most_clusters(Kernel kernel) const {
        const int most_bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
        if (config.dynamicSmemBytes > size_t(most_bytes)) return 0;
        allow_shared_memory(kernel, config.dynamicSmemBytes);
        int clusters = 0;
        check(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config));
        return clusters;
    }

    template <class... Parameters, class... Arguments>
    void operator()(void (*kernel)(Parameters...), const Arguments&... arguments) const {
        allow_shared_memory(kernel, config.dynamicSmemBytes);
        check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
    }
};

// D^T H of all layers, and the sums of D's value rows. `compute_first`: as outer_tiles_kernel() has it.
template <int streams, class Precision>
void multiply_outer(const Context<Precision>& c, const Points& points, bool compute_first) {
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
