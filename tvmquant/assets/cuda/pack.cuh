// Packs activations: of bytes, of which only the lowest bits are used, it makes nibbles or bits.
#ifndef TVMQUANT_PACK
#define TVMQUANT_PACK
#include "loader.cuh"
#include "requantize.cuh"

namespace tvmquant {

// Padded images are PADDED_H x PADDED_W. A pixel of a group becomes WORDS words. A word has PARTS
// times four channels: channel 4 p + b in part p of byte b, counted from the lowest bits. Channels
// that are not there are zero, in the padding, too; behind the last image lie four words of zeros.
template <class S>
__device__ __forceinline__ void pack_pixels(const uint8_t *__restrict__ x,
                                            const int *__restrict__ qinfo,
                                            unsigned *__restrict__ packed) {
  constexpr int CHANNELS = S::CHANNELS / S::GROUPS;
  constexpr int64_t END =
      int64_t(S::BATCH) * S::PADDED_H * S::PADDED_W * S::GROUPS * S::WORDS;
  using Index = typename Offset<(END + S::THREADS < int64_t(1) << 32)>::Type;
  const Index at = Index(blockIdx.x) * S::THREADS + threadIdx.x;
  if (at >= END + 4) return;
  const Index row = at / S::WORDS, pixel = row / S::GROUPS, line = pixel / S::PADDED_W;
  const int group = int(row % S::GROUPS), first = int(at % S::WORDS) * 4 * S::PARTS;
  const int h = int(line % S::PADDED_H) - S::PAD_TOP, w = int(pixel % S::PADDED_W) - S::PAD_LEFT;
  const bool inside = unsigned(h) < unsigned(S::HEIGHT) && unsigned(w) < unsigned(S::WIDTH);
  unsigned bytes[S::PARTS] = {};
  if (at < END && inside) {
    const int64_t image = int64_t(line / S::PADDED_H);
    const uint8_t *const from =
        x + ((image * S::HEIGHT + h) * S::WIDTH + w) * S::CHANNELS + group * CHANNELS + first;
    if constexpr (S::READ >= 4) {
#pragma unroll
      for (int i = 0; i < S::PARTS * 4; i += S::READ) {
        if (first + i >= CHANNELS) continue;
        const auto some = *reinterpret_cast<const Vector<S::READ> *>(from + i);
#pragma unroll
        for (int j = 0; j < S::READ / 4; ++j) bytes[i / 4 + j] = some.words[j];
      }
    } else {
#pragma unroll
      for (int i = 0; i < S::PARTS * 4; ++i) {
        if (first + i < CHANNELS) bytes[i / 4] |= unsigned(from[i]) << i % 4 * 8;
      }
    }
  } else if (at < END) {
#pragma unroll
    for (int i = 0; i < S::PARTS * 4; ++i) {
      if (first + i < CHANNELS) bytes[i / 4] |= unsigned(qinfo[0]) << i % 4 * 8;
    }
  }
  unsigned word = 0;
#pragma unroll
  for (int part = 0; part < S::PARTS; ++part) word |= bytes[part] << part * (8 / S::PARTS);
  packed[at] = word;
}

}  // namespace tvmquant
#endif
