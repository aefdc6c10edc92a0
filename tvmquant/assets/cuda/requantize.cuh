// From the int32 accumulator to the output: tvmquant.reference.requantize, bit for bit.
#ifndef TVMQUANT_REQUANTIZE
#define TVMQUANT_REQUANTIZE
#include <stdint.h>

namespace tvmquant {

enum Flavour { FLOAT, FIXED_POINT, POWER_OF_TWO, NONE, DEQUANTIZE };

template <Flavour F>
struct Result {
  using Type = uint8_t;
};
template <>
struct Result<NONE> {
  using Type = int;
};
template <>
struct Result<DEQUANTIZE> {
  using Type = float;
};

// Zero point and clamp of the output.
struct Range {
  int zero_point, low, high;
};

__device__ __forceinline__ int clamp_int(int value, int low, int high) {
  return max(low, min(value, high));
}

// The constants of one channel: as many words as the flavour has parameters.
template <Flavour F>
__device__ __forceinline__ typename Result<F>::Type requantize(int acc, int p0, int p1, Range out) {
  const int low = out.low - out.zero_point, high = out.high - out.zero_point;
  if constexpr (F == NONE) return acc;
  if constexpr (F == DEQUANTIZE) return __fmul_rn(__int2float_rn(acc), __int_as_float(p0));
  if constexpr (F == FLOAT) {
    // Bounds are integers: clamped before rounding is the same as after.
    const float scaled = __fmul_rn(__int2float_rn(acc), __int_as_float(p0));
    const float kept = fmaxf(fminf(scaled, float(high)), float(low));
    return uint8_t(__float2int_rn(kept) + out.zero_point);
  }
  if constexpr (F == FIXED_POINT) {
    const int64_t wide = (int64_t(acc) * p0 + (int64_t(1) << (p1 - 1))) >> p1;
    const int64_t kept = wide < low ? low : wide > high ? high : wide;
    return uint8_t(int(kept) + out.zero_point);
  }
  if constexpr (F == POWER_OF_TWO) {
    // The carry of the rounding is the last bit shifted out; beyond 2^14 all shifted left saturate.
    const int right = max(p0, 1);
    const int rounded = (acc >> right) + ((acc >> (right - 1)) & 1);
    const int left = clamp_int(acc, -(1 << 14), 1 << 14) << max(-p0, 0);
    return uint8_t(clamp_int(p0 > 0 ? rounded : left, low, high) + out.zero_point);
  }
}

}  // namespace tvmquant
#endif
