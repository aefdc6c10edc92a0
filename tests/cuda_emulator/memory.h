// Every access of the kernels' memory is checked: the compiler calls the functions at the end of
// this file before each load and store (-fsanitize=thread, of which only the calls are used).
//
// Global memory: an access lies within one buffer and writes only the last one, where no two
// threads write one byte. Shared memory: what is read was written; while an asynchronous copy is
// under way nobody touches its destination; what one warp writes, another one touches only behind
// a barrier of the block. Barriers in shared memory order accesses in ways that are not followed
// here: kernels that have them are not asked for the last of these.
#pragma once
#include <utility>

#include "emulator.h"

namespace emulator {

struct Buffer { uintptr_t first; size_t size; };
struct Byte {
  unsigned wrote = 0, read = 0;        // when, in barriers of the block
  short writer = -1, reader = -1;      // warps
  short copies = 0;                    // under way
  bool known = false, shared = false;  // written; read by several warps since `read`
};

inline Buffer buffers[32];  // by argument: the last one is written
inline int buffer_count;
inline uintptr_t arena_first;  // all buffers, and what lies between them
inline size_t arena_bytes;
inline std::vector<unsigned> written_by;  // of the last buffer, by byte: thread of the grid, from 1
inline std::vector<Byte> states;          // of shared memory, by byte
inline unsigned *writers;
inline Byte *bytes;
inline unsigned meetings = 1;
inline bool pairwise_order;
// Of a launch that may start early: what arguments are no constants, by bit. Nobody touches these
// before it has waited for the launches before.
inline unsigned late_buffers;

TVMQUANT_QUIET inline unsigned grid_thread() {
  const unsigned block =
      (block_index.z * grid_size.y + block_index.y) * grid_size.x + block_index.x;
  return block * block_size.x + current + 1;
}

TVMQUANT_QUIET inline void check_global(uintptr_t address, size_t size, bool writes) {
  for (int i = 0; i < buffer_count; ++i) {
    const Buffer &buffer = buffers[i];
    if (address - buffer.first >= buffer.size) continue;
    if (address + size > buffer.first + buffer.size) break;
    if (late_buffers >> i & 1 && !own().waited) fail("touched before the launch before has ended");
    if (!writes) return;
    if (i + 1 != buffer_count) fail("a kernel writes what it is only given to read");
    for (size_t at = address - buffer.first, end = at + size; at < end; ++at) {
      const unsigned before = writers[at];
      writers[at] = grid_thread();
      if (before && before != writers[at]) fail("two threads write the same byte");
    }
    return;
  }
  fail(writes ? "a write outside of all buffers" : "a read outside of all buffers");
}

TVMQUANT_QUIET inline void check_shared(size_t at, size_t size, bool writes) {
  if (at + size > shared_bytes) fail("an access beyond the end of shared memory");
  const short warp = current / 32;
  for (size_t end = at + size; at < end; ++at) {
    Byte &byte = bytes[at];
    if (byte.copies) fail("shared memory is touched while a copy to it is under way");
    const bool raced = byte.wrote == meetings && byte.writer != warp;
    if (raced && !pairwise_order) fail("warps touch what another one wrote without a barrier");
    const bool others = byte.read == meetings && (byte.shared || byte.reader != warp);
    if (writes) {
      if (others && !pairwise_order) fail("a warp overwrites what another one reads");
      byte.wrote = meetings;
      byte.writer = warp;
      byte.known = true;
    } else {
      if (!byte.known) fail("shared memory is read that nobody wrote");
      byte.shared = others;
      byte.read = meetings;
      byte.reader = warp;
    }
  }
}

TVMQUANT_QUIET inline void check(const void *pointer, size_t size, bool writes) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  const auto at = address - reinterpret_cast<uintptr_t>(shared_first);
  if (!checks) return;
  if (at < shared_bytes) return check_shared(at, size, writes);
  if (address - arena_first < arena_bytes) check_global(address, size, writes);
}

inline void start_bytes() {
  states.assign(shared_bytes, {});
  bytes = states.data();
}
inline void count_meeting() { ++meetings; }

// A copy was started, as if it wrote now, or has ended.
TVMQUANT_QUIET inline void begin_copy(const Copy &copy) {
  check(copy.from, copy.bytes, false);
  check(copy.to, copy.bytes, true);
  Byte *const to = bytes + (static_cast<uint8_t *>(copy.to) - shared_first);
  for (int i = 0; i < copy.bytes; ++i) ++to[i].copies;
}
TVMQUANT_QUIET inline void end_copy(const Copy &copy) {
  Byte *const to = bytes + (static_cast<uint8_t *>(copy.to) - shared_first);
  for (int i = 0; i < copy.bytes; ++i) {
    --to[i].copies;
    to[i].wrote = meetings;
  }
}

inline void start_checks(void **arrays, const int64_t *sizes, int count, void *arena,
                         int64_t arena_size) {
  buffer_count = count;
  for (int i = 0; i < count; ++i) {
    buffers[i] = {reinterpret_cast<uintptr_t>(arrays[i]), size_t(sizes[i])};
  }
  arena_first = reinterpret_cast<uintptr_t>(arena);
  arena_bytes = arena_size;
  written_by.assign(sizes[count - 1], 0);
  writers = written_by.data();
  pairwise_order = false;
}

}  // namespace emulator

extern "C" {
#define TVMQUANT_CHECKED(SIZE)                                                                    \
  TVMQUANT_QUIET void __tsan_read##SIZE(void *at) { emulator::check(at, SIZE, false); }           \
  TVMQUANT_QUIET void __tsan_write##SIZE(void *at) { emulator::check(at, SIZE, true); }           \
  TVMQUANT_QUIET void __tsan_unaligned_read##SIZE(void *at) { emulator::check(at, SIZE, false); } \
  TVMQUANT_QUIET void __tsan_unaligned_write##SIZE(void *at) { emulator::check(at, SIZE, true); }
TVMQUANT_CHECKED(1)
TVMQUANT_CHECKED(2)
TVMQUANT_CHECKED(4)
TVMQUANT_CHECKED(8)
TVMQUANT_CHECKED(16)
#undef TVMQUANT_CHECKED
TVMQUANT_QUIET void __tsan_read_range(void *at, size_t size) { emulator::check(at, size, false); }
TVMQUANT_QUIET void __tsan_write_range(void *at, size_t size) { emulator::check(at, size, true); }
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
void __tsan_init() {}
}
