/* The kernels, written one element at a time for the compiler to turn into vector code.
 *
 * kernels.c includes this file once per instruction set, with NAME(f) giving the function its own
 * name and TARGET its own target. Nothing here may be contracted into fused multiply-adds: every
 * operation rounds once, as the format's definition says (the build passes -ffp-contract=off).
 *
 * A tensor is seen as [outer, length, inner], dense, with the quantized axis in the middle; blocks
 * run along it, so block scales are [outer, ceil(length / block), inner]. A missing element of a
 * partial block is zero.
 */

#define BLOCK 16 /* the common block; rows of other blocks take the plain loops */
#define HALF 8
#define GROUP 16 /* blocks worked on together */
#define CHUNK (GROUP * BLOCK)

/* Absmax of GROUP whole blocks: four rounds of taking the larger of two neighbours. */
#define GROUP_ABSMAX(NAME_, BITS, MASK, SHIFT)                                               \
  TARGET static void NAME(NAME_)(const BITS *restrict x, uint32_t *restrict out) {           \
    BITS a[GROUP * 8], b[GROUP * 4], c[GROUP * 2];                                           \
    for (int i = 0; i < GROUP * 8; i++) {                                                    \
      const BITS left = x[2 * i] & (MASK), right = x[2 * i + 1] & (MASK);                    \
      a[i] = left > right ? left : right;                                                    \
    }                                                                                        \
    for (int i = 0; i < GROUP * 4; i++) b[i] = a[2 * i] > a[2 * i + 1] ? a[2 * i] : a[2 * i + 1]; \
    for (int i = 0; i < GROUP * 2; i++) c[i] = b[2 * i] > b[2 * i + 1] ? b[2 * i] : b[2 * i + 1]; \
    for (int i = 0; i < GROUP; i++)                                                          \
      out[i] = (uint32_t)(c[2 * i] > c[2 * i + 1] ? c[2 * i] : c[2 * i + 1]) << (SHIFT);     \
  }

GROUP_ABSMAX(group_f32, uint32_t, 0x7FFFFFFFu, 0)
GROUP_ABSMAX(group_bf16, uint16_t, 0x7FFFu, 16)
#undef GROUP_ABSMAX

/* The same of GROUP blocks of HALF, which is what eight channels make. */
#define HALVES_ABSMAX(NAME_, BITS, MASK, SHIFT)                                              \
  TARGET static void NAME(NAME_)(const BITS *restrict x, uint32_t *restrict out) {           \
    BITS a[GROUP * 4], b[GROUP * 2];                                                         \
    for (int i = 0; i < GROUP * 4; i++) {                                                    \
      const BITS left = x[2 * i] & (MASK), right = x[2 * i + 1] & (MASK);                    \
      a[i] = left > right ? left : right;                                                    \
    }                                                                                        \
    for (int i = 0; i < GROUP * 2; i++) b[i] = a[2 * i] > a[2 * i + 1] ? a[2 * i] : a[2 * i + 1]; \
    for (int i = 0; i < GROUP; i++)                                                          \
      out[i] = (uint32_t)(b[2 * i] > b[2 * i + 1] ? b[2 * i] : b[2 * i + 1]) << (SHIFT);     \
  }

HALVES_ABSMAX(halves_f32, uint32_t, 0x7FFFFFFFu, 0)
HALVES_ABSMAX(halves_bf16, uint16_t, 0x7FFFu, 16)
#undef HALVES_ABSMAX

/* absmax of each block as float bits: integer order of |x| is its numerical order, NaN on top. */
TARGET static void NAME(absmax_rows)(const void *x, int type, int64_t n, int64_t block, float *out) {
  uint32_t *bits = (uint32_t *)out;
  const uint32_t *wide = (const uint32_t *)x;
  const uint16_t *half = (const uint16_t *)x;
  int64_t start = 0;
  if (block == BLOCK)
    for (; start + GROUP * BLOCK <= n; start += GROUP * BLOCK, bits += GROUP) {
      if (type == F32)
        NAME(group_f32)(wide + start, bits);
      else
        NAME(group_bf16)(half + start, bits);
    }
  if (block == HALF)
    for (; start + GROUP * HALF <= n; start += GROUP * HALF, bits += GROUP) {
      if (type == F32)
        NAME(halves_f32)(wide + start, bits);
      else
        NAME(halves_bf16)(half + start, bits);
    }
  for (; start < n; start += block, bits++) {
    const int64_t stop = start + block < n ? start + block : n;
    uint32_t top = 0;
    for (int64_t i = start; i < stop; i++)
      top = max_u32(top, type == F32 ? wide[i] & 0x7FFFFFFFu : (uint32_t)(half[i] & 0x7FFFu) << 16);
    *bits = top;
  }
}

