// The functions on a lane's number that walk.h is written with, and how warps are launched.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "scan.h"

namespace eqmambair {
namespace gpu {

constexpr int threads = 128;

__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % warp; }
__device__ __forceinline__ int64_t warp_number() { return (int64_t{blockIdx.x} * threads + threadIdx.x) / warp; }

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ void narrow(float* p, float x) { *p = x; }
__device__ __forceinline__ void narrow(__nv_bfloat16* p, float x) { *p = __float2bfloat16(x); }
__device__ __forceinline__ void narrow(__half* p, float x) { *p = __float2half(x); }

template <class R>
__device__ __forceinline__ R constant(float x) {
  return x;
}
template <class R, class T>
__device__ __forceinline__ R load(const T* p, int active) {
  return lane() < active ? widen(p[lane()]) : 0.0f;
}
template <class T>
__device__ __forceinline__ void store(T* p, float x, int active) {
  if (lane() < active) narrow(p + lane(), x);
}
template <class R>
__device__ __forceinline__ R gather(const float* p, int64_t stride, int active) {
  return lane() < active ? p[lane() * stride] : 0.0f;
}
// One instruction of the special-function unit, two units in the last place.
__device__ __forceinline__ float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float softplus_of(float x) { return x > 20.0f ? x : log1pf(expf(x)); }
__device__ __forceinline__ float slope_of(float x) { return 1.0f / (1.0f + expf(-x)); }

// The sums over the lanes of Count numbers, a power of two: each step halves the numbers that a lane is in charge of.
template <int Count>
__device__ __forceinline__ void store_sums(float (&x)[Count], float* to, int wanted) {
#pragma unroll
  for (int half = Count / 2; half >= 1; half /= 2) {
    const bool upper = lane() & half;
#pragma unroll
    for (int i = 0; i < half; i++) {
      const float keep = upper ? x[i + half] : x[i], send = upper ? x[i] : x[i + half];
      x[i] = keep + __shfl_xor_sync(0xffffffffu, send, half);
    }
  }
#pragma unroll
  for (int distance = Count; distance < warp; distance *= 2) x[0] += __shfl_xor_sync(0xffffffffu, x[0], distance);
  if (lane() < wanted) to[lane()] = x[0];
}

inline unsigned blocks_for(int64_t warps) { return static_cast<unsigned>(divide_up(warps * warp, threads)); }
__host__ __device__ inline int64_t items(const Scan& s) {
  return s.batch * s.groups * s.segments * ((s.channels + warp - 1) / warp);
}

}  // namespace gpu
}  // namespace eqmambair

#include "walk.h"

namespace eqmambair {
namespace gpu {

// One warp for each state of each 32 channels.
static __global__ void __launch_bounds__(threads) join_kernel(const Scan s, bool backwards) {
  Scan one = s;  // numbered as if there were one segment
  one.segments = 1;
  const int64_t number = warp_number();
  if (number >= items(one) * s.states) return;
  join<float>(s, item(one, number / s.states), number % s.states, backwards);
}

inline void join_segments(const Scan& s, bool backwards, cudaStream_t stream) {
  const int64_t warps = items(s) / s.segments * s.states;
  join_kernel<<<blocks_for(warps), threads, 0, stream>>>(s, backwards);
}

// f(tag of type T, tag of a number of states): few states, few registers.
template <class F>
void choose(const Scan& s, F f) {
  const auto with_type = [&](auto count) {
    switch (s.type) {
      case Type::f32: return f(float{}, count);
      case Type::bf16: return f(__nv_bfloat16{}, count);
      case Type::f16: return f(__half{}, count);
    }
  };
  if (s.states == 1) return with_type(std::integral_constant<int, 1>{});
  if (s.states <= 4) return with_type(std::integral_constant<int, 4>{});
  if (s.states <= 8) return with_type(std::integral_constant<int, 8>{});
  return with_type(std::integral_constant<int, states_at_once>{});
}

}  // namespace gpu
}  // namespace eqmambair
