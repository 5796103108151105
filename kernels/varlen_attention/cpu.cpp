// varlen_attention on the CPU: tiles of scores in float32, whatever the dtype; never all of them.
#include "../common/entry.h"
#include "cpu_backward.h"
#include "cpu_forward.h"
#include "launch.h"

namespace crucible::varlen_attention::cpu {

void forward(const Forward& f, int threads) {
  f.in.bfloat16 ? forward_of<BFloat16>(f, threads) : forward_of<float>(f, threads);
}

void backward(const Backward& b, int threads) {
  b.in.bfloat16 ? backward_of<BFloat16>(b, threads) : backward_of<float>(b, threads);
}

}  // namespace crucible::varlen_attention::cpu

CRUCIBLE_ENTRY(varlen_attention, forward)
CRUCIBLE_ENTRY(varlen_attention, backward)
