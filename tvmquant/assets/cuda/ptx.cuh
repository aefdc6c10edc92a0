// The instructions that CUDA C++ has no words for. Everything else of the kernels is plain C++, so
// that a host compiler can run them with another file in this one's place.
#ifndef TVMQUANT_PTX
#define TVMQUANT_PTX
#include <cuda_runtime.h>
#include <stdint.h>

namespace tvmquant {

// What a product of fragments multiplies: unsigned activations by signed weights, or bits.
enum Product { U8S8, U4S4, BITS_XOR, BITS_AND };

__device__ __forceinline__ unsigned shared_address(const void *pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// BYTES (4, 8 or 16) from global to shared memory, behind the back of the registers.
template <int BYTES>
__device__ __forceinline__ void copy_async(void *to, const void *from) {
#if __CUDA_ARCH__ >= 800
  if constexpr (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_address(to)), "l"(from),
                 "n"(BYTES)
                 : "memory");
  }
#else
  if constexpr (BYTES == 16) *static_cast<uint4 *>(to) = *static_cast<const uint4 *>(from);
  if constexpr (BYTES == 8) *static_cast<uint2 *>(to) = *static_cast<const uint2 *>(from);
  if constexpr (BYTES == 4) *static_cast<unsigned *>(to) = *static_cast<const unsigned *>(from);
#endif
}

__device__ __forceinline__ void copy_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until at most PENDING of the committed groups are under way.
template <int PENDING>
__device__ __forceinline__ void copy_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// Four 8x16-byte matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(unsigned (&r)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// Four products of an unsigned and a signed byte, and a sum.
__device__ __forceinline__ int add_dot(unsigned a, unsigned b, int c) {
  int sum;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
  return sum;
}

#define TVMQUANT_MMA16(SHAPE, TYPES, TAIL)                                                      \
  asm volatile("mma.sync.aligned." SHAPE ".row.col.s32." TYPES ".s32" TAIL                      \
               " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                         \
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])                                 \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

#define TVMQUANT_MMA8(SHAPE, TYPES, TAIL)                                                       \
  asm volatile("mma.sync.aligned." SHAPE ".row.col.s32." TYPES ".s32" TAIL                      \
               " {%0,%1}, {%2}, {%3}, {%0,%1};"                                                 \
               : "+r"(c0), "+r"(c1)                                                             \
               : "r"(a), "r"(b))

// One 8x8 product of a word of K a lane.
template <Product P>
__device__ __forceinline__ void multiply_8(int &c0, int &c1, unsigned a, unsigned b) {
  if constexpr (P == U8S8) TVMQUANT_MMA8("m8n8k16", "u8.s8", "");
  if constexpr (P == U4S4) TVMQUANT_MMA8("m8n8k32", "u4.s4", "");
  if constexpr (P == BITS_XOR) TVMQUANT_MMA8("m8n8k128", "b1.b1", ".xor.popc");
}

// c[16x8] += a[16 x 8 words] * b[8 words x 8]: 32 bytes, 64 nibbles or 256 bits of K. From sm_80.
template <Product P>
__device__ __forceinline__ void multiply_16(int (&c)[4], const unsigned (&a)[4],
                                            const unsigned (&b)[2]) {
  if constexpr (P == U8S8) TVMQUANT_MMA16("m16n8k32", "u8.s8", "");
  if constexpr (P == U4S4) TVMQUANT_MMA16("m16n8k64", "u4.s4", "");
  if constexpr (P == BITS_XOR) TVMQUANT_MMA16("m16n8k256", "b1.b1", ".xor.popc");
  if constexpr (P == BITS_AND) TVMQUANT_MMA16("m16n8k256", "b1.b1", ".and.popc");
}

// Sixteen bytes that are read once. A load that is known to be of constants would move behind
// barriers.
__device__ __forceinline__ uint4 load_stream(const uint4 *from) {
  uint4 r;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
               : "l"(from)
               : "memory");
  return r;
}

// What another launch may have written while this one was already there: not from the cache of
// constants, and not before launch_wait().
__device__ __forceinline__ float4 load_fresh(const float4 *from) {
  float4 r;
  asm volatile("ld.global.cg.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(r.x), "=f"(r.y), "=f"(r.z), "=f"(r.w)
               : "l"(from)
               : "memory");
  return r;
}

__device__ __forceinline__ float load_fresh(const float *from) {
  float r;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(r) : "l"(from) : "memory");
  return r;
}

// BYTES, a multiple of 16, will soon be read: into the second cache. Nothing before sm_90.
__device__ __forceinline__ void prefetch_bulk(const void *from, int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
#endif
}

// Launches that may start early (schedules/cuda/launch.py): the one behind this one may, once all
// blocks have said so; and until the ones before have ended, with all that they wrote.
__device__ __forceinline__ void launch_next() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ void launch_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// c[16x8] += a[16 x 32 bytes] * b[32 bytes x 8], both signed. From sm_80.
__device__ __forceinline__ void multiply_bytes(int (&c)[4], const unsigned (&a)[4], uint2 pair) {
  const unsigned b[2] = {pair.x, pair.y};
  TVMQUANT_MMA16("m16n8k32", "s8.s8", "");
}

}  // namespace tvmquant
#endif
