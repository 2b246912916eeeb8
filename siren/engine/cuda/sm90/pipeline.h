// A pipeline in shared memory: a producer fills its stages with bulk copies, and consumers multiply from them and hand
// them back. Each stage has two barriers, of which each completes once a round.
#pragma once

#include "cuda/sm90/ptx.h"

namespace siren {
namespace gpu {
namespace {

// Where one of its users is: the stage, and the parity of the rounds so far.
template <int stages>
struct PipelineState {
    int stage = 0;
    unsigned parity = 0;

    __device__ void advance() {
        if (++stage == stages) {
            stage = 0;
            parity ^= 1;
        }
    }
    __device__ int previous_stage() const { return (stage + stages - 1) % stages; }
};

template <int stages>
struct Pipeline {
    typedef PipelineState<stages> State;
    uint64_t full[stages], empty[stages];

    // By one thread. A stage is full after so many arrivals and the bytes that they announce, and empty after so many
    // releases.
    __device__ void init(int arrivals, int releases) {
        for (int i = 0; i < stages; ++i) {
            init_barrier(&full[i], arrivals);
            init_barrier(&empty[i], releases);
        }
        fence_barrier_init();
    }
    __device__ void wait_full(const State& state) { wait_barrier(&full[state.stage], state.parity); }
    // All stages are empty at the start.
    __device__ void wait_empty(const State& state) { wait_barrier(&empty[state.stage], state.parity ^ 1); }
    // Leaves the processor to consumers meanwhile.
    __device__ void wait_empty_sleeping(const State& state) {
        wait_barrier_sleeping(&empty[state.stage], state.parity ^ 1);
    }
    // Tells block `rank` of the cluster, which copies to this block's stages too.
    __device__ void release(int stage, int rank) { arrive_remote(&empty[stage], rank); }
};

}  // namespace
}  // namespace gpu
}  // namespace siren
