// Activations of a convolution on their way to shared memory, taps and padding sorted out.
#ifndef TVMQUANT_LOADER
#define TVMQUANT_LOADER
#include "ptx.cuh"

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

// Offsets in a tensor. Parts of a sum may be negative, the sum is not: words may wrap around.
template <bool SMALL>
struct Offset {
  using Type = unsigned;
};
template <>
struct Offset<false> {
  using Type = int64_t;
};

// Brings activations of a slot in. A thread has one vector of VECTOR bytes of every STEP-th row.
// PACKED activations (pack.cuh) are bytes like any, that hold several channels each. Padding is
// part of their images, and behind them lie zeros, so that all is copied. With SKIPS, rows that a
// lone block has no pixels for are not read: clear() makes them zeros once.
template <class S, bool SKIPS = false>
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

  // Whether taps never meet padding, and slots have no end of K in them.
  static constexpr bool INSIDE =
      S::PAD_TOP == 0 && S::PAD_LEFT == 0 &&
      (S::OUT_H - 1) * S::STRIDE_H + (S::KERNEL_H - 1) * S::DILATION_H < S::HEIGHT &&
      (S::OUT_W - 1) * S::STRIDE_W + (S::KERNEL_W - 1) * S::DILATION_W < S::WIDTH;
  static constexpr bool WHOLE = DEPTH % S::BLOCK_K == 0;
  static constexpr int PIXELS = S::BATCH * S::OUT_H * S::OUT_W;
  static constexpr bool FEW = SKIPS && PIXELS < S::BLOCK_M;

  // Offset of the first tap in the input, which may lie before its image, and its coordinates.
  static constexpr int64_t BYTES = int64_t(S::BATCH) * S::HEIGHT * S::WIDTH * S::CHANNELS;
  using Index = typename Offset<(BYTES + 16 < int64_t(1) << 32)>::Type;
  struct Row {
    Index offset;
    int top, left;
  };
  Row rows[SAVED];
  const uint8_t *x;
  int vector, row, first_pixel, first_channel;
  unsigned padding;

  __device__ __forceinline__ Loader(const uint8_t *input, int block_m, int group, int zero_point) {
    x = input;
    vector = threadIdx.x % VECTORS;
    row = threadIdx.x / VECTORS;
    padding = unsigned(zero_point) * 0x01010101u;
    first_channel = group * CHANNELS;
    first_pixel = block_m * S::BLOCK_M + row;
    if constexpr (KEPT) {
#pragma unroll
      for (int i = 0; i < ROWS; ++i) rows[i] = find(i);
    }
  }

  __device__ __forceinline__ Row find(int i) const {
    int pixel = first_pixel + i * STEP;
    if constexpr (INSIDE) pixel = min(pixel, PIXELS - 1);
    const int ow = pixel % S::OUT_W, oh = pixel / S::OUT_W % S::OUT_H;
    const int64_t n = pixel / (S::OUT_W * S::OUT_H);
    // Rows beyond the last pixel compute what nobody stores: outside of every image, or again.
    const bool used = pixel < PIXELS;
    const int top = oh * S::STRIDE_H - S::PAD_TOP, left = ow * S::STRIDE_W - S::PAD_LEFT;
    Row found{0, used ? top : -(1 << 28), left};
    found.offset = Index(((n * S::HEIGHT + top) * S::WIDTH + left) * S::CHANNELS);
    return found;
  }

  __device__ __forceinline__ void clear(uint8_t *slots) const {
    constexpr int CHUNKS = S::BLOCK_K / 16, EMPTY = FEW ? (S::BLOCK_M - PIXELS) * CHUNKS : 0;
    if constexpr (FEW) {
      for (int at = threadIdx.x; at < S::STAGES * EMPTY; at += THREADS) {
        uint8_t *const to = slots + at / EMPTY * Shared<S>::X + PIXELS * S::BLOCK_K;
        *reinterpret_cast<uint4 *>(to + at % EMPTY * 16) = uint4{0, 0, 0, 0};
      }
    }
  }

  __device__ __forceinline__ void load(uint8_t *slot, int iteration) const {
    const int k = iteration * S::BLOCK_K + vector * S::VECTOR;
    const int tap = DEPTH > CHANNELS ? k / CHANNELS : 0, channel = k - tap * CHANNELS;
    const int dh = tap / S::KERNEL_W * S::DILATION_H, dw = tap % S::KERNEL_W * S::DILATION_W;
    const Index first = Index(first_channel + (dh * S::WIDTH + dw) * S::CHANNELS + channel);
    // Weights beyond the last tap are zero; single bits have no zero, so the input must be.
    const bool real = WHOLE || k < DEPTH;
    const unsigned word = real ? padding : 0;
#pragma unroll(KEPT ? ROWS : 4)
    for (int i = 0; i < ROWS; ++i) {
      if (FEW && row + i * STEP >= PIXELS) continue;
      const Row at = KEPT ? rows[KEPT ? i : 0] : find(i);
      uint8_t *to = slot + chunk_offset<S>(row + i * STEP, vector * S::VECTOR / 16) +
                    vector * S::VECTOR % 16;
      const int h = at.top + dh, w = at.left + dw;
      const bool inside = INSIDE || (unsigned(h) < unsigned(S::HEIGHT) &&
                                     unsigned(w) < unsigned(S::WIDTH));
      const uint8_t *from = x + Index(first + at.offset);
      if constexpr (S::PACKED) {
        static_assert(INSIDE, "padding is part of packed images");
        copy_async<S::VECTOR>(to, real ? from : x + Index(BYTES));
      } else if constexpr (KEPT) {
        if (inside && real) {
          copy_async<S::VECTOR>(to, from);
        } else {
#pragma unroll
          for (int j = 0; j < S::VECTOR / 4; ++j) reinterpret_cast<unsigned *>(to)[j] = word;
        }
      } else {
        *to = inside && real ? *from : uint8_t(word);
      }
    }
  }
};

}  // namespace tvmquant
#endif
