/* From a tile's sums to channels and tokens. summary.c includes this file once per instruction set.
 *
 * Sums of channels are of distances from a pivot near the mean, sums of tokens of distances from one
 * number for all; both are moved to the mean afterwards, which loses what the mean lies away. Tokens
 * whose mean lies far away are gone through a second time, such channels in float64.
 * float32 holds the fourth power of what is at least 2^-30 after scaling. A channel or token that is
 * smaller than that, and any that has NaN or infinite elements, is done again by itself
 * in float64, without those elements; a tile with such elements is done again as a whole.
 */

#define TINY 0x1p-30f  /* magnitude, scaled */
#define FLAT 0x1p-56f  /* variance, scaled */
/* How far a mean may lie from the pivot: its square over the variance. Sums of fourth powers then are
 * up to 40 times what is left of them, which multiplies their rounding. */
#define FAR 4.0f
#define GUESSED 16 /* tokens that say where the mean may lie */

typedef struct {
  int64_t n, nan, infinite;
  double mean, m2, m3, m4, largest;
} NAME(exact);

/* Moments in float64 of n elements from `at` on, `step` apart, without NaN and infinity. */
TARGET static NAME(exact) NAME(in_float64)(const observation *o, int64_t at, int64_t n, int64_t step) {
  NAME(exact) s = {0};
  for (int64_t i = 0; i < n; i++) {
    const float x = NAME(element)(o, at + i * step);
    const uint32_t a = magnitude(x);
    s.nan += a > NONFINITE;
    s.infinite += a == NONFINITE;
    if (a >= NONFINITE) continue;
    s.n++;
    s.mean += x;
    if (s.largest < from_bits(a)) s.largest = from_bits(a);
  }
  if (!s.n) return s;
  s.mean /= (double)s.n;
  for (int64_t i = 0; i < n; i++) {
    const float x = NAME(element)(o, at + i * step);
    if (magnitude(x) >= NONFINITE) continue;
    const double d = x - s.mean, d2 = d * d;
    s.m2 += d2;
    s.m3 += d2 * d;
    s.m4 += d2 * d2;
  }
  return s;
}

/* `elements` of channel c, from `at` on. */
TARGET static void NAME(merge_exact)(pass *p, int64_t at, int64_t c, int64_t elements) {
  const int64_t length = p->o->length;
  const NAME(exact) s = NAME(in_float64)(p->o, at, elements, p->tokens_are_rows ? length : 1);
  double *channel = p->o->channels + c, *largest = channel + 5 * length;
  p->o->nonfinite[0] += s.nan;
  p->o->nonfinite[1] += s.infinite;
  const double b[5] = {(double)s.n, s.mean, s.m2, s.m3, s.m4};
  if (s.n) merge(channel, length, b);
  if (*largest < s.largest) *largest = s.largest;
}

/* For each channel the mean of some of its tokens, taken from the first of them, so that a constant
 * channel has its own value; 0 where it is not finite. */
#define PIVOTS(name, type, images)                                                     \
  TARGET static void NAME(name)(const observation *o, float *restrict pivots) {        \
    const int64_t tokens = images ? o->inner : o->outer, token = images ? 1 : o->length; \
    const int64_t channel = images ? o->inner : 1;                                     \
    for (int64_t i = 0; i < o->length; i++) {                                          \
      float first = 0.0f, sum = 0.0f;                                                  \
      for (int k = 0; k < GUESSED; k++) {                                              \
        const int64_t at = i * channel + (2 * k + 1) * tokens / (2 * GUESSED) * token; \
        const float x = type == F32 ? ((const float *)o->x)[at] : widen(((const uint16_t *)o->x)[at]); \
        if (!k) first = x;                                                             \
        sum += x - first;                                                              \
      }                                                                                \
      const float pivot = first + sum * (1.0f / GUESSED);                              \
      pivots[i] = magnitude(pivot) < NONFINITE ? pivot : 0.0f;                         \
    }                                                                                  \
  }
PIVOTS(pivots_of_tokens, F32, 0)
PIVOTS(pivots_of_tokens_bf16, BF16, 0)
PIVOTS(pivots_of_image, F32, 1)
PIVOTS(pivots_of_image_bf16, BF16, 1)
#undef PIVOTS

