// Linear layers in the Fourier basis of a group, for some tokens.
//
// Lanes are tokens: a panel of tokens is transposed to (channel, token), so that few fields waste no lanes and a weight is one broadcast.
#include "group_linear.h"
#include "kernels.h"
#include "parts.h"

namespace eqmambair {
namespace SCAN_SET {
namespace {

// A register tile is two vectors of tokens by `most_rows` results.
#if SCAN_AVX512
constexpr int most_rows = 12;
constexpr int tile_out = 4, tile_in = 4;  // of a gradient of a matrix; together the lanes of a vector
#elif SCAN_AVX2
constexpr int most_rows = 6;
constexpr int tile_out = 2, tile_in = 4;
#else
constexpr int most_rows = 4;
constexpr int tile_out = 2, tile_in = 2;
#endif
static_assert(tile_out * tile_in == W, "one call of sums_of_rows for each tile");

constexpr int64_t panel = 2 * W;       // tokens, forwards
constexpr int64_t panel_back = 256;    // tokens, backwards: long sums, for what stands in the lanes is added up at their end
constexpr int64_t stride_back = panel_back + W;  // apart from a power of two, at which all rows would share a few lines of the cache

int64_t tiles_of(int64_t rows) { return divide_up(rows, most_rows); }

// The first row of a tile; tiles differ by one row at most.
int64_t tile_start(int64_t rows, int64_t tile) {
  const int64_t tiles = tiles_of(rows), each = rows / tiles, longer = rows % tiles;
  return tile * each + (tile < longer ? tile : longer);
}

#if SCAN_AVX512
SCAN_INLINE void transpose(V (&x)[W]) {
  V a[16], b[16];
  SCAN_UNROLL for (int i = 0; i < 8; i++) {
    a[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
  }
  const auto low = [](V p, V q) { return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(p), _mm512_castps_pd(q))); };
  const auto high = [](V p, V q) { return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(p), _mm512_castps_pd(q))); };
  SCAN_UNROLL for (int i = 0; i < 16; i += 4) {
    b[i] = low(a[i], a[i + 2]);
    b[i + 1] = high(a[i], a[i + 2]);
    b[i + 2] = low(a[i + 1], a[i + 3]);
    b[i + 3] = high(a[i + 1], a[i + 3]);
  }
  SCAN_UNROLL for (int j = 0; j < 4; j++) {
    const V c0 = _mm512_shuffle_f32x4(b[j], b[4 + j], 0x88), c1 = _mm512_shuffle_f32x4(b[j], b[4 + j], 0xdd);
    const V c2 = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0x88), c3 = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0xdd);
    x[j] = _mm512_shuffle_f32x4(c0, c2, 0x88);
    x[4 + j] = _mm512_shuffle_f32x4(c1, c3, 0x88);
    x[8 + j] = _mm512_shuffle_f32x4(c0, c2, 0xdd);
    x[12 + j] = _mm512_shuffle_f32x4(c1, c3, 0xdd);
  }
}
#elif SCAN_AVX2
SCAN_INLINE void transpose(V (&x)[W]) {
  V a[8];
  SCAN_UNROLL for (int i = 0; i < 8; i += 4) {
    const V p = _mm256_unpacklo_ps(x[i], x[i + 1]), q = _mm256_unpackhi_ps(x[i], x[i + 1]);
    const V r = _mm256_unpacklo_ps(x[i + 2], x[i + 3]), s = _mm256_unpackhi_ps(x[i + 2], x[i + 3]);
    a[i] = _mm256_shuffle_ps(p, r, 0x44);
    a[i + 1] = _mm256_shuffle_ps(p, r, 0xee);
    a[i + 2] = _mm256_shuffle_ps(q, s, 0x44);
    a[i + 3] = _mm256_shuffle_ps(q, s, 0xee);
  }
  SCAN_UNROLL for (int j = 0; j < 4; j++) {
    x[j] = _mm256_permute2f128_ps(a[j], a[4 + j], 0x20);
    x[4 + j] = _mm256_permute2f128_ps(a[j], a[4 + j], 0x31);
  }
}
#else
SCAN_INLINE void transpose(V (&x)[W]) {
  V y[W];
  for (int i = 0; i < W; i++)
    for (int j = 0; j < W; j++) y[i][j] = x[j][i];
  for (int i = 0; i < W; i++) x[i] = y[i];
}
#endif

