// Logits of a block of the head for a block of tokens, [vocabulary row][token].
//
// The hidden states are the panels, packed once for thousands of the head's rows. So a token is a
// lane: the softmax runs down a column of vectors without a shuffle, and the exponentials are the
// panels of the next product as they lie.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu_vectors.h"
#include "launch.h"

namespace crucible::linear_logprobs::cpu {
namespace {

using gemm::groups;
using gemm::kColumns;

// Head rows scored at a time. In float32 they share the second-level cache with their logits and
// what is summed from them; a panel of the logits shares the first with the head's part of a tile.
constexpr std::int64_t kBlock = 112 / gemm::kRows * gemm::kRows;
// Tokens worked on at a time, at most: each block of them reads the head once. Processors with
// AVX-512 have a second-level cache of 1 MB or more.
constexpr std::int64_t kTokens = groups(gemm::kWidth == 16 ? 256 : 144, kColumns) * kColumns;
// A cache line of floats.
constexpr std::int64_t kLine = 16;

// Rows in the dtype they have.
template <typename T>
struct Matrix {
  const T* row(std::int64_t i) const { return data + i * stride; }
  const T* data;
  std::int64_t stride;
};

template <typename T>
Matrix<T> hidden_of(const Inputs& in) {
  return {static_cast<const T*>(in.hidden_TH), in.hidden_stride};
}
template <typename T>
Matrix<T> head_of(const Inputs& in) {
  return {static_cast<const T*>(in.weight_VH), in.weight_stride};
}

// Tokens in equal blocks of whole panels.
struct TokenBlocks {
  explicit TokenBlocks(std::int64_t T, std::int64_t most = kTokens)
      : T(T),
        size(groups(groups(T, std::max<std::int64_t>(1, groups(T, most))), kColumns) * kColumns),
        count(T == 0 ? 0 : groups(T, size)) {}
  std::int64_t first(std::int64_t block) const { return block * size; }
  std::int64_t tokens(std::int64_t block) const { return std::min(size, T - first(block)); }
  // Floats between two rows of logits: an odd number of lines, or a column of them would fall into
  // few sets of the first-level cache.
  std::int64_t stride() const { return (groups(size, kLine) | 1) * kLine; }
  std::int64_t T;
  std::int64_t size;
  std::int64_t count;
};

// Hidden states as panels, [panel][H][kColumns].
template <typename T>
void pack_tokens(const Matrix<T>& hidden, std::int64_t first, std::int64_t tokens, std::int64_t H,
                 float* panels) {
  gemm::each_panel(tokens, [&](std::int64_t t, int count) {
    gemm::pack_turned(hidden.row(first + t), hidden.stride, H, count, panels + t * H);
  });
}

// The same in pairs; H is even.
inline void pack_tokens(const Matrix<BFloat16>& hidden, std::int64_t first, std::int64_t tokens,
                        std::int64_t H, BFloat16* panels) {
  gemm::each_panel(tokens, [&](std::int64_t t, int count) {
    gemm::pack_pairs(H, count, panels + t * H,
                     [&](std::int64_t h, std::int64_t j) { return hidden.row(first + t + j)[h]; });
  });
}

// Floats between two rows of a block of the head: an odd number of lines, as `TokenBlocks::stride`.
constexpr std::int64_t head_stride(std::int64_t H) { return (groups(H, kLine) | 1) * kLine; }

// Rows [first, first + rows) of the head as both products read them: in float32, side by side.
template <typename T>
gemm::A copy_rows(const Matrix<T>& head, std::int64_t first, std::int64_t rows, std::int64_t H,
                  float* room) {
  const std::int64_t stride = head_stride(H);
  for (std::int64_t i = 0; i < rows; ++i) {
    const T* from = head.row(first + i);
    for (std::int64_t h = 0; h < H; ++h) gemm::put(room[i * stride + h], from[h]);
  }
  return {room, stride};
}

// Asks for the next block of the head while the products of this one run, a few cache lines after
// each tile: at once they would be more than can be on their way.
template <typename T>
class Ahead {
 public:
  // Rows [first, first + rows), of which no more are asked for than there are; `tiles` is how many
  // tiles there will be.
  Ahead(const Matrix<T>& head, std::int64_t first, std::int64_t rows, std::int64_t V,
        std::int64_t H, std::int64_t tiles)
      : at_(reinterpret_cast<const char*>(head.row(first))),
        row_(at_),
        width_(H * static_cast<std::int64_t>(sizeof(T))),
        stride_(head.stride * static_cast<std::int64_t>(sizeof(T))),
        left_(std::max<std::int64_t>(0, std::min(rows, V - first))),
        lines_(groups(left_ * groups(width_, kLineBytes), tiles)) {}

