// The GPU's memory for a call: one block, which is kept between calls and cut into arrays.
#pragma once

#include <cstddef>

#include "cuda/runtime.h"

namespace siren {
namespace gpu {
namespace {

// A block that only grows.
class DeviceMemory {
public:
    char* reserve(size_t bytes) {
        if (bytes > size_) {
            check(cudaFree(data_));
            data_ = nullptr;
            size_ = 0;
            check(cudaMalloc(&data_, bytes));
            size_ = bytes;
        }
        return static_cast<char*>(data_);
    }

    static DeviceMemory& shared() {
        static DeviceMemory memory;
        return memory;
    }

private:
    void* data_ = nullptr;
    size_t size_ = 0;
};

// Takes arrays from a block, one after the other. From null it only adds up how much they need.
class Arena {
public:
    explicit Arena(char* start) : start_(start) {}
    template <class T>
    void take(T*& array, size_t count) {
        array = reinterpret_cast<T*>(start_ + used_);
        used_ += (count * sizeof(T) + 255) / 256 * 256;
    }
    size_t used() const { return used_; }

private:
    char* const start_;
    size_t used_ = 0;
};

}  // namespace
}  // namespace gpu
}  // namespace siren
