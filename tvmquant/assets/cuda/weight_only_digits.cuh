// Float activations as integers of one step for each unit of K, cut into signed bytes.
//
// A few rows (pairs): the step is the power of two that is 2^-29 of the power of two below the
// largest magnitude of the unit: an activation is (65536 (256 d0 + d1) + 256 d2 + d3) steps,
// rounded, with bytes d. Eight rows or more (planes): 2^-22 of it, and three bytes. Their products
// with integer weights are exact on tensor cores. A unit with an infinity or a NaN has the step NaN.
#ifndef TVMQUANT_WEIGHT_ONLY_DIGITS
#define TVMQUANT_WEIGHT_ONLY_DIGITS
#include "ptx.cuh"

namespace tvmquant {

// The memory of a block's digits, which are the second operand of products: sets of columns. Of
// pairs, a row of activations has four columns, the highest digit first; a product takes two rows,
// or one row twice. Of planes, a set has one digit of eight rows, three sets follow each other.
template <class S>
struct Digits {
  static constexpr bool PLANES = S::ROWS % 8 == 0;
  static constexpr int SETS = PLANES ? S::ROWS / 8 * 3 : (S::ROWS + 1) / 2;
  static constexpr int COLUMNS = S::ROWS == 1 ? 4 : 8;
  static constexpr int BYTES_EACH = PLANES ? 3 : 4;
  static constexpr int SPAN = S::UNIT * S::SPAN_UNITS;
  static constexpr int CHUNK = S::WARPS_K * S::ROUNDS;  // spans
  static constexpr int SPANS = CHUNK < S::PART ? CHUNK : S::PART;
  static constexpr int UNITS = SPANS * S::SPAN_UNITS;
  // Bytes of the digits, of the steps [unit][row][4] (UnitSums says of what), and of the integers'
  // sums in steps, for zero points: of pairs [unit][row][2], of the upper and of the lower halves.
  static constexpr int WORDS = SPANS * SPAN * S::ROWS * BYTES_EACH;
  static constexpr int STEPS = UNITS * S::ROWS * 16;
  static constexpr int SUMS = S::ZERO_POINTS ? UNITS * S::ROWS * (PLANES ? 4 : 8) : 0;
  static constexpr int BYTES = (WORDS + STEPS + SUMS + 15) / 16 * 16;

  // Word `place` (of eight: four elements of K each) of a column; BLOCK counts 32 elements of K.
  // Columns of neighbouring blocks change places, so that neither side meets a bank twice.
  __device__ static __forceinline__ int at(int block, int set, int column, int place) {
    return ((block * SETS + set) * COLUMNS + (column ^ (block & 3))) * 8 + place;
  }
};

// Sums of products start with these bits: as a float, MAGIC is 1.5 * 2^23, whose low bits are then
// the sum's.
constexpr int MAGIC_BITS = 0x4B400000;
constexpr float MAGIC = 12582912.0f;
// Steps are so much shorter while they are multiplied with sums, and scales so much larger: with
// MAGIC, the longest steps would not be finite.
constexpr float SHORTER = 1.0f / 262144.0f, LARGER = 262144.0f;

// What a unit's three sums, or two, become together in FFMAs: x m0 + y, then z m1, w m2.
template <bool PLANES>
__device__ __forceinline__ float4 step_factors(float step) {
  return PLANES ? float4{65536.0f * step, -65793.0f * MAGIC * step, 256.0f * step, step}
                : float4{256.0f * step, -257.0f * MAGIC * step, step, 0.0f};
}

// Four bytes of each of four words, transposed: byte b of r[i] is byte i of w[b].
__device__ __forceinline__ void transpose_bytes(unsigned (&r)[4], const unsigned (&w)[4]) {
  const unsigned low01 = __byte_perm(w[0], w[1], 0x5140), low23 = __byte_perm(w[2], w[3], 0x5140);
  const unsigned high01 = __byte_perm(w[0], w[1], 0x7362), high23 = __byte_perm(w[2], w[3], 0x7362);
  r[0] = __byte_perm(low01, low23, 0x5410);
  r[1] = __byte_perm(low01, low23, 0x7632);
  r[2] = __byte_perm(high01, high23, 0x5410);
  r[3] = __byte_perm(high01, high23, 0x7632);
}

// Four elements of K of a row, which a lane has; a unit is LANES of them.
template <class S>
struct Quad {
  using D = Digits<S>;
  static constexpr int QUADS = D::SPANS * D::SPAN / 4, LANES = S::UNIT / 4;
  static constexpr int PIECES = (QUADS + 31) / 32;  // of a row: what a warp takes together
  // Nothing is filled up: neither units nor groups nor parts of K.
  static constexpr bool FULL = S::SPANS * D::SPAN == S::DEPTH && S::GROUP % S::UNIT == 0 &&
                               S::PART * S::SPLITS == S::SPANS && D::CHUNK * S::CHUNKS == S::PART;
  int row, piece, unit;  // of the chunk
  int k, there;          // the first one, how many follow before the group or the row ends
  bool kept;             // there is such a quad: known where warps share the rows evenly

