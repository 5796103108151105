#include "cubins.h"

#include <cstring>
#include <limits>
#include <sstream>
#include <stdexcept>

namespace crucible {
namespace {

constexpr std::uintptr_t kVector = 16;  // bytes of the widest load, and what sizes are multiples of

}  // namespace

std::string show(const Argument& argument) {
  switch (argument.kind) {
    case Argument::Kind::kNone:
      return "None";
    case Argument::Kind::kInteger:
      return std::to_string(argument.integer);
    case Argument::Kind::kReal:
      return std::to_string(argument.real);
    case Argument::Kind::kPointer:
      break;
  }
  const auto over = reinterpret_cast<std::uintptr_t>(argument.pointer) % kVector;
  return "*" + argument.dtype + (over == 0 ? "" : ", " + std::to_string(over) + " bytes past 16");
}

Pattern::Pattern(const std::string& arguments) {
  std::istringstream words(arguments);
  for (std::string word; words >> word;) {
    Parameter parameter{word, false, false};
    if (const auto colon = word.find(':'); colon != std::string::npos) {
      parameter = {word.substr(0, colon), word.substr(colon) == ":16", false};
      if (!parameter.sixteen) throw std::invalid_argument("no type of an argument: " + word);
    } else if (word == "i32=1") {
      parameter = {"i32", false, true};
    }
    const std::string& type = parameter.type;
    if (type[0] != '*' && type != "i32" && type != "i64" && type != "fp32" && type != "none") {
      throw std::invalid_argument("no type of an argument: " + word);
    }
    parameters_.push_back(parameter);
  }
}

bool Pattern::takes(const Parameter& parameter, const Argument& argument) {
  switch (argument.kind) {
    case Argument::Kind::kNone:
      return parameter.type == "none";
    case Argument::Kind::kReal:
      return parameter.type == "fp32";
    case Argument::Kind::kPointer:
      return parameter.type == "*" + argument.dtype &&
             (!parameter.sixteen ||
              reinterpret_cast<std::uintptr_t>(argument.pointer) % kVector == 0);
    case Argument::Kind::kInteger:
      break;
  }
  const std::int64_t value = argument.integer;
  if (parameter.type == "fp32") return true;
  if (parameter.type == "i32" && (value > std::numeric_limits<std::int32_t>::max() ||
                                  value < std::numeric_limits<std::int32_t>::min())) {
    return false;
  }
  return (parameter.type == "i32" || parameter.type == "i64") && (!parameter.one || value == 1) &&
         (!parameter.sixteen || value % static_cast<std::int64_t>(kVector) == 0);
}

std::string Pattern::refuses(const std::vector<Argument>& arguments) const {
  if (arguments.size() != parameters_.size()) {
    return "it takes " + std::to_string(parameters_.size()) + " arguments, got " +
           std::to_string(arguments.size());
  }
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const Parameter& wanted = parameters_[i];
    if (takes(wanted, arguments[i])) continue;
    return "argument " + std::to_string(i) + " must be " + wanted.type +
           (wanted.one       ? ", 1"
            : wanted.sixteen ? ", a multiple of 16"
                             : "") +
           ", got " + show(arguments[i]);
  }
  return "";
}

std::vector<std::uint64_t> Pattern::pack(const std::vector<Argument>& arguments) const {
  std::vector<std::uint64_t> packed;
  packed.reserve(arguments.size());
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const Parameter& parameter = parameters_[i];
    const Argument& argument = arguments[i];
    if (!parameter.passed()) continue;
    std::uint64_t word = 0;
    if (argument.kind == Argument::Kind::kPointer) {
      word = reinterpret_cast<std::uintptr_t>(argument.pointer);
    } else if (parameter.type == "fp32") {
      const auto real = static_cast<float>(argument.kind == Argument::Kind::kReal
                                               ? argument.real
                                               : static_cast<double>(argument.integer));
      std::memcpy(&word, &real, sizeof real);
    } else {
      // The low half of a little-endian word is the int32.
      word = static_cast<std::uint64_t>(argument.integer);
    }
    packed.push_back(word);
  }
  return packed;
}

Family::Family(const Cubins& cubins, const std::string& kernel, int architecture,
               const std::string& configuration) {
  for (std::size_t i = 0; i < cubins.count; ++i) {
    const Cubin& cubin = cubins.cubins[i];
    if (cubin.architecture == architecture && kernel == cubin.kernel &&
        configuration == cubin.configuration) {
      members_.push_back({&cubin, Pattern(cubin.arguments)});
    }
  }
  if (members_.empty()) {
    throw std::out_of_range(kernel + ": no cubin for sm_" + std::to_string(architecture) + " of " +
                            configuration);
  }
}

const Family::Member& Family::select(const std::vector<Argument>& arguments) const {
  std::string refused;
  for (const Member& member : members_) {
    refused = member.pattern.refuses(arguments);
    if (refused.empty()) return member;
  }
  throw std::invalid_argument(std::string(members_.back().cubin->kernel) + ": " + refused);
}

}  // namespace crucible
