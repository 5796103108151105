// Forward: one parallel region. An item is a block of tokens and a run of the vocabulary; many
// blocks have one run each, few share the vocabulary out. For each block of the head a thread has
// the logits, their exponentials and the product of these with the block in its own cache.
#pragma once

#include <atomic>
#include <vector>

#include "../common/threads.h"
#include "cpu_gather.h"
#include "cpu_sampled.h"
#include "cpu_vocabulary.h"

namespace crucible::linear_logprobs::cpu {
namespace {

struct ForwardCall {
  const Inputs& in;
  const Size& size;
  const Options& options;
  const float* even_row_H;
  const Outputs& out;
  TokenBlocks blocks;
  Vocabulary vocabulary;

  bool wants_slope() const { return out.slope_TH != nullptr; }
  bool samples() const { return wants_slope() && options.eps > 0.0F; }
  // Whether the slope is summed while the vocabulary passes by.
  bool gathers() const { return wants_slope() && !samples(); }
  // A softcap and smoothing at once: the even share of each row is bent by each token's logit.
  bool bends_even() const {
    return wants_slope() && options.softcap != 0.0F && options.smoothing != 0.0F;
  }
  std::int64_t part_numel() const {
    const std::int64_t sums = (gathers() ? 1 : 0) + (bends_even() ? 1 : 0);
    return blocks.size * (5 + sums * size.H);
  }
  Part part_at(float* memory) const {
    const std::int64_t n = blocks.size;
    float* sums = memory + 5 * n;
    return {n,
            memory,
            memory + n,
            memory + 2 * n,
            memory + 3 * n,
            memory + 4 * n,
            gathers() ? sums : nullptr,
            bends_even() ? sums + n * size.H : nullptr};
  }
};

// One thread's memory and what it does with it.
template <typename T>
class ForwardWorker {
 public:
  ForwardWorker(const ForwardCall& call, gemm::Scratch& scratch)
      : call_(call),
        hidden_(hidden_of<T>(call.in)),
        head_(head_of<T>(call.in)),
        scores_(hidden_, head_, call.size, call.options.softcap != 0.0F) {
    std::int64_t depth = 1;  // parts that a walk over all slices keeps
    for (std::int64_t slices = call.vocabulary.slices; slices > 1; slices /= 2) ++depth;
    stride_ = call.blocks.stride();
    const std::int64_t size = call.blocks.size, H = call.size.H;
    const std::int64_t entries = kBlock * stride_, head = kBlock * head_stride(H);
    const std::int64_t scores = Scores<T>::numel(size, H);
    parts_ = scratch.take(depth * call.part_numel() + scores + head + 2 * entries + 3 * size +
                          Gather<T>::numel(H));
    float* const scored = parts_ + depth * call.part_numel();
    scores_.work_in(scored, size);
    block_of_head_ = scored + scores;
    logits_ = block_of_head_ + head;
    bend_ = logits_ + entries;
    rescale_ = bend_ + entries;
    known_.lse = rescale_ + size;
    known_.keys = reinterpret_cast<std::uint32_t*>(known_.lse + size);
    gathered_ = known_.lse + 2 * size;
  }

  void take(std::int64_t block) {
    if (block == block_) return;
    block_ = block;
    first_token_ = call_.blocks.first(block);
    tokens_ = call_.blocks.tokens(block);
    scores_.take(first_token_, tokens_, call_.in.targets_T + first_token_);
    if (call_.samples()) know_targets();
  }

  Part own_part(std::int64_t depth) const {
    return call_.part_at(parts_ + depth * call_.part_numel());
  }

  // What slices [first, first + count) say; `entries` gets those of a sampled slope.
  void walk(std::int64_t first, std::int64_t count, std::int64_t depth, const Part& into,
            Entries& entries) {
    if (count == 1) return walk_slice(first, into, entries);
    const Part later = own_part(depth);
    walk(first, count / 2, depth + 1, into, entries);
    walk(first + count / 2, count / 2, depth + 1, later, entries);
    merge(call_.size.H, into, later);
  }

  // `entries` of each of `runs` runs, in order.
  void finish_block(const Part& part, Entries* entries, std::int64_t runs) const {
    for (std::int64_t t = 0; t < tokens_; ++t) {
      const Row row = finish(part, t, call_.size, call_.options);
      call_.out.logprobs_T[first_token_ + t] = row.logprob;
      call_.out.lse_T[first_token_ + t] = row.lse;
      call_.out.miss_T[first_token_ + t] = row.miss;
      if (call_.gathers()) finish_slope(part, t, row);
    }
    if (call_.samples()) sum_entries(entries, runs);
  }

