/* The passes over a tile, in vectors of LANES floats.
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
#define SIZE(type) ((type) == F32 ? 4 : 2)

/* What is the same for all elements of a pass; `unit` says that the scale is 1. */
typedef struct {
  int type, channels_are_rows, unit;
} NAME(how);

TARGET INLINE FLOATS NAME(fetch)(const void *from, int type, int64_t at) {
  if (type == F32) return AT((const float *)from + at);
  const NAME(halves) half = *(const NAME(halves) *)((const uint16_t *)from + at);
  return (FLOATS)(__builtin_convertvector(half, NAME(words)) << 16);
}

/* Have rows fetched that come later, `group` elements a group of rows: several short rows side by side
 * are not foreseen by the processor. float32 comes in as fast as memory allows, which takes more lines
 * under way than the nearest cache has room for; bfloat16 at half that speed. */
TARGET INLINE void NAME(foresee)(const char *at, int64_t group, int type) {
  if (type == F32) __builtin_prefetch(at + 4 * group * SIZE(F32), 0, 2);
  else __builtin_prefetch(at + group * SIZE(BF16), 0, 3);
}

/* Distance from a pivot, scaled; `offset` is the scaled pivot with its sign changed. */
TARGET INLINE FLOATS NAME(apart)(FLOATS v, FLOATS scale, FLOATS offset, int unit) {
  if (unit) return v + offset;
  return FMA(v, scale, offset);
}

/* Lanes from `skip` on, below `stop`. */
TARGET INLINE INTS NAME(lanes)(int64_t skip, int64_t stop) {
  INTS mask;
  for (int k = 0; k < LANES; k++) mask[k] = k >= skip && k < stop ? -1 : 0;
  return mask;
}

/* `body(masked)` for each vector of the columns first..stop. */
#define EACH_VECTOR(first, stop, body)                                                 \
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

/* Powers of the distance from the pivots, and largest magnitudes: `rows` rows from `r` on. */
TARGET INLINE void NAME(power_rows)(tile *t, const NAME(how) h, int64_t r, int64_t first, int64_t stop,
                                    const int rows) {
  const side *const across = &t->across, *const down = &t->down;
  const FLOATS scale = SPREAD(t->scale), everywhere = SPREAD(t->offset);
  const char *from[ROWS];
  FLOATS sum[ROWS], second[ROWS], third[ROWS], fourth[ROWS], offset[ROWS];
  INTS top[ROWS];
  for (int k = 0; k < rows; k++) {
    const int64_t at = (r + k) * LANES;
    from[k] = (const char *)t->from + (r + k) * t->pitch * SIZE(h.type);
    offset[k] = everywhere;
    if (h.channels_are_rows) offset[k] = SPREAD(down->offset[r + k]);
    sum[k] = second[k] = third[k] = fourth[k] = (FLOATS){0};
    top[k] = (INTS){0};
    if (!first) continue;
    sum[k] = AT(down->lanes[0] + at);
    second[k] = AT(down->lanes[1] + at);
    third[k] = AT(down->lanes[2] + at);
    fourth[k] = AT(down->lanes[3] + at);
    top[k] = INTS_AT(down->lanes[4] + at);
  }
#define POWERS(masked)                                                                 \
  do {                                                                                 \
    FLOATS one = AT(across->sum + c), two = AT(across->second + c);                    \
    FLOATS three = AT(across->third + c), four = AT(across->fourth + c);               \
    INTS largest = INTS_AT(across->largest + c);                                       \
    FLOATS column = everywhere;                                                        \
    if (!h.channels_are_rows) column = AT(across->offset + c);                         \
    for (int k = 0; k < rows; k++) {                                                   \
      const FLOATS v = NAME(fetch)(from[k], h.type, c);                                \
      NAME(foresee)(from[k] + c * SIZE(h.type), rows * t->pitch, h.type);              \
      FLOATS d = NAME(apart)(v, scale, column, h.unit);                                \
      FLOATS e = NAME(apart)(v, scale, offset[k], h.unit);                             \
      INTS a = MAGNITUDE(v);                                                           \
      if (masked) d = KEEP(d, mask), e = KEEP(e, mask), a &= mask;                     \
      const FLOATS d2 = d * d, e2 = e * e;                                             \
      one += d;                                                                        \
      two += d2;                                                                       \
      three = FMA(d2, d, three);                                                       \
      four = FMA(d2, d2, four);                                                        \
      largest = LARGER(largest, a);                                                    \
      sum[k] += e;                                                                     \
      second[k] += e2;                                                                 \
      third[k] = FMA(e2, e, third[k]);                                                 \
      fourth[k] = FMA(e2, e2, fourth[k]);                                              \
      top[k] = LARGER(top[k], a);                                                      \
    }                                                                                  \
    AT(across->sum + c) = one;                                                         \
    AT(across->second + c) = two;                                                      \
    AT(across->third + c) = three;                                                     \
    AT(across->fourth + c) = four;                                                     \
    INTS_AT(across->largest + c) = largest;                                            \
  } while (0)
  EACH_VECTOR(first, stop, POWERS);
#undef POWERS
  for (int k = 0; k < rows; k++) {
    const int64_t at = (r + k) * LANES;
    AT(down->lanes[0] + at) = sum[k];
    AT(down->lanes[1] + at) = second[k];
    AT(down->lanes[2] + at) = third[k];
    AT(down->lanes[3] + at) = fourth[k];
    INTS_AT(down->lanes[4] + at) = top[k];
  }
}

