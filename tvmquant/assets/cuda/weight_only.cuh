// Float activations times integer weights with a scale for each group: a warp has one output
// channel, its lanes go along K. Made for few rows, where reading the weights is all the work.
#ifndef TVMQUANT_WEIGHT_ONLY
#define TVMQUANT_WEIGHT_ONLY
#include <stdint.h>

namespace tvmquant {

template <class S>
__device__ __forceinline__ void weight_only(const float *__restrict__ x,
                                            const unsigned *__restrict__ w,
                                            const float *__restrict__ bias,
                                            const float *__restrict__ scale,
                                            const int8_t *__restrict__ zero_point,
                                            float *__restrict__ out) {
  constexpr int CODES = 32 / S::W_BITS, WORDS = (S::DEPTH + CODES - 1) / CODES;
  constexpr int GROUPS = (S::DEPTH + S::GROUP - 1) / S::GROUP;
  const int lane = threadIdx.x % 32;
  const int channel = blockIdx.x * (S::THREADS / 32) + threadIdx.x / 32;
  const int first = blockIdx.y * S::ROWS;
  const int used = channel < S::OUTPUTS ? channel : 0;
  float acc[S::ROWS] = {};
  for (int word = lane; word < WORDS; word += 32) {
    const unsigned codes = w[int64_t(used) * WORDS + word];
#pragma unroll
    for (int i = 0; i < CODES; ++i) {
      const int k = word * CODES + i;
      if (k >= S::DEPTH) break;
      const int q = int(codes << (32 - S::W_BITS - i * S::W_BITS)) >> (32 - S::W_BITS);
      const int at = used * GROUPS + k / S::GROUP;
      const int zero = S::ZERO_POINTS ? zero_point[at] : 0;
      const float weight = float(q - zero) * scale[at];
#pragma unroll
      for (int row = 0; row < S::ROWS; ++row) {
        if (first + row < S::BATCH) acc[row] += x[int64_t(first + row) * S::DEPTH + k] * weight;
      }
    }
  }
#pragma unroll
  for (int row = 0; row < S::ROWS; ++row) {
    float sum = acc[row];
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, mask);
    if (lane == 0 && channel < S::OUTPUTS && first + row < S::BATCH) {
      out[int64_t(first + row) * S::OUTPUTS + channel] = sum + bias[channel];
    }
  }
}

}  // namespace tvmquant
#endif
