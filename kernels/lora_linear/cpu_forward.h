// y = x W^T + s (x A^T) B^T + b, block of rows by block of rows. x A^T is ready before the last
// slice of x W^T, which then takes it along as R more columns of the reduction; where an update has
// few rows, the sums go on from y. So a row's bits are the same whatever rows are beside it.
#pragma once

#include "cpu_few_rows.h"

namespace crucible::lora_linear::cpu {
namespace {

// Rows of a block.
constexpr std::int64_t kForwardRows = 66;

class ForwardPass {
 public:
  explicit ForwardPass(const Pass& pass)
      : p_(pass),
        blocks_(pass.M, kForwardRows),
        panels_(pass,
                [&](const Linear& linear, const Update& u) {
                  if (u.rows <= kFewRows) return std::int64_t{0};
                  return gemm::panels_numel(u.R, pass.K) + gemm::panels_numel(linear.N, u.R);
                }),
        rank_(highest_rank(pass)),
        columns_(most_columns(pass)),
        drops_(drops(pass)),
        int16_(any_int16(pass)) {}

  void run(int threads) {
    static thread_local gemm::Scratch scratch;
    panels_.pack(scratch.take(panels_.numel()), threads,
                 [&](const Linear& linear, const Update& u, float* to) {
                   if (u.rows <= kFewRows) return;
                   pack_turned(u.lora_a_RK, u.R, p_.K, to);
                   pack_turned(u.lora_b_NR, linear.N, u.R, to + gemm::panels_numel(u.R, p_.K));
                 });
    share_out(threads);
    const auto chunks = static_cast<std::int64_t>(chunks_.size());
    parallel(blocks_.count * chunks, threads, [&](auto next) {
      static thread_local gemm::Scratch memory;
      Room room = take(memory);
      for (std::int64_t i = next(); i < blocks_.count * chunks; i = next()) {
        block(i / chunks, chunks_[static_cast<std::size_t>(i % chunks)], room);
      }
    });
  }

 private:
  // Columns of one layer.
  struct Chunk {
    std::size_t linear;
    std::int64_t from;
    std::int64_t columns;
  };

  // Rows of a block that have one update.
  struct Piece {
    const Update* update;
    const float* panels;  // of A, then of B; null if the rows are few
    std::int64_t first;   // in the block
    std::int64_t rows;
    gemm::A x;  // as the update sees it
    float* xa;
    float* scaled;
  };

  // What a thread works in.
  struct Room {
    float* xa;
    float* scaled;
    float* x;
    float* seen;
    float* y;
    float* panel;
    gemm::A block;              // of x, which the next chunk may want too
    gemm::Int16Rows quantized;  // the same, where weights have that form
    float* integers;
    std::int64_t index = -1;  // of that block
    std::vector<Piece> pieces;
    std::vector<Run> runs;
  };

  // Few rows keep many threads busy only if columns are shared out too; no sum crosses columns.
  void share_out(int threads) {
    const std::int64_t wanted = gemm::groups(4 * threads, std::max<std::int64_t>(1, blocks_.count));
    const std::int64_t parts = threads == 1 || blocks_.count >= 4 * threads ? 1 : wanted;
    for (std::size_t l = 0; l < p_.linears.size(); ++l) {
      const std::int64_t N = p_.linears[l].N;
      const std::int64_t size =
          gemm::groups(gemm::groups(N, parts), gemm::kColumns) * gemm::kColumns;
      for (std::int64_t n = 0; n < N; n += size) chunks_.push_back({l, n, std::min(size, N - n)});
    }
  }

  Room take(gemm::Scratch& memory) const {
    const std::int64_t rows = blocks_.rows, x_numel = rows * p_.K;
    Room room{};
    room.index = -1;
    room.xa = memory.take(2 * rows * rank_ + (drops_ ? 2 : 1) * x_numel + rows * columns_ +
                          gemm::kSlice * gemm::kColumns + (int16_ ? int16_numel(rows, p_.K) : 0));
    room.scaled = room.xa + rows * rank_;
    room.x = room.scaled + rows * rank_;
    room.seen = room.x + x_numel;
    room.y = drops_ ? room.seen + x_numel : room.seen;
    room.panel = room.y + rows * columns_;
    room.integers = room.panel + gemm::kSlice * gemm::kColumns;
    return room;
  }

