// Layers on the CPU for torch: tensors in, raw pointers to the kernels in cpu/. The schemas stand in eqmambair/ops/{depthwise,group_linear}.py.
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

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
    conv.past_caches = x.nbytes() * conv.spread > most_cached_bytes;
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

// A layer y_t = sum over s of W[t^-1 s] x_s + b, and its matrices in the Fourier basis. `rows` lists the irreducible representations by the
// rows they have in the transform: 1; 2 for the two-dimensional one of quarter turns (a rotation, so one row of its matrix tells the other);
// 4 for a two-dimensional one with all its entries.
class GroupLinearArguments {
 public:
  GroupLinearArguments(const Tensor& x, const Tensor& weight, const optional<Tensor>& bias, const Tensor& transform, at::IntArrayRef rows)
      : x(x.contiguous()), layer{}, transform_(transform.contiguous()), bias_(bias ? bias->contiguous() : Tensor()) {
    layer.order = static_cast<int>(transform.size(0));
    layer.blocks = static_cast<int>(rows.size());
    layer.out = weight.size(0);
    layer.in = weight.size(1);
    layer.transform = transform_.data_ptr<float>();
    layer.bias = bias ? bias_.data_ptr<float>() : nullptr;
    layer.tokens = x.numel() / x.size(-1);
    int first = 0;
    int64_t place = 0;
    for (int b = 0; b < layer.blocks; b++) {
      const int dim = rows[b] == 1 ? 1 : 2;
      layer.block[b] = {first, dim, rows[b] == 4 ? 2 : 1, place};
      rotation_.push_back(rows[b] == 2);
      first += static_cast<int>(rows[b]);
      place += dim * dim * layer.in * layer.out;
    }
    numbers = place;
    read(weight.contiguous());
  }

  int64_t tasks() const { return divide_up(layer.tokens, linear_tokens); }

  // The matrices, or their transposes, as the kernels read them.
  std::vector<float> packed(bool transposed) const {
    std::vector<float> result(numbers), turned;
    for (int b = 0; b < layer.blocks; b++) {
      const GroupLinear::Block& block = layer.block[b];
      const int64_t m = block.dim * layer.out, n = block.dim * layer.in;
      const float* matrix = matrices_.data() + block.place;
      if (transposed) {
        turned.resize(m * n);
        for (int64_t i = 0; i < m; i++)
          for (int64_t j = 0; j < n; j++) turned[j * m + i] = matrix[i * n + j];
        kernels().linear.pack(turned.data(), n, m, result.data() + block.place);
      } else {
        kernels().linear.pack(matrix, m, n, result.data() + block.place);
      }
    }
    return result;
  }

  // The gradient of the weight, (out, in, order), from those of the matrices.
  Tensor weight_gradient(const float* matrices) const {
    const int order = layer.order;
    const Tensor result = at::empty({layer.out, layer.in, order}, transform_.options());
    float* to = result.data_ptr<float>();
    for (int64_t m = 0; m < layer.out; m++)
      for (int64_t n = 0; n < layer.in; n++, to += order) {
        float spectrum[GroupLinear::most];
        for (int b = 0; b < layer.blocks; b++) {
          const GroupLinear::Block& block = layer.block[b];
          const auto entry = [&](int j, int l) { return matrices[block.place + (j * layer.out + m) * block.dim * layer.in + l * layer.in + n]; };
          float* const s = spectrum + block.first;
          if (block.dim == 1) {
            s[0] = entry(0, 0);
          } else if (rotation_[b]) {
            s[0] = entry(0, 0) + entry(1, 1);
            s[1] = entry(0, 1) - entry(1, 0);
          } else {
            for (int i = 0; i < 4; i++) s[i] = entry(i / 2, i % 2);
          }
        }
        for (int r = 0; r < order; r++) {
          to[r] = 0;
          for (int i = 0; i < order; i++) to[r] += scale(i) * layer.transform[i * order + r] * spectrum[i];
        }
      }
    return result;
  }

  Tensor x;
  GroupLinear layer;
  int64_t numbers;  // of all matrices

 private:
  // dim / order, for the row of the transform.
  float scale(int row) const {
    for (int b = 0; b < layer.blocks; b++)
      if (row < layer.block[b].first + layer.block[b].dim * (rotation_[b] ? 1 : layer.block[b].dim)) return float(layer.block[b].dim) / layer.order;
    return 0;
  }

  void read(const Tensor& weight) {
    const int order = layer.order;
    matrices_.resize(numbers);
    const float* from = weight.data_ptr<float>();
    if (order == 1) return void(std::copy_n(from, numbers, matrices_.data()));
    if (order == 4) return read_quarter_turns(from);
    for (int64_t m = 0; m < layer.out; m++)
      for (int64_t n = 0; n < layer.in; n++, from += order) {
        float spectrum[GroupLinear::most];
        for (int i = 0; i < order; i++) {
          spectrum[i] = 0;
          for (int r = 0; r < order; r++) spectrum[i] += layer.transform[i * order + r] * from[r];
          spectrum[i] *= scale(i);
        }
        for (int b = 0; b < layer.blocks; b++) {
          const GroupLinear::Block& block = layer.block[b];
          const float* s = spectrum + block.first;
          const auto put = [&](int j, int l, float value) {
            matrices_[block.place + (j * layer.out + m) * block.dim * layer.in + l * layer.in + n] = value;
          };
          if (block.dim == 1) {
            put(0, 0, s[0]);
          } else {
            put(0, 0, s[0]);
            put(0, 1, s[1]);
            put(1, 0, rotation_[b] ? -s[1] : s[2]);
            put(1, 1, rotation_[b] ? s[0] : s[3]);
          }
        }
      }
  }

