// The selective scan on a GPU: what the bindings hand to the kernels. Raw pointers and sizes, nothing of torch.
#pragma once
#include <cstdint>

namespace eqmambair {
namespace gpu {

enum class Type : int { f32, bf16, f16 };

// A tensor (b, l, g, x) whose last dimension is dense; strides in elements.
struct Tokens {
  const void* data;
  int64_t batch, token, group;
};

constexpr int warp = 32;          // channels that a warp walks side by side
constexpr int chunk_tokens = 64;  // tokens of a chunk: CHUNK in eqmambair/ops/scan.py
constexpr int states_at_once = 16;

struct Scan {
  Type type;  // of u, delta, B, C, y, grad, du, ddelta
  int64_t batch, length, groups, channels, states;
  Tokens u, delta, B, C;
  const float *A, *D, *bias;  // (g, d, n), (g, d) or null, (g, d) or null; dense
  const int32_t* order;       // (b or 1, g, l) dense, or null
  int64_t order_batch;
  bool softplus;
  // A path is cut into segments of whole chunks that are walked side by side.
  int64_t segments, segment_tokens;
  float* segment_state;  // (b, segments, g, n, d): what a segment adds to the state, then the state at its entry
  float* segment_step;   // (b, segments, g, d): the sum of a segment's steps
  float* sums;           // (b, l, g, d), one of them forwards, two backwards; only with more than states_at_once states
  // forward
  void* y;      // (b, l, g, d) dense
  float* kept;  // (b, chunks, g, n, d) dense: states at the entry of chunks; written forwards (or null), read backwards
  // backward
  Tokens grad;
  void *du, *ddelta;   // (b, l, g, d) dense
  float *dB, *dC;      // (warps, b, l, g, n): one share for each warp of channels
  float *dA;           // (b, segments, g, n, d): shares, as of the next two
  float *dD, *dbias;   // (b, segments, g, d)
};

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Enqueue on a stream; what cudaGetLastError says afterwards.
int forward(const Scan& scan, void* stream);
int backward(const Scan& scan, void* stream);

}  // namespace gpu
}  // namespace eqmambair