/* Pivots of channels, their mean for tokens, and the scale that goes with them. */
TARGET static void NAME(find_pivots)(pass *p) {
  const observation *o = p->o;
  const int images = !p->tokens_are_rows;
  double sum = 0.0;
  p->furthest = 0;
  if (o->type == F32) (images ? NAME(pivots_of_image) : NAME(pivots_of_tokens))(o, p->pivots);
  else (images ? NAME(pivots_of_image_bf16) : NAME(pivots_of_tokens_bf16))(o, p->pivots);
  for (int64_t i = 0; i < o->length; i++) {
    sum += p->pivots[i];
    p->furthest = max_u32(p->furthest, magnitude(p->pivots[i]));
  }
  p->pivot = (float)(sum / (double)o->length);
  p->t.scale = scale_of(p->furthest);
}

/* Begin a run of tiles whose sums are added up, under a scale and from the tile's first token on. */
TARGET static void NAME(begin_run)(pass *p, float scale) {
  const int64_t length = p->o->length;
  side *channels = p->tokens_are_rows ? &p->t.across : &p->t.down;
  p->run_at = p->t.at;
  p->run = 0;
  p->t.scale = scale;
  p->t.offset = -(p->pivot * scale);
  for (int64_t i = 0; i < length; i++) channels->offset[i] = -(p->pivots[i] * scale);
  memset(p->peak, 0, (size_t)length * sizeof(float));
  memset(p->raw[0], 0, (size_t)(4 * length) * sizeof(double));
}

/* Add a tile's sums to the run. */
TARGET static void NAME(add_channels)(pass *p, const side *c, int64_t elements) {
  double *restrict one = p->raw[0], *restrict two = p->raw[1], *restrict three = p->raw[2];
  double *restrict four = p->raw[3];
  float *restrict peak = p->peak;
  for (int64_t i = 0; i < c->count; i++) {
    one[i] += c->sum[i];
    two[i] += c->second[i];
    three[i] += c->third[i];
    four[i] += c->fourth[i];
    peak[i] = c->largest[i] > peak[i] ? c->largest[i] : peak[i];
  }
  p->run += elements;
}

/* The run's sums as central moments, merged into the channels (Pébay 2008, equations 3.1). A channel
 * that sums in float32 do not tell well gets no elements here; returns whether there is one. */
TARGET static int NAME(merge_run)(pass *p) {
  const int64_t length = p->o->length;
  const double n = (double)p->run, back = 1.0 / (double)p->t.scale, back2 = back * back;
  double *restrict channels = p->o->channels, *restrict largest = channels + 5 * length;
  double *restrict one = p->raw[0], *restrict two = p->raw[1], *restrict three = p->raw[2];
  double *restrict four = p->raw[3];
  int left_out = 0;
  for (int64_t i = 0; i < length; i++) {
    const double e = one[i] / n, e2 = e * e, m2 = two[i] - n * e2;
    const double m3 = three[i] - 3.0 * e * two[i] + 2.0 * n * e2 * e;
    const double m4 = four[i] - 4.0 * e * three[i] + 6.0 * e2 * two[i] - 3.0 * n * e2 * e2;
    const float a = p->peak[i] * p->t.scale;
    const int bad = ((a < TINY) & (a > 0.0f)) | ((m2 < (double)FLAT * n) & (m2 > 0.0)) |
                    (n * e2 > (double)FAR * m2);
    left_out |= bad;
    one[i] = bad ? 0.0 : n;
    const double part[5] = {one[i], bad ? 0.0 : p->pivots[i] + e * back, bad ? 0.0 : m2 * back2,
                            bad ? 0.0 : m3 * back2 * back, bad ? 0.0 : m4 * back2 * back2};
    merge(channels + i, length, part);
    largest[i] = p->peak[i] > largest[i] ? p->peak[i] : largest[i];
  }
  return left_out;
}