TARGET static void NAME(absmax_columns)(const void *x, int type, int64_t rows, int64_t inner, float *out) {
  uint32_t *bits = (uint32_t *)out;
  for (int64_t j = 0; j < inner; j++) bits[j] = 0;
  for (int64_t r = 0; r < rows; r++) {
    if (type == F32) {
      const float *p = (const float *)x + r * inner;
      for (int64_t j = 0; j < inner; j++) bits[j] = max_u32(bits[j], magnitude(p[j]));
    } else {
      const uint16_t *p = (const uint16_t *)x + r * inner;
      for (int64_t j = 0; j < inner; j++) bits[j] = max_u32(bits[j], (uint32_t)(p[j] & 0x7FFFu) << 16);
    }
  }
}

TARGET static void NAME(block_absmax)(const void *x, int type, int64_t outer, int64_t length,
                                      int64_t inner, int64_t block, float *out) {
  const int64_t size = type == F32 ? 4 : 2;
  const int64_t blocks = (length + block - 1) / block;
  if (inner == 1 && length < block) block = length; /* each row is one block, and a whole one */
  const char *p = (const char *)x;
  if (inner == 1 && length % block == 0) {
    NAME(absmax_rows)(p, type, outer * length, block, out);
    return;
  }
  for (int64_t o = 0; o < outer; o++) {
    if (inner == 1) {
      NAME(absmax_rows)(p + o * length * size, type, length, block, out + o * blocks);
      continue;
    }
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t rows = length - b * block < block ? length - b * block : block;
      NAME(absmax_columns)(p + (o * length + b * block) * inner * size, type, rows, inner,
                           out + (o * blocks + b) * inner);
    }
  }
}

/* Encode and decode scale of each block, from its absmax; `encode` may be the absmax array. */
TARGET static void NAME(nvfp4_scales)(const float *absmax, int64_t n, float *encode, float *decode) {
  uint32_t top = 0;
  for (int64_t i = 0; i < n; i++) top = max_u32(top, magnitude(absmax[i]));
  const tensor_scale t = tensor_scale_of(from_bits(top));
  for (int64_t i = 0; i < n; i++) {
    const float s = e4m3(absmax[i] * t.block_factor);
    decode[i] = (s * t.decode_first) * t.decode_second;
    const float e = 1.0f / (s * t.decode);
    encode[i] = e > FLT_MAX ? FLT_MAX : e;
  }
}

/* Elements from `at` on as float32: where they lie, or widened into `buffer`. */
TARGET static const float *NAME(load)(const operand *t, int64_t at, int64_t n, float *restrict buffer) {
  if (t->in == F32) return (const float *)t->x + at;
  const uint16_t *x = (const uint16_t *)t->x + at;
  for (int64_t i = 0; i < n; i++) buffer[i] = widen(x[i]);
  return buffer;
}

TARGET static const uint32_t *NAME(draw)(const operand *t, int64_t at, int64_t n, uint32_t *restrict buffer) {
  if (!t->noise) return 0;
  for (int64_t i = 0; i < n; i++) buffer[i] = t->noise[at + i];
  return buffer;
}

TARGET static void NAME(store)(const operand *t, int64_t at, int64_t n, const float *restrict buffer) {
  if (t->to == F32) return; /* they were written where they belong */
  uint16_t *y = (uint16_t *)t->y + at;
  for (int64_t i = 0; i < n; i++) y[i] = narrow(buffer[i]);
}

/* GROUP whole blocks. */
TARGET static void NAME(whole_blocks)(const float *restrict x, float *restrict y, const uint32_t *restrict r,
                                      const float *restrict e, const float *restrict v) {
  if (r)
    for (int g = 0; g < GROUP; g++)
      for (int k = 0; k < BLOCK; k++)
        y[g * BLOCK + k] = STOCHASTIC(x[g * BLOCK + k], e[g], v[g], r[g * BLOCK + k]);
  else
    for (int g = 0; g < GROUP; g++)
      for (int k = 0; k < BLOCK; k++) y[g * BLOCK + k] = NEAREST(x[g * BLOCK + k], e[g], v[g]);
}

