// Every CPU kernel on odd sizes, to be built with sanitizers: see ./run. Memory is exactly as large
// as it must be, so that one element too many is seen; rows lie apart, and the last one ends where
// its memory does. Results must be finite, and the same bits on one thread and on several.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/adamw_step/launch.h"
#include "kernels/common/bfloat16.h"
#include "kernels/grad_norm/launch.h"
#include "kernels/linear_logprobs/launch.h"
#include "kernels/lora_linear/launch.h"
#include "kernels/rms_norm/launch.h"
#include "kernels/rope/launch.h"
#include "kernels/row_loss/launch.h"
#include "kernels/swiglu/launch.h"
#include "kernels/varlen_attention/launch.h"

namespace {

using crucible::BFloat16;
using crucible::widen;

// Rows are this many elements longer than what is used of them.
constexpr std::int64_t kApart = 3;

float narrowed(float, float x) { return x; }
BFloat16 narrowed(BFloat16, float x) { return crucible::round_to_nearest(x); }

template <typename T>
std::vector<T> drawn(std::int64_t count, unsigned seed, float scale = 1.0F) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, scale);
  std::vector<T> made;
  made.reserve(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) made.push_back(narrowed(T{}, normal(random)));
  return made;
}

// Memory that somebody must write.
template <typename T>
std::vector<T> unwritten(std::int64_t count) {
  return std::vector<T>(static_cast<std::size_t>(count),
                        narrowed(T{}, std::numeric_limits<float>::quiet_NaN()));
}

std::int64_t apart(std::int64_t rows, std::int64_t columns) {
  return rows == 0 ? 0 : (rows - 1) * (columns + kApart) + columns;
}

// What a call made, for comparison; of rows that lie apart only what is used.
class Made {
 public:
  template <typename T>
  void add(const std::vector<T>& values) {
    for (const T value : values) values_.push_back(widen(value));
  }
  template <typename T>
  void add(const std::vector<T>& values, std::int64_t rows, std::int64_t columns) {
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < columns; ++j) {
        values_.push_back(widen(values[static_cast<std::size_t>(i * (columns + kApart) + j)]));
      }
    }
  }
  bool finite() const {
    for (const float value : values_) {
      if (!std::isfinite(value)) return false;
    }
    return true;
  }
  friend bool operator==(const Made& a, const Made& b) {
    return a.values_.size() == b.values_.size() &&
           (a.values_.empty() ||
            std::memcmp(a.values_.data(), b.values_.data(), a.values_.size() * sizeof(float)) == 0);
  }

 private:
  std::vector<float> values_;
};

int failures = 0;

void check(const std::string& name, const std::function<Made(int)>& run) {
  const Made alone = run(1);
  const bool finite = alone.finite();
  bool same = true;
  for (const int threads : {2, 5}) same = same && run(threads) == alone;
  if (!finite || !same) ++failures;
  std::printf("%s %s%s\n", finite && same ? "ok  " : "FAIL", name.c_str(),
              !finite ? ": not finite" : (!same ? ": depends on the threads" : ""));
}

