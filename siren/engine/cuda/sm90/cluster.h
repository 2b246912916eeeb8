// Launches blocks in clusters.
#pragma once

#include "cuda/launch.h"

namespace siren {
namespace gpu {
namespace {

// How to launch blocks in clusters, of a kernel that calls follow().
struct ClusterLaunch {
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t config{};

    ClusterLaunch(dim3 grid, int threads, size_t bytes, dim3 cluster) {
        attributes[0].id = cudaLaunchAttributeClusterDimension;
        attributes[0].val.clusterDim.x = cluster.x;
        attributes[0].val.clusterDim.y = cluster.y;
        attributes[0].val.clusterDim.z = cluster.z;
        attributes[1] = may_follow_early();
        config.gridDim = grid;
        config.blockDim = dim3(threads);
        config.dynamicSmemBytes = bytes;
        config.attrs = attributes;
        config.numAttrs = 2;
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

}  // namespace
}  // namespace gpu
}  // namespace siren