/* CHUNK elements in blocks of HALF. */
TARGET static void NAME(whole_halves)(const float *restrict x, float *restrict y, const uint32_t *restrict r,
                                      const float *restrict e, const float *restrict v) {
  if (r)
    for (int g = 0; g < CHUNK / HALF; g++)
      for (int k = 0; k < HALF; k++)
        y[g * HALF + k] = STOCHASTIC(x[g * HALF + k], e[g], v[g], r[g * HALF + k]);
  else
    for (int g = 0; g < CHUNK / HALF; g++)
      for (int k = 0; k < HALF; k++) y[g * HALF + k] = NEAREST(x[g * HALF + k], e[g], v[g]);
}

/* `n` elements of one block. */
TARGET static void NAME(one_block)(const float *restrict x, float *restrict y, const uint32_t *restrict r,
                                   int64_t n, float e, float v) {
  if (r)
    for (int64_t i = 0; i < n; i++) y[i] = STOCHASTIC(x[i], e, v, r[i]);
  else
    for (int64_t i = 0; i < n; i++) y[i] = NEAREST(x[i], e, v);
}

/* `n` elements of as many blocks. */
TARGET static void NAME(across_blocks)(const float *restrict x, float *restrict y, const uint32_t *restrict r,
                                       int64_t n, const float *restrict e, const float *restrict v) {
  if (r)
    for (int64_t i = 0; i < n; i++) y[i] = STOCHASTIC(x[i], e[i], v[i], r[i]);
  else
    for (int64_t i = 0; i < n; i++) y[i] = NEAREST(x[i], e[i], v[i]);
}

/* The body stands between reading `n` elements from `at` on and writing them, as float32 x to y. */
#define CHUNKWISE(at, n, ...)                                             \
  do {                                                                    \
    const float *x = NAME(load)(t, at, n, wide);                          \
    const uint32_t *r = NAME(draw)(t, at, n, noise);                      \
    float *y = t->to == F32 ? (float *)t->y + (at) : done;                \
    __VA_ARGS__;                                                          \
    NAME(store)(t, at, n, y);                                             \
  } while (0)

/* `n` elements from `at` on, in blocks along the innermost axis. */
TARGET static void NAME(apply_rows)(const operand *t, int64_t at, int64_t n, int64_t block,
                                    const float *e, const float *v) {
  float wide[CHUNK], done[CHUNK];
  uint32_t noise[CHUNK];
  const int64_t end = at + n;
  if (block == HALF)
    for (; at + CHUNK <= end; at += CHUNK, e += CHUNK / HALF, v += CHUNK / HALF)
      CHUNKWISE(at, CHUNK, NAME(whole_halves)(x, y, r, e, v));
  if (block == BLOCK)
    for (; at + CHUNK <= end; at += CHUNK, e += GROUP, v += GROUP)
      CHUNKWISE(at, CHUNK, NAME(whole_blocks)(x, y, r, e, v));
  for (; at < end; e++, v++)
    for (int64_t stop = at + block < end ? at + block : end; at < stop;) {
      const int64_t part = stop - at < CHUNK ? stop - at : CHUNK;
      CHUNKWISE(at, part, NAME(one_block)(x, y, r, part, *e, *v));
      at += part;
    }
}

/* `n` neighbours from `at` on with a scale each: the quantized axis is not the innermost. */
TARGET static void NAME(apply_columns)(const operand *t, int64_t at, int64_t n, const float *e,
                                       const float *v) {
  float wide[CHUNK], done[CHUNK];
  uint32_t noise[CHUNK];
  for (int64_t i = 0; i < n; i += CHUNK) {
    const int64_t part = n - i < CHUNK ? n - i : CHUNK;
    CHUNKWISE(at + i, part, NAME(across_blocks)(x, y, r, part, e + i, v + i));
  }
}

TARGET static void NAME(e2m1_apply)(const operand *t, const float *encode, const float *decode,
                                    int64_t outer, int64_t length, int64_t inner, int64_t block) {
  const int64_t blocks = (length + block - 1) / block;
  if (inner == 1 && length < block) block = length; /* each row is one block, and a whole one */
  if (inner == 1 && length % block == 0) { /* no partial block: one long row */
    length *= outer;
    outer = 1;
  }
  for (int64_t o = 0; o < outer; o++) {
    if (inner == 1) {
      NAME(apply_rows)(t, o * length, length, block, encode + o * blocks, decode + o * blocks);
      continue;
    }
    for (int64_t i = 0; i < length; i++) {
      const int64_t scale = (o * blocks + i / block) * inner;
      NAME(apply_columns)(t, (o * length + i) * inner, inner, encode + scale, decode + scale);
    }
  }
}

#undef CHUNKWISE
#undef BLOCK
#undef HALF
#undef GROUP
#undef CHUNK
