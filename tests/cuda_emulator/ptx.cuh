// The instructions of tvmquant/assets/cuda/ptx.cuh, as the PTX ISA says what they do.
#pragma once
#include "emulator.h"
#include "intrinsics.h"
#include "memory.h"

namespace tvmquant {

enum Product { U8S8, U4S4, BITS_XOR, BITS_AND };

template <int BYTES>
void copy_async(void *to, const void *from) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
  if (reinterpret_cast<uintptr_t>(to) % BYTES || reinterpret_cast<uintptr_t>(from) % BYTES) {
    emulator::fail("a copy is not aligned to its size");
  }
  emulator::Copy copy{to, from, BYTES};
  emulator::begin_copy(copy);
  if (emulator::eager) emulator::perform(copy);
  emulator::own().open.push_back(copy);
}

inline void copy_commit() {
  emulator::own().groups.push_back(std::move(emulator::own().open));
  emulator::own().open.clear();
}

template <int PENDING>
void copy_wait() {
  auto &groups = emulator::own().groups;
  while (int(groups.size()) > PENDING) {
    emulator::finish(groups.front());
    groups.pop_front();
  }
}

inline void load_matrices(unsigned (&r)[4], const void *row) {
  if (reinterpret_cast<uintptr_t>(row) % 16) emulator::fail("a row of ldmatrix is not aligned");
  emulator::own().address = row;
  emulator::wait(1);
  const int lane = emulator::lane();
  for (int matrix = 0; matrix < 4; ++matrix) {
    const auto *from = static_cast<const char *>(
        emulator::of_lane(matrix * 8 + lane / 4).address);
    std::memcpy(&r[matrix], from + lane % 4 * 4, 4);
  }
  emulator::wait(1);
}

template <Product P>
int dot_word(unsigned a, unsigned b) {
  if (P == BITS_XOR) return __builtin_popcount(a ^ b);
  if (P == BITS_AND) return __builtin_popcount(a & b);
  constexpr int BITS = P == U8S8 ? 8 : 4;
  int sum = 0;
  for (int at = 0; at < 32; at += BITS) {
    const int left = a >> at & ((1 << BITS) - 1);
    const int right = int(b << (32 - BITS - at)) >> (32 - BITS);
    sum += left * right;
  }
  return sum;
}

inline int add_dot(unsigned a, unsigned b, int c) {
  return int(unsigned(c) + unsigned(dot_word<U8S8>(a, b)));
}

template <Product P>
void multiply_8(int &c0, int &c1, unsigned a, unsigned b) {
  static_assert(P != BITS_AND, "from sm_80");
  auto &own = emulator::own();
  own.exchange[0] = a;
  own.exchange[1] = b;
  emulator::wait(1);
  const int row = emulator::lane() / 4, column = emulator::lane() % 4 * 2;
  for (int word = 0; word < 4; ++word) {
    const unsigned left = emulator::of_lane(row * 4 + word).exchange[0];
    c0 += dot_word<P>(left, emulator::of_lane(column * 4 + word).exchange[1]);
    c1 += dot_word<P>(left, emulator::of_lane(column * 4 + 4 + word).exchange[1]);
  }
  emulator::wait(1);
}

template <Product P>
void multiply_16(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  auto &own = emulator::own();
  std::memcpy(own.exchange, a, 16);
  std::memcpy(own.exchange + 4, b, 8);
  emulator::wait(1);
  const int lane = emulator::lane();
  for (int r = 0; r < 4; ++r) {
    const int row = lane / 4 + 8 * (r / 2), column = lane % 4 * 2 + r % 2;
    unsigned sum = unsigned(c[r]);
    for (int word = 0; word < 8; ++word) {
      const unsigned left =
          emulator::of_lane(row % 8 * 4 + word % 4).exchange[row / 8 + word / 4 * 2];
      const unsigned right = emulator::of_lane(column * 4 + word % 4).exchange[4 + word / 4];
      sum += unsigned(dot_word<P>(left, right));
    }
    c[r] = int(sum);
  }
  emulator::wait(1);
}

inline uint4 load_stream(const uint4 *from) {
  if (reinterpret_cast<uintptr_t>(from) % 16) emulator::fail("a vector is not aligned");
  return *from;
}

template <class T>
T load_fresh(const T *from) {
  if (reinterpret_cast<uintptr_t>(from) % sizeof(T)) emulator::fail("a vector is not aligned");
  return *from;
}

inline void prefetch_bulk(const void *from, int bytes) {
  if (bytes <= 0 || bytes % 16 || reinterpret_cast<uintptr_t>(from) % 16) {
    emulator::fail("a bulk copy is not aligned to 16 bytes");
  }
  // It must be memory that is there.
  volatile const char *const memory = static_cast<const char *>(from);
  (void)memory[0], (void)memory[bytes - 1];
}

inline void launch_next() {}

inline void launch_wait() { emulator::own().waited = true; }

// By bytes: element (r, k) of a is byte k % 4 of word k / 16 * 2 + r / 8 of lane
// r % 8 * 4 + k % 16 / 4, element (k, n) of b byte k % 4 of word k / 16 of lane n * 4 + k % 16 / 4.
inline void multiply_bytes(int (&c)[4], const unsigned (&a)[4], uint2 b) {
  auto &own = emulator::own();
  std::memcpy(own.exchange, a, 16);
  std::memcpy(own.exchange + 4, &b, 8);
  emulator::wait(1);
  const int lane = emulator::lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    int sum = 0;
    for (int k = 0; k < 32; ++k) {
      const auto &left = emulator::of_lane(row % 8 * 4 + k % 16 / 4);
      const auto &right = emulator::of_lane(column * 4 + k % 16 / 4);
      const int shift = k % 4 * 8;
      sum += int8_t(left.exchange[k / 16 * 2 + row / 8] >> shift) *
             int8_t(right.exchange[4 + k / 16] >> shift);
    }
    c[i] += sum;
  }
  emulator::wait(1);
}

}  // namespace tvmquant
