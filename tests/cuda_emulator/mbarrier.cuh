// Barriers in shared memory and bulk copies (mbarrier, cp.async.bulk), as the PTX ISA says.
//
// A phase ends when as many threads have arrived as the barrier counts and the bytes that were
// announced have come. Bulk copies come when everything else has, or at once; they write where
// products see it. What threads wrote before they arrived is seen by products only if each of them
// fenced it.
#pragma once
#include <map>

namespace emulator {

struct Barrier {
  int count = 0, missing = 0, phase = 0;
  bool fenced = true;
  std::vector<Copy> copies;
};

inline std::map<const void *, Barrier> barriers;

inline Barrier &barrier_at(const void *address) {
  if (reinterpret_cast<uintptr_t>(address) % 8) fail("a barrier is not aligned to 8 bytes");
  const auto found = barriers.find(address);
  if (found == barriers.end()) fail("a barrier that was not initialized");
  return found->second;
}

inline void come(Copy &copy) {
  perform(copy);
  std::memcpy(&visible[static_cast<uint8_t *>(copy.to) - shared_first], copy.from, copy.bytes);
}

inline void arrive(Barrier &barrier, bool fenced) {
  ++events;
  if (barrier.missing == 0) fail("more threads arrive at a barrier than it counts");
  barrier.fenced &= fenced;
  if (--barrier.missing) return;
  for (Copy &copy : barrier.copies) {
    if (!copy.done) come(copy);
    end_copy(copy);
  }
  barrier.copies.clear();
  if (barrier.fenced) std::copy(shared_first, shared_first + shared_bytes, visible.begin());
  barrier.fenced = true;
  barrier.missing = barrier.count;
  barrier.phase ^= 1;
}

}  // namespace emulator

namespace tvmquant {

inline void barrier_init(uint64_t *barrier, int count) {
  emulator::pairwise_order = true;
  emulator::barriers[barrier] = {count, count, 0, true, {}};
}

inline void barrier_arrive(uint64_t *barrier) {
  emulator::arrive(emulator::barrier_at(barrier), std::exchange(emulator::mine().published, false));
}

inline void copy_bulk(void *to, const void *from, int bytes, uint64_t *barrier) {
  if (bytes % 16 || reinterpret_cast<uintptr_t>(to) % 16 || reinterpret_cast<uintptr_t>(from) % 16) {
    emulator::fail("a bulk copy is not aligned to 16 bytes");
  }
  auto &found = emulator::barrier_at(barrier);
  emulator::Copy copy{to, from, bytes};
  emulator::begin_copy(copy);
  if (emulator::eager) emulator::come(copy);
  found.copies.push_back(copy);
  // Its arrival writes nothing itself.
  emulator::arrive(found, true);
}

inline void barrier_wait(uint64_t *barrier, int parity) {
  while (emulator::barrier_at(barrier).phase == parity) emulator::wait(3);
}

}  // namespace tvmquant
