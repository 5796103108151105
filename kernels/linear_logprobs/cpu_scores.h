// The hidden states of a block of tokens as panels, and the logits of blocks of the head for them:
// by floats, by pairs of bfloat16, or by integers, which are twice as fast as floats
// (../common/int16.h).
//
// Of integers a logit is off by about 9e-6 |x| |w|, a thousandth of a nat or so, too much for the
// log- probability of a token. So logits that matter are computed again, in float32: the target's,
// and all that are at least 2^-7 of what is known of their token's sum. Of the others, with
// probabilities p below that, the errors are independent and leave sqrt(sum p^2) of themselves in
// the sum, an eleventh at the most.
#pragma once

#include "cpu_softmax.h"

namespace crucible::linear_logprobs::cpu {
namespace {

// Whether a head in T is multiplied by integers.
template <typename T>
constexpr bool kByIntegers = gemm::kInt16 && std::is_same_v<T, BFloat16>;
// And how many words it has then: of few, many are above 2^-7, and integers save nothing.
constexpr std::int64_t kWordsByIntegers = 2048;

// x . w, in the same order wherever it is computed.
template <typename T>
inline float dot(const T* x, const T* w, std::int64_t H) {
  Vec sums[2] = {};
  std::int64_t h = 0;
  for (; h + 2 * kWidth <= H; h += 2 * kWidth) {
    sums[0] += load(x + h) * load(w + h);
    sums[1] += load(x + h + kWidth) * load(w + h + kWidth);
  }
  const Vec both = sums[0] + sums[1];
  float sum = 0.0F;
  for (int lane = 0; lane < kWidth; ++lane) sum += both[lane];
  for (; h < H; ++h) sum += widen(x[h]) * widen(w[h]);
  return sum;
}

template <typename T>
class Scores {
 public:
  // Floats that it works in, for at most `tokens`, in whole panels.
  static std::int64_t numel(std::int64_t tokens, std::int64_t H) {
    if constexpr (kByIntegers<T>) {
      return tokens * H + groups(gemm::Int16Layout(H).numel(tokens), 2) + tokens +
             gemm::int16_numel(kBlock, H);
    } else {
      return tokens * H;
    }
  }
  // Integers only where logits stay as they are: those that matter are found before any is bent.
  Scores(const Matrix<T>& hidden, const Matrix<T>& head, const Size& size, bool bends)
      : hidden_(hidden),
        head_(head),
        H_(size.H),
        by_integers_(kByIntegers<T> && size.V >= kWordsByIntegers && !bends),
        by_pairs_(gemm::in_pairs<T> && size.H % 2 == 0),
        layout_(size.H) {}
  void work_in(float* room, std::int64_t tokens) {
    panels_ = room;
    integers_ = reinterpret_cast<std::int16_t*>(panels_ + tokens * H_);
    targets_ = panels_ + tokens * H_ + groups(layout_.numel(tokens), 2);
    rows_ = targets_ + tokens;
  }

  // Takes tokens [first, first + tokens).
  void take(std::int64_t first, std::int64_t tokens, const std::int64_t* targets) {
    first_ = first;
    tokens_ = tokens;
    if constexpr (gemm::in_pairs<T>) {
      if (by_pairs_) return pack_tokens(hidden_, first, tokens, H_, pairs());
    }
    pack_tokens(hidden_, first, tokens, H_, panels_);
    if constexpr (kByIntegers<T>) {
      if (!by_integers_) return;
      gemm::each_panel(tokens, [&](std::int64_t t, int count) {
        gemm::quantize_panel(panels_ + t * H_, layout_,
                             integers_ + t / kColumns * layout_.stride());
        for (std::int64_t i = t; i < t + kColumns; ++i) {
          targets_[i] =
              i < t + count ? dot(hidden_.row(first + i), head_.row(targets[i]), H_) : kInfinity;
        }
      });
    }
  }

  // Whether score() reads the head in float32.
  bool by_floats() const { return !by_pairs_; }

