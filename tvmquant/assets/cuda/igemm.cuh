// Integer convolution as a matrix product: rows are output pixels, columns output channels, K runs
// over the taps and input channels. A matrix product is the convolution of one tap.
//
// A block computes BLOCK_M x BLOCK_N outputs, a warp WARP_M x WARP_N of them. K goes through
// shared memory in STAGES slots of BLOCK_K elements. Activations lie there as bytes, whatever
// their bits, 16-byte chunks of a row swapped so that ldmatrix meets no bank twice. Weights were
// packed in the order of the fragments: a slot is one contiguous piece of global memory.
#ifndef TVMQUANT_IGEMM
#define TVMQUANT_IGEMM
#include "ptx.cuh"
#include "requantize.cuh"

namespace tvmquant {

// Bytes of shared memory of a slot's activations and weights, and of the whole block.
template <class S>
struct Shared {
  static constexpr int X = S::BLOCK_M * S::BLOCK_K;
  static constexpr int W = S::BLOCK_N * S::BLOCK_K * S::W_BITS / 8;
  static constexpr int PIPELINE = S::STAGES * (X + W);
};

// Byte offset of a 16-byte chunk of a row of activations in a slot.
template <class S>
__device__ __forceinline__ int chunk_offset(int row, int chunk) {
  constexpr int CHUNKS = S::BLOCK_K / 16;
  constexpr int ROWS_A_LINE = CHUNKS >= 8 ? 1 : 8 / CHUNKS;
  constexpr int MASK = CHUNKS >= 8 ? 7 : CHUNKS - 1;
  return row * S::BLOCK_K + ((chunk ^ ((row / ROWS_A_LINE) & MASK)) * 16);
}

// Brings activations of a slot in. A thread has one vector of VECTOR bytes of every STEP-th row.
template <class S>
struct Loader {
  static constexpr int THREADS = S::THREADS;
  static constexpr int VECTORS = S::BLOCK_K / S::VECTOR;
  static constexpr int STEP = THREADS / VECTORS > 0 ? THREADS / VECTORS : 1;
  static constexpr int ROWS = S::BLOCK_M / STEP;
  static_assert(THREADS % VECTORS == 0 && S::BLOCK_M % STEP == 0, "threads must share the tile");
  static constexpr int CHANNELS = S::CHANNELS / S::GROUPS;
  static constexpr int DEPTH = S::KERNEL_H * S::KERNEL_W * CHANNELS;

  // Single bytes leave no room for so many rows: those are found anew for every slot.
  static constexpr bool KEPT = S::VECTOR >= 4;
  static constexpr int SAVED = KEPT ? ROWS : 1;

  struct Row {
    const uint8_t *image;
    int top, left;
  };
  Row rows[SAVED];
  const uint8_t *base;
  int vector, row, first_pixel;
  unsigned padding;

  __device__ __forceinline__ Loader(const uint8_t *x, int block_m, int group, int zero_point) {
    vector = threadIdx.x % VECTORS;
    row = threadIdx.x / VECTORS;
    padding = unsigned(zero_point) * 0x01010101u;
    base = x + group * CHANNELS;
    first_pixel = block_m * S::BLOCK_M + row;
    if constexpr (KEPT) {
#pragma unroll
      for (int i = 0; i < ROWS; ++i) rows[i] = find(i);
    }
  }

  __device__ __forceinline__ Row find(int i) const {
    const int pixel = first_pixel + i * STEP;
    const int ow = pixel % S::OUT_W, oh = pixel / S::OUT_W % S::OUT_H;
    const int64_t n = pixel / (S::OUT_W * S::OUT_H);
    // Rows beyond the last pixel compute what nobody stores: outside of every image.
    const bool used = pixel < S::BATCH * S::OUT_H * S::OUT_W;
    return {base + n * (S::HEIGHT * S::WIDTH * S::CHANNELS),
            used ? oh * S::STRIDE_H - S::PAD_TOP : -(1 << 28), ow * S::STRIDE_W - S::PAD_LEFT};
  }

