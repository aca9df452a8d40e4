// What the forward and the backward kernel share: scratch memory, paths, and a chunk's steps and maps as floats.
#pragma once
#include "scan.h"
#include "simd.h"

namespace eqmambair {
namespace SCAN_SET {

// Cuts 64-byte aligned pieces off one allocation; without memory it only counts.
class Scratch {
 public:
  explicit Scratch(void* memory) : memory_(static_cast<char*>(memory)) {}
  float* floats(int64_t count) { return static_cast<float*>(take(count * 4)); }
  int32_t* integers(int64_t count) { return static_cast<int32_t*>(take(count * 4)); }
  int64_t taken() const { return taken_; }

 private:
  void* take(int64_t bytes) {
    void* piece = memory_ ? memory_ + taken_ : nullptr;
    taken_ += divide_up(bytes, 64) * 64;
    return piece;
  }
  char* memory_;
  int64_t taken_ = 0;
};

SCAN_INLINE int lanes(int64_t channels, int64_t from) { return static_cast<int>(channels - from < W ? channels - from : W); }

// The tokens that the path of group g of batch element b visits at the steps from..from+count-1.
SCAN_INLINE void read_path(const ScanInputs& in, int64_t b, int64_t g, int64_t from, int count, int32_t* tokens) {
  const int32_t* path = in.order ? in.order + b * in.order_batch + g * in.length + from : nullptr;
  for (int t = 0; t < count; t++) tokens[t] = path ? path[t] : static_cast<int32_t>(from + t);
}

// Whether rows of results, the first at p, consist of whole vectors that can be written past the caches.
SCAN_INLINE bool past_caches(const float* p, int64_t row, int64_t channels) {
  return reinterpret_cast<uintptr_t>(p) % sizeof(V) == 0 && row % W == 0 && channels % W == 0;
}
template <class Half>
SCAN_INLINE bool past_caches(const Half*, int64_t, int64_t) { return false; }

SCAN_INLINE void store_result(float* p, V x, int count, bool past_caches) {
  past_caches ? store_past_caches(p, x) : store_part(p, x, count);
}
template <class Half>
SCAN_INLINE void store_result(Half* p, V x, int count, bool) { store_part(p, x, count); }

// What was written past the caches is seen by other threads only after this.
SCAN_INLINE void finish_stores() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_sfence();
#endif
}

// Rows of memory: of some tokens, or without these the first `count` rows.
struct TokenRows {
  const void* start;
  int64_t stride, bytes;  // of a row, in bytes
  const int32_t* tokens;
  int count;
};

template <class T>
SCAN_INLINE TokenRows rows_of_maps(const Tokens& maps, int64_t b, int64_t g, const int32_t* tokens, int count, int64_t states) {
  constexpr int64_t item = sizeof(T);
  return {static_cast<const T*>(maps.data) + b * maps.batch + g * maps.group, maps.token * item, states * item, tokens, count};
}

// Fetches rows that will soon be needed into the second-level cache, a few at each call, so that memory answers while others are computed.
template <int Arrays>
struct Fetcher {
  TokenRows arrays[Arrays];
  int each = 0, array = 0, at = 0;

  void spread_over(int64_t calls) {
    int64_t rows = 0;
    for (const TokenRows& x : arrays) rows += x.count;
    each = static_cast<int>(divide_up(rows, calls));
  }
  // Always inlined: left as a function it has no effect that GCC knows of, and is dropped.
  __attribute__((always_inline)) void fetch() {
    for (int i = 0; i < each && array < Arrays; i++) {
      const TokenRows& rows = arrays[array];
      if (at < rows.count) {
        const char* const row = static_cast<const char*>(rows.start) + (rows.tokens ? rows.tokens[at] : at) * rows.stride;
        const int64_t into_line = reinterpret_cast<uintptr_t>(row) & 63;
        for (int64_t j = -into_line; j < rows.bytes; j += 64) __builtin_prefetch(row + j, 0, 2);
      }
      if (++at >= rows.count) array++, at = 0;
    }
  }
};

// Rows of B or C for a chunk's tokens, (count, n) dense, as floats.
template <class T>
SCAN_INLINE void read_maps(const Tokens& maps, int64_t b, int64_t g, const int32_t* tokens, int count, int64_t states, float* rows) {
  const T* from = static_cast<const T*>(maps.data) + b * maps.batch + g * maps.group;
  for (int t = 0; t < count; t++) {
    const T* row = from + tokens[t] * maps.token;
    int64_t n = 0;
    for (; n + W <= states; n += W) store_part(rows + t * states + n, load_part(row + n, W), W);
    if (n < states) store_part(rows + t * states + n, load_part(row + n, static_cast<int>(states - n)), static_cast<int>(states - n));
  }
}

// A(g, d.., n) for W channels times `factor`, as rows of W floats, `stride` apart: lane i of row n is channel d + i.
SCAN_INLINE void read_rates(const ScanInputs& in, int64_t g, int64_t d, float factor, float* rates, int64_t stride) {
  const int count = lanes(in.channels, d);
  const float* from = in.A + (g * in.channels + d) * in.states;
  for (int64_t n = 0; n < in.states; n++)
    for (int i = 0; i < W; i++) rates[n * stride + i] = i < count ? from[i * in.states + n] * factor : 0.0f;
}

SCAN_INLINE V channel_values(const float* values, const ScanInputs& in, int64_t g, int64_t d) {
  return values ? load_part(values + g * in.channels + d, lanes(in.channels, d)) : zero();
}

}  // namespace SCAN_SET
}  // namespace eqmambair
