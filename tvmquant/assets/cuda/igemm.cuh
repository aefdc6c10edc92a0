// Integer convolution as a matrix product: rows are output pixels, columns output channels, K runs
// over the taps and input channels. A matrix product is the convolution of one tap.
//
// A block computes BLOCK_M x BLOCK_N outputs, a warp WARP_M x WARP_N of them. K goes through
// shared memory in STAGES slots of BLOCK_K bytes a row, 16-byte chunks of a row swapped so that
// ldmatrix meets no bank twice. A byte is an activation, whatever its bits, and they are packed
// behind ldmatrix; or another kernel packed them before, and a byte holds as many as it can.
// STEP_K are the bytes of a product of fragments and W_BITS the bits of weights for a byte.
// Weights were packed in the order of the fragments: a slot is one contiguous piece of memory.
//
// Where outputs are few, SLICES sets of warps have a part of every slot each and add their sums.
#ifndef TVMQUANT_IGEMM
#define TVMQUANT_IGEMM
#include "epilogue.cuh"
#include "loader.cuh"

namespace tvmquant {

// Fragments of activations: STEP_K bytes of 16 rows, packed to 8 words a row.
template <class S>
__device__ __forceinline__ void load_rows(unsigned (&a)[4], const uint8_t *slot, int first, int k) {
  const int lane = threadIdx.x % 32;
  const int row = first + lane % 16;
  constexpr int PARTS = S::STEP_K / 32;
#pragma unroll
  for (int part = 0; part < PARTS; ++part) {
    unsigned r[4];
    load_matrices(r, slot + chunk_offset<S>(row, (k + part * 32) / 16 + lane / 16));
    // A product and a sum are one instruction, a shift and an OR are two.
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = part == 0 ? r[i] : r[i] * (1u << part * (8 / PARTS)) + a[i];
  }
}

// Weights of fewer than 8 bits as signed bytes, multiplied by 2^SCALE_BITS of the packing: their
// bits go to the upper end of every byte. FIELD counts from the word's lowest bits.
template <int BITS>
__device__ __forceinline__ unsigned unpack(unsigned word, int field) {
  constexpr unsigned MASK = BITS == 4 ? 0xF0F0F0F0u : BITS == 2 ? 0xC0C0C0C0u : 0x80808080u;
  const unsigned top = (word << (8 - BITS * (field + 1))) & MASK;
  return BITS == 1 ? top | 0x40404040u : top;
}

// The product of fragments, of four smaller ones where the architecture has only those.
template <class S>
__device__ __forceinline__ void multiply(int (&c)[4], const unsigned (&a)[4],
                                         const unsigned (&b)[2]) {
  if constexpr (S::WIDE) {
    multiply_16<S::PRODUCT>(c, a, b);
  } else {
    multiply_8<S::PRODUCT>(c[0], c[1], a[0], b[0]);
    multiply_8<S::PRODUCT>(c[2], c[3], a[1], b[0]);
    multiply_8<S::PRODUCT>(c[0], c[1], a[2], b[1]);
    multiply_8<S::PRODUCT>(c[2], c[3], a[3], b[1]);
  }
}

template <class S>
struct Weights {
  static constexpr bool UNPACKED = S::PRODUCT == U8S8 && S::W_BITS < 8;
  // Sums are larger by 2^SHIFT.
  static constexpr int SHIFT = !UNPACKED ? 0 : S::W_BITS == 4 ? 4 : 6;
};

// Set bits of the words of a row: pairs of equal bits count two, what is left goes on.
struct Ones {
  int pairs = 0;
  unsigned rest = 0;

  __device__ __forceinline__ void add(unsigned a, unsigned b) {
    pairs += __popc((rest & a) | (rest & b) | (a & b));
    rest ^= a ^ b;
  }
  __device__ __forceinline__ int sum() const { return 2 * pairs + __popc(rest); }
};

// The tile of outputs that this block computes. Columns first: neighbouring blocks share
// activations. Where waves of blocks would read all weights again and again, they go over a BAND of
// rows of tiles together, column by column.
template <class S>
struct Tile {
  static constexpr int BLOCKS_M =
      (S::BATCH * S::OUT_H * S::OUT_W + S::BLOCK_M - 1) / S::BLOCK_M;
  static constexpr int BLOCKS_N = (S::OUTPUTS / S::GROUPS + S::BLOCK_N - 1) / S::BLOCK_N;
  int m, n;

