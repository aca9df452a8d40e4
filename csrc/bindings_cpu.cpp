// The selective scan on the CPU for torch: tensors in, raw pointers to the kernels in cpu/. The schemas stand in eqmambair/ops/scan.py.
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
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
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Type type_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat: return Type::f32;
    case at::kBFloat16: return Type::bf16;
    case at::kHalf: return Type::f16;
    default: TORCH_CHECK_TYPE(false, "selective_scan: no kernel takes ", x.scalar_type());
  }
}

// The last dimension dense; a copy where it is not.
Tensor with_dense_rows(const Tensor& x) { return x.stride(3) == 1 || x.size(3) == 1 ? x : x.contiguous(); }

Tokens tokens_of(const Tensor& x) {
  return {x.data_ptr(), x.stride(0), x.stride(1), x.size(2) == 1 ? 0 : x.stride(2)};
}

// The paths as dense int32, each checked to visit every token once.
Tensor checked_order(const Tensor& order) {
  const Tensor paths = order.contiguous();
  const int64_t length = paths.size(-1), count = paths.numel() / length;
  const Tensor checked = at::empty(paths.sizes(), paths.options().dtype(at::kInt));
  auto check = [&](auto* from) {
    at::parallel_for(0, count, std::max<int64_t>(1, 32768 / length), [&](int64_t begin, int64_t end) {
      std::vector<bool> seen(length);
      for (int64_t path = begin; path < end; path++) {
        std::fill(seen.begin(), seen.end(), false);
        for (int64_t i = path * length; i < (path + 1) * length; i++) {
          const int64_t token = from[i];
          TORCH_CHECK_VALUE(token >= 0 && token < length && !seen[token], "selective_scan: order is no permutation of 0..", length - 1,
                            ": path ", path, " has ", token, " at step ", i % length);
          seen[token] = true;
          checked.data_ptr<int32_t>()[i] = static_cast<int32_t>(token);
        }
      }
    });
  };
  order.scalar_type() == at::kInt ? check(paths.data_ptr<int32_t>()) : check(paths.data_ptr<int64_t>());
  return checked;
}

// Keeps the tensors whose memory the kernels read.
struct Arguments {
  Arguments(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C, const optional<Tensor>& D,
            const optional<Tensor>& bias, const optional<Tensor>& order, bool softplus, int64_t chunk)
      : u(with_dense_rows(u)), delta(with_dense_rows(delta)), A(A.contiguous()), B(with_dense_rows(B)), C(with_dense_rows(C)) {
    const int64_t length = delta.size(1), groups = delta.size(2);
    TORCH_CHECK_VALUE(length < (int64_t{1} << 31), "selective_scan: more than 2^31 - 1 tokens");
    if (D) this->D = D->contiguous();
    if (bias) this->bias = bias->contiguous();
    if (order) this->order = checked_order(*order);
    in = {type_of(u), delta.size(0), length, groups, delta.size(3), A.size(2),
          tokens_of(this->u), tokens_of(this->delta), tokens_of(this->B), tokens_of(this->C),
          this->A.data_ptr<float>(), D ? this->D.data_ptr<float>() : nullptr, bias ? this->bias.data_ptr<float>() : nullptr,
          order ? this->order.data_ptr<int32_t>() : nullptr, order && order->dim() == 3 ? groups * length : 0, softplus, chunk};
  }
  Tensor u, delta, A, B, C, D, bias, order;
  ScanInputs in;
};

// Channels of a forward task: all, for then the maps are read once, unless that leaves threads idle.
int64_t forward_block(const ScanInputs& in) {
  const int64_t width = kernels().width, vectors = divide_up(in.channels, width);
  const int64_t enough = 4 * at::get_num_threads();
  const int64_t most = at::get_num_threads() == 1 ? vectors : std::clamp<int64_t>(in.batch * in.groups * vectors / enough, 1, vectors);
  return divide_up(vectors, divide_up(vectors, most)) * width;
}

void run_forward(const ScanForward& scan) {
  const ScanInputs& in = scan.in;
  const int64_t block = forward_block(in);
  run_tasks(in.batch * in.groups * divide_up(in.channels, block), kernels().scan.forward_scratch(in, block),
            [&](int64_t task, void* scratch) { kernels().scan.forward(scan, block, task, scratch); });
}

