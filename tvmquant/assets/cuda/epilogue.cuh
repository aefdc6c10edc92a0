// From the accumulators of a block to its outputs.
#ifndef TVMQUANT_EPILOGUE
#define TVMQUANT_EPILOGUE
#include "requantize.cuh"

namespace tvmquant {

// Where the outputs of a warp lie: first pixel and channel of its block, first channel of its
// group, and its own first row and column in the block.
struct Place {
  int pixel, inner, group, row, column, slice, warp;
};

template <class S>
struct Epilogue {
  static constexpr int FRAGMENTS_M = S::WARP_M / 16, FRAGMENTS_N = S::WARP_N / 8;
  static constexpr int OUTPUTS = S::OUTPUTS / S::GROUPS;
  static constexpr int PIXELS = S::BATCH * S::OUT_H * S::OUT_W;
  // Bytes of the sums of all slices; the tile lies behind them. The 16 bytes that follow a row of
  // the tile keep the eight rows of a fragment in different banks.
  static constexpr int PARTS = S::SLICES > 1 ? S::SLICES * S::BLOCK_M * S::BLOCK_N * 4 : 0;
  static constexpr int PITCH = S::BLOCK_N + 16;
};

// Every slice gets the whole sums of every SLICES-th fragment.
template <class S>
__device__ __forceinline__ void add_slices(
    int (&acc)[Epilogue<S>::FRAGMENTS_M][Epilogue<S>::FRAGMENTS_N][4], const Place &place,
    uint8_t *shared) {
  constexpr int M = Epilogue<S>::FRAGMENTS_M, N = Epilogue<S>::FRAGMENTS_N;
  constexpr int WARPS = S::THREADS / 32 / S::SLICES;
  Vector<16> *const parts = reinterpret_cast<Vector<16> *>(shared) +
                            place.warp * (M * N * 32) + threadIdx.x % 32;
#pragma unroll
  for (int f = 0; f < M * N; ++f) {
    if (f % S::SLICES == place.slice) continue;
    Vector<16> part;
#pragma unroll
    for (int r = 0; r < 4; ++r) part.words[r] = unsigned(acc[f / N][f % N][r]);
    parts[(place.slice * WARPS * M * N + f) * 32] = part;
  }
  __syncthreads();
#pragma unroll
  for (int f = 0; f < M * N; ++f) {
    if (f % S::SLICES != place.slice) continue;
#pragma unroll
    for (int other = 1; other < S::SLICES; ++other) {
      const int slice = (place.slice + other) % S::SLICES;
      const Vector<16> part = parts[(slice * WARPS * M * N + f) * 32];
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        acc[f / N][f % N][r] = int(unsigned(acc[f / N][f % N][r]) + part.words[r]);
      }
    }
  }
}

// Bytes of the tile go out, STORE together, after the addition of what lies at the same place: a
// thread asks for several of these before it needs the first one.
template <class S>
__device__ __forceinline__ void store_tile(const uint8_t *tile, const Place &place,
                                           const int *__restrict__ qinfo,
                                           const uint8_t *__restrict__ other,
                                           uint8_t *__restrict__ out) {
  constexpr int CHUNKS = S::BLOCK_N / S::STORE, ALL = S::BLOCK_M * CHUNKS;
  constexpr int ROUNDS = (ALL + S::THREADS - 1) / S::THREADS;
  constexpr int TOGETHER = S::RESIDUAL == NONE ? 1 : ROUNDS < 4 ? ROUNDS : 4;
  using Bytes = Vector<S::STORE>;
  const Addition addition(qinfo, S::RESIDUAL != NONE);
  // Whether there are outputs, and where in the tensor and in the tile.
  const auto find = [&](int at, int64_t &to, int &from) {
    const int row = at / CHUNKS, column = at % CHUNKS * S::STORE;
    to = int64_t(place.pixel + row) * S::OUTPUTS + place.group + place.inner + column;
    from = row * Epilogue<S>::PITCH + column;
    return (ALL % (TOGETHER * S::THREADS) == 0 || at < ALL) &&
           place.pixel + row < Epilogue<S>::PIXELS && place.inner + column < Epilogue<S>::OUTPUTS;
  };
#pragma unroll(S::RESIDUAL == NONE ? 4 : 1)
  for (int first = threadIdx.x; first < ALL; first += TOGETHER * S::THREADS) {
    int64_t to;
    int from;
    Bytes added[TOGETHER];
#pragma unroll
    for (int i = 0; i < TOGETHER; ++i) {
      if (S::RESIDUAL == NONE || !find(first + i * S::THREADS, to, from)) continue;
      added[i] = *reinterpret_cast<const Bytes *>(other + to);
    }
#pragma unroll
    for (int i = 0; i < TOGETHER; ++i) {
      if (!find(first + i * S::THREADS, to, from)) continue;
      auto bytes = *reinterpret_cast<const Bytes *>(tile + from);
      if constexpr (S::RESIDUAL != NONE) {
#pragma unroll
        for (int j = 0; j < S::STORE / 4; ++j) {
          bytes.words[j] = addition.sum_4<S::RESIDUAL>(bytes.words[j], added[i].words[j]);
        }
      }
      *reinterpret_cast<Bytes *>(out + to) = bytes;
    }
  }
}

