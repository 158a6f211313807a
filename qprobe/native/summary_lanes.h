/* The two passes over a tile, in vectors of LANES floats.
 *
 * summary.c includes this file once per instruction set. Sums of columns live in registers while a strip
 * of STRIP vectors goes down the rows; sums of rows live in memory, one vector a row, and their lanes
 * are added up at the end. Where the columns are no multiple of LANES the last vector overlaps the one
 * before it: columns are computed twice with one result, and a mask keeps the overlap out of the rows.
 */

typedef float NAME(floats) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t NAME(ints) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t NAME(halves) __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint32_t NAME(words) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define FLOATS NAME(floats)
#define INTS NAME(ints)
#define AT(p) (*(FLOATS *)(p))
#define INTS_AT(p) (*(INTS *)(p))
#define SPREAD(a) ((FLOATS){0} + (a))
#define MAGNITUDE(v) ((INTS)(v) & 0x7FFFFFFF)
#define KEEP(v, mask) ((FLOATS)((INTS)(v) & (mask)))

/* What a strip is: which columns, which lanes count for the rows, and whether channels are rows. */
typedef struct {
  const void *from; /* the tile where it comes from, of type `type` and row length `pitch` */
  int64_t pitch, at;
  int type, copy, channels_are_rows, masked;
  INTS mask;
} NAME(strip);

TARGET INLINE FLOATS NAME(fetch)(const void *from, int type, int64_t at) {
  if (type == F32) return AT((const float *)from + at);
  const NAME(halves) half = *(const NAME(halves) *)((const uint16_t *)from + at);
  return (FLOATS)(__builtin_convertvector(half, NAME(words)) << 16);
}

/* Sums, of distances from the pivot for channels, and largest magnitudes. */
TARGET INLINE void NAME(first_strip)(tile *t, const NAME(strip) s, const int vectors) {
  FLOATS pivot[STRIP], sum[STRIP];
  INTS top[STRIP];
  for (int k = 0; k < vectors; k++) {
    pivot[k] = NAME(fetch)(s.from, s.type, s.at + k * LANES);
    if (!s.channels_are_rows) AT(t->across.pivot + s.at + k * LANES) = pivot[k];
    sum[k] = (FLOATS){0};
    top[k] = (INTS){0};
  }
  for (int64_t r = 0; r < t->rows; r++) {
    FLOATS row = AT(t->down.lanes[0] + r * LANES);
    INTS row_top = INTS_AT(t->down.lanes[1] + r * LANES);
    for (int k = 0; k < vectors; k++) {
      const FLOATS v = NAME(fetch)(s.from, s.type, r * s.pitch + s.at + k * LANES);
      if (s.copy) AT((float *)t->x + r * t->stride + s.at + k * LANES) = v;
      FLOATS across = v, down = v;
      if (s.channels_are_rows) across -= t->down.pivot[r];
      else down -= pivot[k];
      INTS a = MAGNITUDE(v);
      top[k] = LARGER(top[k], a);
      if (s.masked) {
        across = KEEP(across, s.mask);
        a &= s.mask;
      }
      sum[k] += down;
      row += across;
      row_top = LARGER(row_top, a);
    }
    AT(t->down.lanes[0] + r * LANES) = row;
    INTS_AT(t->down.lanes[1] + r * LANES) = row_top;
  }
  for (int k = 0; k < vectors; k++) {
    AT(t->across.sum + s.at + k * LANES) = sum[k];
    INTS_AT(t->across.largest + s.at + k * LANES) = top[k];
  }
}

/* Powers of the scaled distance from the centre: second and fourth, and third for channels. */
TARGET INLINE void NAME(second_strip)(tile *t, const NAME(strip) s, const int vectors) {
  FLOATS centre[STRIP], second[STRIP], third[STRIP], fourth[STRIP];
  const FLOATS scale = SPREAD(t->scale);
  for (int k = 0; k < vectors; k++) {
    centre[k] = AT(t->across.centre + s.at + k * LANES);
    second[k] = third[k] = fourth[k] = (FLOATS){0};
  }
  for (int64_t r = 0; r < t->rows; r++) {
    const FLOATS row_centre = SPREAD(t->down.centre[r]);
    FLOATS row2 = AT(t->down.lanes[2] + r * LANES), row4 = AT(t->down.lanes[4] + r * LANES);
    FLOATS row3 = {0};
    if (s.channels_are_rows) row3 = AT(t->down.lanes[3] + r * LANES);
    for (int k = 0; k < vectors; k++) {
      const FLOATS v = AT(t->x + r * t->stride + s.at + k * LANES);
      const FLOATS d = FMA(v, scale, centre[k]), d2 = d * d;
      second[k] += d2;
      if (!s.channels_are_rows) third[k] = FMA(d2, d, third[k]);
      fourth[k] = FMA(d2, d2, fourth[k]);
      FLOATS e = FMA(v, scale, row_centre);
      if (s.masked) e = KEEP(e, s.mask);
      const FLOATS e2 = e * e;
      row2 += e2;
      if (s.channels_are_rows) row3 = FMA(e2, e, row3);
      row4 = FMA(e2, e2, row4);
    }
    AT(t->down.lanes[2] + r * LANES) = row2;
    if (s.channels_are_rows) AT(t->down.lanes[3] + r * LANES) = row3;
    AT(t->down.lanes[4] + r * LANES) = row4;
  }
  for (int k = 0; k < vectors; k++) {
    AT(t->across.second + s.at + k * LANES) = second[k];
    if (!s.channels_are_rows) AT(t->across.third + s.at + k * LANES) = third[k];
    AT(t->across.fourth + s.at + k * LANES) = fourth[k];
  }
}

