// Which cubin takes some arguments, and how it wants them: no driver and no Python needed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../kernels/common/cubins.h"

namespace crucible {

// One argument of a launch.
struct Argument {
  enum class Kind { kNone, kPointer, kInteger, kReal };

  Kind kind = Kind::kNone;
  std::string dtype;  // of what a pointer points to, as Triton names it: "bf16"
  union {
    const void* pointer = nullptr;
    std::int64_t integer;
    double real;
  };
};

std::string show(const Argument& argument);

// A cubin's arguments, read once.
class Pattern {
 public:
  // As in `Cubin::arguments`. Throws std::invalid_argument for a type that is none.
  explicit Pattern(const std::string& arguments);

  // Why it does not take these, naming the first that does not fit, or an empty string.
  std::string refuses(const std::vector<Argument>& arguments) const;

  // What the kernel is passed of arguments that it takes, 8 bytes for each.
  std::vector<std::uint64_t> pack(const std::vector<Argument>& arguments) const;

 private:
  struct Parameter {
    std::string type;  // "*bf16", "i32", "i64", "fp32" or "none"
    bool sixteen;      // a multiple of 16
    bool one;          // always 1
    bool passed() const { return !one && type != "none"; }
  };
  static bool takes(const Parameter& parameter, const Argument& argument);

  std::vector<Parameter> parameters_;
};

// The cubins of one kernel, one architecture and one configuration, the most specialised first.
class Family {
 public:
  struct Member {
    const Cubin* cubin;
    Pattern pattern;
  };

  // Throws std::out_of_range where `cubins` has none.
  Family(const Cubins& cubins, const std::string& kernel, int architecture,
         const std::string& configuration);

  // The first that takes the arguments. Throws std::invalid_argument with the last one's reason.
  const Member& select(const std::vector<Argument>& arguments) const;

 private:
  std::vector<Member> members_;
};

}  // namespace crucible
