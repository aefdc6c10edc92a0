// Integer convolution as a matrix product on Hopper's products of four warps (a warpgroup). They
// run beside the threads' own instructions: rows are output channels, columns are output pixels.
//
// A block computes BLOCK_N channels of BLOCK_M pixels, a warpgroup WARP_N channels (a tile for
// every 64) of WARP_M pixels. Activations lie in shared memory as in igemm.cuh, in the swizzle that
// the products read. Weights come from registers, where fewer bits become bytes, or from shared
// memory. Two channels of a fragment are neighbours: the weights were packed that way.
#ifndef TVMQUANT_WARPGROUP
#define TVMQUANT_WARPGROUP
#include "igemm.cuh"
#include "wgmma.cuh"

namespace tvmquant {

// Weights in registers: a slot's K comes in two parts, so that one is unpacked while products use
// the other. A thread has BYTES of a tile's part, PIECE of them together.
template <class S>
struct Part {
  static constexpr int COUNT = S::IN_REGISTERS ? 2 : 1;
  static constexpr int STEPS = S::BLOCK_K / 32 / COUNT;
  static constexpr int BYTES = STEPS * 16 * S::W_BITS / 8;
  static constexpr int PIECE = BYTES < 16 ? BYTES : 16;
  static constexpr int TILES = S::WARP_N / 64;
  static_assert(!S::IN_REGISTERS || BYTES >= 4, "whole words of weights");
};

// A thread's rows of one part of one tile: four words of every step.
template <class S>
__device__ __forceinline__ void load_part(unsigned (&a)[Part<S>::STEPS][4], const uint8_t *slot,
                                          int tile, int part) {
  using P = Part<S>;
  unsigned words[P::BYTES / 4];
#pragma unroll
  for (int piece = 0; piece < P::BYTES / P::PIECE; ++piece) {
    const int at = (tile * P::COUNT + part) * (P::BYTES / P::PIECE) + piece;
    const auto from = reinterpret_cast<const Vector<P::PIECE> *>(slot)[at * 128 + threadIdx.x % 128];
#pragma unroll
    for (int i = 0; i < P::PIECE / 4; ++i) words[piece * (P::PIECE / 4) + i] = from.words[i];
  }
#pragma unroll
  for (int r = 0; r < P::STEPS * 4; ++r) {
    const unsigned word = words[r * S::W_BITS / 8];
    if constexpr (S::W_BITS == 8) {
      a[r / 4][r % 4] = word;
    } else {
      a[r / 4][r % 4] = unpack<S::W_BITS>(word, r % (8 / S::W_BITS));
    }
  }
}

template <class S>
__device__ __forceinline__ void warpgroup_gemm(
    const uint8_t *__restrict__ x, const uint8_t *__restrict__ w, const int *__restrict__ bias,
    const int *__restrict__ p0, const int *__restrict__ p1, const int *__restrict__ qinfo,
    const uint8_t *__restrict__ other, typename Result<S::FLAVOUR>::Type *__restrict__ out,
    uint8_t *shared) {
  using P = Part<S>;
  constexpr int ITERATIONS = (Loader<S>::DEPTH + S::BLOCK_K - 1) / S::BLOCK_K;
  constexpr int OUTPUTS = S::OUTPUTS / S::GROUPS;
  constexpr int BLOCKS_N = (OUTPUTS + S::BLOCK_N - 1) / S::BLOCK_N;
  // Slots that are being filled while one is read and another may still be.
  constexpr int AHEAD = S::STAGES - 2;
  const int warpgroup = uniform(threadIdx.x / 128);
  const int group_m = warpgroup / (S::BLOCK_N / S::WARP_N);
  const int group_n = warpgroup % (S::BLOCK_N / S::WARP_N);
  const int block_n = blockIdx.x % BLOCKS_N, block_m = blockIdx.x / BLOCKS_N;
  const int group = blockIdx.y;

  // The swizzle goes by the address: slots start where its pattern does.
  shared += -shared_address(shared) & 1023;
  uint8_t *const xs = shared, *const ws = shared + S::STAGES * Shared<S>::X;
  const unsigned x_address = shared_address(xs) + group_m * S::WARP_M * S::BLOCK_K;
  const unsigned w_address = shared_address(ws) + group_n * S::WARP_N * S::BLOCK_K;

  const Loader<S> loader(x, block_m, group, qinfo[0]);
  const uint8_t *weights = w + int64_t(group * BLOCKS_N + block_n) * ITERATIONS * Shared<S>::W;

  auto fetch = [&](int iteration) {
    if (iteration < ITERATIONS) {
      const int slot = iteration % S::STAGES;
      loader.load(xs + slot * Shared<S>::X, iteration);
      const uint8_t *from = weights + int64_t(iteration) * Shared<S>::W;
#pragma unroll
      for (int i = 0; i < (Shared<S>::W / 16 + S::THREADS - 1) / S::THREADS; ++i) {
        const int at = (i * S::THREADS + threadIdx.x) * 16;
        if (Shared<S>::W / 16 % S::THREADS == 0 || at < Shared<S>::W) {
          copy_async<16>(ws + slot * Shared<S>::W + at, from + at);
        }
      }
    }
    copy_commit();
  };

  int acc[P::TILES][S::WARP_M / 2] = {};
  unsigned a[P::COUNT][P::TILES][P::STEPS][4];
#pragma unroll
  for (int i = 0; i < AHEAD; ++i) fetch(i);

  for (int iteration = 0; iteration < ITERATIONS; ++iteration) {
    copy_wait<AHEAD - 1>();
    fence_async();
    __syncthreads();
    const int slot = iteration % S::STAGES;
    const uint64_t columns = matrix_descriptor<S::BLOCK_K>(x_address + slot * Shared<S>::X);
#pragma unroll
    for (int part = 0; part < P::COUNT; ++part) {
      if constexpr (S::IN_REGISTERS) {
#pragma unroll
        for (int i = 0; i < P::TILES; ++i) {
          load_part<S>(a[part][i], ws + slot * Shared<S>::W, group_n * P::TILES + i, part);
        }
      }
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < P::STEPS; ++step) {
        const uint64_t b = columns + (part * P::STEPS + step) * 2;
#pragma unroll
        for (int i = 0; i < P::TILES; ++i) {
          if constexpr (S::IN_REGISTERS) {
            Wgmma<S::WARP_M>::multiply(acc[i], a[part][i][step], b);
          } else {
            const unsigned tile = w_address + slot * Shared<S>::W + i * 64 * S::BLOCK_K;
            Wgmma<S::WARP_M>::multiply(acc[i], matrix_descriptor<S::BLOCK_K>(tile) + step * 2, b);
          }
        }
      }
      wgmma_commit();
      // The slot before the previous one has been read by all: they waited for it.
      if (part == P::COUNT - 1) fetch(iteration + AHEAD);
      wgmma_wait<1>();
    }
  }
  wgmma_wait<0>();

  constexpr int SHIFT = S::W_BITS == 8 ? 0 : S::W_BITS == 4 ? 4 : 6;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const Place place{block_m * S::BLOCK_M, block_n * S::BLOCK_N, group * OUTPUTS,
                    group_m * S::WARP_M,  group_n * S::WARP_N,  0,
                    0};
  __syncthreads();  // the slots have been read: their memory is free
  const Sink<S> to = sink<S>(place, qinfo, other, out, shared);
#pragma unroll
  for (int i = 0; i < P::TILES; ++i) {
    const int column = place.column + i * 64 + warp * 16 + lane / 4 * 2;
    const Constants constants = constants_of<S>(place, column, bias, p0, p1);
#pragma unroll
    for (int j = 0; j < S::WARP_M / 4; ++j) {
      // Numbers 4 q + 2 h + s are channel h of pixel s of a pair, q goes on by eight pixels.
      const int at = j / 2 * 4 + j % 2, row = place.row + j / 2 * 8 + lane % 4 * 2 + j % 2;
      to.template put<SHIFT>(acc[i][at], acc[i][at + 2], constants, row, column);
    }
  }
  to.finish();
}

}  // namespace tvmquant
#endif