  // FIRST is the chunk's first span.
  __device__ __forceinline__ Quad(int task, int lane, int first, bool even) {
    row = S::ROWS == 1 ? 0 : task / PIECES;
    piece = S::ROWS == 1 ? task : task % PIECES;
    const int quad = piece * 32 + lane;
    unit = piece * (32 / LANES) + lane / LANES;
    kept = even || (row < S::ROWS && quad < QUADS);
    if (FULL) {
      k = first * D::SPAN + quad * 4;
      there = kept ? 4 : 0;
      return;
    }
    const int of_all = first * S::SPAN_UNITS + unit, group = of_all / S::GROUP_UNITS;
    const int inside = of_all % S::GROUP_UNITS * S::UNIT + lane % LANES * 4;
    k = group * S::GROUP + inside;
    there = kept ? min(S::GROUP - inside, S::DEPTH - k) : 0;
  }
};

template <class S>
__device__ __forceinline__ void read_quad(float (&value)[4], const float *from, int there) {
#pragma unroll
  for (int i = 0; i < 4; ++i) value[i] = 0.0f;
  if constexpr (S::GROUP % 4 == 0 && S::DEPTH % 4 == 0) {
    if (there > 0) {
      const float4 read = load_fresh(reinterpret_cast<const float4 *>(from));
      value[0] = read.x, value[1] = read.y, value[2] = read.z, value[3] = read.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < there) value[i] = load_fresh(from + i);
    }
  }
}

template <int LANES>
__device__ __forceinline__ int sum_of_lanes(int value) {
#pragma unroll
  for (int mask = LANES / 2; mask > 0; mask /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, mask);
  return value;
}

// Stores step and digits. MOST has the bits of the largest magnitude of the unit, FIRST says
// whether the lane is the first one of its unit, PLACE where its digits go in a piece of the first
// rows.
template <class S>
__device__ __forceinline__ void store_quad(const float (&value)[4], int most, const Quad<S> &at,
                                           const int (&place)[4], bool first, unsigned *words,
                                           float4 *steps, float *sums) {
  using D = Digits<S>;
  constexpr int LANES = Quad<S>::LANES, FINE = D::PLANES ? 22 : 29;
  // Three bytes reach 0x7F7F7F: what would be more steps, has longer ones.
  const int limited = D::PLANES ? min(most, 0x7F7FFFFF) + 0x010101 : most;
  // The step is a normal number, and so is its inverse: 2^-e has 2 * 127 - (e + 127).
  const int exponent = max(limited >> 23, FINE + 1);
  const float inverse = __int_as_float((254 + FINE - exponent) << 23);
  const float step =
      __int_as_float(most < 0x7F800000 ? (exponent - FINE) << 23 : 0x7FC00000) * SHORTER;
  int number[4];
  unsigned shifted[4], digit[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    number[i] = __float2int_rn(value[i] * inverse);
    shifted[i] = unsigned(number[i]) + 0x80808080u;  // carries make the bytes signed
  }
  transpose_bytes(digit, shifted);
  if (at.kept) {
    const int column = D::PLANES ? at.row & 4 : at.row % 2 * 4;
    const int set = D::PLANES ? at.row / 8 * 3 : at.row / 2;
    unsigned *const to = words + D::at(at.piece * 4, set, column, 0);
    const int turn = D::PLANES ? (at.row & 3) * 8 : 0;
#pragma unroll
    for (int i = 0; i < D::BYTES_EACH; ++i) to[place[i] ^ turn] = digit[i] ^ 0x80808080u;
    if (first) steps[at.unit * S::ROWS + at.row] = step_factors<D::PLANES>(step);
  }
  if constexpr (S::ZERO_POINTS) {
    int upper = 0, lower = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int low = D::PLANES ? number[i] : int16_t(number[i]);
      lower += low;
      upper += int(unsigned(number[i]) - unsigned(low)) >> 16;
    }
    lower = sum_of_lanes<LANES>(lower);
    if constexpr (!D::PLANES) upper = sum_of_lanes<LANES>(upper);
    if (at.kept && first) {
      const int place = at.unit * S::ROWS + at.row;
      if constexpr (D::PLANES) {
        sums[place] = float(lower) * step;
      } else {
        sums[place * 2] = float(upper) * step;
        sums[place * 2 + 1] = float(lower) * step;
      }
    }
  }
}

