// The selective scan forwards, for a block of channels of one group of one batch element.
//
// Lanes are channels. The path is walked a few tokens at a time: their rows are read, each once and whole; their steps are computed; then,
// for each vector of channels, the recurrence goes over them; then the results are written where the tokens were read. So memory is touched
// once for each token whatever the number of states, and the inner loops work on the first-level cache.
#include "kernels.h"
#include "parts.h"

namespace eqmambair {
namespace SCAN_SET {
namespace {

// Tokens that are read, walked and written at a time, a piece; fewer where a chunk, at whose entry states are kept, is no whole number of pieces.
constexpr int most_tokens = 16;

struct Buffers {
  int32_t *tokens, *tokens_after;  // of this piece and of the next
  float *B, *C;             // (piece, n)
  float *bias, *skip;       // (width)
  float *low, *to_steps;    // (piece, rank), (rank, width)
  float *step, *input, *y;  // (piece, width)
  float *rates, *state;     // (vectors, n, W)
  const char** lines;
  int64_t width;            // channels of the block, in whole vectors
};

Buffers cut(const ScanInputs& in, int64_t block, Scratch& scratch) {
  Buffers x;
  x.width = divide_up(block, W) * W;
  x.tokens = scratch.integers(most_tokens);
  x.tokens_after = scratch.integers(most_tokens);
  x.B = scratch.floats(most_tokens * in.states);
  x.C = scratch.floats(most_tokens * in.states);
  x.bias = scratch.floats(x.width);
  x.skip = scratch.floats(x.width);
  x.low = scratch.floats(most_tokens * in.rank);
  x.to_steps = scratch.floats(in.rank * x.width);
  x.step = scratch.floats(most_tokens * x.width);
  x.input = scratch.floats(most_tokens * x.width);
  x.y = scratch.floats(most_tokens * x.width);
  x.rates = scratch.floats(x.width * in.states);
  x.state = scratch.floats(x.width * in.states);
  x.lines = scratch.pointers(3 * Fetcher::most_lines(most_tokens, x.width * 4) + 2 * Fetcher::most_lines(most_tokens, in.states * 4) +
                             Fetcher::most_lines(most_tokens, in.rank * 4));
  return x;
}

// One token for the states From..Count-1, a few chains side by side at a time.
template <bool Bounded, int From, int Count>
SCAN_INLINE void step_states(V (&h)[Count], V step, V input, const float* rates, const float* B, const float* C, V& sum) {
  constexpr int parts = (Count - From + interleaved - 1) / interleaved, some = (Count - From + parts - 1) / parts;
  V steps[some], decay[some];
  SCAN_UNROLL for (int n = 0; n < some; n++) steps[n] = step;
  powers<Bounded>(steps, rates + W * From, decay);
  SCAN_UNROLL for (int n = 0; n < some; n++) h[From + n] = fma(decay[n], h[From + n], input * all(B[From + n]));
  SCAN_UNROLL for (int n = 0; n < some; n++) sum = fma(h[From + n], all(C[From + n]), sum);
  if constexpr (From + some < Count) step_states<Bounded, From + some>(h, step, input, rates, B, C, sum);
}

// A piece for some states of one vector of channels; rows of tokens are `width` apart, those of the maps `states`.
struct Walk {
  const float *rates, *step, *input;
  float* y;
  const float *B, *C;
  float* state;
  int64_t width, states;
  int tokens;
};

// h = 2^(step * rate) h + input B, y += C h for Count states. Meanwhile what the next piece will read is fetched.
template <bool Bounded, int Count>
void advance(const Walk walk, Fetcher& fetcher) {
  V h[Count];
  SCAN_UNROLL for (int n = 0; n < Count; n++) h[n] = load(walk.state + W * n);
  const float *step = walk.step, *input = walk.input, *B = walk.B, *C = walk.C;
  float* y = walk.y;
  for (int t = 0; t < walk.tokens; t++, B += walk.states, C += walk.states, step += walk.width, input += walk.width, y += walk.width) {
    fetcher.fetch();
    V sum = load(y);
    step_states<Bounded, 0>(h, load(step), load(input), walk.rates, B, C, sum);
    store(y, sum);
  }
  SCAN_UNROLL for (int n = 0; n < Count; n++) store(walk.state + W * n, h[n]);
}

using Advance = void (*)(const Walk, Fetcher&);

template <bool Bounded, int Count = most_states>
Advance advance_of(int64_t states) {
  if (states == Count) return advance<Bounded, Count>;
  if constexpr (Count > 1) return advance_of<Bounded, Count - 1>(states);
  return nullptr;
}

void advance_all(const Buffers& x, int64_t states, int tokens, bool bounded, Fetcher& fetcher) {
  for (int64_t n = 0; n < states; n += most_states) {
    const int64_t some = states - n < most_states ? states - n : most_states;
    const Advance go = bounds_are_free || bounded ? advance_of<true>(some) : advance_of<bounds_are_free>(some);
    for (int64_t d = 0; d < x.width; d += W) {
      const int64_t place = d * states + n * W;
      go({x.rates + place, x.step + d, x.input + d, x.y + d, x.B + n, x.C + n, x.state + place, x.width, states, tokens}, fetcher);
    }
  }
}

// A piece's inputs and skips and, unless these are made from `low`, its steps before softplus.
template <bool Steps, class T>
void read_rows(const T* delta, int64_t delta_token, const T* u, int64_t u_token, const Rows rows, const Buffers& buffers) {
  const Buffers x = buffers;  // a copy, for a vector stored through any pointer may change what lies behind a reference
  for (int t = 0; t < rows.count; t++) {
    const T *const from_delta = delta + rows.tokens[t] * delta_token, *const from_u = u + rows.tokens[t] * u_token;
    float *const step = x.step + t * x.width, *const input = x.input + t * x.width, *const y = x.y + t * x.width;
    each_vector(rows.channels, [&](int64_t d, int active) {
      const V token = load_part(from_u + d, active);
      if constexpr (Steps) store(step + d, load_part(from_delta + d, active) + load(x.bias + d));
      store(input + d, token);
      store(y + d, token * load(x.skip + d));
    });
  }
}

template <int Count>
SCAN_INLINE void steps_of_some(const float* low, int64_t rank, const Buffers& x, int64_t d, float* step) {
  V sum[Count];
  SCAN_UNROLL for (int i = 0; i < Count; i++) sum[i] = load(x.bias + d);
  for (int64_t k = 0; k < rank; k++) {
    const V weight = load(x.to_steps + k * x.width + d);
    SCAN_UNROLL for (int i = 0; i < Count; i++) sum[i] = fma(all(low[i * rank + k]), weight, sum[i]);
  }
  SCAN_UNROLL for (int i = 0; i < Count; i++) store(step + i * x.width + d, sum[i]);
}

// A piece's steps before softplus, from `low`.
void make_steps(const Buffers& buffers, int64_t rank, int count) {
  const Buffers x = buffers;
  int t = 0;
  for (; t + 4 <= count; t += 4)
    for (int64_t d = 0; d < x.width; d += W) steps_of_some<4>(x.low + t * rank, rank, x, d, x.step + t * x.width);
  for (; t < count; t++)
    for (int64_t d = 0; d < x.width; d += W) steps_of_some<1>(x.low + t * rank, rank, x, d, x.step + t * x.width);
}

template <bool Softplus, int Count>
SCAN_INLINE void finish_some(float* step, float* input, V& largest) {
  V x[Count];
  SCAN_UNROLL for (int i = 0; i < Count; i++) x[i] = load(step + i * W);
  if constexpr (Softplus) {
    V w[Count], raw[Count];
    SCAN_UNROLL for (int i = 0; i < Count; i++) raw[i] = x[i];
    exp_of_minus_absolute(raw, w);
    softplus(raw, w, x);
  }
  SCAN_UNROLL for (int i = 0; i < Count; i++) {
    largest = larger(largest, absolute(x[i]));
    store(step + i * W, x[i]);
    store(input + i * W, x[i] * load(input + i * W));
  }
}

// Softplus of the steps, the inputs times these. Returns the largest step.
template <bool Softplus>
float finish_steps(float* step, float* input, int64_t numbers) {
  V largest = zero();
  int64_t i = 0;
  for (; i + 4 * W <= numbers; i += 4 * W) finish_some<Softplus, 4>(step + i, input + i, largest);
  for (; i < numbers; i += W) finish_some<Softplus, 1>(step + i, input + i, largest);
  return largest_lane(largest);
}

template <class T>
void forward(const ScanForward& scan, int64_t block, int64_t task, void* memory) {
  const FlushTiny flush_tiny;
  const ScanInputs& in = scan.in;
  Scratch scratch(memory);
  const Buffers x = cut(in, block, scratch);
  const int64_t blocks = divide_up(in.channels, block);
  const int64_t b = task / blocks / in.groups, g = task / blocks % in.groups;
  const int64_t begin = task % blocks * block, channels = in.channels - begin < block ? in.channels - begin : block;
  for (int64_t d = 0; d < x.width; d += W) {
    read_rates(in, g, begin + d, log2_e, x.rates + d * in.states, W);
    for (int64_t n = 0; n < in.states; n++) store(x.state + (d * in.states + n * W), zero());
    store(x.bias + d, channel_values(in.bias, in, g, begin + d));
    store(x.skip + d, channel_values(in.D, in, g, begin + d));
    for (int64_t k = 0; k < in.rank; k++)
      store(x.to_steps + k * x.width + d, load_part(in.to_steps + (g * in.rank + k) * in.channels + begin + d, lanes(in.channels, begin + d)));
  }
  const float largest_rate = largest_of(x.rates, x.width * in.states);
  const T* const u = static_cast<const T*>(in.u.data) + b * in.u.batch + g * in.u.group + begin;
  const T* const delta = static_cast<const T*>(in.delta.data) + b * in.delta.batch + g * in.delta.group + (in.rank ? 0 : begin);
  const int64_t row = in.groups * in.channels, item = sizeof(T), bytes = channels * item;
  T* const y = static_cast<T*>(scan.y) + b * in.length * row + g * in.channels + begin;
  const int64_t chunks = divide_up(in.length, in.chunk);
  int64_t piece = most_tokens;
  while (in.chunk % piece) piece--;
  const auto tokens_from = [&](int64_t from) { return static_cast<int>(in.length - from < piece ? in.length - from : piece); };
  for (int64_t from = 0; from < in.length; from += piece) {
    const int count = tokens_from(from), after = tokens_from(from + count);
    read_path(in, b, g, from, count, x.tokens);
    read_path(in, b, g, from + count, after, x.tokens_after);
    read_maps<T>(in.B, b, g, x.tokens, count, in.states, x.B);
    read_maps<T>(in.C, b, g, x.tokens, count, in.states, x.C);
    const Rows rows{x.tokens, count, channels};
    (in.rank ? read_rows<false, T> : read_rows<true, T>)(delta, in.delta.token, u, in.u.token, rows, x);
    if (in.rank) {
      read_maps<T>(in.delta, b, g, x.tokens, count, in.rank, x.low);
      make_steps(x, in.rank, count);
    }
    const float largest_step = (in.softplus ? finish_steps<true> : finish_steps<false>)(x.step, x.input, count * x.width);
    if (scan.kept && from % in.chunk == 0) {
      float* const kept = scan.kept + ((b * chunks + from / in.chunk) * in.groups + g) * in.states * in.channels + begin;
      each_vector(channels, [&](int64_t d, int active) {
        for (int64_t n = 0; n < in.states; n++) store_part(kept + n * in.channels + d, load(x.state + d * in.states + n * W), active);
      });
    }
    Fetcher fetcher(x.lines);
    if (!scan.past_caches) fetcher.add({y, row * item, bytes, x.tokens, count});
    fetcher.add(rows_of_maps<T>(in.B, b, g, x.tokens_after, after, in.states));
    fetcher.add(rows_of_maps<T>(in.C, b, g, x.tokens_after, after, in.states));
    fetcher.add({delta, in.delta.token * item, in.rank ? in.rank * item : bytes, x.tokens_after, after});
    fetcher.add({u, in.u.token * item, bytes, x.tokens_after, after});
    fetcher.spread_over(count * divide_up(in.states, most_states) * (x.width / W));
    advance_all(x, in.states, count, largest_step * largest_rate <= largest_exponent, fetcher);
    write_rows(x.y, x.width, rows, y, row, scan.past_caches);
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