  // logits[rows][stride] of rows [first, first + rows) of the head, which `wide` has in float32.
  template <typename F>
  void score(const gemm::A& wide, std::int64_t first, std::int64_t rows, float* logits,
             std::int64_t stride, F&& after_tile) const {
    if constexpr (kByIntegers<T>) {
      if (by_integers_) return multiply(wide, rows, logits, stride, after_tile);
    }
    if constexpr (gemm::in_pairs<T>) {
      const gemm::PairRows as_they_lie{head_.row(first), head_.stride};
      if (by_pairs_) {
        return cpu::score(as_they_lie, rows, pairs(), tokens_, H_, logits, stride, after_tile);
      }
    }
    cpu::score(wide, rows, panels_, tokens_, H_, logits, stride, after_tile);
  }

  // Computes again, of the panel whose first token is `token`, what integers are not good enough
  // for. `part` is what is known of the tokens: only of these rows' own stretch of the vocabulary,
  // whatever else threads have seen.
  void correct(std::int64_t first, std::int64_t rows, std::int64_t token, const Part& part,
               float* logits, std::int64_t stride) const {
    if (!by_integers_) return;
    constexpr std::int64_t kTogether = 4;  // rows that are looked at before any lane is
    for (int half = 0; half < kColumns; half += kWidth) {
      const Vec least = known(token + half, part) - 7 * kLog2;
      for (std::int64_t v = 0; v < rows; v += kTogether) {
        const std::int64_t end = std::min(rows, v + kTogether);
        IntVec matters{};
        for (std::int64_t i = v; i < end; ++i) matters |= load(logits + i * stride + half) >= least;
        if (!any(matters)) continue;
        for (std::int64_t i = v; i < end; ++i) {
          for (int lane = 0; lane < kWidth; ++lane) {
            float& logit = logits[i * stride + half + lane];
            if (!(logit >= least[lane])) continue;
            logit = dot(hidden_.row(first_ + token + half + lane), head_.row(first + i), H_);
          }
        }
      }
    }
  }

  // The logit of a token's target, which has come out of score() as `found`.
  float of_target(std::int64_t token, float found) const {
    return by_integers_ ? targets_[token] : found;
  }

 private:
  static constexpr float kLog2 = 0.693147181F;

  BFloat16* pairs() const { return reinterpret_cast<BFloat16*>(panels_); }

  template <typename F>
  void multiply(const gemm::A& wide, std::int64_t rows, float* logits, std::int64_t stride,
                F&& after_tile) const {
    const gemm::Int16Rows whole = gemm::quantize_rows(wide, rows, H_, rows_);
    layout_.slices.each([&](std::int64_t h, std::int64_t count, bool) {
      const gemm::Int16Rows slice{whole.data + h, whole.stride, whole.scales + h / whole.slice,
                                  whole.scale_stride, whole.slice};
      for (std::int64_t t = 0; t < tokens_; t += kColumns) {
        gemm::multiply<gemm::Rows::kApart>(rows, slice, layout_.at(integers_, t, h), count, {},
                                           {logits + t, stride, kColumns, h > 0}, after_tile);
      }
    });
  }

  // At most the logarithm of each token's sum: of its target, and of its part, whose sum is taken
  // for the power of 2 below it.
  Vec known(std::int64_t token, const Part& part) const {
    const IntVec exponent = (reinterpret_cast<IntVec>(load(part.sum + token)) >> 23) - 127;
    const Vec others = load(part.top + token) + __builtin_convertvector(exponent, Vec) * kLog2;
    const Vec target = load(targets_ + token);
    return choose(others > target, others, target);
  }

  Matrix<T> hidden_, head_;
  std::int64_t H_;
  bool by_integers_, by_pairs_;
  gemm::Int16Layout layout_;
  std::int64_t first_ = 0, tokens_ = 0;
  float* panels_ = nullptr;           // [panel][H][kColumns], or half as large in pairs
  std::int16_t* integers_ = nullptr;  // the same in `layout_`
  float* targets_ = nullptr;          // their logits; infinite where a panel has no token
  float* rows_ = nullptr;             // a block of the head as integers
};

}  // namespace
}  // namespace crucible::linear_logprobs::cpu
