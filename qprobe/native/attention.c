/* One read of attention's rows: how wrong logits are, and what that makes of their softmax.
 *
 * A row is what one query of one head sees, gathered into double precision without its hidden keys.
 * The logarithm of a probability is its logit less the row's normaliser, so entropy and levels take
 * no logarithm of an element. What is not finite ends the work: the caller then turns to PyTorch,
 * which knows what NaN means. qprobe/stats/attention.py says what the results are.
 *
 * The caller owns every buffer; nothing is allocated here and nothing is kept between calls.
 */

#include "attention.h"
#include "formats.h"
#include "variants.h"

/* The edges of bins lie MARGIN of a bin low. */
#define MARGIN 0x1p-38
/* A row is padded to a multiple of this. */
enum { WIDTH = 16 };

/* One row before or after: logits in octaves below the largest, and 2 to the power of these. */
typedef struct {
  double *octaves, *powers;
  int32_t *bins;
  double entropy; /* in octaves */
  double part;    /* 1 / sum of the powers */
  double whole;   /* log2 of their sum */
} distribution;

INLINE int64_t padded(int64_t n) { return (n + WIDTH - 1) / WIDTH * WIDTH; }

INLINE double double_from_bits(uint64_t u) {
  double x;
  memcpy(&x, &u, 8);
  return x;
}

INLINE uint64_t double_to_bits(double x) {
  uint64_t u;
  memcpy(&u, &x, 8);
  return u;
}

/* ln 2 to the power of k, over k!, from k = 12 down: what 2^x is a sum of. */
static const double TERMS[13] = {
    2.5678435993488196e-11, 4.44553827187081e-10, 7.054911620801121e-09, 1.0178086009239696e-07,
    1.3215486790144305e-06, 1.5252733804059838e-05, 0.00015403530393381606, 0.0013333558146428441,
    0.009618129107628477, 0.055504108664821576, 0.2402265069591007, 0.6931471805599453,
    1.0,
};

/* log2 x for x >= 1; exact for powers of two. */
INLINE double log_two(double x) {
  const uint64_t bits = double_to_bits(x);
  int64_t exponent = (int64_t)(bits >> 52) - 1023;
  double m = double_from_bits((bits & 0x000FFFFFFFFFFFFFu) | 0x3FF0000000000000u);
  if (m > 1.4142135623730951) m *= 0.5, exponent++;
  const double s = (m - 1.0) / (m + 1.0), s2 = s * s;
  double sum = 1.0 / 23.0;
  for (int k = 21; k > 0; k -= 2) sum = sum * s2 + 1.0 / k;
  return (double)exponent + 2.8853900817779268 * s * sum; /* 2 / ln 2 */
}

#define NAME(f) JOIN(f, portable)
#define TARGET
#define LANES 2
#include "attention_lanes.h"
#undef NAME
#undef TARGET
#undef LANES

#ifdef X86_VARIANTS
#define NAME(f) JOIN(f, avx2)
#define TARGET __attribute__((target("avx2")))
#define LANES 4
#include "attention_lanes.h"
#undef NAME
#undef TARGET
#undef LANES
#define NAME(f) JOIN(f, avx512)
#define TARGET __attribute__((target(AVX512_FEATURES)))
#define LANES 8
#include "attention_lanes.h"
#undef NAME
#undef TARGET
#undef LANES
#endif

/* Doubles of working memory that rows of so many keys need. */
EXPORT int64_t qprobe_attention_scratch(int64_t keys) { return 5 * padded(keys); }

/* Entries and rows; sums of squares about the row means, of logits and of their change. Gives 0 where
 * something visible is not finite. */
EXPORT int qprobe_logit_error(const attention *a) {
  int finite = 0;
  CALL(logit_error, a, &finite);
  return finite;
}

/* Rows, of these decided, of these flipped, probabilities in range and of these below it; sums of entropy
 * change in nats and of total variation; histograms of levels. Gives 0 as above. */
EXPORT int qprobe_softmax_change(const attention *a) {
  int finite = 0;
  CALL(softmax_change, a, &finite);
  return finite;
}
