// Threads and the memory they work in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __SSE__
#include <xmmintrin.h>
#endif

namespace siren {

// While it exists, its thread takes subnormal numbers for zero, which are some hundred times as slow as
// others. Then the processor is as it was: what else runs in the process may need such numbers. Muon is
// without it (team.h): a matrix may come in numbers so small, before its norm divides them.
class FlushSubnormals {
#ifdef __SSE__
public:
    FlushSubnormals() { _mm_setcsr(before_ | 0x8040); }  // flush to zero, denormals are zero
    ~FlushSubnormals() { _mm_setcsr(before_); }

private:
    const unsigned before_ = _mm_getcsr();
#else
public:
    FlushSubnormals() {}
#endif
};

inline int max_threads() {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

// Calls work(thread) for thread = 0 .. threads-1. Each call does a share of the work that depends
// on `threads` alone, so results are the same on every run, even if fewer threads are granted.
template <class Work>
void parallel(int threads, const Work& work) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) if (threads > 1)
#endif
    {
        const FlushSubnormals mode;
#ifdef _OPENMP
#pragma omp for schedule(static)
#endif
        for (int thread = 0; thread < threads; ++thread) work(thread);
    }
}

// Where share `thread` of n items begins; it ends where the next one begins.
inline int64_t share(int64_t n, int thread, int threads) { return n * thread / threads; }

// Scratch memory, aligned to a cache line. It is kept between calls and only grows: fresh pages
// cost more than the arithmetic of a small step.
class Workspace {
public:
    Workspace() = default;
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;
    ~Workspace() { std::free(data_); }

    float* reserve(size_t floats) {
        if (floats > size_) {
            std::free(data_);
            data_ = nullptr;
            size_ = 0;
            void* memory = nullptr;
            if (posix_memalign(&memory, 4096, floats * sizeof(float))) throw std::bad_alloc();
            data_ = static_cast<float*>(memory);
            size_ = floats;
        }
        return data_;
    }

private:
    float* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace siren