 private:
  // The target's logit is the first that is known of each token's sum.
  void know_targets() {
    for (std::int64_t t = 0; t < call_.blocks.size; ++t) {
      known_.lse[t] = kInfinity;  // where a panel has no token nothing is kept
      known_.keys[t] = 0;
    }
    for (std::int64_t t = 0; t < tokens_; ++t) {
      const T* x = hidden_.row(first_token_ + t);
      const T* target = head_.row(call_.in.targets_T[first_token_ + t]);
      float logit = 0.0F;
      for (std::int64_t h = 0; h < call_.size.H; ++h) logit += widen(x[h]) * widen(target[h]);
      known_.lse[t] = logit;
      known_.keys[t] = hash_key(call_.options.seed, static_cast<std::uint32_t>(first_token_ + t));
    }
  }

  void know_slice(const Part& part) {
    for (std::int64_t t = 0; t < tokens_; ++t) {
      const float slice = part.top[t] + std::log(part.sum[t]);
      const float most = std::max(known_.lse[t], slice);
      if (most == -kInfinity) continue;
      known_.lse[t] = most + std::log1p(std::exp(std::min(known_.lse[t], slice) - most));
    }
  }

  void walk_slice(std::int64_t slice, const Part& part, Entries& entries) {
    const std::int64_t size = call_.blocks.size;
    std::fill_n(part.top, size, -kInfinity);
    std::fill_n(part.sum, call_.part_numel() - size, 0.0F);  // and all that lies behind
    call_.vocabulary.each_block(
        slice, [&](std::int64_t first, std::int64_t rows) { meet(first, rows, part, entries); });
    if (call_.samples()) know_slice(part);
  }

  void meet(std::int64_t first, std::int64_t rows, const Part& part, Entries& entries) {
    const bool bends = call_.options.softcap != 0.0F;
    const std::int64_t H = call_.size.H;
    gemm::A head{};
    if (scores_.by_floats() || call_.gathers())
      head = copy_rows(head_, first, rows, H, block_of_head_);
    const std::int64_t tiles =
        score_tiles(rows, tokens_, H) + (call_.gathers() ? gather_tiles(tokens_, H) : 0);
    Ahead<T> ahead(head_, first + rows, rows, call_.size.V, H, tiles);
    scores_.score(head, first, rows, logits_, stride_, ahead);
    gemm::each_panel(tokens_, [&](std::int64_t t, int count) {
      float* logits = logits_ + t;
      scores_.correct(first, rows, t, part, logits, stride_);
      if (bends) cap(rows, call_.options.softcap, logits, bend_ + t, stride_);
      if (call_.options.smoothing != 0.0F) add_totals(rows, logits, stride_, part.total + t);
      each_target(call_.in.targets_T + first_token_ + t, count, first, rows, stride_,
                  [&](std::int64_t at, std::int64_t i) {
                    part.at_target[t + i] = scores_.of_target(t + i, logits[at]);
                    part.bend[t + i] = bends ? bend_[t + at] : 1.0F;
                    logits[at] = -kInfinity;
                  });
      if (!call_.wants_slope()) {
        add_exponentials<false>(rows, logits, stride_, part.top + t, part.sum + t, nullptr);
        return;
      }
      add_exponentials<true>(rows, logits, stride_, part.top + t, part.sum + t, rescale_ + t);
      if (call_.samples()) {
        list_entries(first, rows, t, logits, stride_, part, known_, call_.options.eps, entries);
      }
      if (bends) scale_by(bend_ + t, rows, logits, stride_);
    });
    if (call_.gathers()) add_slope(head, rows, part, ahead);
  }

  // slope = rescale slope + head^T entries.
  void add_slope(const gemm::A& head, std::int64_t rows, const Part& part, Ahead<T>& ahead) {
    const std::int64_t H = call_.size.H;
    gemm::each_panel(tokens_, [&](std::int64_t t, int) {
      rescale_panel(H, rescale_ + t, part.slope + t, part.tokens);
    });
    const Gather<T> gather(head, rows, H, gathered_);
    gather.add(logits_, stride_, tokens_, part.slope, part.tokens, ahead);
    if (part.even == nullptr) return;
    gather.add(bend_, stride_, tokens_, part.even, part.tokens, ahead);
  }