// Tokens (count, channels) to (channels, width), rows `stride` apart, and back; lanes of missing tokens are zero.
void read_panel(const float* from, int64_t channels, int64_t count, float* to, int64_t stride, int64_t width) {
  for (int64_t t = 0; t < width; t += W)
    for (int64_t c = 0; c < channels; c += W) {
      const int active = lanes(channels, c);
      const float* const row = from + t * channels + c;
      V x[W];
      if (t + W <= count && active == W) {
        SCAN_UNROLL for (int i = 0; i < W; i++) x[i] = load_part(row + i * channels, W);
      } else {
        SCAN_UNROLL for (int i = 0; i < W; i++) x[i] = t + i < count ? load_part(row + i * channels, active) : zero();
      }
      transpose(x);
      if (active == W) {
        SCAN_UNROLL for (int i = 0; i < W; i++) store(to + (c + i) * stride + t, x[i]);
      } else {
        SCAN_UNROLL for (int i = 0; i < W; i++)
          if (i < active) store(to + (c + i) * stride + t, x[i]);
      }
    }
}

// What a result is multiplied by, and what is added to it times its scale, where they are not null: rows of tokens as the result's.
struct Finish {
  const float *gate, *skip, *scale;
};

// `rows` tokens for `active` channels from c on: lanes to memory.
template <bool Whole>
SCAN_INLINE void write_block(V (&x)[W], int64_t channels, int64_t rows, int64_t place, int64_t c, int active, float* to, const Finish& finish) {
  if (finish.gate) {
    SCAN_UNROLL for (int i = 0; i < W; i++)
      if (Whole || i < rows) x[i] = x[i] * load_part(finish.gate + place + i * channels, Whole ? W : active);
  }
  if (finish.skip) {
    const V scale = load_part(finish.scale + c, Whole ? W : active);
    SCAN_UNROLL for (int i = 0; i < W; i++)
      if (Whole || i < rows) x[i] = fma(load_part(finish.skip + place + i * channels, Whole ? W : active), scale, x[i]);
  }
  SCAN_UNROLL for (int i = 0; i < W; i++)
    if (Whole || i < rows) store_part(to + place + i * channels, x[i], Whole ? W : active);
}

void write_panel(const float* from, int64_t stride, int64_t channels, int64_t count, float* to, const Finish finish = {}) {
  for (int64_t t = 0; t < count; t += W)
    for (int64_t c = 0; c < channels; c += W) {
      const int active = lanes(channels, c);
      const int64_t rows = count - t < W ? count - t : W, place = t * channels + c;
      V x[W];
      if (active == W) {
        SCAN_UNROLL for (int i = 0; i < W; i++) x[i] = load(from + (c + i) * stride + t);
      } else {
        SCAN_UNROLL for (int i = 0; i < W; i++) x[i] = i < active ? load(from + (c + i) * stride + t) : zero();
      }
      transpose(x);
      if (rows == W && active == W) {
        write_block<true>(x, channels, rows, place, c, active, to, finish);
      } else {
        write_block<false>(x, channels, rows, place, c, active, to, finish);
      }
    }
}

// The layer norm of the tokens of a panel, in place.
void normalise(const GroupLinear& layer, int64_t channels, float* x) {
  const V part = all(1.0f / channels);
  for (int64_t t = 0; t < panel; t += W) {
    float* const column = x + t;
    // Four sums side by side, for an addition waits for the one before.
    const auto mean_of = [&](const auto& term) {
      V sum[4] = {zero(), zero(), zero(), zero()};
      int64_t c = 0;
      for (; c + 4 <= channels; c += 4)
        SCAN_UNROLL for (int i = 0; i < 4; i++) sum[i] = term(load(column + (c + i) * panel), sum[i]);
      for (; c < channels; c++) sum[0] = term(load(column + c * panel), sum[0]);
      return ((sum[0] + sum[1]) + (sum[2] + sum[3])) * part;
    };
    const V mean = mean_of([](V value, V sum) { return sum + value; });
    alignas(64) float scale[W];
    store(scale, mean_of([&](V value, V sum) { return fma(value - mean, value - mean, sum); }));
    for (float& each : scale) each = 1.0f / __builtin_sqrtf(each + layer.eps);
    const V by = load(scale);
    for (int64_t c = 0; c < channels; c++)
      store(column + c * panel, fma((load(column + c * panel) - mean) * by, all(layer.gain[c]), all(layer.shift[c])));
  }
}

