// Work on several threads, on the pool that is there already.
//
// torch's wheel carries an OpenMP runtime, and a process with two of them has two pools that spin
// against each other. So this links none: it asks the process for the one that is loaded, and makes
// threads of its own only where there is none.
#pragma once

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace crucible {
namespace threads_internal {

using Body = void (*)(void*);
using GompParallel = void (*)(Body, void*, unsigned threads, unsigned flags);

inline GompParallel find_gomp() {
  void* symbol = dlsym(RTLD_DEFAULT, "GOMP_parallel");
  if (symbol == nullptr) {
    if (void* library = dlopen("libgomp.so.1", RTLD_LAZY | RTLD_NOLOAD)) {
      symbol = dlsym(library, "GOMP_parallel");
    }
  }
  return reinterpret_cast<GompParallel>(symbol);
}

// A child of fork() has the runtime's state but not its threads: waiting for them would never end.
inline std::atomic<bool>& forked() {
  static std::atomic<bool> value{false};
  static const int registered =
      pthread_atfork(nullptr, nullptr, +[] { forked().store(true, std::memory_order_relaxed); });
  static_cast<void>(registered);
  return value;
}
// At load, so that a fork before the first call is seen too.
inline const bool watches_forks = (forked(), true);

// Looked up anew while there is none: torch may be imported after the first call.
inline GompParallel loaded_gomp() {
  static std::atomic<GompParallel> known{nullptr};
  GompParallel gomp = known.load(std::memory_order_relaxed);
  if (gomp == nullptr) known.store(gomp = find_gomp(), std::memory_order_relaxed);
  return gomp;
}

inline void run_team(int threads, Body body, void* data) {
  if (threads <= 1 || forked().load(std::memory_order_relaxed)) return body(data);
  if (const GompParallel gomp = loaded_gomp()) {
    return gomp(body, data, static_cast<unsigned>(threads), 0);
  }
  std::vector<std::thread> team;
  for (int i = 1; i < threads; ++i) team.emplace_back(body, data);
  body(data);
  for (std::thread& member : team) member.join();
}

}  // namespace threads_internal

// Whose threads `parallel` runs on: "libgomp", or "std::thread" where no OpenMP is loaded.
inline const char* thread_runtime() {
  return threads_internal::loaded_gomp() != nullptr ? "libgomp" : "std::thread";
}

// Calls body(next) on up to `threads` threads at once. `next()` hands out 0, 1, ... count - 1, each
// once over all threads, then a number >= count: a body keeps what it needs from item to item in
// its own variables. Which thread gets which item is chance, so an item must not depend on it.
// The first exception of a body is thrown here. Inside another parallel region it may be one
// thread.
template <typename F>
void parallel(std::int64_t count, int threads, F&& body) {
  struct Shared {
    std::remove_reference_t<F>& body;
    std::int64_t count;
    std::atomic<std::int64_t> next{0};
    std::mutex mutex;
    std::exception_ptr failure;
  } shared{body, count, {}, {}, {}};
  const auto member = +[](void* data) {
    auto& s = *static_cast<Shared*>(data);
    try {
      s.body([&s] { return s.next.fetch_add(1, std::memory_order_relaxed); });
    } catch (...) {
      s.next.store(s.count, std::memory_order_relaxed);  // the others need not go on
      const std::lock_guard<std::mutex> lock(s.mutex);
      if (!s.failure) s.failure = std::current_exception();
    }
  };
  if (count <= 0) return;
  threads_internal::run_team(static_cast<int>(std::min<std::int64_t>(count, std::max(threads, 1))),
                             member, &shared);
  if (shared.failure) std::rethrow_exception(shared.failure);
}

// Calls f(i) once for each i in [0, count), on up to `threads` threads.
template <typename F>
void parallel_for(std::int64_t count, int threads, F&& f) {
  parallel(count, threads, [&](auto next) {
    for (std::int64_t i = next(); i < count; i = next()) f(i);
  });
}

}  // namespace crucible
