// A pass over some layers of lora_linear, as Python describes them in lists: checked, and as its
// kernels see it.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "../library.h"
#include "lora_linear_matrices.h"

namespace crucible {
namespace py = pybind11;
namespace {

inline lora_linear::Direction direction_of(bool backward) {
  return backward ? lora_linear::Direction::kBackward : lora_linear::Direction::kForward;
}

inline bool multiplies_int16() {
  static const auto said = CRUCIBLE_CPU(lora_linear, multiplies_int16);
  return said();
}

inline lora_linear::Form form_of(const TensorRef& panels) {
  if (panels.dtype() == kInt16) return lora_linear::Form::kInt16;
  return panels.dtype() == kBFloat16 ? lora_linear::Form::kBFloat16 : lora_linear::Form::kFloat32;
}

inline std::int64_t numel_of(std::int64_t N, std::int64_t K, bool backward,
                             lora_linear::Form form) {
  static const auto numel = CRUCIBLE_CPU(lora_linear, panels_numel);
  return numel(N, K, direction_of(backward), form);
}

inline lora_linear::Panels panels_of(py::handle object, std::int64_t N, std::int64_t K,
                                     bool backward) {
  TensorRef tensor(kOp, "panels", object);
  check_on_cpu(kOp, "panels", tensor);
  if (multiplies_int16()) {
    check_dtype(kOp, "panels", tensor, {kFloat32, kBFloat16, kInt16});
  } else {
    check_dtype(kOp, "panels", tensor, {kFloat32, kBFloat16});
  }
  const lora_linear::Form form = form_of(tensor);
  check_shape(kOp, "panels", tensor, "[panels_numel]", {numel_of(N, K, backward, form)});
  check_contiguous(kOp, "panels", tensor);
  return {tensor.data(), form};
}

inline lora_linear::Panels weight_of(py::handle panels, std::int64_t N, std::int64_t K,
                                     bool backward) {
  if (panels.is_none()) return {nullptr, lora_linear::Form::kFloat32};
  return panels_of(panels, N, K, backward);
}

inline lora_linear::Drop drop_of(double dropout, py::handle seed) {
  if (!(dropout >= 0.0 && dropout < 1.0)) {
    refuse_value(kOp, "dropout must be in [0, 1), got " + std::to_string(dropout));
  }
  constexpr double kMost = 4294967295.0;
  const double threshold = std::min(std::nearbyint(dropout * 4294967296.0), kMost);
  // Any 64 bits: torch's integers are signed.
  const auto bits = static_cast<std::uint64_t>(seed.cast<std::int64_t>());
  return {static_cast<std::uint32_t>(threshold), bits};
}

// One layer with one update, or several, or none. Lists have an entry a layer, or for each layer an
// entry an update; A and B may be either.
struct Lists {
  py::sequence panels;
  py::sequence biases;  // empty: none
  py::sequence rows;
  py::sequence lora_as;
  py::sequence lora_bs;
  py::sequence scales;
  double dropout;
  py::sequence seeds;
};

inline void check_lengths(const Lists& of) {
  const std::size_t layers = py::len(of.panels), updates = layers * py::len(of.rows);
  if (py::len(of.biases) != 0) check_length("biases", of.biases, layers);
  check_length("scales", of.scales, updates);
  check_length("seeds", of.seeds, updates);
}

// What a layer writes, or its gradient.
struct Output {
  std::int64_t N;
  lora_linear::Matrix y_MN;
};

// All but x, dx, and the updates' gradients. `output` gives a layer's by its place and all B,
// `next` the memory of so many elements of x A^T.
template <typename OutputOf, typename Next>
lora_linear::Pass pass_of(const Lists& of, std::int64_t M, std::int64_t K, bool backward,
                          OutputOf&& output, Next&& next) {
  check_lengths(of);
  lora_linear::Pass pass{M, K, {nullptr, 0, false}, {nullptr, 0, false}, {}};
  const lora_linear::Matrix none{nullptr, 0, false};
  const std::size_t layers = py::len(of.panels), parts = py::len(of.rows);
  const UpdateMatrices as("lora_a", "[R, K]", "[updates, R, K]", of.lora_as, layers, parts);
  const UpdateMatrices bs("lora_b", "[N, R]", "[updates, N, R]", of.lora_bs, layers, parts);
  for (std::size_t l = 0; l < layers; ++l) {
    const auto [N, y_MN] = output(l, bs);
    lora_linear::Linear linear{
        N,
        weight_of(of.panels[l], N, K, backward),
        py::len(of.biases) == 0 ? none : vector("bias", of.biases[l], "[N]", N),
        y_MN,
        {}};
    linear.updates.reserve(parts);
    std::int64_t first = 0;
    for (std::size_t u = 0; u < parts; ++u) {
      const std::size_t i = l * parts + u;
      const auto rows = of.rows[u].cast<std::int64_t>();
      const std::int64_t R = as.rows(l, u);
      if (R < 1) refuse_value(kOp, "lora_a must have at least one row, got none");
      if (rows < 0 || rows > M - first) {
        refuse_value(kOp, "rows must sum to M = " + std::to_string(M) + ", got " +
                              std::to_string(rows) + " after " + std::to_string(first));
      }
      linear.updates.push_back({first, rows, R, of.scales[i].cast<float>(),
                                drop_of(of.dropout, of.seeds[i]), as.of(l, u, R, K),
                                bs.of(l, u, N, R), next(rows * R), none, none});
      first += rows;
    }
    if (parts > 0 && first != M) {
      refuse_value(kOp,
                   "rows must sum to M = " + std::to_string(M) + ", got " + std::to_string(first));
    }
    pass.linears.push_back(std::move(linear));
  }
  return pass;
}

}  // namespace
}  // namespace crucible
