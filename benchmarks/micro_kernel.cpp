// How near the products that all CPU kernels are made of (kernels/common/gemm.h) come to what this
// processor's instructions do alone, on the frozen layers of SmolLM2-135M:
//
//   c++ -std=c++17 -O3 -march=native -ffp-contract=fast -pthread benchmarks/micro_kernel.cpp
//   ./a.out [threads [samples]]
//
// For each form of operand that the processor multiplies: an instruction with all its sums in
// registers, and a block of rows against packed panels, as of a weight; in turn, and medians of
// both. Each thread has its own. Every product is first compared with a sum in double. Rows that
// the kernels convert, as to integers, are converted before; docs/cpu.md has whole layers.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "../kernels/common/bfloat16_pairs.h"
#include "../kernels/common/int16.h"

namespace {

using namespace crucible;
using namespace crucible::gemm;

constexpr std::int64_t kBlock = 66;  // rows, as lora_linear has them
constexpr int kSums = kRows * kVectors;

struct Shape {
  std::int64_t N, K;
};
constexpr std::array kShapes{Shape{576, 576}, Shape{192, 576}, Shape{1536, 576}, Shape{576, 1536}};

double seconds_of(const std::function<void()>& call) {
  const auto begin = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// A call of each thread, all at once, and how long the longest takes.
double together(const std::vector<std::function<void()>>& calls) {
  std::vector<double> taken(calls.size());
  std::vector<std::thread> others;
  for (std::size_t t = 1; t < calls.size(); ++t) {
    others.emplace_back([&, t] { taken[t] = seconds_of(calls[t]); });
  }
  taken[0] = seconds_of(calls[0]);
  for (std::thread& other : others) other.join();
  return *std::max_element(taken.begin(), taken.end());
}

double median(std::vector<double> numbers) {
  std::sort(numbers.begin(), numbers.end());
  return numbers[numbers.size() / 2];
}

// kSums chains of an instruction, `step(sum)`, over and over.
template <typename V, typename F, int... kSum>
void chains(std::int64_t count, F&& step, std::integer_sequence<int, kSum...>) {
  V sums[kSums] = {(V{} + kSum)...};  // each another, or the compiler would make them one
  for (std::int64_t i = 0; i < count; ++i) ((sums[kSum] = step(sums[kSum])), ...);
  V all{};
  ((all += sums[kSum]), ...);
  volatile auto kept = all[0];
  (void)kept;
}

// Float32: rows as they lie.
struct Floats {
  static constexpr const char* kName = "float32";
  static constexpr double kError = 8e-6;  // of |a| |b|
  static void alone(std::int64_t count) {
    volatile float one = 1.0F;
    const Vector a = Vector{} + one, b = Vector{} + one;
    chains<Vector>(
        count, [&](Vector sum) { return sum + a * b; }, std::make_integer_sequence<int, kSums>());
  }
  static constexpr double kOperations = 2.0 * kWidth;  // of one instruction

  Floats(const std::vector<float>& a, const std::vector<float>& b, Shape shape)
      : shape(shape), a(a), panels(static_cast<std::size_t>(panels_numel(shape.N, shape.K))) {
    each_panel(shape.N, [&](std::int64_t n, int count) {
      pack_turned(b.data() + n * shape.K, shape.K, shape.K, count, &panels[n * shape.K]);
    });
  }
  A rows(std::int64_t k) const { return {a.data() + k, shape.K}; }
  B panel(std::int64_t n, std::int64_t k) const {
    return panel_at(&panels[static_cast<std::size_t>(n * shape.K + k * kColumns)]);
  }
  Shape shape;
  std::vector<float> a, panels;
};

#if defined(__AVX512VNNI__)
// bfloat16 as integers of 16 bits.
struct Whole {
  static constexpr const char* kName = "int16";
  static constexpr double kError = 4e-4;
  static void alone(std::int64_t count) {
    volatile int one = 1;
    const Integers a = Integers{} + one, b = Integers{} + one;
    chains<Integers>(
        count, [&](Integers sum) { return add_pairs(sum, a, b); },
        std::make_integer_sequence<int, kSums>());
  }
  static constexpr double kOperations = 4.0 * kWidth;

  Whole(const std::vector<float>& a, const std::vector<float>& b, Shape shape)
      : layout(shape.K),
        memory(static_cast<std::size_t>(int16_numel(kBlock, shape.K))),
        panels(static_cast<std::size_t>(layout.numel(shape.N))) {
    const Floats wide(a, b, shape);
    integers = quantize_rows(wide.rows(0), kBlock, shape.K, memory.data());
    each_panel(shape.N, [&](std::int64_t n, int) {
      quantize_panel(wide.panel(n, 0).data, layout, &panels[n / kColumns * layout.stride()]);
    });
  }
  Int16Rows rows(std::int64_t k) const {
    return {integers.data + k, integers.stride, integers.scales + k / integers.slice,
            integers.scale_stride, integers.slice};
  }
  Int16Panel panel(std::int64_t n, std::int64_t k) const { return layout.at(panels.data(), n, k); }
  Int16Layout layout;
  std::vector<float> memory;
  std::vector<std::int16_t> panels;
  Int16Rows integers;
};
#endif

#if defined(__AVX512BF16__)
// bfloat16 in pairs.
struct Pairs {
  static constexpr const char* kName = "bfloat16";
  static constexpr double kError = 4e-3;  // as much as rounding the operands to bfloat16 is off
  static void alone(std::int64_t count) {
    volatile std::int16_t one = 0x3f80;
    const __m512bh a = (__m512bh)_mm512_set1_epi16(one), b = a;
    chains<Vector>(
        count, [&](Vector sum) { return (Vector)_mm512_dpbf16_ps((__m512)sum, a, b); },
        std::make_integer_sequence<int, kSums>());
  }
  static constexpr double kOperations = 4.0 * kWidth;

  Pairs(const std::vector<float>& wide_a, const std::vector<float>& b, Shape shape)
      : shape(shape), a(wide_a.size()), panels(b.size()) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] = round_to_nearest(wide_a[i]);
    each_panel(shape.N, [&](std::int64_t n, int count) {
      pack_pairs(shape.K, count, &panels[n * shape.K], [&](std::int64_t k, std::int64_t j) {
        return round_to_nearest(b[static_cast<std::size_t>((n + j) * shape.K + k)]);
      });
    });
  }
  PairRows rows(std::int64_t k) const { return {a.data() + k, shape.K}; }
  PairPanel panel(std::int64_t n, std::int64_t k) const {
    return panel_at(&panels[static_cast<std::size_t>(n * shape.K + k * kColumns)]);
  }
  Shape shape;
  std::vector<BFloat16> a, panels;
};
#endif

