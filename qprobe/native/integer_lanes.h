/* The kernels, written one element at a time for the compiler to turn into vector code.
 *
 * integer.c includes this file once per instruction set; see lanes.h.
 */

TARGET static int32_t NAME(integer_top)(const float *restrict x, int64_t n) {
  int32_t top = 0;
  for (int64_t i = 0; i < n; i++) top = larger(top, bits_of(x[i]));
  return top;
}

/* `n` neighbours into a largest magnitude each. */
TARGET static void NAME(integer_tops)(const float *restrict x, int64_t n, int32_t *restrict top) {
  for (int64_t i = 0; i < n; i++) top[i] = larger(top[i], bits_of(x[i]));
}

TARGET static void NAME(integer_scales)(const groups *g, int64_t n, float largest) {
  const int32_t *restrict top = g->top;
  float *restrict scale = g->scale, *restrict lift = g->lift, *restrict inverse = g->inverse;
  for (int64_t i = 0; i < n; i++) {
    const float absmax = from_bits((uint32_t)top[i]);
    const float up = absmax > 0.0f && absmax < FLT_MIN * largest ? 0x1p64f : 1.0f;
    const float lifted = absmax == 0.0f ? 1.0f : absmax * up / largest;
    scale[i] = lifted / up;
    lift[i] = up;
    inverse[i] = 1.0f / lifted;
  }
}

/* `n` neighbours that share scale `at`. */
TARGET static void NAME(integer_run)(const float *restrict x, float *restrict y, int64_t n,
                                     const groups *g, int64_t at, float largest) {
  const float lift = g->lift[at], inverse = g->inverse[at], scale = g->scale[at];
  for (int64_t i = 0; i < n; i++) y[i] = integer_value(x[i], lift, inverse, scale, largest);
}

/* `n` neighbours with a scale each. */
TARGET static void NAME(integer_each)(const float *restrict x, float *restrict y, int64_t n,
                                      const groups *g, float largest) {
  const float *restrict lift = g->lift, *restrict inverse = g->inverse, *restrict scale = g->scale;
  for (int64_t i = 0; i < n; i++) y[i] = integer_value(x[i], lift[i], inverse[i], scale[i], largest);
}

/* A scale for each row of `[outer, length]`; some rows together, so that they stay in the cache and
 * their divisions overlap. */
TARGET static void NAME(integer_rows)(const float *x, float *y, int64_t outer, int64_t length,
                                      float largest, groups g) {
  for (int64_t o = 0; o < outer; o += WIDTH) {
    const int64_t rows = outer - o < WIDTH ? outer - o : WIDTH;
    for (int64_t r = 0; r < rows; r++) g.top[r] = NAME(integer_top)(x + (o + r) * length, length);
    NAME(integer_scales)(&g, rows, largest);
    for (int64_t r = 0; r < rows; r++)
      NAME(integer_run)(x + (o + r) * length, y + (o + r) * length, length, &g, r, largest);
  }
}

/* A scale for each column of each `[length, inner]`. */
TARGET static void NAME(integer_columns)(const float *x, float *y, int64_t outer, int64_t length,
                                         int64_t inner, float largest, groups g) {
  for (int64_t o = 0; o < outer; o++, x += length * inner, y += length * inner) {
    for (int64_t i = 0; i < inner; i++) g.top[i] = 0;
    for (int64_t k = 0; k < length; k++) NAME(integer_tops)(x + k * inner, inner, g.top);
    NAME(integer_scales)(&g, inner, largest);
    for (int64_t k = 0; k < length; k++)
      NAME(integer_each)(x + k * inner, y + k * inner, inner, &g, largest);
  }
}

/* A scale for each column of `[outer, length]`; short rows are read several at a time. */
TARGET static void NAME(integer_interleaved)(const float *x, float *y, int64_t outer, int64_t length,
                                             float largest, groups g) {
  const int64_t together = length < WIDTH ? WIDTH / length : 1, wide = together * length;
  const int64_t all = outer * length, whole = all - all % wide;
  for (int64_t i = 0; i < wide; i++) g.top[i] = 0;
  for (int64_t at = 0; at < whole; at += wide) NAME(integer_tops)(x + at, wide, g.top);
  NAME(integer_tops)(x + whole, all - whole, g.top);
  for (int64_t i = length; i < wide; i++) g.top[i % length] = larger(g.top[i % length], g.top[i]);
  for (int64_t i = length; i < wide; i++) g.top[i] = g.top[i % length];
  NAME(integer_scales)(&g, wide, largest);
  for (int64_t at = 0; at < whole; at += wide) NAME(integer_each)(x + at, y + at, wide, &g, largest);
  NAME(integer_each)(x + whole, y + whole, all - whole, &g, largest);
}

/* A scale for each middle index of `[outer, length, inner]`. */
TARGET static void NAME(integer_planes)(const float *x, float *y, int64_t outer, int64_t length,
                                        int64_t inner, float largest, groups g) {
  for (int64_t k = 0; k < length; k++) g.top[k] = 0;
  for (int64_t r = 0; r < outer * length; r++)
    g.top[r % length] = larger(g.top[r % length], NAME(integer_top)(x + r * inner, inner));
  NAME(integer_scales)(&g, length, largest);
  for (int64_t r = 0; r < outer * length; r++)
    NAME(integer_run)(x + r * inner, y + r * inner, inner, &g, r % length, largest);
}

/* All under one scale, of the largest magnitude that is given. */
TARGET static void NAME(integer_under)(const float *x, float *y, int64_t n, float largest, groups g) {
  NAME(integer_scales)(&g, 1, largest);
  NAME(integer_run)(x, y, n, &g, 0, largest);
}
