// Float activations times integer weights with a scale for each group, on tensor cores: the first
// operand is 16 channels, the second the digits of the rows (weight_only_digits.cuh), so that all
// sums within a unit of K are exact. Made for few rows, where reading the weights is all the work.
//
// A span of K is as long as a unit or a vector of weights, whichever is longer. A warp has TILES
// tiles of channels and every WARPS_K-th span; the sums of warps meet in shared memory. Weights go
// from memory to registers, AHEAD spans before they are needed, straight on from one tile to the
// next: nothing waits for the activations but the first products.
#ifndef TVMQUANT_WEIGHT_ONLY_TENSOR
#define TVMQUANT_WEIGHT_ONLY_TENSOR
#include "weight_only_digits.cuh"

namespace tvmquant {

// Weights of one step of K, four a word, in the upper bits of signed bytes.
template <int BITS>
__device__ __forceinline__ unsigned upper_bits(unsigned word, int field) {
  if constexpr (BITS == 8) return word;
  constexpr unsigned MASK = BITS == 4 ? 0xF0F0F0F0u : 0xC0C0C0C0u;
  return (word << (8 - BITS * (field + 1))) & MASK;
}

template <class S>
struct WeightOnly {
  using D = Digits<S>;
  static constexpr int LOADS = D::SPAN * S::W_BITS / 256;  // vectors of a lane in a span of a tile
  static constexpr int PER_LOAD = 8 / S::W_BITS;           // steps of 32 elements in a vector
  static constexpr int STEPS = S::UNIT / 32;
  static constexpr int SHIFT = 8 - S::W_BITS;  // weights are larger by so many bits
  static constexpr int HEIGHT = S::WARPS_M * S::TILES;
  static constexpr int ALL_TILES = (S::OUTPUTS + 15) / 16;
  static constexpr int PLACES = (ALL_TILES + HEIGHT - 1) / HEIGHT;
  static constexpr int ITEM_ROUNDS = S::CHUNKS * S::ROUNDS;
  static constexpr bool WHOLE = ITEM_ROUNDS * S::WARPS_K == S::SPANS;
  static constexpr int CHANNELS = HEIGHT * 16;
  static constexpr int THREADS = S::WARPS_M * S::WARPS_K * 32;

  // What a warp reads for a span.
  struct Piece {
    uint4 weights[S::TILES][LOADS];
    float2 scale[S::TILES][S::SPAN_UNITS];
    int zero[S::TILES][S::ZERO_POINTS ? S::SPAN_UNITS : 1];
  };

  // Where a warp reads, the lane's part: its first tile and its next span.
  struct Cursor {
    const uint4 *weights;
    int tile, span;
  };

  const float2 *scale;
  const int16_t *zero_point;
  int lane, warp_k, warp_m;

  __device__ __forceinline__ int first_tile(int place) const {
    return place * HEIGHT + warp_m * S::TILES;
  }

  // On by AHEAD spans, or to the first span of the next place.
  __device__ __forceinline__ void advance(Cursor &cursor, bool last) const {
    constexpr int SPAN = LOADS * 32, STEP = S::AHEAD * S::WARPS_K;
    constexpr int BACK = (ITEM_ROUNDS - S::AHEAD) * S::WARPS_K, JUMP = S::BLOCKS * HEIGHT;
    cursor.weights += last ? int64_t(JUMP) * S::SPANS * SPAN - BACK * SPAN : STEP * SPAN;
    cursor.span += last ? -BACK : STEP;
    cursor.tile += last ? JUMP : 0;
  }

  // The span that is I rounds after the cursor's, if there is one. Tiles beyond the last one are it
  // again.
  __device__ __forceinline__ void fetch(Piece &piece, const Cursor &cursor, int i) const {
    const int on = i * S::WARPS_K, span = cursor.span + on;
    if (cursor.tile >= ALL_TILES || (!WHOLE && span >= S::SPANS)) return;
    int beyond[S::TILES];
#pragma unroll
    for (int m = 0; m < S::TILES; ++m) {
      beyond[m] = PLACES * HEIGHT == ALL_TILES ? 0 : max(cursor.tile + m - (ALL_TILES - 1), 0);
      const uint4 *const from = cursor.weights + on * (LOADS * 32) +
                                int64_t(m - beyond[m]) * (S::SPANS * LOADS * 32);
#pragma unroll
      for (int j = 0; j < LOADS; ++j) piece.weights[m][j] = load_stream(from + j * 32);
    }
#pragma unroll
    for (int m = 0; m < S::TILES; ++m) {
#pragma unroll
      for (int u = 0; u < S::SPAN_UNITS; ++u) {
        int group = (span * S::SPAN_UNITS + u) / S::GROUP_UNITS;
        constexpr bool FILLED = S::SPANS * S::SPAN_UNITS > S::GROUPS * S::GROUP_UNITS;
        if (FILLED) group = min(group, S::GROUPS - 1);
        const int at = ((cursor.tile + m - beyond[m]) * S::GROUPS + group) * 8 + lane / 4;
        piece.scale[m][u] = scale[at];
        if constexpr (S::ZERO_POINTS) piece.zero[m][u] = zero_point[at];
      }
    }
  }

