// Depthwise convolution of bytes: a thread computes VECTOR neighbouring channels of a few
// neighbouring pixels of a row. Weights lie by tap, then channel; or, with DOTS, by row of taps and
// channel, four taps a word, which meet four columns of the input at once.
#ifndef TVMQUANT_DEPTHWISE
#define TVMQUANT_DEPTHWISE
#include "ptx.cuh"
#include "requantize.cuh"

namespace tvmquant {

template <int BYTES>
struct Bytes {
  unsigned words[BYTES / 4];
  __device__ __forceinline__ int get(int i) const { return words[i / 4] >> (i % 4 * 8) & 255; }
};
template <>
struct Bytes<1> {
  uint8_t byte;
  __device__ __forceinline__ int get(int) const { return byte; }
};

// V neighbouring numbers, zeros if there are none.
template <int V>
__device__ __forceinline__ void load_numbers(int (&to)[V], const int *from, bool there) {
  if constexpr (V == 4) {
    Vector<16> some = {};
    if (there) some = *reinterpret_cast<const Vector<16> *>(from);
#pragma unroll
    for (int v = 0; v < V; ++v) to[v] = int(some.words[v]);
  } else {
#pragma unroll
    for (int v = 0; v < V; ++v) to[v] = there ? from[v] : 0;
  }
}

// Words of the same column, a byte a channel, become words of the same channel, a byte a column.
__device__ __forceinline__ void turn(unsigned (&to)[4], const unsigned (&from)[4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const unsigned left = __byte_perm(from[0], from[1], half ? 0x7362 : 0x5140);
    const unsigned right = __byte_perm(from[2], from[3], half ? 0x7362 : 0x5140);
    to[half * 2] = __byte_perm(left, right, 0x5410);
    to[half * 2 + 1] = __byte_perm(left, right, 0x7632);
  }
}

// A row of taps: VALUES are the columns of the input, four channels a word.
template <class S, int COLUMNS>
__device__ __forceinline__ void add_dots(int (&acc)[S::PIXELS][4],
                                         const unsigned (&values)[COLUMNS], const int8_t *w) {
  constexpr int WORDS = (COLUMNS + 3) / 4, GROUPS = (S::KERNEL_W + 3) / 4;
  unsigned weight[4 * GROUPS], bytes[WORDS + 1][4] = {};
#pragma unroll
  for (int i = 0; i < GROUPS; ++i) {
    const auto some = reinterpret_cast<const Vector<16> *>(w)[i];
#pragma unroll
    for (int j = 0; j < 4; ++j) weight[i * 4 + j] = some.words[j];
  }
#pragma unroll
  for (int q = 0; q < WORDS; ++q) {
    unsigned four[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) four[i] = q * 4 + i < COLUMNS ? values[q * 4 + i] : 0;
    turn(bytes[q], four);
  }
#pragma unroll
  for (int p = 0; p < S::PIXELS; ++p) {
#pragma unroll
    for (int group = 0; group < GROUPS; ++group) {
      const int first = p * S::STRIDE_W + group * 4;
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        const unsigned low = bytes[first / 4][v], high = bytes[first / 4 + 1][v];
        const unsigned word = __funnelshift_r(low, high, first % 4 * 8);
        acc[p][v] = add_dot(word, weight[v * GROUPS + group], acc[p][v]);
      }
    }
  }
}