// `layers` layers that read the same x, whose rows have the updates of `rows`.
template <typename T>
Made lora_linear(const std::vector<std::int64_t>& rows, std::int64_t layers, std::int64_t K,
                 std::int64_t R, bool drop, int threads) {
  namespace op = crucible::lora_linear;
  constexpr bool narrow = sizeof(T) == 2;
  std::int64_t M = 0;
  for (const std::int64_t count : rows) M += count;
  const auto matrix = [](std::vector<T>& of, std::int64_t columns) {
    return op::Matrix{of.data(), columns + kApart, narrow};
  };
  struct Update {
    std::vector<T> a, b, da, db;
    std::vector<float> xa;
  };
  struct Layer {
    std::vector<T> w, bias, y, dy;
    std::vector<Update> updates;
  };
  auto x = drawn<T>(apart(M, K), 1), dx = unwritten<T>(apart(M, K));
  std::vector<Layer> made_of;
  for (std::int64_t l = 0; l < layers; ++l) {
    const std::int64_t N = K / (l + 1) + 13;
    made_of.push_back({drawn<T>(apart(N, K), 3),
                       drawn<T>(N, 6),
                       unwritten<T>(apart(M, N)),
                       drawn<T>(apart(M, N), 2),
                       {}});
    for (const std::int64_t count : rows) {
      made_of.back().updates.push_back({drawn<T>(apart(R, K), 4), drawn<T>(apart(N, R), 5),
                                        unwritten<T>(apart(R, K)), unwritten<T>(apart(N, R)),
                                        unwritten<float>(count * R)});
    }
  }
  for (const auto direction : {op::Direction::kForward, op::Direction::kBackward}) {
    const bool forward = direction == op::Direction::kForward;
    const op::Matrix none{nullptr, 0, false};
    op::Pass pass{M, K, matrix(x, K), forward ? none : matrix(dx, K), {}};
    // Integers of 16 bits fit where bfloat16 does.
    const op::Form form = !narrow                       ? op::Form::kFloat32
                          : op::cpu::multiplies_int16() ? op::Form::kInt16
                                                        : op::Form::kBFloat16;
    std::vector<std::vector<T>> panels;
    for (std::size_t l = 0; l < made_of.size(); ++l) {
      Layer& layer = made_of[l];
      const std::int64_t N = K / (static_cast<std::int64_t>(l) + 1) + 13;
      panels.push_back(unwritten<T>(op::cpu::panels_numel(N, K, direction, form)));
      const op::Panels weight{panels.back().data(), form};
      op::cpu::pack(matrix(layer.w, K), N, K, direction, weight, threads);
      if (!op::cpu::panels_hold(matrix(layer.w, K), N, K, direction, weight)) {
        ++failures;
      }
      op::Linear linear{N,
                        weight,
                        op::Matrix{layer.bias.data(), 1, narrow},
                        matrix(forward ? layer.y : layer.dy, N),
                        {}};
      std::int64_t first = 0;
      for (std::size_t u = 0; u < rows.size(); ++u) {
        Update& own = layer.updates[u];
        linear.updates.push_back({first,
                                  rows[u],
                                  R,
                                  0.5F,
                                  {drop && u != 1 ? 0x40000000U : 0U, 42},
                                  matrix(own.a, K),
                                  matrix(own.b, R),
                                  own.xa.data(),
                                  matrix(own.da, K),
                                  matrix(own.db, R)});
        first += rows[u];
      }
      pass.linears.push_back(linear);
    }
    forward ? op::cpu::forward(pass, threads) : op::cpu::backward(pass, threads);
  }
  Made made;
  made.add(dx, M, K);
  for (std::size_t l = 0; l < made_of.size(); ++l) {
    const std::int64_t N = K / (static_cast<std::int64_t>(l) + 1) + 13;
    made.add(made_of[l].y, M, N);
    for (const Update& own : made_of[l].updates) {
      made.add(own.xa);
      made.add(own.da, R, K);
      made.add(own.db, N, R);
    }
  }
  return made;
}

template <typename T>
Made linear_logprobs(std::int64_t tokens, std::int64_t H, std::int64_t V, float softcap,
                     int threads) {
  namespace op = crucible::linear_logprobs;
  auto hidden = drawn<T>(apart(tokens, H), 1), weight = drawn<T>(apart(V, H), 2, 0.3F);
  auto grad = drawn<float>(tokens, 3);
  std::vector<std::int64_t> targets;
  for (std::int64_t t = 0; t < tokens; ++t) targets.push_back(t * 7919 % V);
  auto logprobs = unwritten<float>(tokens), lse = unwritten<float>(tokens);
  auto miss = unwritten<float>(tokens), slope = unwritten<float>(tokens * H);
  auto dw = unwritten<T>(V * H);
  const op::Inputs in{hidden.data(), weight.data(), targets.data(),
                      H + kApart,    H + kApart,    sizeof(T) == 2};
  const op::Size size{tokens, H, V};
  const op::Options options{softcap, 0.0F, 0.0F, 0};
  auto sure = unwritten<float>(tokens), drawn_slope = unwritten<float>(tokens * H);
  if (softcap == 0.0F) {
    op::cpu::forward(in, size, {0.0F, 0.0F, 0x1p-5F, 7}, nullptr,
                     {logprobs.data(), lse.data(), miss.data(), drawn_slope.data(), sure.data()},
                     threads);
  }
  op::cpu::forward(in, size, options, nullptr,
                   {logprobs.data(), lse.data(), miss.data(), slope.data(), nullptr}, threads);
  op::cpu::grad_weight(in, size, options, {grad.data(), lse.data(), miss.data()}, dw.data(),
                       threads);
  Made made;
  for (const auto* part : {&logprobs, &lse, &miss, &slope}) made.add(*part);
  if (softcap == 0.0F) {
    made.add(drawn_slope);
    made.add(sure);
  }
  made.add(dw);
  if constexpr (sizeof(T) == 4) {
    if (softcap == 0.0F) {
      auto dx = unwritten<float>(tokens * H), both = unwritten<float>(V * H);
      op::cpu::sum_gradients(in, size, options, grad.data(),
                             {logprobs.data(), dx.data(), both.data()}, threads);
      for (const auto* part : {&logprobs, &dx, &both}) made.add(*part);
    }
  }
  return made;
}

