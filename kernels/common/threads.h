// One thread pool a process: the OpenMP runtime that torch has already loaded.
#pragma once

#include <cstdint>
#include <type_traits>

namespace crucible {

// Calls fn(context, i) for every i below count, on at most `threads` threads, in any order; returns
// when all calls have. A call must not throw. With one thread, or one item, it runs here and now.
void run_parallel(std::int64_t count, int threads, void (*fn)(void* context, std::int64_t i),
                  void* context);

// The same for a callable: fn(i).
template <typename Fn>
void parallel_for(std::int64_t count, int threads, Fn&& fn) {
  using Callable = std::remove_reference_t<Fn>;
  run_parallel(
      count, threads, [](void* context, std::int64_t i) { (*static_cast<Callable*>(context))(i); },
      const_cast<void*>(static_cast<const void*>(&fn)));
}

// Which runtime runs the threads: "libgomp", or "std::thread" where no OpenMP is loaded.
const char* thread_runtime();

}  // namespace crucible
