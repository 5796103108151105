// The sum of log-probabilities times factors that are known beforehand, and its gradients in x and
// in the head: three products, where a value first and gradients later take four.
//
// A block of tokens at a time. Its logits for the whole vocabulary are kept until their sum is
// known; then they become coefficients in place, and both gradients are summed from them. The
// vocabulary is the tree of the forward, so the bits do not depend on the threads either.
#pragma once

#include <vector>

#include "../common/threads.h"
#include "cpu_pull.h"
#include "cpu_vocabulary.h"

namespace crucible::linear_logprobs::cpu {
namespace {

class SumGradients {
 public:
  SumGradients(const Inputs& in, const Size& size, const Options& options, const float* factors_T,
               const SumOutputs& out, int threads)
      : in_(in),
        size_(size),
        options_(options),
        factors_T_(factors_T),
        out_(out),
        threads_(threads),
        blocks_(size.T, kMostTokens),
        vocabulary_(size.V),
        hidden_(hidden_of<float>(in)),
        head_(head_of<float>(in)),
        pull_(in, size, options) {}

  void run() {
    static thread_local gemm::Scratch scratch;
    take(scratch);
    for (std::int64_t i = 0; i < blocks_.count; ++i) {
      first_token_ = blocks_.first(i);
      tokens_ = blocks_.tokens(i);
      pack();
      score_all();
      finish_tokens();
      gather_all();
    }
    if (blocks_.count == 0) std::fill_n(out_.dw_VH, size_.V * size_.H, 0.0F);
  }

 private:
  // Their logits are kept: 29 MB where V is 49152.
  static constexpr std::int64_t kMostTokens = 128;

  std::int64_t part_numel() const { return 5 * blocks_.size; }
  std::int64_t slope_numel() const { return blocks_.size * size_.H; }
  Part part_of(std::int64_t slice) const {
    float* at = parts_ + slice * part_numel();
    const std::int64_t n = blocks_.size;
    return {n, at, at + n, at + 2 * n, at + 3 * n, at + 4 * n, nullptr, nullptr};
  }
  float* logits_of(std::int64_t row) const { return logits_ + row * blocks_.stride(); }

  void take(gemm::Scratch& scratch) {
    const std::int64_t n = blocks_.size, H = size_.H;
    runs_ = vocabulary_.runs(1, threads_);
    const std::int64_t wide = gemm::panels_numel(H, n);
    logits_ = scratch.take(size_.V * blocks_.stride() + n * H + wide + 3 * n +
                           vocabulary_.slices * part_numel() + runs_ * slope_numel());
    turned_ = logits_ + size_.V * blocks_.stride();
    straight_ = turned_ + n * H;
    given_ = {straight_ + wide, straight_ + wide + n, straight_ + wide + 2 * n};
    parts_ = given_.grad + n;
    slopes_ = parts_ + vocabulary_.slices * part_numel();
  }

  // The hidden states as panels of tokens for the logits, of columns for the head's gradient.
  void pack() const {
    pack_tokens(hidden_, first_token_, tokens_, size_.H, turned_);
    gemm::each_panel(size_.H, [&](std::int64_t h, int columns) {
      gemm::pack_rows(hidden_.row(first_token_) + h, hidden_.stride, tokens_, columns,
                      straight_ + h * tokens_);
    });
  }

  void score_all() const {
    parallel(vocabulary_.slices, threads_, [&](auto next) {
      static thread_local gemm::Scratch scratch;
      float* room = scratch.take(kBlock * head_stride(size_.H));
      for (std::int64_t i = next(); i < vocabulary_.slices; i = next()) score_slice(i, room);
    });
  }

  void score_slice(std::int64_t slice, float* room) const {
    const Part part = part_of(slice);
    std::fill_n(part.top, blocks_.size, -kInfinity);
    std::fill_n(part.sum, part_numel() - blocks_.size, 0.0F);  // and all that lies behind
    const std::int64_t stride = blocks_.stride();
    vocabulary_.each_block(slice, [&](std::int64_t first, std::int64_t rows) {
      const gemm::A head = copy_rows(head_, first, rows, size_.H, room);
      score(head, rows, turned_, tokens_, size_.H, logits_of(first), stride,
            Ahead<float>(head_, first + rows, rows, size_.V, size_.H,
                         score_tiles(rows, tokens_, size_.H)));
      gemm::each_panel(tokens_, [&](std::int64_t t, int count) {
        float* logits = logits_of(first) + t;
        if (options_.smoothing != 0.0F) add_totals(rows, logits, stride, part.total + t);
        each_target(in_.targets_T + first_token_ + t, count, first, rows, stride,
                    [&](std::int64_t at, std::int64_t i) {
                      part.at_target[t + i] = logits[at];
                      logits[at] = -kInfinity;
                    });
        add_exponentials<false>(rows, logits, stride, part.top + t, part.sum + t, nullptr);
      });
    });
  }