  void operator()() {
    for (std::int64_t i = 0; i < lines_ && left_ > 0; ++i) {
      __builtin_prefetch(at_, 0, 2);
      at_ += kLineBytes;
      if (at_ < row_ + width_) continue;
      at_ = row_ += stride_;
      --left_;
    }
  }

 private:
  static constexpr std::int64_t kLineBytes = kLine * static_cast<std::int64_t>(sizeof(float));
  const char* at_;
  const char* row_;
  std::int64_t width_, stride_, left_, lines_;
};

// Tiles of `score`, and of `gather`.
inline std::int64_t score_tiles(std::int64_t rows, std::int64_t tokens, std::int64_t H) {
  return groups(rows, gemm::kRows) * groups(tokens, kColumns) * groups(H, gemm::Slices(H).size);
}
inline std::int64_t gather_tiles(std::int64_t tokens, std::int64_t H) {
  return groups(H, gemm::kRows) * groups(tokens, kColumns);
}

// logits[rows][stride] of a block of the head for all tokens of `panels`, both in float32 or both
// in pairs.
template <typename Rows, typename P, typename F>
void score(const Rows& head, std::int64_t rows, const P* panels, std::int64_t tokens,
           std::int64_t H, float* logits, std::int64_t stride, F&& after_tile) {
  gemm::Slices(H).each([&](std::int64_t h, std::int64_t count, bool) {
    for (std::int64_t t = 0; t < tokens; t += kColumns) {
      gemm::multiply<gemm::Rows::kApart>(rows, Rows{head.data + h, head.stride},
                                         gemm::panel_at(panels + t * H + h * kColumns), count, {},
                                         {logits + t, stride, kColumns, h > 0}, after_tile);
    }
  });
}

// sums[H][stride] += head^T entries, for all tokens of `entries`, [rows][stride].
template <typename F>
void gather(const gemm::A& head, std::int64_t rows, const float* entries,
            std::int64_t entries_stride, std::int64_t tokens, std::int64_t H, float* sums,
            std::int64_t stride, F&& after_tile) {
  for (std::int64_t t = 0; t < tokens; t += kColumns) {
    gemm::multiply<gemm::Rows::kTogether>(H, head, {entries + t, entries_stride}, rows, {},
                                          {sums + t, stride, kColumns, true}, after_tile);
  }
}

// z becomes softcap tanh(z / softcap); bend is its derivative. One panel of each.
inline void cap(std::int64_t rows, float softcap, float* logits, float* bend, std::int64_t stride) {
  for (std::int64_t v = 0; v < rows; ++v) {
    for (std::int64_t i = v * stride; i < v * stride + kColumns; i += kWidth) {
      const Vec bounded = hyperbolic_tangent(load(logits + i) / softcap);
      store(logits + i, softcap * bounded);
      store(bend + i, 1.0F - bounded * bounded);
    }
  }
}

// One panel times another.
inline void scale_by(const float* bend, std::int64_t rows, float* entries, std::int64_t stride) {
  for (std::int64_t v = 0; v < rows; ++v) {
    for (std::int64_t i = v * stride; i < v * stride + kColumns; i += kWidth) {
      store(entries + i, load(entries + i) * load(bend + i));
    }
  }
}

// As many threads as the work can keep busy for longer than it takes to wake one.
inline int useful_threads(int threads, const Size& size, int products) {
  const double work = 2.0 * products * static_cast<double>(size.T) * static_cast<double>(size.H) *
                      static_cast<double>(size.V);
  constexpr double kWorth = 1 << 23;
  return static_cast<int>(
      std::clamp(work / kWorth, 1.0, static_cast<double>(std::max(threads, 1))));
}

}  // namespace
}  // namespace crucible::linear_logprobs::cpu
