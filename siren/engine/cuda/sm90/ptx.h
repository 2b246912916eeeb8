// The PTX instructions that Hopper (sm_90a) adds, as functions: wgmma, by which four warps multiply operands in shared
// memory, bulk copies, and mbarriers. Their rules: PTX ISA, "Asynchronous warpgroup matrix instructions" and
// "mbarrier".
#pragma once

#include "cuda/sm80/mma.h"

namespace siren {
namespace gpu {
namespace {

// ---- Barriers in shared memory --------------------------------------------------------------------------

__device__ inline void init_barrier(uint64_t* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(barrier)),
                 "r"(arrivals));
}

// Arrives, and makes the barrier wait for so many bytes of bulk copies too.
__device__ inline void expect_bytes(uint64_t* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(
                     shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

__device__ inline void arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives at the barrier of the same place in block `rank` of the cluster.
__device__ inline void arrive_remote(uint64_t* barrier, int rank) {
    asm volatile(
        "{\n.reg .b32 remote;\n"
        "mapa.shared::cluster.u32 remote, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}\n" ::"r"(
            shared_address(barrier)),
        "r"(rank)
        : "memory");
}

// Returns when the barrier's phase of this parity is over.
__device__ inline void wait_barrier(uint64_t* barrier, unsigned parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n}\n" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}

// The same, but sleeps between tries, which leaves the issue slots to other warps.
__device__ inline void wait_barrier_sleeping(uint64_t* barrier, unsigned parity) {
    for (;;) {
        int done;
        asm volatile(
            "{\n.reg .pred done;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
            "selp.b32 %0, 1, 0, done;\n}\n"
            : "=r"(done)
            : "r"(shared_address(barrier)), "r"(parity)
            : "memory");
        if (done) return;
        __nanosleep(100);
    }
}

// Named barriers, of whole warps of a block.
__device__ inline void named_barrier_sync(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;\n" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ inline void named_barrier_arrive(int barrier, int threads) {
    asm volatile("bar.arrive %0, %1;\n" ::"r"(barrier), "r"(threads) : "memory");
}

__device__ inline void cluster_sync() {
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n" ::: "memory");
}

// Makes barriers known to bulk copies and other blocks, before a cluster_sync().
__device__ inline void fence_barrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

// Registers of each thread, from now on; a multiple of 8. All groups of four warps must say so.
template <int count>
__device__ inline void increase_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(count));
}
template <int count>
__device__ inline void decrease_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(count));
}

// ---- Bulk copies -------------------------------------------------------------------------------------------

// To the same place in all blocks of the cluster in `mask`; completes on each one's barrier.
__device__ inline void bulk_copy_multicast(void* destination, const void* source, int bytes,
                                      uint64_t* barrier, unsigned mask) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1], %2, [%3], %4;\n" ::"r"(shared_address(destination)),
        "l"(source), "r"(bytes), "r"(shared_address(barrier)), "h"(uint16_t(mask))
        : "memory");
}

__device__ inline void bulk_copy(void* destination, const void* source, int bytes,
                                     uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(
            shared_address(destination)),
        "l"(source), "r"(bytes), "r"(shared_address(barrier))
        : "memory");
}

// From shared memory to the same place in block `rank` of the cluster; completes on its barrier.
__device__ inline void bulk_copy_to_peer(const void* source, int bytes, uint64_t* barrier, int rank) {
    asm volatile(
        "{\n.reg .b32 remote, remote_barrier;\n"
        "mapa.shared::cluster.u32 remote, %0, %3;\n"
        "mapa.shared::cluster.u32 remote_barrier, %2, %3;\n"
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [remote], [%0], %1, "
        "[remote_barrier];\n}\n" ::"r"(shared_address(source)),
        "r"(bytes), "r"(shared_address(barrier)), "r"(rank)
        : "memory");
}

// cp.async of a few bytes; zeros if not `inside`.
template <int bytes>
__device__ inline void cp_async_or_zero(void* destination, const void* source, bool inside) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(shared_address(destination)),
                 "l"(source), "n"(bytes), "r"(inside ? bytes : 0)
                 : "memory");
}

