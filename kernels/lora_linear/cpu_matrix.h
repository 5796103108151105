// Matrices of either dtype as the products want them: float32 blocks and panels.
#pragma once

#include "../common/hash.h"
#include "../common/int16.h"
#include "../common/threads.h"
#include "launch.h"

namespace crucible::lora_linear::cpu {
namespace {

// M rows in blocks of about `most` at the most: with what belongs to them they stay in the second-
// level cache. Of whole tiles, as equal as these allow, and of an even number where they are more
// than two: of 9, one of two threads would wait for the other. Depends on M only, and so do all
// sums.
struct Blocks {
  Blocks(std::int64_t M, std::int64_t most) : M(M), count(0), tiles(0), larger(0), rows(0) {
    if (M == 0) return;
    const std::int64_t all = gemm::groups(M, gemm::kRows);
    count = gemm::groups(all, gemm::groups(most, gemm::kRows));
    if (count > 2) count += count % 2;
    tiles = all / count;
    larger = all % count;
    rows = (tiles + (larger > 0 ? 1 : 0)) * gemm::kRows;
  }
  std::int64_t first(std::int64_t block) const {
    return (block * tiles + std::min(block, larger)) * gemm::kRows;
  }
  std::int64_t size(std::int64_t block) const {
    return std::min(M, first(block + 1)) - first(block);
  }
  std::int64_t M;
  std::int64_t count;
  std::int64_t tiles;   // of a block
  std::int64_t larger;  // so many of the first have one more
  std::int64_t rows;    // of the largest, in whole tiles
};

// Calls f(typed pointer to the element), for the dtype that the matrix has.
template <typename F>
auto typed(const Matrix& m, std::int64_t row, std::int64_t column, F&& f) {
  const std::int64_t offset = row * m.stride + column;
  return m.bfloat16 ? f(static_cast<BFloat16*>(m.data) + offset)
                    : f(static_cast<float*>(m.data) + offset);
}

// A block of rows in float32: where it lies, or widened into `room` (rows * columns floats).
gemm::A block_of(const Matrix& m, std::int64_t first, std::int64_t rows, std::int64_t columns,
                 float* room) {
  if (!m.bfloat16) return {static_cast<const float*>(m.data) + first * m.stride, m.stride};
  for (std::int64_t i = 0; i < rows; ++i) {
    const auto* from = static_cast<const BFloat16*>(m.data) + (first + i) * m.stride;
    for (std::int64_t j = 0; j < columns; ++j) room[i * columns + j] = widen(from[j]);
  }
  return {room, columns};
}

// Where a block of the result is summed: in place, or in `room` until round_block().
gemm::C result_of(const Matrix& m, std::int64_t first, std::int64_t columns, float* room) {
  if (m.bfloat16) return {room, columns, gemm::kColumns, false};
  return {static_cast<float*>(m.data) + first * m.stride, m.stride, gemm::kColumns, false};
}

void put_rounded(float& to, float x) { to = x; }
void put_rounded(BFloat16& to, float x) { to = round_to_nearest(x); }

void round_block(const Matrix& m, std::int64_t first, std::int64_t rows, std::int64_t columns,
                 const float* room) {
  if (!m.bfloat16) return;
  for (std::int64_t i = 0; i < rows; ++i) {
    auto* to = static_cast<BFloat16*>(m.data) + (first + i) * m.stride;
    for (std::int64_t j = 0; j < columns; ++j) to[j] = round_to_nearest(room[i * columns + j]);
  }
}

// All panels of B = m, [depth][columns].
void pack_straight(const Matrix& m, std::int64_t depth, std::int64_t columns, float* panels) {
  gemm::each_panel(columns, [&](std::int64_t n, int count) {
    typed(m, 0, n,
          [&](auto* rows) { gemm::pack_rows(rows, m.stride, depth, count, panels + n * depth); });
  });
}

// All panels of B = m^T, with m [columns][depth].
void pack_turned(const Matrix& m, std::int64_t columns, std::int64_t depth, float* panels) {
  gemm::each_panel(columns, [&](std::int64_t n, int count) {
    typed(m, n, 0,
          [&](auto* rows) { gemm::pack_turned(rows, m.stride, depth, count, panels + n * depth); });
  });
}

// Of x A^T and dy B: sums that are cut more often lose fewer digits, and these are short work.
constexpr std::int64_t kLowSlice = 192;

// Rows that are too few for panels of their own: see cpu_few_rows.h.
constexpr std::int64_t kFewRows = 2 * gemm::kRows;

// Calls f(rows) with a block of m as products with a packed weight want it: in pairs where both are
// bfloat16 and the processor multiplies them so, in `integers` where that is the weight's form,
// else as it is in `wide`, in float32.
template <typename F>
void as_operand(const Matrix& m, const Panels& weight, std::int64_t first, std::int64_t columns,
                const gemm::A& wide, const gemm::Int16Rows& integers, F&& f) {
  if constexpr (gemm::kInt16) {
    if (weight.form == Form::kInt16) return f(integers);
  }
  if constexpr (gemm::kPairs) {
    if (m.bfloat16 && weight.form == Form::kBFloat16 && columns % 2 == 0) {
      return f(gemm::PairRows{static_cast<const BFloat16*>(m.data) + first * m.stride, m.stride});
    }
  }
  f(wide);
}

// What of the panel at `column` meets `count` columns of such rows from k on; of float32 rows
// widened into `room` where it is bfloat16.
gemm::B weight_panel(const gemm::A&, const Panels& weight, std::int64_t column, std::int64_t depth,
                     std::int64_t k, std::int64_t count, float* room) {
  if (weight.form == Form::kFloat32) {
    return gemm::panel_at(static_cast<const float*>(weight.data) + column * depth +
                          k * gemm::kColumns);
  }
  const auto* from = static_cast<const BFloat16*>(weight.data) +
                     column * gemm::panel_depth<BFloat16>(depth) + k * gemm::kColumns;
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t j = 0; j < gemm::kColumns; ++j) {
      room[i * gemm::kColumns + j] = widen(from[gemm::place<BFloat16>(i, j)]);
    }
  }
  return {room, gemm::kColumns};
}
inline gemm::PairPanel weight_panel(const gemm::PairRows&, const Panels& weight,
                                    std::int64_t column, std::int64_t depth, std::int64_t k,
                                    std::int64_t, float*) {
  return gemm::panel_at(static_cast<const BFloat16*>(weight.data) + column * depth +
                        k * gemm::kColumns);
}
inline gemm::Int16Panel weight_panel(const gemm::Int16Rows&, const Panels& weight,
                                     std::int64_t column, std::int64_t depth, std::int64_t k,
                                     std::int64_t, float*) {
  return gemm::Int16Layout(depth).at(weight.data, column, k);
}

