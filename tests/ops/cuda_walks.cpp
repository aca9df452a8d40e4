// csrc/cuda/walk.h on the CPU: a warp is an array of 32 numbers, and warps are walked one after another. For test_cuda.py.
#include <cmath>
#include <cstdint>

namespace eqmambair {
namespace gpu {

struct Lanes {
  float x[32];
};

#define EACH(expression)                       \
  Lanes r;                                     \
  for (int i = 0; i < 32; i++) r.x[i] = expression; \
  return r;
inline Lanes operator+(Lanes a, Lanes b) { EACH(a.x[i] + b.x[i]) }
inline Lanes operator*(Lanes a, Lanes b) { EACH(a.x[i] * b.x[i]) }
inline Lanes operator*(Lanes a, float b) { EACH(a.x[i] * b) }
inline Lanes exp2_of(Lanes a) { EACH(std::exp2(a.x[i])) }
inline Lanes softplus_of(Lanes a) { EACH(a.x[i] > 20 ? a.x[i] : std::log1p(std::exp(a.x[i]))) }
inline Lanes slope_of(Lanes a) { EACH(1 / (1 + std::exp(-a.x[i]))) }
template <class R>
R constant(float value) { EACH(value) }
template <class R>
R load(const float* p, int active) { EACH(i < active ? p[i] : 0) }
template <class R>
R gather(const float* p, int64_t stride, int active) { EACH(i < active ? p[i * stride] : 0) }
inline void store(float* p, Lanes a, int active) {
  for (int i = 0; i < active; i++) p[i] = a.x[i];
}
inline float widen(float x) { return x; }
template <int Count>
void store_sums(Lanes (&x)[Count], float* to, int wanted) {
  for (int n = 0; n < wanted; n++) {
    to[n] = 0;
    for (float value : x[n].x) to[n] += value;
  }
}

}  // namespace gpu
}  // namespace eqmambair

#include "cuda/walk.h"

using namespace eqmambair::gpu;

namespace {

int64_t warps(const Scan& s) { return s.batch * s.groups * s.segments * divide_up(s.channels, warp); }

void join_all(const Scan& s, bool backwards) {
  Scan one = s;
  one.segments = 1;
  for (int64_t i = 0; i < warps(one) * s.states; i++) join<Lanes>(s, item(one, i / s.states), i % s.states, backwards);
}

template <int Count>
void run(const Scan& s, bool backwards) {
  const int64_t count = warps(s);
  if (!backwards) {
    if (s.segments > 1) {
      for (int64_t i = 0; i < count; i++) walk<Lanes, float, Count, false>(s, item(s, i));
      join_all(s, false);
    }
    for (int64_t i = 0; i < count; i++) walk<Lanes, float, Count, true>(s, item(s, i));
  } else {
    if (s.segments > 1) {
      for (int64_t i = 0; i < count; i++) walk_back<Lanes, float, Count>(s, item(s, i));
      join_all(s, true);
    }
    for (int64_t i = 0; i < count; i++) gradients<Lanes, float, Count>(s, item(s, i));
  }
}

}  // namespace

// sizes: batch, length, groups, channels, states, segments' tokens, orders for each batch element, softplus, one u for all groups.
// tensors, dense float32 (order int32 or null): u, delta, A, B, C, D, bias, order, grad; y, kept, du, ddelta, dB, dC, dA, dD, dbias;
// segment_state, segment_step, sums.
extern "C" void scan(const int64_t* sizes, void** tensors, int backwards) {
  Scan s{};
  s.batch = sizes[0], s.length = sizes[1], s.groups = sizes[2], s.channels = sizes[3], s.states = sizes[4];
  s.segment_tokens = sizes[5], s.segments = divide_up(s.length, s.segment_tokens);
  s.order_batch = sizes[6] ? s.groups * s.length : 0;
  s.softplus = sizes[7];
  const auto tokens = [&](int i, int64_t last, bool shared) {
    const int64_t groups = shared ? 1 : s.groups;
    return Tokens{tensors[i], s.length * groups * last, groups * last, shared ? 0 : last};
  };
  const auto real = [&](int i) { return static_cast<float*>(tensors[i]); };
  s.u = tokens(0, s.channels, sizes[8]), s.delta = tokens(1, s.channels, false), s.grad = tokens(8, s.channels, false);
  s.B = tokens(3, s.states, false), s.C = tokens(4, s.states, false);
  s.A = real(2), s.D = real(5), s.bias = real(6), s.order = static_cast<const int32_t*>(tensors[7]);
  s.y = real(9), s.kept = real(10), s.du = real(11), s.ddelta = real(12), s.dB = real(13), s.dC = real(14);
  s.dA = real(15), s.dD = real(16), s.dbias = real(17), s.segment_state = real(18), s.segment_step = real(19), s.sums = real(20);
  s.states == 1 ? run<1>(s, backwards) : s.states <= 4 ? run<4>(s, backwards) : s.states <= 8 ? run<8>(s, backwards)
                                                                                              : run<states_at_once>(s, backwards);
}
