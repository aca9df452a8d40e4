// Vectors of floats for the instruction set that this file is compiled for, and the few functions the scan needs of them.
//
// Included by files that are compiled once for each instruction set; everything lies in a namespace named after it, and nothing of the
// standard library is used, so that no function compiled for one set can be linked into the code for another.
#pragma once
#include <stdint.h>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define SCAN_AVX512 1
#define SCAN_SET avx512
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define SCAN_AVX2 1
#define SCAN_SET avx2
#else
#define SCAN_SET baseline
#endif

#if defined(SCAN_AVX512) || defined(SCAN_AVX2) || defined(__aarch64__)
#define SCAN_FUSES 1
#endif

#define SCAN_INLINE static inline __attribute__((always_inline))
#define SCAN_TEXT_(x) #x
#define SCAN_TEXT(x) SCAN_TEXT_(x)
#if defined(__clang__)
#define SCAN_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SCAN_UNROLL _Pragma("GCC unroll 16")
#endif

namespace eqmambair {
namespace SCAN_SET {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

// For each set: V, a vector of W floats; how many states are walked at once (most_states), in registers as far as there are enough; how
// many chains of exponentials stand side by side in the instruction stream (interleaved), for without that the scheduler of the processor
// fills up with instructions that wait for one another; and for how many states of how many vectors of channels the gradient goes back
// at once.
//
// exp2 gives 2^(z + error) for several arguments in turn, exactly 1 for 0: a step of zero leaves the state as it is. exp2_bounded is for
// |z| <= largest_exponent alone, and gives the same bits there: compiled without contraction, so that a product in front is rounded in both.
#if SCAN_AVX512

using V = __m512;
constexpr int W = 16;
constexpr int most_states = 16;
constexpr int interleaved = 4;
constexpr int tile_vectors = 3, tile_states = 2;

SCAN_INLINE V zero() { return _mm512_setzero_ps(); }
SCAN_INLINE V all(float x) { return _mm512_set1_ps(x); }
SCAN_INLINE V load(const float* p) { return _mm512_load_ps(p); }
SCAN_INLINE void store(float* p, V x) { _mm512_store_ps(p, x); }
SCAN_INLINE void store_past_caches(float* p, V x) { _mm512_stream_ps(p, x); }
SCAN_INLINE V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
// Where x is NaN these give NaN: the second operand is returned.
SCAN_INLINE V at_least(float bound, V x) { return _mm512_max_ps(all(bound), x); }
SCAN_INLINE V at_most(float bound, V x) { return _mm512_min_ps(all(bound), x); }
SCAN_INLINE V larger(V a, V b) { return _mm512_max_ps(a, b); }
SCAN_INLINE V absolute(V x) { return _mm512_abs_ps(x); }
SCAN_INLINE V if_negative(V x, V yes, V no) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, zero(), _CMP_LT_OQ), no, yes); }