/* Second and fourth powers of the distance from each token's own mean. */
TARGET INLINE void NAME(token_rows)(tile *t, const NAME(how) h, int64_t r, int64_t first, int64_t stop,
                                    const int rows) {
  const side *const across = &t->across, *const down = &t->down;
  const FLOATS scale = SPREAD(t->scale);
  const char *from[ROWS];
  FLOATS mean[ROWS], second[ROWS], fourth[ROWS];
  for (int k = 0; k < rows; k++) {
    const int64_t at = (r + k) * LANES;
    from[k] = (const char *)t->from + (r + k) * t->pitch * SIZE(h.type);
    mean[k] = SPREAD(down->sum[r + k]);
    second[k] = fourth[k] = (FLOATS){0};
    if (!first) continue;
    second[k] = AT(down->lanes[1] + at);
    fourth[k] = AT(down->lanes[3] + at);
  }
#define CENTRED(masked)                                                                \
  do {                                                                                 \
    for (int k = 0; k < rows; k++) {                                                   \
      FLOATS m = mean[k];                                                              \
      if (h.channels_are_rows) m = AT(across->sum + c);                                \
      FLOATS d = FMA(NAME(fetch)(from[k], h.type, c), scale, -m);                      \
      if (masked) d = KEEP(d, mask);                                                   \
      const FLOATS d2 = d * d;                                                         \
      if (h.channels_are_rows) {                                                       \
        AT(across->second + c) += d2;                                                  \
        AT(across->fourth + c) = FMA(d2, d2, AT(across->fourth + c));                  \
      } else {                                                                         \
        second[k] += d2;                                                               \
        fourth[k] = FMA(d2, d2, fourth[k]);                                            \
      }                                                                                \
    }                                                                                  \
  } while (0)
  EACH_VECTOR(first, stop, CENTRED);
#undef CENTRED
  for (int k = 0; k < rows; k++) {
    AT(down->lanes[1] + (r + k) * LANES) = second[k];
    AT(down->lanes[3] + (r + k) * LANES) = fourth[k];
  }
}

/* A pass in panels of columns and groups of rows. What is left of the columns behind the last panel is
 * in it when it is less than a vector. One function for each case, with all that is the same for its
 * elements known to the compiler. */
#define PASS(name, rows_of, type, images, unit)                                        \
  TARGET static void NAME(name)(tile *t) {                                             \
    const NAME(how) h = {type, images, unit};                                          \
    for (int64_t first = 0, stop; first < t->columns; first = stop) {                  \
      stop = t->columns - first < PANEL + LANES ? t->columns : first + PANEL;          \
      int64_t r = 0;                                                                   \
      for (; r + ROWS <= t->rows; r += ROWS) NAME(rows_of)(t, h, r, first, stop, ROWS); \
      for (; r < t->rows; r++) NAME(rows_of)(t, h, r, first, stop, 1);                 \
    }                                                                                  \
  }
PASS(tokens, power_rows, F32, 0, 1)
PASS(tokens_scaled, power_rows, F32, 0, 0)
PASS(tokens_bf16, power_rows, BF16, 0, 1)
PASS(tokens_bf16_scaled, power_rows, BF16, 0, 0)
PASS(image, power_rows, F32, 1, 1)
PASS(image_scaled, power_rows, F32, 1, 0)
PASS(image_bf16, power_rows, BF16, 1, 1)
PASS(image_bf16_scaled, power_rows, BF16, 1, 0)
PASS(centred_tokens, token_rows, F32, 0, 0)
PASS(centred_tokens_bf16, token_rows, BF16, 0, 0)
PASS(centred_image, token_rows, F32, 1, 0)
PASS(centred_image_bf16, token_rows, BF16, 1, 0)
#undef PASS

/* `rows` says that channels are rows. */
TARGET static void NAME(first_pass)(tile *t, int rows) {
  const int unit = t->scale == 1.0f;
  float *const cleared[5] = {t->across.sum, t->across.second, t->across.third, t->across.fourth,
                             t->across.largest};
  for (int k = 0; k < 5; k++)
    memset(cleared[k], 0, (size_t)at_least(t->columns, LANES) * sizeof(float));
  if (t->type == F32 && rows) (unit ? NAME(image) : NAME(image_scaled))(t);
  else if (t->type == F32) (unit ? NAME(tokens) : NAME(tokens_scaled))(t);
  else if (rows) (unit ? NAME(image_bf16) : NAME(image_bf16_scaled))(t);
  else (unit ? NAME(tokens_bf16) : NAME(tokens_bf16_scaled))(t);
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

/* The tokens of a tile once more, about their own means: `sum` of their side. */
TARGET static void NAME(second_pass)(tile *t, int rows) {
  if (rows) {
    memset(t->across.second, 0, (size_t)at_least(t->columns, LANES) * sizeof(float));
    memset(t->across.fourth, 0, (size_t)at_least(t->columns, LANES) * sizeof(float));
    (t->type == F32 ? NAME(centred_image) : NAME(centred_image_bf16))(t);
    return;
  }
  (t->type == F32 ? NAME(centred_tokens) : NAME(centred_tokens_bf16))(t);
  NAME(add_lanes)(t->down.lanes[1], t->down.spare, t->down.second, t->rows);
  NAME(add_lanes)(t->down.lanes[3], t->down.spare, t->down.fourth, t->rows);
}

#undef EACH_VECTOR