  void block(std::int64_t index, const Chunk& chunk, Room& room) const {
    const Linear& linear = p_.linears[chunk.linear];
    const std::int64_t first = blocks_.first(index), rows = blocks_.size(index), K = p_.K;
    if (room.index != index) {
      room.block = block_of(p_.x_MK, first, rows, K, room.x);
      if (int16_) room.quantized = quantized(room.block, rows, K, room.integers);
    }
    room.index = index;
    find_pieces(chunk.linear, first, rows, room);
    Matrix part = linear.y_MN;
    part.data = typed(part, 0, chunk.from, [](auto* p) -> void* { return p; });
    const gemm::C y = result_of(part, first, chunk.columns, room.y);
    for (const Piece& piece : room.pieces) fill_xa(piece);
    as_operand(p_.x_MK, linear.weight, first, K, room.block, room.quantized,
               [&](const auto& x) { add_xw(linear, chunk, x, y, room); });
    for (const Piece& piece : room.pieces) {
      if (piece.panels != nullptr) continue;
      dots(piece.rows, {piece.scaled, piece.update->R}, piece.update->lora_b_NR, chunk.from, 0,
           chunk.columns, piece.update->R, at(y, piece.first, 0, 0, true));
    }
    if (linear.bias_N.data != nullptr) add_bias(linear, rows, chunk, y);
    round_block(part, first, rows, chunk.columns, room.y);
    if (chunk.from == 0) keep_xa(first, room);
  }

  // x W^T and what the pieces add, x in either form.
  template <typename X>
  void add_xw(const Linear& linear, const Chunk& chunk, const X& x, const gemm::C& y,
              const Room& room) const {
    const std::int64_t K = p_.K;
    gemm::Slices(K).each([&](std::int64_t k, std::int64_t count, bool last) {
      gemm::each_panel(chunk.columns, [&](std::int64_t n, int size) {
        const auto panel = weight_panel(x, linear.weight, chunk.from + n, K, k, count, room.panel);
        multiply_runs(room.runs, from(x, 0, k), panel, count, chunk.from + n, last,
                      at(y, 0, n, size, k > 0));
      });
    });
  }

  void find_pieces(std::size_t linear, std::int64_t first, std::int64_t rows, Room& room) const {
    room.pieces.clear();
    room.runs.clear();
    const std::vector<Update>& updates = p_.linears[linear].updates;
    if (updates.empty()) return add_run(room.runs, {0, rows, false, nullptr, nullptr, 0});
    const auto ends_before = [](std::int64_t row, const Update& u) {
      return row < u.first + u.rows;
    };
    auto u = std::upper_bound(updates.begin(), updates.end(), first, ends_before);
    for (; u != updates.end() && u->first < first + rows; ++u) {
      const std::int64_t begin = std::max(first, u->first), at = begin - first;
      const std::int64_t count = std::min(first + rows, u->first + u->rows) - begin;
      if (count == 0) continue;
      const bool few = u->rows <= kFewRows;
      const auto place = static_cast<std::size_t>(u - updates.begin());
      const Piece piece{&*u,
                        few ? nullptr : panels_.of(linear, place),
                        at,
                        count,
                        seen(u->drop, from(room.block, at, 0), begin - u->first, count, p_.K,
                             room.seen + at * p_.K),
                        room.xa + at * rank_,
                        room.scaled + at * rank_};
      room.pieces.push_back(piece);
      const float* const b = few ? nullptr : piece.panels + gemm::panels_numel(u->R, p_.K);
      add_run(room.runs, {at, count, false, piece.scaled, b, few ? 0 : u->R});
    }
  }

  void fill_xa(const Piece& piece) const {
    const Update& u = *piece.update;
    gemm::Slices(p_.K, kLowSlice).each([&](std::int64_t k, std::int64_t count, bool) {
      if (piece.panels == nullptr) {
        float* const sums = k > 0 ? piece.scaled : piece.xa;
        dots(piece.rows, from(piece.x, 0, k), u.lora_a_RK, 0, k, u.R, count, {sums, u.R, 0, false});
        for (std::int64_t i = 0; k > 0 && i < piece.rows * u.R; ++i) piece.xa[i] += sums[i];
        return;
      }
      gemm::each_panel(u.R, [&](std::int64_t r, int size) {
        const float* const panel = piece.panels + r * p_.K + k * gemm::kColumns;
        gemm::multiply<gemm::Rows::kApart>(piece.rows, from(piece.x, 0, k), gemm::panel_at(panel),
                                           count, {}, {piece.xa + r, u.R, size, k > 0});
      });
    });
    for (std::int64_t i = 0; i < piece.rows * u.R; ++i) piece.scaled[i] = u.scale * piece.xa[i];
  }

  static void keep_xa(std::int64_t first, const Room& room) {
    for (const Piece& piece : room.pieces) {
      const Update& u = *piece.update;
      std::copy_n(piece.xa, piece.rows * u.R, u.xa + (first + piece.first - u.first) * u.R);
    }
  }

  static void add_bias(const Linear& linear, std::int64_t rows, const Chunk& chunk,
                       const gemm::C& y) {
    typed(linear.bias_N, 0, chunk.from, [&](auto* bias) {
      for (std::int64_t i = 0; i < rows; ++i) {
        for (std::int64_t n = 0; n < chunk.columns; ++n) y.data[i * y.stride + n] += widen(bias[n]);
      }
    });
  }

  const Pass& p_;
  Blocks blocks_;
  UpdatePanels panels_;
  std::int64_t rank_;
  std::int64_t columns_;
  bool drops_;
  bool int16_;
  std::vector<Chunk> chunks_;
};

}  // namespace
}  // namespace crucible::lora_linear::cpu
