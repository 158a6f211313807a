/* Statistics of attention's rows, in vectors of LANES doubles. attention.c includes this file once per
 * instruction set.
 */

typedef double NAME(doubles) __attribute__((vector_size(8 * LANES), aligned(8), may_alias));
typedef int64_t NAME(words) __attribute__((vector_size(8 * LANES), aligned(8), may_alias));
typedef int32_t NAME(ints) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define DOUBLES NAME(doubles)
#define WORDS NAME(words)
#define AT(p) (*(DOUBLES *)(p))
#define SPREAD(a) ((DOUBLES){0} + (a))

/* The visible entries of a row as doubles, with the bias added where `bias` is given. */
#define GATHER(name, type)                                                             \
  TARGET INLINE int64_t NAME(name)(const attention *a, int64_t at, const type *from,   \
                                   const type *bias, double *restrict z) {             \
    int64_t n = 0;                                                                     \
    if (a->visible) {                                                                  \
      for (int64_t k = at; k < at + a->keys; k++)                                      \
        if (a->visible[k]) z[n++] = (double)from[k] + (bias ? (double)bias[k] : 0.0);  \
    } else if (bias) {                                                                 \
      for (; n < a->keys; n++) z[n] = (double)from[at + n] + (double)bias[at + n];     \
    } else {                                                                           \
      for (; n < a->keys; n++) z[n] = (double)from[at + n];                            \
    }                                                                                  \
    return n;                                                                          \
  }
GATHER(gather_floats, float)
GATHER(gather_doubles, double)
#undef GATHER

TARGET INLINE int64_t NAME(gather)(const attention *a, int64_t row, const void *from, const void *bias,
                                   double *z) {
  const int64_t at = row * a->keys;
  return a->wide ? NAME(gather_doubles)(a, at, from, bias, z) : NAME(gather_floats)(a, at, from, bias, z);
}

/* Lanes of `a` where the mask is set, of `b` elsewhere. */
#define CHOOSE(mask, a, b) ((DOUBLES)(((mask) & (WORDS)(a)) | (~(mask) & (WORDS)(b))))

/* The largest of n numbers; z is padded with -inf. */
TARGET INLINE double NAME(top_of)(double *z, int64_t n) {
  DOUBLES top = SPREAD(-__builtin_inf());
  for (int64_t i = n; i < padded(n); i++) z[i] = -__builtin_inf();
  for (int64_t i = 0; i < n; i += LANES) {
    const DOUBLES v = AT(z + i);
    top = CHOOSE(v > top, v, top);
  }
  double found = top[0];
  for (int k = 1; k < LANES; k++) found = top[k] > found ? top[k] : found;
  return found;
}

TARGET INLINE double NAME(added)(DOUBLES v) {
  double sum = 0.0;
  for (int k = 0; k < LANES; k++) sum += v[k];
  return sum;
}

/* Sum of squares of n numbers about their mean. The largest is taken off first: a constant row then is
 * exactly zero, however long it is. */
TARGET INLINE double NAME(scatter)(double *z, int64_t n) {
  const double top = NAME(top_of)(z, n);
  DOUBLES sum = {0}, squares = {0};
  for (int64_t i = n; i < padded(n); i++) z[i] = top;
  for (int64_t i = 0; i < n; i += LANES) sum += AT(z + i) -= SPREAD(top);
  const double mean = NAME(added)(sum) / (double)n;
  for (int64_t i = n; i < padded(n); i++) z[i] = mean;
  for (int64_t i = 0; i < n; i += LANES) {
    const DOUBLES d = AT(z + i) - SPREAD(mean);
    squares += d * d;
  }
  return NAME(added)(squares);
}

TARGET static void NAME(logit_error)(const attention *a, int *finite) {
  double *const x = a->scratch, *const y = x + padded(a->keys);
  const int64_t heads = a->heads;
  double total = 0.0;
  for (int64_t row = 0; row < a->samples * heads * a->queries; row++) {
    const int64_t head = row / a->queries % heads, n = NAME(gather)(a, row, a->before, 0, x);
    if (!n) continue;
    NAME(gather)(a, row, a->after, 0, y);
    for (int64_t i = 0; i < n; i++) y[i] -= x[i];
    const double signal = NAME(scatter)(x, n), noise = NAME(scatter)(y, n);
    a->counts[head] += n;
    a->counts[heads + head]++;
    a->sums[head] += signal;
    a->sums[2 * heads + head] += noise;
    total += signal + noise;
  }
  *finite = total - total == 0.0;
}

/* 2^t for -1000 <= t <= 0, to 3e-16 of it; NaN stays NaN. What is left of t by the nearest integer is
 * at most 1/2, and its power a Taylor series. */
TARGET INLINE DOUBLES NAME(power_of_two)(DOUBLES t) {
  const DOUBLES shifted = t + 0x1.8p52, f = t - (shifted - 0x1.8p52);
  DOUBLES p = SPREAD(TERMS[0]);
  for (int k = 1; k < 13; k++) p = p * f + TERMS[k];
  return p * (DOUBLES)(((WORDS)shifted + 1023) << 52);
}

