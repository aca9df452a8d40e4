// The kernels of each instruction set: declared here, chosen in dispatch.cpp.
#pragma once
#include "scan.h"

#define SCAN_DECLARE(set)                                                                           \
  namespace set {                                                                                   \
  int64_t forward_scratch(const ScanInputs& in, int64_t block);                                     \
  void forward(const ScanForward& scan, int64_t block, int64_t task, void* scratch);                \
  int64_t backward_scratch(const ScanInputs& in);                                                   \
  void backward(const ScanBackward& scan, int64_t task, void* scratch);                             \
  }
namespace eqmambair {
SCAN_DECLARE(avx512)
SCAN_DECLARE(avx2)
SCAN_DECLARE(baseline)
}  // namespace eqmambair
#undef SCAN_DECLARE
