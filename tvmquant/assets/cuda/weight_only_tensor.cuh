// Float activations times integer weights with a scale for each group, on tensor cores: the first
// operand is 16 channels, the second the digits of the rows (weight_only_digits.cuh), so that all
// sums within a unit of K are exact. Made for few rows, where reading the weights is all the work.
//
// A span of K is as long as a unit or a vector of weights, whichever is longer. A block has a PART
// of all spans (one of SPLITS), a warp TILES tiles of channels and every WARPS_K-th span; the sums
// of warps meet in shared memory, those of parts in another launch. Weights go from memory to
// registers, AHEAD spans before they are needed, straight on from one tile to the next, and before
// that to the second cache. What comes first starts while the launch before still runs: nothing
// waits for the activations but the first products.
#ifndef TVMQUANT_WEIGHT_ONLY_TENSOR
#define TVMQUANT_WEIGHT_ONLY_TENSOR
#include "weight_only_sums.cuh"

namespace tvmquant {

template <class S>
struct WeightOnly {
  using D = Digits<S>;
  using U = UnitSums<S>;
  using Piece = typename U::Piece;
  static constexpr int LOADS = U::LOADS, HEIGHT = U::HEIGHT;
  static constexpr int ALL_TILES = (S::OUTPUTS + 15) / 16;
  static constexpr int PLACES = (ALL_TILES + HEIGHT - 1) / HEIGHT;
  static constexpr int ITEM_ROUNDS = S::CHUNKS * S::ROUNDS;
  static constexpr bool WHOLE =
      ITEM_ROUNDS * S::WARPS_K == S::PART && S::PART * S::SPLITS == S::SPANS;
  static constexpr int THREADS = S::WARPS_M * S::WARPS_K * 32;
  static constexpr int VECTORS = LOADS * 32;           // of a span of a tile
  static constexpr int STEP = S::AHEAD * S::WARPS_K;  // spans of all warps that are under way

  // Where a warp reads, the lane's part: its first tile and its next span.
  struct Cursor {
    const uint4 *weights;
    int tile, span;
  };

  const uint4 *weights;
  const float2 *scale;
  const int16_t *zero_point;
  int lane, warp_k, warp_m;
  int begin, end;  // the spans of this part

  __device__ __forceinline__ int first_tile(int place) const {
    return place * HEIGHT + warp_m * S::TILES;
  }

  // On by AHEAD spans, or to the first span of the next place.
  __device__ __forceinline__ void advance(Cursor &cursor, bool last) const {
    constexpr int BACK = (ITEM_ROUNDS - S::AHEAD) * S::WARPS_K, JUMP = S::BLOCKS * HEIGHT;
    cursor.weights += last ? int64_t(JUMP) * S::SPANS * VECTORS - BACK * VECTORS : STEP * VECTORS;
    cursor.span += last ? -BACK : STEP;
    cursor.tile += last ? JUMP : 0;
  }

