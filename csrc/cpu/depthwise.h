// The depthwise 3x3 convolution on the CPU: what the bindings hand to the kernels. Raw pointers and sizes, nothing of torch.
#pragma once
#include <cstdint>

namespace eqmambair {

// Every output channel o reads the input channel o / spread; zero padding that keeps the size. Maps are (b, h, w, c) dense, floats.
struct Depthwise {
  int64_t batch, height, width, in_channels, spread;
  int64_t dilation;
  bool silu;            // the result is z sigmoid(z) of the convolution z
  const float* weight;  // (9, out channels)
  const float* bias;    // (out channels), or null
  bool past_caches;     // write the result past the caches
  int64_t out_channels() const { return in_channels * spread; }
};

// Work is cut into tasks of one batch element, one rectangle of pixels and one block of channels; they write nothing in common, and the
// cut depends on the sizes alone, so the bits do not depend on the number of threads.
constexpr int64_t depthwise_rows = 16, depthwise_columns = 64, depthwise_channels = 64;

struct DepthwiseCut {
  explicit DepthwiseCut(const Depthwise& conv)
      : inner(depthwise_channels / conv.spread > 1 ? depthwise_channels / conv.spread : 1),
        rows((conv.height + depthwise_rows - 1) / depthwise_rows),
        columns((conv.width + depthwise_columns - 1) / depthwise_columns),
        blocks((conv.in_channels + inner - 1) / inner),
        tasks(conv.batch * rows * columns * blocks) {}
  int64_t inner;  // input channels of a block
  int64_t rows, columns, blocks, tasks;
};

struct DepthwiseKernels {
  int64_t (*scratch)(const Depthwise&);  // bytes
  // y (b, h, w, out)
  void (*forward)(const Depthwise&, const float* x, float* y, int64_t task, void* scratch);
  // What the weights get: shares (tasks, 10, out channels of a block), the tenth row for the bias. With silu also the gradient in front of
  // it, (b, h, w, out), is written to `inside`.
  void (*backward_weight)(const Depthwise&, const float* x, const float* grad, float* inside, float* shares, int64_t task, void* scratch);
  // dx (b, h, w, in) from the gradient in front of the activation.
  void (*backward_input)(const Depthwise&, const float* grad, float* dx, int64_t task, void* scratch);
};

}  // namespace eqmambair
