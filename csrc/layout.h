// How tensors lie in memory, for kernels that walk them as flat arrays.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "tensor_ref.h"

namespace crucible {

// No gaps and no overlaps, in whatever order of dimensions.
inline bool is_dense(const TensorRef& tensor) {
  if (tensor.is_contiguous()) return true;
  std::vector<int> axes(static_cast<std::size_t>(tensor.ndim()));
  std::iota(axes.begin(), axes.end(), 0);
  std::sort(axes.begin(), axes.end(),
            [&](int a, int b) { return tensor.stride(a) < tensor.stride(b); });
  std::int64_t expected = 1;
  for (const int axis : axes) {
    if (tensor.size(axis) == 1) continue;
    if (tensor.stride(axis) != expected) return false;
    expected *= tensor.size(axis);
  }
  return true;
}

inline bool same_shape(const TensorRef& a, const TensorRef& b) {
  return std::equal(a.shape(), a.shape() + a.ndim(), b.shape(), b.shape() + b.ndim());
}

// The same shape, and the same element at the same offset.
inline bool same_layout(const TensorRef& a, const TensorRef& b) {
  if (a.ndim() != b.ndim()) return false;
  for (int axis = 0; axis < a.ndim(); ++axis) {
    if (a.size(axis) != b.size(axis)) return false;
    if (a.size(axis) != 1 && a.numel() != 0 && a.stride(axis) != b.stride(axis)) return false;
  }
  return true;
}

}  // namespace crucible
