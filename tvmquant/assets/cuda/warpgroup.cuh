// Integer convolution as a matrix product on Hopper's products of four warps (a warpgroup). They
// run beside the threads' own instructions: rows are output channels, columns are output pixels.
//
// A block computes BLOCK_N channels of BLOCK_M pixels, a warpgroup WARP_N channels (a tile for
// every 64) of WARP_M pixels. Where there are PRODUCERS, the first warpgroup only brings slots in.
// Activations lie in shared memory as in igemm.cuh, in the swizzle that the products read. Weights
// come from registers, where fewer bits become bytes, or from shared memory. Two channels of a
// fragment are neighbours: the weights were packed that way.
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
    const auto *const pieces = reinterpret_cast<const Vector<P::PIECE> *>(slot);
    const auto from = pieces[at * 128 + threadIdx.x % 128];
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

// The threads that bring slots in.
template <class S>
struct Feeding : S {
  static constexpr int THREADS = S::PRODUCERS ? 128 : S::THREADS;
};

// What the warpgroups of a block share of the work, and where.
template <class S>
struct Team {
  using P = Part<S>;
  static constexpr int ITERATIONS = (Loader<Feeding<S>>::DEPTH + S::BLOCK_K - 1) / S::BLOCK_K;
  static constexpr int OUTPUTS = S::OUTPUTS / S::GROUPS;
  static constexpr int BLOCKS_N = (OUTPUTS + S::BLOCK_N - 1) / S::BLOCK_N;
  using Sums = int[P::TILES][S::WARP_M / 2];
  using Rows = unsigned[P::COUNT][P::TILES][P::STEPS][4];

  int group_m, group_n, block_m, block_n, group;
  uint8_t *xs, *ws;
  unsigned x_address, w_address;

  // NUMBER of this warpgroup among those that multiply.
  __device__ __forceinline__ Team(uint8_t *shared, int number) {
    group_m = number / (S::BLOCK_N / S::WARP_N);
    group_n = number % (S::BLOCK_N / S::WARP_N);
    const Tile<S> own;
    block_n = own.n;
    block_m = own.m;
    group = blockIdx.y;
    xs = shared;
    ws = shared + S::STAGES * Shared<S>::X;
    x_address = shared_address(xs) + group_m * S::WARP_M * S::BLOCK_K;
    w_address = shared_address(ws) + group_n * S::WARP_N * S::BLOCK_K;
  }

  __device__ __forceinline__ const uint8_t *weights(const uint8_t *w) const {
    return w + int64_t(group * BLOCKS_N + block_n) * ITERATIONS * Shared<S>::W;
  }

  // Starts a slot's products. FREED is called when those of the slot before have ended, STARTED
  // when all of this one's have begun; the last part of them is still under way at the end.
  template <class Freed, class Started>
  __device__ __forceinline__ void multiply(Sums &acc, Rows &a, int slot, const Freed &freed,
                                           const Started &started) const {
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
      if (part == P::COUNT - 1) started();
      wgmma_wait<1>();
      if (part == 0) freed();
    }
  }
};

// All threads bring slots in and multiply.
template <class S>
__device__ __forceinline__ void multiply_together(typename Team<S>::Sums &acc, const Team<S> &team,
                                                  const uint8_t *__restrict__ x,
                                                  const uint8_t *__restrict__ w, int zero_point) {
  // Slots that are being filled while one is read and another may still be.
  constexpr int AHEAD = S::STAGES - 2;
  const Loader<Feeding<S>> loader(x, team.block_m, team.group, zero_point);
  const uint8_t *weights = team.weights(w);
  auto fetch = [&](int iteration) {
    if (iteration < Team<S>::ITERATIONS) {
      const int slot = iteration % S::STAGES;
      loader.load(team.xs + slot * Shared<S>::X, iteration);
      const uint8_t *from = weights + int64_t(iteration) * Shared<S>::W;
#pragma unroll
      for (int i = 0; i < (Shared<S>::W / 16 + S::THREADS - 1) / S::THREADS; ++i) {
        const int at = (i * S::THREADS + threadIdx.x) * 16;
        if (Shared<S>::W / 16 % S::THREADS == 0 || at < Shared<S>::W) {
          copy_async<16>(team.ws + slot * Shared<S>::W + at, from + at);
        }
      }
    }
    copy_commit();
  };
#pragma unroll
  for (int i = 0; i < AHEAD; ++i) fetch(i);

  typename Team<S>::Rows a;
  for (int iteration = 0; iteration < Team<S>::ITERATIONS; ++iteration) {
    copy_wait<AHEAD - 1>();
    fence_async();
    __syncthreads();
    // The slot before the previous one has been read by all: they waited for it.
    team.multiply(acc, a, iteration % S::STAGES, [] {}, [&] { fetch(iteration + AHEAD); });
  }
  wgmma_wait<0>();
}

