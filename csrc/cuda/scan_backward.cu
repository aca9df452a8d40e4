// The gradient of the selective scan on a GPU. Shares of sums over channels and segments are written apart, and added in a fixed order.
#include "lanes.cuh"

namespace eqmambair {
namespace gpu {
namespace {

template <class T, int Count>
__global__ void __launch_bounds__(threads) back_kernel(const Scan s) {
  if (warp_number() < items(s)) walk_back<float, T, Count>(s, item(s, warp_number()));
}

template <class T, int Count>
__global__ void __launch_bounds__(threads) gradient_kernel(const Scan s) {
  if (warp_number() < items(s)) gradients<float, T, Count>(s, item(s, warp_number()));
}

}  // namespace

int backward(const Scan& scan, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  choose(scan, [&](auto type, auto count) {
    using T = decltype(type);
    constexpr int n = decltype(count)::value;
    if (scan.segments > 1) {
      back_kernel<T, n><<<blocks_for(items(scan)), threads, 0, queue>>>(scan);
      join_segments(scan, true, queue);
    }
    gradient_kernel<T, n><<<blocks_for(items(scan)), threads, 0, queue>>>(scan);
  });
  return static_cast<int>(cudaGetLastError());
}

}  // namespace gpu
}  // namespace eqmambair