TARGET static void NAME(end_run)(pass *p) {
  if (p->run && NAME(merge_run)(p))
    for (int64_t i = 0; i < p->o->length; i++)
      if (p->raw[0][i] == 0.0)
        NAME(merge_exact)(p, p->run_at + i * (p->tokens_are_rows ? 1 : p->o->inner), i, p->run);
  p->run = 0;
}

/* Sums about the offset as mean, second and fourth moment, scaled; says whether some lie far away. */
TARGET static int NAME(centre_tokens)(const tile *t, side *s, int64_t elements) {
  const float n = (float)elements, part = 1.0f / n;
  int far = 0;
  for (int64_t i = 0; i < s->count; i++) {
    const float e = s->sum[i] * part, e2 = e * e, t2 = s->second[i];
    const float m2 = t2 - n * e2;
    s->fourth[i] = s->fourth[i] - 4.0f * e * s->third[i] + 6.0f * e2 * t2 - 3.0f * n * e2 * e2;
    s->second[i] = m2;
    s->sum[i] = e - t->offset;
    far |= (n * e2 > FAR * m2) & (s->largest[i] > 0.0f);
  }
  return far;
}

/* Below this variance float32 does not hold the powers of a token's distances from its mean, or the mean,
 * which was found from distances from the offset, is too rough. */
TARGET static float NAME(flat)(const tile *t) {
  const float rough = t->offset * t->offset * 0x1p-26f;
  return rough > FLAT ? rough : FLAT;
}

/* Nothing where float32 tells the shape of the i-th token. */
INLINE int NAME(too_small)(const side *s, int64_t i, float scale, float flat) {
  const float a = s->largest[i] * scale, v = s->second[i];
  return ((a < TINY) & (a > 0.0f)) | ((v < flat) & (v > 0.0f));
}

TARGET static int NAME(any_too_small)(const side *s, float scale, float flat) {
  int found = 0;
  for (int64_t i = 0; i < s->count; i++) found |= NAME(too_small)(s, i, scale, flat);
  return found;
}

/* Bins of a token: mean square, largest and kurtosis; the last bin where there is none. */
typedef struct {
  int32_t square, largest, kurtosis;
} NAME(bins);

/* `mean` and the powers are scaled, by two to the -shift. Below a variance of (2^-21 mean)² float32 does
 * not tell a token from a constant. */
