// Losses of one row and their slopes, shared by the CPU and the CUDA kernel, so that testing one of
// them tests it. reference.py and preference.py have the formulas, their letters and their sources.
#pragma once

#include <cmath>
#include <cstdint>

#include "../common/bfloat16.h"

namespace crucible::row_loss {

// X(name) of every formula and every divergence, in the order of their numbers.
// clang-format off
#define CRUCIBLE_ROW_LOSSES(X)                                                                   \
  X(bradley_terry) X(sigmoid) X(hinge) X(ipo) X(robust) X(exo_pair) X(nca_pair) X(bco_pair)      \
  X(sppo_hard) X(apo_zero) X(apo_down) X(discopop) X(sigmoid_norm) X(importance_sampling) X(ppo) \
  X(cispo) X(dro)
// clang-format on
#define CRUCIBLE_DIVERGENCES(X) X(reverse_kl) X(forward_kl) X(js) X(alpha)

#define X(name) name,
enum class Formula : std::int32_t { CRUCIBLE_ROW_LOSSES(X) kCount };
enum class Divergence : std::int32_t { CRUCIBLE_DIVERGENCES(X) kCount };
#undef X

struct Term {
  Formula formula;
  double weight;
  double smoothing;  // the share of labels that are taken to be wrong
};

constexpr int kMostTerms = 16;

struct Terms {  // whose weighted sum is the loss
  Term term[kMostTerms];
  std::int32_t count;
};

struct Settings {
  double beta;
  double reward_mean;
  double tau;
  double alpha;
  double centering;
  double clip_low;
  double clip_high;
  Divergence divergence;
};

// What a formula sees; only `first` and `second` have slopes.
//
//                 first          second           a                 b                   c   d   e
//   Bradley-Terry chosen score   rejected score   margin            1 for a tie
//   preference    policy chosen  policy rejected  reference chosen  reference rejected  |c| |r|
//   margin policy        learner's lp                    sampler's lp      advantage
struct Row {
  double first, second;
  double a, b, c, d, e;
};

struct Loss {
  double value;
  double by_first;
  double by_second;
};

// A function of one number, at that number.
struct Curve {
  double value;
  double slope;
};

CRUCIBLE_HOST_DEVICE double logistic(double x) {
  const double small = exp(-fabs(x));
  return (x < 0.0 ? small : 1.0) / (1.0 + small);
}

// Not log(logistic(x)), which underflows to -inf.
CRUCIBLE_HOST_DEVICE double log_logistic(double x) {
  return (x < 0.0 ? x : 0.0) - log1p(exp(-fabs(x)));
}

CRUCIBLE_HOST_DEVICE double squared(double x) { return x * x; }

CRUCIBLE_HOST_DEVICE Loss bradley_terry(const Row& row, const Settings& s) {
  const double difference = row.first - row.second;
  const double sum = row.first + row.second;
  const bool tie = row.b != 0.0;
  const double value = tie ? -0.5 * (log_logistic(difference) + log_logistic(-difference))
                           : -log_logistic(difference - row.a);
  const double by_difference =
      tie ? 0.5 * (logistic(difference) - logistic(-difference)) : -logistic(row.a - difference);
  const double by_sum = 2.0 * s.centering * sum;
  return {value + s.centering * squared(sum), by_sum + by_difference, by_sum - by_difference};
}

// What stands for a log ratio d under a divergence from the reference.
CRUCIBLE_HOST_DEVICE Curve seen(double d, const Settings& s) {
  constexpr double kLargest = 80.0;  // as in preference.py
  switch (s.divergence) {
    case Divergence::forward_kl: {
      const bool cut = -d > kLargest;
      const double power = exp(cut ? kLargest : -d);
      return {1.0 - power, cut ? 0.0 : power};
    }
    case Divergence::js:
      return {log_logistic(d) + 0.69314718055994531, logistic(-d)};
    case Divergence::alpha: {
      const bool cut = -s.alpha * d > kLargest;
      const double power = exp(cut ? kLargest : -s.alpha * d);
      return {(1.0 - power) / s.alpha, cut ? 0.0 : power};
    }
    default:
      return {d, 1.0};
  }
}

// A loss of the difference m of two rewards alone; e is the label smoothing.
CRUCIBLE_HOST_DEVICE Curve of_margin(Formula formula, double m, double e, double tau) {
  const double right = logistic(m), wrong = logistic(-m);
  const double log_right = log_logistic(m), log_wrong = log_logistic(-m);
  switch (formula) {
    case Formula::hinge:  // written so that NaN stays NaN
      return {m >= 1.0 ? 0.0 : 1.0 - m, m >= 1.0 ? 0.0 : -1.0};
    case Formula::robust:
      return {(-(1.0 - e) * log_right + e * log_wrong) / (1.0 - 2.0 * e),
              (-(1.0 - e) * wrong - e * right) / (1.0 - 2.0 * e)};
    case Formula::exo_pair: {
      const double log_kept = log1p(-e), log_turned = log(e);
      return {right * (log_right - log_kept) + wrong * (log_wrong - log_turned),
              right * wrong * (m - log_kept + log_turned)};
    }
    case Formula::discopop: {
      const double gate = logistic(m / tau), rest = logistic(-m / tau);
      // The gate times exp(-m), which alone could be infinite where the gate is 0.
      const double gated = exp(log_logistic(m / tau) - m);
      return {-rest * log_right + gated,
              gate * rest / tau * log_right - rest * wrong + gated * (rest / tau - 1.0)};
    }
    default:  // sigmoid
      return {-(1.0 - e) * log_right - e * log_wrong, e * right - (1.0 - e) * wrong};
  }
}

// A preference loss, by what stands for the two log ratios.
CRUCIBLE_HOST_DEVICE Loss of_ratios(const Term& term, double chosen, double rejected,
                                    const Row& row, const Settings& s) {
  const double u = s.beta * chosen, v = s.beta * rejected;
  const double m = s.beta * (chosen - rejected) - row.e;
  const double half = 0.5 / s.beta;
  switch (term.formula) {
    case Formula::ipo: {
      const double t = chosen / row.c - rejected / row.d - half;
      return {squared(t), 2.0 * t / row.c, -2.0 * t / row.d};
    }
    case Formula::sigmoid_norm: {
      const double t = s.beta * (chosen / row.c - rejected / row.d);
      const double slope = -s.beta * logistic(-t);
      return {-log_logistic(t), slope / row.c, -slope / row.d};
    }
    case Formula::nca_pair:
      return {-log_logistic(u) - 0.5 * log_logistic(-u) - 0.5 * log_logistic(-v),
              s.beta * (0.5 * logistic(u) - logistic(-u)), s.beta * 0.5 * logistic(v)};
    case Formula::bco_pair:
      return {-log_logistic(u - s.reward_mean) - log_logistic(s.reward_mean - v),
              -s.beta * logistic(s.reward_mean - u), s.beta * logistic(v - s.reward_mean)};
    case Formula::sppo_hard:
      return {squared(chosen - half) + squared(rejected + half), 2.0 * (chosen - half),
              2.0 * (rejected + half)};
    case Formula::apo_zero:
      return {logistic(-u) + logistic(v), -s.beta * logistic(u) * logistic(-u),
              s.beta * logistic(v) * logistic(-v)};
    case Formula::apo_down: {
      const double by_m = logistic(m) * logistic(-m);
      return {logistic(u) + logistic(-m), s.beta * (logistic(u) * logistic(-u) - by_m),
              s.beta * by_m};
    }
    default: {
      const Curve at = of_margin(term.formula, m, term.smoothing, s.tau);
      return {at.value, s.beta * at.slope, -s.beta * at.slope};
    }
  }
}

CRUCIBLE_HOST_DEVICE Loss preference(const Term& term, const Row& row, const Settings& s) {
  const Curve chosen = seen(row.first - row.a, s), rejected = seen(row.second - row.b, s);
  const Loss loss = of_ratios(term, chosen.value, rejected.value, row, s);
  return {loss.value, loss.by_first * chosen.slope, loss.by_second * rejected.slope};
}

CRUCIBLE_HOST_DEVICE Loss policy(Formula formula, const Row& row, const Settings& s) {
  const double distance = row.first - row.a;
  const double advantage = row.b;
  const double ratio = exp(distance);
  // Not fmin and fmax, which would make a number of NaN.
  const double above = ratio < s.clip_low ? s.clip_low : ratio;
  const double clipped = above > s.clip_high ? s.clip_high : above;
  switch (formula) {
    case Formula::importance_sampling:
      return {-ratio * advantage, -ratio * advantage, 0.0};
    case Formula::ppo: {
      const bool kept = !(clipped * advantage < ratio * advantage);
      return {-(kept ? ratio : clipped) * advantage, kept ? -ratio * advantage : 0.0, 0.0};
    }
    case Formula::cispo:
      return {-clipped * row.first * advantage, -clipped * advantage, 0.0};
    default:  // dro
      return {-(row.first * advantage - 0.5 * s.beta * squared(distance)),
              s.beta * distance - advantage, 0.0};
  }
}

CRUCIBLE_HOST_DEVICE Loss loss_of(const Term& term, const Row& row, const Settings& s) {
  if (term.formula == Formula::bradley_terry) return bradley_terry(row, s);
  if (term.formula >= Formula::importance_sampling) return policy(term.formula, row, s);
  return preference(term, row, s);
}

CRUCIBLE_HOST_DEVICE Loss loss_of(const Row& row, const Terms& terms, const Settings& s) {
  Loss sum{0.0, 0.0, 0.0};
  for (std::int32_t i = 0; i < terms.count; ++i) {
    const Loss one = loss_of(terms.term[i], row, s);
    const double weight = terms.term[i].weight;
    sum.value += weight * one.value;
    sum.by_first += weight * one.by_first;
    sum.by_second += weight * one.by_second;
  }
  return sum;
}

}  // namespace crucible::row_loss
