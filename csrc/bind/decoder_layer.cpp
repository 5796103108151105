// The door of a decoder layer. It makes what it writes: how large that is depends on all it is
// given.
#include "../decoder_layer.h"

#include <array>
#include <utility>
#include <vector>

#include "lora_linear_pass.h"
#include "segments.h"

namespace crucible {
namespace {

namespace layer = decoder_layer;
constexpr const char* kLayer = "decoder_layer";
constexpr std::int64_t kLine = 64;  // bytes; what is kept begins at multiples of it

using Passes = std::array<lora_linear::Pass*, 4>;
Passes passes_of(layer::Layer& of) { return {&of.qkv, &of.o, &of.gate_up, &of.down}; }

TensorRef rows_of(const char* argument, py::handle object) {
  TensorRef tensor(kLayer, argument, object);
  check_ndim(kLayer, argument, tensor, "[T, H]", 2);
  check_on_cpu(kLayer, argument, tensor);
  check_dtype(kLayer, argument, tensor, {kFloat32, kBFloat16});
  check_contiguous(kLayer, argument, tensor);
  return tensor;
}

layer::Norm norm_of(const py::tuple& given, std::int64_t H) {
  const TensorRef weight(kLayer, "norm", given[0]);
  check_shape(kLayer, "norm", weight, "[H]", {H});
  check_on_cpu(kLayer, "norm", weight);
  check_dtype(kLayer, "norm", weight, {kFloat32, kBFloat16});
  check_contiguous(kLayer, "norm", weight);
  return {{weight.data(), weight.dtype() == kBFloat16}, given[1].cast<float>()};
}

const float* angles(const char* argument, const TensorRef& tensor, std::int64_t T,
                    std::int64_t half) {
  check_shape(kLayer, argument, tensor, "[T, D / 2]", {T, half});
  check_on_cpu(kLayer, argument, tensor);
  check_dtype(kLayer, argument, tensor, {kFloat32});
  check_contiguous(kLayer, argument, tensor);
  return tensor.data_as<const float>();
}

// Linears that read the same rows of K columns, `count` of them.
lora_linear::Pass pass_of(const py::tuple& given, std::size_t count, std::int64_t T, std::int64_t K,
                          bool backward) {
  const Lists of{
      given[0], given[1], given[2], given[3], given[4], given[5], given[6].cast<double>(),
      given[7]};
  check_length("panels", of.panels, count);
  if (py::len(of.rows) == 0) refuse_value(kOp, "rows must have an entry, got none");
  const auto output = [](std::size_t place, const UpdateMatrices& lora_bs) {
    return Output{lora_bs.rows(place, 0), {nullptr, 0, false}};
  };
  const auto kept_later = [](std::int64_t) -> float* { return nullptr; };
  return pass_of(of, T, K, backward, output, kept_later);
}

void check_outputs(const char* linear, const lora_linear::Linear& of, std::int64_t wanted) {
  if (of.N == wanted) return;
  refuse_value(kLayer, std::string(linear) + " must give " + std::to_string(wanted) +
                           " columns, got " + std::to_string(of.N));
}

// (cos, sin, bounds, parents, scale, window)
void read_attention(layer::Layer& into, const py::tuple& given, std::int64_t T) {
  const TensorRef cos(kLayer, "cos", given[0]), sin(kLayer, "sin", given[1]);
  check_ndim(kLayer, "cos", cos, "[T, D / 2]", 2);
  const std::int64_t half = cos.size(1);
  into.cos = angles("cos", cos, T, half);
  into.sin = angles("sin", sin, T, half);
  varlen_attention::Inputs& in = into.attention;
  in.size = {T, 0, 0, 2 * half};
  in.segments = segments_of(given[2], given[3], T);
  in.scale = given[4].cast<float>();
  in.window = given[5].cast<std::int64_t>();
  if (in.window < 0) {
    refuse_value(kLayer, "window must be at least 0, got " + std::to_string(in.window));
  }
  in.bfloat16 = into.bfloat16;
}

void read_heads(layer::Layer& into) {
  const auto& linears = into.qkv.linears;
  varlen_attention::Size& size = into.attention.size;
  size.A = size.D < 1 ? 0 : linears[0].N / size.D;
  size.G = size.D < 1 ? 0 : linears[1].N / size.D;
  if (size.G < 1 || size.A < 1 || size.A % size.G != 0 || linears[0].N != size.A * size.D) {
    refuse_value(kLayer, "q must be whole heads of " + std::to_string(size.D) +
                             " elements, as many for each of k, got " +
                             std::to_string(linears[0].N) + " and " + std::to_string(linears[1].N));
  }
  check_outputs("k", linears[1], size.G * size.D);
  check_outputs("v", linears[2], size.G * size.D);
}

layer::Layer layer_of(const TensorRef& x, const py::tuple& norms, const py::tuple& attention,
                      const py::tuple& linears, bool backward) {
  const std::int64_t T = x.size(0), H = x.size(1);
  layer::Layer made{};
  made.H = H;
  made.bfloat16 = x.dtype() == kBFloat16;
  made.before_attention = norm_of(norms[0], H);
  made.before_mlp = norm_of(norms[1], H);
  read_attention(made, attention, T);
  made.qkv = pass_of(linears[0], 3, T, H, backward);
  read_heads(made);
  made.o = pass_of(linears[1], 1, T, made.qkv.linears[0].N, backward);
  check_outputs("o", made.o.linears[0], H);
  made.gate_up = pass_of(linears[2], 2, T, H, backward);
  const std::int64_t inner = made.gate_up.linears[0].N;
  check_outputs("up", made.gate_up.linears[1], inner);
  made.down = pass_of(linears[3], 1, T, inner, backward);
  check_outputs("down", made.down.linears[0], H);
  return made;
}

// Calls `take` with the bytes of each part of what is kept, in order.
template <typename Take>
layer::Kept kept_of(layer::Layer& of, Take&& take) {
  const auto& size = of.attention.size;
  const std::int64_t width = of.bfloat16 ? 2 : 4, T = size.T;
  const auto floats = [&](std::int64_t count) { return static_cast<float*>(take(4 * count)); };
  const auto rows = [&](std::int64_t columns) { return take(T * columns * width); };
  for (lora_linear::Pass* const pass : passes_of(of)) {
    std::int64_t count = 0;
    for (const auto& linear : pass->linears) {
      for (const auto& update : linear.updates) count += update.rows * update.R;
    }
    float* next = floats(count);
    for (auto& linear : pass->linears) {
      for (auto& update : linear.updates) {
        update.xa = next;
        if (next != nullptr) next += update.rows * update.R;
      }
    }
  }
  const std::int64_t queries = size.A * size.D, keys = size.G * size.D;
  return {floats(T),          rows(queries), rows(keys), rows(keys),       rows(queries),
          floats(T * size.A), rows(of.H),    floats(T),  rows(of.inner()), rows(of.inner())};
}

std::int64_t lines(std::int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

// Elements of x's dtype that what is kept takes.
std::int64_t kept_numel(layer::Layer& of) {
  std::int64_t bytes = 0;
  kept_of(of, [&](std::int64_t more) -> void* {
    bytes += lines(more);
    return nullptr;
  });
  return bytes / (of.bfloat16 ? 2 : 4);
}

layer::Kept kept_in(layer::Layer& of, py::handle object, DataType dtype) {
  const TensorRef tensor(kLayer, "kept", object);
  check_shape(kLayer, "kept", tensor, "[numel]", {kept_numel(of)});
  check_on_cpu(kLayer, "kept", tensor);
  check_dtype(kLayer, "kept", tensor, {dtype});
  check_contiguous(kLayer, "kept", tensor);
  char* next = tensor.data_as<char>();
  return kept_of(of, [&](std::int64_t bytes) -> void* {
    void* const here = next;
    next += lines(bytes);
    return here;
  });
}

std::pair<py::object, py::object> forward(py::handle x, const py::tuple& norms,
                                          const py::tuple& attention, const py::tuple& linears,
                                          int threads) {
  check_threads(kLayer, threads);
  const TensorRef rows = rows_of("x", x);
  layer::Layer made = layer_of(rows, norms, attention, linears, false);
  const py::object new_empty = x.attr("new_empty");
  py::object y = new_empty(rows.size(0), rows.size(1)), kept = new_empty(kept_numel(made));
  void* const into = TensorRef(kLayer, "y", y).data();
  const layer::Kept parts = kept_in(made, kept, rows.dtype());
  {
    const py::gil_scoped_release others_run;
    layer::forward(made, rows.data(), parts, into, threads);
  }
  return {std::move(y), std::move(kept)};
}

// A new tensor like each, which are added to `gradients`; or as many None.
py::list like(const py::sequence& tensors, bool wanted, py::list& gradients) {
  py::list made;
  for (const py::handle tensor : tensors) {
    made.append(wanted ? tensor.attr("new_empty")(tensor.attr("shape")) : py::none());
  }
  for (const py::handle gradient : made) gradients.append(gradient);
  return made;
}

// Gives each update its gradients, and adds them to `gradients`: those of all A, then of all B.
void want(lora_linear::Pass& pass, const py::tuple& given, bool wants_a, bool wants_b,
          py::list& gradients) {
  const std::size_t layers = pass.linears.size(), parts = py::len(py::object(given[2]));
  const py::list das = like(given[3], wants_a, gradients), dbs = like(given[4], wants_b, gradients);
  const UpdateMatrices into_a("da", "[R, K]", "[updates, R, K]", das, layers, parts, true);
  const UpdateMatrices into_b("db", "[N, R]", "[updates, N, R]", dbs, layers, parts, true);
  for (std::size_t l = 0; l < layers; ++l) {
    for (std::size_t u = 0; u < parts; ++u) {
      lora_linear::Update& update = pass.linears[l].updates[u];
      update.da_RK = into_a.of(l, u, update.R, pass.K);
      update.db_NR = into_b.of(l, u, pass.linears[l].N, update.R);
    }
  }
}

std::pair<py::object, py::list> backward(py::handle dy, py::handle x, py::handle kept,
                                         const py::tuple& norms, const py::tuple& attention,
                                         const py::tuple& linears, const py::sequence& wanted,
                                         bool wants_x, int threads) {
  check_threads(kLayer, threads);
  const TensorRef rows = rows_of("x", x), slope = rows_of("dy", dy);
  check_shape(kLayer, "dy", slope, "[T, H]", {rows.size(0), rows.size(1)});
  check_dtype(kLayer, "dy", slope, {rows.dtype()});
  layer::Layer made = layer_of(rows, norms, attention, linears, true);
  const layer::Kept parts = kept_in(made, kept, rows.dtype());
  py::list gradients;
  const Passes passes = passes_of(made);
  for (std::size_t i = 0; i < passes.size(); ++i) {
    const auto [a, b] = wanted[i].cast<std::pair<bool, bool>>();
    want(*passes[i], linears[i], a, b, gradients);
    const bool hands_on = i > 0 || wants_x;
    for (const lora_linear::Linear& linear : passes[i]->linears) {
      if (hands_on && linear.weight.data == nullptr) {
        refuse_value(kLayer, "panels must be given where dx is wanted, got None");
      }
    }
  }
  py::object dx = py::none();
  if (wants_x) dx = x.attr("new_empty")(rows.size(0), rows.size(1));
  void* const into = wants_x ? TensorRef(kLayer, "dx", dx).data() : nullptr;
  {
    const py::gil_scoped_release others_run;
    layer::backward(made, slope.data(), rows.data(), parts, into, threads);
  }
  return {std::move(dx), std::move(gradients)};
}

}  // namespace

void bind_decoder_layer(py::module_& m) {
  m.def("decoder_layer_forward", &forward,
        "y [T, H], and what the backward needs beside x; tensors on the CPU.");
  m.def("decoder_layer_backward", &backward,
        "dx or None, and the gradients of all A and all B of each group of linears, or None.");
}

}  // namespace crucible