SCAN_INLINE __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1); }
SCAN_INLINE V load_part(const float* p, int count) { return _mm512_maskz_loadu_ps(first(count), p); }
SCAN_INLINE void store_part(float* p, V x, int count) { _mm512_mask_storeu_ps(p, first(count), x); }
SCAN_INLINE V load_part(const bf16* p, int count) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(count), p)), 16));
}
SCAN_INLINE void store_part(bf16* p, V x, int count) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  rounded = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), rounded, _mm512_set1_epi32(0x7fc0));
  _mm256_mask_storeu_epi16(p, first(count), _mm512_cvtepi32_epi16(rounded));
}
SCAN_INLINE V load_part(const f16* p, int count) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(count), p)); }
SCAN_INLINE void store_part(f16* p, V x, int count) {
  _mm256_mask_storeu_epi16(p, first(count), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

// Relative error 6.6e-8 before rounding. 32nds of z are looked up, in two registers; what is left of z, below 1/32, takes a polynomial of
// degree 2.
template <int Count>
SCAN_INLINE void exp2(const V (&z)[Count], const V* error, V (&result)[Count]) {
  const V low = _mm512_setr_ps(1.0f, 1.0218972f, 1.04427373f, 1.06714046f, 1.09050775f, 1.1143868f, 1.13878858f, 1.1637249f,
                              1.18920708f, 1.21524739f, 1.24185777f, 1.26905096f, 1.29683959f, 1.32523668f, 1.35425556f, 1.38390994f);
  const V high = _mm512_setr_ps(1.41421354f, 1.44518077f, 1.47682619f, 1.50916445f, 1.54221082f, 1.5759809f, 1.61049032f, 1.64575553f,
                              1.68179286f, 1.71861935f, 1.75625217f, 1.79470909f, 1.8340081f, 1.87416768f, 1.91520655f, 1.95714414f);
  V f[Count], power[Count];
  SCAN_UNROLL for (int i = 0; i < Count; i++) {
    // In the last five bits of the sum stand the 32nds.
    const V place = _mm512_add_round_ps(z[i], all(1.5f * (1 << 18)), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    power[i] = _mm512_permutex2var_ps(low, _mm512_castps_si512(place), high);
  }
  SCAN_UNROLL for (int i = 0; i < Count; i++) f[i] = _mm512_reduce_ps(z[i], 5 << 4 | _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  if (error) SCAN_UNROLL for (int i = 0; i < Count; i++) f[i] = f[i] + error[i];
  SCAN_UNROLL for (int i = 0; i < Count; i++) result[i] = fma(f[i], all(0.24265271425f), all(0.69312375784f));
  SCAN_UNROLL for (int i = 0; i < Count; i++) result[i] = result[i] * f[i];
  SCAN_UNROLL for (int i = 0; i < Count; i++) result[i] = fma(power[i], result[i], power[i]);
  SCAN_UNROLL for (int i = 0; i < Count; i++) result[i] = _mm512_scalef_ps(result[i], z[i]);
}
constexpr bool bounds_are_free = true;
template <int Count>
SCAN_INLINE void exp2_bounded(const V (&z)[Count], const V* error, V (&result)[Count]) {
  exp2(z, error, result);
}

// Lane i of the result is the sum of the lanes of row i.
SCAN_INLINE V sums_of_rows(const float* rows) {
  V quarter[4];
  SCAN_UNROLL for (int i = 0; i < 4; i++) {
    V half[2];
    SCAN_UNROLL for (int j = 0; j < 2; j++) {
      const float *a = rows + 16 * (8 * j + i), *b = rows + 16 * (8 * j + 4 + i);
      const V low = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_load_ps(a)), _mm256_load_ps(b), 1);
      const V high = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_load_ps(a + 8)), _mm256_load_ps(b + 8), 1);
      half[j] = low + high;
    }
    quarter[i] = _mm512_shuffle_f32x4(half[0], half[1], 0x88) + _mm512_shuffle_f32x4(half[0], half[1], 0xdd);
  }
  const V even = _mm512_unpacklo_ps(quarter[0], quarter[1]) + _mm512_unpackhi_ps(quarter[0], quarter[1]);
  const V odd = _mm512_unpacklo_ps(quarter[2], quarter[3]) + _mm512_unpackhi_ps(quarter[2], quarter[3]);
  const __m512d e = _mm512_castps_pd(even), o = _mm512_castps_pd(odd);
  return _mm512_castpd_ps(_mm512_unpacklo_pd(e, o)) + _mm512_castpd_ps(_mm512_unpackhi_pd(e, o));
}

#elif SCAN_AVX2

using V = __m256;
constexpr int W = 8;
constexpr int most_states = 16;
constexpr int interleaved = 2;
constexpr int tile_vectors = 2, tile_states = 2;

SCAN_INLINE V zero() { return _mm256_setzero_ps(); }
SCAN_INLINE V all(float x) { return _mm256_set1_ps(x); }
SCAN_INLINE V load(const float* p) { return _mm256_load_ps(p); }
SCAN_INLINE void store(float* p, V x) { _mm256_store_ps(p, x); }
SCAN_INLINE void store_past_caches(float* p, V x) { _mm256_stream_ps(p, x); }
SCAN_INLINE V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
SCAN_INLINE V at_least(float bound, V x) { return _mm256_max_ps(all(bound), x); }
SCAN_INLINE V at_most(float bound, V x) { return _mm256_min_ps(all(bound), x); }
SCAN_INLINE V larger(V a, V b) { return _mm256_max_ps(a, b); }
SCAN_INLINE V absolute(V x) { return _mm256_andnot_ps(all(-0.0f), x); }
SCAN_INLINE V if_negative(V x, V yes, V no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(x, zero(), _CMP_LT_OQ)); }

