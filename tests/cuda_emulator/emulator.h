// Runs a CUDA thread block on the host: a fiber a thread, warps in step at collectives.
//
// Written from the PTX ISA (fragment tables of mma, ldmatrix, cp.async), not from the kernels. K is
// counted in 32-bit words. Of mma.m16n8k32/k64/k256 lane l holds of A the words (l / 4 + 8 (r % 2),
// l % 4 + 4 (r / 2)), of B the words (l % 4 + 4 r, l / 4), of C the numbers (l / 4 + 8 (r / 2),
// l % 4 * 2 + r % 2); of mma.m8n8k16/k32/k128 of A the word (l / 4, l % 4), of B the word
// (l % 4, l / 4), of C the numbers (l / 4, l % 4 * 2 + r). Asynchronous copies happen when they are
// waited for, as late as they may, or at once where threads run in reverse.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>

// Of a function whose own accesses of memory are not checked: it calls none whose are.
#define TVMQUANT_QUIET __attribute__((no_sanitize("thread")))

#define __device__
#define __global__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };

namespace emulator {

struct Copy {
  void *to;
  const void *from;
  int bytes;
  bool done = false;
};
struct Thread {
  ucontext_t context;
  std::vector<char> stack;
  dim3 index;
  bool done = false;
  bool waited = false;  // for the launches before
  int waits = 0;  // 0 runs, 1 for its warp, 2 for its block, 3 looks again later
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
  unsigned exchange[16];
  const void *address;
};

inline std::vector<Thread> threads;
inline ucontext_t scheduler;
inline int current;
inline dim3 thread_index, block_index, block_size, grid_size;
inline std::function<void()> body;
inline bool eager;  // copies happen at once
inline int events;  // what threads that look again may be waiting for
inline uint8_t *shared_first;  // the shared memory of a block
inline size_t shared_bytes;
inline bool checks;  // whether a block runs, see memory.h
// What else happens when a block starts, when its threads meet, when a thread ends.
inline void (*on_block)(), (*on_barrier)(), (*on_exit)();

[[noreturn]] inline void fail(const char *why) {
  std::fprintf(stderr, "emulator: %s\n", why);
  std::abort();
}

inline void wait(int kind) {
  const int self = current;
  threads[self].waits = kind;
  swapcontext(&threads[self].context, &scheduler);
  current = self;
  thread_index = threads[self].index;
}

inline Thread &own() { return threads[current]; }
inline int lane() { return current % 32; }
inline Thread &of_lane(int other) { return threads[current / 32 * 32 + other]; }

// See memory.h.
inline void start_bytes(), count_meeting(), end_copy(const Copy &copy);

TVMQUANT_QUIET __attribute__((noinline)) inline void perform(Copy &copy) {
  std::memcpy(copy.to, copy.from, copy.bytes);
  copy.done = true;
}

inline void finish(std::vector<Copy> &group) {
  for (Copy &copy : group) {
    if (!copy.done) perform(copy);
    end_copy(copy);
  }
}

inline void enter() {
  body();
  if (!own().open.empty()) fail("a copy was never committed");
  for (const auto &group : own().groups) {
    if (!group.empty()) fail("a copy was never waited for");
  }
  if (on_exit) on_exit();
  own().done = true;
}

// Runs threads of a warp until all wait at the same kind of place. In reverse, if asked for.
inline void run_warp(int first, int last, bool reverse) {
  for (;;) {
    for (int i = 0; i < last - first; ++i) {
      Thread &thread = threads[current = reverse ? last - 1 - i : first + i];
      if (thread.done || thread.waits == 2) continue;
      thread.waits = 0;
      thread_index = thread.index;
      swapcontext(&scheduler, &thread.context);
    }
    int kind = -1;
    for (int i = first; i < last; ++i) {
      const int own = threads[i].done ? 3 : threads[i].waits;
      if (kind < 0) kind = own;
      if (kind != own) fail("threads of a warp wait at different places");
    }
    if (kind != 1) return;
  }
}

inline void run_block(int count, bool reverse) {
  for (int i = 0; i < count; ++i) {
    Thread &thread = threads[i];
    thread.stack.resize(256 << 10);
    thread.done = false;
    thread.waited = false;
    thread.waits = 0;
    thread.groups.clear();
    thread.index = {i % block_size.x, i / block_size.x % block_size.y,
                    i / (block_size.x * block_size.y)};
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = thread.stack.size();
    thread.context.uc_link = &scheduler;
    makecontext(&thread.context, enter, 0);
  }
  for (;;) {
    int waiting = 0, done = 0, looking = 0;
    const int before = events, warps = (count + 31) / 32;
    for (int i = 0; i < warps; ++i) {
      const int warp = reverse ? warps - 1 - i : i;
      run_warp(warp * 32, std::min(count, warp * 32 + 32), reverse);
    }
    for (const Thread &thread : threads) {
      (thread.done ? done : thread.waits == 3 ? looking : waiting) += 1;
    }
    if (!waiting && !looking) break;
    if (looking) {
      if (events == before) fail("threads wait for what nobody does");
      continue;
    }
    if (done) fail("some threads ended while others wait for the block");
    count_meeting();
    if (on_barrier) on_barrier();
    for (Thread &thread : threads) thread.waits = 0;
  }
  // Launches behind this one count on it that the ones before have ended, too.
  const auto waited = [](const Thread &thread) { return thread.waited; };
  const int all = std::count_if(threads.begin(), threads.end(), waited);
  if (all != 0 && all != count) fail("some threads do not wait for the launch before");
}

// Calls `kernel` once for every thread; shared memory starts as garbage in every block.
inline void launch(dim3 grid, dim3 block, std::vector<uint8_t> &shared, bool reverse,
                   std::function<void()> kernel) {
  body = std::move(kernel);
  eager = reverse;
  grid_size = grid;
  block_size = block;
  const int count = block.x * block.y * block.z;
  threads.clear();
  threads.resize(count);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = {x, y, z};
        std::fill(shared.begin(), shared.end(), 0xA5);
        start_bytes();
        if (on_block) on_block();
        checks = true;
        run_block(count, reverse);
        checks = false;
      }
}

}  // namespace emulator

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define blockDim emulator::block_size
#define gridDim emulator::grid_size

inline void __syncthreads() { emulator::wait(2); }
inline void __syncwarp() { emulator::wait(1); }
inline int max(int a, int b) { return a > b ? a : b; }
inline int min(int a, int b) { return a < b ? a : b; }
using std::fmaxf;
using std::fminf;
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __int2float_rn(int value) { return float(value); }
inline int __float2int_rn(float value) { return int(std::nearbyint(value)); }
inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  static_assert(sizeof(T) == 4);
  std::memcpy(emulator::own().exchange, &value, 4);
  emulator::wait(1);
  std::memcpy(&value, emulator::of_lane(emulator::lane() ^ mask).exchange, 4);
  emulator::wait(1);
  return value;
}