void apply_silu(float* x, int64_t numbers) {
  static_assert(panel % (2 * W) == 0, "two vectors at a time");
  for (int64_t i = 0; i < numbers; i += 2 * W) {
    const V z[2] = {load(x + i), load(x + i + W)};
    V s[2];
    sigmoids(z, s);
    store(x + i, z[0] * s[0]);
    store(x + i + W, z[1] * s[1]);
  }
}

// F over the orientations of each field, in place; or its transpose.
template <int Order, bool Transposed>
void turn(const float* transform, int64_t fields, int64_t stride, float* x) {
  const int64_t apart = fields * stride;
  for (int64_t i = 0; i < apart; i += W) {
    V in[Order], out[Order];
    SCAN_UNROLL for (int t = 0; t < Order; t++) in[t] = load(x + t * apart + i);
    if constexpr (Order == 2) {
      out[0] = in[0] + in[1];
      out[1] = in[0] - in[1];
    } else if constexpr (Order == 4 && !Transposed) {
      const V even = in[0] + in[2], odd = in[1] + in[3];
      out[0] = even + odd;
      out[1] = even - odd;
      out[2] = in[0] - in[2];
      out[3] = in[3] - in[1];
    } else if constexpr (Order == 4) {
      const V even = in[0] + in[1], odd = in[0] - in[1];
      out[0] = even + in[2];
      out[1] = odd - in[3];
      out[2] = even - in[2];
      out[3] = odd + in[3];
    } else {
      SCAN_UNROLL for (int r = 0; r < Order; r++) {
        out[r] = zero();
        SCAN_UNROLL for (int t = 0; t < Order; t++) out[r] = fma(all(transform[Transposed ? t * Order + r : r * Order + t]), in[t], out[r]);
      }
    }
    SCAN_UNROLL for (int t = 0; t < Order; t++) store(x + t * apart + i, out[t]);
  }
}

template <bool Transposed>
void turn(const GroupLinear& layer, int64_t fields, int64_t stride, float* x) {
  switch (layer.order) {
    case 2: return turn<2, Transposed>(layer.transform, fields, stride, x);
    case 4: return turn<4, Transposed>(layer.transform, fields, stride, x);
    case 8: return turn<8, Transposed>(layer.transform, fields, stride, x);
    default: return;
  }
}

// Count results for two vectors of tokens. Meanwhile memory is fetched, for each column a cache line to read and one to write.
template <int Count>
void multiply_tile(const float* packed, const float* x, int64_t columns, int64_t stride, float* y, const char* to_read,
                   const char* to_write) {
  V sum[2][Count];
  SCAN_UNROLL for (int i = 0; i < Count; i++) sum[0][i] = sum[1][i] = zero();
  for (int64_t k = 0; k < columns; k++, packed += Count, x += stride, to_read += 64, to_write += 64) {
    __builtin_prefetch(to_read, 0, 2);
    __builtin_prefetch(to_write, 1, 2);
    const V first = load(x), second = load(x + W);
    SCAN_UNROLL for (int i = 0; i < Count; i++) {
      const V weight = all(packed[i]);
      sum[0][i] = fma(weight, first, sum[0][i]);
      sum[1][i] = fma(weight, second, sum[1][i]);
    }
  }
  SCAN_UNROLL for (int i = 0; i < Count; i++) {
    store(y + i * stride, sum[0][i]);
    store(y + i * stride + W, sum[1][i]);
  }
}

using MultiplyTile = void (*)(const float*, const float*, int64_t, int64_t, float*, const char*, const char*);
constexpr MultiplyTile multiply_tiles[] = {
    multiply_tile<1>, multiply_tile<2>, multiply_tile<3>, multiply_tile<4>,
#if SCAN_AVX2 || SCAN_AVX512
    multiply_tile<5>, multiply_tile<6>,
#endif
#if SCAN_AVX512
    multiply_tile<7>, multiply_tile<8>, multiply_tile<9>, multiply_tile<10>, multiply_tile<11>, multiply_tile<12>,
#endif
};

// Memory that is needed after the products in hand; each cache line is asked for once.
struct Lines {
  const char *from, *end;
  Lines(const float* first, const float* last) : from(reinterpret_cast<const char*>(first)), end(reinterpret_cast<const char*>(last)) {}
  const char* take(int64_t count) {
    const char* const first = from;
    from = from + count * 64 < end ? from + count * 64 : end;
    return first;
  }
};