std::tuple<Tensor, Tensor> forward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                                   const optional<Tensor>& D, const optional<Tensor>& bias, const optional<Tensor>& order,
                                   bool softplus, int64_t chunk, bool keep) {
  if (u.scalar_type() == at::kDouble) {
    static const auto plain = c10::Dispatcher::singleton()
                                  .findSchemaOrThrow("eqmambair::plain_scan_forward", "")
                                  .typed<decltype(forward)>();
    return plain.call(u, delta, A, B, C, D, bias, order, softplus, chunk, keep);
  }
  const Arguments arguments(u, delta, A, B, C, D, bias, order, softplus, chunk);
  const ScanInputs& in = arguments.in;
  const Tensor y = at::empty(delta.sizes(), u.options());
  const Tensor kept =
      at::empty({in.batch, keep ? divide_up(in.length, chunk) : 0, in.groups, in.states, in.channels}, A.options());
  run_forward({in, y.data_ptr(), keep ? kept.data_ptr<float>() : nullptr, y.nbytes() > most_cached_bytes});
  return {y, kept};
}

Tensor low_rank_forward(const Tensor& u, const Tensor& low_rank, const Tensor& weight, const Tensor& A, const Tensor& B, const Tensor& C,
                        const optional<Tensor>& D, const optional<Tensor>& bias, const optional<Tensor>& order, bool softplus, int64_t chunk) {
  const Tensor y = at::empty({u.size(0), u.size(1), weight.size(0), weight.size(2)}, u.options());
  const Tensor rows = with_dense_rows(low_rank), to_steps = weight.contiguous();
  Arguments arguments(u, y, A, B, C, D, bias, order, softplus, chunk);
  ScanInputs& in = arguments.in;
  in.delta = tokens_of(rows);
  in.rank = weight.size(1);
  in.to_steps = to_steps.data_ptr<float>();
  run_forward({in, y.data_ptr(), nullptr, y.nbytes() > most_cached_bytes});
  return y;
}

Gradients backward(const Tensor& grad, const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                   const optional<Tensor>& D, const optional<Tensor>& bias, const optional<Tensor>& order, const Tensor& states,
                   bool softplus, int64_t chunk) {
  if (u.scalar_type() == at::kDouble) {
    static const auto plain = c10::Dispatcher::singleton()
                                  .findSchemaOrThrow("eqmambair::plain_scan_backward", "")
                                  .typed<decltype(backward)>();
    return plain.call(grad, u, delta, A, B, C, D, bias, order, states, softplus, chunk);
  }
  const Arguments arguments(u, delta, A, B, C, D, bias, order, softplus, chunk);
  const ScanInputs& in = arguments.in;
  const Tensor dy = with_dense_rows(grad), kept = states.contiguous();
  const Tensor du = at::empty(delta.sizes(), u.options()), ddelta = at::empty(delta.sizes(), u.options());
  const int64_t blocks = divide_up(in.channels, backward_block);
  const auto real = A.options();
  const Tensor dB = at::empty({blocks, in.batch, in.length, in.groups, in.states}, real), dC = at::empty(dB.sizes(), real);
  const Tensor dA = at::empty({in.batch, in.groups, in.states, in.channels}, real);
  const Tensor dD = at::empty({in.batch, in.groups, in.channels}, real), dbias = at::empty(dD.sizes(), real);
  const ScanBackward scan{in, tokens_of(dy), kept.data_ptr<float>(), du.data_ptr(), ddelta.data_ptr(),
                          du.nbytes() + ddelta.nbytes() > most_cached_bytes, dB.data_ptr<float>(), dC.data_ptr<float>(),
                          dA.data_ptr<float>(), dD.data_ptr<float>(), dbias.data_ptr<float>()};
  run_tasks(in.batch * in.groups * blocks, kernels().scan.backward_scratch(in),
            [&](int64_t task, void* scratch) { kernels().scan.backward(scan, task, scratch); });
  return {u.size(2) == in.groups ? du : du.sum(2, /*keepdim=*/true), ddelta,
          added_up(dA).transpose(1, 2).contiguous(), added_up(dB).to(u.scalar_type()), added_up(dC).to(u.scalar_type()),
          added_up(dD), added_up(dbias)};
}

std::string simd_level() { return kernels().name; }

}  // namespace
}  // namespace eqmambair

TORCH_LIBRARY_IMPL(eqmambair, CPU, m) {
  m.impl("selective_scan_forward", &eqmambair::forward);
  m.impl("selective_scan_backward", &eqmambair::backward);
  m.impl("low_rank_scan", &eqmambair::low_rank_forward);
}
TORCH_LIBRARY_IMPL(eqmambair, CompositeExplicitAutograd, m) { m.impl("simd_level", &eqmambair::simd_level); }
