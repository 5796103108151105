// Segments of tokens as varlen_attention takes them from Python.
#pragma once

#include <algorithm>
#include <string>

#include "../../kernels/varlen_attention/launch.h"
#include "../check.h"

namespace crucible {

// int64 on the CPU, contiguous.
inline const std::int64_t* whole_numbers(const char* argument, const TensorRef& tensor,
                                         const char* letters, std::int64_t size) {
  const char* const op = "varlen_attention";
  check_shape(op, argument, tensor, letters, {size});
  check_on_cpu(op, argument, tensor);
  check_dtype(op, argument, tensor, {kInt64});
  check_contiguous(op, argument, tensor);
  return tensor.data_as<const std::int64_t>();
}

// From 0 to T without a step back; parents, which may be None, before their children.
inline varlen_attention::Segments segments_of(pybind11::handle bounds, pybind11::handle parents,
                                              std::int64_t T) {
  const char* const op = "varlen_attention";
  const TensorRef ends(op, "cu_seqlens", bounds);
  check_ndim(op, "cu_seqlens", ends, "[segments + 1]", 1);
  const std::int64_t count = ends.size(0) - 1;
  if (count < 0) refuse_value(op, "cu_seqlens must have at least 1 element, got 0");
  const std::int64_t* at = whole_numbers("cu_seqlens", ends, "[segments + 1]", count + 1);
  if (at[0] != 0 || at[count] != T || !std::is_sorted(at, at + count + 1)) {
    refuse_value(op, "cu_seqlens must rise from 0 to T = " + std::to_string(T));
  }
  if (parents.is_none()) return {count, at, nullptr};
  const std::int64_t* up =
      whole_numbers("parents", TensorRef(op, "parents", parents), "[segments]", count);
  for (std::int64_t i = 0; i < count; ++i) {
    if (up[i] < -1 || up[i] >= i) {
      refuse_value(op, "parents[" + std::to_string(i) + "] must be an earlier segment or -1, got " +
                           std::to_string(up[i]));
    }
  }
  return {count, at, up};
}

}  // namespace crucible
