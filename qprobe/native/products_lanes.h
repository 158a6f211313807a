/* Products of rows, in vectors of LANES floats, TOGETHER rows at a time. products.c includes this file
 * once per instruction set.
 */

typedef float NAME(floats) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define FLOATS NAME(floats)
#define AT(p) (*(FLOATS *)(p))
#define WIDTH (2 * LANES)

/* WIDTH rows of b side by side, [depth, WIDTH]; those that are missing are zero. Four at a time: what
 * takes long is to write numbers one by one. */
TARGET static void NAME(side_by_side)(const products *p, const float *b, int64_t width, float *restrict panel) {
  const int64_t depth = p->depth;
  int64_t j = 0;
  for (; j + 4 <= width; j += 4) {
    const float *const one = b + j * depth, *const two = one + depth, *const three = two + depth;
    const float *const four = three + depth;
    for (int64_t c = 0; c < depth; c++) {
      float *const at = panel + c * WIDTH + j;
      at[0] = one[c];
      at[1] = two[c];
      at[2] = three[c];
      at[3] = four[c];
    }
  }
  for (; j < WIDTH; j++)
    for (int64_t c = 0; c < depth; c++) panel[c * WIDTH + j] = j < width ? b[j * depth + c] : 0.0f;
}

/* The same of columns that lie side by side already. */
TARGET static void NAME(beside)(const products *p, const float *b, int64_t width, float *restrict panel) {
  for (int64_t c = 0; c < p->depth; c++)
    for (int64_t j = 0; j < WIDTH; j++) panel[c * WIDTH + j] = j < width ? b[c * p->columns + j] : 0.0f;
}

/* A tile of `count` rows of a with the panel, which is a constant where this is inlined. */
TARGET INLINE void NAME(tile)(const products *p, const float *a, const float *panel, int count,
                              float *restrict tile) {
  FLOATS sums[TOGETHER][2];
  for (int i = 0; i < count; i++) sums[i][0] = sums[i][1] = (FLOATS){0};
  for (int64_t c = 0; c < p->depth; c++) {
    const FLOATS left = AT(panel + c * WIDTH), right = AT(panel + c * WIDTH + LANES);
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
      sums[i][0] += left * a[i * p->depth + c];
      sums[i][1] += right * a[i * p->depth + c];
    }
  }
  const float scale = (float)p->scale;
  for (int i = 0; i < count; i++) {
    AT(tile + i * WIDTH) = sums[i][0] * scale;
    AT(tile + i * WIDTH + LANES) = sums[i][1] * scale;
  }
}

/* What is in the tile to its place in the result, from column j on. */
TARGET INLINE void NAME(place)(const products *p, const float *tile, int count, int64_t j, int64_t width,
                               float *restrict out) {
  for (int i = 0; i < count; i++)
    for (int64_t k = 0; k < width; k++)
      out[i * p->columns + j + k] = tile[i * WIDTH + k];
}

TARGET static void NAME(products)(const products *p) {
  float *const panel = p->scratch;
  float tile[TOGETHER * WIDTH];
  for (int64_t batch = 0; batch < p->batch; batch++) {
    const float *const a = p->a + batch * p->rows * p->depth;
    const float *const b = p->b + batch * p->columns * p->depth;
    float *const out = p->out + batch * p->rows * p->columns;
    for (int64_t j = 0; j < p->columns; j += WIDTH) {
      const int64_t width = p->columns - j < WIDTH ? p->columns - j : WIDTH;
      if (p->across) NAME(beside)(p, b + j, width, panel);
      else NAME(side_by_side)(p, b + j * p->depth, width, panel);
      int64_t i = 0;
      for (; i + TOGETHER <= p->rows; i += TOGETHER) {
        NAME(tile)(p, a + i * p->depth, panel, TOGETHER, tile);
        NAME(place)(p, tile, TOGETHER, j, width, out + i * p->columns);
      }
      for (; i < p->rows; i++) {
        NAME(tile)(p, a + i * p->depth, panel, 1, tile);
        NAME(place)(p, tile, 1, j, width, out + i * p->columns);
      }
    }
  }
}

#undef FLOATS
#undef AT
#undef WIDTH
