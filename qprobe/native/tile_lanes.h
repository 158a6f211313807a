/* From a tile's sums to channels and tokens. summary.c includes this file once per instruction set.
 *
 * float32 holds the fourth power of what is at least 2^-30 after scaling. A channel or token that is
 * smaller than that, and any that has NaN or infinite elements, is done again by itself
 * in float64, without those elements; a tile with such elements is done again as a whole.
 */

#define TINY 0x1p-30f  /* magnitude, scaled */
#define FLAT 0x1p-56f  /* variance, scaled */

typedef struct {
  int64_t n, nan, infinite;
  double mean, m2, m3, m4, largest;
} NAME(exact);

/* Moments in float64 of n elements, `step` apart, without NaN and infinity. */
TARGET static NAME(exact) NAME(in_float64)(const float *x, int64_t n, int64_t step) {
  NAME(exact) s = {0};
  for (int64_t i = 0; i < n; i++) {
    const uint32_t a = magnitude(x[i * step]);
    s.nan += a > NONFINITE;
    s.infinite += a == NONFINITE;
    if (a >= NONFINITE) continue;
    s.n++;
    s.mean += x[i * step];
    if (s.largest < from_bits(a)) s.largest = from_bits(a);
  }
  if (!s.n) return s;
  s.mean /= (double)s.n;
  for (int64_t i = 0; i < n; i++) {
    if (magnitude(x[i * step]) >= NONFINITE) continue;
    const double d = x[i * step] - s.mean, d2 = d * d;
    s.m2 += d2;
    s.m3 += d2 * d;
    s.m4 += d2 * d2;
  }
  return s;
}

/* Means and centres. A channel's is a sum of two floats: centre + rest. */
TARGET static void NAME(centre_channels)(const tile *t, side *c, int64_t elements) {
  const float part = 1.0f / (float)elements, scale = t->scale;
  for (int64_t i = 0; i < c->count; i++) {
    const float p = c->pivot[i], d = c->sum[i] * part, mean = p + d, of_d = mean - p;
    const float rest = (p - (mean - of_d)) + (d - of_d);
    c->mean[i] = mean;
    c->rest[i] = rest * scale;
    c->centre[i] = -(mean * scale);
  }
}

TARGET static void NAME(centre_tokens)(const tile *t, side *s, int64_t elements) {
  for (int64_t i = 0; i < s->count; i++) {
    s->mean[i] = s->sum[i] / (float)elements;
    s->centre[i] = -(s->mean[i] * t->scale);
  }
}

/* Nothing where float32 holds the powers of the i-th channel or token. */
INLINE int NAME(too_small)(const side *s, int64_t i, float scale, float elements) {
  const float a = s->largest[i] * scale, v = s->second[i];
  return ((a < TINY) & (a > 0.0f)) | ((v < FLAT * elements) & (v > 0.0f));
}

TARGET static int NAME(any_too_small)(const side *s, float scale, float elements) {
  int found = 0;
  for (int64_t i = 0; i < s->count; i++) found |= NAME(too_small)(s, i, scale, elements);
  return found;
}

TARGET static void NAME(merge_exact)(pass *p, const float *x, int64_t c, int64_t elements, int64_t step) {
  const NAME(exact) s = NAME(in_float64)(x, elements, step);
  double *channels = p->o->channels, *largest = channels + 5 * p->o->length + c;
  p->o->nonfinite[0] += s.nan;
  p->o->nonfinite[1] += s.infinite;
  const double b[5] = {(double)s.n, s.mean, s.m2, s.m3, s.m4};
  if (s.n) merge(channels, c, p->o->length, b);
  if (*largest < s.largest) *largest = s.largest;
}

/* A channel's float32 sums about its centre as central moments. */
typedef struct {
  double mean, m2, m3, m4;
} NAME(moments);

