// What a block of the head adds to the slopes of a block of tokens: by floats, or by integers where
// it is in bfloat16 and these are faster (../common/int16.h). A slope is rounded to bfloat16 in the
// end.
#pragma once

#include "cpu_scores.h"

namespace crucible::linear_logprobs::cpu {
namespace {

template <typename T>
class Gather {
 public:
  // Floats that it works in.
  static std::int64_t numel(std::int64_t H) {
    if constexpr (!kByIntegers<T>) return 0;
    return kBlock / 2 * (width(H) + kColumns) + width(H) + kColumns;
  }
  // Of a block of the head in float32, whose integers are made once for all entries.
  Gather(const gemm::A& head, std::int64_t rows, std::int64_t H, float* room)
      : head_(head), rows_(rows), H_(H) {
    if constexpr (kByIntegers<T>) {
      auto* const whole = reinterpret_cast<std::int16_t*>(room);
      float* const scales = room + kBlock / 2 * width(H);
      panel_scales_ = scales + width(H);
      panel_ = reinterpret_cast<std::int16_t*>(panel_scales_ + kColumns);
      integers_ = {whole, 2 * width(H), scales, 1, kBlock};
      for (std::int64_t h = 0; h < H; h += kWidth) {
        gemm::quantize_columns(head.data + h, head.stride, rows, whole + 2 * h, 2 * width(H),
                               scales + h);
      }
    }
  }

  // sums[H][stride] += head^T entries, of all tokens of `entries`, [rows][entries_stride].
  template <typename F>
  void add(const float* entries, std::int64_t entries_stride, std::int64_t tokens, float* sums,
           std::int64_t stride, F&& after_tile) const {
    if constexpr (!kByIntegers<T>) {
      return gather(head_, rows_, entries, entries_stride, tokens, H_, sums, stride, after_tile);
    } else {
      for (std::int64_t t = 0; t < tokens; t += kColumns) {
        for (std::int64_t j = 0; j < kColumns; j += kWidth) {
          gemm::quantize_columns(entries + t + j, entries_stride, rows_, panel_ + 2 * j,
                                 2 * kColumns, panel_scales_ + j);
        }
        const gemm::Int16Panel panel{panel_, 2 * kColumns, panel_scales_};
        gemm::multiply<gemm::Rows::kTogether>(H_, integers_, panel, rows_, {},
                                              {sums + t, stride, kColumns, true}, after_tile);
      }
    }
  }

 private:
  static std::int64_t width(std::int64_t H) { return groups(H, kWidth) * kWidth; }

  gemm::A head_;
  std::int64_t rows_, H_;
  gemm::Int16Rows
      integers_{};  // a row of these for each of H, a pair of rows of the head after the other
  std::int16_t* panel_ = nullptr;
  float* panel_scales_ = nullptr;
};

}  // namespace
}  // namespace crucible::linear_logprobs::cpu