// Digits of a chunk of K, from the span FIRST_SPAN on, of ROWS rows, by WARPS warps, of which this
// is number WARP. A lane has four elements of K, a unit several lanes.
template <class S, int WARPS>
__device__ __forceinline__ void make_digits(const float *x, int first_row, int first_span, int warp,
                                            uint8_t *memory) {
  using D = Digits<S>;
  constexpr int PIECES = Quad<S>::PIECES;
  unsigned *const words = reinterpret_cast<unsigned *>(memory);
  float4 *const steps = reinterpret_cast<float4 *>(memory + D::WORDS);
  float *const sums = reinterpret_cast<float *>(memory + D::WORDS + D::STEPS);
  const int lane = threadIdx.x % 32;
  const bool first = lane % Quad<S>::LANES == 0;
  int place[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    place[i] = D::PLANES ? D::at(lane / 8, 2 - i, 0, lane % 8) : D::at(lane / 8, 0, 3 - i, lane % 8);
  }
  // Every warp has as many pieces, some of them of nothing; those of one go are read together.
  constexpr int ALL = PIECES * S::ROWS, OWN = (ALL + WARPS - 1) / WARPS, GO = OWN < 4 ? OWN : 4;
  constexpr bool EVEN = ALL % (WARPS * GO) == 0 && Quad<S>::QUADS % 32 == 0;
#pragma unroll 1
  for (int go = 0; go < OWN; go += GO) {
    float value[GO][4];
    int most[GO];
#pragma unroll
    for (int i = 0; i < GO; ++i) {
      const Quad<S> at((go + i) * WARPS + warp, lane, first_span, EVEN);
      // Rows beyond the last one are it again.
      const int row = min(first_row + at.row, S::BATCH - 1);
      read_quad<S>(value[i], x + int64_t(row) * S::DEPTH + at.k, at.there);
    }
    // Bits of magnitudes are ordered like them, NaN beyond infinity.
#pragma unroll
    for (int i = 0; i < GO; ++i) {
      most[i] = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) most[i] = max(most[i], __float_as_int(value[i][j]) & 0x7FFFFFFF);
    }
#pragma unroll
    for (int mask = Quad<S>::LANES / 2; mask > 0; mask /= 2) {
#pragma unroll
      for (int i = 0; i < GO; ++i) {
        most[i] = max(most[i], __shfl_xor_sync(0xFFFFFFFFu, most[i], mask));
      }
    }
#pragma unroll
    for (int i = 0; i < GO; ++i) {
      const Quad<S> at((go + i) * WARPS + warp, lane, first_span, EVEN);
      store_quad<S>(value[i], most[i], at, place, first, words, steps, sums);
    }
  }
}

// A launch of its own makes the digits of all rows: chunks of memory as blocks will have them, by
// block of rows, part of K, chunk.
template <class S>
__device__ __forceinline__ void pack_digits(const float *x, uint8_t *digits) {
  constexpr int WARPS = S::PACK_THREADS / 32;
  launch_next();
  launch_wait();
  const int part = blockIdx.y / S::CHUNKS, chunk = blockIdx.y % S::CHUNKS;
  const int64_t at = int64_t(blockIdx.z) * (S::CHUNKS * S::SPLITS) + blockIdx.y;
  make_digits<S, S::PACK_BLOCKS * WARPS>(
      x, blockIdx.z * S::ROWS, part * S::PART + chunk * Digits<S>::CHUNK,
      blockIdx.x * WARPS + threadIdx.x / 32, digits + at * Digits<S>::BYTES);
}

// Digits of a chunk that such a launch has made.
template <class S>
__device__ __forceinline__ void copy_digits(const uint8_t *digits, int chunk, uint8_t *memory) {
  constexpr int BYTES = Digits<S>::BYTES, THREADS = S::WARPS_M * S::WARPS_K * 32;
  const int part = blockIdx.y * S::SPLITS + blockIdx.z;
  const uint8_t *const from = digits + (int64_t(part) * S::CHUNKS + chunk) * BYTES;
  for (int at = threadIdx.x * 16; at < BYTES; at += THREADS * 16) {
    copy_async<16>(memory + at, from + at);
  }
  copy_commit();
}

}  // namespace tvmquant
#endif
