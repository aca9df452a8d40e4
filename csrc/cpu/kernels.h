// The kernels of each instruction set: declared here, chosen in dispatch.cpp.
#pragma once
#include "depthwise.h"
#include "group_linear.h"
#include "scan.h"

#define KERNELS_DECLARE(set)                                                                                                          \
  namespace set {                                                                                                                     \
  int64_t forward_scratch(const ScanInputs& in, int64_t block);                                                                       \
  void forward(const ScanForward& scan, int64_t block, int64_t task, void* scratch);                                                  \
  int64_t backward_scratch(const ScanInputs& in);                                                                                     \
  void backward(const ScanBackward& scan, int64_t task, void* scratch);                                                               \
  int64_t depthwise_scratch(const Depthwise& conv);                                                                                   \
  void depthwise_forward(const Depthwise& conv, const float* x, float* y, int64_t task, void* scratch);                               \
  void depthwise_backward_weight(const Depthwise& conv, const float* x, const float* grad, float* inside, float* shares, int64_t task, \
                                 void* scratch);                                                                                      \
  void depthwise_backward_input(const Depthwise& conv, const float* grad, float* dx, int64_t task, void* scratch);                    \
  void linear_pack(const float* matrix, int64_t rows, int64_t columns, float* packed);                                                \
  int64_t linear_scratch(const GroupLinear& layer, bool back);                                                                        \
  void linear_forward(const GroupLinear& layer, const float* packed, const float* x, float* y, int64_t task, void* scratch);          \
  void linear_backward(const GroupLinear& layer, const float* transposed, const float* x, const float* grad, float* dx, float* share, \
                       float* bias_share, int64_t task, void* scratch);                                                               \
  }
namespace eqmambair {
KERNELS_DECLARE(avx512)
KERNELS_DECLARE(avx2)
KERNELS_DECLARE(baseline)

struct Kernels {
  const char* name;
  int64_t width;  // floats in a vector
  ScanKernels scan;
  DepthwiseKernels depthwise;
  GroupLinearKernels linear;
};

// The best kernels that this processor runs, or those named by `wanted` ("avx512", "avx2", "baseline") if it runs them, else null.
const Kernels* find_kernels(const char* wanted);

}  // namespace eqmambair
#undef KERNELS_DECLARE
