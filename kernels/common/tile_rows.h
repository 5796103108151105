// Where the rows of A are that one tile of gemm.h reads.
#pragma once

#include <cstdint>

namespace crucible::gemm {

// How they lie: row i of column k is at
//   kApart     data[i * stride + k]      rows of a matrix
//   kTogether  data[i + k * stride]      columns of a matrix: its transpose
// or, where operands come in pairs along the reduction, a pair at 2 k, or at 2 i.
enum class Rows { kApart, kTogether };

// Their addresses, column by column of `width` elements each. An instruction adds no, one or two
// strides to an address, so every third row has a pointer.
template <int kCount, Rows kLie, typename T>
class TileRows {
 public:
  __attribute__((always_inline)) TileRows(const T* data, std::int64_t stride, std::int64_t width)
      : along_(kLie == Rows::kApart ? width : stride),
        across_(kLie == Rows::kApart ? stride : width) {
    for (int i = 0; i < kCount; i += kShare) {
      rows_[i / kShare] = data + i * across_;
      // Else GCC computes all of them from one, by more offsets than there are registers.
      asm("" : "+r"(rows_[i / kShare]));
    }
  }
  __attribute__((always_inline)) const T* at(int row) const {
    return rows_[row / kShare] + row % kShare * across_;
  }
  __attribute__((always_inline)) void go_on() {
    for (const T*& row : rows_) row += along_;
  }

 private:
  static constexpr int kShare = kLie == Rows::kApart ? 3 : kCount;
  const std::int64_t along_, across_;
  const T* rows_[(kCount + kShare - 1) / kShare];
};

}  // namespace crucible::gemm
