// A run of elements of one tensor, a pair of vectors at a time.
#pragma once

#include <cstring>
#include <type_traits>

#include "../common/pairs.h"
#include "launch.h"

namespace crucible::adamw_step::cpu {

using vectors::Floats;
using vectors::kPair;
using vectors::kWidth;
using vectors::Order;
using vectors::Two;
using vectors::Words;

struct RootOfEach {
  Floats operator()(Floats x) const { return vectors::root(x); }
};

// `noise` of the pair that begins at an even element.
template <Order kOrder>
Two<Words> noise_of(std::uint32_t key, std::uint32_t element) {
  const Words lane = vectors::counted();
  if constexpr (kOrder == Order::kAlternate) {
    const Words shared = mix_each((lane + (element >> 1)) ^ key);
    return {shared & 0xffffU, shared >> 16};
  } else {
    const auto half = [&](std::uint32_t first) {
      const Words places = lane + first;
      const Words shared = mix_each((places >> 1) ^ key);
      return (shared >> ((places & 1U) << 4)) & 0xffffU;
    };
    return {half(element), half(element + kWidth)};
  }
}

// P, G and M are the types of a parameter, its gradient and its running means in memory: float or
// BFloat16. Means in bfloat16: m is rounded to nearest. v is rounded stochastically, since it moves
// by a thousandth a step where beta2 = 0.999, less than half of its last bit: it would stand still.
template <typename P, typename G, typename M, bool kStochastic>
class Run {
 public:
  Run(const Constants& constants, const Tensors& tensors, float grad_factor)
      : p_(static_cast<P*>(tensors.param)),
        g_(static_cast<const G*>(tensors.grad)),
        constants_(constants),
        at_(tensors.corrections),
        grad_factor_(grad_factor) {}

  // The elements [first, end), first even, whose running means begin at m and v.
  void update(std::int64_t first, std::int64_t end, M* m, M* v) const {
    // A copy: through `this`, the stores could change it.
    const Run run = *this;
    P* p = p_ + first;
    const G* g = g_ + first;
    for (; first + kPair <= end; first += kPair, p += kPair, g += kPair, m += kPair, v += kPair) {
      vectors::prefetch(p, kPair, kAhead);
      vectors::prefetch(g, kPair, kAhead);
      vectors::prefetch(m, kPair, kAhead);
      vectors::prefetch(v, kPair, kAhead);
      run.update_pair(static_cast<std::uint32_t>(first), p, g, m, v);
    }
    if (first < end) run.update_part(static_cast<std::uint32_t>(first), end - first, p, g, m, v);
  }

 private:
  // Elements between what is computed and what is fetched: measured from 128 to 2048, on tensors
  // that the last cache holds and on such that none holds.
  static constexpr std::int64_t kAhead = 512;

  template <typename T>
  static constexpr bool kIsNarrow = std::is_same_v<T, BFloat16>;
  static constexpr Order kOrder =
      kIsNarrow<P> && kIsNarrow<G> && kIsNarrow<M> ? Order::kAlternate : Order::kHalves;

  void update_pair(std::uint32_t element, P* p, const G* g, M* m, M* v) const {
    const auto ps = vectors::load_pair<kOrder>(p), gs = vectors::load_pair<kOrder>(g);
    auto ms = vectors::load_pair<kOrder>(m), vs = vectors::load_pair<kOrder>(v);
    const RootOfEach root;
    const Floats first = adamw_step::update(constants_, at_, ps.first, grad_factor_ * gs.first,
                                            ms.first, vs.first, root);
    const Floats second = adamw_step::update(constants_, at_, ps.second, grad_factor_ * gs.second,
                                             ms.second, vs.second, root);
    narrow<kStochastic>({first, second}, at_.param_key, element, p);
    narrow<false>(ms, 0, element, m);
    narrow<true>(vs, at_.square_key, element, v);
  }

  // The last elements, fewer than a pair.
  void update_part(std::uint32_t element, std::int64_t count, P* p, const G* g, M* m, M* v) const {
    P ps[kPair] = {};
    G gs[kPair] = {};
    M ms[kPair] = {}, vs[kPair] = {};
    const auto elements = static_cast<std::size_t>(count);
    std::memcpy(ps, p, elements * sizeof(P));
    std::memcpy(gs, g, elements * sizeof(G));
    std::memcpy(ms, m, elements * sizeof(M));
    std::memcpy(vs, v, elements * sizeof(M));
    update_pair(element, ps, gs, ms, vs);
    std::memcpy(p, ps, elements * sizeof(P));
    std::memcpy(m, ms, elements * sizeof(M));
    std::memcpy(v, vs, elements * sizeof(M));
  }

  template <bool kNoisy>
  static void narrow(Two<Floats> x, std::uint32_t, std::uint32_t, float* into) {
    vectors::store(into, x.first);
    vectors::store(into + kWidth, x.second);
  }
  template <bool kNoisy>
  static void narrow(Two<Floats> x, std::uint32_t key, std::uint32_t element, BFloat16* into) {
    if constexpr (kNoisy) {
      vectors::store_pair<kOrder>(into, x, noise_of<kOrder>(key, element));
    } else {
      vectors::store_pair<kOrder>(into, x, {vectors::half_up(x.first), vectors::half_up(x.second)});
    }
  }

  P* p_;
  const G* g_;
  Constants constants_;
  Corrections at_;
  float grad_factor_;
};

}  // namespace crucible::adamw_step::cpu
