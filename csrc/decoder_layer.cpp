#include "decoder_layer.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "../kernels/common/bfloat16.h"
#include "../kernels/common/threads.h"
#include "../kernels/common/vectors.h"
#include "../kernels/rope/launch.h"
#include "../kernels/swiglu/launch.h"
#include "library.h"

namespace crucible::decoder_layer {
namespace {

// Memory for the length of a call.
class Room {
 public:
  explicit Room(std::int64_t bytes) : memory_(allocate(static_cast<std::size_t>(bytes))) {}
  void* get() const { return memory_.get(); }

 private:
  static constexpr std::size_t kLine = 64;
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  static void* allocate(std::size_t bytes) {
    void* const memory =
        std::aligned_alloc(kLine, std::max(kLine, (bytes + kLine - 1) & ~(kLine - 1)));
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
  }
  std::unique_ptr<void, Free> memory_;
};

Room rows(const Layer& layer, std::int64_t columns) {
  return Room(layer.tokens() * columns * (layer.bfloat16 ? 2 : 4));
}

lora_linear::Matrix matrix(const Layer& layer, const void* data, std::int64_t columns) {
  return {const_cast<void*>(data), columns, layer.bfloat16};
}

template <typename T>
void add_of(void* into, const void* from, std::int64_t numel, int threads) {
  constexpr std::int64_t kChunk = 16384;
  parallel_for((numel + kChunk - 1) / kChunk, threads, [&](std::int64_t chunk) {
    const std::int64_t first = chunk * kChunk;
    T* const sum = static_cast<T*>(into) + first;
    const T* const more = static_cast<const T*>(from) + first;
    vectors::each(std::min(kChunk, numel - first), [&](std::int64_t i, auto lanes) {
      lanes.put(sum + i, lanes.get(sum + i) + lanes.get(more + i));
    });
  });
}

// into += from, of [T, H].
void add(const Layer& layer, void* into, const void* from, int threads) {
  const std::int64_t numel = layer.tokens() * layer.H;
  layer.bfloat16 ? add_of<BFloat16>(into, from, numel, threads)
                 : add_of<float>(into, from, numel, threads);
}

void normed(const Layer& layer, const Norm& norm, const void* x, void* y, float* rstd,
            int threads) {
  static const auto run = CRUCIBLE_CPU(rms_norm, forward);
  const auto array = [&](const void* data) {
    return rms_norm::Array{const_cast<void*>(data), layer.bfloat16};
  };
  run({{layer.tokens(), layer.H}, norm.eps, array(x), norm.weight, array(y), rstd}, threads);
}

// dx may be dy.
void normed_back(const Layer& layer, const Norm& norm, const void* dy, const void* x,
                 const float* rstd, void* dx, int threads) {
  static const auto run = CRUCIBLE_CPU(rms_norm, backward);
  const auto array = [&](const void* data) {
    return rms_norm::Array{const_cast<void*>(data), layer.bfloat16};
  };
  run({{layer.tokens(), layer.H},
       array(dy),
       array(x),
       norm.weight,
       rstd,
       array(dx),
       {nullptr, false}},
      threads);
}

void projected(const Layer& layer, lora_linear::Pass& pass, const void* x,
               const std::vector<void*>& ys, int threads) {
  static const auto run = CRUCIBLE_CPU(lora_linear, forward);
  pass.x_MK = matrix(layer, x, pass.K);
  for (std::size_t i = 0; i < ys.size(); ++i) {
    pass.linears[i].y_MN = matrix(layer, ys[i], pass.linears[i].N);
  }
  run(pass, threads);
}

bool wants_any(const lora_linear::Pass& pass, lora_linear::Matrix lora_linear::Update::* gradient) {
  const auto& updates = pass.linears.front().updates;
  return std::any_of(updates.begin(), updates.end(),
                     [&](const auto& update) { return (update.*gradient).data != nullptr; });
}

// dx may be null.
void projected_back(const Layer& layer, lora_linear::Pass& pass,
                    const std::vector<const void*>& dys, const void* x, void* dx, int threads) {
  static const auto run = CRUCIBLE_CPU(lora_linear, backward);
  const bool wants_a = wants_any(pass, &lora_linear::Update::da_RK);
  if (dx == nullptr && !wants_a && !wants_any(pass, &lora_linear::Update::db_NR)) return;
  const lora_linear::Matrix none{nullptr, 0, false};
  pass.x_MK = wants_a ? matrix(layer, x, pass.K) : none;
  pass.dx_MK = dx == nullptr ? none : matrix(layer, dx, pass.K);
  for (std::size_t i = 0; i < dys.size(); ++i) {
    pass.linears[i].y_MN = matrix(layer, dys[i], pass.linears[i].N);
  }
  run(pass, threads);
}

// In place.
void turn(const Layer& layer, void* heads, std::int64_t count, bool back, int threads) {
  static const auto run = CRUCIBLE_CPU(rope, rotate);
  const std::int64_t D = layer.attention.size.D;
  run({{layer.tokens(), count, D}, layer.bfloat16, back, heads, layer.cos, layer.sin, heads},
      threads);
}

void gated(const Layer& layer, const Kept& kept, void* y, int threads) {
  static const auto run = CRUCIBLE_CPU(swiglu, forward);
  run({layer.tokens() * layer.inner(), layer.bfloat16, kept.gate, kept.up, y}, threads);
}

varlen_attention::Inputs attention_of(const Layer& layer, const Kept& kept) {
  varlen_attention::Inputs in = layer.attention;
  in.q = kept.q, in.k = kept.k, in.v = kept.v;
  return in;
}

// From dmiddle, of what attention adds, to the gradients of q, k and v before they were turned.
void attended_back(const Layer& layer, const Kept& kept, const void* dattended, void* dq, void* dk,
                   void* dv, int threads) {
  static const auto run = CRUCIBLE_CPU(varlen_attention, backward);
  const auto& size = layer.attention.size;
  run({attention_of(layer, kept), dattended, kept.attended, kept.lse, dq, dk, dv}, threads);
  turn(layer, dq, size.A, true, threads);
  turn(layer, dk, size.G, true, threads);
}

}  // namespace

void forward(Layer& layer, const void* x, const Kept& kept, void* y, int threads) {
  static const auto attend = CRUCIBLE_CPU(varlen_attention, forward);
  const Room wide = rows(layer, std::max(layer.H, layer.inner()));
  void* const read = wide.get();  // what the linears read
  normed(layer, layer.before_attention, x, read, kept.rstd_before_attention, threads);
  projected(layer, layer.qkv, read, {kept.q, kept.k, kept.v}, threads);
  turn(layer, kept.q, layer.attention.size.A, false, threads);
  turn(layer, kept.k, layer.attention.size.G, false, threads);
  attend({attention_of(layer, kept), kept.attended, kept.lse}, threads);
  projected(layer, layer.o, kept.attended, {kept.middle}, threads);
  add(layer, kept.middle, x, threads);
  normed(layer, layer.before_mlp, kept.middle, read, kept.rstd_before_mlp, threads);
  projected(layer, layer.gate_up, read, {kept.gate, kept.up}, threads);
  gated(layer, kept, read, threads);
  projected(layer, layer.down, read, {y}, threads);
  add(layer, y, kept.middle, threads);
}

void backward(Layer& layer, const void* dy, const void* x, const Kept& kept, void* dx,
              int threads) {
  static const auto gate_back = CRUCIBLE_CPU(swiglu, backward);
  const auto& size = layer.attention.size;
  const Room middle = rows(layer, layer.H), read = rows(layer, layer.H);
  void* const dmiddle = middle.get();
  {
    // Each memory holds first the one and then the other.
    const Room inner = rows(layer, layer.inner()), other = rows(layer, layer.inner());
    void* const dgate = inner.get();
    void* const dup = other.get();
    gated(layer, kept, inner.get(), threads);
    projected_back(layer, layer.down, {dy}, inner.get(), other.get(), threads);
    gate_back({size.T * layer.inner(), layer.bfloat16, other.get(), kept.gate, kept.up, dgate, dup},
              threads);
    normed(layer, layer.before_mlp, kept.middle, read.get(), nullptr, threads);
    projected_back(layer, layer.gate_up, {dgate, dup}, read.get(), dmiddle, threads);
  }
  normed_back(layer, layer.before_mlp, dmiddle, kept.middle, kept.rstd_before_mlp, dmiddle,
              threads);
  add(layer, dmiddle, dy, threads);
  const Room q = rows(layer, size.A * size.D), k = rows(layer, size.G * size.D),
             v = rows(layer, size.G * size.D);
  {
    const Room dattended = rows(layer, size.A * size.D);
    projected_back(layer, layer.o, {dmiddle}, kept.attended, dattended.get(), threads);
    attended_back(layer, kept, dattended.get(), q.get(), k.get(), v.get(), threads);
  }
  normed(layer, layer.before_attention, x, read.get(), nullptr, threads);
  projected_back(layer, layer.qkv, {q.get(), k.get(), v.get()}, read.get(), dx, threads);
  if (dx == nullptr) return;
  normed_back(layer, layer.before_attention, dx, x, kept.rstd_before_attention, dx, threads);
  add(layer, dx, dmiddle, threads);
}

}  // namespace crucible::decoder_layer
