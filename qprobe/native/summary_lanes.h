/* The two passes over a tile, in vectors of LANES floats.
 *
 * summary.c includes this file once per instruction set. A pass takes ROWS rows at a time, over a panel
 * of columns whose sums stay in the nearest cache; sums of the rows live in registers until the
 * panel ends, and their lanes are added up after the pass. Where the columns are no multiple of LANES
 * the last vector overlaps the one before it, and a mask keeps the overlap from counting twice.
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

/* Where a pass reads: the tile where it comes from, of type `type`, rows `pitch` elements apart. */
typedef struct {
  const void *from;
  int64_t pitch;
  int type, copy, channels_are_rows, unit;
} NAME(source);

TARGET INLINE FLOATS NAME(fetch)(const void *from, int type, int64_t at) {
  if (type == F32) return AT((const float *)from + at);
  const NAME(halves) half = *(const NAME(halves) *)((const uint16_t *)from + at);
  return (FLOATS)(__builtin_convertvector(half, NAME(words)) << 16);
}

/* Lanes from `skip` on, below `stop`. */
TARGET INLINE INTS NAME(lanes)(int64_t skip, int64_t stop) {
  INTS mask;
  for (int k = 0; k < LANES; k++) mask[k] = k >= skip && k < stop ? -1 : 0;
  return mask;
}

/* `body(column, masked)` for each vector of the columns first..stop. */
#define EACH_VECTOR(t, first, stop, body)                                              \
  do {                                                                                 \
    int64_t c = first;                                                                 \
    INTS mask = {0};                                                                   \
    for (; c + LANES <= stop; c += LANES) body(0);                                     \
    if (c < stop) {                                                                    \
      const int64_t start = stop < LANES ? 0 : stop - LANES;                           \
      mask = NAME(lanes)(c - start, stop - start);                                     \
      c = start;                                                                       \
      body(1);                                                                         \
    }                                                                                  \
  } while (0)

/* Sums, of distances from the pivot for channels, and largest magnitudes: `rows` rows from `r` on. */
TARGET INLINE void NAME(first_rows)(tile *t, const NAME(source) s, int64_t r, int64_t first, int64_t stop,
                                    const int rows) {
  float *const sums = t->across.sum, *const tops = t->across.largest, *const pivots = t->across.pivot;
  const char *from[ROWS];
  float *to[ROWS];
  FLOATS sum[ROWS], row_pivot[ROWS];
  INTS top[ROWS];
  for (int k = 0; k < rows; k++) {
    from[k] = (const char *)s.from + (r + k) * s.pitch * (s.type == F32 ? 4 : 2);
    to[k] = (float *)t->x + (r + k) * t->stride;
    if (s.channels_are_rows) row_pivot[k] = SPREAD(t->down.pivot[r + k]);
    sum[k] = AT(t->down.lanes[0] + (r + k) * LANES);
    top[k] = INTS_AT(t->down.lanes[1] + (r + k) * LANES);
  }
#define FIRST_VECTOR(masked)                                                           \
  do {                                                                                 \
    FLOATS column = AT(sums + c), pivot = {0};                                         \
    INTS column_top = INTS_AT(tops + c);                                               \
    if (!s.channels_are_rows) pivot = AT(pivots + c);                                  \
    for (int k = 0; k < rows; k++) {                                                   \
      const FLOATS v = NAME(fetch)(from[k], s.type, c);                                \
      if (s.copy) AT(to[k] + c) = v;                                                   \
      FLOATS across = v, down = v;                                                     \
      if (s.channels_are_rows) across -= row_pivot[k];                                 \
      else down -= pivot;                                                              \
      INTS a = MAGNITUDE(v);                                                           \
      if (masked) across = KEEP(across, mask), down = KEEP(down, mask), a &= mask;     \
      column += down;                                                                  \
      sum[k] += across;                                                                \
      column_top = LARGER(column_top, a);                                              \
      top[k] = LARGER(top[k], a);                                                      \
    }                                                                                  \
    AT(sums + c) = column;                                                             \
    INTS_AT(tops + c) = column_top;                                                    \
  } while (0)
  EACH_VECTOR(t, first, stop, FIRST_VECTOR);
#undef FIRST_VECTOR
  for (int k = 0; k < rows; k++) {
    AT(t->down.lanes[0] + (r + k) * LANES) = sum[k];
    INTS_AT(t->down.lanes[1] + (r + k) * LANES) = top[k];
  }
}

