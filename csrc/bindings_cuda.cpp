// The selective scan on a GPU for torch: tensors in, raw pointers to the kernels in cuda/. The schemas stand in eqmambair/ops/scan.py.
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>
#include <tuple>

#include "cuda/scan.h"

namespace eqmambair {
namespace gpu {
namespace {

using at::Tensor;
using std::optional;
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Warps that a multiprocessor should have to choose from; a path is cut into as many segments as gives each about so many.
constexpr int64_t warps_wanted = 16;

Type type_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat: return Type::f32;
    case at::kBFloat16: return Type::bf16;
    case at::kHalf: return Type::f16;
    default: TORCH_CHECK_TYPE(false, "selective_scan: no kernel takes ", x.scalar_type());
  }
}

Tensor with_dense_rows(const Tensor& x) { return x.stride(3) == 1 || x.size(3) == 1 ? x : x.contiguous(); }

Tokens tokens_of(const Tensor& x) { return {x.const_data_ptr(), x.stride(0), x.stride(1), x.size(2) == 1 ? 0 : x.stride(2)}; }

bool debugging() {
  const char* value = std::getenv("EQMAMBAIR_DEBUG");
  return value && *value && std::string(value) != "0";
}

Tensor int_order(const Tensor& order) {
  if (debugging()) {
    const auto [sorted, _] = order.sort(-1);
    TORCH_CHECK_VALUE(sorted.eq(at::arange(order.size(-1), order.options())).all().item<bool>(),
                      "selective_scan: order is no permutation of 0..", order.size(-1) - 1);
  }
  return order.to(at::kInt).contiguous();
}

// The arguments of a scan, and the memory that it needs besides.
struct Arguments {
  Arguments(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C, const optional<Tensor>& D,
            const optional<Tensor>& bias, const optional<Tensor>& order, bool softplus, int64_t chunk, int64_t sums)
      : u(with_dense_rows(u)), delta(with_dense_rows(delta)), A(A.contiguous()), B(with_dense_rows(B)), C(with_dense_rows(C)) {
    TORCH_CHECK(chunk == chunk_tokens, "selective_scan: the CUDA kernels have chunks of ", chunk_tokens, " tokens, not ", chunk);
    scan.type = type_of(u);
    scan.batch = delta.size(0);
    scan.length = delta.size(1);
    scan.groups = delta.size(2);
    scan.channels = delta.size(3);
    scan.states = A.size(2);
    TORCH_CHECK_VALUE(scan.length < (int64_t{1} << 31), "selective_scan: more than 2^31 - 1 tokens");
    if (D) this->D = D->contiguous();
    if (bias) this->bias = bias->contiguous();
    if (order) this->order = int_order(*order);
    scan.u = tokens_of(this->u);
    scan.delta = tokens_of(this->delta);
    scan.B = tokens_of(this->B);
    scan.C = tokens_of(this->C);
    scan.A = this->A.const_data_ptr<float>();
    scan.D = D ? this->D.const_data_ptr<float>() : nullptr;
    scan.bias = bias ? this->bias.const_data_ptr<float>() : nullptr;
    scan.order = order ? this->order.const_data_ptr<int32_t>() : nullptr;
    scan.order_batch = order && order->dim() == 3 ? scan.groups * scan.length : 0;
    scan.softplus = softplus;

    int multiprocessors = 0;
    cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, u.device().index());
    const int64_t warps = scan.batch * scan.groups * divide_up(scan.channels, warp);
    const int64_t chunks = divide_up(scan.length, chunk_tokens);
    const int64_t wanted = std::clamp<int64_t>(divide_up(warps_wanted * multiprocessors, warps), 1, chunks);
    scan.segment_tokens = divide_up(chunks, wanted) * chunk_tokens;
    scan.segments = divide_up(scan.length, scan.segment_tokens);
    const auto real = A.options();
    const int64_t parts = scan.segments > 1 ? scan.segments : 0;
    state = at::empty({scan.batch, parts, scan.groups, scan.states, scan.channels}, real);
    step = at::empty({scan.batch, parts, scan.groups, scan.channels}, real);
    this->sums = at::empty({scan.states > states_at_once ? sums : 0, scan.batch, scan.length, scan.groups, scan.channels}, real);
    scan.segment_state = state.data_ptr<float>();
    scan.segment_step = step.data_ptr<float>();
    scan.sums = this->sums.data_ptr<float>();
  }
  Tensor u, delta, A, B, C, D, bias, order, state, step, sums;
  Scan scan{};
};