/* Lanes from `skip` on, below `stop`. */
TARGET static INTS NAME(lanes)(int64_t skip, int64_t stop) {
  INTS mask;
  for (int k = 0; k < LANES; k++) mask[k] = k >= skip && k < stop ? -1 : 0;
  return mask;
}

/* Go over all columns: strips, single vectors, and one vector that overlaps. */
#define ALL_STRIPS(f, t, s)                                                          \
  do {                                                                               \
    s.masked = 0;                                                                    \
    for (s.at = 0; s.at + STRIP * LANES <= t->columns; s.at += STRIP * LANES) f(t, s, STRIP); \
    for (; s.at + LANES <= t->columns; s.at += LANES) f(t, s, 1);                    \
    if (s.at < t->columns) {                                                         \
      const int64_t start = t->columns < LANES ? 0 : t->columns - LANES;             \
      s.mask = NAME(lanes)(s.at - start, t->columns - start);                        \
      s.masked = 1;                                                                  \
      s.at = start;                                                                  \
      f(t, s, 1);                                                                    \
    }                                                                                \
  } while (0)

/* Each pass with what is the same for all of its strips known to the compiler. */
#define FIRST(type_, copy_, rows_)                                      \
  do {                                                                  \
    NAME(strip) s = {from, pitch, 0, type_, copy_, rows_, 0, {0}};      \
    ALL_STRIPS(NAME(first_strip), t, s);                                \
  } while (0)

TARGET static void NAME(first_pass)(tile *t, const void *from, int64_t pitch, int type, int rows) {
  const int copy = from != (const void *)t->x;
  for (int k = 0; k < 5; k++)
    if (k != 3 || rows) memset(t->down.lanes[k], 0, (size_t)(t->rows * LANES) * sizeof(float));
  if (type == BF16) {
    if (rows) FIRST(BF16, 1, 1);
    else FIRST(BF16, 1, 0);
  } else if (rows) {
    if (copy) FIRST(F32, 1, 1);
    else FIRST(F32, 0, 1);
  } else {
    if (copy) FIRST(F32, 1, 0);
    else FIRST(F32, 0, 0);
  }
}

TARGET static void NAME(second_pass)(tile *t, int rows) {
  NAME(strip) s = {0};
  if (rows) {
    s.channels_are_rows = 1;
    ALL_STRIPS(NAME(second_strip), t, s);
  } else {
    ALL_STRIPS(NAME(second_strip), t, s);
  }
}

/* Lanes to rows by adding neighbours; `lanes` is overwritten. */
TARGET static void NAME(add_lanes)(float *lanes, float *restrict out, int64_t rows) {
  for (int64_t n = rows * LANES / 2; n > rows; n /= 2)
    for (int64_t i = 0; i < n; i++) lanes[i] = lanes[2 * i] + lanes[2 * i + 1];
  for (int64_t i = 0; i < rows; i++) out[i] = lanes[2 * i] + lanes[2 * i + 1];
}

TARGET static void NAME(largest_lane)(float *lanes, float *restrict out, int64_t rows) {
  uint32_t *bits = (uint32_t *)lanes, *top = (uint32_t *)out;
  for (int64_t n = rows * LANES / 2; n > rows; n /= 2)
    for (int64_t i = 0; i < n; i++) bits[i] = max_u32(bits[2 * i], bits[2 * i + 1]);
  for (int64_t i = 0; i < rows; i++) top[i] = max_u32(bits[2 * i], bits[2 * i + 1]);
}

#undef FIRST
#undef ALL_STRIPS
#undef FLOATS
#undef INTS
#undef AT
#undef INTS_AT
#undef SPREAD
#undef MAGNITUDE
#undef KEEP
