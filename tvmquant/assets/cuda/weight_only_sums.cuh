// Products of a warp's weights and digits (weight_only_digits.cuh), and what becomes of their sums:
// a unit's sum is exact, then it gets the steps of its rows and the scales of its channels.
#ifndef TVMQUANT_WEIGHT_ONLY_SUMS
#define TVMQUANT_WEIGHT_ONLY_SUMS
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
struct UnitSums {
  using D = Digits<S>;
  static constexpr int LOADS = D::SPAN * S::W_BITS / 256;  // vectors of a lane in a span of a tile
  static constexpr int PER_LOAD = 8 / S::W_BITS;           // steps of 32 elements in a vector
  static constexpr int STEPS = S::UNIT / 32;
  static constexpr int SHIFT = 8 - S::W_BITS;  // weights are larger by so many bits
  static constexpr int HEIGHT = S::WARPS_M * S::TILES;
  static constexpr int CHANNELS = HEIGHT * 16;
  // Of pairs: two rows, the upper (even lanes) and lower halves of the activations of two channels.
  // Of planes: eight rows, two of which a lane has of two channels.
  static constexpr int GROUPS = D::PLANES ? S::ROWS / 8 : D::SETS, EACH = D::PLANES ? 4 : 2;
  using Acc = float[S::TILES][GROUPS][EACH];

  // What a warp reads for a span.
  struct Piece {
    uint4 weights[S::TILES][LOADS];
    float2 scale[S::TILES][S::SPAN_UNITS];
    int zero[S::TILES][S::ZERO_POINTS ? S::SPAN_UNITS : 1];
  };

  const unsigned *words;
  const float4 *steps;
  const float *sums;
  int lane;

  __device__ __forceinline__ UnitSums(const uint8_t *memory, int own_lane)
      : words(reinterpret_cast<const unsigned *>(memory)),
        steps(reinterpret_cast<const float4 *>(memory + D::WORDS)),
        sums(reinterpret_cast<const float *>(memory + D::WORDS + D::STEPS)), lane(own_lane) {}

  __device__ static __forceinline__ float scale_of(const Piece &piece, int tile, int u, int half) {
    return (half == 0 ? piece.scale[tile][u].x : piece.scale[tile][u].y) * LARGER;
  }
  // Of the weights as they are multiplied.
  __device__ static __forceinline__ float minus_zero(const Piece &piece, int tile, int u, int half) {
    const int both = piece.zero[tile][u];
    return float(-(half == 0 ? int8_t(both) : both >> 8) * (1 << SHIFT));
  }

