// Every row on the CPU, by the threads that are there.
#include <algorithm>

#include "../common/entry.h"
#include "../common/threads.h"
#include "row.h"

namespace crucible::row_loss::cpu {

void launch(const Call& call, int threads) {
  constexpr std::int64_t kChunk = 1024;  // rows a thread takes at a time: 0.1 ms
  parallel_for((call.rows + kChunk - 1) / kChunk, threads, [&](std::int64_t chunk) {
    const Call own = call;  // through the reference, the stores could change it
    const std::int64_t end = std::min(own.rows, (chunk + 1) * kChunk);
    for (std::int64_t i = chunk * kChunk; i < end; ++i) compute_row(own, i);
  });
}

}  // namespace crucible::row_loss::cpu

CRUCIBLE_ENTRY(row_loss, launch)