/* Powers of the scaled distance from the centre: second and fourth, and third for channels. `unit`
 * says that the scale is 1. */
TARGET INLINE void NAME(second_rows)(tile *t, const NAME(source) s, int64_t r, int64_t first, int64_t stop,
                                     const int rows) {
  const FLOATS scale = SPREAD(t->scale);
  const float *const centres = t->across.centre;
  float *const seconds = t->across.second, *const thirds = t->across.third;
  float *const fourths = t->across.fourth;
  const float *x[ROWS];
  FLOATS centre[ROWS], second[ROWS], third[ROWS], fourth[ROWS];
  for (int k = 0; k < rows; k++) {
    x[k] = t->x + (r + k) * t->stride;
    centre[k] = SPREAD(t->down.centre[r + k]);
    second[k] = AT(t->down.lanes[2] + (r + k) * LANES);
    if (s.channels_are_rows) third[k] = AT(t->down.lanes[3] + (r + k) * LANES);
    fourth[k] = AT(t->down.lanes[4] + (r + k) * LANES);
  }
#define SECOND_VECTOR(masked)                                                          \
  do {                                                                                 \
    const FLOATS down = AT(centres + c);                                               \
    FLOATS two = AT(seconds + c), four = AT(fourths + c), three = {0};                 \
    if (!s.channels_are_rows) three = AT(thirds + c);                                  \
    for (int k = 0; k < rows; k++) {                                                   \
      const FLOATS v = AT(x[k] + c);                                                   \
      FLOATS d = v + down, e = v + centre[k];                                          \
      if (!s.unit) d = FMA(v, scale, down), e = FMA(v, scale, centre[k]);              \
      if (masked) d = KEEP(d, mask), e = KEEP(e, mask);                                \
      const FLOATS d2 = d * d, e2 = e * e;                                             \
      two += d2;                                                                       \
      if (!s.channels_are_rows) three = FMA(d2, d, three);                             \
      four = FMA(d2, d2, four);                                                        \
      second[k] += e2;                                                                 \
      if (s.channels_are_rows) third[k] = FMA(e2, e, third[k]);                        \
      fourth[k] = FMA(e2, e2, fourth[k]);                                              \
    }                                                                                  \
    AT(seconds + c) = two;                                                             \
    if (!s.channels_are_rows) AT(thirds + c) = three;                                  \
    AT(fourths + c) = four;                                                            \
  } while (0)
  EACH_VECTOR(t, first, stop, SECOND_VECTOR);
#undef SECOND_VECTOR
  for (int k = 0; k < rows; k++) {
    AT(t->down.lanes[2] + (r + k) * LANES) = second[k];
    if (s.channels_are_rows) AT(t->down.lanes[3] + (r + k) * LANES) = third[k];
    AT(t->down.lanes[4] + (r + k) * LANES) = fourth[k];
  }
}

/* A pass in panels of columns and groups of rows. What is left of the columns behind the last panel is
 * in it when it is less than a vector. */
#define PASS(f, t, s)                                                                  \
  do {                                                                                 \
    for (int64_t first = 0, stop; first < t->columns; first = stop) {                  \
      stop = t->columns - first < PANEL + LANES ? t->columns : first + PANEL;          \
      int64_t r = 0;                                                                   \
      for (; r + ROWS <= t->rows; r += ROWS) f(t, s, r, first, stop, ROWS);            \
      for (; r < t->rows; r++) f(t, s, r, first, stop, 1);                             \
    }                                                                                  \
  } while (0)

/* One function for each case, with all that is the same for its elements known to the compiler. */
#define FIRST_PASS(name, type, copy, rows)                                             \
  TARGET static void NAME(name)(tile *t, const void *from, int64_t pitch) {            \
    const NAME(source) s = {from, pitch, type, copy, rows, 0};                         \
    PASS(NAME(first_rows), t, s);                                                      \
  }