  __device__ __forceinline__ Tile() {
    if constexpr (S::BAND == 1) {
      n = blockIdx.x % BLOCKS_N;
      m = blockIdx.x / BLOCKS_N;
    } else {
      const int first = blockIdx.x / (S::BAND * BLOCKS_N) * S::BAND;
      const int at = blockIdx.x % (S::BAND * BLOCKS_N);
      // The last band may have fewer rows.
      const int height = BLOCKS_M % S::BAND == 0 ? S::BAND : min(S::BAND, BLOCKS_M - first);
      n = at / height;
      m = first + at % height;
    }
  }
};

template <class S>
using Sums = int[Epilogue<S>::FRAGMENTS_M][Epilogue<S>::FRAGMENTS_N][4];

// Sums of a block over the iterations from FIRST on; the slots are free then.
template <class S>
__device__ __forceinline__ Place sums_of_block(Sums<S> &acc, const uint8_t *__restrict__ x,
                                               const uint8_t *__restrict__ w, int zero_point,
                                               int first, int count, uint8_t *shared) {
  constexpr int FRAGMENTS_M = S::WARP_M / 16, FRAGMENTS_N = S::WARP_N / 8;
  constexpr int WARPS_N = S::BLOCK_N / S::WARP_N, WARPS = S::THREADS / 32 / S::SLICES;
  constexpr int ITERATIONS = (Loader<S>::DEPTH + S::BLOCK_K - 1) / S::BLOCK_K;
  constexpr int STEPS = S::BLOCK_K / S::STEP_K / S::SLICES;
  constexpr int OUTPUTS = Epilogue<S>::OUTPUTS;
  constexpr int BLOCKS_N = Tile<S>::BLOCKS_N;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % WARPS;
  const int slice = S::SLICES > 1 ? threadIdx.x / 32 / WARPS : 0;
  const int warp_m = warp / WARPS_N, warp_n = warp % WARPS_N;
  const Tile<S> own;
  const int block_n = own.n, block_m = own.m;
  const int group = blockIdx.y;

  const Loader<S, true> loader(x, block_m, group, zero_point);
  const uint8_t *weights =
      w + int64_t(group * BLOCKS_N + block_n) * ITERATIONS * Shared<S>::W;
  uint8_t *const xs = shared, *const ws = shared + S::STAGES * Shared<S>::X;

  auto fetch = [&](int turn) {
    if (turn < count) {
      const int slot = turn % S::STAGES;
      loader.load(xs + slot * Shared<S>::X, first + turn);
      const uint8_t *from = weights + int64_t(first + turn) * Shared<S>::W;
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

  Ones ones[FRAGMENTS_M][2];  // of the rows, where products are ANDs
#pragma unroll
  for (int i = 0; i < S::STAGES - 1; ++i) fetch(i);
  loader.clear(xs);

#pragma unroll 1
  for (int turn = 0; turn < count; ++turn) {
    copy_wait<S::STAGES - 2>();
    __syncthreads();
    fetch(turn + S::STAGES - 1);
    const int slot = turn % S::STAGES;
    const uint8_t *const tile = xs + slot * Shared<S>::X;
    const unsigned *const words = reinterpret_cast<const unsigned *>(ws + slot * Shared<S>::W);
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
      unsigned a[FRAGMENTS_M][4], b[FRAGMENTS_N][2];
#pragma unroll
      for (int i = 0; i < FRAGMENTS_M; ++i) {
        load_rows<S>(a[i], tile, warp_m * S::WARP_M + i * 16,
                     (slice * STEPS + step) * S::STEP_K);
      }
#pragma unroll
      for (int j = 0; j < FRAGMENTS_N; ++j) {
        const int column = warp_n * FRAGMENTS_N + j;
        if constexpr (Weights<S>::UNPACKED) {
          // A word has the weights of SHARED steps.
          constexpr int SHARED = 4 / S::W_BITS;
          const int at = (slice * (STEPS / SHARED) + step / SHARED) * (S::BLOCK_N / 8) + column;
          const unsigned word = words[at * 32 + lane];
          const int field = step % SHARED * 2;
          b[j][0] = unpack<S::W_BITS>(word, field);
          b[j][1] = unpack<S::W_BITS>(word, field + 1);
        } else {
          const int at = (slice * STEPS + step) * (S::BLOCK_N / 8) + column;
          const uint2 pair = reinterpret_cast<const uint2 *>(words)[at * 32 + lane];
          b[j][0] = pair.x;
          b[j][1] = pair.y;
        }
      }
#pragma unroll
      for (int i = 0; i < FRAGMENTS_M; ++i) {
#pragma unroll
        for (int j = 0; j < FRAGMENTS_N; ++j) multiply<S>(acc[i][j], a[i], b[j]);
        if constexpr (S::PRODUCT == BITS_AND) {
          ones[i][0].add(a[i][0], a[i][2]);
          ones[i][1].add(a[i][1], a[i][3]);
        }
      }
    }
  }

  // sum(x w) with w = 1 - 2 b is sum(x) - 2 sum(x & b), which is sum(x ^ b) - sum(b); there the
  // last sum is part of the bias.
  if constexpr (S::PRODUCT == BITS_AND) {
#pragma unroll
    for (int i = 0; i < FRAGMENTS_M; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int sum = ones[i][half].sum();
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
#pragma unroll
        for (int j = 0; j < FRAGMENTS_N; ++j) {
          acc[i][j][half * 2] = sum - 2 * acc[i][j][half * 2];
          acc[i][j][half * 2 + 1] = sum - 2 * acc[i][j][half * 2 + 1];
        }
      }
    }
  }

  const Place place{block_m * S::BLOCK_M, block_n * S::BLOCK_N, group * OUTPUTS,
                    warp_m * S::WARP_M,   warp_n * S::WARP_N,   slice,
                    warp};
  __syncthreads();  // the slots have been read: their memory is free
  if constexpr (S::SLICES > 1) add_slices<S>(acc, place, shared);
  return place;
}

template <class S>
__device__ __forceinline__ void igemm(const uint8_t *__restrict__ x, const uint8_t *__restrict__ w,
                                      const int *__restrict__ bias, const int *__restrict__ p0,
                                      const int *__restrict__ p1, const int *__restrict__ qinfo,
                                      const uint8_t *__restrict__ other,
                                      typename Result<S::FLAVOUR>::Type *__restrict__ out,
                                      uint8_t *shared) {
  constexpr int ITERATIONS = (Loader<S>::DEPTH + S::BLOCK_K - 1) / S::BLOCK_K;
  Sums<S> acc = {};
  const Place place = sums_of_block<S>(acc, x, w, qinfo[0], 0, ITERATIONS, shared);
  uint8_t *const tile = shared + Epilogue<S>::PARTS;
  store<S, Weights<S>::SHIFT>(acc, place, bias, p0, p1, qinfo, other, out, tile);
}

}  // namespace tvmquant
#endif
