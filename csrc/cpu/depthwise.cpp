// The depthwise 3x3 convolution and its gradient, for a rectangle of pixels and a block of channels.
//
// Lanes are output channels. The rows that a row of results needs lie in a ring, zeros around them and each input channel repeated for
// its outputs, so the inner loops know neither borders nor repetition.
#include "depthwise.h"
#include "kernels.h"
#include "parts.h"

namespace eqmambair {
namespace SCAN_SET {
namespace {

constexpr int taps = 9;
constexpr int side_by_side = 4;  // pixels of a row that are convolved at once, for each instruction waits for the one before

struct Window {
  Window(const Depthwise& conv, int64_t task) {
    const DepthwiseCut cut(conv);
    const int64_t block = task % cut.blocks, place = task / cut.blocks;
    b = place / (cut.rows * cut.columns);
    top = place / cut.columns % cut.rows * depthwise_rows;
    left = place % cut.columns * depthwise_columns;
    bottom = top + depthwise_rows < conv.height ? top + depthwise_rows : conv.height;
    columns = left + depthwise_columns < conv.width ? depthwise_columns : conv.width - left;
    in = block * cut.inner;
    inner = in + cut.inner < conv.in_channels ? cut.inner : conv.in_channels - in;
    out = in * conv.spread;
    outer = inner * conv.spread;
  }
  int64_t b, top, bottom, left, columns;
  int64_t in, inner, out, outer;  // first channel and number of channels, before and after
};

int64_t block_width(const Depthwise& conv) { return divide_up(DepthwiseCut(conv).inner * conv.spread, W) * W; }

// Rows y - dilation .. y + dilation of a map, each (columns + 2 dilation, block) with zeros outside the picture.
class Ring {
 public:
  Ring(const Depthwise& conv, const Window& at, Scratch& scratch)
      : conv_(conv), at_(at), width_(block_width(conv)), rows_(2 * conv.dilation + 1),
        row_((depthwise_columns + 2 * conv.dilation) * width_), memory_(scratch.floats(rows_ * row_)) {}

  // `repeat`: each channel of the map stands for `spread` of the block; else the map has the block's channels.
  template <bool Repeat>
  void read(const float* map, int64_t y) {
    float* const to = memory_ + (y + rows_) % rows_ * row_;
    const int64_t before = at_.left - conv_.dilation, count = at_.columns + 2 * conv_.dilation;
    const int64_t channels = Repeat ? conv_.in_channels : conv_.out_channels();
    for (int64_t i = 0; i < count; i++) {
      float* const pixel = to + i * width_;
      const int64_t x = before + i;
      if (y < 0 || y >= conv_.height || x < 0 || x >= conv_.width) {
        for (int64_t c = 0; c < width_; c += W) store(pixel + c, zero());
        continue;
      }
      const float* const from = map + ((at_.b * conv_.height + y) * conv_.width + x) * channels + (Repeat ? at_.in : at_.out);
      if (!Repeat || conv_.spread == 1) {
        for (int64_t c = 0; c < width_; c += W) store(pixel + c, load_part(from + c, c < at_.outer ? lanes(at_.outer, c) : 0));
      } else if (conv_.spread == 4) {
        for (int64_t c = 0; c < at_.inner; c++)
          for (int j = 0; j < 4; j++) pixel[4 * c + j] = from[c];
      } else {
        for (int64_t c = 0; c < at_.inner; c++)
          for (int64_t j = 0; j < conv_.spread; j++) pixel[c * conv_.spread + j] = from[c];
      }
    }
  }
  const float* row(int64_t y) const { return memory_ + (y + rows_) % rows_ * row_; }
  int64_t width() const { return width_; }