TARGET INLINE NAME(moments) NAME(moments_of)(const side *c, int64_t i, float n, double back) {
  const float e = c->rest[i], e2 = e * e, t2 = c->second[i], t3 = c->third[i];
  const float m2 = t2 - n * e2, m3 = t3 - 3.0f * e * t2 + 2.0f * n * e2 * e;
  const float m4 = c->fourth[i] - 4.0f * e * t3 + 6.0f * e2 * t2 - 3.0f * n * e2 * e2;
  const double back2 = back * back;
  const NAME(moments) b = {(double)c->mean[i] + (double)e * back, (m2 > 0.0f ? m2 : 0.0f) * back2,
                           m3 * (back2 * back), (m4 > 0.0f ? m4 : 0.0f) * (back2 * back2)};
  return b;
}

/* Merge `m` elements each into channels that have `a` elements: `merge`, with the factors taken out. */
TARGET static void NAME(merge_equal)(pass *p, const side *c, double m, int64_t first, int64_t stop) {
  const int64_t length = p->o->length;
  double *restrict counts = p->o->channels, *restrict means = counts + length;
  double *restrict m2s = means + length, *restrict m3s = m2s + length, *restrict m4s = m3s + length;
  const double a = counts[first], part = 1.0 / (a + m), am = a * m * part, a1 = a * part, m1 = m * part;
  const double f3 = am * (a1 - m1), f4 = am * (a1 * a1 - a1 * m1 + m1 * m1);
  const double back = 1.0 / (double)p->t.scale;
  const side s = *c;
  for (int64_t i = first; i < stop; i++) {
    const NAME(moments) b = NAME(moments_of)(&s, i, (float)m, back);
    const double d = b.mean - means[i], d2 = d * d, m2 = m2s[i], m3 = m3s[i];
    m4s[i] += b.m4 + d2 * (d2 * f4 + 6.0 * (a1 * a1 * b.m2 + m1 * m1 * m2)) + 4.0 * d * (a1 * b.m3 - m1 * m3);
    m3s[i] = m3 + b.m3 + d * (d2 * f3 + 3.0 * (a1 * b.m2 - m1 * m2));
    m2s[i] = m2 + b.m2 + d2 * am;
    means[i] += d * m1;
    counts[i] = a + m;
  }
}

/* Channels first..stop from their float32 sums. */
TARGET static void NAME(merge_run)(pass *p, const side *c, int64_t elements, int64_t first, int64_t stop) {
  const int64_t length = p->o->length;
  double *restrict channels = p->o->channels, *restrict largest = channels + 5 * length;
  int unequal = 0;
  if (first == stop) return;
  for (int64_t i = first; i < stop; i++) {
    unequal |= channels[i] != channels[first];
    largest[i] = c->largest[i] > largest[i] ? c->largest[i] : largest[i];
  }
  if (!unequal) {
    NAME(merge_equal)(p, c, (double)elements, first, stop);
    return;
  }
  for (int64_t i = first; i < stop; i++) {
    const NAME(moments) b = NAME(moments_of)(c, i, (float)elements, 1.0 / (double)p->t.scale);
    const double part[5] = {(double)elements, b.mean, b.m2, b.m3, b.m4};
    merge(channels, i, length, part);
  }
}

TARGET static void NAME(merge_channels)(pass *p, const side *c, int64_t elements) {
  const tile *t = &p->t;
  const int64_t along = p->tokens_are_rows ? 1 : t->stride, step = p->tokens_are_rows ? t->stride : 1;
  int64_t first = 0;
  if (NAME(any_too_small)(c, t->scale, (float)elements))
    for (int64_t i = 0; i < c->count; i++)
      if (NAME(too_small)(c, i, t->scale, (float)elements)) {
        NAME(merge_run)(p, c, elements, first, i);
        NAME(merge_exact)(p, t->x + i * along, i, elements, step);
        first = i + 1;
      }
  NAME(merge_run)(p, c, elements, first, c->count);
}