// The first warpgroup brings slots in, the others multiply and USE the sums, each in a branch of
// its own: with REGISTERS, those of the first one go to the others.
template <class S, class Use>
__device__ __forceinline__ void multiply_fed(const Team<S> &team, const uint8_t *__restrict__ x,
                                             const uint8_t *__restrict__ w, int zero_point,
                                             bool feeds, const Use &use) {
  // Slots that are on their way while the next one is asked for.
  constexpr int LAG = S::STAGES - 2;
  uint64_t *const full = reinterpret_cast<uint64_t *>(team.xs + Shared<S>::PIPELINE);
  uint64_t *const empty = full + S::STAGES;
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < S::STAGES; ++slot) {
      barrier_init(full + slot, 128 + 1);
      barrier_init(empty + slot, S::THREADS / 32 - 4);
    }
    fence_async();
  }
  __syncthreads();
  if (feeds) {
    if constexpr (S::REGISTERS > 0) registers_down<S::REGISTERS_LEFT>();
    const Loader<Feeding<S>> loader(x, team.block_m, team.group, zero_point);
    const uint8_t *weights = team.weights(w);
    auto arrive = [&](int iteration) {
      fence_async();
      barrier_arrive(full + iteration % S::STAGES);
    };
    for (int iteration = 0; iteration < Team<S>::ITERATIONS; ++iteration) {
      const int slot = iteration % S::STAGES;
      if (iteration >= S::STAGES) barrier_wait(empty + slot, (iteration / S::STAGES - 1) & 1);
      if (threadIdx.x == 0) {
        copy_bulk(team.ws + slot * Shared<S>::W, weights + int64_t(iteration) * Shared<S>::W,
                  Shared<S>::W, full + slot);
      }
      loader.load(team.xs + slot * Shared<S>::X, iteration);
      copy_commit();
      copy_wait<LAG>();
      if (iteration >= LAG) arrive(iteration - LAG);
    }
    copy_wait<0>();
    constexpr int LEFT = Team<S>::ITERATIONS < LAG ? Team<S>::ITERATIONS : LAG;
#pragma unroll
    for (int i = LEFT; i > 0; --i) arrive(Team<S>::ITERATIONS - i);
    __syncthreads();
  } else {
    if constexpr (S::REGISTERS > 0) registers_up<S::REGISTERS>();
    typename Team<S>::Sums acc = {};
    typename Team<S>::Rows a;
    for (int iteration = 0; iteration < Team<S>::ITERATIONS; ++iteration) {
      const int slot = iteration % S::STAGES;
      barrier_wait(full + slot, iteration / S::STAGES & 1);
      auto freed = [&] {
        if (iteration > 0 && threadIdx.x % 32 == 0) {
          barrier_arrive(empty + (iteration - 1) % S::STAGES);
        }
      };
      team.multiply(acc, a, slot, freed, [] {});
    }
    wgmma_wait<0>();
    __syncthreads();  // the slots have been read: their memory is free
    use(acc);
  }
}

template <class S>
__device__ __forceinline__ void warpgroup_gemm(
    const uint8_t *__restrict__ x, const uint8_t *__restrict__ w, const int *__restrict__ bias,
    const int *__restrict__ p0, const int *__restrict__ p1, const int *__restrict__ qinfo,
    const uint8_t *__restrict__ other, typename Result<S::FLAVOUR>::Type *__restrict__ out,
    uint8_t *shared) {
  using P = Part<S>;
  // The swizzle goes by the address: slots start where its pattern does.
  shared += -shared_address(shared) & 1023;
  const int number = uniform(threadIdx.x / 128) - S::PRODUCERS;
  const Team<S> team(shared, number);

  constexpr int SHIFT = Weights<S>::SHIFT;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const Place place{team.block_m * S::BLOCK_M,
                    team.block_n * S::BLOCK_N,
                    team.group * Team<S>::OUTPUTS,
                    team.group_m * S::WARP_M,
                    team.group_n * S::WARP_N,
                    0,
                    0};
  const Sink<S> to = sink<S>(place, qinfo, other, out, shared);
  auto put = [&](const typename Team<S>::Sums &acc) {
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
  };
  if constexpr (S::PRODUCERS) {
    multiply_fed<S>(team, x, w, qinfo[0], number < 0, put);
  } else {
    typename Team<S>::Sums acc = {};
    multiply_together<S>(acc, team, x, w, qinfo[0]);
    __syncthreads();  // the slots have been read: their memory is free
    put(acc);
  }
  to.finish();
}

}  // namespace tvmquant
#endif
