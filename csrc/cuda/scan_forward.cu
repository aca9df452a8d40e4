// The selective scan forwards on a GPU: a warp walks 32 channels of a group over one segment of the path.
#include "lanes.cuh"

namespace eqmambair {
namespace gpu {
namespace {

template <class T, int Count, bool Write>
__global__ void __launch_bounds__(threads) forward_kernel(const Scan s) {
  if (warp_number() < items(s)) walk<float, T, Count, Write>(s, item(s, warp_number()));
}

}  // namespace

int forward(const Scan& scan, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  choose(scan, [&](auto type, auto count) {
    using T = decltype(type);
    constexpr int n = decltype(count)::value;
    if (scan.segments > 1) {
      forward_kernel<T, n, false><<<blocks_for(items(scan)), threads, 0, queue>>>(scan);
      join_segments(scan, false, queue);
    }
    forward_kernel<T, n, true><<<blocks_for(items(scan)), threads, 0, queue>>>(scan);
  });
  return static_cast<int>(cudaGetLastError());
}

}  // namespace gpu
}  // namespace eqmambair
