// How kernels follow each other. On Hopper a kernel is set up while the one before it ends ("programmatic dependent
// launch"), which saves a microsecond; elsewhere it starts after it. That is for kernels that call follow() and are
// launched by launch() or ClusterLaunch; any other one starts when all before it have ended, whatever these call.
#pragma once

#include "cuda/runtime.h"

namespace siren {
namespace gpu {
namespace {

// What a kernel does before it touches anything in global memory: waits for the end of all kernels before it. The next
// one may be set up from then on.
__device__ inline void follow() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#ifdef SIREN_HOPPER
inline cudaLaunchAttribute may_follow_early() {
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    return attribute;
}
#endif

// Launches a kernel that calls follow().
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, const Arguments&... arguments) {
#ifdef SIREN_HOPPER
    cudaLaunchAttribute attribute = may_follow_early();
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.attrs = &attribute;
    config.numAttrs = 1;
    check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
#else
    kernel<<<grid, threads>>>(arguments...);
    check(cudaGetLastError());
#endif
}

}  // namespace
}  // namespace gpu
}  // namespace siren