template <typename T>
Made rms_norm(std::int64_t M, std::int64_t N, int threads) {
  namespace op = crucible::rms_norm;
  constexpr bool narrow = sizeof(T) == 2;
  auto x = drawn<T>(M * N, 1), weight = drawn<T>(N, 2), dy = drawn<T>(M * N, 3);
  auto y = unwritten<T>(M * N), dx = unwritten<T>(M * N), dweight = unwritten<T>(N);
  auto rstd = unwritten<float>(M);
  const auto array = [](std::vector<T>& of) { return op::Array{of.data(), narrow}; };
  op::cpu::forward({{M, N}, 1e-5F, array(x), array(weight), array(y), rstd.data()}, threads);
  op::cpu::backward(
      {{M, N}, array(dy), array(x), array(weight), rstd.data(), array(dx), array(dweight)},
      threads);
  Made made;
  for (const auto* part : {&y, &dx, &dweight}) made.add(*part);
  return made;
}

template <typename T>
Made rope(std::int64_t tokens, std::int64_t heads, std::int64_t D, int threads) {
  namespace op = crucible::rope;
  auto x = drawn<T>(tokens * heads * D, 1);
  auto cos = drawn<float>(tokens * D / 2, 2), sin = drawn<float>(tokens * D / 2, 3);
  auto y = unwritten<T>(tokens * heads * D), back = unwritten<T>(tokens * heads * D);
  const op::Size size{tokens, heads, D};
  constexpr bool narrow = sizeof(T) == 2;
  op::cpu::rotate({size, narrow, false, x.data(), cos.data(), sin.data(), y.data()}, threads);
  op::cpu::rotate({size, narrow, true, y.data(), cos.data(), sin.data(), back.data()}, threads);
  Made made;
  made.add(y);
  made.add(back);
  return made;
}

template <typename T>
Made swiglu(std::int64_t numel, int threads) {
  namespace op = crucible::swiglu;
  auto gate = drawn<T>(numel, 1, 40.0F), up = drawn<T>(numel, 2), dy = drawn<T>(numel, 3);
  auto y = unwritten<T>(numel), dgate = unwritten<T>(numel), dup = unwritten<T>(numel);
  constexpr bool narrow = sizeof(T) == 2;
  op::cpu::forward({numel, narrow, gate.data(), up.data(), y.data()}, threads);
  op::cpu::backward({numel, narrow, dy.data(), gate.data(), up.data(), dgate.data(), dup.data()},
                    threads);
  Made made;
  for (const auto* part : {&y, &dgate, &dup}) made.add(*part);
  return made;
}