  __device__ __forceinline__ void load(uint8_t *slot, int iteration) const {
    const int k = iteration * S::BLOCK_K + vector * S::VECTOR;
    const int tap = k / CHANNELS, channel = k % CHANNELS;
    const int dh = tap / S::KERNEL_W * S::DILATION_H, dw = tap % S::KERNEL_W * S::DILATION_W;
    // Weights beyond the last tap are zero; single bits have no zero, so the input must be.
    const unsigned word = k < DEPTH ? padding : 0;
#pragma unroll(KEPT ? ROWS : 4)
    for (int i = 0; i < ROWS; ++i) {
      const Row at = KEPT ? rows[KEPT ? i : 0] : find(i);
      uint8_t *to = slot + chunk_offset<S>(row + i * STEP, vector * S::VECTOR / 16) +
                    vector * S::VECTOR % 16;
      const int h = at.top + dh, w = at.left + dw;
      const bool inside = unsigned(h) < unsigned(S::HEIGHT) && unsigned(w) < unsigned(S::WIDTH);
      const uint8_t *from = at.image + (h * S::WIDTH + w) * S::CHANNELS + channel;
      if constexpr (KEPT) {
        if (inside && k < DEPTH) {
          copy_async<S::VECTOR>(to, from);
        } else {
#pragma unroll
          for (int j = 0; j < S::VECTOR / 4; ++j) reinterpret_cast<unsigned *>(to)[j] = word;
        }
      } else {
        *to = inside && k < DEPTH ? *from : uint8_t(word);
      }
    }
  }
};

// Fragments of activations: BYTES_A_STEP bytes of K of 16 rows, packed to 8 words a row.
template <class S>
__device__ __forceinline__ void load_rows(unsigned (&a)[4], const uint8_t *slot, int first, int k) {
  const int lane = threadIdx.x % 32;
  const int row = first + lane % 16;
  constexpr int PARTS = S::STEP_K / 32;
#pragma unroll
  for (int part = 0; part < PARTS; ++part) {
    unsigned r[4];
    load_matrices(r, slot + chunk_offset<S>(row, (k + part * 32) / 16 + lane / 16));
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = part == 0 ? r[i] : a[i] | r[i] << (part * (8 / PARTS));
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

template <class S>
__device__ __forceinline__ void igemm(const uint8_t *__restrict__ x, const uint8_t *__restrict__ w,
                                      const int *__restrict__ bias, const int *__restrict__ p0,
                                      const int *__restrict__ p1, const int *__restrict__ qinfo,
                                      typename Result<S::FLAVOUR>::Type *__restrict__ out,
                                      uint8_t *shared) {
  using Out = typename Result<S::FLAVOUR>::Type;
  constexpr int FRAGMENTS_M = S::WARP_M / 16, FRAGMENTS_N = S::WARP_N / 8;
  constexpr int WARPS_N = S::BLOCK_N / S::WARP_N;
  constexpr int ITERATIONS = (Loader<S>::DEPTH + S::BLOCK_K - 1) / S::BLOCK_K;
  constexpr int STEPS = S::BLOCK_K / S::STEP_K;
  constexpr int OUTPUTS = S::OUTPUTS / S::GROUPS;
  constexpr int BLOCKS_N = (OUTPUTS + S::BLOCK_N - 1) / S::BLOCK_N;
  constexpr bool UNPACKED = S::PRODUCT == U8S8 && S::W_BITS < 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_m = warp / WARPS_N, warp_n = warp % WARPS_N;
  // Neighbouring blocks share activations: columns first.
  const int block_n = blockIdx.x % BLOCKS_N, block_m = blockIdx.x / BLOCKS_N;
  const int group = blockIdx.y;

  const Loader<S> loader(x, block_m, group, qinfo[0]);
  const uint8_t *weights =
      w + int64_t(group * BLOCKS_N + block_n) * ITERATIONS * Shared<S>::W;
  uint8_t *const xs = shared, *const ws = shared + S::STAGES * Shared<S>::X;

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

  int acc[FRAGMENTS_M][FRAGMENTS_N][4] = {};
  int ones[FRAGMENTS_M][2] = {};  // set bits of the rows, where products are ANDs
#pragma unroll
  for (int i = 0; i < S::STAGES - 1; ++i) fetch(i);

  for (int iteration = 0; iteration < ITERATIONS; ++iteration) {
    copy_wait<S::STAGES - 2>();
    __syncthreads();
    fetch(iteration + S::STAGES - 1);
    const int slot = iteration % S::STAGES;
    const uint8_t *const tile = xs + slot * Shared<S>::X;
    const unsigned *const words = reinterpret_cast<const unsigned *>(ws + slot * Shared<S>::W);
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
      unsigned a[FRAGMENTS_M][4], b[FRAGMENTS_N][2];
#pragma unroll
      for (int i = 0; i < FRAGMENTS_M; ++i) {
        load_rows<S>(a[i], tile, warp_m * S::WARP_M + i * 16, step * S::STEP_K);
      }
#pragma unroll
      for (int j = 0; j < FRAGMENTS_N; ++j) {
        const int column = warp_n * FRAGMENTS_N + j;
        if constexpr (UNPACKED) {
          // A word has the weights of FIELDS / 2 steps.
          constexpr int FIELDS = 8 / S::W_BITS;
          const int at = step / (FIELDS / 2) * (S::BLOCK_N / 8) + column;
          const unsigned word = words[at * 32 + lane];
          const int field = step % (FIELDS / 2) * 2;
          b[j][0] = unpack<S::W_BITS>(word, field);
          b[j][1] = unpack<S::W_BITS>(word, field + 1);
        } else {
          const int at = step * (S::BLOCK_N / 8) + column;
          const uint2 pair = reinterpret_cast<const uint2 *>(words)[at * 32 + lane];
          b[j][0] = pair.x;
          b[j][1] = pair.y;
        }
      }
#pragma unroll
      for (int i = 0; i < FRAGMENTS_M; ++i) {
#pragma unroll
        for (int j = 0; j < FRAGMENTS_N; ++j) multiply<S::PRODUCT>(acc[i][j], a[i], b[j]);
        if constexpr (S::PRODUCT == BITS_AND) {
          ones[i][0] += __popc(a[i][0]) + __popc(a[i][2]);
          ones[i][1] += __popc(a[i][1]) + __popc(a[i][3]);
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
        int sum = ones[i][half];
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

  const Range range{qinfo[1], qinfo[2], qinfo[3]};
  constexpr int SHIFT = !UNPACKED ? 0 : S::W_BITS == 4 ? 4 : 6;
  constexpr int PIXELS = S::BATCH * S::OUT_H * S::OUT_W;
#pragma unroll
  for (int j = 0; j < FRAGMENTS_N; ++j) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int inner = block_n * S::BLOCK_N + warp_n * S::WARP_N + j * 8 + lane % 4 * 2 + side;
      const bool stored = inner < OUTPUTS;
      const int channel = group * OUTPUTS + (stored ? inner : 0);
      const int offset = bias[channel];
      const int first = S::PARAMS > 0 ? p0[channel] : 0, second = S::PARAMS > 1 ? p1[channel] : 0;
#pragma unroll
      for (int i = 0; i < FRAGMENTS_M; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int pixel =
              block_m * S::BLOCK_M + warp_m * S::WARP_M + i * 16 + half * 8 + lane / 4;
          const int sum = int(unsigned(acc[i][j][half * 2 + side] >> SHIFT) + unsigned(offset));
          const Out value = requantize<S::FLAVOUR>(sum, first, second, range);
          if (stored && pixel < PIXELS) out[int64_t(pixel) * S::OUTPUTS + channel] = value;
        }
      }
    }
  }
}

}  // namespace tvmquant
#endif
