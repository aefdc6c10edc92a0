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
    // As a conversion rounds it, which would take several times as long: added to 1.5 * 2^23, whose
    // lowest bits are zeros, small numbers become its lowest bits.
    return uint8_t(__float_as_int(__fadd_rn(kept, 12582912.0f)) + out.zero_point);
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

// A residual addition: the numbers of tvmquant/schedules/linear/addition.py, which follow the four
// of every layer. What it adds to is the layer's own output, already clamped.
struct Addition {
  Range range;
  int own_zero_point, own, other, offset, p0, p1;

  // Layers without one do not have its numbers.
  __device__ __forceinline__ explicit Addition(const int *qinfo, bool there = true)
      : range{there ? qinfo[4] : 0, there ? qinfo[5] : 0, there ? qinfo[6] : 0},
        own_zero_point(there ? qinfo[1] : 0),
        own(there ? qinfo[7] : 0),
        other(there ? qinfo[8] : 0),
        offset(there ? qinfo[9] : 0),
        p0(there ? qinfo[10] : 0),
        p1(there ? qinfo[11] : 0) {}

  template <Flavour F>
  __device__ __forceinline__ uint8_t sum(int a, int b) const {
    return requantize<F>((a - own_zero_point) * own + b * other + offset, p0, p1, range);
  }

  // Of the four bytes of two words.
  template <Flavour F>
  __device__ __forceinline__ unsigned sum_4(unsigned a, unsigned b) const {
    unsigned sums = 0;
#pragma unroll
    for (int at = 0; at < 32; at += 8) sums |= unsigned(sum<F>(a >> at & 255, b >> at & 255)) << at;
    return sums;
  }
};

// Bytes that are read and written together.
template <int BYTES>
struct alignas(BYTES) Vector {
  unsigned words[BYTES / 4];
};

}  // namespace tvmquant
#endif