SCAN_INLINE V load_part(const float* p, int count) {
  if (count == W) return _mm256_loadu_ps(p);
  alignas(32) float copy[W] = {};
  for (int i = 0; i < count; i++) copy[i] = p[i];
  return _mm256_load_ps(copy);
}
SCAN_INLINE void store_part(float* p, V x, int count) {
  if (count == W) return _mm256_storeu_ps(p, x);
  alignas(32) float copy[W];
  _mm256_store_ps(copy, x);
  for (int i = 0; i < count; i++) p[i] = copy[i];
}
template <class Half>
SCAN_INLINE __m128i load_bits(const Half* p, int count) {
  if (count == W) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  alignas(16) uint16_t copy[W] = {};
  for (int i = 0; i < count; i++) copy[i] = p[i].bits;
  return _mm_load_si128(reinterpret_cast<const __m128i*>(copy));
}
template <class Half>
SCAN_INLINE void store_bits(Half* p, __m128i x, int count) {
  if (count == W) return _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x);
  alignas(16) uint16_t copy[W];
  _mm_store_si128(reinterpret_cast<__m128i*>(copy), x);
  for (int i = 0; i < count; i++) p[i].bits = copy[i];
}
SCAN_INLINE V load_part(const bf16* p, int count) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_bits(p, count)), 16));
}
SCAN_INLINE void store_part(bf16* p, V x, int count) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
  store_bits(p, _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1)), count);
}
SCAN_INLINE V load_part(const f16* p, int count) { return _mm256_cvtph_ps(load_bits(p, count)); }
SCAN_INLINE void store_part(f16* p, V x, int count) {
  store_bits(p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), count);
}

// Relative error 2.5e-8 before rounding. 8ths of z are looked up; what is left of z, at most 1/16, takes a polynomial of degree 3.
template <int Count>
SCAN_INLINE void exp2_bounded(const V (&z)[Count], const V* error, V (&result)[Count]) {
  // 2^(k/8), less what the k of `place`, shifted to the exponent and the first three bits behind it, adds again.
  const __m256i table = _mm256_setr_epi32(0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7);
  const V eighths = all(1.5f * (1 << 20));
  V f[Count], power[Count];
  SCAN_UNROLL for (int i = 0; i < Count; i++) {
    const V place = z[i] + eighths;  // its last bits are the 8ths
    const __m256i bits = _mm256_castps_si256(place);
    power[i] = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_permutevar8x32_epi32(table, bits), _mm256_slli_epi32(bits, 20)));
    f[i] = z[i] - (place - eighths);
  }
  if (error) SCAN_UNROLL for (int i = 0; i < Count; i++) f[i] = f[i] + error[i];
  SCAN_UNROLL for (int i = 0; i < Count; i++) result[i] = fma(f[i], all(0.05549622f), all(0.24025763f));
  SCAN_UNROLL for (int i = 0; i < Count; i++) result[i] = fma(f[i], result[i], all(0.69314721f));
  SCAN_UNROLL for (int i = 0; i < Count; i++) result[i] = result[i] * f[i];
  SCAN_UNROLL for (int i = 0; i < Count; i++) result[i] = fma(power[i], result[i], power[i]);
}

SCAN_INLINE V sums_of_rows(const float* rows) {
  V quarter[2];
  SCAN_UNROLL for (int i = 0; i < 2; i++) {
    const float* r = rows + 4 * W * i;
    quarter[i] = _mm256_hadd_ps(_mm256_hadd_ps(load(r), load(r + W)), _mm256_hadd_ps(load(r + 2 * W), load(r + 3 * W)));
  }
  return _mm256_permute2f128_ps(quarter[0], quarter[1], 0x20) + _mm256_permute2f128_ps(quarter[0], quarter[1], 0x31);
}

#else  // SSE2, NEON, or whatever the compiler makes of four floats

typedef float V __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
constexpr int W = 4;
constexpr int most_states = 4;
constexpr int interleaved = 2;
constexpr int tile_vectors = 2, tile_states = 2;

