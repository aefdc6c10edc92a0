// Matrix products of four warps, of sm_90a. The products themselves, one for every width, are
// written by schedules/cuda/warpgroup.py; what is here is around them.
#ifndef TVMQUANT_WGMMA
#define TVMQUANT_WGMMA
#include "ptx.cuh"

namespace tvmquant {

// Products of 64 rows by COLUMNS: s32 sums of s8 rows (in registers or shared memory) by u8 columns
// (in shared memory) over 32 bytes of K.
template <int COLUMNS>
struct Wgmma;

// What this thread has written to shared memory becomes visible to products and bulk copies, once
// a barrier has told the threads that start them.
__device__ __forceinline__ void fence_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Registers that products take were written before this.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Until at most PENDING of the committed groups are under way.
template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// A warpgroup gives registers back, or waits for more: COUNT a thread, a multiple of 8.
template <int COUNT>
__device__ __forceinline__ void registers_down() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

template <int COUNT>
__device__ __forceinline__ void registers_up() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// The same in all lanes of a warp, and the compiler knows it.
__device__ __forceinline__ int uniform(int value) { return __shfl_sync(0xFFFFFFFFu, value, 0); }

// Descriptor of a matrix of rows of ROW_BYTES in shared memory whose 16-byte chunks are swapped by
// the row (loader.cuh): the hardware's swizzle, which goes by the address. Bits 32 to 45 are the
// way to the next eight rows, bits 62 and 63 the form of the swizzle. Adding 2 goes 32 bytes on.
template <int ROW_BYTES>
__device__ __forceinline__ uint64_t matrix_descriptor(unsigned address) {
  static_assert(ROW_BYTES == 128 || ROW_BYTES == 64, "rows as wide as a swizzle");
  constexpr uint64_t REST = uint64_t(1) << 16 | uint64_t(8 * ROW_BYTES / 16) << 32 |
                            uint64_t(ROW_BYTES == 128 ? 1 : 2) << 62;
  return REST | (address & 0x3FFFF) >> 4;
}

// Barriers in shared memory, on which warps with different tasks wait for each other: a phase ends
// when COUNT threads have arrived and all bytes that were announced have come.
__device__ __forceinline__ void barrier_init(uint64_t *barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count)
               : "memory");
}

__device__ __forceinline__ void barrier_arrive(uint64_t *barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

// BYTES, a multiple of 16, come from global memory without going through registers; the barrier
// gets to know how many they are, which counts as one arrival, and when they have come.
__device__ __forceinline__ void copy_bulk(void *to, const void *from, int bytes,
                                          uint64_t *barrier) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   shared_address(barrier)),
               "r"(bytes)
               : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

// Until the phase of this parity has ended; the first one's is 0.
__device__ __forceinline__ void barrier_wait(uint64_t *barrier, int parity) {
  unsigned ended = 0;
  while (!ended) {
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(ended)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  }
}

}  // namespace tvmquant
#endif
