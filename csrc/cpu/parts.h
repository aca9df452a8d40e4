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
  const char** pointers(int64_t count) { return static_cast<const char**>(take(count * sizeof(char*))); }
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

// What was written past the caches is seen by other threads only after this.
SCAN_INLINE void finish_stores() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_sfence();
#endif
}

// The largest of the absolute values that are numbers, or 0.
SCAN_INLINE float largest_of(const float* values, int64_t count) {
  float largest = 0.0f;
  for (int64_t i = 0; i < count; i++) {
    const float size = values[i] < 0.0f ? -values[i] : values[i];
    if (size > largest) largest = size;
  }
  return largest;
}

SCAN_INLINE float largest_lane(V x) {
  alignas(64) float each[W];
  store(each, x);
  return largest_of(each, W);
}

// Some tokens and how many channels of each.
struct Rows {
  const int32_t* tokens;
  int count;
  int64_t channels;
};

// Calls at(d, active) for the vectors of a row: those in front of the last are whole.
template <class At>
SCAN_INLINE void each_vector(int64_t channels, const At& at) {
  int64_t d = 0;
  for (; d + W <= channels; d += W) at(d, W);
  if (d < channels) at(d, static_cast<int>(channels - d));
}

// A row of floats to memory; with `past_caches` whole cache lines are not read first, only to be overwritten. Half a line written that way
// would cost more than it saves.
template <class T>
SCAN_INLINE void write_row(const float* from, int64_t channels, T* row, bool past_caches) {
  constexpr int64_t line = 64 / sizeof(T);
  int64_t d = 0;
  if constexpr (sizeof(T) == sizeof(float)) {
    const int64_t bytes_into = reinterpret_cast<uintptr_t>(row) % 64, head = (line - bytes_into / sizeof(T)) % line;
    if (past_caches && bytes_into % sizeof(V) == 0 && head <= channels) {
      for (; d < head; d += W) store_part(row + d, load(from + d), W);
      for (const int64_t end = d + (channels - d) / line * line; d < end; d += W) store_past_caches(row + d, load(from + d));
    }
  }
  each_vector(channels - d, [&](int64_t i, int active) { store_part(row + d + i, load(from + d + i), active); });
}

// Rows of floats, `width` apart, to the tokens' rows, `stride` apart.
template <class T>
SCAN_INLINE void write_rows(const float* from, int64_t width, const Rows rows, T* to, int64_t stride, bool past_caches) {
  for (int t = 0; t < rows.count; t++) write_row(from + t * width, rows.channels, to + rows.tokens[t] * stride, past_caches);
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

// Fetches rows that will soon be needed into the second-level cache, as many cache lines at each call, so that memory answers while others
// are computed: hardware does not foresee a path, and many lines at once wait for one another.
class Fetcher {
 public:
  static int64_t most_lines(int64_t rows, int64_t bytes) { return rows * (bytes / 64 + 2); }

  // `lines` has room for most_lines of all that is added.
  explicit Fetcher(const char** lines) : lines_(lines) {}
  void add(const TokenRows& rows) {
    for (int i = 0; i < rows.count; i++) {
      const char* const row = static_cast<const char*>(rows.start) + (rows.tokens ? rows.tokens[i] : i) * rows.stride;
      const int64_t into_line = reinterpret_cast<uintptr_t>(row) & 63;
      for (int64_t j = -into_line; j < rows.bytes; j += 64) lines_[count_++] = row + j;
    }
  }
  void spread_over(int64_t calls) { each_ = divide_up(count_, calls); }
  // Always inlined: left as a function it has no effect that GCC knows of, and is dropped.
  __attribute__((always_inline)) void fetch() {
    const int64_t end = at_ + each_ < count_ ? at_ + each_ : count_;
    for (; at_ < end; at_++) __builtin_prefetch(lines_[at_], 0, 2);
  }

 private:
  const char** lines_;
  int64_t count_ = 0, at_ = 0, each_ = 0;
};

// Rows of B or C for a chunk's tokens, (count, n) dense, as floats; or of whatever else has few numbers for each token and group.
template <class T>
SCAN_INLINE void read_maps(const Tokens& maps, int64_t b, int64_t g, const int32_t* tokens, int count, int64_t states, float* rows) {
  const T* from = static_cast<const T*>(maps.data) + b * maps.batch + g * maps.group;
  for (int t = 0; t < count; t++) {
    const T* const row = from + tokens[t] * maps.token;
    float* const to = rows + t * states;
    if (states < W) {
      store_part(to, load_part(row, static_cast<int>(states)), static_cast<int>(states));
    } else {
      for (int64_t n = 0; n < states; n += W) {
        const int64_t first = n < states - W ? n : states - W;  // the last vector overlaps the one before
        store_part(to + first, load_part(row + first, W), W);
      }
    }
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
