// Launches the kernels of a step of Muon: muon.h's, of panels, up to 256 units, and muon_tiles.h's for wider networks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cuda/memory.h"
#include "cuda/muon.h"
#include "cuda/muon_tiles.h"
#include "cuda/runtime.h"
#ifdef SIREN_HOPPER
#include "cuda/sm90/cluster.h"
#endif

namespace siren {
namespace gpu {
namespace {

// Launches blocks that wait for each other: no more than can be there at the same time. `most` is null, or that number.
// Asking for it takes longer than a launch.
template <class Kernel>
int most_resident_blocks(Kernel kernel, int threads, size_t bytes) {
    int blocks = 0;
    allow_shared_memory(kernel, bytes);
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, bytes));
    return blocks * device_attribute(cudaDevAttrMultiProcessorCount);
}

template <class Kernel, class Arguments>
void launch_cooperative(Kernel kernel, int grid, int threads, size_t bytes, Arguments& m) {
    void* arguments[] = {&m};
    check(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(kernel), dim3(grid), dim3(threads), arguments, bytes,
                                      nullptr));
}

// The arrays of a kernel's arguments, in the memory that all kernels share.
template <class Arguments, class LayOut>
void lay_out_in_shared_memory(Arguments& m, const LayOut& lay_out) {
    Arena measured(nullptr);
    lay_out(measured, m);
    Arena arena(DeviceMemory::shared().reserve(measured.used()));
    lay_out(arena, m);
}

template <class Piece>
class MuonPanelsLauncher {
    typedef MuonArguments<Piece> Arguments;

public:
    static void launch(const MuonStep& step) {
        Arguments m(step);
        m.padded = blocks(m.muon.width, muon_block) * muon_block;
        m.clustered = false;
        lay_out_in_shared_memory(m, lay_out);
        const size_t bytes = MuonStorage<Piece>::bytes(m.padded);
        if (launch_clusters(m, bytes)) return;
        const auto kernel = muon_kernel<Piece>;
        static const int most = most_resident_blocks(kernel, muon_threads, MuonStorage<Piece>::bytes(widest));
        launch_cooperative(kernel, std::min(most, m.muon.count * m.panels()), muon_threads, bytes, m);
    }

private:
    static constexpr int widest = 256;

    static void lay_out(Arena& arena, Arguments& m) {
        const size_t size = size_t(m.muon.count) * m.padded * m.padded, panels = size_t(m.muon.count) * m.panels();
        for (Piece** const matrix : {&m.x, &m.next, &m.y, &m.gram}) arena.take(*matrix, size);
        arena.take(m.z, size);
        arena.take(m.direction_sums, panels);
        arena.take(m.trace_sums, panels);
    }

    // With a cluster of blocks for each matrix, whose barriers are quicker, and one for Adam; false where that is not
    // possible.
    static bool launch_clusters(Arguments& m, size_t bytes) {
#ifdef SIREN_HOPPER
        const auto kernel = muon_kernel<Piece>;
        const ClusterLaunch launch(dim3((m.muon.count + 1) * m.panels()), muon_threads, bytes, dim3(m.panels()));
        static const bool possible = [&] {
            check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
            return launch.most_clusters(kernel) > 0;
        }();
        if (!possible) return false;
        m.clustered = true;
        launch(kernel, m);
        return true;
#else
        return false;
#endif
    }
};

template <class Piece>
class MuonTilesLauncher {
    typedef MuonTiles<Piece> Arguments;

public:
    static void launch(const MuonStep& step) {
        const int width = step.muon.width;
        if (width <= 448) return launch_tiles<64, 64>(step);
        if (width <= 768) return launch_tiles<128, 64>(step);
        return launch_tiles<128, 128>(step);
    }

    template <int rows, int columns>
    static void launch_tiles(const MuonStep& step) {
        typedef TileProduct<Piece, rows, columns> Product;
        Arguments m(step);
        m.padded = blocks(m.muon.width, rows) * rows;
        const int tiles = tile_count<Product>(Tiles::all, m.padded);
        const auto kernel = muon_tiles_kernel<Product>;
        constexpr size_t bytes = sizeof(MuonTilesStorage<Product>);
        static const int most = most_resident_blocks(kernel, Product::threads, bytes);
        const int grid = std::min(most, m.muon.count * tiles);
        lay_out_in_shared_memory(m, [&](Arena& arena, Arguments& laid_out) {
            const size_t count = laid_out.muon.count, size = count * laid_out.matrix_size();
            for (Piece** const matrix : {&laid_out.x, &laid_out.next, &laid_out.gram, &laid_out.polynomial}) {
                arena.take(*matrix, size);
            }
            arena.take(laid_out.direction_sums, std::max(count, size_t(grid)));
            arena.take(laid_out.trace_sums, count * tiles);
        });
        launch_cooperative(kernel, grid, Product::threads, bytes, m);
    }
};

}  // namespace
}  // namespace gpu
}  // namespace siren
