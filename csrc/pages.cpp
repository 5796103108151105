#include "pages.h"

#if defined(__linux__)

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>

namespace crucible {
namespace {

// An entry of a page in /proc/self/pagemap, of Linux's Documentation/admin-guide/mm/pagemap.rst.
using Entry = std::uint64_t;
constexpr Entry kOfFile = Entry{1} << 61;  // not a page of the process's own, as written ones are
constexpr Entry kHeld = Entry{3} << 62;    // present, or swapped out

std::uintptr_t page_size() {
  static const auto size = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  return size;
}

// The table is opened in each call: a file that was open before a fork shows the parent's.
class Pagemap {
 public:
  Pagemap() : file_(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)) {}
  ~Pagemap() {
    if (file_ >= 0) close(file_);
  }
  Pagemap(const Pagemap&) = delete;
  Pagemap& operator=(const Pagemap&) = delete;

  // Whether pages [first, last) are the file's wherever the process holds them.
  bool all_of_file(std::uintptr_t first, std::uintptr_t last) const {
    std::array<Entry, 2048> entries;
    for (std::uintptr_t page = first; page < last;) {
      const std::size_t count = std::min<std::size_t>(entries.size(), last - page);
      const auto wanted = static_cast<ssize_t>(count * sizeof(Entry));
      const auto offset = static_cast<off_t>(page * sizeof(Entry));
      if (pread(file_, entries.data(), count * sizeof(Entry), offset) != wanted) return false;
      for (std::size_t i = 0; i < count; ++i) {
        if ((entries[i] & kHeld) != 0 && (entries[i] & kOfFile) == 0) return false;
      }
      page += count;
    }
    return true;
  }

 private:
  int file_;
};

// Whether [begin, end) lies in one mapping whose pages become the process's own when it writes:
// what other processes write to a shared one would never show.
bool in_private_mapping(std::uintptr_t begin, std::uintptr_t end) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long from = 0, to = 0;
    char may[5] = "";
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &from, &to, may) == 3 && begin >= from &&
        begin < to) {
      return end <= to && may[3] == 'p';
    }
  }
  return false;
}

}  // namespace

bool is_of_file(const void* memory, std::size_t bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(memory), size = page_size();
  return Pagemap().all_of_file(begin / size, (begin + bytes + size - 1) / size);
}

bool give_back(void* memory, std::size_t bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(memory), size = page_size();
  const std::uintptr_t first = (begin + size - 1) / size, last = (begin + bytes) / size;
  if (first >= last || !is_of_file(memory, bytes) || !in_private_mapping(begin, begin + bytes)) {
    return false;
  }
  void* const pages = static_cast<char*>(memory) + (first * size - begin);
  return madvise(pages, (last - first) * size, MADV_DONTNEED) == 0;
}

}  // namespace crucible

#else

namespace crucible {

bool is_of_file(const void*, std::size_t) { return false; }
bool give_back(void*, std::size_t) { return false; }

}  // namespace crucible

#endif