/* Bins of a token: mean square, largest and kurtosis; the last bin where there is none. */
typedef struct {
  int32_t square, largest, kurtosis;
} NAME(bins);

/* `mean` and the powers are scaled, by two to the -shift. Below a variance of (2^-21 mean)² float32 does
 * not tell a token from a constant. */
TARGET INLINE NAME(bins) NAME(bins_of)(float mean, float m2, float m4, float n, float largest, int32_t shift) {
  const float square = mean * mean + m2 / n;
  const int constant = !(m2 > n * (mean * mean * 0x1p-42f));
  NAME(bins) b = {quarter_octave(to_bits(square), SQUARE_FIRST, SQUARE, 2 * shift),
                  quarter_octave(to_bits(largest), LARGEST_FIRST, LARGEST, 0),
                  quarter_octave(to_bits(n * m4 / (m2 * m2)), KURTOSIS_FIRST, KURTOSIS, 0)};
  b.square = largest > 0.0f ? b.square : SQUARE;
  b.largest = largest > 0.0f ? b.largest : LARGEST;
  b.kurtosis = constant ? KURTOSIS : b.kurtosis;
  return b;
}

TARGET static void NAME(count_token)(pass *p, NAME(bins) b) {
  int64_t *tokens = p->o->tokens;
  tokens[b.square]++;
  tokens[SQUARE + 1 + b.largest]++;
  tokens[SQUARE + LARGEST + 2 + b.kurtosis]++;
}

/* A token by itself; one with NaN or infinite elements is only counted. */
TARGET static void NAME(count_exact)(pass *p, const float *x, int64_t n, int64_t step) {
  const NAME(exact) s = NAME(in_float64)(x, n, step);
  if (s.n < n) {
    p->o->tokens[SQUARE + LARGEST + KURTOSIS + 3]++;
    return;
  }
  const uint32_t top = to_bits((float)s.largest);
  const double lift = lift_of(top), lift2 = lift * lift;
  const int32_t shift = s.largest > 0.0 ? (int32_t)at_most(top >> 23, 253) - BIAS : 0;
  NAME(count_token)(p, NAME(bins_of)((float)(s.mean * lift), (float)(s.m2 * lift2),
                                     (float)(s.m4 * lift2 * lift2), (float)n, (float)s.largest, shift));
}

#define GROUP 64

TARGET static void NAME(count_tokens)(pass *p, const side *s, int64_t elements) {
  const tile *t = &p->t;
  const int64_t along = p->tokens_are_rows ? t->stride : 1, step = p->tokens_are_rows ? 1 : t->stride;
  const int32_t shift = BIAS - (int32_t)(to_bits(t->scale) >> 23);
  const float n = (float)elements;
  const int exact = NAME(any_too_small)(s, t->scale, n);
  for (int64_t first = 0; first < s->count; first += GROUP) {
    NAME(bins) bins[GROUP];
    const int64_t count = at_most(GROUP, s->count - first);
    for (int64_t i = 0; i < count; i++)
      bins[i] = NAME(bins_of)(-s->centre[first + i], s->second[first + i], s->fourth[first + i], n,
                              s->largest[first + i], shift);
    for (int64_t i = 0; i < count; i++)
      if (exact && NAME(too_small)(s, first + i, t->scale, n))
        NAME(count_exact)(p, t->x + (first + i) * along, elements, step);
      else NAME(count_token)(p, bins[i]);
  }
}

#undef GROUP

/* A tile with NaN or infinite elements. */
TARGET static void NAME(exact_tile)(pass *p, const side *channels, const side *tokens) {
  const int64_t wide = p->t.stride;
  const int64_t channel = p->tokens_are_rows ? 1 : wide, token = p->tokens_are_rows ? wide : 1;
  for (int64_t i = 0; i < channels->count; i++)
    NAME(merge_exact)(p, p->t.x + i * channel, i, tokens->count, token);
  for (int64_t i = 0; i < tokens->count; i++)
    NAME(count_exact)(p, p->t.x + i * token, channels->count, channel);
}

