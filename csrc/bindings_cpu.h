// What the bindings of the CPU kernels share.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdlib>
#include <memory>

#include "cpu/kernels.h"

namespace eqmambair {

inline const Kernels& kernels() {
  static const Kernels* const chosen = [] {
    const char* wanted = std::getenv("EQMAMBAIR_SIMD");
    const Kernels* found = find_kernels(wanted);
    TORCH_CHECK_VALUE(found, "EQMAMBAIR_SIMD: this processor or this build has no kernels called ", wanted);
    return found;
  }();
  return *chosen;
}

// Results of more bytes than this are written past the caches, where they would push out what is still to be read.
constexpr size_t most_cached_bytes = size_t{4} << 20;

// Scratch memory on a boundary of cache lines.
class Aligned {
 public:
  explicit Aligned(int64_t bytes) : memory_(new char[bytes + 64]) {}
  void* data() const { return memory_.get() + (-reinterpret_cast<uintptr_t>(memory_.get()) & 63); }

 private:
  std::unique_ptr<char[]> memory_;
};

template <class Task>
void run_tasks(int64_t tasks, int64_t scratch_bytes, const Task& task) {
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    const Aligned scratch(scratch_bytes);
    for (int64_t i = begin; i < end; i++) task(i, scratch.data());
  });
}

// The sum of `shares` arrays of `size` floats that lie one after the other.
inline void add_up(const float* from, int64_t shares, int64_t size, float* to) {
  at::parallel_for(0, size, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      float sum = from[i];
      for (int64_t share = 1; share < shares; share++) sum += from[share * size + i];
      to[i] = sum;
    }
  });
}

inline at::Tensor added_up(const at::Tensor& shares) {
  if (shares.size(0) == 1) return shares.select(0, 0);
  const at::Tensor sum = at::empty(shares.sizes().slice(1), shares.options());
  add_up(shares.data_ptr<float>(), shares.size(0), sum.numel(), sum.data_ptr<float>());
  return sum;
}

}  // namespace eqmambair
