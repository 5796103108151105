// The head's gradient: an item is a block of the vocabulary, and its thread walks over all tokens.
// It computes the block's logits a second time, turns them into coefficients in place, and
// multiplies them with the hidden states. No two threads write one row, and a row's sum runs in
// token order.
#pragma once

#include "../common/threads.h"
#include "cpu_pull.h"

namespace crucible::linear_logprobs::cpu {
namespace {

template <typename T>
class HeadGradient {
 public:
  HeadGradient(const Inputs& in, const Size& size, const Options& options, T* dw_VH)
      : size_(size),
        blocks_(size.T),
        hidden_(hidden_of<T>(in)),
        head_(head_of<T>(in)),
        dw_VH_(dw_VH),
        pull_(in, size, options) {}

  void run(const Gradients& gradients, int threads) {
    static thread_local gemm::Scratch scratch;
    const std::int64_t padded = groups(size_.T, kColumns) * kColumns;
    float* memory = scratch.take(padded * (3 + size_.H) + gemm::panels_numel(size_.H, size_.T));
    given_ = {memory, memory + padded, memory + 2 * padded};
    panels_ = memory + 3 * padded;
    straight_ = panels_ + padded * size_.H;
    std::fill_n(memory, 3 * padded, 0.0F);
    for (std::int64_t t = 0; t < size_.T; ++t) {
      pull_.give(t, gradients.lse_T[t], gradients.miss_T[t], gradients.grad_T[t], given_);
    }
    pack_tokens(hidden_, 0, size_.T, size_.H, panels_);
    gemm::each_panel(size_.H, [&](std::int64_t h, int columns) {
      gemm::pack_rows(hidden_.data + h, hidden_.stride, size_.T, columns, straight_ + h * size_.T);
    });
    parallel(groups(size_.V, kBlock), threads, [&](auto next) {
      static thread_local gemm::Scratch room;
      for (std::int64_t i = next(); i * kBlock < size_.V; i = next()) block(i * kBlock, room);
    });
  }

 private:
  // dw of rows [first, first + kBlock).
  void block(std::int64_t first, gemm::Scratch& scratch) const {
    const std::int64_t H = size_.H, rows = std::min(kBlock, size_.V - first);
    const std::int64_t stride = blocks_.stride();
    float* logits = scratch.take(2 * kBlock * stride + kBlock * head_stride(H) + kBlock * H);
    float* bend = logits + kBlock * stride;
    float* room = bend + kBlock * stride;
    float* sums = sums_of(dw_VH_ + first * H, room + kBlock * head_stride(H));
    const gemm::A head = copy_rows(head_, first, rows, H, room);
    if (blocks_.count == 0) std::fill_n(sums, rows * H, 0.0F);
    for (std::int64_t i = 0; i < blocks_.count; ++i) {
      const std::int64_t token = blocks_.first(i), tokens = blocks_.tokens(i);
      score(head, rows, panels_ + token * H, tokens, H, logits, stride, gemm::Nothing{});
      pull_.turn(first, rows, token, tokens,
                 {given_.lse + token, given_.at_target + token, given_.grad + token}, logits,
                 stride, bend);
      gemm::each_panel(H, [&](std::int64_t h, int columns) {
        const gemm::B panel{straight_ + h * size_.T + token * kColumns, kColumns};
        gemm::multiply<gemm::Rows::kApart>(rows, {logits, stride}, panel, tokens, {},
                                           {sums + h, H, columns, i > 0});
      });
    }
    round(sums, rows * H, dw_VH_ + first * H);
  }

  // Where rows are summed: in place, or in `room` until they are rounded.
  static float* sums_of(float* dw, float*) { return dw; }
  static float* sums_of(BFloat16*, float* room) { return room; }
  static void round(const float*, std::int64_t, float*) {}
  static void round(const float* sums, std::int64_t count, BFloat16* dw) {
    for (std::int64_t i = 0; i < count; ++i) dw[i] = round_to_nearest(sums[i]);
  }

  const Size& size_;
  TokenBlocks blocks_;
  Matrix<T> hidden_, head_;
  T* dw_VH_;
  Pull pull_;
  Given given_ = {};
  float* panels_ = nullptr;    // of tokens, [panel][H][kColumns]
  float* straight_ = nullptr;  // of hidden, [panel][T][kColumns]
};

}  // namespace
}  // namespace crucible::linear_logprobs::cpu
