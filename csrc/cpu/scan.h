// The selective scan on the CPU: what the bindings hand to the kernels. Raw pointers and sizes, nothing of torch.
#pragma once
#include <cstdint>

namespace eqmambair {

enum class Type : int { f32, bf16, f16 };

// A tensor (b, l, g, x) whose last dimension is dense; strides in elements.
struct Tokens {
  void* data;
  int64_t batch, token, group;
};

struct ScanInputs {
  Type type;  // of u, delta, B, C, and of y and the gradients shaped like u and delta
  int64_t batch, length, groups, channels, states;
  Tokens u, delta, B, C;
  const float* A;       // (g, d, n) dense
  const float* D;       // (g, d) dense, or null
  const float* bias;    // (g, d) dense, or null
  const int32_t* order; // (b or 1, g, l) dense, every entry in 0..l-1, or null
  int64_t order_batch;  // entries from one batch element's paths to the next's, 0 if they share them
  bool softplus;
  int64_t chunk;        // tokens of a chunk
  // With a rank, which the forward kernel alone takes, `delta` is (b, l, g, rank), and the step before bias and softplus is its product
  // with this, (g, rank, d) dense.
  int64_t rank = 0;
  const float* to_steps = nullptr;
};

struct ScanForward {
  ScanInputs in;
  void* y;        // (b, l, g, d) dense
  float* kept;    // (b, chunks, g, n, d) dense: the states at the entry of each chunk, or null
  bool past_caches;  // write y past the caches, as far as it consists of whole vectors
};

struct ScanBackward {
  ScanInputs in;
  Tokens grad;         // of y
  const float* kept;
  void *du, *ddelta;   // (b, l, g, d) dense
  bool past_caches;    // write these past the caches, as far as they consist of whole vectors
  float *dB, *dC;      // (blocks, b, l, g, n) dense: one share for each block of channels, to be summed
  float* dA;           // (b, g, n, d) dense: one share for each batch element, to be summed, as of the next two
  float *dD, *dbias;   // (b, g, d) dense
};

// Work is cut into tasks that write nothing in common, so any division among threads gives the same bits.
// One task is a batch element, a group and a block of channels (of whole vectors, for a forward task); tasks are numbered in this order,
// blocks fastest.
struct ScanKernels {
  int64_t (*forward_scratch)(const ScanInputs&, int64_t block);                   // bytes, from 64-byte aligned memory
  void (*forward)(const ScanForward&, int64_t block, int64_t task, void* scratch);
  int64_t (*backward_scratch)(const ScanInputs&);
  void (*backward)(const ScanBackward&, int64_t task, void* scratch);
};

// Channels of a backward task. The shares of dB and dC depend on it, so it is the same on every machine.
constexpr int64_t backward_block = 96;

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace eqmambair
