// Sums over parts of K: every set of blocks writes those of its part, another kernel adds them,
// requantizes and stores. int32 sums wrap around, so that their order makes no difference.
#ifndef TVMQUANT_SPLIT
#define TVMQUANT_SPLIT
#include "igemm.cuh"

namespace tvmquant {

// The sums lie by part, group and fragment (16 pixels, 8 channels) as the lanes have them, so that
// it makes no difference which block wrote them.
template <class S>
struct Parts {
  static constexpr int ROWS = (Epilogue<S>::PIXELS + 15) / 16;
  static constexpr int COLUMNS = (Epilogue<S>::OUTPUTS + 7) / 8;

  // Whether any number of this lane is stored in the end; rows beyond the last are nowhere.
  static __device__ __forceinline__ bool used(int row, int column) {
    return row * 16 + int(threadIdx.x % 32 / 4) < Epilogue<S>::PIXELS && column < COLUMNS;
  }
  static __device__ __forceinline__ int64_t at(int part, int row, int column) {
    const int64_t group = part * S::GROUPS + blockIdx.y;
    return ((group * ROWS + row) * COLUMNS + column) * 32 + threadIdx.x % 32;
  }
};

template <class S>
__device__ __forceinline__ void igemm_part(const uint8_t *__restrict__ x,
                                           const uint8_t *__restrict__ w,
                                           const int *__restrict__ qinfo,
                                           int *__restrict__ parts, uint8_t *shared) {
  constexpr int ITERATIONS = (Loader<S>::DEPTH + S::BLOCK_K - 1) / S::BLOCK_K;
  constexpr int EACH = (ITERATIONS + S::SPLITS - 1) / S::SPLITS;
  constexpr int M = Epilogue<S>::FRAGMENTS_M, N = Epilogue<S>::FRAGMENTS_N;
  const int first = int(blockIdx.z) * EACH, count = min(EACH, ITERATIONS - first);
  Sums<S> acc = {};
  const Place place = sums_of_block<S>(acc, x, w, qinfo[0], first, count, shared);
#pragma unroll
  for (int f = 0; f < M * N; ++f) {
    if (S::SLICES > 1 && f % S::SLICES != place.slice) continue;
    const int row = (place.pixel + place.row) / 16 + f / N;
    const int column = (place.inner + place.column) / 8 + f % N;
    if (!Parts<S>::used(row, column)) continue;
    Vector<16> part;
#pragma unroll
    for (int r = 0; r < 4; ++r) part.words[r] = unsigned(acc[f / N][f % N][r]);
    reinterpret_cast<Vector<16> *>(parts)[Parts<S>::at(blockIdx.z, row, column)] = part;
  }
}

// A warp has one fragment.
template <class S>
__device__ __forceinline__ void add_parts(const int *__restrict__ parts,
                                          const int *__restrict__ bias,
                                          const int *__restrict__ p0, const int *__restrict__ p1,
                                          const int *__restrict__ qinfo,
                                          const uint8_t *__restrict__ other,
                                          typename Result<S::FLAVOUR>::Type *__restrict__ out,
                                          uint8_t *shared) {
  constexpr int BLOCKS_N = (Epilogue<S>::OUTPUTS + S::BLOCK_N - 1) / S::BLOCK_N;
  const int row = blockIdx.x / BLOCKS_N, block_n = blockIdx.x % BLOCKS_N;
  const int warp = threadIdx.x / 32, column = block_n * (S::BLOCK_N / 8) + warp;
  const Place place{row * 16, block_n * S::BLOCK_N, int(blockIdx.y) * Epilogue<S>::OUTPUTS,
                    0,        warp * 8,             0,
                    warp};
  Sums<S> acc = {};
  if (Parts<S>::used(row, column)) {
    Vector<16> part[S::SPLITS];
#pragma unroll
    for (int i = 0; i < S::SPLITS; ++i) {
      part[i] = reinterpret_cast<const Vector<16> *>(parts)[Parts<S>::at(i, row, column)];
    }
#pragma unroll
    for (int i = 0; i < S::SPLITS; ++i) {
#pragma unroll
      for (int r = 0; r < 4; ++r) acc[0][0][r] = int(unsigned(acc[0][0][r]) + part[i].words[r]);
    }
  }
  store<S, Weights<S>::SHIFT>(acc, place, bias, p0, p1, qinfo, other, out, shared);
}

}  // namespace tvmquant
#endif
