// The door of row_loss: columns in, losses and slopes written to tensors of the caller.
#include <pybind11/stl.h>

#include <array>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../../kernels/row_loss/launch.h"
#include "../check.h"
#include "../library.h"

namespace crucible {
namespace py = pybind11;
namespace {

using row_loss::Call;
using row_loss::Type;

constexpr const char* kOp = "row_loss";
constexpr std::array<const char*, row_loss::kColumns> kNames{
    "first",        "second",       "constants[0]", "constants[1]",
    "constants[2]", "constants[3]", "constants[4]"};

// formula, weight, label smoothing
using Term = std::tuple<int, double, double>;
// beta, reward_mean, tau, alpha, centering, clip_low, clip_high
using Numbers = std::array<double, 7>;

Type type_of(DataType dtype) {
  if (dtype == kFloat32) return Type::kFloat32;
  if (dtype == kFloat64) return Type::kFloat64;
  if (dtype == kBFloat16) return Type::kBFloat16;
  return Type::kBool;
}

row_loss::Column column_of(const char* name, py::handle object, const TensorRef& first) {
  if (object.is_none()) return {nullptr, 0, Type::kNone};
  const TensorRef column(kOp, name, object);
  check_device(kOp, name, column, first.device());
  check_shape(kOp, name, column, "[P]", {first.numel()});
  check_dtype(kOp, name, column, {kFloat32, kFloat64, kBFloat16, kBool});
  return {column.data(), column.stride(0), type_of(column.dtype())};
}

row_loss::Terms terms_of(const std::vector<Term>& given) {
  if (given.empty() || given.size() > row_loss::kMostTerms) {
    refuse_value(kOp, "terms must be 1 to " + std::to_string(row_loss::kMostTerms) + ", got " +
                          std::to_string(given.size()));
  }
  row_loss::Terms terms{};
  for (const auto& [formula, weight, smoothing] : given) {
    if (formula < 0 || formula >= static_cast<int>(row_loss::Formula::kCount)) {
      refuse_value(
          kOp, "a formula must be an index into row_loss_formulas, got " + std::to_string(formula));
    }
    terms.term[terms.count++] = {static_cast<row_loss::Formula>(formula), weight, smoothing};
  }
  return terms;
}

row_loss::Settings settings_of(const Numbers& n, int divergence) {
  if (divergence < 0 || divergence >= static_cast<int>(row_loss::Divergence::kCount)) {
    refuse_value(kOp, "divergence must be an index into row_loss_divergences, got " +
                          std::to_string(divergence));
  }
  return {n[0], n[1], n[2], n[3], n[4], n[5], n[6], static_cast<row_loss::Divergence>(divergence)};
}

Call call_of(const py::list& columns, const std::vector<Term>& terms, int divergence,
             const Numbers& numbers, const TensorRef& first, py::handle loss_out,
             py::handle slopes_out) {
  if (columns.size() != kNames.size()) {
    refuse_value(kOp, "columns must be " + std::to_string(kNames.size()) + ", got " +
                          std::to_string(columns.size()));
  }
  check_ndim(kOp, kNames[0], first, "[P]", 1);
  check_dtype(kOp, kNames[0], first, {kFloat32, kFloat64, kBFloat16});
  Call call{};
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    call.columns[i] = column_of(kNames[i], columns[i], first);
  }
  const TensorRef loss(kOp, "loss", loss_out);
  const TensorRef slopes(kOp, "slopes", slopes_out);
  for (const auto& [name, out] : {std::pair{"loss", &loss}, std::pair{"slopes", &slopes}}) {
    check_device(kOp, name, *out, first.device());
    check_contiguous(kOp, name, *out);
  }
  check_dtype(kOp, "loss", loss, {first.dtype()});
  check_dtype(kOp, "slopes", slopes, {first.dtype() == kFloat64 ? kFloat64 : kFloat32});
  check_shape(kOp, "loss", loss, "[P]", {first.numel()});
  check_shape(kOp, "slopes", slopes, "[1 or 2, P]",
              {call.columns[1].type == Type::kNone ? 1 : 2, first.numel()});
  call.terms = terms_of(terms);
  call.settings = settings_of(numbers, divergence);
  call.rows = first.numel();
  call.loss = loss.data();
  call.loss_type = type_of(loss.dtype());
  call.slopes = slopes.data();
  call.slopes_type = type_of(slopes.dtype());
  return call;
}

TensorRef first_of(const py::list& columns) {
  if (columns.empty()) refuse_value(kOp, "columns must not be empty");
  return TensorRef(kOp, kNames[0], columns[0]);
}

void on_cpu(const py::list& columns, const std::vector<Term>& terms, int divergence,
            const Numbers& numbers, py::handle loss, py::handle slopes, int threads) {
  check_threads(kOp, threads);
  const TensorRef first = first_of(columns);
  check_on_cpu(kOp, kNames[0], first);
  const Call call = call_of(columns, terms, divergence, numbers, first, loss, slopes);
  const py::gil_scoped_release others_run;
  static const auto launch = CRUCIBLE_CPU(row_loss, launch);
  launch(call, threads);
}

void on_cuda(const py::list& columns, const std::vector<Term>& terms, int divergence,
             const Numbers& numbers, py::handle loss, py::handle slopes) {
  const TensorRef first = first_of(columns);
  if (!first.on_cuda()) {
    refuse_value(kOp, "first must be on CUDA, got " + show(first.device()));
  }
  const Call call = call_of(columns, terms, divergence, numbers, first, loss, slopes);
  void* stream = first.stream();
  const py::gil_scoped_release others_run;
  static const auto launch = CRUCIBLE_CUDA(row_loss, launch);
  launch(call, stream);
}

}  // namespace

void bind_row_loss(py::module_& m) {
#define X(name) #name,
  m.attr("row_loss_formulas") = std::vector<std::string>{CRUCIBLE_ROW_LOSSES(X)};
  m.attr("row_loss_divergences") = std::vector<std::string>{CRUCIBLE_DIVERGENCES(X)};
#undef X
  m.def("row_loss_cpu", &on_cpu,
        "Writes the loss of each row and its slopes; tensors on the CPU. `columns` are first, "
        "second and five constants, all but the first or None; a term is a formula, its weight and "
        "its label smoothing; `numbers` are beta, reward_mean, tau, alpha, centering, clip_low and "
        "clip_high.");
  m.def("row_loss_cuda", &on_cuda,
        "As row_loss_cpu; tensors on the current CUDA device, on its current stream.");
}

}  // namespace crucible
