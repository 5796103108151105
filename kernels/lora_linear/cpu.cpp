// lora_linear on the CPU: what is declared in launch.h, over the two passes.
#include "../common/entry.h"
#include "cpu_backward.h"
#include "cpu_forward.h"

namespace crucible::lora_linear::cpu {

bool multiplies_int16() { return gemm::kInt16; }

namespace {

// A weight as one direction reads it: a panel's rows are `depth` long, its columns of `columns`.
struct Turn {
  Turn(std::int64_t N, std::int64_t K, Direction direction)
      : turned(direction == Direction::kForward), columns(turned ? N : K), depth(turned ? K : N) {}
  bool turned;  // a column is a row of the weight
  std::int64_t columns;
  std::int64_t depth;
};

// One panel in the weight's own dtype.
template <typename T>
void pack_panel(const Matrix& weight, const Turn& turn, const T* first, int count, T* to) {
  if constexpr (gemm::in_pairs<T>) {
    const std::int64_t down = turn.turned ? 1 : weight.stride;
    const std::int64_t right = turn.turned ? weight.stride : 1;
    gemm::pack_pairs(turn.depth, count, to,
                     [&](std::int64_t k, std::int64_t j) { return first[k * down + j * right]; });
  } else if (turn.turned) {
    gemm::pack_turned(first, weight.stride, turn.depth, count, to);
  } else {
    gemm::pack_rows(first, weight.stride, turn.depth, count, to);
  }
}

// One panel as integers.
template <typename T>
void quantize_panel(const Matrix& weight, const Turn& turn, const T* first, int count, void* to) {
  static thread_local gemm::Scratch scratch;
  float* const wide = scratch.take(turn.depth * gemm::kColumns);
  if (turn.turned) {
    gemm::pack_turned(first, weight.stride, turn.depth, count, wide);
  } else {
    gemm::pack_rows(first, weight.stride, turn.depth, count, wide);
  }
  if constexpr (gemm::kInt16) gemm::quantize_panel(wide, gemm::Int16Layout(turn.depth), to);
}

// Whether `element` of the weight is what the panels have there.
template <typename T>
bool holds(const T* element, const Panels& panels, const gemm::Int16Layout& layout,
           std::int64_t row, std::int64_t column) {
  if (panels.form == Form::kInt16) return layout.holds(panels.data, row, column, widen(*element));
  const std::int64_t first = column / gemm::kColumns * gemm::kColumns;
  const std::int64_t at =
      first * gemm::panel_depth<T>(layout.slices.depth) + gemm::place<T>(row, column - first);
  return std::memcmp(element, static_cast<const T*>(panels.data) + at, sizeof(T)) == 0;
}

}  // namespace

std::int64_t panels_numel(std::int64_t N, std::int64_t K, Direction direction, Form form) {
  const Turn turn(N, K, direction);
  return form == Form::kInt16 ? gemm::Int16Layout(turn.depth).numel(turn.columns)
                              : gemm::panels_numel(turn.columns, turn.depth);
}

void pack(const Matrix& weight_NK, std::int64_t N, std::int64_t K, Direction direction,
          const Panels& panels, int threads) {
  const Turn turn(N, K, direction);
  const std::int64_t stride = panels_numel(N, K, direction, panels.form) /
                              std::max<std::int64_t>(1, gemm::groups(turn.columns, gemm::kColumns));
  parallel_for(gemm::groups(turn.columns, gemm::kColumns), threads, [&](std::int64_t panel) {
    const std::int64_t first = panel * gemm::kColumns;
    const int count =
        static_cast<int>(std::min<std::int64_t>(gemm::kColumns, turn.columns - first));
    typed(weight_NK, turn.turned ? first : 0, turn.turned ? 0 : first, [&](auto* rows) {
      using T = std::remove_pointer_t<decltype(rows)>;
      if (panels.form == Form::kInt16) {
        quantize_panel(weight_NK, turn, rows, count,
                       static_cast<std::int16_t*>(panels.data) + panel * stride);
      } else {
        pack_panel(weight_NK, turn, rows, count, static_cast<T*>(panels.data) + panel * stride);
      }
    });
  });
}

bool panels_hold(const Matrix& weight_NK, std::int64_t N, std::int64_t K, Direction direction,
                 const Panels& panels) {
  constexpr std::int64_t kSample = 64;  // each of them waits for memory three times
  if (N * K == 0) return true;
  const Turn turn(N, K, direction);
  const gemm::Int16Layout layout(turn.depth);
  return typed(weight_NK, 0, 0, [&](const auto* elements) {
    // Rows in turn, columns at random; without a division, which would take longer than the rest.
    for (std::int64_t i = 0; i < kSample; ++i) {
      const std::int64_t n = i * N / kSample;
      const std::int64_t k = mix(static_cast<std::uint32_t>(i)) * K >> 32;
      const auto* const element = elements + n * weight_NK.stride + k;
      if (!holds(element, panels, layout, turn.turned ? k : n, turn.turned ? n : k)) return false;
    }
    return true;
  });
}

void forward(const Pass& pass, int threads) { ForwardPass(pass).run(threads); }

void backward(const Pass& pass, int threads) { BackwardPass(pass).run(threads); }

}  // namespace crucible::lora_linear::cpu

CRUCIBLE_ENTRY(lora_linear, multiplies_int16)
CRUCIBLE_ENTRY(lora_linear, panels_numel)
CRUCIBLE_ENTRY(lora_linear, pack)
CRUCIBLE_ENTRY(lora_linear, panels_hold)
CRUCIBLE_ENTRY(lora_linear, forward)
CRUCIBLE_ENTRY(lora_linear, backward)
