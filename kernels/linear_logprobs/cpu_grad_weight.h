// The head's gradient: a thread owns a block of the vocabulary and walks over all tokens. It
// computes the block's logits a second time, turns them into coefficients in place, and multiplies
// them with the hidden states. No two threads write one row, and a row's sum runs in token order.
#pragma once

#include "../common/threads.h"
#include "cpu_softmax.h"

namespace crucible::linear_logprobs::cpu {
namespace {

constexpr int kPanels = 256 / kLanes;  // 256 tokens between two visits to the sums

struct HeadGradient {
  const Inputs& in;
  const Size& size;
  const Options& options;
  const Gradients& gradients;
};

// One thread's working memory.
template <typename T>
class Worker {
 public:
  explicit Worker(const HeadGradient& of)
      : of_(of),
        columns_(groups(of.size.H, kLanes) * kLanes),
        head_(buffer(kBlock * of.size.H)),
        sums_(buffer(kBlock * columns_)),
        hidden_(buffer(kPanels * of.size.H * kLanes)),
        turned_(buffer(kPanels * kLanes * columns_)),
        pulls_(buffer(kPanels * kBlock * kLanes)) {}

  void block(std::int64_t first, T* dw_VH) {
    const Size& size = of_.size;
    const std::int64_t rows = std::min(kBlock, size.V - first);
    for (std::int64_t v = 0; v < rows; v += kRows) {
      const T* from = static_cast<const T*>(of_.in.weight_VH) + (first + v) * of_.in.weight_stride;
      pack_rows<kRows>(from, of_.in.weight_stride, rows - v, size.H, head_.get() + v * size.H);
    }
    std::fill_n(sums_.get(), kBlock * columns_, 0.0F);
    for (std::int64_t token = 0; token < size.T; token += kPanels * kLanes) {
      const auto panels = static_cast<int>(
          groups(std::min<std::int64_t>(kPanels * kLanes, size.T - token), kLanes));
      pack_tokens(token, panels);
      for (int p = 0; p < panels; ++p) pull(first, rows, token + p * kLanes, p);
      gather(rows, panels);
    }
    for (std::int64_t v = 0; v < rows; ++v) {
      for (std::int64_t h = 0; h < size.H; ++h) {
        narrow(sums_[static_cast<std::size_t>(v * columns_ + h)], dw_VH[(first + v) * size.H + h]);
      }
    }
  }

 private:
  static void narrow(float from, float& to) { to = from; }
  static void narrow(float from, BFloat16& to) { to = round_to_nearest(from); }

  // Hidden states as the first product reads them, [panel][H][kLanes], and as the second does,
  // [hidden panel][token][kLanes].
  void pack_tokens(std::int64_t token, int panels) {
    const Size& size = of_.size;
    const T* from = static_cast<const T*>(of_.in.hidden_TH) + token * of_.in.hidden_stride;
    const std::int64_t stride = of_.in.hidden_stride;
    const std::int64_t count = std::min<std::int64_t>(panels * kLanes, size.T - token);
    for (int p = 0; p < panels; ++p) {
      pack_rows<kLanes>(from + p * kLanes * stride, stride, count - p * kLanes, size.H,
                        hidden_.get() + p * size.H * kLanes);
    }
    const std::int64_t padded = panels * kLanes;
    for (std::int64_t h = 0; h < columns_; h += kLanes) {
      float* to = turned_.get() + h * padded;
      pack_columns<kLanes>(from + h, stride, count, size.H - h, to);
      std::fill_n(to + count * kLanes, (padded - count) * kLanes, 0.0F);
    }
  }

  // The coefficients of one panel, [kBlock][kLanes], zero beyond the block's rows.
  void pull(std::int64_t first, std::int64_t rows, std::int64_t token, int p) {
    alignas(64) float bend[kScored * kLanes];
    const Given given = given_for(token);
    const float* bends = of_.options.softcap != 0.0F ? bend : nullptr;
    const float even_share = of_.options.smoothing / static_cast<float>(of_.size.V);
    float* panel = pulls_.get() + p * kBlock * kLanes;
    for (std::int64_t from = 0; from < rows; from += kScored) {
      const std::int64_t scored = std::min<std::int64_t>(kScored, rows - from);
      float* logits = panel + from * kLanes;
      score(head_.get() + from * of_.size.H, hidden_.get() + p * of_.size.H * kLanes, of_.size.H,
            scored, logits);
      if (bends != nullptr) cap(scored, of_.options.softcap, logits, bend);
      pulls(first + from, scored, even_share, bends, given, logits);
    }
    std::fill_n(panel + rows * kLanes, (kBlock - rows) * kLanes, 0.0F);
  }

  Given given_for(std::int64_t token) const {
    Given given = {};
    const float even_share = of_.options.smoothing / static_cast<float>(of_.size.V);
    for (int lane = 0; lane < kLanes; ++lane) {
      const bool there = token + lane < of_.size.T;
      given.targets[lane] = there ? of_.in.targets_T[token + lane] : -1;
      if (!there) continue;
      given.lse[lane] = of_.gradients.lse_T[token + lane];
      given.grad[lane] = of_.gradients.grad_T[token + lane];
      given.at_target[lane] =
          of_.gradients.miss_T[token + lane] - of_.options.smoothing + even_share;
    }
    return given;
  }

  void gather(std::int64_t rows, int panels) {
    const std::int64_t padded = panels * kLanes;
    for (std::int64_t h = 0; h < columns_; h += kLanes) {
      for (std::int64_t v = 0; v < rows; v += kRows) {
        multiply_panels(panels, pulls_.get() + v * kLanes, kBlock * kLanes,
                        turned_.get() + h * padded, sums_.get() + v * columns_ + h, columns_);
      }
    }
  }

  const HeadGradient& of_;
  std::int64_t columns_;
  Buffer head_;    // [row panel][H][kRows]
  Buffer sums_;    // [kBlock][columns_]
  Buffer hidden_;  // [panel][H][kLanes]
  Buffer turned_;  // [hidden panel][token][kLanes]
  Buffer pulls_;   // [panel][kBlock][kLanes]
};

template <typename T>
void fill(const HeadGradient& gradient, T* dw_VH, int threads) {
  const std::int64_t blocks = groups(gradient.size.V, kBlock);
  const std::int64_t workers = std::min<std::int64_t>(threads, blocks);
  parallel_for(workers, threads, [&](std::int64_t worker) {
    Worker<T> memory(gradient);
    for (std::int64_t b = worker; b < blocks; b += workers) memory.block(b * kBlock, dw_VH);
  });
}

}  // namespace
}  // namespace crucible::linear_logprobs::cpu