void check(int error) {
  TORCH_CHECK(error == cudaSuccess, "selective_scan: ", cudaGetErrorString(static_cast<cudaError_t>(error)));
}

std::tuple<Tensor, Tensor> run_forward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                                       const optional<Tensor>& D, const optional<Tensor>& bias, const optional<Tensor>& order,
                                       bool softplus, int64_t chunk, bool keep) {
  if (u.scalar_type() == at::kDouble) {
    static const auto plain = c10::Dispatcher::singleton()
                                  .findSchemaOrThrow("eqmambair::plain_scan_forward", "")
                                  .typed<decltype(run_forward)>();
    return plain.call(u, delta, A, B, C, D, bias, order, softplus, chunk, keep);
  }
  const c10::cuda::CUDAGuard guard(u.device());
  Arguments arguments(u, delta, A, B, C, D, bias, order, softplus, chunk, 1);
  Scan& scan = arguments.scan;
  const Tensor y = at::empty(delta.sizes(), u.options());
  const Tensor kept = at::empty({scan.batch, keep ? divide_up(scan.length, chunk) : 0, scan.groups, scan.states, scan.channels}, A.options());
  scan.y = y.data_ptr();
  scan.kept = keep ? kept.data_ptr<float>() : nullptr;
  check(forward(scan, c10::cuda::getCurrentCUDAStream().stream()));
  return {y, kept};
}

Gradients run_backward(const Tensor& grad, const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                       const optional<Tensor>& D, const optional<Tensor>& bias, const optional<Tensor>& order, const Tensor& states,
                       bool softplus, int64_t chunk) {
  if (u.scalar_type() == at::kDouble) {
    static const auto plain = c10::Dispatcher::singleton()
                                  .findSchemaOrThrow("eqmambair::plain_scan_backward", "")
                                  .typed<decltype(run_backward)>();
    return plain.call(grad, u, delta, A, B, C, D, bias, order, states, softplus, chunk);
  }
  const c10::cuda::CUDAGuard guard(u.device());
  Arguments arguments(u, delta, A, B, C, D, bias, order, softplus, chunk, 2);
  Scan& scan = arguments.scan;
  const Tensor dy = with_dense_rows(grad), kept = states.contiguous();
  const Tensor du = at::empty(delta.sizes(), u.options()), ddelta = at::empty(delta.sizes(), u.options());
  const auto real = A.options();
  const Tensor dB = at::empty({divide_up(scan.channels, warp), scan.batch, scan.length, scan.groups, scan.states}, real);
  const Tensor dC = at::empty(dB.sizes(), real);
  const Tensor dA = at::empty({scan.batch * scan.segments, scan.groups, scan.states, scan.channels}, real);
  const Tensor dD = at::empty({scan.batch * scan.segments, scan.groups, scan.channels}, real), dbias = at::empty(dD.sizes(), real);
  scan.grad = tokens_of(dy);
  scan.kept = kept.data_ptr<float>();
  scan.du = du.data_ptr();
  scan.ddelta = ddelta.data_ptr();
  scan.dB = dB.data_ptr<float>();
  scan.dC = dC.data_ptr<float>();
  scan.dA = dA.data_ptr<float>();
  scan.dD = dD.data_ptr<float>();
  scan.dbias = dbias.data_ptr<float>();
  check(backward(scan, c10::cuda::getCurrentCUDAStream().stream()));
  return {u.size(2) == scan.groups ? du : du.sum(2, /*keepdim=*/true), ddelta, dA.sum(0).transpose(1, 2).contiguous(),
          dB.sum(0).to(u.scalar_type()), dC.sum(0).to(u.scalar_type()), dD.sum(0), dbias.sum(0)};
}

}  // namespace
}  // namespace gpu
}  // namespace eqmambair

TORCH_LIBRARY_IMPL(eqmambair, CUDA, m) {
  m.impl("selective_scan_forward", &eqmambair::gpu::run_forward);
  m.impl("selective_scan_backward", &eqmambair::gpu::run_backward);
}
