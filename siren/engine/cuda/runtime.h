// The CUDA runtime as the launchers use it: errors are exceptions.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include <cuda_runtime.h>

namespace siren {
namespace gpu {
namespace {  // without a name: each of Jittor's operations is a library that registers its own kernels

inline void check(cudaError_t error) {
    if (error != cudaSuccess) {
        throw std::runtime_error(std::string("CUDA error: ") + cudaGetErrorString(error));
    }
}

inline int device_attribute(cudaDeviceAttr attribute) {
    int device = 0, value = 0;
    check(cudaGetDevice(&device));
    check(cudaDeviceGetAttribute(&value, attribute, device));
    return value;
}

template <class Kernel>
void allow_shared_memory(Kernel kernel, size_t bytes) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
}

// How many blocks of so many threads take an item each.
inline int blocks(size_t items, int threads = 256) { return int((items + threads - 1) / threads); }

}  // namespace
}  // namespace gpu
}  // namespace siren
