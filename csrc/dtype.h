// Element types, as DLPack writes them and as torch names them.
#pragma once

#include <cstdint>
#include <string>

namespace crucible {

struct DataType {  // DLDataType of DLPack 1.x
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;

  friend bool operator==(DataType a, DataType b) {
    return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes;
  }
  friend bool operator!=(DataType a, DataType b) { return !(a == b); }
};

constexpr DataType kFloat32{2, 32, 1};
constexpr DataType kFloat64{2, 64, 1};
constexpr DataType kFloat16{2, 16, 1};
constexpr DataType kBFloat16{4, 16, 1};
constexpr DataType kInt16{0, 16, 1};
constexpr DataType kInt32{0, 32, 1};
constexpr DataType kInt64{0, 64, 1};
constexpr DataType kUInt8{1, 8, 1};
constexpr DataType kBool{6, 8, 1};

inline std::string show(DataType dtype) {
  static const char* const names[] = {"int",    "uint",    "float", "opaque",
                                      "bfloat", "complex", "bool"};
  if (dtype == kBool) return "torch.bool";
  if (dtype.code > 6 || dtype.lanes != 1) {
    return "DLPack type " + std::to_string(dtype.code) + " of " + std::to_string(dtype.bits) +
           " bits";
  }
  return std::string("torch.") + names[dtype.code] + std::to_string(dtype.bits);
}

}  // namespace crucible