template <class S>
__device__ __forceinline__ void depthwise(
    const uint8_t *__restrict__ x, const int8_t *__restrict__ w, const int *__restrict__ bias,
    const int *__restrict__ p0, const int *__restrict__ p1, const int *__restrict__ qinfo,
    const uint8_t *__restrict__ other, typename Result<S::FLAVOUR>::Type *__restrict__ out) {
  using Out = typename Result<S::FLAVOUR>::Type;
  constexpr int V = S::VECTOR, PIXELS = S::PIXELS, SPANS = (S::OUT_W + PIXELS - 1) / PIXELS;
  constexpr int COLUMNS = (PIXELS - 1) * S::STRIDE_W + (S::KERNEL_W - 1) * S::DILATION_W + 1;
  constexpr int PARTS = S::CHANNELS / V;
  const int64_t index = int64_t(blockIdx.x) * S::THREADS + threadIdx.x;
  if (index >= int64_t(S::BATCH) * S::OUT_H * SPANS * PARTS) return;
  const int channel = int(index % PARTS) * V;
  const int span = int(index / PARTS % SPANS) * PIXELS;
  const int oh = int(index / (int64_t(PARTS) * SPANS) % S::OUT_H);
  const int64_t n = index / (int64_t(PARTS) * SPANS * S::OUT_H);
  const int zero = qinfo[0];
  int acc[PIXELS][V], start[V], first[V], second[V];
  load_numbers(start, bias + channel, true);
#pragma unroll
  for (int v = 0; v < V; ++v) {
#pragma unroll
    for (int p = 0; p < PIXELS; ++p) acc[p][v] = start[v];
  }
#pragma unroll
  for (int kh = 0; kh < S::KERNEL_H; ++kh) {
    const int h = oh * S::STRIDE_H - S::PAD_TOP + kh * S::DILATION_H;
    const bool row = unsigned(h) < unsigned(S::HEIGHT);
    const uint8_t *line = x + ((n * S::HEIGHT + h) * S::WIDTH) * S::CHANNELS + channel;
    if constexpr (S::DOTS) {
      unsigned values[COLUMNS];
#pragma unroll
      for (int column = 0; column < COLUMNS; ++column) {
        const int at = span * S::STRIDE_W - S::PAD_LEFT + column;
        values[column] = unsigned(zero) * 0x01010101u;
        if (row && unsigned(at) < unsigned(S::WIDTH)) {
          values[column] = *reinterpret_cast<const unsigned *>(line + at * S::CHANNELS);
        }
      }
      constexpr int TAPS = (S::KERNEL_W + 3) / 4 * 4;
      add_dots<S>(acc, values, w + (kh * S::CHANNELS + channel) * TAPS);
      continue;
    }
    int8_t weight[S::KERNEL_W][V];
#pragma unroll
    for (int kw = 0; kw < S::KERNEL_W; ++kw) {
      const auto taps = *reinterpret_cast<const Bytes<V> *>(
          w + (kh * S::KERNEL_W + kw) * S::CHANNELS + channel);
#pragma unroll
      for (int v = 0; v < V; ++v) weight[kw][v] = int8_t(taps.get(v));
    }
    // Every column of the input is read once and meets all outputs that it is part of.
#pragma unroll
    for (int column = 0; column < COLUMNS; ++column) {
      const int at = span * S::STRIDE_W - S::PAD_LEFT + column;
      int value[V];
#pragma unroll
      for (int v = 0; v < V; ++v) value[v] = zero;
      if (row && unsigned(at) < unsigned(S::WIDTH)) {
        const auto bytes = *reinterpret_cast<const Bytes<V> *>(line + at * S::CHANNELS);
#pragma unroll
        for (int v = 0; v < V; ++v) value[v] = bytes.get(v);
      }
#pragma unroll
      for (int p = 0; p < PIXELS; ++p) {
        const int offset = column - p * S::STRIDE_W;
        if (offset < 0 || offset % S::DILATION_W || offset / S::DILATION_W >= S::KERNEL_W) continue;
#pragma unroll
        for (int v = 0; v < V; ++v) acc[p][v] += value[v] * weight[offset / S::DILATION_W][v];
      }
    }
  }
  const Range range{qinfo[1], qinfo[2], qinfo[3]};
  load_numbers(first, p0 + channel, S::PARAMS > 0);
  load_numbers(second, p1 + channel, S::PARAMS > 1);
#pragma unroll
  for (int p = 0; p < PIXELS; ++p) {
    if (span + p >= S::OUT_W) continue;
    const int64_t place = ((n * S::OUT_H + oh) * S::OUT_W + span + p) * S::CHANNELS + channel;
    Out *to = out + place;
    Out values[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      values[v] = requantize<S::FLAVOUR>(acc[p][v], first[v], second[v], range);
    }
    if constexpr (S::RESIDUAL != NONE) {
      const Addition addition(qinfo);
      const auto bytes = *reinterpret_cast<const Bytes<V> *>(other + place);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        values[v] = addition.template sum<S::RESIDUAL>(values[v], bytes.get(v));
      }
    }
    if constexpr (sizeof(Out) == 1 && V >= 4) {
#pragma unroll
      for (int v = 0; v < V; v += 4) {
        *reinterpret_cast<unsigned *>(to + v) = unsigned(values[v]) | unsigned(values[v + 1]) << 8 |
                                                unsigned(values[v + 2]) << 16 |
                                                unsigned(values[v + 3]) << 24;
      }
    } else {
#pragma unroll
      for (int v = 0; v < V; ++v) to[v] = values[v];
    }
  }
}

}  // namespace tvmquant
#endif
