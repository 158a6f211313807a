/* Bits of floats and the formats made of them, one element at a time.
 *
 * The arithmetic is documented in qprobe/quant/blockscale.py. Every operation rounds once: the build
 * passes -ffp-contract=off.
 */

#ifndef QPROBE_FORMATS_H
#define QPROBE_FORMATS_H

#include <float.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* Types of elements. */
enum { F32 = 0, BF16 = 1 };

INLINE uint32_t to_bits(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
}

INLINE float from_bits(uint32_t u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}

INLINE uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }
INLINE uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* Bits of |x|. */
INLINE uint32_t magnitude(float x) { return to_bits(x) & 0x7FFFFFFFu; }

INLINE float widen(uint16_t x) { return from_bits((uint32_t)x << 16); }

/* float32 to bfloat16, nearest even. A NaN that came from bfloat16 has zeros where the carry would
 * start, so it stays one. */
INLINE uint16_t narrow(float x) {
  const uint32_t u = to_bits(x);
  return (uint16_t)((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
}

/* Adding and taking away 1.5·2^23 steps leaves a multiple of the step, ties to even. A step of E2M1
 * is half the power of two below |y|, and 0.5 below 2. `a` holds the bits of |y|. */
INLINE float e2m1_nearest(uint32_t a) {
  a = min_u32(a, 0x40C00000u); /* 6 */
  const float c = from_bits(max_u32(a & 0x7F800000u, 0x3F800000u)) * 6291456.0f;
  return (from_bits(a) + c) - c;
}

/* Nearest E4M3 value of x >= 0, at most 448; subnormals kept, NaN stays NaN. */
INLINE float e4m3(float x) {
  const uint32_t u = to_bits(x);
  const float clamped = from_bits(u > 0x7F800000u ? u : min_u32(u, 0x43E00000u)); /* 448 */
  const float c = from_bits(max_u32(u > 0x7F800000u ? 0 : min_u32(u, 0x43E00000u) & 0x7F800000u,
                                    0x3C800000u)) * 1572864.0f; /* 2^-6, 1.5·2^20 */
  return (clamped + c) - c;
}

typedef struct {
  float block_factor;  /* absmax of a block to its scale before rounding */
  float decode;        /* 1 / (2688 / absmax) */
  float decode_first;  /* a block's scale becomes its decode scale by two multiplications */
  float decode_second;
} tensor_scale;

INLINE tensor_scale tensor_scale_of(float absmax) {
  const float ratio = 2688.0f / absmax;
  float s = ratio > FLT_MAX ? FLT_MAX : ratio;
  if (absmax == 0.0f || s == 0.0f) s = 1.0f;
  tensor_scale t = {s * (1.0f / 6.0f), 1.0f / s, absmax, 1.0f / 2688.0f};
  if (ratio > FLT_MAX) { /* 2688 / absmax is not a float: absmax / 2688 would not undo FLT_MAX */
    t.decode_first = t.decode;
    t.decode_second = 1.0f;
  } else if (absmax <= FLT_MAX && absmax * 448.0f > FLT_MAX) {
    t.decode_first = absmax * (1.0f / 2688.0f);
    t.decode_second = 1.0f;
  }
  return t;
}

#endif
