// The door of lora_linear: outputs are allocated by the caller and written here.
#include <memory>
#include <string>
#include <utility>

#include "lora_linear_alone.h"

namespace crucible {
namespace py = pybind11;
namespace {

std::int64_t panels_numel(std::int64_t N, std::int64_t K, bool backward, bool int16) {
  if (int16 && !multiplies_int16()) {
    refuse_value(kOp, "int16 must be false for the instruction set in use, got true");
  }
  // Panels in the weight's own dtype have as many elements in either.
  return numel_of(N, K, backward, int16 ? lora_linear::Form::kInt16 : lora_linear::Form::kFloat32);
}

struct Packed {
  lora_linear::Matrix weight;
  std::int64_t N, K;
  lora_linear::Panels panels;
};

Packed packed_of(py::handle weight, py::handle panels, bool backward) {
  const TensorRef tensor = of_two_dimensions("weight", weight, "[N, K]");
  const std::int64_t N = tensor.size(0), K = tensor.size(1);
  const lora_linear::Matrix rows = matrix("weight", tensor, "[N, K]", N, K);
  const lora_linear::Panels into = panels_of(panels, N, K, backward);
  const TensorRef found(kOp, "panels", panels);
  if (into.form != lora_linear::Form::kInt16) {
    check_dtype(kOp, "panels", found, {tensor.dtype()});
  } else if (!rows.bfloat16) {
    check_dtype(kOp, "panels", found, {kFloat32});
  }
  return {rows, N, K, into};
}

void pack(py::handle weight, py::handle panels, bool backward, int threads) {
  check_threads(kOp, threads);
  const Packed packed = packed_of(weight, panels, backward);
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(lora_linear, pack);
  run(packed.weight, packed.N, packed.K, direction_of(backward), packed.panels, threads);
}

// The arguments of a call as Python gives them, but x.
struct Layers {
  Lists of;
  py::sequence ys;  // an entry a layer; backward: dy
  py::handle xa;    // of all updates, one after the other; forward: may be None
};

// The low-rank products x A^T of all updates, handed out in order: of the caller's tensor, or in
// memory of its own where that is None and nobody will want them.
class LowRank {
 public:
  explicit LowRank(py::handle object) {
    if (object.is_none()) return;
    tensor_.emplace(kOp, "xa", object);
    check_on_cpu(kOp, "xa", *tensor_);
    check_dtype(kOp, "xa", *tensor_, {kFloat32});
    check_contiguous(kOp, "xa", *tensor_);
  }
  float* next(std::int64_t count) {
    if (!tensor_) return own_.emplace_back(new float[static_cast<std::size_t>(count)]).get();
    float* const next = tensor_->data_as<float>() + taken_;
    taken_ += count;
    return next;
  }
  // Before anything of it is touched.
  void check_all_taken() const {
    if (!tensor_ || taken_ == tensor_->numel()) return;
    refuse_value(kOp, "xa must have rows x R elements of each update, " + std::to_string(taken_) +
                          ", got shape " + show_shape(*tensor_));
  }

