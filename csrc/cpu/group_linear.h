// Linear layers that commute with a group, in the group's Fourier basis: what the bindings hand to the kernels. Raw pointers and sizes.
//
// With F the real characters (order, order), one row for each, y = F^T V F x for every token, where V is block-diagonal: a block maps the
// `dim` rows of an irreducible representation, fields and all, (dim n) -> (dim m), and serves `copies` such rows.
#pragma once
#include <cstdint>

namespace eqmambair {

struct GroupLinear {
  struct Block {
    int first, dim, copies;  // first row of F, rows of one copy, copies side by side
    int64_t place;           // of the packed matrix
  };
  static constexpr int most = 8;
  int order;               // 1, 2, 4 or 8
  int blocks;
  Block block[most];
  int64_t in, out;         // fields
  const float* transform;  // F; for the orders 1, 2 and 4 the rows that the kernels know: 1 | 1 1, 1 -1 | 1 1 1 1, 1 -1 1 -1, 1 0 -1 0, 0 -1 0 1
  const float* bias;       // (out), or null
  int64_t tokens;
  // Forwards alone, what stands around the layer: a layer norm in front; behind it SiLU, a product and a sum. Null pointers for none.
  const float *gain, *shift;  // of the norm, (order * in)
  float eps;
  bool silu;
  const float* gate;       // (tokens, order * out), multiplied in after SiLU
  const float* skip;       // (tokens, order * out), added
  const float* skip_scale; // (order * out), what `skip` is multiplied by
};

// Work is cut into tasks of so many tokens, which write nothing in common, so the bits do not depend on the number of threads.
constexpr int64_t linear_tokens = 1024;

struct GroupLinearKernels {
  // A matrix (rows, columns), row-major, as the kernels read it; as many floats.
  void (*pack)(const float* matrix, int64_t rows, int64_t columns, float* packed);
  int64_t (*scratch)(const GroupLinear&, bool backward);  // bytes
  // y (tokens, order * out) from x (tokens, order * in).
  void (*forward)(const GroupLinear&, const float* packed, const float* x, float* y, int64_t task, void* scratch);
  // dx from the gradient of y and the packed transposes; to one share for each task the gradients of the blocks, (dim out, dim in) row-major,
  // one after the other as packed, and of the bias, (out).
  void (*backward)(const GroupLinear&, const float* transposed, const float* x, const float* grad, float* dx, float* share, float* bias_share,
                   int64_t task, void* scratch);
};

}  // namespace eqmambair
