// The instructions of tvmquant/assets/cuda/wgmma.cuh, as the PTX ISA says what they do.
//
// Fragments of wgmma.m64nNk32 for bytes, warp w and lane l of a warpgroup: of A the word r has the
// row 16 w + l / 4 + 8 (r % 2) and the bytes from 16 (r / 2) + 4 (l % 4) on; of D the number i has
// the row 16 w + l / 4 + 8 (i / 2 % 2) and the column 8 (i / 4) + 2 (l % 4) + i % 2. Matrices in
// shared memory have rows of K: a descriptor has the start (bits 0-13), the way to the next eight
// rows (bits 32-45), both by 16 bytes, and the swizzle (bits 62-63: 1, 2, 3 for 128, 64, 32 bytes),
// which exchanges the bits from 4 on of an address with the exclusive OR of them and those from 7.
//
// Products happen when they are waited for, as late as they may, where copies happen at once; and
// at once where copies are late: each order shows what is read too early or overwritten too soon.
#pragma once
#include <utility>

#include "ptx.cuh"

namespace emulator {

struct Product {
  int columns;
  int *sums;
  const unsigned *words;  // rows of A in registers, or null
  uint64_t rows, cols;    // descriptors
  unsigned kept[4];
  std::vector<int> before;
};

struct Registers {
  const void *address;
  std::vector<char> at_fence;
};

struct Warpgroup {
  std::vector<Product> open;
  std::deque<std::vector<Product>> groups;
  std::vector<Registers> known;
  std::vector<uint64_t> issued;  // descriptors, which must be the same in four warps
  bool fenced = false, published = false;
};

inline std::vector<Warpgroup> warpgroups;  // of every thread
inline std::vector<uint8_t> visible;       // shared memory as products may see it

inline Warpgroup &mine() { return warpgroups[current]; }

// The window of shared memory starts where nothing but 256 bytes is aligned.
constexpr unsigned WINDOW = 0x300;

inline uint8_t *in_window(unsigned address) { return shared_first + (address - WINDOW); }

inline void check_registers(const void *address, size_t size) {
  for (Registers &registers : mine().known) {
    if (registers.address != address) continue;
    if (std::memcmp(registers.at_fence.data(), address, size)) {
      fail("registers of a product changed after the last wgmma.fence");
    }
    return;
  }
  const char *bytes = static_cast<const char *>(address);
  mine().known.push_back({address, {bytes, bytes + size}});
}

inline void note_registers() {
  for (Registers &registers : mine().known) {
    std::memcpy(registers.at_fence.data(), registers.address, registers.at_fence.size());
  }
}

// Address of a byte of K of a row of a matrix in shared memory.
inline unsigned place_of(uint64_t descriptor, int row, int byte) {
  const unsigned start = (descriptor & 0x3FFF) << 4, stride = (descriptor >> 32 & 0x3FFF) << 4;
  const int form = descriptor >> 62;
  const unsigned width = form == 1 ? 128 : form == 2 ? 64 : 32;
  const unsigned at = start + row / 8 * stride + row % 8 * width + byte;
  return at ^ ((at >> 7 & (width / 16 - 1)) << 4);
}

inline void check_matrix(uint64_t descriptor, int rows) {
  if (descriptor >> 62 == 0) fail("matrices without a swizzle are not emulated");
  if (descriptor >> 49 & 7) fail("the pattern of the swizzle starts where the addresses say");
  for (int row = 0; row < rows; ++row) {
    for (int byte = 0; byte < 32; ++byte) {
      const uint8_t *at = in_window(place_of(descriptor, row, byte));
      if (at < shared_first || at >= shared_first + shared_bytes) fail("outside of shared memory");
      if (*at != visible[at - shared_first]) fail("a product reads what no proxy fence published");
    }
  }
}

inline int element(uint64_t descriptor, int row, int byte) {
  return *in_window(place_of(descriptor, row, byte));
}

// Of this thread's share; the words of other lanes are those at the time of issue.
inline void multiply(const Product &product, size_t index) {
  if (product.words && std::memcmp(product.words, product.kept, 16)) {
    fail("rows in registers changed before their product was waited for");
  }
  if (std::memcmp(product.sums, product.before.data(), product.before.size() * 4)) {
    fail("sums changed while a product was under way");
  }
  const int warp = current / 32 % 4, lane = current % 32;
  for (int i = 0; i < product.columns / 2; ++i) {
    const int half = i / 2 % 2, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    unsigned sum = unsigned(product.sums[i]);
    for (int byte = 0; byte < 32; ++byte) {
      int left;
      if (product.words) {
        const int other = current / 32 * 32 + lane / 4 * 4 + byte % 16 / 4;
        const unsigned word =
            warpgroups[other].groups.front()[index].kept[byte / 16 * 2 + half];
        left = int8_t(word >> byte % 4 * 8);
      } else {
        left = int8_t(element(product.rows, warp * 16 + lane / 4 + half * 8, byte));
      }
      sum += unsigned(left * element(product.cols, column, byte));
    }
    product.sums[i] = int(sum);
  }
}

// The oldest group of products of a warp, whose lanes are all here.
inline void finish_products() {
  wait(1);
  const std::vector<Product> &group = mine().groups.front();
  for (size_t i = 0; i < group.size(); ++i) {
    // What follows on the same sums starts from what came before.
    multiply(group[i], i);
    for (auto &later : mine().groups) {
      for (Product &next : later) {
        if (next.sums == group[i].sums) next.before.assign(next.sums, next.sums + next.columns / 2);
      }
    }
    for (Product &next : mine().open) {
      if (next.sums == group[i].sums) next.before.assign(next.sums, next.sums + next.columns / 2);
    }
  }
  wait(1);
  mine().groups.pop_front();
}

inline void issue(Product product) {
  if (!mine().fenced) fail("a product without a wgmma.fence before it");
  check_registers(product.sums, product.columns * 2);
  if (product.words) {
    check_registers(product.words, 16);
    std::memcpy(product.kept, product.words, 16);
  }
  product.before.assign(product.sums, product.sums + product.columns / 2);
  const size_t count = mine().issued.size();
  mine().issued.push_back(product.cols);
  mine().issued.push_back(product.rows);
  for (int i = current / 128 * 128; i < current / 128 * 128 + 128; ++i) {
    const auto &issued = warpgroups[i].issued;
    if (issued.size() > count + 1 &&
        (issued[count] != product.cols || issued[count + 1] != product.rows)) {
      fail("warps of a warpgroup have different descriptors");
    }
  }
  if (current % 32 == 0) {
    check_matrix(product.cols, product.columns);
    if (!product.words) check_matrix(product.rows, 64);
  }
  mine().open.push_back(std::move(product));
}

inline void forget_barriers();

inline void start_block() {
  forget_barriers();
  warpgroups.assign(threads.size(), {});
  visible.assign(shared_bytes, 0);
}

inline void end_thread() {
  if (!mine().groups.empty() || !mine().open.empty()) fail("a product was never waited for");
}

// What all threads have written is visible once all have fenced it and met.
inline void meet() {
  bool all = true;
  for (Warpgroup &thread : warpgroups) all &= std::exchange(thread.published, false);
  if (all) std::copy(shared_first, shared_first + shared_bytes, visible.begin());
}

inline const bool hooked = [] {
  on_block = start_block;
  on_barrier = meet;
  on_exit = end_thread;
  return true;
}();

}  // namespace emulator