// Bias and requantize parameters of two neighbouring channels.
struct Constants {
  int offset[2], first[2], second[2];
};

template <class S>
__device__ __forceinline__ Constants constants_of(const Place &place, int column,
                                                  const int *__restrict__ bias,
                                                  const int *__restrict__ p0,
                                                  const int *__restrict__ p1) {
  Constants found;
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    const int inner = place.inner + column + side;
    const int channel = place.group + (inner < Epilogue<S>::OUTPUTS ? inner : 0);
    found.offset[side] = bias[channel];
    found.first[side] = S::PARAMS > 0 ? p0[channel] : 0;
    found.second[side] = S::PARAMS > 1 ? p1[channel] : 0;
  }
  return found;
}

// Where requantized values go. Bytes go through shared memory where channels let several be stored
// together (STORE); wider outputs go out in pairs, which fill a sector of 32 bytes.
template <class S>
struct Sink {
  using E = Epilogue<S>;
  using Out = typename Result<S::FLAVOUR>::Type;
  struct alignas(2 * sizeof(Out)) Pair {
    Out values[2];
  };
  static constexpr bool STAGED = sizeof(Out) == 1 && S::STORE >= 4;
  static constexpr bool PAIRED = sizeof(Out) == 4 && E::OUTPUTS % 2 == 0;

  const Place &place;
  const int *__restrict__ qinfo;
  const uint8_t *__restrict__ other;
  Out *__restrict__ out;
  uint8_t *tile;
  Range range;

  // Sums, shifted left by SHIFT, of two neighbouring channels of a pixel of the block.
  template <int SHIFT>
  __device__ __forceinline__ void put(int left, int right, const Constants &constants, int row,
                                      int column) const {
    const int pixel = place.pixel + row, inner = place.inner + column;
    Pair pair;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int sum = int(unsigned((side ? right : left) >> SHIFT) +
                          unsigned(constants.offset[side]));
      pair.values[side] =
          requantize<S::FLAVOUR>(sum, constants.first[side], constants.second[side], range);
    }
    if constexpr (STAGED) {
      *reinterpret_cast<Pair *>(tile + row * E::PITCH + column) = pair;
      return;
    }
    if (pixel >= E::PIXELS) return;
    const int64_t to = int64_t(pixel) * S::OUTPUTS + place.group + inner;
    if constexpr (PAIRED) {
      if (inner < E::OUTPUTS) *reinterpret_cast<Pair *>(out + to) = pair;
      return;
    }
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      if (inner + side >= E::OUTPUTS) continue;
      if constexpr (S::RESIDUAL != NONE) {
        pair.values[side] =
            Addition(qinfo).template sum<S::RESIDUAL>(pair.values[side], other[to + side]);
      }
      out[to + side] = pair.values[side];
    }
  }

  // When all have been put.
  __device__ __forceinline__ void finish() const {
    if constexpr (STAGED) {
      __syncthreads();
      store_tile<S>(tile, place, qinfo, other, out);
    }
  }
};

template <class S>
__device__ __forceinline__ Sink<S> sink(const Place &place, const int *__restrict__ qinfo,
                                        const uint8_t *__restrict__ other,
                                        typename Result<S::FLAVOUR>::Type *__restrict__ out,
                                        uint8_t *tile) {
  return {place, qinfo, other, out, tile, Range{qinfo[1], qinfo[2], qinfo[3]}};
}

// Requantizes and stores.
template <class S, int SHIFT>
__device__ __forceinline__ void store(
    const int (&acc)[Epilogue<S>::FRAGMENTS_M][Epilogue<S>::FRAGMENTS_N][4], const Place &place,
    const int *__restrict__ bias, const int *__restrict__ p0, const int *__restrict__ p1,
    const int *__restrict__ qinfo, const uint8_t *__restrict__ other,
    typename Result<S::FLAVOUR>::Type *__restrict__ out, uint8_t *tile) {
  using E = Epilogue<S>;
  const Sink<S> to = sink<S>(place, qinfo, other, out, tile);
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < E::FRAGMENTS_N; ++j) {
    const int column = place.column + j * 8 + lane % 4 * 2;
    const Constants constants = constants_of<S>(place, column, bias, p0, p1);
#pragma unroll
    for (int i = 0; i < E::FRAGMENTS_M; ++i) {
      if (S::SLICES > 1 && (i * E::FRAGMENTS_N + j) % S::SLICES != place.slice) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = place.row + i * 16 + half * 8 + lane / 4;
        to.template put<SHIFT>(acc[i][j][half * 2], acc[i][j][half * 2 + 1], constants, row,
                               column);
      }
    }
  }
  to.finish();
}

}  // namespace tvmquant
#endif
