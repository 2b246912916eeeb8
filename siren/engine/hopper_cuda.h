// What a Hopper processor (sm_90a) has beyond its predecessors, as functions: products by whole groups
// of four warps from operands in shared memory, bulk copies, and the barriers that go with them.
// Names and rules: PTX ISA, "Asynchronous warpgroup matrix instructions" and "mbarrier".
#pragma once

#include "tensor_cuda.h"

namespace siren {
namespace gpu {
namespace {

// ---- Barriers in shared memory --------------------------------------------------------------------------

__device__ inline void create_barrier(uint64_t* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(barrier)),
                 "r"(arrivals));
}

// Arrives, and makes the barrier wait for so many bytes of bulk copies.
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
__device__ inline void arrive_at(uint64_t* barrier, int rank) {
    asm volatile(
        "{\n.reg .b32 remote;\n"
        "mapa.shared::cluster.u32 remote, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}\n" ::"r"(
            shared_address(barrier)),
        "r"(rank)
        : "memory");
}

// Waits for the end of the barrier's phase of this parity.
__device__ inline void wait_for(uint64_t* barrier, unsigned parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n}\n" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}

// The same, leaving the processor to others in the meantime.
__device__ inline void wait_idly_for(uint64_t* barrier, unsigned parity) {
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
__device__ inline void wait_at(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;\n" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ inline void arrive_named(int barrier, int threads) {
    asm volatile("bar.arrive %0, %1;\n" ::"r"(barrier), "r"(threads) : "memory");
}

__device__ inline void wait_for_cluster() {
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n" ::: "memory");
}

// Makes barriers known to bulk copies and other blocks, before a wait_for_cluster().
__device__ inline void publish_barriers() {
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

// For stages that copies fill, after so many arrivals and their bytes, and products empty; by one thread.
__device__ inline void create_stage_barriers(uint64_t* full, uint64_t* empty, int stages, int filling,
                                             int emptying) {
    for (int i = 0; i < stages; ++i) {
        create_barrier(&full[i], filling);
        create_barrier(&empty[i], emptying);
    }
    publish_barriers();
}

// Registers of each thread, from now on; a multiple of 8. All groups of four warps must say so.
template <int count>
__device__ inline void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(count));
}
template <int count>
__device__ inline void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(count));
}

// ---- Bulk copies -------------------------------------------------------------------------------------------

// To the same place in shared memory of all blocks of the cluster in `mask`, whose barriers are told.
__device__ inline void copy_to_blocks(void* destination, const void* source, int bytes,
                                      uint64_t* barrier, unsigned mask) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1], %2, [%3], %4;\n" ::"r"(shared_address(destination)),
        "l"(source), "r"(bytes), "r"(shared_address(barrier)), "h"(uint16_t(mask))
        : "memory");
}

__device__ inline void copy_to_block(void* destination, const void* source, int bytes,
                                     uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(
            shared_address(destination)),
        "l"(source), "r"(bytes), "r"(shared_address(barrier))
        : "memory");
}

// From shared memory to the same place in that of block `rank` of the cluster, whose barrier is told.
__device__ inline void copy_to_other_block(const void* source, int bytes, uint64_t* barrier, int rank) {
    asm volatile(
        "{\n.reg .b32 remote, remote_barrier;\n"
        "mapa.shared::cluster.u32 remote, %0, %3;\n"
        "mapa.shared::cluster.u32 remote_barrier, %2, %3;\n"
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [remote], [%0], %1, "
        "[remote_barrier];\n}\n" ::"r"(shared_address(source)),
        "r"(bytes), "r"(shared_address(barrier)), "r"(rank)
        : "memory");
}

// A few bytes to shared memory, by the thread itself, as copy16() does; zeros if not `inside`.
template <int bytes>
__device__ inline void copy_or_clear(void* destination, const void* source, bool inside) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(shared_address(destination)),
                 "l"(source), "n"(bytes), "r"(inside ? bytes : 0)
                 : "memory");
}

