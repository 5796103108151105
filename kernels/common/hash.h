// Random numbers that nobody stores: a hash of a seed and of where they are used, the same on every
// backend and for every number of threads. hash.py and triton_hash.py are its twins.
#pragma once

#include <cstdint>

#include "bfloat16.h"

namespace crucible {

// A bijection of 32-bit integers in which every output bit depends on every input bit.
// Source: https://github.com/skeeto/hash-prospector
template <typename Words>
CRUCIBLE_HOST_DEVICE Words mix_each(Words h) {  // of 32 bits, or of a vector of them
  h ^= h >> 16;
  h *= 0x7feb352dU;
  h ^= h >> 15;
  h *= 0x846ca68bU;
  return h ^ (h >> 16);
}
CRUCIBLE_HOST_DEVICE std::uint32_t mix(std::uint32_t h) { return mix_each(h); }

// The part of a hash that depends on the seed and on one coordinate; `mix(element ^ key)` takes in
// the other.
CRUCIBLE_HOST_DEVICE std::uint32_t hash_key(std::uint64_t seed, std::uint32_t coordinate) {
  const auto low = static_cast<std::uint32_t>(seed);
  const auto high = static_cast<std::uint32_t>(seed >> 32);
  return mix(mix(mix(low) ^ high) ^ coordinate);
}

}  // namespace crucible