/* Softmax of n logits that stand in `octaves`. Below 2^-1000 of the largest all is alike. */
TARGET INLINE void NAME(normalise)(distribution *d, int64_t n) {
  const DOUBLES top = SPREAD(NAME(top_of)(d->octaves, n)), least = SPREAD(-1000.0);
  DOUBLES sum = {0}, weighted = {0};
  for (int64_t i = 0; i < n; i += LANES) {
    const DOUBLES t = (AT(d->octaves + i) - top) * 1.4426950408889634; /* 1 / ln 2 */
    const DOUBLES clamped = CHOOSE(t < least, least, t), power = NAME(power_of_two)(clamped);
    AT(d->octaves + i) = clamped;
    AT(d->powers + i) = power;
    sum += power;
    weighted += power * clamped;
  }
  const double whole = NAME(added)(sum);
  d->part = 1.0 / whole;
  d->whole = log_two(whole);
  d->entropy = d->whole - NAME(added)(weighted) * d->part;
}

typedef struct {
  double variation;
  int64_t largest, flipped, in_range, below;
} NAME(moved);

/* The bin of each probability that is `kept`; nothing is above 1 but by rounding. */
TARGET INLINE void NAME(bins_of)(DOUBLES logarithm, WORDS kept, int32_t *bins) {
  const DOUBLES last = SPREAD((double)(BINS - 1)), at = logarithm * STEPS + (BINS - 1 + MARGIN);
  const DOUBLES bin = CHOOSE(kept, CHOOSE(at > last, last, at), SPREAD((double)BINS));
  *(NAME(ints) *)bins = __builtin_convertvector(bin, NAME(ints));
}

/* How one row moved, and the bins of its probabilities. */
TARGET INLINE NAME(moved) NAME(compare)(const distribution *x, const distribution *y, int64_t n) {
  const DOUBLES lowest = SPREAD(-(double)OCTAVES), one = SPREAD(1.0);
  DOUBLES variation = {0};
  WORDS largest = {0}, flipped = {0}, in_range = {0}, below = {0}; /* less one for each */
  for (int64_t i = 0; i < n; i += LANES) {
    const DOUBLES ex = AT(x->powers + i), ey = AT(y->powers + i);
    const DOUBLES lx = AT(x->octaves + i) - x->whole, ly = AT(y->octaves + i) - y->whole;
    const WORDS first = ex >= one, inside = lx >= lowest, kept = inside & (ly >= lowest);
    variation += (DOUBLES)((WORDS)(ey * y->part - ex * x->part) & INT64_MAX);
    largest += first;
    flipped += first & (ey < one);
    in_range += inside;
    below += inside & ~kept;
    NAME(bins_of)(lx, kept, x->bins + i);
    NAME(bins_of)(ly, kept, y->bins + i);
  }
  NAME(moved) found = {NAME(added)(variation), 0, 0, 0, 0};
  for (int k = 0; k < LANES; k++) {
    found.largest -= largest[k];
    found.flipped -= flipped[k];
    found.in_range -= in_range[k];
    found.below -= below[k];
  }
  return found;
}

/* All rows of one head; gives what is not finite if something is not. */
TARGET static double NAME(one_head)(const attention *a, int64_t head, distribution *x, distribution *y) {
  uint32_t bins[2][BINS + 1] = {{0}};
  int64_t *const counts = a->counts + head;
  const int64_t heads = a->heads;
  double change = 0.0, variation = 0.0;
  for (int64_t sample = 0; sample < a->samples; sample++)
    for (int64_t query = 0; query < a->queries; query++) {
      const int64_t row = (sample * heads + head) * a->queries + query;
      const int64_t n = NAME(gather)(a, row, a->before, a->bias, x->octaves);
      if (!n) continue;
      NAME(gather)(a, row, a->after, a->bias, y->octaves);
      NAME(normalise)(x, n);
      NAME(normalise)(y, n);
      const NAME(moved) m = NAME(compare)(x, y, n);
      change += y->entropy - x->entropy;
      variation += m.variation;
      counts[0]++;
      counts[heads] += m.largest == 1;
      counts[2 * heads] += m.largest == 1 && m.flipped == 1;
      counts[3 * heads] += m.in_range;
      counts[4 * heads] += m.below;
      for (int64_t k = 0; k < n; k++) {
        bins[0][x->bins[k]]++;
        bins[1][y->bins[k]]++;
      }
    }
  a->sums[head] = change * 0.6931471805599453; /* ln 2 */
  a->sums[2 * heads + head] = variation * 0.5;
  for (int64_t which = 0; which < 2; which++)
    for (int64_t bin = 0; bin < BINS; bin++)
      a->levels[(which * BINS + bin) * heads + head] = (int32_t)bins[which][bin];
  return change + variation;
}

TARGET static void NAME(softmax_change)(const attention *a, int *finite) {
  const int64_t room = padded(a->keys);
  double *const s = a->scratch;
  int32_t *const bins = (int32_t *)(s + 4 * room);
  distribution x = {s, s + room, bins, 0, 0, 0}, y = {s + 2 * room, s + 3 * room, bins + room, 0, 0, 0};
  double total = 0.0;
  for (int64_t head = 0; head < a->heads; head++) total += NAME(one_head)(a, head, &x, &y);
  *finite = total - total == 0.0;
}

#undef CHOOSE
#undef DOUBLES
#undef WORDS
#undef AT
#undef SPREAD