  void finish_tokens() const {
    for (std::int64_t step = 1; step < vocabulary_.slices; step *= 2) {
      for (std::int64_t slice = 0; slice < vocabulary_.slices; slice += 2 * step) {
        merge(size_.H, part_of(slice), part_of(slice + step));
      }
    }
    std::fill_n(given_.lse, 3 * blocks_.size, 0.0F);
    for (std::int64_t t = 0; t < tokens_; ++t) {
      const Row row = finish(part_of(0), t, size_, options_);
      out_.logprobs_T[first_token_ + t] = row.logprob;
      pull_.give(t, row.lse, row.miss, factors_T_[first_token_ + t], given_);
    }
  }

  void gather_all() const {
    const std::int64_t slices = vocabulary_.slices / runs_;  // of a run
    std::int64_t depth = 0;                                  // sums that a walk over them keeps
    for (std::int64_t n = slices; n > 1; n /= 2) ++depth;
    parallel(runs_, threads_, [&](auto next) {
      static thread_local gemm::Scratch scratch;
      const std::int64_t head = kBlock * head_stride(size_.H);
      float* room = scratch.take(head + depth * slope_numel());
      for (std::int64_t i = next(); i < runs_; i = next()) {
        walk(i * slices, slices, slopes_ + i * slope_numel(), room, room + head);
      }
    });
    for (std::int64_t step = 1; step < runs_; step *= 2) {
      for (std::int64_t run = 0; run < runs_; run += 2 * step) {
        add(slopes_ + (run + step) * slope_numel(), slopes_ + run * slope_numel());
      }
    }
    for (std::int64_t t = 0; t < tokens_; ++t) {
      float* to = out_.dx_TH + (first_token_ + t) * size_.H;
      for (std::int64_t h = 0; h < size_.H; ++h) to[h] = slopes_[h * blocks_.size + t];
    }
  }

  // Sums the gradient in x over slices [first, first + count) in `into`.
  void walk(std::int64_t first, std::int64_t count, float* into, float* room, float* later) const {
    if (count > 1) {
      walk(first, count / 2, into, room, later);
      walk(first + count / 2, count / 2, later, room, later + slope_numel());
      return add(later, into);
    }
    std::fill_n(into, slope_numel(), 0.0F);
    vocabulary_.each_block(first, [&](std::int64_t row, std::int64_t rows) {
      pull_.turn(row, rows, first_token_, tokens_, given_, logits_of(row), blocks_.stride());
      add_gradients(row, rows, into, room);
    });
  }

  // What rows [first, first + rows) of the head give: dw of them, and their part of dx.
  void add_gradients(std::int64_t first, std::int64_t rows, float* dx, float* room) const {
    const std::int64_t H = size_.H, stride = blocks_.stride();
    const gemm::A head = copy_rows(head_, first, rows, H, room);
    Ahead<float> next_dw({out_.dw_VH, H}, first + rows, rows, size_.V, H, gather_tiles(tokens_, H));
    gather(head, rows, logits_of(first), stride, tokens_, H, dx, blocks_.size, next_dw);
    Ahead<float> next_head(head_, first + rows, rows, size_.V, H, score_tiles(rows, H, kColumns));
    gemm::each_panel(H, [&](std::int64_t h, int columns) {
      gemm::multiply<gemm::Rows::kApart>(
          rows, {logits_of(first), stride}, {straight_ + h * tokens_, kColumns}, tokens_, {},
          {out_.dw_VH + first * H + h, H, columns, first_token_ > 0}, next_head);
    });
  }

  void add(const float* from, float* to) const {
    for (std::int64_t i = 0; i < slope_numel(); ++i) to[i] += from[i];
  }

  const Inputs& in_;
  const Size& size_;
  const Options& options_;
  const float* factors_T_;
  SumOutputs out_;
  int threads_;
  TokenBlocks blocks_;
  Vocabulary vocabulary_;
  Matrix<float> hidden_, head_;
  Pull pull_;
  std::int64_t first_token_ = 0, tokens_ = 0, runs_ = 1;
  Given given_ = {};
  float* logits_ = nullptr;    // [V][stride], then coefficients
  float* turned_ = nullptr;    // [panel of tokens][H][kColumns]
  float* straight_ = nullptr;  // [panel of H][tokens][kColumns]
  float* parts_ = nullptr;     // of each slice
  float* slopes_ = nullptr;    // of each run, [H][tokens]
};

}  // namespace
}  // namespace crucible::linear_logprobs::cpu
