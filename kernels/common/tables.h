// Many small tensors in one launch: the table of them travels in the launch's arguments, and each
// block finds its tensor there, so that nothing is copied to the device first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "bfloat16.h"

namespace crucible {

// Bytes of arguments that a launch takes, from CUDA 12.1 on for devices of sm_70 and later.
constexpr std::size_t kArgumentBytes = 32764;
constexpr std::int64_t kMostBlocks = 0x7fffffff;  // of a grid

// As many tensors as fit beside other arguments of `kOther` bytes.
template <typename Tensor, std::size_t kOther>
struct Table {
  static constexpr int kCapacity =
      static_cast<int>((kArgumentBytes - kOther - 2 * sizeof(std::int64_t)) /
                       (sizeof(Tensor) + sizeof(std::uint32_t)));

  Tensor tensors[kCapacity];
  std::uint32_t first_block[kCapacity + 1];  // [i + 1] is past the last block of i
  std::int32_t size;

  std::uint32_t blocks() const { return first_block[size]; }
};

// Whose block it is: the last i with first_block[i] <= block, of `size` with at least one block.
CRUCIBLE_HOST_DEVICE int tensor_of(const std::uint32_t* first_block, int size,
                                   std::uint32_t block) {
  int low = 0;
  int high = size;  // first_block[high] > block
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (first_block[middle] <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// Calls send(table) for the tensors in order, with tables as full as they get; a tensor without
// elements is in none.
template <typename Launched, typename Tensor, typename Send>
void in_tables(const char* op, const std::vector<Tensor>& tensors, std::int64_t elements_a_block,
               Send&& send) {
  Launched table{};
  for (const Tensor& tensor : tensors) {
    const std::int64_t blocks = (tensor.numel + elements_a_block - 1) / elements_a_block;
    if (blocks == 0) continue;
    if (blocks > kMostBlocks) {
      throw std::runtime_error(std::string(op) + ": a tensor of " + std::to_string(tensor.numel) +
                               " elements is more than one grid takes");
    }
    if (table.size == Launched::kCapacity || table.blocks() + blocks > kMostBlocks) {
      send(table);
      table.size = 0;
    }
    table.tensors[table.size] = tensor;
    table.first_block[table.size + 1] = table.blocks() + static_cast<std::uint32_t>(blocks);
    ++table.size;
  }
  if (table.size > 0) send(table);
}

}  // namespace crucible
