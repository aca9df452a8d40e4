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

// Tokens whose memory will be needed soon: of each of some arrays one cache line for each token, the last `Written` of them to be written.
template <int Arrays, int Written = 0>
struct Ahead {
  struct Array {
    const void* start;
    int64_t token;  // bytes
  };
  const int32_t* tokens;
  int count;
  Array arrays[Arrays];
  // Always inlined: left as a function it has no effect that GCC knows of, and is dropped.
  __attribute__((always_inline)) void fetch(int t) const {
    if (t >= count) return;
    SCAN_UNROLL for (int i = 0; i < Arrays; i++) {
      const char* line = static_cast<const char*>(arrays[i].start) + tokens[t] * arrays[i].token;
      i < Arrays - Written ? __builtin_prefetch(line, 0, 3) : __builtin_prefetch(line, 1, 3);
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

// A(g, d.., n) for W channels times `factor`, as (n, W): lane i of row n is channel d + i.
SCAN_INLINE void read_rates(const ScanInputs& in, int64_t g, int64_t d, float factor, float* rates) {
  const int count = lanes(in.channels, d);
  const float* from = in.A + (g * in.channels + d) * in.states;
  for (int64_t n = 0; n < in.states; n++)
    for (int i = 0; i < W; i++) rates[n * W + i] = i < count ? from[i * in.states + n] * factor : 0.0f;
}

SCAN_INLINE V channel_values(const float* values, const ScanInputs& in, int64_t g, int64_t d) {
  return values ? load_part(values + g * in.channels + d, lanes(in.channels, d)) : zero();
}

}  // namespace SCAN_SET
}  // namespace eqmambair