template <typename Rows>
Rows from(const Rows& a, std::int64_t row, std::int64_t column) {
  return {a.data + row * a.stride + column, a.stride};
}

inline gemm::Int16Rows from(const gemm::Int16Rows& a, std::int64_t row, std::int64_t column) {
  return {a.data + row * a.stride + column, a.stride,
          a.scales + row * a.scale_stride + column / a.slice, a.scale_stride, a.slice};
}

gemm::C at(const gemm::C& c, std::int64_t row, std::int64_t column, int columns, bool accumulate) {
  return {c.data + row * c.stride + column, c.stride, columns, accumulate};
}

// Consecutive rows of a block that are summed alike: onto what the result holds or not, and with
// what an update of theirs adds in the registers, low [rows, depth] times high, in panels; depth 0
// for nothing.
struct Run {
  std::int64_t first;  // in the block
  std::int64_t rows;
  bool onto;
  const float* low;
  const float* high;
  std::int64_t depth;
};

// The next rows, as a part of the run before where neither has anything to add.
void add_run(std::vector<Run>& runs, const Run& run) {
  if (!runs.empty() && runs.back().onto == run.onto && runs.back().depth == 0 && run.depth == 0) {
    runs.back().rows += run.rows;
  } else {
    runs.push_back(run);
  }
}

