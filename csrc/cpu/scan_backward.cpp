// The gradient of the selective scan, for a block of channels of one group of one batch element.
//
// Chunks are walked backwards. The states within a chunk are computed again from the one kept at its entry, a few states n at a time so
// that states and decays of the whole chunk stay in the first-level cache; then the gradient of the state goes back over the chunk.
// With g the gradient of h[t] (what came back from later tokens included) and a the decay of token t:
//   dC[t, n] += h dy     dB[t, n] += g step u      (sums over channels: kept for each lane until the block is done)
//   g a               goes back to token t - 1,    and times h[t-1] it is the gradient of step A, the exponent.
#include "kernels.h"
#include "parts.h"

namespace eqmambair {
namespace SCAN_SET {
namespace {

constexpr int most_states_back = 4;

// Of each vector of channels; arrays (chunk, W).
struct Steps {
  float *slope, *step, *input, *u, *dy;  // slope of softplus, step, step u, u, gradient of y
  float *by_exponent, *by_input;             // sums over n of (gradient of the exponent) rate, and of g B
};

struct Buffers {
  int32_t *tokens, *tokens_after;  // of this chunk and of the one that comes next, which lies before it
  float *B, *C;            // (chunk, n)
  float *dB, *dC;          // (chunk, n, W), of the states in hand
  float *rates;            // (vectors, n, W)
  float *carry, *dA;       // (vectors, n, W): gradient that goes back to the chunk before; gradient of A
  float *dD, *dbias;       // (vectors, W)
  float *h, *decay;        // (chunk + 1, states in hand, W): h[t] is the state before token t; (chunk, states in hand, W)
  float *steps;            // (vectors, 7, chunk, W)
  Steps of(int64_t vector, int64_t chunk) const {
    float* p = steps + vector * 7 * chunk * W;
    const int64_t size = chunk * W;
    return {p, p + size, p + 2 * size, p + 3 * size, p + 4 * size, p + 5 * size, p + 6 * size};
  }
};

Buffers cut(const ScanInputs& in, Scratch& scratch) {
  const int64_t vectors = divide_up(backward_block < in.channels ? backward_block : in.channels, W);
  Buffers x;
  x.tokens = scratch.integers(in.chunk);
  x.tokens_after = scratch.integers(in.chunk);
  x.B = scratch.floats(in.chunk * in.states);
  x.C = scratch.floats(in.chunk * in.states);
  // Rounded up to whole groups of W rows for sums_of_rows.
  x.dB = scratch.floats(divide_up(in.chunk * most_states_back, W) * W * W);
  x.dC = scratch.floats(divide_up(in.chunk * most_states_back, W) * W * W);
  x.rates = scratch.floats(vectors * in.states * W);
  x.carry = scratch.floats(vectors * in.states * W);
  x.dA = scratch.floats(vectors * in.states * W);
  x.dD = scratch.floats(vectors * W);
  x.dbias = scratch.floats(vectors * W);
  x.h = scratch.floats((in.chunk + 1) * most_states_back * W);
  x.decay = scratch.floats(in.chunk * most_states_back * W);
  x.steps = scratch.floats(vectors * 7 * in.chunk * W);
  return x;
}

// The states before and after each token, and the decays; h[0] is given.
template <int Count>
void recompute(const float* rates, const Steps& s, const float* B, int64_t states, int tokens, float* h, float* decays,
               const Ahead<3> ahead, const Ahead<2, 2> results) {
  V state[Count];
  SCAN_UNROLL for (int n = 0; n < Count; n++) state[n] = load(h + n * W);
  for (int t = 0; t < tokens; t++) {
    ahead.fetch(t);
    results.fetch(t);
    const V step = load(s.step + t * W), input = load(s.input + t * W);
    V decay[Count];
    powers(step, rates, decay);
    SCAN_UNROLL for (int n = 0; n < Count; n++) {
      state[n] = fma(decay[n], state[n], input * all(B[t * states + n]));
      store(decays + (t * Count + n) * W, decay[n]);
      store(h + ((t + 1) * Count + n) * W, state[n]);
    }
  }
}

template <int Count, bool First>
void go_back(const float* rates, const Steps& s, const float* B, const float* C, int64_t states, int tokens, const float* h,
             const float* decays, float* carry, float* dA, float* dB, float* dC) {
  V back[Count], by_rate[Count], after[Count];
  SCAN_UNROLL for (int n = 0; n < Count; n++) {
    back[n] = load(carry + n * W);
    by_rate[n] = zero();
    after[n] = load(h + (tokens * Count + n) * W);
  }
  for (int t = tokens - 1; t >= 0; t--) {
    const V step = load(s.step + t * W), input = load(s.input + t * W), dy = load(s.dy + t * W);
    V by_exponent = load(s.by_exponent + t * W), by_input = load(s.by_input + t * W);
    SCAN_UNROLL for (int n = 0; n < Count; n++) {
      const int at = (t * Count + n) * W;
      const V g = fma(dy, all(C[t * states + n]), back[n]);
      const V before = load(h + at);
      store(dC + at, First ? after[n] * dy : fma(after[n], dy, load(dC + at)));
      store(dB + at, First ? g * input : fma(g, input, load(dB + at)));
      by_input = fma(g, all(B[t * states + n]), by_input);
      back[n] = g * load(decays + at);
      const V exponent = back[n] * before;
      by_exponent = fma(exponent, load(rates + n * W), by_exponent);
      by_rate[n] = fma(exponent, step, by_rate[n]);
      after[n] = before;
    }
    store(s.by_exponent + t * W, by_exponent);
    store(s.by_input + t * W, by_input);
  }
  SCAN_UNROLL for (int n = 0; n < Count; n++) {
    store(carry + n * W, back[n]);
    store(dA + n * W, load(dA + n * W) + by_rate[n]);
  }
}

// Sums over the lanes of (tokens, Count) rows, written to a token's row of dB or dC in memory.
template <int Count>
void write_sums(const float* rows, const int32_t* tokens, int count, int64_t stride, float* to) {
  for (int first = 0; first < count * Count; first += W) {
    alignas(64) float sums[W];
    store(sums, sums_of_rows(rows + first * W));
    const int these = count * Count - first < W ? count * Count - first : W;
    for (int i = 0; i < these; i++) to[tokens[(first + i) / Count] * stride + (first + i) % Count] = sums[i];
  }
}

struct Place {
  int64_t b, g, begin, end, chunk;
  int count;
  Ahead<3> ahead;    // what the next chunk reads
  Ahead<2, 2> results;  // what this chunk will write
};

template <int Arrays, int Written>
Ahead<Arrays, Written> shifted(Ahead<Arrays, Written> ahead, int64_t bytes, bool wanted) {
  for (auto& array : ahead.arrays) array.start = static_cast<const char*>(array.start) + bytes;
  if (!wanted) ahead.count = 0;
  return ahead;
}

template <int Count>
int64_t go_back_all(int64_t n, const ScanBackward& scan, const Buffers& x, const Place& at, float* dB, float* dC) {
  const ScanInputs& in = scan.in;
  const int64_t chunks = divide_up(in.length, in.chunk);
  for (; n + Count <= in.states; n += Count) {
    for (int64_t d = at.begin, v = 0; d < at.end; d += W, v++) {
      const int active = lanes(in.channels, d);
      const float* kept = scan.kept + (((at.b * chunks + at.chunk) * in.groups + at.g) * in.states + n) * in.channels + d;
      for (int i = 0; i < Count; i++) store(x.h + i * W, load_part(kept + i * in.channels, active));
      const Steps s = x.of(v, in.chunk);
      const int64_t row = (v * in.states + n) * W;
      const int64_t along = (d - at.begin) * (in.type == Type::f32 ? 4 : 2);
      recompute<Count>(x.rates + row, s, x.B + n, in.states, at.count, x.h, x.decay, shifted(at.ahead, along, n == 0),
                       shifted(at.results, along, n == 0));
      const auto back = v == 0 ? go_back<Count, true> : go_back<Count, false>;
      back(x.rates + row, s, x.B + n, x.C + n, in.states, at.count, x.h, x.decay, x.carry + row, x.dA + row, x.dB, x.dC);
    }
    write_sums<Count>(x.dB, x.tokens, at.count, in.groups * in.states, dB + n);
    write_sums<Count>(x.dC, x.tokens, at.count, in.groups * in.states, dC + n);
  }
  if constexpr (Count > 1) return go_back_all<Count / 2>(n, scan, x, at, dB, dC);
  return n;
}

// What a chunk's tokens bring along, and sums set to zero.
struct Reading {
  int64_t delta_token, u_token, grad_token;
  V bias;
  int active;
};

template <int Count, bool Softplus, class T>
SCAN_INLINE void read_some(const T* delta, const T* u, const T* grad, const Reading& r, const int32_t* tokens, const Steps& s, int t) {
  V raw[Count], token[Count], step[Count], slope[Count];
  SCAN_UNROLL for (int i = 0; i < Count; i++) raw[i] = load_part(delta + tokens[t + i] * r.delta_token, r.active) + r.bias;
  SCAN_UNROLL for (int i = 0; i < Count; i++) token[i] = load_part(u + tokens[t + i] * r.u_token, r.active);
  if constexpr (Softplus) {
    V w[Count];
    exp_of_minus_absolute(raw, w);
    softplus(raw, w, step);
    SCAN_UNROLL for (int i = 0; i < Count; i++) slope[i] = sigmoid(raw[i], w[i]);
  } else {
    SCAN_UNROLL for (int i = 0; i < Count; i++) step[i] = raw[i], slope[i] = all(1.0f);
  }
  SCAN_UNROLL for (int i = 0; i < Count; i++) {
    const int at = (t + i) * W;
    store(s.slope + at, slope[i]);
    store(s.step + at, step[i]);
    store(s.input + at, step[i] * token[i]);
    store(s.u + at, token[i]);
    store(s.dy + at, load_part(grad + tokens[t + i] * r.grad_token, r.active));
    store(s.by_exponent + at, zero());
    store(s.by_input + at, zero());
  }
}

template <bool Softplus, class T>
void read_steps(const T* delta, const T* u, const T* grad, const Reading reading, const int32_t* tokens, const Steps s, int count) {
  int t = 0;
  for (; t + interleaved <= count; t += interleaved) read_some<interleaved, Softplus>(delta, u, grad, reading, tokens, s, t);
  for (; t < count; t++) read_some<1, Softplus>(delta, u, grad, reading, tokens, s, t);
}

template <class T>
void backward(const ScanBackward& scan, int64_t task, void* memory) {
  const FlushTiny flush_tiny;
  const ScanInputs& in = scan.in;
  Scratch scratch(memory);
  const Buffers x = cut(in, scratch);
  const int64_t blocks = divide_up(in.channels, backward_block), block = task % blocks;
  Place at;
  at.b = task / blocks / in.groups;
  at.g = task / blocks % in.groups;
  at.begin = block * backward_block;
  at.end = at.begin + backward_block < in.channels ? at.begin + backward_block : in.channels;
  const int64_t vectors = divide_up(at.end - at.begin, W);
  for (int64_t v = 0; v < vectors; v++) {
    read_rates(in, at.g, at.begin + v * W, log2_e, x.rates + v * in.states * W);
    store(x.dD + v * W, zero());
    store(x.dbias + v * W, zero());
  }
  for (int64_t i = 0; i < vectors * in.states; i++) {
    store(x.carry + i * W, zero());
    store(x.dA + i * W, zero());
  }
  const T* const u = static_cast<const T*>(in.u.data) + at.b * in.u.batch + at.g * in.u.group;
  const T* const delta = static_cast<const T*>(in.delta.data) + at.b * in.delta.batch + at.g * in.delta.group;
  const T* const grad = static_cast<const T*>(scan.grad.data) + at.b * scan.grad.batch + at.g * scan.grad.group;
  const int64_t row = in.groups * in.channels;
  T* const du = static_cast<T*>(scan.du) + at.b * in.length * row + at.g * in.channels;
  T* const ddelta = static_cast<T*>(scan.ddelta) + at.b * in.length * row + at.g * in.channels;
  const int64_t maps = ((block * in.batch + at.b) * in.length * in.groups + at.g) * in.states;
  for (at.chunk = divide_up(in.length, in.chunk) - 1; at.chunk >= 0; at.chunk--) {
    const int64_t from = at.chunk * in.chunk;
    at.count = static_cast<int>(in.length - from < in.chunk ? in.length - from : in.chunk);
    read_path(in, at.b, at.g, from, at.count, x.tokens);
    const int64_t d0 = at.begin, bytes = sizeof(T);
    at.ahead = {x.tokens_after,
                at.chunk ? static_cast<int>(in.chunk) : 0,
                {{u + d0, in.u.token * bytes}, {delta + d0, in.delta.token * bytes}, {grad + d0, scan.grad.token * bytes}}};
    at.results = {x.tokens, at.count, {{du + d0, row * bytes}, {ddelta + d0, row * bytes}}};
    read_path(in, at.b, at.g, from - at.ahead.count, at.ahead.count, x.tokens_after);
    read_maps<T>(in.B, at.b, at.g, x.tokens, at.count, in.states, x.B);
    read_maps<T>(in.C, at.b, at.g, x.tokens, at.count, in.states, x.C);
    for (int64_t d = at.begin, v = 0; d < at.end; d += W, v++) {
      const Reading reading{in.delta.token, in.u.token, scan.grad.token, channel_values(in.bias, in, at.g, d), lanes(in.channels, d)};
      const auto read = in.softplus ? read_steps<true, T> : read_steps<false, T>;
      read(delta + d, u + d, grad + d, reading, x.tokens, x.of(v, in.chunk), at.count);
    }
    go_back_all<most_states_back>(0, scan, x, at, scan.dB + maps, scan.dC + maps);
    for (int64_t d = at.begin, v = 0; d < at.end; d += W, v++) {
      const int active = lanes(in.channels, d);
      const Steps s = x.of(v, in.chunk);
      const V skip = channel_values(in.D, in, at.g, d);
      V dD = zero(), dbias = zero();
      for (int t = 0; t < at.count; t++) {
        const V token = load(s.u + t * W), dy = load(s.dy + t * W), by_input = load(s.by_input + t * W);
        const V dstep = fma(load(s.by_exponent + t * W), all(ln_2), token * by_input);
        const V draw = dstep * load(s.slope + t * W);
        store_part(ddelta + x.tokens[t] * row + d, draw, active);
        store_part(du + x.tokens[t] * row + d, fma(skip, dy, load(s.step + t * W) * by_input), active);
        dD = fma(dy, token, dD);
        dbias = dbias + draw;
      }
      store(x.dD + v * W, load(x.dD + v * W) + dD);
      store(x.dbias + v * W, load(x.dbias + v * W) + dbias);
    }
  }
  for (int64_t d = at.begin, v = 0; d < at.end; d += W, v++) {
    const int active = lanes(in.channels, d);
    const int64_t channel = at.b * row + at.g * in.channels + d;
    store_part(scan.dD + channel, load(x.dD + v * W), active);
    store_part(scan.dbias + channel, load(x.dbias + v * W), active);
    for (int64_t n = 0; n < in.states; n++)
      store_part(scan.dA + ((at.b * in.groups + at.g) * in.states + n) * in.channels + d, load(x.dA + (v * in.states + n) * W), active);
  }
}

}  // namespace

int64_t backward_scratch(const ScanInputs& in) {
  Scratch scratch(nullptr);
  cut(in, scratch);
  return scratch.taken();
}

void backward(const ScanBackward& scan, int64_t task, void* scratch) {
  switch (scan.in.type) {
    case Type::f32: return backward<float>(scan, task, scratch);
    case Type::bf16: return backward<bf16>(scan, task, scratch);
    case Type::f16: return backward<f16>(scan, task, scratch);
  }
}

}  // namespace SCAN_SET
}  // namespace eqmambair