// By a predicate: the compiler would not move instructions across a branch.
__device__ inline void store_if(bool condition, uint4* destination, const uint4& x) {
    asm volatile("{\n.reg .pred store;\nsetp.ne.b32 store, %5, 0;\n"
                 "@store st.global.cg.v4.b32 [%0], {%1,%2,%3,%4};\n}\n" ::"l"(destination),
                 "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w), "r"(int(condition)));
}

// From shared to global memory, evicted from the L2 cache first. A thread's stores complete in order.
__device__ inline void bulk_store(void* destination, const void* source, int bytes) {
    asm volatile(
        "{\n.reg .b64 policy;\n"
        "createpolicy.fractional.L2::evict_first.b64 policy, 1.0;\n"
        "cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%0], [%1], %2, policy;\n"
        "cp.async.bulk.commit_group;\n}\n" ::"l"(destination),
        "r"(shared_address(source)), "r"(bytes)
        : "memory");
}
// Returns when the source of this thread's bulk stores may be overwritten, and when they have been written.
__device__ inline void wait_bulk_read() {
    asm volatile("cp.async.bulk.wait_group.read 0;\n" ::: "memory");
}
__device__ inline void wait_bulk_written() {
    asm volatile("cp.async.bulk.wait_group 0;\n" ::: "memory");
}

// Makes what this thread has written to shared memory visible to wgmma and bulk copies (the async proxy).
__device__ inline void fence_async_proxy() {
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

// The same of what it has written to global memory, or sees there of what other blocks have.
__device__ inline void fence_async_proxy_global() {
    asm volatile("fence.proxy.async.global;\n" ::: "memory");
}

// ---- Operands in shared memory, and their descriptors --------------------------------------------------------

// Large operands are made of blocks with rows of 64 elements, 128 bytes, in the 128-byte swizzle: the 16 bytes number
// c of row r are at c ^ r % 8. Blocks start at multiples of 1024 bytes.
constexpr int block_columns = 64;

// Along which dimension an operand's rows run: k, which is summed over, or m or n.
enum class Major { k, mn };

// Rows run along k; eight of them are 1024 bytes.
__device__ inline uint64_t k_major_descriptor(const void* block) {
    return uint64_t(shared_address(block) & 0x3ffff) >> 4 | uint64_t(1) << 16 |
           uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
// Rows run along m or n, of which 64 are in a block and the next 64 in the block `block_bytes` after it.
__device__ inline uint64_t mn_major_descriptor(const void* block, int block_bytes) {
    return uint64_t(shared_address(block) & 0x3ffff) >> 4 | uint64_t(block_bytes >> 4) << 16 |
           uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
// Small operands have eight columns and are not swizzled: element k of column n is at small_place(k, n), and each 16
// along k take small_bytes.
constexpr int small_bytes = 256;
__host__ __device__ inline int small_place(int k, int n) {
    return k / 16 * 128 + k % 16 / 8 * 64 + n * 8 + k % 8;
}
__device__ inline uint64_t small_descriptor(const void* start) {
    return uint64_t(shared_address(start) & 0x3ffff) >> 4 | uint64_t(128 >> 4) << 16 |
           uint64_t(256 >> 4) << 32;
}
// The descriptor of what lies so many bytes further on.
__device__ inline uint64_t advance_descriptor(uint64_t descriptor, int bytes) {
    return descriptor + (bytes >> 4);
}

// Four matrices of 8 x 8 elements, one in each register of a warp; lane 8 m + i has the address of row
// i of matrix m.
__device__ inline void stmatrix(uint32_t address, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};\n" ::"r"(address), "r"(a),
                 "r"(b), "r"(c), "r"(d));
}

// ---- Products -----------------------------------------------------------------------------------------------

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ inline void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
template <int pending>
__device__ inline void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(pending) : "memory");
}

// accumulators = A B, or += A B if `add`, by a group of four warps, asynchronously: A is 64 x 16, B is 16 x 256.
// accumulators[4 j + 2 i + k], i, k < 2, of lane l of warp w is at row 16 w + l / 4 + 8 i, column 8 j + l % 4 * 2 + k.
// `major` says which both descriptors are.
#define SIREN_ACCUMULATORS_4(i)                                                                                  \
    "+f"(accumulators[i]), "+f"(accumulators[i + 1]), "+f"(accumulators[i + 2]), "+f"(accumulators[i + 3])
#define SIREN_ACCUMULATORS_16(i)                                                                                 \
    SIREN_ACCUMULATORS_4(i), SIREN_ACCUMULATORS_4(i + 4), SIREN_ACCUMULATORS_4(i + 8), SIREN_ACCUMULATORS_4(i + 12)
