// A step of Muon on a GPU: launches muon.h's kernel.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "cuda/memory.h"
#include "cuda/muon.h"
#include "cuda/runtime.h"
#ifdef SIREN_HOPPER
#include "cuda/sm90/cluster.h"
#endif
#include "optimizer_numbers.h"

namespace siren {
namespace {

// `muon` of reference.py, on products of 16-bit numbers, of matrices up to 1024 wide.
class Muon {
    typedef gpu::SIREN_PRECISION::Piece Piece;
    typedef gpu::MuonStorage<Piece> Storage;

public:
    template <class Data>
    Muon(Data& data, const std::vector<Polynomial>& polynomials)
        : adam_(data), muon_(data), polynomials_(polynomials) {
        if (polynomials_.size() > gpu::most_iterations) throw std::runtime_error("too many iterations of Muon");
    }

    // As cpu/optimizer.h has it.
    void step(const AdamInputs& in, const AdamOutputs& out, const float* average, float* new_average,
              int64_t parameters) const {
        gpu::MuonArguments<Piece> m{in, out, average, new_average, adam_, muon_, parameters,
                                    gpu::GridBarrier::create()};
        m.padded = gpu::blocks(muon_.width, gpu::muon_block) * gpu::muon_block;
        m.iterations = int(polynomials_.size());
        std::copy(polynomials_.begin(), polynomials_.end(), m.polynomials);
        gpu::Arena measured(nullptr);
        lay_out(measured, m);
        gpu::Arena arena(gpu::DeviceMemory::shared().reserve(measured.used()));
        lay_out(arena, m);

        const size_t bytes = Storage::bytes(m.padded);
        if (launch_clusters(m, bytes)) return;
        gpu::allow_shared_memory(gpu::muon_kernel<Piece>, bytes);
        const int grid = std::min(most_blocks(bytes), muon_.count * m.panels());
        void* arguments[] = {&m};
        gpu::check(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(gpu::muon_kernel<Piece>), dim3(grid),
                                               dim3(gpu::muon_threads), arguments, bytes, nullptr));
    }

private:
    static void lay_out(gpu::Arena& arena, gpu::MuonArguments<Piece>& m) {
        const size_t size = size_t(m.muon.count) * m.padded * m.padded, panels = size_t(m.muon.count) * m.panels();
        for (Piece** const matrix : {&m.x, &m.next, &m.y, &m.gram}) arena.take(*matrix, size);
        arena.take(m.z, size);
        arena.take(m.direction_sums, panels);
        arena.take(m.trace_sums, panels);
    }

    // With a cluster of blocks for each matrix, whose barriers are quicker, and one for Adam; false where that is not
    // possible.
    static bool launch_clusters(gpu::MuonArguments<Piece>& m, size_t bytes) {
#ifdef SIREN_HOPPER
        if (m.squares() > 1) return false;
        const auto kernel = gpu::muon_kernel<Piece>;
        const gpu::ClusterLaunch launch(dim3((m.muon.count + 1) * m.panels()), gpu::muon_threads, bytes, dim3(m.panels()));
        static const bool possible = [&] {
            gpu::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
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

    // How many blocks can be there at the same time, which the barriers need. The answer is kept: asking takes longer
    // than a launch.
    static int most_blocks(size_t bytes) {
        static size_t asked = 0;
        static int answer = 0;
        if (asked != bytes) {
            int blocks = 0;
            gpu::check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, gpu::muon_kernel<Piece>, gpu::muon_threads,
                                                                     bytes));
            answer = blocks * gpu::device_attribute(cudaDevAttrMultiProcessorCount);
            asked = bytes;
        }
        return answer;
    }

    const AdamNumbers adam_;
    const MuonNumbers muon_;
    const std::vector<Polynomial> polynomials_;
};

}  // namespace
}  // namespace siren