template <typename T>
Made varlen_attention(const std::vector<std::int64_t>& bounds,
                      const std::vector<std::int64_t>& parents, std::int64_t D, std::int64_t window,
                      int threads) {
  namespace op = crucible::varlen_attention;
  constexpr std::int64_t A = 4, G = 2;
  const std::int64_t tokens = bounds.back(), wide = tokens * A * D, narrow = tokens * G * D;
  auto q = drawn<T>(wide, 1), dout = drawn<T>(wide, 2), out = unwritten<T>(wide);
  auto k = drawn<T>(narrow, 3), v = drawn<T>(narrow, 4), dq = unwritten<T>(wide);
  auto dk = unwritten<T>(narrow), dv = unwritten<T>(narrow);
  auto lse = unwritten<float>(tokens * A);
  const op::Segments segments{static_cast<std::int64_t>(parents.size()), bounds.data(),
                              parents.data()};
  const op::Inputs in{{tokens, A, G, D}, segments, 0.3F,     window,
                      sizeof(T) == 2,    q.data(), k.data(), v.data()};
  op::cpu::forward({in, out.data(), lse.data()}, threads);
  op::cpu::backward({in, dout.data(), out.data(), lse.data(), dq.data(), dk.data(), dv.data()},
                    threads);
  Made made;
  for (const auto* part : {&out, &dq, &dk, &dv}) made.add(*part);
  made.add(lse);
  return made;
}

// Every formula, on columns whose numbers lie apart; the last one ends where its memory does.
template <typename T>
Made row_loss(std::int64_t rows, int threads) {
  namespace op = crucible::row_loss;
  constexpr auto type = sizeof(T) == 2 ? op::Type::kBFloat16 : op::Type::kFloat32;
  Made made;
  for (int f = 0; f < static_cast<int>(op::Formula::kCount); ++f) {
    op::Call call{};
    std::vector<std::vector<T>> columns;
    for (unsigned i = 0; i < op::kColumns; ++i) {
      columns.push_back(drawn<T>(apart(rows, 1), i, 2.0F));
      for (T& x : columns.back()) x = i == 4 || i == 5 ? narrowed(T{}, 7.0F) : x;  // lengths
      call.columns[i] = {columns.back().data(), 1 + kApart, type};
    }
    call.terms.term[0] = {static_cast<op::Formula>(f), 1.0, 0.1};
    call.terms.count = 1;
    call.settings = {0.3, 0.1, 0.5, 0.7, 0.01, 0.8, 1.2, op::Divergence::js};
    auto loss = unwritten<T>(rows);
    auto slopes = unwritten<float>(2 * rows);
    call.rows = rows;
    call.loss = loss.data();
    call.loss_type = type;
    call.slopes = slopes.data();
    call.slopes_type = op::Type::kFloat32;
    op::cpu::launch(call, threads);
    made.add(loss);
    made.add(slopes);
  }
  return made;
}

// AdamW on tensors of several sizes by the norm of their gradients; moments in 8 or 16 bits, or
// float32.
template <typename T, typename Moment>
Made optimizer(const std::vector<std::int64_t>& numels, int threads) {
  namespace op = crucible::adamw_step;
  const op::Options options{0.01, 0.9, 0.95, 1e-8, 0.1, 0.5, 1.0, 42};
  std::vector<std::vector<T>> params, grads;
  std::vector<std::vector<Moment>> means, squares;
  std::vector<std::vector<float>> mean_scales, square_scales;
  double norm = 0.0;
  op::Step step{{},
                op::constants_of(options),
                {&norm, options.max_norm, options.grad_scale},
                sizeof(Moment) == 1   ? op::Moments::kEightBit
                : sizeof(Moment) == 2 ? op::Moments::kBFloat16
                                      : op::Moments::kFloat32,
                sizeof(T) == 2};
  std::vector<crucible::grad_norm::Gradient> gradients;
  for (std::size_t i = 0; i < numels.size(); ++i) {
    const std::int64_t numel = numels[i];
    const auto blocks = static_cast<std::size_t>(op::blocks_of(numel));
    params.push_back(drawn<T>(numel, 1));
    grads.push_back(drawn<T>(numel, 2));
    means.push_back(std::vector<Moment>(static_cast<std::size_t>(numel), Moment{1}));
    squares.push_back(std::vector<Moment>(static_cast<std::size_t>(numel), Moment{1}));
    mean_scales.push_back(std::vector<float>(blocks, 0.5F));
    square_scales.push_back(std::vector<float>(blocks, 0.25F));
    step.tensors.push_back({params[i].data(), grads[i].data(), means[i].data(), squares[i].data(),
                            mean_scales[i].data(), square_scales[i].data(), numel,
                            op::corrections_of(options, 3, static_cast<std::uint32_t>(i)),
                            sizeof(T) == 2, sizeof(T) == 2});
    gradients.push_back({grads[i].data(), numel, sizeof(T) == 2});
  }
  norm = crucible::grad_norm::cpu::launch(gradients, threads);
  op::cpu::launch(step, threads);
  Made made;
  made.add(std::vector<float>{static_cast<float>(norm)});
  for (std::size_t i = 0; i < numels.size(); ++i) {
    made.add(params[i]);
    for (const auto* moments : {&means[i], &squares[i]}) {
      if constexpr (sizeof(Moment) == 1) {
        made.add(std::vector<float>(moments->begin(), moments->end()));
      } else {
        made.add(*moments);
      }
    }
    made.add(mean_scales[i]);
    made.add(square_scales[i]);
  }
  return made;
}