/* The values of a tile that is narrower than a vector, in rows of LANES. */
TARGET static void NAME(pad)(pass *p, const void *from, int64_t pitch) {
  for (int64_t r = 0; r < p->t.rows; r++)
    for (int64_t c = 0; c < LANES; c++) {
      const int64_t at = r * pitch + c;
      float v = 0.0f;
      if (c < p->t.columns)
        v = p->o->type == F32 ? ((const float *)from)[at] : widen(((const uint16_t *)from)[at]);
      p->values[r * LANES + c] = v;
    }
}

/* The tile at `from`, in rows `pitch` apart. */
TARGET static void NAME(one_tile)(pass *p, const void *from, int64_t pitch) {
  tile *t = &p->t;
  const int narrow = t->columns < LANES, rows = !p->tokens_are_rows;
  int type = (int)p->o->type;
  if (narrow) {
    NAME(pad)(p, from, pitch);
    from = p->values;
    pitch = LANES;
    type = F32;
  }
  const int direct = narrow || (type == F32 && p->tokens_are_rows);
  t->x = direct ? from : p->values;
  t->stride = direct ? pitch : t->columns + (rows ? WIDEST : 0); /* no two rows in one set of the cache */
  side *channels = rows ? &t->down : &t->across, *tokens = rows ? &t->across : &t->down;
  t->down.count = t->rows;
  t->across.count = t->columns;
  if (rows)
    for (int64_t r = 0; r < t->rows; r++)
      t->down.pivot[r] = type == F32 ? ((const float *)from)[r * pitch] : widen(((const uint16_t *)from)[r * pitch]);
  NAME(first_pass)(t, from, pitch, type, rows);
  NAME(add_lanes)(t->down.lanes[0], t->down.spare, t->down.sum, t->rows);
  NAME(largest_lane)(t->down.lanes[1], t->down.spare, t->down.largest, t->rows);
  uint32_t top = 0;
  for (int64_t r = 0; r < t->rows; r++) top = max_u32(top, to_bits(t->down.largest[r]));
  if (top >= NONFINITE) {
    NAME(exact_tile)(p, channels, tokens);
  } else {
    t->scale = top ? scale_of(top) : 1.0f;
    NAME(centre_channels)(t, channels, tokens->count);
    NAME(centre_tokens)(t, tokens, channels->count);
    NAME(second_pass)(t, rows);
    NAME(add_lanes)(t->down.lanes[2], t->down.spare, t->down.second, t->rows);
    if (rows) NAME(add_lanes)(t->down.lanes[3], t->down.spare, t->down.third, t->rows);
    NAME(add_lanes)(t->down.lanes[4], t->down.spare, t->down.fourth, t->rows);
    NAME(merge_channels)(p, channels, tokens->count);
    NAME(count_tokens)(p, tokens, channels->count);
  }
  NAME(sample_tile)(p, tokens);
}

TARGET static void NAME(summarise)(pass *p) {
  const observation *o = p->o;
  const int64_t size = o->type == F32 ? 4 : 2, most = tokens_of_tile(o->length, o->inner);
  const int64_t tokens = p->tokens_are_rows ? o->outer : o->inner, images = p->tokens_are_rows ? 1 : o->outer;
  for (int64_t image = 0; image < images; image++)
    for (int64_t first = 0; first < tokens; first += most) {
      const int64_t count = at_most(most, tokens - first);
      const int64_t at = p->tokens_are_rows ? first * o->length : image * o->length * o->inner + first;
      p->t.rows = p->tokens_are_rows ? count : o->length;
      p->t.columns = p->tokens_are_rows ? o->length : count;
      p->first = image * tokens + first;
      NAME(one_tile)(p, (const char *)o->x + at * size, p->tokens_are_rows ? o->length : o->inner);
    }
}

#undef TINY
#undef FLAT