// Without a branch, around which instructions could not be moved.
__device__ inline void store_if(bool condition, uint4* destination, const uint4& x) {
    asm volatile("{\n.reg .pred store;\nsetp.ne.b32 store, %5, 0;\n"
                 "@store st.global.cg.v4.b32 [%0], {%1,%2,%3,%4};\n}\n" ::"l"(destination),
                 "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w), "r"(int(condition)));
}

// To global memory, past what the L2 cache holds for others; one thread's copies are one after the other.
__device__ inline void copy_to_memory(void* destination, const void* source, int bytes) {
    asm volatile(
        "{\n.reg .b64 policy;\n"
        "createpolicy.fractional.L2::evict_first.b64 policy, 1.0;\n"
        "cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%0], [%1], %2, policy;\n"
        "cp.async.bulk.commit_group;\n}\n" ::"l"(destination),
        "r"(shared_address(source)), "r"(bytes)
        : "memory");
}
// Until the source of this thread's copies may be written again.
__device__ inline void wait_until_read() {
    asm volatile("cp.async.bulk.wait_group.read 0;\n" ::: "memory");
}
__device__ inline void wait_until_written() {
    asm volatile("cp.async.bulk.wait_group 0;\n" ::: "memory");
}

// What this thread has written to shared memory will be read by products and bulk copies.
__device__ inline void hand_to_copies() {
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

// ---- Operands in shared memory ------------------------------------------------------------------------------

// All operands are made of blocks with rows of 64 elements, 128 bytes, whose 16-byte pieces are
// exchanged: piece c of row r is at c ^ r % 8. Blocks start at multiples of 1024 bytes.
constexpr int block_columns = 64;

// A row is along the sum: eight rows of the operand, or of its transpose, are 1024 bytes.
__device__ inline uint64_t rows_operand(const void* block) {
    return uint64_t(shared_address(block) & 0x3ffff) >> 4 | uint64_t(1) << 16 |
           uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
// Rows are along the other direction, of which 64 are in a block and the next 64 in that
// `block_bytes` after it.
__device__ inline uint64_t columns_operand(const void* block, int block_bytes) {
    return uint64_t(shared_address(block) & 0x3ffff) >> 4 | uint64_t(block_bytes >> 4) << 16 |
           uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
// Eight columns, 16 along the sum: column n has element k at small_place(k, n); the next 16 follow.
constexpr int small_bytes = 256;
__host__ __device__ inline int small_place(int k, int n) {
    return k / 16 * 128 + k % 16 / 8 * 64 + n * 8 + k % 8;
}
__device__ inline uint64_t small_operand(const void* start) {
    return uint64_t(shared_address(start) & 0x3ffff) >> 4 | uint64_t(128 >> 4) << 16 |
           uint64_t(256 >> 4) << 32;
}
// An operand's address moved by so many bytes.
__device__ inline uint64_t operand_at(uint64_t operand, int bytes) { return operand + (bytes >> 4); }

// Four matrices of 8 x 8 elements, one in each register of a warp; lane 8 m + i has the address of row
// i of matrix m.
__device__ inline void store_matrices(uint32_t address, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};\n" ::"r"(address), "r"(a),
                 "r"(b), "r"(c), "r"(d));
}

// ---- Products -----------------------------------------------------------------------------------------------

__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ inline void commit_products() {
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
template <int pending>
__device__ inline void wait_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(pending) : "memory");
}

// sums = A B, or sums += A B, for a group of four warps: A has 64 rows, B twice as many columns as there
// are sums, and the sum is of 16. A thread has rows 16 w + l / 4 + 8 i and columns 8 j + l % 4 2 + k of
// warp w, lane l at sums[4 j + 2 i + k], i, k < 2. `columns`: operands are columns_operand()s.
#define SIREN_SUMS_8(x, i)                                                                      \
    "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3]), "+f"(x[i + 4]), "+f"(x[i + 5]), \
        "+f"(x[i + 6]), "+f"(x[i + 7])
#define SIREN_SUMS_32(x, i) \
    SIREN_SUMS_8(x, i), SIREN_SUMS_8(x, i + 8), SIREN_SUMS_8(x, i + 16), SIREN_SUMS_8(x, i + 24)
#define SIREN_PRODUCT_128(type)                                                                   \
    asm volatile(                                                                                 \
        "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"                                          \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {"                         \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                  \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "        \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "        \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"          \
        "}, %64, %65, add, 1, 1, %67, %67;\n}\n"                                                  \
        : SIREN_SUMS_32(sums, 0), SIREN_SUMS_32(sums, 32)                                         \
        : "l"(a), "l"(b), "r"(int(add)), "n"(int(columns)))
template <bool columns>
__device__ inline void multiply(float (&sums)[64], uint64_t a, uint64_t b, bool add, __half) {
    SIREN_PRODUCT_128("f16");
}
template <bool columns>
__device__ inline void multiply(float (&sums)[64], uint64_t a, uint64_t b, bool add, __nv_bfloat16) {
    SIREN_PRODUCT_128("bf16");
}
#define SIREN_PRODUCT_256(type)                                                                   \
    asm volatile(                                                                                 \
        "{\n.reg .pred add;\nsetp.ne.b32 add, %130, 0;\n"                                         \
        "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {"                         \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                  \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "        \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "        \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "        \
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "        \
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "        \
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "\
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"\
        "}, %128, %129, add, 1, 1, %131, %131;\n}\n"                                              \
        : SIREN_SUMS_32(sums, 0), SIREN_SUMS_32(sums, 32), SIREN_SUMS_32(sums, 64),               \
          SIREN_SUMS_32(sums, 96)                                                                 \
        : "l"(a), "l"(b), "r"(int(add)), "n"(int(columns)))
template <bool columns>
__device__ inline void multiply(float (&sums)[128], uint64_t a, uint64_t b, bool add, __half) {
    SIREN_PRODUCT_256("f16");
}
template <bool columns>
__device__ inline void multiply(float (&sums)[128], uint64_t a, uint64_t b, bool add, __nv_bfloat16) {
    SIREN_PRODUCT_256("bf16");
}
// The same with 8 columns; B is a small_operand(). `columns`: A is a columns_operand().
#define SIREN_PRODUCT_8(type)                                                                  \
    asm volatile(                                                                              \
        "{\n.reg .pred add;\nsetp.ne.b32 add, %6, 0;\n"                                        \
        "wgmma.mma_async.sync.aligned.m64n8k16.f32." type "." type                             \
        " {%0, %1, %2, %3}, %4, %5, add, 1, 1, %7, 0;\n}\n"                                    \
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                           \
        : "l"(a), "l"(b), "r"(int(add)), "n"(int(columns)))
template <bool columns>
__device__ inline void multiply_8(float (&sums)[4], uint64_t a, uint64_t b, bool add, __half) {
    SIREN_PRODUCT_8("f16");
}
template <bool columns>
__device__ inline void multiply_8(float (&sums)[4], uint64_t a, uint64_t b, bool add,
                                  __nv_bfloat16) {
    SIREN_PRODUCT_8("bf16");
}
#undef SIREN_SUMS_8
#undef SIREN_SUMS_32
#undef SIREN_PRODUCT_128
#undef SIREN_PRODUCT_256
#undef SIREN_PRODUCT_8

}  // namespace
}  // namespace gpu
}  // namespace siren
