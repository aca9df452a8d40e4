// Layers on the CPU for torch: tensors in, raw pointers to the kernels in cpu/. The schemas stand in eqmambair/ops/depthwise.py.
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "bindings_cpu.h"

namespace eqmambair {
namespace {

using at::Tensor;
using std::optional;

Tensor pixels_first(const Tensor& x) { return x.contiguous(at::MemoryFormat::ChannelsLast); }

// Keeps the tensors whose memory the kernels read.
struct DepthwiseArguments {
  DepthwiseArguments(const Tensor& x, const Tensor& weight, const optional<Tensor>& bias, int64_t dilation, bool silu)
      : x(pixels_first(x)), weight(weight.flatten(1).t().contiguous()), bias(bias ? bias->contiguous() : Tensor()) {
    conv = {x.size(0), x.size(2), x.size(3), x.size(1), weight.size(0) / x.size(1), dilation, silu,
            this->weight.data_ptr<float>(), bias ? this->bias.data_ptr<float>() : nullptr};
  }
  Tensor x, weight, bias;
  Depthwise conv;
};

Tensor depthwise(const Tensor& x, const Tensor& weight, const optional<Tensor>& bias, int64_t dilation, bool silu) {
  const DepthwiseArguments arguments(x, weight, bias, dilation, silu);
  const Depthwise& conv = arguments.conv;
  const DepthwiseKernels& use = kernels().depthwise;
  const Tensor y = at::empty({conv.batch, conv.out_channels(), conv.height, conv.width}, x.options().memory_format(at::MemoryFormat::ChannelsLast));
  run_tasks(DepthwiseCut(conv).tasks, use.scratch(conv), [&](int64_t task, void* scratch) {
    use.forward(conv, arguments.x.data_ptr<float>(), y.data_ptr<float>(), task, scratch);
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> depthwise_backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                                      const optional<Tensor>& bias, int64_t dilation, bool silu) {
  const DepthwiseArguments arguments(x, weight, bias, dilation, silu);
  const Depthwise& conv = arguments.conv;
  const DepthwiseKernels& use = kernels().depthwise;
  const DepthwiseCut cut(conv);
  const Tensor dy = pixels_first(grad);
  const Tensor inside = silu ? at::empty(dy.sizes(), dy.options().memory_format(at::MemoryFormat::ChannelsLast)) : dy;
  const Tensor shares = at::empty({cut.tasks / cut.blocks, cut.blocks, 10, cut.inner * conv.spread}, x.options());
  run_tasks(cut.tasks, use.scratch(conv), [&](int64_t task, void* scratch) {
    use.backward_weight(conv, arguments.x.data_ptr<float>(), dy.data_ptr<float>(), silu ? inside.data_ptr<float>() : nullptr,
                        shares.data_ptr<float>(), task, scratch);
  });
  const Tensor dx = at::empty(arguments.x.sizes(), x.options().memory_format(at::MemoryFormat::ChannelsLast));
  run_tasks(cut.tasks, use.scratch(conv), [&](int64_t task, void* scratch) {
    use.backward_input(conv, inside.data_ptr<float>(), dx.data_ptr<float>(), task, scratch);
  });
  const Tensor sums = added_up(shares).transpose(0, 1).flatten(1).narrow(1, 0, conv.out_channels());  // (10, out)
  return {dx, sums.narrow(0, 0, 9).t().reshape(weight.sizes()), sums.select(0, 9).clone()};
}

}  // namespace
}  // namespace eqmambair

TORCH_LIBRARY_IMPL(eqmambair, CPU, m) {
  m.impl("depthwise_conv", &eqmambair::depthwise);
  m.impl("depthwise_conv_backward", &eqmambair::depthwise_backward);
}
