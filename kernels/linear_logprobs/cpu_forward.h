// Forward: a block of the head is packed by all threads, then each panel of tokens meets it alone:
// logits, exponentials, and their product with the block, all within its own cache. No sum ever
// crosses threads or panels, so neither the thread count nor the neighbours change a bit.
#pragma once

#include <vector>

#include "../common/threads.h"
#include "cpu_softmax.h"

namespace crucible::linear_logprobs::cpu {
namespace {

// Tokens worked on at a time, so that memory does not grow with T.
constexpr std::int64_t kTokens = 1024;

template <typename T>
class Forward {
 public:
  Forward(const Inputs& in, const Size& size, const Options& options, const float* even_row,
          const Outputs& out, int threads)
      : in_(in), size_(size), options_(options), even_row_(even_row), out_(out), threads_(threads) {
    const std::int64_t panels = groups(std::min(size.T, kTokens), kLanes);
    const std::int64_t block = groups(std::min(size.V, kBlock), kRows) * kRows;
    const std::int64_t columns = groups(size.H, kRows) * kRows;
    running_.resize(static_cast<std::size_t>(panels));
    hidden_ = buffer(panels * size.H * kLanes);
    head_ = buffer(block * size.H);
    if (out.slope_TH == nullptr) return;
    turned_ = buffer(columns * block);
    slope_ = buffer(panels * columns * kLanes);
    if (bends_even()) even_ = buffer(panels * columns * kLanes);
  }

  void run() {
    for (first_token_ = 0; first_token_ < size_.T; first_token_ += kTokens) {
      tokens_ = std::min(kTokens, size_.T - first_token_);
      const std::int64_t panels = groups(tokens_, kLanes);
      parallel_for(panels, threads_, [this](std::int64_t p) { start(p); });
      for (first_row_ = 0; first_row_ < size_.V; first_row_ += kBlock) {
        rows_ = std::min(kBlock, size_.V - first_row_);
        pack_block();
        parallel_for(panels, threads_, [this](std::int64_t p) { meet(p); });
      }
      parallel_for(panels, threads_, [this](std::int64_t p) { finish_panel(p); });
    }
  }

 private:
  // A softcap and smoothing at once: the even share of each row is bent by each token's logit.
  bool bends_even() const { return options_.softcap != 0.0F && options_.smoothing != 0.0F; }
  std::int64_t columns() const { return groups(size_.H, kRows) * kRows; }
  const T* hidden_row(std::int64_t token) const {
    return static_cast<const T*>(in_.hidden_TH) + token * in_.hidden_stride;
  }
  const T* head_row(std::int64_t row) const {
    return static_cast<const T*>(in_.weight_VH) + row * in_.weight_stride;
  }
  Running& running(std::int64_t panel) { return running_[static_cast<std::size_t>(panel)]; }

  void start(std::int64_t p) {
    const std::int64_t first = first_token_ + p * kLanes;
    const std::int64_t count = std::min<std::int64_t>(kLanes, size_.T - first);
    pack_rows<kLanes>(hidden_row(first), in_.hidden_stride, count, size_.H,
                      hidden_.get() + p * size_.H * kLanes);
    Running& r = running(p) = Running{};
    for (int lane = 0; lane < kLanes; ++lane) {
      r.top[lane] = -kInfinity;
      r.targets[lane] = lane < count ? in_.targets_T[first + lane] : -1;
    }
    const std::int64_t elements = columns() * kLanes;
    if (slope_) std::fill_n(slope_.get() + p * elements, elements, 0.0F);
    if (even_) std::fill_n(even_.get() + p * elements, elements, 0.0F);
  }

  // The block as the first product reads it, [row panel][H][kRows], and as the second does,
  // [hidden panel][row][kRows].
  void pack_block() {
    const std::int64_t row_panels = groups(rows_, kRows);
    const std::int64_t hidden_panels = turned_ ? columns() / kRows : 0;
    parallel_for(row_panels + hidden_panels, threads_, [&](std::int64_t i) {
      if (i < row_panels) {
        pack_rows<kRows>(head_row(first_row_ + i * kRows), in_.weight_stride, rows_ - i * kRows,
                         size_.H, head_.get() + i * kRows * size_.H);
      } else {
        const std::int64_t column = (i - row_panels) * kRows;
        pack_columns<kRows>(head_row(first_row_) + column, in_.weight_stride, rows_,
                            size_.H - column, turned_.get() + column * rows_);
      }
    });
  }

