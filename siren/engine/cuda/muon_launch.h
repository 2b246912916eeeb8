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

// How many blocks can be there at the same time, as those that wait for each other must be. Asking takes longer than a
// launch.
template <class Kernel>
int most_resident_blocks(Kernel kernel, int threads, size_t bytes) {
    int blocks = 0;
    allow_shared_memory(kernel, bytes);
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, bytes));
    return blocks * device_attribute(cudaDevAttrMultiProcessorCount);
}

// Launches blocks that wait for each other.
template <class Kernel, class Arguments>
void launch_cooperative(Kernel kernel, int grid, int threads, size_t bytes, Arguments& m) {
    void* arguments[] = {&m};
    check(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(kernel), dim3(grid), dim3(threads), arguments, bytes,
                                      nullptr));
}

// The arrays of a kernel's arguments, in the memory that all calls share.
template <class Arguments, class LayOut>
void lay_out_arrays(Arguments& m, const LayOut& lay_out) {
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
        lay_out_arrays(m, lay_out);
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
    // Tiles of 64 x 64 while those of three matrices fit at the same time, then of 128 x 128. Microseconds on an H200 with
    // 512, 704, 768 and 1024 units: 68, 100, 129, 227 and 84, 109, 112, 171. Without wgmma only the former: where these
    // took 80, 124, 164 and 279, tiles of 128 x 64 took 84, 145, 148 and about 298.
    static void launch(const MuonStep& step) {
#ifdef SIREN_HOPPER
        if (step.muon.width > 704) return launch_tiles<128>(step);
#endif
        launch_tiles<64>(step);
    }

    template <int side>
    static void launch_tiles(const MuonStep& step) {
        typedef TileProduct<Piece, side> Product;
        Arguments m(step);
        const int across = blocks(m.muon.width, side), tiles = tile_count(Tiles::all, across);
        m.padded = across * side;
        const auto kernel = muon_tiles_kernel<Product>;
        constexpr size_t bytes = sizeof(MuonTilesStorage<Product>);
        static const int most = most_resident_blocks(kernel, Product::threads, bytes);
        const int grid = std::min(most, m.muon.count * tiles);
        lay_out_arrays(m, [&](Arena& arena, Arguments& laid_out) {
            const size_t count = laid_out.muon.count, size = count * laid_out.matrix_size();
            for (Piece** const matrix : {&laid_out.x, &laid_out.next, &laid_out.gram, &laid_out.polynomial}) {
                arena.take(*matrix, size);
            }
            arena.take(laid_out.direction_sums, std::max(count, size_t(grid)));
            arena.take(laid_out.trace_sums, count * tiles);
        });
#ifdef SIREN_HOPPER
        // All blocks are there at the same time without a cooperative launch too, which could not follow early: there
        // are no more than fit, and what comes next begins when all have.
        ClusterLaunch(dim3(grid), Product::threads, bytes, dim3(1))(kernel, m);
#else
        launch_cooperative(kernel, grid, Product::threads, bytes, m);
#endif
    }
};

}  // namespace
}  // namespace gpu
}  // namespace siren