  // Adds the products of a span; `acc` has upper (even lanes) and lower halves of the activations.
  __device__ __forceinline__ void add(float (&acc)[S::TILES][D::PAIRS][2], const Piece &piece,
                                      const uint8_t *memory, int span) const {
    constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23: sums up to 2^22 are its low bits
    constexpr int START = 0x4B400000;
    const unsigned *const words = reinterpret_cast<const unsigned *>(memory);
    const float *const steps = reinterpret_cast<const float *>(memory + D::WORDS);
    const float *const sums = reinterpret_cast<const float *>(memory + D::WORDS + D::STEPS);
    const int column = lane / 4 % D::COLUMNS, place = lane % 4 * 2;
    const int half = D::COLUMNS == 8 ? lane % 4 / 2 : 0;  // which row of a pair
#pragma unroll
    for (int u = 0; u < S::SPAN_UNITS; ++u) {
      unsigned a[S::TILES][STEPS][4];
#pragma unroll
      for (int m = 0; m < S::TILES; ++m) {
#pragma unroll
        for (int s = 0; s < STEPS; ++s) {
          const int step = u * STEPS + s;
          const uint4 read = piece.weights[m][step / PER_LOAD];
          a[m][s][0] = upper_bits<S::W_BITS>(read.x, step % PER_LOAD);
          a[m][s][1] = upper_bits<S::W_BITS>(read.y, step % PER_LOAD);
          a[m][s][2] = upper_bits<S::W_BITS>(read.z, step % PER_LOAD);
          a[m][s][3] = upper_bits<S::W_BITS>(read.w, step % PER_LOAD);
        }
      }
      const int unit = span * S::SPAN_UNITS + u;
#pragma unroll
      for (int pair = 0; pair < D::PAIRS; ++pair) {
        int c[S::TILES][4];
#pragma unroll
        for (int m = 0; m < S::TILES; ++m) {
#pragma unroll
          for (int i = 0; i < 4; ++i) c[m][i] = START;
        }
#pragma unroll
        for (int s = 0; s < STEPS; ++s) {
          const int at = D::at(unit * STEPS + s, pair, column, place);
          const uint2 b = *reinterpret_cast<const uint2 *>(words + at);
#pragma unroll
          for (int m = 0; m < S::TILES; ++m) multiply_bytes(c[m], a[m][s], b);
        }
        const int row = unit * S::ROWS + pair * 2 + half;
        const float step = steps[row];
        const float sum = S::ZERO_POINTS ? sums[row * 2 + lane % 2] : 0.0f;
#pragma unroll
        for (int m = 0; m < S::TILES; ++m) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const float upper = __int_as_float(c[m][i * 2]) - MAGIC;
            const float lower = __int_as_float(c[m][i * 2 + 1]) - MAGIC;
            float value = fmaf(upper, 256.0f, lower);
            if constexpr (S::ZERO_POINTS) {
              const int zero = i == 0 ? int8_t(piece.zero[m][u]) : piece.zero[m][u] >> 8;
              value = fmaf(float(-zero * (1 << SHIFT)), sum, value);
            }
            // The product with a power of two is exact: one rounding.
            const float factor = i == 0 ? piece.scale[m][u].x : piece.scale[m][u].y;
            acc[m][pair][i] = fmaf(value * step, factor, acc[m][pair][i]);
          }
        }
      }
    }
  }

  // Both halves together, [WARPS_K][ROWS][CHANNELS]. Even lanes have the channels of the first
  // eight, odd lanes those of the last.
  __device__ __forceinline__ void meet(const float (&acc)[S::TILES][D::PAIRS][2],
                                       float *parts) const {
    constexpr float UPPER = 65536.0f / (1 << SHIFT), LOWER = 1.0f / (1 << SHIFT);
    const bool odd = lane % 2;
#pragma unroll
    for (int m = 0; m < S::TILES; ++m) {
#pragma unroll
      for (int pair = 0; pair < D::PAIRS; ++pair) {
        const float given = odd ? acc[m][pair][0] : acc[m][pair][1];
        const float got = __shfl_xor_sync(0xFFFFFFFFu, given, 1);
        const float upper = odd ? got : acc[m][pair][0], lower = odd ? acc[m][pair][1] : got;
        const int half = lane % 4 / 2, row = pair * 2 + half;
        const int channel = (warp_m * S::TILES + m) * 16 + lane / 4 + odd * 8;
        if (S::ROWS > 1 || half == 0) {
          parts[(warp_k * S::ROWS + row) * CHANNELS + channel] =
              fmaf(upper, UPPER, lower * LOWER);
        }
      }
    }
  }
};