TARGET INLINE NAME(bins) NAME(bins_of)(float mean, float m2, float m4, float n, float largest, int32_t shift) {
  const float square = mean * mean + m2 / n;
  const int constant = !(m2 > n * (mean * mean * 0x1p-42f)) | !(largest > 0.0f);
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

/* The i-th token of the tile by itself; one with NaN or infinite elements is only counted. */
TARGET static void NAME(count_exact)(pass *p, int64_t i) {
  const int64_t n = p->o->length, at = p->t.at + i * (p->tokens_are_rows ? n : 1);
  const NAME(exact) s = NAME(in_float64)(p->o, at, n, p->tokens_are_rows ? 1 : p->o->inner);
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
  const int32_t shift = BIAS - (int32_t)(to_bits(t->scale) >> 23);
  const float n = (float)elements, flat = NAME(flat)(t) * n;
  const int exact = NAME(any_too_small)(s, t->scale, flat);
  for (int64_t first = 0; first < s->count; first += GROUP) {
    NAME(bins) bins[GROUP];
    const int64_t count = at_most(GROUP, s->count - first);
    for (int64_t i = 0; i < count; i++)
      bins[i] = NAME(bins_of)(s->sum[first + i], s->second[first + i], s->fourth[first + i], n,
                              s->largest[first + i], shift);
    for (int64_t i = 0; i < count; i++)
      if (exact && NAME(too_small)(s, first + i, t->scale, flat)) NAME(count_exact)(p, first + i);
      else NAME(count_token)(p, bins[i]);
  }
}

#undef GROUP

/* A tile with NaN or infinite elements. */
TARGET static void NAME(exact_tile)(pass *p, const side *channels, const side *tokens) {
  const int64_t channel = p->tokens_are_rows ? 1 : p->o->inner;
  for (int64_t i = 0; i < channels->count; i++)
    NAME(merge_exact)(p, p->t.at + i * channel, i, tokens->count);
  for (int64_t i = 0; i < tokens->count; i++) NAME(count_exact)(p, i);
}

/* The values of a tile that is narrower than a vector, in rows of LANES. */
TARGET static void NAME(pad)(pass *p) {
  tile *t = &p->t;
  for (int64_t r = 0; r < t->rows; r++)
    for (int64_t c = 0; c < LANES; c++)
      p->values[r * LANES + c] = c < t->columns ? NAME(element)(p->o, t->at + r * t->pitch + c) : 0.0f;
  t->from = p->values;
  t->pitch = LANES;
  t->type = F32;
}

/* The sums of the tile under its scale, and the bits of its largest magnitude. */
TARGET static uint32_t NAME(sum_tile)(pass *p) {
  tile *t = &p->t;
  side *const rows = &t->down;
  uint32_t top = 0;
  NAME(first_pass)(t, !p->tokens_are_rows);
  NAME(largest_lane)(rows->lanes[4], rows->spare, rows->largest, t->rows);
  for (int64_t r = 0; r < t->rows; r++) top = max_u32(top, to_bits(rows->largest[r]));
  if (top >= NONFINITE) return top;
  NAME(add_lanes)(rows->lanes[0], rows->spare, rows->sum, t->rows);
  NAME(add_lanes)(rows->lanes[1], rows->spare, rows->second, t->rows);
  NAME(add_lanes)(rows->lanes[2], rows->spare, rows->third, t->rows);
  NAME(add_lanes)(rows->lanes[3], rows->spare, rows->fourth, t->rows);
  return top;
}

/* The tile of `rows` rows and `columns` columns whose first element is the at-th. */
TARGET static void NAME(one_tile)(pass *p, int64_t at, int64_t rows, int64_t columns) {
  tile *t = &p->t;
  const observation *o = p->o;
  side *channels = p->tokens_are_rows ? &t->across : &t->down;
  side *tokens = p->tokens_are_rows ? &t->down : &t->across;
  t->at = at;
  t->from = (const char *)o->x + at * (o->type == F32 ? 4 : 2);
  t->type = (int)o->type;
  t->pitch = p->tokens_are_rows ? o->length : o->inner;
  t->rows = t->down.count = rows;
  t->columns = t->across.count = columns;
  if (columns < LANES) NAME(pad)(p);
  if (!p->run) NAME(begin_run)(p, t->scale);
  uint32_t top = NAME(sum_tile)(p);
  const uint32_t reach = max_u32(top, p->furthest);
  if (reach && top < NONFINITE && !fits(reach, t->scale)) {
    NAME(end_run)(p);
    NAME(begin_run)(p, scale_of(reach));
    top = NAME(sum_tile)(p);
  }
  if (top >= NONFINITE) {
    NAME(end_run)(p);
    NAME(exact_tile)(p, channels, tokens);
  } else {
    NAME(add_channels)(p, channels, tokens->count);
    if (NAME(centre_tokens)(t, tokens, channels->count)) NAME(second_pass)(t, !p->tokens_are_rows);
    NAME(count_tokens)(p, tokens, channels->count);
  }
  NAME(sample_tile)(p, tokens);
}

TARGET static void NAME(summarise)(pass *p) {
  const observation *o = p->o;
  const int64_t most = tokens_of_tile(o->length, o->inner);
  const int64_t tokens = p->tokens_are_rows ? o->outer : o->inner, images = p->tokens_are_rows ? 1 : o->outer;
  NAME(find_pivots)(p);
  for (int64_t image = 0; image < images; image++) {
    for (int64_t first = 0; first < tokens; first += most) {
      const int64_t count = at_most(most, tokens - first);
      p->first = image * tokens + first;
      if (p->tokens_are_rows) NAME(one_tile)(p, first * o->length, count, o->length);
      else NAME(one_tile)(p, image * o->length * o->inner + first, o->length, count);
    }
    NAME(end_run)(p);
  }
}

#undef TINY
#undef FLAT
#undef FAR
#undef GUESSED
#undef FLOATS
#undef INTS
#undef AT
#undef INTS_AT
#undef SPREAD
#undef MAGNITUDE
#undef KEEP
#undef SIZE
