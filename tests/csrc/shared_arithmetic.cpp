// What the CPU and the CUDA kernels share, for ctypes.
#include <cstdint>
#include <vector>

#include "kernels/adamw_step/eight_bit.h"
#include "kernels/adamw_step/update.h"
#include "kernels/common/tables.h"

namespace {

struct Sized {
  std::int64_t numel;
  std::int64_t place;
};
using Small = crucible::Table<Sized, 32000>;  // of few tensors, so that there are several

}  // namespace

extern "C" {

__attribute__((visibility("default"))) void encode(const float* x, std::int64_t count,
                                                   int is_signed, std::uint8_t* codes) {
  using crucible::adamw_step::encode;
  for (std::int64_t i = 0; i < count; ++i) {
    codes[i] = is_signed != 0 ? encode<true>(x[i]) : encode<false>(x[i]);
  }
}

__attribute__((visibility("default"))) void decode(int is_signed, float* numbers) {
  using crucible::adamw_step::decode;
  for (int code = 0; code < 256; ++code) {
    const auto narrow = static_cast<std::uint8_t>(code);
    numbers[code] = is_signed != 0 ? decode<true>(narrow) : decode<false>(narrow);
  }
}

// The factor, or -1 where the step changes nothing.
__attribute__((visibility("default"))) float factor(double norm, double max_norm, double scale) {
  float found = 0.0F;
  return crucible::adamw_step::takes_step({&norm, max_norm, scale}, found) ? found : -1.0F;
}

// For every block of every launch, in order: launch, place of its tensor, first element. Returns
// how many there are, or -1 where one tensor is too large.
__attribute__((visibility("default"))) std::int64_t spread(const std::int64_t* numels,
                                                           std::int64_t count, std::int64_t block,
                                                           std::int64_t* rows) {
  std::vector<Sized> tensors;
  for (std::int64_t i = 0; i < count; ++i) tensors.push_back({numels[i], i});
  std::int64_t launches = 0, found = 0;
  try {
    crucible::in_tables<Small>("test", tensors, block, [&](const Small& table) {
      for (std::uint32_t b = 0; rows != nullptr && b < table.blocks(); ++b, ++found) {
        const int i = crucible::tensor_of(table.first_block, table.size, b);
        rows[3 * found] = launches;
        rows[3 * found + 1] = table.tensors[i].place;
        rows[3 * found + 2] = (b - table.first_block[i]) * block;
      }
      ++launches;
    });
  } catch (const std::runtime_error&) {
    return -1;
  }
  return found;
}

__attribute__((visibility("default"))) int capacity() { return Small::kCapacity; }
}