  // D = sum over v of (q_v - p_v) bend_v W_v from its three parts: target, others, even share.
  void finish_slope(const Part& part, std::int64_t t, const Row& row) const {
    const std::int64_t H = call_.size.H, token = first_token_ + t;
    const float others = -std::exp(part.top[t] - row.lse);
    const float at_target = part.bend[t] * (row.miss - call_.options.smoothing);
    const T* target = head_.row(call_.in.targets_T[token]);
    const float* sums = part.slope + t;
    float* to = call_.out.slope_TH + token * H;
    for (std::int64_t h = 0; h < H; ++h)
      to[h] = others * sums[h * part.tokens] + at_target * widen(target[h]);
    if (part.even != nullptr) {
      const float even_share = call_.options.smoothing / static_cast<float>(call_.size.V);
      const float* even = part.even + t;
      for (std::int64_t h = 0; h < H; ++h) to[h] += even_share * even[h * part.tokens];
    }
    if (call_.even_row_H != nullptr) {
      for (std::int64_t h = 0; h < H; ++h) to[h] += call_.even_row_H[h];
    }
  }

  // D = miss W_y less what the kept entries count, of all tokens of the block.
  void sum_entries(Entries* entries, std::int64_t runs) const {
    const std::int64_t H = call_.size.H;
    float* const sure = call_.out.sure_T + first_token_;
    const float* const misses = call_.out.miss_T + first_token_;
    for (std::int64_t t = 0; t < tokens_; ++t) {
      sure[t] = 1.0F - misses[t];
      const T* target = head_.row(call_.in.targets_T[first_token_ + t]);
      float* to = call_.out.slope_TH + (first_token_ + t) * H;
      for (std::int64_t h = 0; h < H; ++h) to[h] = misses[t] * widen(target[h]);
    }
    for (Entries* run = entries; run != entries + runs; ++run) {
      keep_entries(call_.out.lse_T + first_token_, known_.keys, call_.options.eps, *run, sure);
      constexpr std::size_t kAhead = 6;
      for (std::size_t i = 0; i < run->size(); ++i) {
        if (i + kAhead < run->size()) {
          const T* next = head_.row((*run)[i + kAhead].row);
          for (std::int64_t h = 0; h < H; h += 64 / static_cast<std::int64_t>(sizeof(T))) {
            __builtin_prefetch(next + h);
          }
        }
        const Entry& entry = (*run)[i];
        const T* from = head_.row(entry.row);
        float* to = call_.out.slope_TH + (first_token_ + entry.token) * H;
        for (std::int64_t h = 0; h < H; ++h) to[h] -= entry.e * widen(from[h]);
      }
      run->clear();
    }
  }

  const ForwardCall& call_;
  Matrix<T> hidden_, head_;
  Scores<T> scores_;
  std::int64_t block_ = -1, first_token_ = 0, tokens_ = 0, stride_ = 0;
  float* parts_ = nullptr;          // one for each level of the tree
  float* block_of_head_ = nullptr;  // as `copy_rows` makes it
  float* logits_ = nullptr;         // [kBlock][stride_]
  float* bend_ = nullptr;           // the same
  float* rescale_ = nullptr;        // [tokens]
  Known known_{};                   // [tokens] each
  float* gathered_ = nullptr;       // what a Gather works in
};

template <typename T>
void run_forward(const ForwardCall& call, int threads) {
  const std::int64_t blocks = call.blocks.count;
  const std::int64_t runs = call.vocabulary.runs(blocks, threads);
  const std::int64_t slices = call.vocabulary.slices / runs;  // of a run
  // A block with several runs is merged and finished by the thread that ends its last one.
  static thread_local gemm::Scratch scratch;
  float* shared = runs == 1 ? nullptr : scratch.take(blocks * runs * call.part_numel());
  std::vector<std::atomic<std::int64_t>> done(static_cast<std::size_t>(blocks));
  std::vector<Entries> lists(static_cast<std::size_t>(runs == 1 ? 0 : blocks * runs));
  parallel(blocks * runs, threads, [&](auto next) {
    static thread_local gemm::Scratch room;
    ForwardWorker<T> worker(call, room);
    Entries own;
    for (std::int64_t i = next(); i < blocks * runs; i = next()) {
      const std::int64_t block = i / runs;
      const auto part_of = [&](std::int64_t run) {
        return call.part_at(shared + (block * runs + run) * call.part_numel());
      };
      worker.take(block);
      const Part part = runs == 1 ? worker.own_part(0) : part_of(i % runs);
      Entries* const entries = runs == 1 ? &own : lists.data() + block * runs;
      worker.walk(i % runs * slices, slices, 1, part, entries[runs == 1 ? 0 : i % runs]);
      if (done[static_cast<std::size_t>(block)].fetch_add(1) + 1 < runs) continue;
      for (std::int64_t step = 1; step < runs; step *= 2) {
        for (std::int64_t run = 0; run < runs; run += 2 * step) {
          merge(call.size.H, part_of(run), part_of(run + step));
        }
      }
      worker.finish_block(runs == 1 ? part : part_of(0), entries, runs);
    }
  });
}

}  // namespace
}  // namespace crucible::linear_logprobs::cpu
