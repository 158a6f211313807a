/* Average precision of binned scores: qprobe/inference/precision_recall.py, which documents the sum.
 *
 * Rows lie side by side in a vector, so that nothing but their number has to be a multiple of
 * anything, and bins are gone through once, from the highest score down. The caller owns every
 * buffer; nothing is kept between calls.
 */

#include "average_precision.h"
#include "formats.h"
#include "variants.h"

#define ROWS 32 /* that are worked on together; with fewer, compilers unroll and stop to vectorize */
/* From here on six terms of the series of digamma are enough; below, that many are added one by one. */
#define SERIES 10
#define LN2 0.693147180559945309417
#define HALF_ROOT_BITS 0x3FE6A09E667F3BCDull /* of the square root of a half */

INLINE uint64_t bits64(double x) {
  uint64_t u;
  memcpy(&u, &x, 8);
  return u;
}

INLINE double from_bits64(uint64_t u) {
  double x;
  memcpy(&x, &u, 8);
  return x;
}

/* ln(1 + p / first) with last = first + p and inverse = 1 / first, by ln m = 2 artanh((m-1)/(m+1)).
 * A quotient below the root of two is never formed, since its 1 would take digits from what it adds;
 * of others powers of two are taken off. |f| < 0.1716, whose 21st power is less than a rounding. */
INLINE double log_ratio(double first, double last, double p, double inverse) {
  const double quotient = last * inverse;
  const uint64_t power = (bits64(quotient) - HALF_ROOT_BITS) >> 52;
  const double m = from_bits64(bits64(quotient) - (power << 52));
  /* An integer below 2^52 to a double by its bits, which every instruction set can do. */
  const double powers = from_bits64(power | 0x4330000000000000ull) - 0x1p52;
  const int near = last < first * 1.4142;
  const double above = near ? p : m - 1.0, below = near ? first + last : m + 1.0;
  const double f = above / below, square = f * f;
  double sum = 1.0 / 21;
  sum = sum * square + 1.0 / 19;
  sum = sum * square + 1.0 / 17;
  sum = sum * square + 1.0 / 15;
  sum = sum * square + 1.0 / 13;
  sum = sum * square + 1.0 / 11;
  sum = sum * square + 1.0 / 9;
  sum = sum * square + 1.0 / 7;
  sum = sum * square + 1.0 / 5;
  sum = sum * square + 1.0 / 3;
  sum = sum * square + 1.0;
  return 2.0 * f * sum + (near ? 0.0 : powers * LN2);
}

/* psi(x + 1/2) - ln x from its series, of 1/x; the first term left out is 8e-16 at x = 10. */
INLINE double tail(double inverse) {
  const double square = inverse * inverse;
  double sum = -1414477.0 / 67092480;
  sum = sum * square + 511.0 / 67584;
  sum = sum * square - 127.0 / 30720;
  sum = sum * square + 31.0 / 8064;
  sum = sum * square - 7.0 / 960;
  sum = sum * square + 1.0 / 24;
  return sum * square;
}

#define KERNELS "average_precision_lanes.h"
#include "each_variant.h"

EXPORT void qprobe_average_precision(const binned *b) { CALL(average_precision, b); }