template <typename T>
void check_all(const std::string& dtype) {
  struct Linears {
    std::vector<std::int64_t> rows;
    std::int64_t layers, K, R;
    bool drop;
  };
  for (const auto& s :
       {Linears{{1}, 1, 1, 1, false}, Linears{{5}, 1, 47, 1, true}, Linears{{87}, 2, 71, 5, false},
        Linears{{37}, 1, 24, 67, false}, Linears{{301}, 1, 657, 17, true},
        Linears{{4, 8, 28, 29}, 1, 150, 16, false},
        Linears{{1, 4, 0, 200, 7, 90, 60}, 3, 129, 9, true}}) {
    check("lora_linear " + std::to_string(s.rows.size()) + " updates " + std::to_string(s.layers) +
              " layers " + dtype,
          [&](int threads) { return lora_linear<T>(s.rows, s.layers, s.K, s.R, s.drop, threads); });
  }
  struct Head {
    std::int64_t tokens, H, V;
    float softcap;
  };
  for (const auto& s : {Head{1, 64, 300, 0.0F}, Head{5, 8, 1, 0.0F}, Head{67, 37, 1031, 0.0F},
                        Head{301, 33, 517, 2.0F}, Head{3, 17, 9001, 0.0F}}) {
    check("linear_logprobs " + std::to_string(s.tokens) + " tokens " + dtype,
          [&](int threads) { return linear_logprobs<T>(s.tokens, s.H, s.V, s.softcap, threads); });
  }
  for (const auto [M, N] :
       {std::pair{1, 37}, std::pair{15, 131}, std::pair{3, 4610}, std::pair{300, 72}}) {
    check("rms_norm " + std::to_string(M) + " rows " + dtype,
          [&, M = M, N = N](int threads) { return rms_norm<T>(M, N, threads); });
  }
  for (const auto [tokens, D] : {std::pair{1, 2}, std::pair{7, 22}, std::pair{301, 80}}) {
    check("rope " + std::to_string(tokens) + " tokens " + dtype,
          [&, tokens = tokens, D = D](int threads) { return rope<T>(tokens, 3, D, threads); });
  }
  for (const std::int64_t numel : {1, 131, 33410}) {
    check("swiglu " + std::to_string(numel) + " " + dtype,
          [&](int threads) { return swiglu<T>(numel, threads); });
  }
  for (const std::int64_t rows : {1, 131, 3077}) {
    check("row_loss " + std::to_string(rows) + " rows " + dtype,
          [&](int threads) { return row_loss<T>(rows, threads); });
  }
  for (const std::int64_t window : {0, 20}) {
    check("varlen_attention, window " + std::to_string(window) + " " + dtype, [&](int threads) {
      return varlen_attention<T>({0, 70, 79, 79, 145, 150}, {-1, 0, 0, 2, -1}, 22, window, threads);
    });
  }
  check("adamw_step, grad_norm " + dtype,
        [](int threads) { return optimizer<T, float>({1, 17, 33, 0, 129, 40961}, threads); });
  check("adamw_step in 16 bits, " + dtype,
        [](int threads) { return optimizer<T, BFloat16>({1, 17, 33, 0, 129, 40961}, threads); });
  check("adamw_step in 8 bits, " + dtype, [](int threads) {
    return optimizer<T, std::uint8_t>({1, 17, 255, 0, 257, 40961}, threads);
  });
}

}  // namespace

int main() {
  check_all<float>("float32");
  check_all<BFloat16>("bfloat16");
  std::printf("%d failed\n", failures);
  return failures == 0 ? 0 : 1;
}