FIRST_PASS(first_tokens, F32, 0, 0)
FIRST_PASS(first_tokens_bf16, BF16, 1, 0)
FIRST_PASS(first_image, F32, 1, 1)
FIRST_PASS(first_image_bf16, BF16, 1, 1)
FIRST_PASS(first_narrow_image, F32, 0, 1)
#undef FIRST_PASS

#define SECOND_PASS(name, rows, unit)                                                  \
  TARGET static void NAME(name)(tile *t) {                                             \
    const NAME(source) s = {0, 0, F32, 0, rows, unit};                                 \
    PASS(NAME(second_rows), t, s);                                                     \
  }
SECOND_PASS(second_tokens, 0, 1)
SECOND_PASS(second_tokens_scaled, 0, 0)
SECOND_PASS(second_image, 1, 1)
SECOND_PASS(second_image_scaled, 1, 0)
#undef SECOND_PASS

TARGET static void NAME(clear)(tile *t, float *across, float *lanes) {
  memset(across, 0, (size_t)at_least(t->columns, LANES) * sizeof(float));
  memset(lanes, 0, (size_t)(t->rows * LANES) * sizeof(float));
}

/* `rows` says that channels are rows; values are copied to the tile unless it is read where it lies. */
TARGET static void NAME(first_pass)(tile *t, const void *from, int64_t pitch, int type, int rows) {
  NAME(clear)(t, t->across.sum, t->down.lanes[0]);
  NAME(clear)(t, t->across.largest, t->down.lanes[1]);
  if (!rows)
    for (int64_t c = 0; c < t->columns; c++)
      t->across.pivot[c] = type == F32 ? ((const float *)from)[c] : widen(((const uint16_t *)from)[c]);
  if (type == BF16 && rows) NAME(first_image_bf16)(t, from, pitch);
  else if (type == BF16) NAME(first_tokens_bf16)(t, from, pitch);
  else if (!rows) NAME(first_tokens)(t, from, pitch);
  else if (from == (const void *)t->x) NAME(first_narrow_image)(t, from, pitch);
  else NAME(first_image)(t, from, pitch);
}

TARGET static void NAME(second_pass)(tile *t, int rows) {
  NAME(clear)(t, t->across.second, t->down.lanes[2]);
  NAME(clear)(t, t->across.third, t->down.lanes[3]);
  NAME(clear)(t, t->across.fourth, t->down.lanes[4]);
  if (rows && t->scale == 1.0f) NAME(second_image)(t);
  else if (rows) NAME(second_image_scaled)(t);
  else if (t->scale == 1.0f) NAME(second_tokens)(t);
  else NAME(second_tokens_scaled)(t);
}

/* Half as many numbers, each of two neighbours: their sum, or the larger magnitude. */
TARGET static void NAME(halve)(const float *restrict in, float *restrict out, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] = in[2 * i] + in[2 * i + 1];
}

TARGET static void NAME(halve_magnitudes)(const uint32_t *restrict in, uint32_t *restrict out, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    out[i] = max_u32(in[2 * i] & 0x7FFFFFFFu, in[2 * i + 1] & 0x7FFFFFFFu);
}

/* Lanes to rows; `lanes` and `spare` are overwritten. */
TARGET static void NAME(add_lanes)(float *lanes, float *spare, float *out, int64_t rows) {
  for (int64_t n = rows * LANES / 2; n > rows; n /= 2) {
    NAME(halve)(lanes, spare, n);
    float *const halved = spare;
    spare = lanes;
    lanes = halved;
  }
  NAME(halve)(lanes, out, rows);
}

TARGET static void NAME(largest_lane)(float *lanes, float *spare, float *out, int64_t rows) {
  for (int64_t n = rows * LANES / 2; n > rows; n /= 2) {
    NAME(halve_magnitudes)((const uint32_t *)lanes, (uint32_t *)spare, n);
    float *const halved = spare;
    spare = lanes;
    lanes = halved;
  }
  NAME(halve_magnitudes)((const uint32_t *)lanes, (uint32_t *)out, rows);
}

#undef PASS
#undef EACH_VECTOR
#undef FLOATS
#undef INTS
#undef AT
#undef INTS_AT
#undef SPREAD
#undef MAGNITUDE
#undef KEEP