  // The span that is I rounds after the cursor's, if there is one. Tiles beyond the last one are it
  // again.
  __device__ __forceinline__ void fetch(Piece &piece, const Cursor &cursor, int i) const {
    const int on = i * S::WARPS_K, span = cursor.span + on;
    if (cursor.tile >= ALL_TILES || (!WHOLE && span >= end)) return;
    int beyond[S::TILES];
#pragma unroll
    for (int m = 0; m < S::TILES; ++m) {
      beyond[m] = PLACES * HEIGHT == ALL_TILES ? 0 : max(cursor.tile + m - (ALL_TILES - 1), 0);
      const uint4 *const from =
          cursor.weights + on * VECTORS + int64_t(m - beyond[m]) * (S::SPANS * VECTORS);
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

  // COUNT spans from SPAN on, of all tiles of a place, will be read: one lane of the warps that
  // share channels says so.
  __device__ __forceinline__ void announce(int place, int span, int count) const {
    if (S::PREFETCH == 0 || warp_k != 0) return;
    count = min(count, end - span);
    if (count <= 0) return;
#pragma unroll
    for (int m = 0; m < S::TILES; ++m) {
      const int tile = first_tile(place) + m;
      if (tile < ALL_TILES && lane == 0) {
        prefetch_bulk(weights + (int64_t(tile) * S::SPANS + span) * VECTORS, count * VECTORS * 16);
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

// OUT is [BATCH][OUTPUTS], or has SPLITS of these that another launch adds.
template <class S>
__device__ __forceinline__ void weight_only_tensor(const typename Given<S::APART>::Type *x,
                                                   const int *__restrict__ w,
                                                   const float *__restrict__ bias,
                                                   const float *__restrict__ scale,
                                                   const int8_t *__restrict__ zero_point,
                                                   float *out, uint8_t *shared) {
  using W = WeightOnly<S>;
  using U = UnitSums<S>;
  using D = Digits<S>;
  const int warp = threadIdx.x / 32, begin = blockIdx.z * S::PART;
  const W own{reinterpret_cast<const uint4 *>(w),
              reinterpret_cast<const float2 *>(scale),
              reinterpret_cast<const int16_t *>(zero_point),
              int(threadIdx.x % 32),
              warp % S::WARPS_K,
              warp / S::WARPS_K,
              begin,
              min(begin + S::PART, S::SPANS)};
  const int first_row = blockIdx.y * S::ROWS;

  const auto prepare = [&](int chunk, uint8_t *memory) {
    if constexpr (S::APART) {
      copy_digits<S>(x, chunk, memory);
    } else {
      make_digits<S, W::THREADS / 32>(x, first_row, begin + chunk * D::CHUNK, warp, memory);
    }
  };

  launch_next();
  typename W::Piece pieces[S::AHEAD];
  int place = blockIdx.x;
  typename W::Cursor cursor{nullptr, own.first_tile(place), begin + own.warp_k};
  cursor.weights =
      own.weights + own.lane + (int64_t(cursor.tile) * S::SPANS + cursor.span) * W::VECTORS;
  // In a loop of one round (the grid is as deep as there are parts): the compiler would move plain
  // loads behind the barrier.
#pragma unroll 1
  for (unsigned once = 0; once < gridDim.z / S::SPLITS; ++once) {
#pragma unroll
    for (int i = 0; i < S::AHEAD; ++i) own.fetch(pieces[i], cursor, i);
  }
  own.announce(place, begin + W::STEP, S::PREFETCH * W::STEP);
  launch_wait();
  prepare(0, shared);
  if constexpr (S::APART) copy_wait<0>();
  __syncthreads();

  int slot = 0;  // of the digits, where they come in chunks
  for (int item = 0; place < W::PLACES; ++item) {
    const int next = place + S::BLOCKS;
    typename U::Acc acc = {};
#pragma unroll 1
    for (int chunk = 0; chunk < S::CHUNKS; ++chunk) {
      const U sums(shared + slot * D::BYTES, own.lane);
      const int from = begin + chunk * D::CHUNK;
      if constexpr (S::CHUNKS > 1) {
        slot ^= 1;
        if (chunk + 1 < S::CHUNKS || next < W::PLACES) {
          prepare((chunk + 1) % S::CHUNKS, shared + slot * D::BYTES);
        }
      }
#pragma unroll 1
      for (int first = 0; first < S::ROUNDS; first += S::AHEAD) {
        own.announce(place, from + first * S::WARPS_K + (1 + S::PREFETCH) * W::STEP, W::STEP);
        own.advance(cursor, chunk + 1 == S::CHUNKS && first + S::AHEAD == S::ROUNDS);
#pragma unroll
        for (int i = 0; i < S::AHEAD; ++i) {
          const int span = (first + i) * S::WARPS_K + own.warp_k;
          if (W::WHOLE || from + span < own.end) sums.add(acc, pieces[i], span);
          own.fetch(pieces[i], cursor, i);
        }
      }
      if constexpr (S::CHUNKS > 1) {
        if constexpr (S::APART) copy_wait<0>();
        __syncthreads();
      }
    }
    // Two places for the sums, behind the digits: warps that are ahead wait for the others once. A
    // block of one place has no more use for the digits.
    constexpr int SUMS = S::ROWS * U::CHANNELS;
    constexpr bool REUSE = W::PLACES <= S::BLOCKS;
    uint8_t *const behind = shared + (S::CHUNKS > 1 ? 2 : 1) * D::BYTES;
    float *const parts = reinterpret_cast<float *>(REUSE ? shared : behind) +
                         (REUSE ? 0 : item % 2 * (S::WARPS_K * SUMS));
    if (REUSE) __syncthreads();
    U::store(acc, parts + own.warp_k * SUMS, own.warp_m);
    __syncthreads();
    for (int at = threadIdx.x; at < SUMS; at += W::THREADS) {
      const int row = first_row + at / U::CHANNELS;
      const int channel = place * U::CHANNELS + at % U::CHANNELS;
      if (row < S::BATCH && channel < S::OUTPUTS) {
        float sum = parts[at];
#pragma unroll
        for (int i = 1; i < S::WARPS_K; ++i) sum += parts[i * SUMS + at];
        if (S::SPLITS == 1) sum += bias[channel];
        out[(int64_t(blockIdx.z) * S::BATCH + row) * S::OUTPUTS + channel] = sum;
      }
    }
    place = next;
  }
}

// Adds the parts and the bias, in the order of K.
template <class S>
__device__ __forceinline__ void add_weight_only(const float *parts, const float *__restrict__ bias,
                                                float *out) {
  constexpr int SIZE = S::BATCH * S::OUTPUTS;
  launch_next();
  launch_wait();
  const int at = blockIdx.x * S::ADD_THREADS + threadIdx.x;
  if (at >= SIZE) return;
  float part[S::SPLITS];
#pragma unroll
  for (int i = 0; i < S::SPLITS; ++i) part[i] = load_fresh(parts + int64_t(i) * SIZE + at);
  float sum = part[0];
#pragma unroll
  for (int i = 1; i < S::SPLITS; ++i) sum += part[i];
  out[at] = sum + bias[at % S::OUTPUTS];
}

}  // namespace tvmquant
#endif
