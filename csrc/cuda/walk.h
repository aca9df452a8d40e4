// How a warp walks a segment of a path, forwards and backwards.
//
// Written for a type `R` of one number for each of 32 channels: on the GPU a float (each lane has its own), in the test on the CPU an array.
// What differs between the two are the functions on R that this file calls without defining them: load, store, gather, exp2_of,
// softplus_of, slope_of, store_sums. Nothing is shared among warps, so walking them one after another on a CPU is what the GPU does.
#pragma once
#include "scan.h"

#ifdef __CUDACC__
#define SCAN_DEVICE __device__ __forceinline__
#define SCAN_UNROLL _Pragma("unroll")
#else
#define SCAN_DEVICE inline
#define SCAN_UNROLL
#endif

namespace eqmambair {
namespace gpu {

// One warp's share of the work: 32 channels from d of group g of batch element b, over one segment.
struct Item {
  int64_t b, g, d, segment;
  int active;  // channels that exist
};

SCAN_DEVICE Item item(const Scan& s, int64_t number) {
  const int64_t warps = (s.channels + warp - 1) / warp;
  Item at;
  at.d = number % warps * warp;
  number /= warps;
  at.segment = number % s.segments;
  number /= s.segments;
  at.g = number % s.groups;
  at.b = number / s.groups;
  at.active = static_cast<int>(s.channels - at.d < warp ? s.channels - at.d : warp);
  return at;
}

SCAN_DEVICE int64_t token(const Scan& s, const Item& at, int64_t step) {
  if (!s.order) return step;
  const int64_t p = s.order[at.b * s.order_batch + at.g * s.length + step];
  return p < 0 ? 0 : p < s.length ? p : s.length - 1;  // an order that was not checked must not reach outside
}

template <class T>
SCAN_DEVICE const T* row(const Tokens& x, const Item& at, int64_t p) {
  return static_cast<const T*>(x.data) + at.b * x.batch + p * x.token + at.g * x.group;
}

SCAN_DEVICE int64_t dense(const Scan& s, const Item& at, int64_t p) {
  return ((at.b * s.length + p) * s.groups + at.g) * s.channels + at.d;
}

// Where (b, part, g, n, d) of `parts` parts stands.
SCAN_DEVICE int64_t state_at(const Scan& s, const Item& at, int64_t parts, int64_t part, int64_t n) {
  return (((at.b * parts + part) * s.groups + at.g) * s.states + n) * s.channels + at.d;
}

SCAN_DEVICE int64_t channel_at(const Scan& s, const Item& at) {
  return ((at.b * s.segments + at.segment) * s.groups + at.g) * s.channels + at.d;
}

template <class R>
SCAN_DEVICE R rate_of(const Scan& s, const Item& at, int64_t n) {
  return gather<R>(s.A + (at.g * s.channels + at.d) * s.states + n, s.states, at.active) * 1.44269504088896341f;
}

template <class R>
struct Token {
  int64_t p;
  R raw, step, u;
};

template <class R, class T>
SCAN_DEVICE Token<R> read(const Scan& s, const Item& at, int64_t step, R bias) {
  Token<R> x;
  x.p = token(s, at, step);
  x.raw = load<R>(row<T>(s.delta, at, x.p) + at.d, at.active) + bias;
  x.step = s.softplus ? softplus_of(x.raw) : x.raw;
  x.u = load<R>(row<T>(s.u, at, x.p) + at.d, at.active);
  return x;
}

template <class R>
SCAN_DEVICE R per_channel(const float* values, const Scan& s, const Item& at) {
  return values ? load<R>(values + at.g * s.channels + at.d, at.active) : constant<R>(0.0f);
}

template <class T>
SCAN_DEVICE float map_value(const T* maps, int64_t n, int64_t states) {
  return n < states ? widen(maps[n]) : 0.0f;
}

SCAN_DEVICE int64_t end_of(const Scan& s, const Item& at) {
  const int64_t end = (at.segment + 1) * s.segment_tokens;
  return end < s.length ? end : s.length;
}

// Forwards. Without Write: what the segment adds to the state, and the sum of its steps. With: the results, from the state at its entry.
template <class R, class T, int Count, bool Write>
SCAN_DEVICE void walk(const Scan& s, const Item& at) {
  const R bias = per_channel<R>(s.bias, s, at), skip = per_channel<R>(s.D, s, at);
  const int64_t begin = at.segment * s.segment_tokens, end = end_of(s, at);
  const int64_t chunks = (s.length + chunk_tokens - 1) / chunk_tokens;
  for (int64_t n0 = 0; n0 < s.states; n0 += Count) {
    R rate[Count], h[Count], steps = constant<R>(0.0f);
    SCAN_UNROLL for (int n = 0; n < Count; n++) {
      const bool exists = n0 + n < s.states;
      rate[n] = exists ? rate_of<R>(s, at, n0 + n) : constant<R>(0.0f);
      h[n] = Write && exists && s.segments > 1
                 ? load<R>(s.segment_state + state_at(s, at, s.segments, at.segment, n0 + n), at.active)
                 : constant<R>(0.0f);
    }
    for (int64_t t = begin; t < end; t++) {
      if (Write && s.kept && t % chunk_tokens == 0) {
        SCAN_UNROLL for (int n = 0; n < Count; n++)
          if (n0 + n < s.states) store(s.kept + state_at(s, at, chunks, t / chunk_tokens, n0 + n), h[n], at.active);
      }
      const Token<R> x = read<R, T>(s, at, t, bias);
      const R input = x.step * x.u;
      const T *B = row<T>(s.B, at, x.p), *C = row<T>(s.C, at, x.p);
      R sum = n0 == 0 ? skip * x.u : constant<R>(0.0f);
      if (Write && n0 > 0) sum = load<R>(s.sums + dense(s, at, x.p), at.active);
      SCAN_UNROLL for (int n = 0; n < Count; n++) {
        h[n] = exp2_of(x.step * rate[n]) * h[n] + input * map_value(B, n0 + n, s.states);
        if (Write) sum = sum + h[n] * map_value(C, n0 + n, s.states);
      }
      steps = steps + x.step;
      if (Write) {
        if (n0 + Count < s.states)
          store(s.sums + dense(s, at, x.p), sum, at.active);
        else
          store(static_cast<T*>(s.y) + dense(s, at, x.p), sum, at.active);
      }
    }
    if (!Write) {
      SCAN_UNROLL for (int n = 0; n < Count; n++)
        if (n0 + n < s.states) store(s.segment_state + state_at(s, at, s.segments, at.segment, n0 + n), h[n], at.active);
      if (n0 == 0) store(s.segment_step + channel_at(s, at), steps, at.active);
    }
  }
}

// From what each segment adds to what enters each segment: segments in turn, forwards or backwards. at.segment is not used.
template <class R>
SCAN_DEVICE void join(const Scan& s, Item at, int64_t n, bool backwards) {
  const R rate = rate_of<R>(s, at, n);
  R h = constant<R>(0.0f);
  for (int64_t i = 0; i < s.segments; i++) {
    at.segment = backwards ? s.segments - 1 - i : i;
    float* const place = s.segment_state + state_at(s, at, s.segments, at.segment, n);
    const R added = load<R>(place, at.active);
    const R decay = exp2_of(rate * load<R>(s.segment_step + channel_at(s, at), at.active));
    store(place, h, at.active);
    h = decay * h + added;
  }
}

// Backwards without results: the gradient that a segment hands to the token before it, and the sum of its steps.
template <class R, class T, int Count>
SCAN_DEVICE void walk_back(const Scan& s, const Item& at) {
  const R bias = per_channel<R>(s.bias, s, at);
  const int64_t begin = at.segment * s.segment_tokens, end = end_of(s, at);
  for (int64_t n0 = 0; n0 < s.states; n0 += Count) {
    R rate[Count], back[Count], steps = constant<R>(0.0f);
    SCAN_UNROLL for (int n = 0; n < Count; n++) {
      rate[n] = n0 + n < s.states ? rate_of<R>(s, at, n0 + n) : constant<R>(0.0f);
      back[n] = constant<R>(0.0f);
    }
    for (int64_t t = end - 1; t >= begin; t--) {
      const Token<R> x = read<R, T>(s, at, t, bias);
      const T* C = row<T>(s.C, at, x.p);
      const R dy = load<R>(row<T>(s.grad, at, x.p) + at.d, at.active);
      SCAN_UNROLL for (int n = 0; n < Count; n++)
        back[n] = exp2_of(x.step * rate[n]) * (dy * map_value(C, n0 + n, s.states) + back[n]);
      steps = steps + x.step;
    }
    SCAN_UNROLL for (int n = 0; n < Count; n++)
      if (n0 + n < s.states) store(s.segment_state + state_at(s, at, s.segments, at.segment, n0 + n), back[n], at.active);
    if (n0 == 0) store(s.segment_step + channel_at(s, at), steps, at.active);
  }
}

// Backwards with results. A chunk's states are computed again in two stages, so that a lane keeps 8 + 8 of each instead of 64.
template <class R, class T, int Count>
SCAN_DEVICE void gradients(const Scan& s, const Item& at) {
  constexpr int part = 8;
  static_assert(chunk_tokens == part * part, "a chunk is cut into as many parts as a part has tokens");
  const R bias = per_channel<R>(s.bias, s, at), skip = per_channel<R>(s.D, s, at);
  const int64_t begin = at.segment * s.segment_tokens, end = end_of(s, at);
  const int64_t chunks = (s.length + chunk_tokens - 1) / chunk_tokens;
  const int64_t shares = (at.d / warp * s.batch + at.b) * s.length;
  const int64_t all = s.batch * s.length * s.groups * s.channels;
  R dD = constant<R>(0.0f), dbias = constant<R>(0.0f);
  for (int64_t n0 = 0; n0 < s.states; n0 += Count) {
    const bool first = n0 == 0, last = n0 + Count >= s.states;
    R rate[Count], back[Count], dA[Count];
    SCAN_UNROLL for (int n = 0; n < Count; n++) {
      const bool exists = n0 + n < s.states;
      rate[n] = exists ? rate_of<R>(s, at, n0 + n) : constant<R>(0.0f);
      back[n] = exists && s.segments > 1 ? load<R>(s.segment_state + state_at(s, at, s.segments, at.segment, n0 + n), at.active)
                                         : constant<R>(0.0f);
      dA[n] = constant<R>(0.0f);
    }
    for (int64_t c = (end - 1) / chunk_tokens; c * chunk_tokens >= begin; c--) {
      const int64_t from = c * chunk_tokens, to = from + chunk_tokens < end ? from + chunk_tokens : end;
      R mark[part][Count], h[Count];
      SCAN_UNROLL for (int n = 0; n < Count; n++)
        h[n] = n0 + n < s.states ? load<R>(s.kept + state_at(s, at, chunks, c, n0 + n), at.active) : constant<R>(0.0f);
      for (int64_t t = from; t < to; t++) {
        if ((t - from) % part == 0) {
          SCAN_UNROLL for (int n = 0; n < Count; n++) mark[(t - from) / part][n] = h[n];
          if (t + part >= to) break;
        }
        const Token<R> x = read<R, T>(s, at, t, bias);
        const R input = x.step * x.u;
        const T* B = row<T>(s.B, at, x.p);
        SCAN_UNROLL for (int n = 0; n < Count; n++)
          h[n] = exp2_of(x.step * rate[n]) * h[n] + input * map_value(B, n0 + n, s.states);
      }
      for (int64_t first_token = from + (to - from - 1) / part * part; first_token >= from; first_token -= part) {
        const int64_t after = first_token + part < to ? first_token + part : to;
        R before[part][Count];
        SCAN_UNROLL for (int n = 0; n < Count; n++) before[0][n] = mark[(first_token - from) / part][n];
        for (int64_t t = first_token; t + 1 < after; t++) {
          const Token<R> x = read<R, T>(s, at, t, bias);
          const R input = x.step * x.u;
          const T* B = row<T>(s.B, at, x.p);
          const int i = static_cast<int>(t - first_token);
          SCAN_UNROLL for (int n = 0; n < Count; n++)
            before[i + 1][n] = exp2_of(x.step * rate[n]) * before[i][n] + input * map_value(B, n0 + n, s.states);
        }
        for (int64_t t = after - 1; t >= first_token; t--) {
          const Token<R> x = read<R, T>(s, at, t, bias);
          const R input = x.step * x.u, dy = load<R>(row<T>(s.grad, at, x.p) + at.d, at.active);
          const T *B = row<T>(s.B, at, x.p), *C = row<T>(s.C, at, x.p);
          const int i = static_cast<int>(t - first_token);
          const int64_t place = dense(s, at, x.p);
          R by_exponent = first ? constant<R>(0.0f) : load<R>(s.sums + place, at.active);
          R by_input = first ? constant<R>(0.0f) : load<R>(s.sums + all + place, at.active);
          R dB[Count], dC[Count];
          SCAN_UNROLL for (int n = 0; n < Count; n++) {
            const float b = map_value(B, n0 + n, s.states);
            const R decay = exp2_of(x.step * rate[n]);
            const R g = dy * map_value(C, n0 + n, s.states) + back[n];
            dC[n] = (decay * before[i][n] + input * b) * dy;
            dB[n] = g * input;
            by_input = by_input + g * b;
            back[n] = g * decay;
            const R exponent = back[n] * before[i][n];
            by_exponent = by_exponent + exponent * rate[n];
            dA[n] = dA[n] + exponent * x.step;
          }
          const int64_t maps = ((shares + x.p) * s.groups + at.g) * s.states + n0;
          const int these = static_cast<int>(s.states - n0 < Count ? s.states - n0 : Count);
          store_sums(dB, s.dB + maps, these);
          store_sums(dC, s.dC + maps, these);
          if (!last) {
            store(s.sums + place, by_exponent, at.active);
            store(s.sums + all + place, by_input, at.active);
          } else {
            R draw = by_exponent * 0.69314718055994531f + x.u * by_input;
            if (s.softplus) draw = draw * slope_of(x.raw);
            store(static_cast<T*>(s.ddelta) + place, draw, at.active);
            store(static_cast<T*>(s.du) + place, x.step * by_input + skip * dy, at.active);
            dD = dD + dy * x.u;
            dbias = dbias + draw;
          }
        }
      }
    }
    SCAN_UNROLL for (int n = 0; n < Count; n++)
      if (n0 + n < s.states) store(s.dA + state_at(s, at, s.segments, at.segment, n0 + n), dA[n], at.active);
  }
  store(s.dD + channel_at(s, at), dD, at.active);
  store(s.dbias + channel_at(s, at), dbias, at.active);
}

}  // namespace gpu
}  // namespace eqmambair