namespace tvmquant {

inline unsigned shared_address(const void *pointer) {
  return static_cast<const uint8_t *>(pointer) - emulator::shared_first + emulator::WINDOW;
}

inline int uniform(int value) { return value; }

// Only the machine has registers: what is asked for must be there, given what the others keep.
inline int registers_kept;
template <int COUNT>
void registers_down() {
  static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256);
  registers_kept = COUNT;
}
template <int COUNT>
void registers_up() {
  static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256);
  const int groups = emulator::block_size.x / 128;
  if (registers_kept + (groups - 1) * COUNT > groups * (512 / groups / 8 * 8)) {
    emulator::fail("more registers than a block has at its start");
  }
}

inline void fence_async() { emulator::mine().published = true; }

inline void wgmma_fence() {
  emulator::mine().fenced = true;
  emulator::note_registers();
}

template <int PENDING>
void wgmma_wait() {
  auto &own = emulator::mine();
  while (int(own.groups.size()) > PENDING) emulator::finish_products();
  if (PENDING == 0) own.fenced = false;
}

inline void wgmma_commit() {
  auto &own = emulator::mine();
  own.groups.push_back(std::move(own.open));
  own.open.clear();
  // Early products are those that do not wait for late copies.
  if (!emulator::eager) {
    while (!own.groups.empty()) emulator::finish_products();
    emulator::note_registers();
  }
}

template <int ROW_BYTES>
uint64_t matrix_descriptor(unsigned address) {
  if (address % 16) emulator::fail("a matrix is not aligned to 16 bytes");
  const uint64_t form = ROW_BYTES == 128 ? 1 : ROW_BYTES == 64 ? 2 : 3;
  return address / 16 % (1 << 14) | uint64_t(ROW_BYTES / 2) << 32 | form << 62;
}

template <int COLUMNS>
struct Wgmma {
  static_assert(COLUMNS == 8 || COLUMNS == 24 || COLUMNS % 16 == 0 && COLUMNS <= 256);
  static void multiply(int (&c)[COLUMNS / 2], const unsigned (&a)[4], uint64_t b) {
    emulator::issue({COLUMNS, c, a, 0, b, {}, {}});
  }
  static void multiply(int (&c)[COLUMNS / 2], uint64_t a, uint64_t b) {
    emulator::issue({COLUMNS, c, nullptr, a, b, {}, {}});
  }
};

}  // namespace tvmquant

#include "mbarrier.cuh"

namespace emulator {

inline void forget_barriers() { barriers.clear(); }

}  // namespace emulator