SCAN_INLINE V zero() { return V{}; }
SCAN_INLINE V all(float x) { return V{x, x, x, x}; }
SCAN_INLINE V load(const float* p) { return *reinterpret_cast<const V*>(p); }
SCAN_INLINE void store(float* p, V x) { *reinterpret_cast<V*>(p) = x; }
SCAN_INLINE void store_past_caches(float* p, V x) { store(p, x); }
#if defined(__aarch64__)
SCAN_INLINE V fma(V a, V b, V c) { return (V)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#else
SCAN_INLINE V fma(V a, V b, V c) { return a * b + c; }
#endif
SCAN_INLINE V choose(I mask, V yes, V no) { return (V)(((I)yes & mask) | ((I)no & ~mask)); }
SCAN_INLINE V at_least(float bound, V x) { return choose(x < all(bound), all(bound), x); }
SCAN_INLINE V at_most(float bound, V x) { return choose(x > all(bound), all(bound), x); }
SCAN_INLINE V larger(V a, V b) { return choose(a > b, a, b); }
SCAN_INLINE V absolute(V x) { return (V)((I)x & 0x7fffffff); }
SCAN_INLINE V if_negative(V x, V yes, V no) { return choose(x < zero(), yes, no); }

SCAN_INLINE float from_bits(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
SCAN_INLINE uint32_t to_bits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}
SCAN_INLINE float widen(float x) { return x; }
SCAN_INLINE float widen(bf16 x) { return from_bits(static_cast<uint32_t>(x.bits) << 16); }
SCAN_INLINE float widen(f16 x) {
  const uint32_t sign = (x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
  if (rest >= 0x7c00u) return from_bits(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
  if (rest < 0x400u) {
    const float tiny = static_cast<float>(rest) * 5.9604644775390625e-8f;  // 2^-24
    return sign ? -tiny : tiny;
  }
  return from_bits(sign | ((rest << 13) + 0x38000000u));
}
SCAN_INLINE void narrow(float* p, float x) { *p = x; }
SCAN_INLINE void narrow(bf16* p, float x) {
  const uint32_t bits = to_bits(x);
  p->bits = x != x ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
SCAN_INLINE void narrow(f16* p, float x) {
  const uint32_t bits = to_bits(x), sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu;
  uint32_t half;
  if (x != x) {
    half = 0x7e00u;
  } else if (rest >= 0x477ff000u) {  // rounds to 65536 or more
    half = 0x7c00u;
  } else if (rest < 0x38800000u) {  // below 2^-14: a multiple of 2^-24, which adding 0.5 rounds to
    half = to_bits(from_bits(rest) + 0.5f) - 0x3f000000u;
  } else {
    half = (rest - 0x38000000u + 0xfffu + ((rest >> 13) & 1u)) >> 13;
  }
  p->bits = static_cast<uint16_t>(sign | half);
}
template <class T>
SCAN_INLINE V load_part(const T* p, int count) {
  V x{};
  for (int i = 0; i < count; i++) x[i] = widen(p[i]);
  return x;
}
SCAN_INLINE V load_part(const float* p, int count) {
  V x{};
  if (count == W) {
    __builtin_memcpy(&x, p, sizeof x);
  } else {
    for (int i = 0; i < count; i++) x[i] = p[i];
  }
  return x;
}
template <class T>
SCAN_INLINE void store_part(T* p, V x, int count) {
  for (int i = 0; i < count; i++) narrow(p + i, x[i]);
}
SCAN_INLINE void store_part(float* p, V x, int count) {
  if (count == W) {
    __builtin_memcpy(p, &x, sizeof x);
  } else {
    for (int i = 0; i < count; i++) p[i] = x[i];
  }
}

// Relative error 9.2e-8 before rounding. What is left of z beside the nearest whole number takes Horner's scheme of degree 5.
template <int Count>
SCAN_INLINE void exp2_bounded(const V (&z)[Count], const V* error, V (&p)[Count]) {
  const V units = all(1.5f * (1 << 23));
  V f[Count];
  I power[Count];
  SCAN_UNROLL for (int i = 0; i < Count; i++) {
    const V place = z[i] + units;  // its last bits are the whole number
    power[i] = (I)place << 23;
    f[i] = z[i] - (place - units);
  }
  if (error) SCAN_UNROLL for (int i = 0; i < Count; i++) f[i] = f[i] + error[i];
  SCAN_UNROLL for (int i = 0; i < Count; i++) p[i] = fma(f[i], all(1.32647e-3f), all(9.67151e-3f));
  SCAN_UNROLL for (int i = 0; i < Count; i++) p[i] = fma(p[i], f[i], all(5.550734e-2f));
  SCAN_UNROLL for (int i = 0; i < Count; i++) p[i] = fma(p[i], f[i], all(2.4022242e-1f));
  SCAN_UNROLL for (int i = 0; i < Count; i++) p[i] = fma(p[i], f[i], all(6.9314698e-1f));
  SCAN_UNROLL for (int i = 0; i < Count; i++) p[i] = fma(p[i], f[i], all(1.0f));
  SCAN_UNROLL for (int i = 0; i < Count; i++) p[i] = (V)((I)p[i] + power[i]);
}

SCAN_INLINE V sums_of_rows(const float* rows) {
  V sums;
  SCAN_UNROLL for (int i = 0; i < W; i++) {
    const V r = load(rows + W * i);
    sums[i] = (r[0] + r[1]) + (r[2] + r[3]);
  }
  return sums;
}

#endif

constexpr float log2_e = 1.44269504088896341f;
constexpr float ln_2 = 0.69314718055994531f;

constexpr float largest_exponent = 126.0f;

#if !SCAN_AVX512
constexpr bool bounds_are_free = false;
template <int Count>
SCAN_INLINE void exp2(const V (&exponent)[Count], const V* error, V (&result)[Count]) {
  V z[Count];
  SCAN_UNROLL for (int i = 0; i < Count; i++) z[i] = at_most(largest_exponent, at_least(-largest_exponent, exponent[i]));
  exp2_bounded(z, error, result);
}
#endif

// 2^(x * rate) for several arguments, or several rates; Bounded: none of the products exceeds largest_exponent.
template <bool Bounded, int Count>
SCAN_INLINE void powers(const V (&x)[Count], const float* rates, V (&result)[Count]) {
  V z[Count];
  SCAN_UNROLL for (int i = 0; i < Count; i++) z[i] = x[i] * load(rates + W * i);
  if constexpr (Bounded) {
    exp2_bounded(z, nullptr, result);
  } else {
    exp2(z, nullptr, result);
  }
}

// e^-|x|, with the rounding error of the product with log2(e) put back into the exponent.
template <int Count>
SCAN_INLINE void exp_of_minus_absolute(const V (&x)[Count], V (&w)[Count]) {
  V z[Count], error[Count];
  SCAN_UNROLL for (int i = 0; i < Count; i++) {
    const V f = at_most(87.0f, absolute(x[i]));
#if SCAN_FUSES
    z[i] = f * all(-log2_e);
    error[i] = fma(f, all(-1.9259629911e-8f), fma(f, all(-log2_e), zero() - z[i]));  // with what float leaves of log2(e)
#else
    // Without fused products that error is not to be had: take off whole multiples of ln 2, in a part whose products are exact and the rest.
    const V units = all(1.5f * (1 << 23)), whole = (f * all(log2_e) + units) - units;
    z[i] = zero() - whole;
    error[i] = ((f - whole * all(0.693145751953125f)) - whole * all(1.42860682e-6f)) * all(-log2_e);
#endif
  }
  exp2_bounded(z, error, w);
}

// log(1 + e^x) from w = e^-|x|: log(1 + w) / w is a polynomial on [0, 1], relative error 3.3e-8 before rounding.
template <int Count>
SCAN_INLINE void softplus(const V (&x)[Count], const V (&w)[Count], V (&result)[Count]) {
  V p[Count];
  SCAN_UNROLL for (int i = 0; i < Count; i++) p[i] = fma(all(5.364671234e-3f), w[i], all(-3.0065208870e-2f));
  SCAN_UNROLL for (int i = 0; i < Count; i++) p[i] = fma(p[i], w[i], all(7.9203640132e-2f));
  SCAN_UNROLL for (int i = 0; i < Count; i++) p[i] = fma(p[i], w[i], all(-1.3753731586e-1f));
  SCAN_UNROLL for (int i = 0; i < Count; i++) p[i] = fma(p[i], w[i], all(1.9153624539e-1f));
  SCAN_UNROLL for (int i = 0; i < Count; i++) p[i] = fma(p[i], w[i], all(-2.4857156889e-1f));
  SCAN_UNROLL for (int i = 0; i < Count; i++) p[i] = fma(p[i], w[i], all(3.3321321990e-1f));
  SCAN_UNROLL for (int i = 0; i < Count; i++) p[i] = fma(p[i], w[i], all(-4.9999647957e-1f));
  SCAN_UNROLL for (int i = 0; i < Count; i++) p[i] = fma(p[i], w[i], all(1.0f));
  SCAN_UNROLL for (int i = 0; i < Count; i++) result[i] = fma(p[i], w[i], at_least(0.0f, x[i]));
}

// The slope of softplus at x, from w = e^-|x|.
SCAN_INLINE V sigmoid(V x, V w) { return if_negative(x, w, all(1.0f)) / (all(1.0f) + w); }

template <int Count>
SCAN_INLINE void sigmoids(const V (&z)[Count], V (&s)[Count]) {
  V w[Count];
  exp_of_minus_absolute(z, w);
  SCAN_UNROLL for (int i = 0; i < Count; i++) s[i] = sigmoid(z[i], w[i]);
}

// While it lives, results too small to be normal numbers are zero: a state that fades away would else slow every step of it.
class FlushTiny {
 public:
#if defined(__x86_64__) || defined(__i386__)
  FlushTiny() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushTiny() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__)
  FlushTiny() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(before_));
    __asm__ volatile("msr fpcr, %0" ::"r"(before_ | (uint64_t{1} << 24)));
  }
  ~FlushTiny() { __asm__ volatile("msr fpcr, %0" ::"r"(before_)); }

 private:
  uint64_t before_;
#else
  FlushTiny() {}
#endif
};

}  // namespace SCAN_SET
}  // namespace eqmambair
