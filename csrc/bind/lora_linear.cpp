// The door of lora_linear: outputs are allocated by the caller and written here.
#include <string>

#include "../../kernels/lora_linear/launch.h"
#include "../check.h"
#include "../library.h"

namespace crucible {
namespace py = pybind11;
namespace {

constexpr const char* kOp = "lora_linear";

// A float32 or bfloat16 matrix on the CPU whose rows have no gaps.
lora_linear::Matrix matrix(const char* argument, py::handle object, const char* letters,
                           std::int64_t rows, std::int64_t columns) {
  const TensorRef tensor(kOp, argument, object);
  check_on_cpu(kOp, argument, tensor);
  check_dtype(kOp, argument, tensor, {kFloat32, kBFloat16});
  check_shape(kOp, argument, tensor, letters, {rows, columns});
  if (columns > 1 && rows > 0 && tensor.stride(1) != 1) {
    refuse_value(kOp, std::string(argument) + " must have rows without gaps, got stride " +
                          std::to_string(tensor.stride(1)) + " between elements");
  }
  return {tensor.data(), tensor.stride(0), tensor.dtype() == kBFloat16};
}

lora_linear::Matrix optional_matrix(const char* argument, py::handle object, const char* letters,
                                    std::int64_t rows, std::int64_t columns) {
  if (object.is_none()) return {nullptr, 0, false};
  return matrix(argument, object, letters, rows, columns);
}

lora_linear::Matrix vector(const char* argument, py::handle object, const char* letters,
                           std::int64_t size) {
  if (object.is_none()) return {nullptr, 0, false};
  const TensorRef tensor(kOp, argument, object);
  check_on_cpu(kOp, argument, tensor);
  check_dtype(kOp, argument, tensor, {kFloat32, kBFloat16});
  check_shape(kOp, argument, tensor, letters, {size});
  check_contiguous(kOp, argument, tensor);
  return {tensor.data(), size, tensor.dtype() == kBFloat16};
}

float* low_rank(py::handle object, std::int64_t M, std::int64_t R) {
  const TensorRef tensor(kOp, "xa", object);
  check_dtype(kOp, "xa", tensor, {kFloat32});
  check_contiguous(kOp, "xa", tensor);
  return static_cast<float*>(matrix("xa", object, "[M, R]", M, R).data);
}

// M, N, K, R as x (or dy) and the parameters have them; the other arguments are held to these.
lora_linear::Size size_of(const char* first, const char* letters, py::handle x, py::handle lora_a,
                          py::handle lora_b) {
  const TensorRef rows(kOp, first, x), a(kOp, "lora_a", lora_a), b(kOp, "lora_b", lora_b);
  check_ndim(kOp, first, rows, letters, 2);
  check_ndim(kOp, "lora_a", a, "[R, K]", 2);
  check_ndim(kOp, "lora_b", b, "[N, R]", 2);
  if (a.size(0) < 1) refuse_value(kOp, "lora_a must have at least one row, got " + show_shape(a));
  return {rows.size(0), b.size(0), a.size(1), a.size(0)};
}

lora_linear::Direction direction_of(bool backward) {
  return backward ? lora_linear::Direction::kBackward : lora_linear::Direction::kForward;
}

std::int64_t panels_numel(std::int64_t N, std::int64_t K, bool backward) {
  static const auto numel = CRUCIBLE_CPU(lora_linear, panels_numel);
  return numel(N, K, direction_of(backward));
}

TensorRef panels_of(py::handle object, std::int64_t N, std::int64_t K, bool backward) {
  TensorRef tensor(kOp, "panels", object);
  check_on_cpu(kOp, "panels", tensor);
  check_dtype(kOp, "panels", tensor, {kFloat32, kBFloat16});
  check_shape(kOp, "panels", tensor, "[panels_numel]", {panels_numel(N, K, backward)});
  check_contiguous(kOp, "panels", tensor);
  return tensor;
}

lora_linear::Panels weight_of(py::handle panels, std::int64_t N, std::int64_t K, bool backward) {
  if (panels.is_none()) return {nullptr, false};
  const TensorRef tensor = panels_of(panels, N, K, backward);
  return {tensor.data(), tensor.dtype() == kBFloat16};
}

struct Packed {
  lora_linear::Matrix weight;
  std::int64_t N, K;
  void* panels;
};

Packed packed_of(py::handle weight, py::handle panels, bool backward) {
  const TensorRef tensor(kOp, "weight", weight);
  check_ndim(kOp, "weight", tensor, "[N, K]", 2);
  const std::int64_t N = tensor.size(0), K = tensor.size(1);
  const TensorRef into = panels_of(panels, N, K, backward);
  check_dtype(kOp, "panels", into, {tensor.dtype()});
  return {matrix("weight", weight, "[N, K]", N, K), N, K, into.data()};
}

void pack(py::handle weight, py::handle panels, bool backward, int threads) {
  check_threads(kOp, threads);
  const Packed packed = packed_of(weight, panels, backward);
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(lora_linear, pack);
  run(packed.weight, packed.N, packed.K, direction_of(backward), packed.panels, threads);
}

bool panels_hold(py::handle weight, py::handle panels, bool backward) {
  const Packed packed = packed_of(weight, panels, backward);
  static const auto run = CRUCIBLE_CPU(lora_linear, panels_hold);
  return run(packed.weight, packed.N, packed.K, direction_of(backward), packed.panels);
}

void forward(py::handle x, py::handle panels, py::handle lora_a, py::handle lora_b, double scale,
             py::handle bias, py::handle y, py::handle xa, int threads) {
  check_threads(kOp, threads);
  const lora_linear::Size size = size_of("x", "[M, K]", x, lora_a, lora_b);
  const auto [M, N, K, R] = size;
  const lora_linear::Forward call{size,
                                  static_cast<float>(scale),
                                  matrix("x", x, "[M, K]", M, K),
                                  weight_of(panels, N, K, false),
                                  matrix("lora_a", lora_a, "[R, K]", R, K),
                                  matrix("lora_b", lora_b, "[N, R]", N, R),
                                  vector("bias", bias, "[N]", N),
                                  matrix("y", y, "[M, N]", M, N),
                                  low_rank(xa, M, R)};
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(lora_linear, forward);
  run(call, threads);
}

void backward(py::handle dy, py::handle x, py::handle panels, py::handle lora_a, py::handle lora_b,
              double scale, py::handle xa, py::handle dx, py::handle da, py::handle db,
              int threads) {
  check_threads(kOp, threads);
  const lora_linear::Size size = size_of("dy", "[M, N]", dy, lora_a, lora_b);
  const auto [M, N, K, R] = size;
  if (!dx.is_none() && panels.is_none()) {
    refuse_value(kOp, "panels must be given where dx is wanted, got None");
  }
  if (!da.is_none() && x.is_none())
    refuse_value(kOp, "x must be given where da is wanted, got None");
  const lora_linear::Backward call{size,
                                   static_cast<float>(scale),
                                   matrix("dy", dy, "[M, N]", M, N),
                                   optional_matrix("x", x, "[M, K]", M, K),
                                   weight_of(panels, N, K, true),
                                   matrix("lora_a", lora_a, "[R, K]", R, K),
                                   matrix("lora_b", lora_b, "[N, R]", N, R),
                                   low_rank(xa, M, R),
                                   optional_matrix("dx", dx, "[M, K]", M, K),
                                   optional_matrix("da", da, "[R, K]", R, K),
                                   optional_matrix("db", db, "[N, R]", N, R)};
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(lora_linear, backward);
  run(call, threads);
}

}  // namespace

void bind_lora_linear(py::module_& m) {
  m.def("lora_linear_panels_numel", &panels_numel,
        "Elements of the panels of a weight [N, K] for one direction and the instruction set in "
        "use.");
  m.def("lora_linear_pack", &pack, "Writes the panels of a weight, in its dtype.");
  m.def("lora_linear_panels_hold", &panels_hold,
        "Whether the panels agree with the weight wherever a sample of it looks.");
  m.def("lora_linear_forward", &forward, "Writes y and xa = x A^T; tensors on the CPU.");
  m.def("lora_linear_backward", &backward,
        "Writes those of dx, da and db that are not None; tensors on the CPU.");
}

}  // namespace crucible