 private:
  std::optional<TensorRef> tensor_;
  std::int64_t taken_ = 0;
  std::vector<std::unique_ptr<float[]>> own_;
};

// All but x, dx, and the updates' gradients.
lora_linear::Pass pass_of(const Layers& given, std::int64_t M, std::int64_t K, bool backward,
                          LowRank& xa) {
  check_length("ys", given.ys, py::len(given.of.panels));
  const char* const name = backward ? "dy" : "y";
  const auto output = [&](std::size_t layer, const UpdateMatrices&) {
    const TensorRef y = of_two_dimensions(name, given.ys[layer], "[M, N]");
    return Output{y.size(1), matrix(name, y, "[M, N]", M, y.size(1))};
  };
  lora_linear::Pass pass =
      pass_of(given.of, M, K, backward, output, [&](std::int64_t count) { return xa.next(count); });
  xa.check_all_taken();
  return pass;
}

void run_forward(py::handle x, const Layers& given, int threads) {
  check_threads(kOp, threads);
  const TensorRef seen = of_two_dimensions("x", x, "[M, K]");
  const std::int64_t M = seen.size(0), K = seen.size(1);
  LowRank xa(given.xa);
  lora_linear::Pass pass = pass_of(given, M, K, false, xa);
  pass.x_MK = matrix("x", seen, "[M, K]", M, K);
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(lora_linear, forward);
  run(pass, threads);
}

void run_backward(py::handle x, const Layers& given, py::handle dx, const py::sequence& das,
                  const py::sequence& dbs, int threads) {
  check_threads(kOp, threads);
  const Lists& of = given.of;
  if (py::len(of.lora_as) == 0) refuse_value(kOp, "lora_a must have an entry, got none");
  const std::int64_t M = of_two_dimensions("dy", given.ys[0], "[M, N]").size(0);
  const TensorRef first_a(kOp, "lora_a", of.lora_as[0]);
  if (first_a.ndim() != 3) check_ndim(kOp, "lora_a", first_a, "[R, K]", 2);
  const std::int64_t K = first_a.size(first_a.ndim() - 1);
  if (given.xa.is_none()) refuse_value(kOp, "xa must be given for gradients, got None");
  LowRank xa(given.xa);
  lora_linear::Pass pass = pass_of(given, M, K, true, xa);
  pass.x_MK = optional_matrix("x", x, "[M, K]", M, K);
  pass.dx_MK = optional_matrix("dx", dx, "[M, K]", M, K);
  const std::size_t layers = pass.linears.size(), parts = py::len(of.rows);
  const UpdateMatrices into_a("da", "[R, K]", "[updates, R, K]", das, layers, parts, true);
  const UpdateMatrices into_b("db", "[N, R]", "[updates, N, R]", dbs, layers, parts, true);
  for (std::size_t l = 0; l < layers; ++l) {
    if (!dx.is_none() && of.panels[l].is_none()) {
      refuse_value(kOp, "panels must be given where dx is wanted, got None");
    }
    lora_linear::Linear& linear = pass.linears[l];
    for (std::size_t u = 0; u < parts; ++u) {
      lora_linear::Update& update = linear.updates[u];
      if (into_a.has(l, u) && x.is_none()) {
        refuse_value(kOp, "x must be given where da is wanted, got None");
      }
      update.da_RK = into_a.of(l, u, update.R, K);
      update.db_NR = into_b.of(l, u, linear.N, update.R);
    }
  }
  const py::gil_scoped_release others_run;
  static const auto run = CRUCIBLE_CPU(lora_linear, backward);
  run(pass, threads);
}

}  // namespace

void bind_lora_linear(py::module_& m) {
  m.def("lora_linear_multiplies_int16", &multiplies_int16,
        "Whether bfloat16 rows meet panels of int16 in the instruction set in use.");
  m.def("lora_linear_panels_numel", &panels_numel, py::arg("N"), py::arg("K"), py::arg("backward"),
        py::arg("int16") = false,
        "Elements of the panels of a weight [N, K] for one direction and the instruction set in "
        "use.");
  m.def("lora_linear_pack", &pack,
        "Writes the panels of a weight, in its dtype or, of bfloat16, as int16.");
  m.def(
      "lora_linear_panels_hold",
      [](py::handle weight, py::handle panels, bool backward) {
        return panels_hold(of_two_dimensions("weight", weight, "[N, K]"),
                           TensorRef(kOp, "panels", panels), backward);
      },
      "Whether the panels agree with the weight wherever a sample of it looks.");
  m.def(
      "lora_linear_forward",
      [](py::handle x, py::sequence panels, py::sequence biases, py::sequence ys, py::sequence rows,
         py::sequence lora_as, py::sequence lora_bs, py::sequence scales, py::handle xa,
         double dropout, py::sequence seeds, int threads) {
        run_forward(x, {{panels, biases, rows, lora_as, lora_bs, scales, dropout, seeds}, ys, xa},
                    threads);
      },
      "Writes y of each layer and, if it is not None, xa, x A^T of each update in turn; tensors on "
      "the CPU. Without rows there are no updates: y is x W^T, or of backward panels x W.");
  m.def(
      "lora_linear_backward",
      [](py::handle x, py::sequence panels, py::sequence dys, py::sequence rows,
         py::sequence lora_as, py::sequence lora_bs, py::sequence scales, py::handle xa,
         double dropout, py::sequence seeds, py::handle dx, py::sequence das, py::sequence dbs,
         int threads) {
        const Lists of{panels, py::tuple(), rows, lora_as, lora_bs, scales, dropout, seeds};
        run_backward(x, {of, dys, xa}, dx, das, dbs, threads);
      },
      "Writes those of dx (their sum), da and db that are not None; tensors on the CPU.");
  m.def(
      "lora_linear_forward_alone",
      [](py::handle x, py::handle weight, py::handle lora_a, py::handle lora_b, py::handle bias,
         double scale, py::handle panels, bool look, py::handle y, int threads) {
        return forward_alone({x, weight, lora_a, lora_b, bias, scale, panels, look, y}, threads);
      },
      "Writes y of one layer with one update, in few rows. Or returns false: where a tensor would "
      "have to be copied or refused, or the panels, looked at, are another weight's.");
}

}  // namespace crucible
