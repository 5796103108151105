// How the rows of a backward pass are shared out: blocks, the parts of them that belong to one
// update, and where sums over rows are kept. All of it depends on the shapes only.
#pragma once

#include <utility>

#include "cpu_matrix.h"

namespace crucible::lora_linear::cpu {
namespace {

constexpr std::int64_t kBackwardRows = 66;
// An update of more blocks than a few has groups of two or more. They are at most so many, and what
// they keep takes at most so many floats.
constexpr std::int64_t kFewBlocks = 40;
constexpr std::int64_t kMostGroups = 64;
constexpr std::int64_t kMostKept = std::int64_t{8} << 20;

// Rows of one update within a block.
struct Part {
  std::size_t update;
  std::int64_t first;
  std::int64_t rows;
  bool alone;         // the update has no other block
  bool accumulate;    // an earlier block of its group has begun the sums
  std::int64_t kept;  // where those are; of no use if it is alone
};

struct Block {
  std::int64_t first;
  std::int64_t rows;
  std::size_t parts_begin;
  std::size_t parts_end;
};

// A share of the gradients of an update with several groups, to be added up at the end: row r of
// dA and of dB^T.
struct Sum {
  std::size_t linear;
  std::size_t update;
  std::int64_t kept;    // of the first group
  std::int64_t stride;  // from group to group
  std::int64_t groups;
  std::int64_t r;
};

class Shares {
 public:
  explicit Shares(const Pass& pass) : p_(pass) {
    if (pass.linears.empty()) return;
    const std::vector<Update>& updates = pass.linears.front().updates;
    for (std::size_t u = 0; u < updates.size(); ++u) {
      const Blocks blocks(updates[u].rows, kBackwardRows);
      if (blocks.count > 1) {
        share(u, updates[u].first, blocks);
      } else {
        join(u, updates[u]);
      }
    }
  }

  // A thread's: blocks [first, second), in order.
  const std::vector<std::pair<std::size_t, std::size_t>>& items() const { return items_; }
  const std::vector<Block>& blocks() const { return blocks_; }
  const std::vector<Sum>& sums() const { return sums_; }
  std::int64_t kept_numel() const { return kept_; }
  std::int64_t most_rows() const { return most_rows_; }

  // Where, in what a group keeps, a layer's part begins.
  std::int64_t offset(std::size_t linear, std::size_t update) const {
    std::int64_t offset = 0;
    for (std::size_t l = 0; l < linear; ++l) {
      offset += p_.linears[l].updates[update].R * (p_.K + p_.linears[l].N);
    }
    return offset;
  }

  template <typename F>
  void each_part(const Block& block, F&& f) const {
    for (std::size_t i = block.parts_begin; i < block.parts_end; ++i) f(parts_[i]);
  }

 private:
  // An update of one block: beside others in one, as long as they fit.
  void join(std::size_t u, const Update& update) {
    const bool fits = open_ && blocks_.back().rows + update.rows <= kBackwardRows;
    if (!fits) {
      items_.emplace_back(blocks_.size(), blocks_.size() + 1);
      blocks_.push_back({update.first, 0, parts_.size(), parts_.size()});
      open_ = true;
    }
    parts_.push_back({u, update.first, update.rows, true, false, 0});
    blocks_.back().rows += update.rows;
    blocks_.back().parts_end = parts_.size();
    most_rows_ = std::max(most_rows_, blocks_.back().rows);
  }

  // An update of several blocks: in groups, each of which keeps its sums.
  void share(std::size_t u, std::int64_t first, const Blocks& blocks) {
    const std::int64_t stride = offset(p_.linears.size(), u);
    std::int64_t largest = 1;
    for (const Linear& linear : p_.linears) {
      largest = std::max(largest, linear.updates[u].R * (p_.K + linear.N));
    }
    const std::int64_t most = std::clamp<std::int64_t>(kMostKept / largest, 8, kMostGroups);
    // Few blocks are a group each: two threads may not be equally fast.
    const std::int64_t least = blocks.count <= kFewBlocks ? 1 : 2;
    const std::int64_t per_group = std::max(least, gemm::groups(blocks.count, most));
    const std::int64_t groups = gemm::groups(blocks.count, per_group);
    for (std::int64_t i = 0; i < blocks.count; ++i) {
      const std::int64_t group = i / per_group;
      const bool begins = i % per_group == 0;
      if (begins) items_.emplace_back(blocks_.size(), blocks_.size());
      ++items_.back().second;
      blocks_.push_back(
          {first + blocks.first(i), blocks.size(i), parts_.size(), parts_.size() + 1});
      parts_.push_back(
          {u, first + blocks.first(i), blocks.size(i), false, !begins, kept_ + group * stride});
    }
    for (std::size_t l = 0; l < p_.linears.size(); ++l) {
      for (std::int64_t r = 0; r < p_.linears[l].updates[u].R; ++r) {
        sums_.push_back({l, u, kept_ + offset(l, u), stride, groups, r});
      }
    }
    kept_ += groups * stride;
    most_rows_ = std::max(most_rows_, blocks.rows);
    open_ = false;
  }

  const Pass& p_;
  std::vector<std::pair<std::size_t, std::size_t>> items_;
  std::vector<Block> blocks_;
  std::vector<Part> parts_;
  std::vector<Sum> sums_;
  std::int64_t kept_ = 0;
  std::int64_t most_rows_ = 0;
  bool open_ = false;
};

// Row r of a gradient, or its column r where it was kept turned: what the groups kept, added in
// order, strip by strip.
void add_groups(const float* kept, const Sum& sum, std::int64_t columns, const Matrix& to,
                bool turned) {
  if (to.data == nullptr) return;
  constexpr std::int64_t kStrip = 256;
  float strip[kStrip];
  for (std::int64_t j = 0; j < columns; j += kStrip) {
    const std::int64_t count = std::min(kStrip, columns - j);
    const float* from = kept + sum.r * columns + j;
    std::copy_n(from, count, strip);
    for (std::int64_t g = 1; g < sum.groups; ++g) {
      for (std::int64_t s = 0; s < count; ++s) strip[s] += from[g * sum.stride + s];
    }
    typed(to, turned ? j : sum.r, turned ? sum.r : j, [&](auto* first) {
      const std::int64_t step = turned ? to.stride : 1;
      for (std::int64_t s = 0; s < count; ++s) put_rounded(first[s * step], strip[s]);
    });
  }
}

}  // namespace
}  // namespace crucible::lora_linear::cpu
