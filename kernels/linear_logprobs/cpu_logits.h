// Logits of a block of the head for a block of tokens, [vocabulary row][token].
//
// The head is the side of the product that lies where it is, and the hidden states are the panels,
// packed once for thousands of its rows. So a token is a lane: the softmax runs down a column of
// vectors without a shuffle, and the next product reads the exponentials as they lie.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu_vectors.h"
#include "launch.h"

namespace crucible::linear_logprobs::cpu {
namespace {

using gemm::groups;
using gemm::kColumns;

// Head rows scored at a time: a slice of them and their logits share the second-level cache.
constexpr std::int64_t kBlock = 240 / gemm::kRows * gemm::kRows;
// Tokens worked on at a time, at most.
constexpr std::int64_t kTokens = groups(144, kColumns) * kColumns;
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
  explicit TokenBlocks(std::int64_t T)
      : T(T),
        size(groups(groups(T, std::max<std::int64_t>(1, groups(T, kTokens))), kColumns) * kColumns),
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

// Floats of the room that `score` needs.
constexpr std::int64_t kScoreRoom = kBlock * gemm::kSlice;

// Rows of a slice of the head as the product reads them: in place, or side by side in `room` where
// they have to be widened or lie so far apart that they would fall into few sets of any cache.
inline gemm::A slice_of(const Matrix<float>& head, std::int64_t first, std::int64_t rows,
                        std::int64_t k, std::int64_t count, float* room) {
  if (head.stride % 1024 != 0) return {head.row(first) + k, head.stride};
  for (std::int64_t i = 0; i < rows; ++i) {
    std::copy_n(head.row(first + i) + k, count, room + i * count);
  }
  return {room, count};
}

inline gemm::A slice_of(const Matrix<BFloat16>& head, std::int64_t first, std::int64_t rows,
                        std::int64_t k, std::int64_t count, float* room) {
  for (std::int64_t i = 0; i < rows; ++i) {
    const BFloat16* from = head.row(first + i) + k;
    for (std::int64_t j = 0; j < count; ++j) room[i * count + j] = widen(from[j]);
  }
  return {room, count};
}

// logits[rows][stride] of head rows [first, first + rows) for all tokens of `panels`.
template <typename T>
void score(const Matrix<T>& head, std::int64_t first, std::int64_t rows, const float* panels,
           std::int64_t tokens, std::int64_t H, float* logits, std::int64_t stride, float* room) {
  gemm::Slices(H).each([&](std::int64_t k, std::int64_t count, bool) {
    const gemm::A a = slice_of(head, first, rows, k, count, room);
    for (std::int64_t t = 0; t < tokens; t += kColumns) {
      const gemm::B panel{panels + t * H + k * kColumns, kColumns};
      gemm::multiply<gemm::Rows::kApart>(rows, a, panel, count, {},
                                         {logits + t, stride, kColumns, k > 0});
    }
  });
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
