// The part of the CUDA driver that starts a cubin. It is looked up when the first one is started:
// this extension imports where there is no driver.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "../kernels/common/cubins.h"

namespace crucible {

// Starts a cubin on `stream` of `device` and does not wait. After the first start of a cubin on a
// device it does nothing but launch, which a CUDA graph can record. Safe from several threads.
// Throws std::runtime_error, saying what was launched and what the driver says, where there is no
// driver or it refuses.
void launch_cubin(const Cubin& cubin, const unsigned char* image, int device,
                  const std::array<unsigned, 3>& grid, void* stream,
                  std::vector<std::uint64_t> arguments);

}  // namespace crucible