  void meet(std::int64_t p) {
    alignas(64) float logits[kScored * kLanes];
    alignas(64) float bend[kScored * kLanes];
    alignas(64) float rescale[kLanes];
    const float* bends = options_.softcap != 0.0F ? bend : nullptr;
    for (std::int64_t from = 0; from < rows_; from += kScored) {
      const std::int64_t rows = std::min<std::int64_t>(kScored, rows_ - from);
      score(head_.get() + from * size_.H, hidden_.get() + p * size_.H * kLanes, size_.H, rows,
            logits);
      if (bends != nullptr) cap(rows, options_.softcap, logits, bend);
      if (options_.smoothing != 0.0F) add_total(rows, logits, running(p));
      take_targets(first_row_ + from, rows, bends, logits, running(p));
      exponentials(rows, logits, running(p), rescale);
      if (!slope_) continue;
      if (bends != nullptr) {
        for (std::int64_t i = 0; i < rows * kLanes; ++i) logits[i] *= bend[i];
      }
      gather(p, from, rows, logits, rescale, slope_.get());
      if (even_) gather(p, from, rows, bend, nullptr, even_.get());
    }
  }

  // sums[panel] = rescale sums[panel] + block^T entries, [H][kLanes].
  void gather(std::int64_t p, std::int64_t from, std::int64_t rows, const float* entries,
              const float* rescale, float* sums) {
    float* panel = sums + p * columns() * kLanes;
    for (std::int64_t h = 0; h < columns(); h += kRows) {
      float* tile = panel + h * kLanes;
      if (rescale != nullptr) {
        for (int i = 0; i < kRows * kLanes; ++i) tile[i] *= rescale[i % kLanes];
      }
      multiply(rows, turned_.get() + h * rows_ + from * kRows, entries, tile, true);
    }
  }

  void finish_panel(std::int64_t p) {
    const Running& r = running(p);
    for (int lane = 0; lane < kLanes && r.targets[lane] >= 0; ++lane) {
      const std::int64_t token = first_token_ + p * kLanes + lane;
      const Row row = finish(r, lane, size_, options_);
      out_.logprobs_T[token] = row.logprob;
      out_.lse_T[token] = row.lse;
      out_.miss_T[token] = row.miss;
      if (slope_) finish_slope(p, lane, token, row);
    }
  }

  // D = sum over v of (q_v - p_v) bend_v W_v from its three parts: target, others, even share.
  void finish_slope(std::int64_t p, int lane, std::int64_t token, const Row& row) {
    const Running& r = running(p);
    const std::int64_t offset = p * columns() * kLanes + lane;
    const float others = -std::exp(r.top[lane] - row.lse);
    const float at_target = r.bend[lane] * (row.miss - options_.smoothing);
    const float even_share = options_.smoothing / static_cast<float>(size_.V);
    const T* target = head_row(r.targets[lane]);
    float* to = out_.slope_TH + token * size_.H;
    for (std::int64_t h = 0; h < size_.H; ++h) {
      float sum = others * slope_[static_cast<std::size_t>(offset + h * kLanes)];
      sum += at_target * widen(target[h]);
      if (even_) sum += even_share * even_[static_cast<std::size_t>(offset + h * kLanes)];
      if (even_row_ != nullptr) sum += even_row_[h];
      to[h] = sum;
    }
  }

  const Inputs& in_;
  const Size& size_;
  const Options& options_;
  const float* even_row_;
  const Outputs& out_;
  int threads_;
  std::int64_t first_token_ = 0, tokens_ = 0, first_row_ = 0, rows_ = 0;
  std::vector<Running> running_;
  Buffer hidden_;  // [panel][H][kLanes]
  Buffer head_, turned_;
  Buffer slope_, even_;  // [panel][columns][kLanes]
};

}  // namespace
}  // namespace crucible::linear_logprobs::cpu