// A block of rows against a slice of the panel at `column`: C (+)= A B, and with the last slice
// what the runs add.
template <typename Left, typename Right>
void multiply_runs(const std::vector<Run>& runs, const Left& a, const Right& b, std::int64_t depth,
                   std::int64_t column, bool last_slice, const gemm::C& c) {
  for (const Run& run : runs) {
    gemm::Tail tail{};
    if (last_slice && run.depth > 0) {
      tail = {{run.low, run.depth}, gemm::panel_at(run.high + column * run.depth), run.depth};
    }
    gemm::multiply<gemm::Rows::kApart>(run.rows, from(a, run.first, 0), b, depth, tail,
                                       at(c, run.first, 0, c.columns, c.accumulate || run.onto));
  }
}

// What an update sees of a row of its x: the others are zero.
void keep_seen(const Drop& drop, std::int64_t row, const float* from, std::int64_t columns,
               float* to) {
  const std::uint32_t key = hash_key(drop.seed, static_cast<std::uint32_t>(row));
  for (std::int64_t j = 0; j < columns; ++j) {
    to[j] = mix(static_cast<std::uint32_t>(j) ^ key) >= drop.threshold ? from[j] : 0.0F;
  }
}

// A block of x, from its `first` row on among the update's own, as the update sees it.
gemm::A seen(const Drop& drop, const gemm::A& x, std::int64_t first, std::int64_t rows,
             std::int64_t columns, float* room) {
  if (drop.threshold == 0) return x;
  for (std::int64_t i = 0; i < rows; ++i) {
    keep_seen(drop, first + i, x.data + i * x.stride, columns, room + i * columns);
  }
  return {room, columns};
}

bool any_int16(const Pass& pass) {
  return std::any_of(pass.linears.begin(), pass.linears.end(),
                     [](const Linear& linear) { return linear.weight.form == Form::kInt16; });
}

// A block of rows as integers, in `room` (int16_numel floats).
gemm::Int16Rows quantized(const gemm::A& a, std::int64_t rows, std::int64_t columns, float* room) {
  if constexpr (gemm::kInt16) return gemm::quantize_rows(a, rows, columns, room);
  return {};
}
// Floats of that room.
std::int64_t int16_numel(std::int64_t rows, std::int64_t columns) {
  if constexpr (gemm::kInt16) return gemm::int16_numel(rows, columns);
  return 0;
}

std::int64_t highest_rank(const Pass& pass) {
  std::int64_t most = 1;
  for (const Linear& linear : pass.linears) {
    for (const Update& update : linear.updates) most = std::max(most, update.R);
  }
  return most;
}

std::int64_t most_columns(const Pass& pass) {
  std::int64_t most = 0;
  for (const Linear& linear : pass.linears) most = std::max(most, linear.N);
  return most;
}

template <typename F>
bool any_update(const Pass& pass, F&& holds) {
  for (const Linear& linear : pass.linears) {
    if (std::any_of(linear.updates.begin(), linear.updates.end(), holds)) return true;
  }
  return false;
}

bool drops(const Pass& pass) {
  return any_update(pass, [](const Update& update) { return update.drop.threshold != 0; });
}

bool wants_da(const Pass& pass) {
  return any_update(pass, [](const Update& update) { return update.da_RK.data != nullptr; });
}

// Where the panels of each update's A and B are, one after the other.
class UpdatePanels {
 public:
  template <typename Numel>
  UpdatePanels(const Pass& pass, Numel&& numel) {
    for (const Linear& linear : pass.linears) {
      starts_.push_back(places_.size());
      for (const Update& update : linear.updates) {
        places_.push_back({&linear, &update, total_});
        total_ += numel(linear, update);
      }
    }
  }
  // Calls f(linear, update, its place in `memory`) for each.
  template <typename F>
  void pack(float* memory, int threads, F&& f) {
    memory_ = memory;
    parallel_for(static_cast<std::int64_t>(places_.size()), threads, [&](std::int64_t i) {
      const Place& place = places_[static_cast<std::size_t>(i)];
      f(*place.linear, *place.update, memory + place.offset);
    });
  }
  std::int64_t numel() const { return total_; }
  const float* of(std::size_t linear, std::size_t update) const {
    return memory_ + places_[starts_[linear] + update].offset;
  }

 private:
  struct Place {
    const Linear* linear;
    const Update* update;
    std::int64_t offset;
  };
  std::vector<std::size_t> starts_;
  std::vector<Place> places_;
  std::int64_t total_ = 0;
  float* memory_ = nullptr;
};

}  // namespace
}  // namespace crucible::lora_linear::cpu