// c[kBlock, N] = a[kBlock, K] b[N, K]^T
template <typename Form>
void multiply_all(const Form& form, Shape shape, float* c) {
  Slices(shape.K).each([&](std::int64_t k, std::int64_t count, bool) {
    each_panel(shape.N, [&](std::int64_t n, int size) {
      multiply<Rows::kApart>(kBlock, form.rows(k), form.panel(n, k), count, {},
                             {c + n, shape.N, size, k > 0});
    });
  });
}

std::vector<float> drawn(std::int64_t rows, std::int64_t columns) {
  std::vector<float> made(static_cast<std::size_t>(rows * columns));
  std::uint32_t state = 1;
  for (float& x : made) {
    state = state * 1664525U + 1013904223U;
    x = static_cast<float>(state >> 8) / 8388608.0F - 1.0F;
  }
  return made;
}

// Whether c is a b^T, up to `error` of each |row| |column|.
bool agrees(const std::vector<float>& a, const std::vector<float>& b, const std::vector<float>& c,
            Shape shape, double error) {
  for (std::int64_t i = 0; i < kBlock; ++i) {
    for (std::int64_t n = 0; n < shape.N; ++n) {
      double sum = 0.0, of_a = 0.0, of_b = 0.0;
      for (std::int64_t k = 0; k < shape.K; ++k) {
        const double x = a[static_cast<std::size_t>(i * shape.K + k)];
        const double y = b[static_cast<std::size_t>(n * shape.K + k)];
        sum += x * y, of_a += x * x, of_b += y * y;
      }
      const double found = c[static_cast<std::size_t>(i * shape.N + n)];
      if (!(std::abs(found - sum) <= error * std::sqrt(of_a * of_b))) return false;
    }
  }
  return true;
}

// Samples in turn, of the instruction and of a product of each shape; medians.
template <typename Form>
void measure(int threads, int samples) {
  constexpr std::int64_t kSteps = 20000;  // as long as a product, or threads would not meet
  const std::vector<std::function<void()>> alone(static_cast<std::size_t>(threads),
                                                 [] { Form::alone(kSteps); });
  const double of_alone = Form::kOperations * kSums * kSteps;
  std::printf("%-9s", Form::kName);
  for (const Shape shape : kShapes) {
    const std::vector<float> a = drawn(kBlock, shape.K), b = drawn(shape.N, shape.K);
    std::vector<std::function<void()>> products;
    for (int t = 0; t < threads; ++t) {
      auto form = std::make_shared<Form>(a, b, shape);
      auto c =
          std::make_shared<std::vector<float>>(static_cast<std::size_t>(kBlock * shape.N), NAN);
      multiply_all(*form, shape, c->data());
      if (!agrees(a, b, *c, shape, Form::kError)) {
        std::printf("\n%d x %d is wrong\n", static_cast<int>(shape.N), static_cast<int>(shape.K));
        std::exit(1);
      }
      products.push_back([=] { multiply_all(*form, shape, c->data()); });
    }
    const double operations = 2.0 * static_cast<double>(kBlock * shape.N * shape.K);
    std::vector<double> rates, shares;
    for (int sample = 0; sample < samples; ++sample) {
      const double roof = of_alone / together(alone);
      rates.push_back(operations / together(products));
      shares.push_back(rates.back() / roof);
    }
    std::printf("   %4.0f %3.0f %%", median(rates) / 1e9, 100.0 * median(shares));
  }
  std::printf("\n");
}

}  // namespace

int main(int count, char** given) {
  const int threads = count > 1 ? std::atoi(given[1]) : 1;
  const int samples = count > 2 ? std::atoi(given[2]) : 400;
  if (threads < 1 || samples < 1) {
    std::fprintf(stderr, "threads and samples must be at least 1\n");
    return 2;
  }
  std::printf("GFLOP/s of one core of %d, and their share of the instruction's alone\n", threads);
  std::printf("%-9s", "operands");
  for (const Shape shape : kShapes) {
    std::printf("  %4d x %4d", static_cast<int>(shape.N), static_cast<int>(shape.K));
  }
  std::printf("\n");
  measure<Floats>(threads, samples);
#if defined(__AVX512VNNI__)
  measure<Whole>(threads, samples);
#endif
#if defined(__AVX512BF16__)
  measure<Pairs>(threads, samples);
#endif
}
