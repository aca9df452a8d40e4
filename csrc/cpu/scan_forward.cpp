// The selective scan forwards, for a block of channels of one group of one batch element.
//
// Lanes are channels. A chunk of tokens is read in the order of the path: its steps and inputs, then, for as many states at a time as
// registers hold, the recurrence over the chunk's tokens, then the results are written where the tokens were read. So memory is
// touched once for each token whatever the number of states, and the innermost loop works on the first-level cache.
#include "kernels.h"
#include "parts.h"

namespace eqmambair {
namespace SCAN_SET {
namespace {

struct Buffers {
  int32_t* tokens;
  int32_t* tokens_after;  // of the next chunk
  float *B, *C;           // (chunk, n)
  float *step, *input, *y;  // (chunk, W)
  float *rates, *state;   // (vectors, n, W)
};

Buffers cut(const ScanInputs& in, int64_t block, Scratch& scratch) {
  const int64_t vectors = divide_up(block, W);
  Buffers x;
  x.tokens = scratch.integers(in.chunk);
  x.tokens_after = scratch.integers(in.chunk);
  x.B = scratch.floats(in.chunk * in.states);
  x.C = scratch.floats(in.chunk * in.states);
  x.step = scratch.floats(in.chunk * W);
  x.input = scratch.floats(in.chunk * W);
  x.y = scratch.floats(in.chunk * W);
  x.rates = scratch.floats(vectors * in.states * W);
  x.state = scratch.floats(vectors * in.states * W);
  return x;
}

// One token for the states From..Count-1, a few chains side by side at a time.
template <int From, int Count>
SCAN_INLINE void step_states(V (&h)[Count], V step, V input, const float* rates, const float* B, const float* C, V& sum) {
  constexpr int parts = (Count - From + interleaved - 1) / interleaved, some = (Count - From + parts - 1) / parts;
  V decay[some];
  powers(step, rates + W * From, decay);
  SCAN_UNROLL for (int n = 0; n < some; n++) h[From + n] = fma(decay[n], h[From + n], input * all(B[From + n]));
  SCAN_UNROLL for (int n = 0; n < some; n++) sum = fma(h[From + n], all(C[From + n]), sum);
  if constexpr (From + some < Count) step_states<From + some>(h, step, input, rates, B, C, sum);
}

// Where results go, each to its token.
template <class T>
struct Results {
  T* y;
  const int32_t* tokens;
  int64_t token;
  int active;
  bool past_caches;
};

// Count states over a chunk: h = 2^(step * rate) h + input B, y += C h. Meanwhile what the next chunk will read is fetched. With the last
// states y is complete, and is written where the tokens were read: a few stores at a time, which wait for memory while others are computed.
template <int Count, bool Last, class T>
void advance(const float* rates, const float* step, const float* input, float* y, const float* B, const float* C, int64_t states,
             float* state, int tokens, Fetcher<5>& fetcher, const Results<T> results) {
  V h[Count];
  SCAN_UNROLL for (int n = 0; n < Count; n++) h[n] = load(state + W * n);
  for (int t = 0; t < tokens; t++, B += states, C += states) {
    fetcher.fetch();
    V sum = load(y + W * t);
    step_states<0>(h, load(step + W * t), load(input + W * t), rates, B, C, sum);
    if constexpr (Last) {
      store_result(results.y + results.tokens[t] * results.token, sum, results.active, results.past_caches);
    } else {
      store(y + W * t, sum);
    }
  }
  SCAN_UNROLL for (int n = 0; n < Count; n++) store(state + W * n, h[n]);
}

template <class T>
using Advance = void (*)(const float*, const float*, const float*, float*, const float*, const float*, int64_t, float*, int, Fetcher<5>&,
                         const Results<T>);

// The states after `most_states` at a time.
template <class T, int Count = most_states>
Advance<T> last_states(int64_t count) {
  if (count == Count) return advance<Count, true, T>;
  if constexpr (Count > 1) return last_states<T, Count - 1>(count);
  return nullptr;
}

template <class T>
void advance_all(const Buffers& x, const float* rates, float* state, int64_t states, int tokens, Fetcher<5>& fetcher,
                 const Results<T>& results) {
  int64_t n = 0;
  for (; states - n > most_states; n += most_states)
    advance<most_states, false, T>(rates + n * W, x.step, x.input, x.y, x.B + n, x.C + n, states, state + n * W, tokens, fetcher, results);
  last_states<T>(states - n)(rates + n * W, x.step, x.input, x.y, x.B + n, x.C + n, states, state + n * W, tokens, fetcher, results);
}

// Steps, inputs and skips of a chunk's tokens.
struct Reading {
  int64_t delta_token, u_token;
  V bias, skip;
  int active;
};

template <int Count, bool Softplus, class T>
SCAN_INLINE void read_some(const T* delta, const T* u, const Reading& r, const Buffers& x, int t) {
  V raw[Count], token[Count], step[Count];
  SCAN_UNROLL for (int i = 0; i < Count; i++) raw[i] = load_part(delta + x.tokens[t + i] * r.delta_token, r.active) + r.bias;
  SCAN_UNROLL for (int i = 0; i < Count; i++) token[i] = load_part(u + x.tokens[t + i] * r.u_token, r.active);
  if constexpr (Softplus) {
    V w[Count];
    exp_of_minus_absolute(raw, w);
    softplus(raw, w, step);
  } else {
    SCAN_UNROLL for (int i = 0; i < Count; i++) step[i] = raw[i];
  }
  SCAN_UNROLL for (int i = 0; i < Count; i++) {
    store(x.step + (t + i) * W, step[i]);
    store(x.input + (t + i) * W, step[i] * token[i]);
    store(x.y + (t + i) * W, r.skip * token[i]);
  }
}

template <bool Softplus, class T>
void read_steps(const T* delta, const T* u, const Reading reading, const Buffers& buffers, int count) {
  const Buffers x = buffers;  // a copy, for a vector stored through any pointer may change what lies behind a reference
  int t = 0;
  for (; t + interleaved <= count; t += interleaved) read_some<interleaved, Softplus>(delta, u, reading, x, t);
  for (; t < count; t++) read_some<1, Softplus>(delta, u, reading, x, t);
}

template <class T>
void forward(const ScanForward& scan, int64_t block, int64_t task, void* memory) {
  const FlushTiny flush_tiny;
  const ScanInputs& in = scan.in;
  Scratch scratch(memory);
  const Buffers x = cut(in, block, scratch);
  const int64_t blocks = divide_up(in.channels, block);
  const int64_t b = task / blocks / in.groups, g = task / blocks % in.groups;
  const int64_t begin = task % blocks * block, end = begin + block < in.channels ? begin + block : in.channels;
  for (int64_t d = begin, v = 0; d < end; d += W, v += in.states * W) {
    read_rates(in, g, d, log2_e, x.rates + v, W);
    for (int64_t i = 0; i < in.states; i++) store(x.state + v + i * W, zero());
  }
  const T* const u = static_cast<const T*>(in.u.data) + b * in.u.batch + g * in.u.group;
  const T* const delta = static_cast<const T*>(in.delta.data) + b * in.delta.batch + g * in.delta.group;
  const int64_t row = in.groups * in.channels;
  T* const y = static_cast<T*>(scan.y) + b * in.length * row + g * in.channels;
  const bool past = scan.past_caches && past_caches(y, row, in.channels);
  const int64_t item = sizeof(T), bytes = (end - begin) * item;
  const int64_t calls_per_token = divide_up(in.states, most_states) * divide_up(end - begin, W);
  const int64_t chunks = divide_up(in.length, in.chunk);
  for (int64_t c = 0; c < chunks; c++) {
    const int64_t from = c * in.chunk;
    const int count = static_cast<int>(in.length - from < in.chunk ? in.length - from : in.chunk);
    const int after = static_cast<int>(in.length - from - count < in.chunk ? in.length - from - count : in.chunk);
    read_path(in, b, g, from, count, x.tokens);
    read_path(in, b, g, from + count, after, x.tokens_after);
    read_maps<T>(in.B, b, g, x.tokens, count, in.states, x.B);
    read_maps<T>(in.C, b, g, x.tokens, count, in.states, x.C);
    Fetcher<5> fetcher{{rows_of_maps<T>(in.B, b, g, x.tokens_after, after, in.states),
                        rows_of_maps<T>(in.C, b, g, x.tokens_after, after, in.states),
                        {delta + begin, in.delta.token * item, bytes, x.tokens_after, after},
                        {u + begin, in.u.token * item, bytes, x.tokens_after, after},
                        {y + begin, row * item, bytes, x.tokens_after, past ? 0 : after}}};
    fetcher.spread_over(count * calls_per_token);
    for (int64_t d = begin, v = 0; d < end; d += W, v += in.states * W) {
      const int active = lanes(in.channels, d);
      if (scan.kept) {
        float* kept = scan.kept + ((b * chunks + c) * in.groups + g) * in.states * in.channels + d;
        for (int64_t n = 0; n < in.states; n++) store_part(kept + n * in.channels, load(x.state + v + n * W), active);
      }
      const V skip = channel_values(in.D, in, g, d), bias = channel_values(in.bias, in, g, d);
      const auto read = in.softplus ? read_steps<true, T> : read_steps<false, T>;
      read(delta + d, u + d, {in.delta.token, in.u.token, bias, skip, active}, x, count);
      advance_all<T>(x, x.rates + v, x.state + v, in.states, count, fetcher, {y + d, x.tokens, row, active, past});
    }
  }
  finish_stores();
}

}  // namespace

int64_t forward_scratch(const ScanInputs& in, int64_t block) {
  Scratch scratch(nullptr);
  cut(in, block, scratch);
  return scratch.taken();
}

void forward(const ScanForward& scan, int64_t block, int64_t task, void* scratch) {
  switch (scan.in.type) {
    case Type::f32: return forward<float>(scan, block, task, scratch);
    case Type::bf16: return forward<bf16>(scan, block, task, scratch);
    case Type::f16: return forward<f16>(scan, block, task, scratch);
  }
}

}  // namespace SCAN_SET
}  // namespace eqmambair
