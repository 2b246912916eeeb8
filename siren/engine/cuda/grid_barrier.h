// A barrier of all blocks of a kernel, which must all be there at the same time. (That of cooperative_groups needs C++17
// from CUDA 13 on, and Jittor compiles as C++14.)
#pragma once

#include "cuda/runtime.h"

namespace siren {
namespace gpu {
namespace {

class GridBarrier {
public:
    // On the host: the counter of all kernels of this library, which never run at the same time.
    static GridBarrier create() {
        static unsigned* const counter = [] {
            unsigned* created = nullptr;
            check(cudaMalloc(&created, sizeof(unsigned)));
            check(cudaMemset(created, 0, sizeof(unsigned)));
            return created;
        }();
        return GridBarrier(counter);
    }

    // Every barrier adds 2^31 in all, so its top bit changes when the last block has arrived, and nobody need reset it.
    // What threads wrote before it is released by their block's first one, and acquired by that of another: quicker than
    // two __threadfence().
    __device__ void wait() const {
        __syncthreads();
        if (threadIdx.x == 0) {
            const unsigned all = 1u << 31, own = blockIdx.x == 0 ? all - (gridDim.x - 1) : 1;
            unsigned before, now;
            asm volatile("atom.add.release.gpu.global.u32 %0, [%1], %2;\n"
                         : "=r"(before)
                         : "l"(counter_), "r"(own)
                         : "memory");
            do {
                asm volatile("ld.acquire.gpu.global.u32 %0, [%1];\n" : "=r"(now) : "l"(counter_) : "memory");
            } while (((before ^ now) & all) == 0);
        }
        __syncthreads();
    }

private:
    explicit GridBarrier(unsigned* counter) : counter_(counter) {}
    unsigned* counter_;
};

}  // namespace
}  // namespace gpu
}  // namespace siren
