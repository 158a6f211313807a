/* Fake quantization to symmetric integers on the CPU, float32, behind a C ABI.
 *
 * Same bits as the PyTorch path in qprobe/quant/integer.py, which documents the arithmetic; every
 * operation rounds once. The caller owns every buffer; nothing is kept between calls.
 */

#include "formats.h"
#include "variants.h"

/* Columns that are worked on together where there are fewer channels than that. */
#define WIDTH 64

/* Largest magnitudes as bits, and what follows from them: qprobe/quant/integer.py, IntScales. */
typedef struct {
  int32_t *top;
  float *scale;
  float *lift;
  float *inverse;
} groups;

/* Bits of |x|: their order is that of the numbers, with NaN on top. */
INLINE int32_t bits_of(float x) { return (int32_t)magnitude(x); }

INLINE int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

/* Adding and taking away 1.5·2^23 rounds a number below 2^22 to an integer, ties to even. The
 * comparison is false for NaN, which stays. A negative number that rounds to zero keeps its sign. */
INLINE float integer_value(float x, float lift, float inverse, float scale, float largest) {
  const float a = from_bits(magnitude(x * lift * inverse));
  const float r = (a + 12582912.0f) - 12582912.0f;
  const float code = largest < r ? largest : r;
  return from_bits(to_bits(code * scale) | (to_bits(x) & 0x80000000u));
}

#define KERNELS "integer_lanes.h"
#include "each_variant.h"

/* Floats of scratch memory for the groups of a tensor. */
EXPORT int64_t qprobe_integer_scratch(int64_t length, int64_t inner, int across) {
  const int64_t count = across ? length : inner;
  return 4 * (count > WIDTH ? count : WIDTH);
}

/* y = quantized and dequantized x `[outer, length, inner]`, where those share a scale that have the
 * same index in the middle (`across`), or that differ in the middle alone. x and y do not overlap. */
EXPORT void qprobe_integer_apply(const float *x, float *y, int64_t outer, int64_t length, int64_t inner,
                                 int across, float largest, float *scratch) {
  const int64_t each = qprobe_integer_scratch(length, inner, across) / 4;
  const groups g = {(int32_t *)scratch, scratch + each, scratch + 2 * each, scratch + 3 * each};
  if (!across && inner == 1)
    CALL(integer_rows, x, y, outer, length, largest, g);
  else if (!across)
    CALL(integer_columns, x, y, outer, length, inner, largest, g);
  else if (inner == 1)
    CALL(integer_interleaved, x, y, outer, length, largest, g);
  else
    CALL(integer_planes, x, y, outer, length, inner, largest, g);
}

/* y = quantized and dequantized x of `n` numbers that share a scale with others, up to `top` in magnitude. */
INTERNAL void qprobe_integer_under(const float *x, float *y, int64_t n, float top, float largest) {
  int32_t bits = bits_of(top);
  float scale, lift, inverse;
  const groups g = {&bits, &scale, &lift, &inverse};
  CALL(integer_under, x, y, n, largest, g);
}