struct Ahead {
  Lines read, write;
};

// y (rows, stride) = packed matrix (rows, columns) times x (columns, stride), for `tokens` of the panel.
void multiply(const float* packed, int64_t rows, int64_t columns, const float* x, int64_t stride, int64_t tokens, float* y, Ahead& ahead) {
  for (int64_t tile = 0; tile < tiles_of(rows); tile++) {
    const int64_t first = tile_start(rows, tile), count = tile_start(rows, tile + 1) - first;
    for (int64_t t = 0; t < tokens; t += 2 * W)
      multiply_tiles[count - 1](packed + first * columns, x + t, columns, stride, y + first * stride + t,
                                 ahead.read.take(columns),
                                 ahead.write.take(columns));
  }
}

// V, or its transpose, on every copy of every block.
void multiply_blocks(const GroupLinear& layer, const float* packed, int64_t from, int64_t to, const float* x, int64_t stride, int64_t tokens,
                     float* y, Ahead ahead) {
  for (int b = 0; b < layer.blocks; b++) {
    const GroupLinear::Block& block = layer.block[b];
    for (int copy = 0; copy < block.copies; copy++) {
      const int64_t row = block.first + copy * block.dim;
      multiply(packed + block.place, block.dim * to, block.dim * from, x + row * from * stride, stride, tokens, y + row * to * stride, ahead);
    }
  }
}

// sums (rows, columns) += over the tokens g x^T.
void add_products(const float* g, int64_t rows, const float* x, int64_t columns, const float* nothing, float* sums) {
  for (int64_t c = 0; c < columns; c += tile_in)
    for (int64_t r = 0; r < rows; r += tile_out) {
      V sum[tile_out][tile_in];
      const float *left[tile_out], *right[tile_in];
      SCAN_UNROLL for (int i = 0; i < tile_out; i++) left[i] = r + i < rows ? g + (r + i) * stride_back : nothing;
      SCAN_UNROLL for (int j = 0; j < tile_in; j++) right[j] = c + j < columns ? x + (c + j) * stride_back : nothing;
      SCAN_UNROLL for (int i = 0; i < tile_out; i++) SCAN_UNROLL for (int j = 0; j < tile_in; j++) sum[i][j] = zero();
      for (int64_t t = 0; t < panel_back; t += W) {
        V a[tile_out];
        SCAN_UNROLL for (int i = 0; i < tile_out; i++) a[i] = load(left[i] + t);
        SCAN_UNROLL for (int j = 0; j < tile_in; j++) {
          const V b = load(right[j] + t);
          SCAN_UNROLL for (int i = 0; i < tile_out; i++) sum[i][j] = fma(a[i], b, sum[i][j]);
        }
      }
      alignas(64) float rows_of_lanes[W * W], totals[W];
      SCAN_UNROLL for (int i = 0; i < tile_out; i++) SCAN_UNROLL for (int j = 0; j < tile_in; j++) store(rows_of_lanes + (i * tile_in + j) * W, sum[i][j]);
      store(totals, sums_of_rows(rows_of_lanes));
      for (int i = 0; i < tile_out && r + i < rows; i++)
        for (int j = 0; j < tile_in && c + j < columns; j++) sums[(r + i) * columns + c + j] += totals[i * tile_in + j];
    }
}

struct Panels {
  Panels(const GroupLinear& layer, bool back, Scratch& scratch) : stride(back ? stride_back : panel) {
    x = scratch.floats(layer.order * layer.in * stride);
    y = scratch.floats(layer.order * layer.out * stride);
    dx = back ? scratch.floats(layer.order * layer.in * stride) : nullptr;
    nothing = back ? scratch.floats(stride) : nullptr;
  }
  int64_t stride;
  float *x, *y, *dx, *nothing;
};

}  // namespace

void linear_pack(const float* matrix, int64_t rows, int64_t columns, float* packed) {
  for (int64_t tile = 0; tile < tiles_of(rows); tile++) {
    const int64_t first = tile_start(rows, tile), last = tile_start(rows, tile + 1);
    for (int64_t k = 0; k < columns; k++)
      for (int64_t r = first; r < last; r++) *packed++ = matrix[r * columns + k];
  }
}

