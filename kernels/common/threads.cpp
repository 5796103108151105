#include "threads.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <dlfcn.h>
#endif

namespace crucible {
namespace {

using Region = void (*)(void*);
using GompParallel = void (*)(Region, void*, unsigned threads, unsigned flags);

// A second OpenMP runtime would spin against torch's, so only one that is loaded already is used.
GompParallel loaded_gomp() {
#if defined(__linux__)
  if (void* library = dlopen("libgomp.so.1", RTLD_LAZY | RTLD_NOLOAD)) {
    return reinterpret_cast<GompParallel>(dlsym(library, "GOMP_parallel"));
  }
#endif
  return nullptr;
}

// Looked up until it is found: torch may be imported after this extension.
GompParallel gomp() {
  static std::atomic<GompParallel> found{nullptr};
  GompParallel parallel = found.load(std::memory_order_acquire);
  if (parallel == nullptr) {
    parallel = loaded_gomp();
    found.store(parallel, std::memory_order_release);
  }
  return parallel;
}

// Threads take the next item when they are free, so an uneven machine does not wait for its
// slowest.
struct Work {
  std::int64_t count;
  void (*fn)(void*, std::int64_t);
  void* context;
  std::atomic<std::int64_t> next{0};
};

void drain(void* data) {
  auto* work = static_cast<Work*>(data);
  for (;;) {
    const std::int64_t i = work->next.fetch_add(1, std::memory_order_relaxed);
    if (i >= work->count) return;
    work->fn(work->context, i);
  }
}

}  // namespace

void run_parallel(std::int64_t count, int threads, void (*fn)(void*, std::int64_t), void* context) {
  const auto wanted = static_cast<unsigned>(std::min<std::int64_t>(count, std::max(threads, 1)));
  if (wanted <= 1) {
    for (std::int64_t i = 0; i < count; ++i) fn(context, i);
    return;
  }
  Work work{count, fn, context};
  if (const GompParallel parallel = gomp()) {
    parallel(drain, &work, wanted, 0);
    return;
  }
  std::vector<std::thread> others;
  for (unsigned i = 1; i < wanted; ++i) others.emplace_back(drain, &work);
  drain(&work);
  for (std::thread& other : others) other.join();
}

const char* thread_runtime() { return gomp() != nullptr ? "libgomp" : "std::thread"; }

}  // namespace crucible
