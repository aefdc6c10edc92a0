// Packs activations: of bytes, of which only the lowest bits are used, it makes nibbles or bits.
#ifndef TVMQUANT_PACK
#define TVMQUANT_PACK
#include "loader.cuh"
#include "requantize.cuh"

namespace tvmquant {

// A pixel of a group becomes WORDS words. A word has PARTS times four channels: channel 4 p + b in
// part p of byte b, counted from the lowest bits. Channels that are not there are zero, also in
// the pixel of padding that follows the last pixel; behind it lie four words of zeros.
template <class S>
__device__ __forceinline__ void pack_pixels(const uint8_t *__restrict__ x,
                                            const int *__restrict__ qinfo,
                                            unsigned *__restrict__ packed) {
  constexpr int64_t ROWS = int64_t(S::PIXELS) * S::GROUPS, END = (ROWS + 1) * S::WORDS;
  using Index = typename Offset<(END + S::THREADS < int64_t(1) << 32)>::Type;
  const Index at = Index(blockIdx.x) * S::THREADS + threadIdx.x;
  if (at >= END + 4) return;
  const Index row = at / S::WORDS;
  const int first = int(at % S::WORDS) * 4 * S::PARTS;
  unsigned bytes[S::PARTS] = {};
  if (row < ROWS) {
    const uint8_t *const from = x + int64_t(row) * S::CHANNELS + first;
    if constexpr (S::READ >= 4) {
#pragma unroll
      for (int i = 0; i < S::PARTS * 4; i += S::READ) {
        if (first + i >= S::CHANNELS) continue;
        const auto some = *reinterpret_cast<const Vector<S::READ> *>(from + i);
#pragma unroll
        for (int j = 0; j < S::READ / 4; ++j) bytes[i / 4 + j] = some.words[j];
      }
    } else {
#pragma unroll
      for (int i = 0; i < S::PARTS * 4; ++i) {
        if (first + i < S::CHANNELS) bytes[i / 4] |= unsigned(from[i]) << i % 4 * 8;
      }
    }
  } else if (at < END) {
#pragma unroll
    for (int i = 0; i < S::PARTS * 4; ++i) {
      if (first + i < S::CHANNELS) bytes[i / 4] |= unsigned(qinfo[0]) << i % 4 * 8;
    }
  }
  unsigned word = 0;
#pragma unroll
  for (int part = 0; part < S::PARTS; ++part) word |= bytes[part] << part * (8 / S::PARTS);
  packed[at] = word;
}

}  // namespace tvmquant
#endif