int64_t linear_scratch(const GroupLinear& layer, bool back) {
  Scratch scratch(nullptr);
  Panels(layer, back, scratch);
  return scratch.taken();
}

void linear_forward(const GroupLinear& layer, const float* packed, const float* x, float* y, int64_t task, void* memory) {
  Scratch scratch(memory);
  const Panels use(layer, false, scratch);
  const int64_t in = layer.order * layer.in, out = layer.order * layer.out;
  const int64_t end = (task + 1) * linear_tokens < layer.tokens ? (task + 1) * linear_tokens : layer.tokens;
  for (int64_t t = task * linear_tokens; t < end; t += panel) {
    const int64_t count = end - t < panel ? end - t : panel;
    read_panel(x + t * in, in, count, use.x, panel, panel);
    if (layer.gain) normalise(layer, in, use.x);
    turn<false>(layer, layer.in, panel, use.x);
    const int64_t next = t + panel < end ? t + panel : end, after = next + panel < end ? next + panel : end;
    multiply_blocks(layer, packed, layer.in, layer.out, use.x, panel, panel, use.y, {{x + next * in, x + after * in}, {y + t * out, y + next * out}});
    turn<true>(layer, layer.out, panel, use.y);
    if (layer.bias)
      for (int64_t c = 0; c < out; c++)
        for (int64_t i = 0; i < panel; i += W) store(use.y + c * panel + i, load(use.y + c * panel + i) + all(layer.bias[c % layer.out]));
    if (layer.silu) apply_silu(use.y, out * panel);
    const Finish finish{layer.gate ? layer.gate + t * out : nullptr, layer.skip ? layer.skip + t * out : nullptr, layer.skip_scale};
    write_panel(use.y, panel, out, count, y + t * out, finish);
  }
}

void linear_backward(const GroupLinear& layer, const float* transposed, const float* x, const float* grad, float* dx, float* share,
                     float* bias_share, int64_t task, void* memory) {
  Scratch scratch(memory);
  const Panels use(layer, true, scratch);
  const int64_t in = layer.order * layer.in, out = layer.order * layer.out;
  for (int64_t i = 0; i < panel_back; i += W) store(use.nothing + i, zero());
  for (int b = 0; b < layer.blocks; b++) {
    const GroupLinear::Block& block = layer.block[b];
    for (int64_t i = 0; i < block.dim * block.dim * layer.in * layer.out; i++) share[block.place + i] = 0.0f;
  }
  for (int64_t m = 0; m < layer.out; m++) bias_share[m] = 0.0f;
  const int64_t end = (task + 1) * linear_tokens < layer.tokens ? (task + 1) * linear_tokens : layer.tokens;
  for (int64_t t = task * linear_tokens; t < end; t += panel_back) {
    const int64_t count = end - t < panel_back ? end - t : panel_back, whole = divide_up(count, panel) * panel;
    read_panel(x + t * in, in, count, use.x, stride_back, panel_back);
    read_panel(grad + t * out, out, count, use.y, stride_back, panel_back);
    for (int64_t c = 0; c < out; c++) {
      V sum = zero();
      for (int64_t i = 0; i < whole; i += W) sum = sum + load(use.y + c * stride_back + i);
      alignas(64) float lane[W];
      store(lane, sum);
      for (int i = 1; i < W; i++) lane[0] += lane[i];
      bias_share[c % layer.out] += lane[0];
    }
    turn<false>(layer, layer.in, stride_back, use.x);
    turn<false>(layer, layer.out, stride_back, use.y);
    for (int b = 0; b < layer.blocks; b++) {
      const GroupLinear::Block& block = layer.block[b];
      for (int copy = 0; copy < block.copies; copy++) {
        const int64_t row = block.first + copy * block.dim;
        add_products(use.y + row * layer.out * stride_back, block.dim * layer.out, use.x + row * layer.in * stride_back, block.dim * layer.in,
                     use.nothing, share + block.place);
      }
    }
    multiply_blocks(layer, transposed, layer.out, layer.in, use.y, stride_back, whole, use.dx, {{x, x}, {dx + t * in, dx + (t + count) * in}});
    turn<true>(layer, layer.in, stride_back, use.dx);
    write_panel(use.dx, stride_back, in, count, dx + t * in);
  }
}

}  // namespace SCAN_SET
}  // namespace eqmambair