 private:
  const Depthwise& conv_;
  const Window& at_;
  int64_t width_, rows_, row_;
  float* memory_;
};

// Sums over the taps for `Count` neighbouring pixels of one vector of channels.
template <int Count>
SCAN_INLINE void convolve(const float* const (&rows)[3], int64_t pixel, int64_t apart, const V (&weight)[taps], V start, V (&sum)[Count]) {
  SCAN_UNROLL for (int i = 0; i < Count; i++) sum[i] = start;
  SCAN_UNROLL for (int r = 0; r < 3; r++)
    SCAN_UNROLL for (int k = 0; k < 3; k++)
      SCAN_UNROLL for (int i = 0; i < Count; i++) sum[i] = fma(load(rows[r] + i * pixel + k * apart), weight[3 * r + k], sum[i]);
}

struct RowsAround {
  const float* rows[3];
};

SCAN_INLINE RowsAround rows_around(const Ring& ring, int64_t y, int64_t dilation) {
  return {{ring.row(y - dilation), ring.row(y), ring.row(y + dilation)}};
}

template <int Count, bool Silu>
SCAN_INLINE void forward_some(const float* const (&rows)[3], int64_t width, int64_t apart, const V (&weight)[taps], V bias, float* y,
                              int64_t channels, int active) {
  V sum[Count];
  convolve(rows, width, apart, weight, bias, sum);
  if constexpr (Silu) {
    V s[Count];
    sigmoids(sum, s);
    SCAN_UNROLL for (int i = 0; i < Count; i++) sum[i] = sum[i] * s[i];
  }
  SCAN_UNROLL for (int i = 0; i < Count; i++) store_part(y + i * channels, sum[i], active);
}

template <bool Silu>
void forward_row(const RowsAround around, int64_t width, int64_t dilation, const float* weight, const float* bias, int64_t weights, int64_t apart,
                 float* y, int64_t columns, int active) {
  V w[taps];
  for (int k = 0; k < taps; k++) w[k] = load_part(weight + k * weights, active);
  const V start = bias ? load_part(bias, active) : zero();
  int64_t x = 0;
  const auto at = [&](int64_t i) { return RowsAround{{around.rows[0] + i * width, around.rows[1] + i * width, around.rows[2] + i * width}}; };
  for (; x + side_by_side <= columns; x += side_by_side)
    forward_some<side_by_side, Silu>(at(x).rows, width, dilation * width, w, start, y + x * apart, apart, active);
  for (; x < columns; x++) forward_some<1, Silu>(at(x).rows, width, dilation * width, w, start, y + x * apart, apart, active);
}

// The gradients of the nine weights and of the bias over a row; with Silu also the gradient in front of the activation.
template <bool Silu>
void weight_row(const RowsAround around, int64_t width, int64_t dilation, const float* weight, const float* bias, int64_t channels,
                const float* grad, float* inside, int64_t columns, int active, float* sums, int64_t sums_row) {
  V w[taps], dw[taps], dbias = load(sums + taps * sums_row);
  if constexpr (Silu)
    for (int k = 0; k < taps; k++) w[k] = load_part(weight + k * channels, active);
  for (int k = 0; k < taps; k++) dw[k] = load(sums + k * sums_row);
  const V start = Silu && bias ? load_part(bias, active) : zero();
  for (int64_t x = 0; x < columns; x++) {
    const RowsAround at{{around.rows[0] + x * width, around.rows[1] + x * width, around.rows[2] + x * width}};
    V g = load_part(grad + x * channels, active);
    if constexpr (Silu) {
      V z[1], s[1];
      convolve(at.rows, width, dilation * width, w, start, z);
      sigmoids(z, s);
      g = g * s[0] * fma(z[0], all(1.0f) - s[0], all(1.0f));
      store_part(inside + x * channels, g, active);
    }
    SCAN_UNROLL for (int r = 0; r < 3; r++)
      SCAN_UNROLL for (int k = 0; k < 3; k++) dw[3 * r + k] = fma(load(at.rows[r] + k * dilation * width), g, dw[3 * r + k]);
    dbias = dbias + g;
  }
  for (int k = 0; k < taps; k++) store(sums + k * sums_row, dw[k]);
  store(sums + taps * sums_row, dbias);
}

SCAN_INLINE void add_neighbours(const float* from, int64_t spread, int64_t count, float* to) {
  if (spread == 4) {
    for (int64_t c = 0; c < count; c++) to[c] = (from[4 * c] + from[4 * c + 1]) + (from[4 * c + 2] + from[4 * c + 3]);
    return;
  }
  for (int64_t c = 0; c < count; c++) {
    float sum = from[c * spread];
    for (int64_t j = 1; j < spread; j++) sum += from[c * spread + j];
    to[c] = sum;
  }
}

struct Memory {
  Memory(const Depthwise& conv, const Window& at, Scratch& scratch)
      : ring(conv, at, scratch), line(scratch.floats(depthwise_columns * ring.width())), sums(scratch.floats((taps + 1) * ring.width())),
        turned(scratch.floats(taps * ring.width())) {}
  Ring ring;
  float *line, *sums, *turned;
};

// Runs over the rows of a window with the rows around each in the ring.
template <bool Repeat, class Row>
void each_row(const Depthwise& conv, const Window& at, Ring& ring, const float* map, const Row& row) {
  for (int64_t y = at.top - conv.dilation; y < at.top + conv.dilation; y++) ring.template read<Repeat>(map, y);
  for (int64_t y = at.top; y < at.bottom; y++) {
    ring.template read<Repeat>(map, y + conv.dilation);
    row(y, ((at.b * conv.height + y) * conv.width + at.left));
  }
}

}  // namespace

int64_t depthwise_scratch(const Depthwise& conv) {
  Scratch scratch(nullptr);
  const Window at(conv, 0);
  Memory(conv, at, scratch);
  return scratch.taken();
}

void depthwise_forward(const Depthwise& conv, const float* x, float* y, int64_t task, void* memory) {
  const FlushTiny flush_tiny;
  Scratch scratch(memory);
  const Window at(conv, task);
  Memory use(conv, at, scratch);
  const int64_t channels = conv.out_channels(), width = use.ring.width();
  const auto run = conv.silu ? forward_row<true> : forward_row<false>;
  each_row<true>(conv, at, use.ring, x, [&](int64_t row, int64_t pixel) {
    float* const result = y + pixel * channels + at.out;
    float* const to = conv.past_caches ? use.line : result;
    const int64_t apart = conv.past_caches ? width : channels;
    for (int64_t c = 0; c < at.outer; c += W) {
      RowsAround around = rows_around(use.ring, row, conv.dilation);
      for (auto& r : around.rows) r += c;
      run(around, width, conv.dilation, conv.weight + at.out + c, conv.bias ? conv.bias + at.out + c : nullptr, channels, apart, to + c,
          at.columns, lanes(at.outer, c));
    }
    for (int64_t i = 0; conv.past_caches && i < at.columns; i++) write_row(use.line + i * width, at.outer, result + i * channels, true);
  });
  finish_stores();
}

void depthwise_backward_weight(const Depthwise& conv, const float* x, const float* grad, float* inside, float* shares, int64_t task,
                               void* memory) {
  const FlushTiny flush_tiny;
  Scratch scratch(memory);
  const Window at(conv, task);
  Memory use(conv, at, scratch);
  const int64_t channels = conv.out_channels(), width = use.ring.width();
  for (int64_t i = 0; i < (taps + 1) * width; i += W) store(use.sums + i, zero());
  const auto run = conv.silu ? weight_row<true> : weight_row<false>;
  each_row<true>(conv, at, use.ring, x, [&](int64_t row, int64_t pixel) {
    for (int64_t c = 0; c < at.outer; c += W) {
      RowsAround around = rows_around(use.ring, row, conv.dilation);
      for (auto& r : around.rows) r += c;
      const int64_t place = pixel * channels + at.out + c;
      run(around, width, conv.dilation, conv.weight + at.out + c, conv.bias ? conv.bias + at.out + c : nullptr, channels, grad + place,
          inside ? inside + place : nullptr, at.columns, lanes(at.outer, c), use.sums + c, width);
    }
  });
  const int64_t share = DepthwiseCut(conv).inner * conv.spread;
  for (int k = 0; k <= taps; k++)
    for (int64_t c = 0; c < at.outer; c++) shares[(task * (taps + 1) + k) * share + c] = use.sums[k * width + c];
}

void depthwise_backward_input(const Depthwise& conv, const float* grad, float* dx, int64_t task, void* memory) {
  const FlushTiny flush_tiny;
  Scratch scratch(memory);
  const Window at(conv, task);
  Memory use(conv, at, scratch);
  const int64_t channels = conv.out_channels(), width = use.ring.width();
  for (int k = 0; k < taps; k++)
    for (int64_t c = 0; c < width; c++) use.turned[k * width + c] = c < at.outer ? conv.weight[(taps - 1 - k) * channels + at.out + c] : 0.0f;
  each_row<false>(conv, at, use.ring, grad, [&](int64_t row, int64_t pixel) {
    for (int64_t c = 0; c < at.outer; c += W) {
      RowsAround around = rows_around(use.ring, row, conv.dilation);
      for (auto& r : around.rows) r += c;
      forward_row<false>(around, width, conv.dilation, use.turned + c, nullptr, width, width, use.line + c, at.columns, W);
    }
    for (int64_t i = 0; i < at.columns; i++) {
      float* const to = dx + (pixel + i) * conv.in_channels + at.in;
      if (conv.spread == 1) {
        for (int64_t c = 0; c < at.inner; c += W) store_part(to + c, load(use.line + i * width + c), lanes(at.inner, c));
      } else {
        add_neighbours(use.line + i * width, conv.spread, at.inner, to);
      }
    }
  });
}

}  // namespace SCAN_SET
}  // namespace eqmambair
