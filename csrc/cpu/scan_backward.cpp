// The gradient of the selective scan, for a block of channels of one group of one batch element.
//
// Chunks are walked backwards, a few vectors of channels at a time. For a tile of some of these vectors' states, the states within the
// chunk are computed again from the one kept at its entry, together with the decays; then the gradient of the state goes back over them.
// With g the gradient of h[t] (what came back from later tokens included) and a the decay of token t:
//   dC[t, n] += h dy     dB[t, n] += g step u      (sums over channels: over a tile's vectors in registers, then over lanes)
//   g a               goes back to token t - 1,    and times h[t-1] it is the gradient of step A, the exponent.
#include "kernels.h"
#include "parts.h"

namespace eqmambair {
namespace SCAN_SET {
namespace {

struct Buffers {
  int32_t *tokens, *tokens_after;  // of this chunk and of the one that comes next, which lies before it
  float *B, *C;       // (chunk, n)
  float *dB, *dC;     // (chunk / W, n, W tokens): sums over the vectors of channels that are done
  float *dD, *dbias;  // (vectors, W)
  // Of each vector of channels, those of a tile side by side: (n, vectors of the tile, W), one tile after the other.
  float *rates;
  float *carry, *dA;  // gradient that goes back to the chunk before; gradient of A
  float *bias, *skip;           // (width)
  float *u, *delta, *dy;        // (chunk, width): rows of the inputs, bias added; then the gradients of u and delta in their places
  const char** lines;
  int64_t width;                // channels of the block, in whole vectors
  float largest_rate;
  // Of the vectors in hand.
  float *tokenwise;   // (chunk, vectors, 5, W), see below
  float *slope;       // (chunk, vectors, W), of softplus
  float *walk;        // (chunk, states of the tile, vectors, 2, W): state before the token, decay
  float *rows;        // (2, states of the tile, W tokens, W): dC and dB for each lane
};

// For each token and vector of channels: step, step u, gradient of y, and the sums over n of (gradient of the exponent) rate and of g B.
enum { step_of, input_of, dy_of, by_exponent_of, by_input_of, all_of };

Buffers cut(const ScanInputs& in, Scratch& scratch) {
  const int64_t vectors = divide_up(backward_block < in.channels ? backward_block : in.channels, W);
  const int64_t tokens = divide_up(in.chunk, W) * W;
  Buffers x;
  x.tokens = scratch.integers(in.chunk);
  x.tokens_after = scratch.integers(in.chunk);
  x.B = scratch.floats(in.chunk * in.states);
  x.C = scratch.floats(in.chunk * in.states);
  x.dB = scratch.floats(tokens * in.states);
  x.dC = scratch.floats(tokens * in.states);
  x.dD = scratch.floats(vectors * W);
  x.dbias = scratch.floats(vectors * W);
  x.width = vectors * W;
  x.bias = scratch.floats(x.width);
  x.skip = scratch.floats(x.width);
  x.u = scratch.floats(in.chunk * x.width);
  x.delta = scratch.floats(in.chunk * x.width);
  x.dy = scratch.floats(in.chunk * x.width);
  x.lines = scratch.pointers(5 * Fetcher::most_lines(in.chunk, x.width * 4) + 2 * Fetcher::most_lines(in.chunk, in.states * 4) +
                             Fetcher::most_lines(in.states, x.width * 4));
  x.rates = scratch.floats(vectors * in.states * W);
  x.carry = scratch.floats(vectors * in.states * W);
  x.dA = scratch.floats(vectors * in.states * W);
  x.tokenwise = scratch.floats(in.chunk * tile_vectors * all_of * W);
  x.slope = scratch.floats(in.chunk * tile_vectors * W);
  x.walk = scratch.floats(in.chunk * tile_states * tile_vectors * 2 * W);
  x.rows = scratch.floats(2 * tile_states * W * W);
  return x;
}

// Some states of some vectors of channels in a chunk.
struct Tile {
  const float *rates, *kept;
  int64_t kept_stride;
  int active;  // lanes of the last vector
  float *carry, *dA;
  const float *B, *C;
  float *tokenwise, *walk, *rows;
  float *dC, *dB;
  bool first;  // these vectors are the first to add to dC and dB
  int64_t states;
  int tokens;
};

// Adds the lanes of rows (States, W tokens, W) to sums, or sets these.
template <int States>
SCAN_INLINE void add_lanes(const float* rows, bool set, float* sums) {
  SCAN_UNROLL for (int n = 0; n < States; n++) {
    const V these = sums_of_rows(rows + n * W * W);
    store(sums + n * W, set ? these : load(sums + n * W) + these);
  }
}

// States and decays of the chunk, and dC.
template <bool Bounded, int Vectors, int States>
SCAN_INLINE void recompute(const Tile tile, Fetcher& fetcher) {
  V state[States * Vectors];
  SCAN_UNROLL for (int i = 0; i < States * Vectors; i++)
    state[i] = load_part(tile.kept + i / Vectors * tile.kept_stride + i % Vectors * W, i % Vectors + 1 < Vectors ? W : tile.active);
  for (int from = 0; from < tile.tokens; from += W) {
    const int to = from + W < tile.tokens ? from + W : tile.tokens;
    for (int t = from; t < to; t++) {
      fetcher.fetch();
      const float* token = tile.tokenwise + t * Vectors * all_of * W;
      float* walk = tile.walk + t * States * Vectors * 2 * W;
      SCAN_UNROLL for (int n = 0; n < States; n++) {
        V step[Vectors], decay[Vectors];
        SCAN_UNROLL for (int v = 0; v < Vectors; v++) step[v] = load(token + (v * all_of + step_of) * W);
        powers<Bounded>(step, tile.rates + n * Vectors * W, decay);
        const V B = all(tile.B[t * tile.states + n]);
        V dC;
        SCAN_UNROLL for (int v = 0; v < Vectors; v++) {
          const int i = n * Vectors + v;
          const V dy = load(token + (v * all_of + dy_of) * W);
          store(walk + 2 * i * W, state[i]);
          store(walk + (2 * i + 1) * W, decay[v]);
          state[i] = fma(decay[v], state[i], load(token + (v * all_of + input_of) * W) * B);
          dC = v ? fma(state[i], dy, dC) : state[i] * dy;
        }
        store(tile.rows + (n * W + t - from) * W, dC);
      }
    }
    add_lanes<States>(tile.rows, tile.first, tile.dC + from * tile.states);
  }
}

template <int Vectors, int States>
SCAN_INLINE void go_back(const Tile tile) {
  V back[States * Vectors], by_rate[States * Vectors];
  SCAN_UNROLL for (int i = 0; i < States * Vectors; i++) {
    back[i] = load(tile.carry + i * W);
    by_rate[i] = zero();
  }
  float* const rows = tile.rows + tile_states * W * W;
  for (int from = (tile.tokens - 1) / W * W; from >= 0; from -= W) {
    for (int t = (from + W < tile.tokens ? from + W : tile.tokens) - 1; t >= from; t--) {
      float* token = tile.tokenwise + t * Vectors * all_of * W;
      const float* walk = tile.walk + t * States * Vectors * 2 * W;
      V B[States], C[States], dB[States];
      SCAN_UNROLL for (int n = 0; n < States; n++) {
        B[n] = all(tile.B[t * tile.states + n]);
        C[n] = all(tile.C[t * tile.states + n]);
      }
      SCAN_UNROLL for (int v = 0; v < Vectors; v++, token += all_of * W) {
        const V step = load(token + step_of * W), input = load(token + input_of * W), dy = load(token + dy_of * W);
        V by_exponent = load(token + by_exponent_of * W), by_input = load(token + by_input_of * W);
        SCAN_UNROLL for (int n = 0; n < States; n++) {
          const int i = n * Vectors + v;
          const V g = fma(dy, C[n], back[i]);
          dB[n] = v ? fma(g, input, dB[n]) : g * input;
          by_input = fma(g, B[n], by_input);
          back[i] = g * load(walk + (2 * i + 1) * W);
          const V exponent = back[i] * load(walk + 2 * i * W);
          by_exponent = fma(exponent, load(tile.rates + i * W), by_exponent);
          by_rate[i] = fma(exponent, step, by_rate[i]);
        }
        store(token + by_exponent_of * W, by_exponent);
        store(token + by_input_of * W, by_input);
      }
      SCAN_UNROLL for (int n = 0; n < States; n++) store(rows + (n * W + t - from) * W, dB[n]);
    }
    add_lanes<States>(rows, tile.first, tile.dB + from * tile.states);
  }
  SCAN_UNROLL for (int i = 0; i < States * Vectors; i++) {
    store(tile.carry + i * W, back[i]);
    store(tile.dA + i * W, load(tile.dA + i * W) + by_rate[i]);
  }
}

// Not part of its callers, of which there is one for each type of the inputs.
template <bool Bounded, int Vectors, int States>
__attribute__((noinline)) void walk_tile(const Tile& tile, Fetcher& fetcher) {
  recompute<Bounded, Vectors, States>(tile, fetcher);
  go_back<Vectors, States>(tile);
}

// One vector's part of Count tokens, `vectors` vectors from token to token.
template <bool Softplus, int Count>
SCAN_INLINE void read_some(const float* delta, const float* u, const float* dy, int64_t width, int vectors, float* tokenwise, float* slopes,
                           V& largest) {
  V raw[Count], step[Count], slope[Count];
  SCAN_UNROLL for (int i = 0; i < Count; i++) raw[i] = load(delta + i * width);
  if constexpr (Softplus) {
    V w[Count];
    exp_of_minus_absolute(raw, w);
    softplus(raw, w, step);
    SCAN_UNROLL for (int i = 0; i < Count; i++) slope[i] = sigmoid(raw[i], w[i]);
  } else {
    SCAN_UNROLL for (int i = 0; i < Count; i++) step[i] = raw[i], slope[i] = all(1.0f);
  }
  SCAN_UNROLL for (int i = 0; i < Count; i++) {
    float* to = tokenwise + i * vectors * all_of * W;
    largest = larger(largest, absolute(step[i]));
    store(to + step_of * W, step[i]);
    store(to + input_of * W, step[i] * load(u + i * width));
    store(to + dy_of * W, load(dy + i * width));
    store(to + by_exponent_of * W, zero());
    store(to + by_input_of * W, zero());
    store(slopes + i * vectors * W, slope[i]);
  }
}

template <bool Softplus>
V read_tokens(const float* delta, const float* u, const float* dy, int64_t width, int count, int vectors, float* tokenwise,
              float* slopes, V largest) {
  const int64_t row = vectors * all_of * W, slope = vectors * W;
  int t = 0;
  for (; t + 4 <= count; t += 4)
    read_some<Softplus, 4>(delta + t * width, u + t * width, dy + t * width, width, vectors, tokenwise + t * row, slopes + t * slope, largest);
  for (; t < count; t++)
    read_some<Softplus, 1>(delta + t * width, u + t * width, dy + t * width, width, vectors, tokenwise + t * row, slopes + t * slope, largest);
  return largest;
}

// A chunk for some vectors of channels, which begin with vector v of the block; `lanes` of the last.
template <int Vectors>
void go_back_over(const ScanInputs& in, const Buffers& buffers, int64_t v, int lanes, const float* kept, Fetcher& fetcher, int count) {
  const Buffers x = buffers;  // a copy, for a vector stored through any pointer may change what lies behind a reference
  const int64_t states = in.states;
  V largest = zero();
  for (int i = 0; i < Vectors; i++) {
    const int64_t d = (v + i) * W;
    const auto read = in.softplus ? read_tokens<true> : read_tokens<false>;
    largest = read(x.delta + d, x.u + d, x.dy + d, x.width, count, Vectors, x.tokenwise + i * all_of * W, x.slope + i * W, largest);
  }
  const bool bounded = bounds_are_free || largest_lane(largest) * x.largest_rate <= largest_exponent;
  const auto tile = [&](int64_t n) -> Tile {
    const int64_t at = (v * states + n * Vectors) * W;
    return {x.rates + at, kept + n * in.channels, in.channels, lanes, x.carry + at, x.dA + at, x.B + n, x.C + n,
            x.tokenwise, x.walk, x.rows, x.dC + n * W, x.dB + n * W, v == 0, states, count};
  };
  const auto walk = bounded ? walk_tile<true, Vectors, tile_states> : walk_tile<bounds_are_free, Vectors, tile_states>;
  int64_t n = 0;
  for (; n + tile_states <= states; n += tile_states) walk(tile(n), fetcher);
  if constexpr (tile_states > 1)
    for (; n < states; n++) walk_tile<bounds_are_free, Vectors, 1>(tile(n), fetcher);
  for (int i = 0; i < Vectors; i++) {
    const int64_t d = (v + i) * W;
    const V skip = load(x.skip + d);
    V dD = load(x.dD + d), dbias = load(x.dbias + d);
    for (int t = 0; t < count; t++) {
      const float* token = x.tokenwise + (t * Vectors + i) * all_of * W;
      float *const u = x.u + t * x.width + d, *const delta = x.delta + t * x.width + d;
      const V dy = load(token + dy_of * W), by_input = load(token + by_input_of * W);
      const V dstep = fma(load(token + by_exponent_of * W), all(ln_2), load(u) * by_input);
      const V draw = dstep * load(x.slope + (t * Vectors + i) * W);
      dD = fma(dy, load(u), dD);
      dbias = dbias + draw;
      store(delta, draw);
      store(u, fma(skip, dy, load(token + step_of * W) * by_input));
    }
    store(x.dD + d, dD);
    store(x.dbias + d, dbias);
  }
}

using GoBack = void (*)(const ScanInputs&, const Buffers&, int64_t, int, const float*, Fetcher&, int);

template <int Vectors = tile_vectors>
GoBack go_back_of(int64_t vectors) {
  if (vectors == Vectors) return go_back_over<Vectors>;
  if constexpr (Vectors > 1) return go_back_of<Vectors - 1>(vectors);
  return nullptr;
}

// How many vectors to take next when `left` are left: about as many each time.
int64_t vectors_of(int64_t left) { return divide_up(left, divide_up(left, tile_vectors)); }

// Sums (count / W, n, W tokens), to the tokens' rows of dB or dC in memory.
void write_sums(const float* sums, const int32_t* tokens, int count, int64_t states, int64_t stride, float* to) {
  for (int t = 0; t < count; t++) {
    const float* from = sums + t / W * W * states + t % W;
    float* row = to + tokens[t] * stride;
    for (int64_t n = 0; n < states; n++) row[n] = from[n * W];
  }
}

// The rows of a chunk's tokens as floats.
template <class T>
void read_rows(const T* from, int64_t token, const Rows rows, const float* bias, float* to, int64_t width) {
  for (int t = 0; t < rows.count; t++, to += width) {
    const T* const row = from + rows.tokens[t] * token;
    each_vector(rows.channels, [&](int64_t d, int active) {
      const V values = load_part(row + d, active);
      store(to + d, bias ? values + load(bias + d) : values);
    });
  }
}

template <class T>
void backward(const ScanBackward& scan, int64_t task, void* memory) {
  const FlushTiny flush_tiny;
  const ScanInputs& in = scan.in;
  Scratch scratch(memory);
  Buffers x = cut(in, scratch);
  const int64_t blocks = divide_up(in.channels, backward_block), block = task % blocks;
  const int64_t b = task / blocks / in.groups, g = task / blocks % in.groups;
  const int64_t begin = block * backward_block;
  const int64_t channels = in.channels - begin < backward_block ? in.channels - begin : backward_block;
  const int64_t vectors = divide_up(channels, W);
  for (int64_t v = 0; v < vectors;) {
    const int64_t these = vectors_of(vectors - v);
    for (int64_t i = 0; i < these; i++) read_rates(in, g, begin + (v + i) * W, log2_e, x.rates + (v * in.states + i) * W, these * W);
    v += these;
  }
  x.largest_rate = largest_of(x.rates, x.width * in.states);
  for (int64_t d = 0; d < x.width; d += W) {
    store(x.dD + d, zero());
    store(x.dbias + d, zero());
    store(x.bias + d, channel_values(in.bias, in, g, begin + d));
    store(x.skip + d, channel_values(in.D, in, g, begin + d));
  }
  for (int64_t i = 0; i < vectors * in.states; i++) {
    store(x.carry + i * W, zero());
    store(x.dA + i * W, zero());
  }
  const T* const u = static_cast<const T*>(in.u.data) + b * in.u.batch + g * in.u.group + begin;
  const T* const delta = static_cast<const T*>(in.delta.data) + b * in.delta.batch + g * in.delta.group + begin;
  const T* const grad = static_cast<const T*>(scan.grad.data) + b * scan.grad.batch + g * scan.grad.group + begin;
  const int64_t row = in.groups * in.channels;
  T* const du = static_cast<T*>(scan.du) + b * in.length * row + g * in.channels + begin;
  T* const ddelta = static_cast<T*>(scan.ddelta) + b * in.length * row + g * in.channels + begin;
  const int64_t item = sizeof(T), bytes = channels * item, chunks = divide_up(in.length, in.chunk);
  const int64_t maps = ((block * in.batch + b) * in.length * in.groups + g) * in.states;
  for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
    const int64_t from = chunk * in.chunk;
    const int count = static_cast<int>(in.length - from < in.chunk ? in.length - from : in.chunk);
    const int after = chunk ? static_cast<int>(in.chunk) : 0;
    read_path(in, b, g, from, count, x.tokens);
    read_path(in, b, g, from - after, after, x.tokens_after);
    read_maps<T>(in.B, b, g, x.tokens, count, in.states, x.B);
    read_maps<T>(in.C, b, g, x.tokens, count, in.states, x.C);
    const Rows rows{x.tokens, count, channels};
    read_rows(delta, in.delta.token, rows, x.bias, x.delta, x.width);
    read_rows(u, in.u.token, rows, nullptr, x.u, x.width);
    read_rows(grad, scan.grad.token, rows, nullptr, x.dy, x.width);
    const float* const kept = scan.kept + ((b * chunks + chunk) * in.groups + g) * in.states * in.channels + begin;
    Fetcher fetcher(x.lines);
    if (!scan.past_caches) {
      fetcher.add({du, row * item, bytes, x.tokens, count});
      fetcher.add({ddelta, row * item, bytes, x.tokens, count});
    }
    fetcher.add(rows_of_maps<T>(in.B, b, g, x.tokens_after, after, in.states));
    fetcher.add(rows_of_maps<T>(in.C, b, g, x.tokens_after, after, in.states));
    if (chunk) fetcher.add({kept - in.groups * in.states * in.channels, in.channels * 4, channels * 4, nullptr, static_cast<int>(in.states)});
    fetcher.add({delta, in.delta.token * item, bytes, x.tokens_after, after});
    fetcher.add({u, in.u.token * item, bytes, x.tokens_after, after});
    fetcher.add({grad, scan.grad.token * item, bytes, x.tokens_after, after});
    fetcher.spread_over(count * divide_up(in.states, tile_states) * divide_up(vectors, tile_vectors));
    for (int64_t v = 0; v < vectors;) {
      const int64_t these = vectors_of(vectors - v);
      go_back_of(these)(in, x, v, lanes(channels, (v + these - 1) * W), kept + v * W, fetcher, count);
      v += these;
    }
    write_rows(x.u, x.width, rows, du, row, scan.past_caches);
    write_rows(x.delta, x.width, rows, ddelta, row, scan.past_caches);
    write_sums(x.dB, x.tokens, count, in.states, in.groups * in.states, scan.dB + maps);
    write_sums(x.dC, x.tokens, count, in.states, in.groups * in.states, scan.dC + maps);
  }
  finish_stores();
  for (int64_t v = 0; v < vectors;) {
    const int64_t these = vectors_of(vectors - v);
    for (int64_t i = 0; i < these; i++) {
      const int64_t d = begin + (v + i) * W, channel = b * row + g * in.channels + d;
      const int active = lanes(in.channels, d);
      store_part(scan.dD + channel, load(x.dD + (v + i) * W), active);
      store_part(scan.dbias + channel, load(x.dbias + (v + i) * W), active);
      for (int64_t n = 0; n < in.states; n++)
        store_part(scan.dA + ((b * in.groups + g) * in.states + n) * in.channels + d, load(x.dA + (v * in.states + n * these + i) * W),
                   active);
    }
    v += these;
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