  // Adds the products of a span of the chunk.
  __device__ __forceinline__ void add(Acc &acc, const Piece &piece, int span) const {
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
      for (int group = 0; group < GROUPS; ++group) {
        if constexpr (D::PLANES) {
          add_planes(acc, a, piece, u, unit, group);
        } else {
          add_pair(acc, a, piece, u, unit, group);
        }
      }
    }
  }

  // Sums of SETS sets of columns, from FIRST on.
  template <int SETS>
  __device__ __forceinline__ void multiply(int (&c)[SETS][S::TILES][4],
                                           const unsigned (&a)[S::TILES][STEPS][4], int unit,
                                           int first) const {
    const int column = lane / 4 % D::COLUMNS, place = lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < SETS * S::TILES * 4; ++j) c[j / 4 / S::TILES][j / 4 % S::TILES][j % 4] = MAGIC_BITS;
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
#pragma unroll
      for (int set = 0; set < SETS; ++set) {
        const int at = D::at(unit * STEPS + s, first + set, column, place);
        const uint2 b = *reinterpret_cast<const uint2 *>(words + at);
#pragma unroll
        for (int m = 0; m < S::TILES; ++m) multiply_bytes(c[set][m], a[m][s], b);
      }
    }
  }

  __device__ __forceinline__ void add_pair(Acc &acc, const unsigned (&a)[S::TILES][STEPS][4],
                                           const Piece &piece, int u, int unit, int pair) const {
    int c[1][S::TILES][4];
    multiply<1>(c, a, unit, pair);
    const int half = D::COLUMNS == 8 ? lane % 4 / 2 : 0;  // which row of the pair
    const int row = unit * S::ROWS + pair * 2 + half;
    const float4 step = steps[row];
    const float sum = S::ZERO_POINTS ? sums[row * 2 + lane % 2] : 0.0f;
#pragma unroll
    for (int m = 0; m < S::TILES; ++m) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        // Steps are powers of two. The first one is exact: MAGIC goes away with the second one's.
        const float upper = fmaf(__int_as_float(c[0][m][i * 2]), step.x, step.y);
        float value = fmaf(__int_as_float(c[0][m][i * 2 + 1]), step.z, upper);
        if constexpr (S::ZERO_POINTS) value = fmaf(minus_zero(piece, m, u, i), sum, value);
        acc[m][pair][i] = fmaf(value, scale_of(piece, m, u, i), acc[m][pair][i]);
      }
    }
  }

  __device__ __forceinline__ void add_planes(Acc &acc, const unsigned (&a)[S::TILES][STEPS][4],
                                             const Piece &piece, int u, int unit,
                                             int group) const {
    int c[3][S::TILES][4];
    multiply<3>(c, a, unit, group * 3);
    const int row = unit * S::ROWS + group * 8 + lane % 4 * 2;
    const float4 step[2] = {steps[row], steps[row + 1]};
    float2 sum = {0.0f, 0.0f};
    if constexpr (S::ZERO_POINTS) sum = *reinterpret_cast<const float2 *>(sums + row);
#pragma unroll
    for (int m = 0; m < S::TILES; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        // Multiples of 65536 steps, exact; of 256, rounded; then whole numbers.
        const float4 &by = step[i % 2];
        const float high = fmaf(__int_as_float(c[0][m][i]), by.x, by.y);
        const float middle = fmaf(__int_as_float(c[1][m][i]), by.z, high);
        float value = fmaf(__int_as_float(c[2][m][i]), by.w, middle);
        if constexpr (S::ZERO_POINTS) {
          value = fmaf(minus_zero(piece, m, u, i / 2), i % 2 == 0 ? sum.x : sum.y, value);
        }
        acc[m][group][i] = fmaf(value, scale_of(piece, m, u, i / 2), acc[m][group][i]);
      }
    }
  }

  // What a warp has summed, as [ROWS][CHANNELS]; WARP_M says which channels.
  __device__ static __forceinline__ void store(const Acc &acc, float *parts, int warp_m) {
    constexpr float UPPER = 65536.0f / (1 << SHIFT), LOWER = 1.0f / (1 << SHIFT);
    const int lane = threadIdx.x % 32;
    const bool odd = lane % 2;
#pragma unroll
    for (int m = 0; m < S::TILES; ++m) {
      const int channel = (warp_m * S::TILES + m) * 16 + lane / 4;
#pragma unroll
      for (int group = 0; group < GROUPS; ++group) {
        if constexpr (D::PLANES) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int row = group * 8 + lane % 4 * 2 + i % 2;
            parts[row * CHANNELS + channel + i / 2 * 8] = acc[m][group][i] * LOWER;
          }
        } else {
          // Both halves together: even lanes have the channels of the first eight, odd ones those
          // of the last.
          const float given = odd ? acc[m][group][0] : acc[m][group][1];
          const float got = __shfl_xor_sync(0xFFFFFFFFu, given, 1);
          const float upper = odd ? got : acc[m][group][0], lower = odd ? acc[m][group][1] : got;
          const int half = lane % 4 / 2;
          if (S::ROWS > 1 || half == 0) {
            parts[(group * 2 + half) * CHANNELS + channel + odd * 8] =
                fmaf(upper, UPPER, lower * LOWER);
          }
        }
      }
    }
  }
};

}  // namespace tvmquant
#endif