// What a block is given: activations, or the digits that another launch has made of them.
template <int APART>
struct Given {
  using Type = float;
};
template <>
struct Given<1> {
  using Type = uint8_t;
};

template <class S>
__device__ __forceinline__ void weight_only_tensor(const typename Given<S::APART>::Type *x,
                                                   const int *__restrict__ w,
                                                   const float *__restrict__ bias,
                                                   const float *__restrict__ scale,
                                                   const int8_t *__restrict__ zero_point,
                                                   float *__restrict__ out, uint8_t *shared) {
  using W = WeightOnly<S>;
  using D = Digits<S>;
  const int warp = threadIdx.x / 32;
  const W own{reinterpret_cast<const float2 *>(scale),
              reinterpret_cast<const int16_t *>(zero_point), int(threadIdx.x % 32),
              warp % S::WARPS_K, warp / S::WARPS_K};
  const int first_row = blockIdx.y * S::ROWS;
  float *const parts = reinterpret_cast<float *>(shared + (S::CHUNKS > 1 ? 2 : 1) * D::BYTES);

  const auto prepare = [&](int chunk, uint8_t *memory, const auto &meanwhile) {
    if constexpr (S::APART) {
      copy_digits<S>(x, chunk, memory);
      meanwhile();
    } else {
      make_digits<S, W::THREADS / 32>(x, first_row, chunk, warp, memory, meanwhile);
    }
  };

  typename W::Piece pieces[S::AHEAD];
  int place = blockIdx.x;
  typename W::Cursor cursor{nullptr, own.first_tile(place), own.warp_k};
  cursor.weights = reinterpret_cast<const uint4 *>(w) + own.lane +
                   (int64_t(cursor.tile) * S::SPANS + cursor.span) * (W::LOADS * 32);
  // Activations are asked for first, since all wait for them. Weights come next, in a loop of one
  // round (the grid has no depth): the compiler would move plain loads behind the barrier.
  prepare(0, shared, [&] {
#pragma unroll 1
    for (unsigned once = 0; once < gridDim.z; ++once) {
#pragma unroll
      for (int i = 0; i < S::AHEAD; ++i) own.fetch(pieces[i], cursor, i);
    }
  });
  if constexpr (S::APART) copy_wait<0>();
  __syncthreads();

  int slot = 0;  // of the digits, where they come in chunks
  for (int item = 0; place < W::PLACES; ++item) {
    const int next = place + S::BLOCKS;
    float acc[S::TILES][D::PAIRS][2] = {};
#pragma unroll 1
    for (int chunk = 0; chunk < S::CHUNKS; ++chunk) {
      const uint8_t *const digits = shared + slot * D::BYTES;
      if constexpr (S::CHUNKS > 1) {
        slot ^= 1;
        if (chunk + 1 < S::CHUNKS || next < W::PLACES) {
          prepare((chunk + 1) % S::CHUNKS, shared + slot * D::BYTES, [] {});
        }
      }
#pragma unroll 1
      for (int first = 0; first < S::ROUNDS; first += S::AHEAD) {
        own.advance(cursor, chunk + 1 == S::CHUNKS && first + S::AHEAD == S::ROUNDS);
#pragma unroll
        for (int i = 0; i < S::AHEAD; ++i) {
          const int span = (first + i) * S::WARPS_K + own.warp_k;
          if (W::WHOLE || chunk * D::CHUNK + span < S::SPANS) {
            own.add(acc, pieces[i], digits, span);
          }
          own.fetch(pieces[i], cursor, i);
        }
      }
      if constexpr (S::CHUNKS > 1) {
        if constexpr (S::APART) copy_wait<0>();
        __syncthreads();
      }
    }
    // Two places for the sums: warps that are ahead wait for the others once.
    float *const sums = parts + item % 2 * (S::WARPS_K * S::ROWS * W::CHANNELS);
    own.meet(acc, sums);
    __syncthreads();
    for (int at = threadIdx.x; at < S::ROWS * W::CHANNELS; at += W::THREADS) {
      const int row = first_row + at / W::CHANNELS;
      const int channel = place * W::CHANNELS + at % W::CHANNELS;
      if (row < S::BATCH && channel < S::OUTPUTS) {
        float sum = sums[at];
#pragma unroll
        for (int i = 1; i < S::WARPS_K; ++i) sum += sums[i * (S::ROWS * W::CHANNELS) + at];
        out[int64_t(row) * S::OUTPUTS + channel] = sum + bias[channel];
      }
    }
    place = next;
  }
}

}  // namespace tvmquant
#endif
