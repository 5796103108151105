// One row from memory to memory, shared by the CPU and the CUDA kernel, which add only the loop.
#pragma once

#include "../common/bfloat16.h"
#include "launch.h"

namespace crucible::row_loss {

CRUCIBLE_HOST_DEVICE double read(const Column& column, std::int64_t i) {
  const std::int64_t at = i * column.stride;
  switch (column.type) {
    case Type::kFloat32:
      return static_cast<double>(static_cast<const float*>(column.data)[at]);
    case Type::kFloat64:
      return static_cast<const double*>(column.data)[at];
    case Type::kBFloat16:
      return static_cast<double>(widen(static_cast<const BFloat16*>(column.data)[at]));
    case Type::kBool:
      return static_cast<const std::uint8_t*>(column.data)[at] != 0 ? 1.0 : 0.0;
    default:
      return 0.0;
  }
}

CRUCIBLE_HOST_DEVICE void write(void* to, Type type, std::int64_t at, double value) {
  switch (type) {
    case Type::kFloat64:
      static_cast<double*>(to)[at] = value;
      break;
    case Type::kBFloat16:
      static_cast<BFloat16*>(to)[at] = round_to_nearest(static_cast<float>(value));
      break;
    default:
      static_cast<float*>(to)[at] = static_cast<float>(value);
  }
}

CRUCIBLE_HOST_DEVICE void compute_row(const Call& call, std::int64_t i) {
  const Column* columns = call.columns;
  const Row row{read(columns[0], i), read(columns[1], i), read(columns[2], i), read(columns[3], i),
                read(columns[4], i), read(columns[5], i), read(columns[6], i)};
  const Loss loss = loss_of(row, call.terms, call.settings);
  write(call.loss, call.loss_type, i, loss.value);
  write(call.slopes, call.slopes_type, i, loss.by_first);
  if (columns[1].type != Type::kNone) {
    write(call.slopes, call.slopes_type, call.rows + i, loss.by_second);
  }
}

}  // namespace crucible::row_loss
