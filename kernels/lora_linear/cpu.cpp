// lora_linear on the CPU: what is declared in launch.h, over the two passes.
#include "../common/entry.h"
#include "cpu_backward.h"
#include "cpu_forward.h"

namespace crucible::lora_linear::cpu {

std::int64_t panels_numel(std::int64_t N, std::int64_t K, Direction direction) {
  return direction == Direction::kForward ? gemm::panels_numel(N, K) : gemm::panels_numel(K, N);
}

void pack(const Matrix& weight_NK, std::int64_t N, std::int64_t K, Direction direction,
          void* panels, int threads) {
  const bool turned = direction == Direction::kForward;
  const std::int64_t columns = turned ? N : K, depth = turned ? K : N;
  parallel_for(gemm::groups(columns, gemm::kColumns), threads, [&](std::int64_t panel) {
    const std::int64_t first = panel * gemm::kColumns;
    const int count = static_cast<int>(std::min<std::int64_t>(gemm::kColumns, columns - first));
    typed(weight_NK, turned ? first : 0, turned ? 0 : first, [&](auto* rows) {
      using T = std::remove_pointer_t<decltype(rows)>;
      auto* to = static_cast<T*>(panels) + first * gemm::panel_depth<T>(depth);
      if constexpr (gemm::in_pairs<T>) {
        const std::int64_t down = turned ? 1 : weight_NK.stride,
                           right = turned ? weight_NK.stride : 1;
        gemm::pack_pairs(depth, count, to, [&](std::int64_t k, std::int64_t j) {
          return rows[k * down + j * right];
        });
      } else if (turned) {
        gemm::pack_turned(rows, weight_NK.stride, depth, count, to);
      } else {
        gemm::pack_rows(rows, weight_NK.stride, depth, count, to);
      }
    });
  });
}

bool panels_hold(const Matrix& weight_NK, std::int64_t N, std::int64_t K, Direction direction,
                 const void* panels) {
  constexpr std::int64_t kSample = 256;
  const bool turned = direction == Direction::kForward;
  for (std::int64_t i = 0; i < kSample && N * K > 0; ++i) {
    // Rows in turn, columns at random; without a division, which would take longer than the rest.
    const std::int64_t n = i * N / kSample;
    const std::int64_t k = mix(static_cast<std::uint32_t>(i)) * K >> 32;
    const std::int64_t column = turned ? n : k, row = turned ? k : n, depth = turned ? K : N;
    const std::int64_t first = column / gemm::kColumns * gemm::kColumns;
    const bool same = typed(weight_NK, n, k, [&](auto* element) {
      using T = std::remove_pointer_t<decltype(element)>;
      const std::int64_t at =
          first * gemm::panel_depth<T>(depth) + gemm::place<T>(row, column - first);
      return std::memcmp(element, static_cast<const T*>(panels) + at, sizeof(T)) == 0;
    });
    if (!same) return false;
  }
  return true;
}

void forward(const Pass& pass, int threads) { ForwardPass(pass).run(threads); }

void backward(const Pass& pass, int threads) { BackwardPass(pass).run(threads); }

}  // namespace crucible::lora_linear::cpu

CRUCIBLE_ENTRY(lora_linear, panels_numel)
CRUCIBLE_ENTRY(lora_linear, pack)
CRUCIBLE_ENTRY(lora_linear, panels_hold)
CRUCIBLE_ENTRY(lora_linear, forward)
CRUCIBLE_ENTRY(lora_linear, backward)