  // The same for the group of most layers, written out: a third of the time. The rows of its transform stand in group_linear.h.
  void read_quarter_turns(const float* from) {
    const int64_t in = layer.in, out = layer.out;
    float *const even = matrices_.data() + layer.block[0].place, *const odd = matrices_.data() + layer.block[1].place;
    float *const first = matrices_.data() + layer.block[2].place, *const second = first + 2 * in * out;
    for (int64_t m = 0; m < out; m++)
      for (int64_t n = 0; n < in; n++, from += 4) {
        const float a = from[0] + from[2], b = from[1] + from[3], c = (from[0] - from[2]) / 2, s = (from[3] - from[1]) / 2;
        even[m * in + n] = (a + b) / 4;
        odd[m * in + n] = (a - b) / 4;
        first[2 * m * in + n] = second[2 * m * in + in + n] = c;
        first[2 * m * in + in + n] = s;
        second[2 * m * in + n] = -s;
      }
  }

  Tensor transform_, bias_;
  std::vector<bool> rotation_;
  std::vector<float> matrices_;
};

std::vector<int64_t> with_last(const Tensor& x, int64_t channels) {
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = channels;
  return sizes;
}

Tensor run(const GroupLinearArguments& arguments) {
  const Tensor& x = arguments.x;
  const GroupLinear& layer = arguments.layer;
  const std::vector<float> packed = arguments.packed(false);
  const Tensor y = at::empty(with_last(x, layer.order * layer.out), x.options());
  run_tasks(arguments.tasks(), kernels().linear.scratch(layer, false), [&](int64_t task, void* scratch) {
    kernels().linear.forward(layer, packed.data(), x.data_ptr<float>(), y.data_ptr<float>(), task, scratch);
  });
  return y;
}

Tensor group_linear(const Tensor& x, const Tensor& weight, const optional<Tensor>& bias, const Tensor& transform, at::IntArrayRef rows) {
  return run({x, weight, bias, transform, rows});
}

// A value for each field, or for each channel, as one for each channel.
Tensor for_channels(const Tensor& values, int64_t channels) {
  TORCH_CHECK_VALUE(values.dim() == 1 && values.size(0) > 0 && channels % values.size(0) == 0, "fused_linear: ", values.sizes(),
                    " values for ", channels, " channels");
  return values.size(0) == channels ? values.contiguous() : values.repeat({channels / values.size(0)});
}

Tensor fused_linear(const Tensor& x, const Tensor& weight, const optional<Tensor>& bias, const Tensor& transform, at::IntArrayRef rows,
                    const optional<Tensor>& gain, const optional<Tensor>& shift, double eps, bool silu, const optional<Tensor>& gate,
                    const optional<Tensor>& skip, const optional<Tensor>& skip_scale) {
  GroupLinearArguments arguments(x, weight, bias, transform, rows);
  GroupLinear& layer = arguments.layer;
  const int64_t in = layer.order * layer.in, out = layer.order * layer.out;
  const std::vector<int64_t> sizes = with_last(x, out);
  std::vector<Tensor> kept;
  const auto keep = [&](const Tensor& each) { return kept.emplace_back(each).data_ptr<float>(); };
  const auto keep_map = [&](const optional<Tensor>& map) -> const float* {
    if (!map) return nullptr;
    TORCH_CHECK_VALUE(map->sizes() == sizes, "fused_linear: a map of ", map->sizes(), " for results of ", sizes);
    return keep(map->contiguous());
  };
  TORCH_CHECK_VALUE(gain.has_value() == shift.has_value() && skip.has_value() == skip_scale.has_value(),
                    "fused_linear: gain and shift, skip and skip_scale belong together");
  if (gain) {
    layer.gain = keep(for_channels(*gain, in));
    layer.shift = keep(for_channels(*shift, in));
    layer.eps = static_cast<float>(eps);
  }
  layer.silu = silu;
  layer.gate = keep_map(gate);
  layer.skip = keep_map(skip);
  if (skip) layer.skip_scale = keep(for_channels(*skip_scale, out));
  return run(arguments);
}

std::tuple<Tensor, Tensor, Tensor> group_linear_backward(const Tensor& grad, const Tensor& x, const Tensor& weight, const Tensor& transform,
                                                         at::IntArrayRef rows) {
  const GroupLinearArguments arguments(x, weight, std::nullopt, transform, rows);
  const GroupLinear& layer = arguments.layer;
  const std::vector<float> transposed = arguments.packed(true);
  const Tensor dy = grad.contiguous(), dx = at::empty(arguments.x.sizes(), x.options());
  const Tensor shares = at::empty({arguments.tasks(), arguments.numbers}, x.options());
  const Tensor bias_shares = at::empty({arguments.tasks(), layer.out}, x.options());
  run_tasks(arguments.tasks(), kernels().linear.scratch(layer, true), [&](int64_t task, void* scratch) {
    kernels().linear.backward(layer, transposed.data(), arguments.x.data_ptr<float>(), dy.data_ptr<float>(), dx.data_ptr<float>(),
                              shares.data_ptr<float>() + task * arguments.numbers, bias_shares.data_ptr<float>() + task * layer.out, task,
                              scratch);
  });
  return {dx, arguments.weight_gradient(added_up(shares).data_ptr<float>()), added_up(bias_shares).clone()};
}

}  // namespace
}  // namespace eqmambair

TORCH_LIBRARY_IMPL(eqmambair, CPU, m) {
  m.impl("depthwise_conv", &eqmambair::depthwise);
  m.impl("depthwise_conv_backward", &eqmambair::depthwise_backward);
  m.impl("group_linear", &eqmambair::group_linear);
  m.impl("fused_linear", &eqmambair::fused_linear);
  m.impl("group_linear_backward", &eqmambair::group_linear_backward);
}
