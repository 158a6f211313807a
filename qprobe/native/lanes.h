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
#define GROUP 16 /* blocks whose absmax is found together */

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

/* One element from memory to its dequantized value and back; the scales belong to its block. */
#define NEAREST(x, e, v) (signed_as(e2m1_nearest(magnitude((x) * (e))) * (v), (x)))
#define STOCHASTIC(x, e, v, r) (signed_as(e2m1_stochastic(magnitude((x) * (e)), (r)) * (v), (x)))

/* `n` elements in blocks along the innermost axis, a pair of scales a block. */
#define APPLY_ROWS(NAME_, IN, LOAD, OUT, STORE)                                                    \
  TARGET static void NAME(NAME_)(const IN *restrict x, OUT *restrict y, const uint8_t *restrict r, \
                                 int64_t n, int64_t block, const float *restrict e,                \
                                 const float *restrict v) {                                        \
    int64_t i = 0;                                                                                 \
    if (block == BLOCK && r)                                                                       \
      for (; i + BLOCK <= n; i += BLOCK, e++, v++)                                                 \
        for (int k = 0; k < BLOCK; k++)                                                            \
          y[i + k] = STORE(STOCHASTIC(LOAD(x[i + k]), *e, *v, r[i + k]));                          \
    else if (block == BLOCK)                                                                       \
      for (; i + BLOCK <= n; i += BLOCK, e++, v++)                                                 \
        for (int k = 0; k < BLOCK; k++) y[i + k] = STORE(NEAREST(LOAD(x[i + k]), *e, *v));         \
    for (; i < n; e++, v++)                                                                        \
      for (const int64_t stop = i + block < n ? i + block : n; i < stop; i++)                      \
        y[i] = r ? STORE(STOCHASTIC(LOAD(x[i]), *e, *v, r[i])) : STORE(NEAREST(LOAD(x[i]), *e, *v)); \
  }

/* `count` neighbours with a scale each (axis not innermost). */
#define APPLY_COLUMNS(NAME_, IN, LOAD, OUT, STORE)                                                 \
  TARGET static void NAME(NAME_)(const IN *restrict x, OUT *restrict y, const uint8_t *restrict r, \
                                 int64_t count, const float *restrict e, const float *restrict v) { \
    if (r)                                                                                         \
      for (int64_t i = 0; i < count; i++) y[i] = STORE(STOCHASTIC(LOAD(x[i]), e[i], v[i], r[i]));  \
    else                                                                                           \
      for (int64_t i = 0; i < count; i++) y[i] = STORE(NEAREST(LOAD(x[i]), e[i], v[i]));           \
  }

APPLY_ROWS(rows_f32, float, AS_IS, float, AS_IS)
APPLY_ROWS(rows_bf16, uint16_t, widen, uint16_t, narrow)
APPLY_ROWS(rows_bf16_f32, uint16_t, widen, float, AS_IS)
APPLY_COLUMNS(columns_f32, float, AS_IS, float, AS_IS)
APPLY_COLUMNS(columns_bf16, uint16_t, widen, uint16_t, narrow)
APPLY_COLUMNS(columns_bf16_f32, uint16_t, widen, float, AS_IS)

#undef APPLY_ROWS
#undef APPLY_COLUMNS

#define DISPATCH(KIND, AT, ...)                                                                \
  do {                                                                                          \
    const uint8_t *noise = r ? r + (AT) : 0;                                                    \
    if (in == F32)                                                                              \
      NAME(KIND##_f32)((const float *)x + (AT), (float *)y + (AT), noise, __VA_ARGS__);         \
    else if (to == BF16)                                                                        \
      NAME(KIND##_bf16)((const uint16_t *)x + (AT), (uint16_t *)y + (AT), noise, __VA_ARGS__);  \
    else                                                                                        \
      NAME(KIND##_bf16_f32)((const uint16_t *)x + (AT), (float *)y + (AT), noise, __VA_ARGS__); \
  } while (0)

/* y = dequantized E2M1 of x; `r` holds one random byte an element, or is null to round to nearest. */
TARGET static void NAME(e2m1_apply)(const void *x, int in, void *y, int to, const uint8_t *r,
                                    const float *encode, const float *decode, int64_t outer,
                                    int64_t length, int64_t inner, int64_t block) {
  const int64_t blocks = (length + block - 1) / block;
  if (inner == 1 && length % block == 0) { /* no partial block: one long row */
    length *= outer;
    outer = 1;
  }
  for (int64_t o = 0; o < outer; o++) {
    if (inner == 1) {
      DISPATCH(rows, o * length, length, block, encode + o * blocks, decode + o * blocks);
      continue;
    }
    for (int64_t i = 0; i < length; i++) {
      const int64_t scale = (o * blocks + i / block) * inner;
      DISPATCH(columns, (o * length + i) * inner, inner, encode + scale, decode + scale);
    }
  }
}

#undef DISPATCH
#undef NEAREST
#undef STOCHASTIC
#undef BLOCK
#undef GROUP