#define SIREN_ACCUMULATORS_32(i) SIREN_ACCUMULATORS_16(i), SIREN_ACCUMULATORS_16(i + 16)
#define SIREN_WGMMA_256(type)                                                                                    \
    asm volatile(                                                                                                \
        "{\n.reg .pred add;\nsetp.ne.b32 add, %130, 0;\n"                                                        \
        "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {"                                        \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                 \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                       \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                       \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "                       \
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "                       \
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "                       \
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "           \
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"         \
        "}, %128, %129, add, 1, 1, %131, %131;\n}\n"                                                             \
        : SIREN_ACCUMULATORS_32(0), SIREN_ACCUMULATORS_32(32), SIREN_ACCUMULATORS_32(64), SIREN_ACCUMULATORS_32(96) \
        : "l"(a), "l"(b), "r"(int(add)), "n"(int(major)))
template <Major major>
__device__ inline void wgmma(float (&accumulators)[128], uint64_t a, uint64_t b, bool add, __half) {
    SIREN_WGMMA_256("f16");
}
template <Major major>
__device__ inline void wgmma(float (&accumulators)[128], uint64_t a, uint64_t b, bool add, __nv_bfloat16) {
    SIREN_WGMMA_256("bf16");
}
// The same for a B of 8 columns, a small_descriptor(). `major` says which A's is.
#define SIREN_WGMMA_8(type)                                                                                      \
    asm volatile(                                                                                                \
        "{\n.reg .pred add;\nsetp.ne.b32 add, %6, 0;\n"                                                          \
        "wgmma.mma_async.sync.aligned.m64n8k16.f32." type "." type                                               \
        " {%0, %1, %2, %3}, %4, %5, add, 1, 1, %7, 0;\n}\n"                                                      \
        : SIREN_ACCUMULATORS_4(0)                                                                                \
        : "l"(a), "l"(b), "r"(int(add)), "n"(int(major)))
template <Major major>
__device__ inline void wgmma_8(float (&accumulators)[4], uint64_t a, uint64_t b, bool add, __half) {
    SIREN_WGMMA_8("f16");
}
template <Major major>
__device__ inline void wgmma_8(float (&accumulators)[4], uint64_t a, uint64_t b, bool add, __nv_bfloat16) {
    SIREN_WGMMA_8("bf16");
}
// The same for a B of 64 or 128 columns; A's rows run along k, and `right` says which B's do.
#define SIREN_WGMMA_64(type)                                                                                     \
    asm volatile(                                                                                                \
        "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"                                                         \
        "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {"                                         \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                 \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"                         \
        "}, %32, %33, add, 1, 1, 0, %35;\n}\n"                                                                   \
        : SIREN_ACCUMULATORS_32(0)                                                                               \
        : "l"(a), "l"(b), "r"(int(add)), "n"(int(right)))
#define SIREN_WGMMA_128(type)                                                                                    \
    asm volatile(                                                                                                \
        "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"                                                         \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {"                                        \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                 \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                       \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                       \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"                         \
        "}, %64, %65, add, 1, 1, 0, %67;\n}\n"                                                                   \
        : SIREN_ACCUMULATORS_32(0), SIREN_ACCUMULATORS_32(32)                                                    \
        : "l"(a), "l"(b), "r"(int(add)), "n"(int(right)))
template <Major right>
__device__ inline void wgmma_tile(float (&accumulators)[32], uint64_t a, uint64_t b, bool add, __half) {
    SIREN_WGMMA_64("f16");
}
template <Major right>
__device__ inline void wgmma_tile(float (&accumulators)[32], uint64_t a, uint64_t b, bool add, __nv_bfloat16) {
    SIREN_WGMMA_64("bf16");
}
template <Major right>
__device__ inline void wgmma_tile(float (&accumulators)[64], uint64_t a, uint64_t b, bool add, __half) {
    SIREN_WGMMA_128("f16");
}
template <Major right>
__device__ inline void wgmma_tile(float (&accumulators)[64], uint64_t a, uint64_t b, bool add, __nv_bfloat16) {
    SIREN_WGMMA_128("bf16");
}
#undef SIREN_ACCUMULATORS_4
#undef SIREN_ACCUMULATORS_16
#undef SIREN_ACCUMULATORS_32
#undef SIREN_WGMMA_256
#undef SIREN_WGMMA_8
#undef SIREN_WGMMA_64
#undef SIREN_WGMMA_128

}  // namespace
}  // namespace gpu
}  // namespace siren
