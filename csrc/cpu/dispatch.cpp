// Which kernels this processor runs.
#include <cstring>

#include "kernels.h"

namespace eqmambair {
namespace {

#define KERNELS_TABLE(set, width)                                                                                          \
  {                                                                                                                        \
    #set, width, {set::forward_scratch, set::forward, set::backward_scratch, set::backward},                               \
        {set::depthwise_scratch, set::depthwise_forward, set::depthwise_backward_weight, set::depthwise_backward_input}, { \
      set::linear_pack, set::linear_scratch, set::linear_forward, set::linear_backward                                     \
    }                                                                                                                      \
  }

#if defined(__x86_64__)
const Kernels tables[] = {KERNELS_TABLE(avx512, 16), KERNELS_TABLE(avx2, 8), KERNELS_TABLE(baseline, 4)};

bool runs(int table) {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  switch (table) {
    case 0:
      return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    case 1:
      return avx2;
    default:
      return true;
  }
}
#else
const Kernels tables[] = {KERNELS_TABLE(baseline, 4)};

bool runs(int) { return true; }
#endif

}  // namespace

const Kernels* find_kernels(const char* wanted) {
  for (int i = 0; i < static_cast<int>(sizeof tables / sizeof tables[0]); i++)
    if ((!wanted || !*wanted || !std::strcmp(wanted, tables[i].name)) && runs(i)) return &tables[i];
  return nullptr;
}

}  // namespace eqmambair
