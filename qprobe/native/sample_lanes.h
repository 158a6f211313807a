/* What is measured of one sampled token. summary.c includes this file once per instruction set. The
 * arithmetic of the formats is that of kernels.c, so that counts are those of the PyTorch path.
 */

INLINE float NAME(element)(const observation *o, int64_t at) {
  return o->type == F32 ? ((const float *)o->x)[at] : widen(((const uint16_t *)o->x)[at]);
}

/* Add a sum of squares that were taken of values times `lift`, where it was asked for. */
TARGET static void NAME(add_up)(const pass *p, int which, FLOATS squares, float lift) {
  const double back = 1.0 / (double)lift;
  float sum = 0.0f;
  for (int k = 0; k < LANES; k++) sum += squares[k];
  if (which == 0 || (p->o->fields & (which == 1 ? NVFP4 : INT4))) p->o->energy[which] += sum * back * back;
}

/* Bits of the largest finite magnitude of n elements. */
TARGET static void NAME(largest)(const void *x, int64_t type, int64_t n, uint32_t *top) {
  uint32_t found = 0;
  for (int64_t i = 0; i < n; i++) {
    const uint32_t a = type == F32 ? ((const uint32_t *)x)[i] & 0x7FFFFFFFu
                                   : (uint32_t)(((const uint16_t *)x)[i] & 0x7FFFu) << 16;
    found = max_u32(found, a < NONFINITE ? a : 0);
  }
  *top = found;
}

/* How many of n elements are not zero; n is a multiple of the block. */
TARGET static int64_t NAME(there)(const float *x, int64_t n) {
  INTS zeros = {0};
  for (int64_t i = 0; i < n; i += LANES) zeros += AT(x + i) == (FLOATS){0};
  for (int k = 0; k < LANES; k++) n += zeros[k];
  return n;
}

/* Signs and exponents of n finite elements, `there` of them not zero. */
TARGET static void NAME(count_magnitudes)(pass *p, const float *x, int64_t n, int64_t there) {
  uint32_t *restrict e = p->exponents;
  const uint32_t *bits = (const uint32_t *)x;
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    e[bits[i] >> 23]++;
    e[EXPONENTS + (bits[i + 1] >> 23)]++;
    e[2 * EXPONENTS + (bits[i + 2] >> 23)]++;
    e[3 * EXPONENTS + (bits[i + 3] >> 23)]++;
  }
  for (; i < n; i++) e[bits[i] >> 23]++;
  p->o->magnitudes[0] -= n - there; /* zeros were counted with the smallest numbers */
  p->o->magnitudes[MAGNITUDES] += n - there;
}

/* The same for a token that has NaN or infinite elements. */
TARGET static void NAME(count_nonfinite)(pass *p, const float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    const uint32_t a = magnitude(x[i]);
    if (a < NONFINITE) NAME(count_magnitudes)(p, x + i, 1, a != 0);
    else p->o->magnitudes[MAGNITUDES + (a > NONFINITE ? 1 : 2)]++;
  }
}

/* Encode and decode scale of each block under the tensor's scale. */
TARGET static void NAME(scales)(const pass *p, const float *x, int64_t blocks, float *encode,
                                float *decode) {
  const tensor_scale t = p->tensor;
  uint32_t *const top = (uint32_t *)encode, *const half = top + 2 * blocks, *const quarter = half + 8 * blocks;
  NAME(halve_magnitudes)((const uint32_t *)x, half, 8 * blocks);
  NAME(halve_magnitudes)(half, quarter, 4 * blocks);
  NAME(halve_magnitudes)(quarter, half, 2 * blocks);
  NAME(halve_magnitudes)(half, top, blocks);
  for (int64_t b = 0; b < blocks; b++) {
    const float s = e4m3(encode[b] * t.block_factor);
    const float e = 1.0f / (s * t.decode);
    decode[b] = (s * t.decode_first) * t.decode_second;
    encode[b] = e > FLT_MAX ? FLT_MAX : e;
  }
}

/* 6 and a margin for the rounding of the scales: ties lie exactly on 6. */
#define SATURATED 6.000091552734375f

/* The scale of INT4, one for the token, for magnitudes times `lift`, and what they are multiplied by to
 * be codes. A subnormal scale is found from a lifted magnitude, as its inverse may not be finite. */
TARGET static float NAME(int4_scale)(float top, float lift, float *inverse) {
  const float up = top > 0.0f && top < FLT_MIN * 7.0f ? 0x1p64f : 1.0f;
  const float lifted = top == 0.0f ? 1.0f : top * up / 7.0f;
  *inverse = (1.0f / lifted) * (up / lift);
  return lifted / up * lift;
}

/* Signal and errors of a token whose largest magnitude is `top`, of which `there` elements are not zero;
 * squares are of values times `lift`. */
TARGET static void NAME(errors)(pass *p, const float *x, int64_t blocks, float top, int64_t there) {
  const float lift = lift_of(to_bits(top)), *encode = p->block, *decode = p->block + blocks;
  float inverse;
  const FLOATS scale = SPREAD(NAME(int4_scale)(top, lift, &inverse)), up = SPREAD(lift);
  FLOATS squares[3] = {{0}, {0}, {0}};
  INTS codes[2] = {{0}, {0}}, saturated = {0};
  NAME(scales)(p, x, blocks, p->block, p->block + blocks);
  for (int64_t i = 0; i < blocks * BLOCK; i += LANES) {
    const FLOATS a = (FLOATS)MAGNITUDE(AT(x + i)), lifted = a * up;
    const FLOATS y = a * encode[i / BLOCK];
    const INTS six = (INTS){0} + 0x40C00000, one = (INTS){0} + 0x3F800000, held = SMALLER((INTS)y, six);
    const FLOATS c = (FLOATS)LARGER(held & 0x7F800000, one) * 6291456.0f; /* as e2m1_nearest */
    const FLOATS q = ((FLOATS)held + c) - c, d = q * (decode[i / BLOCK] * lift) - lifted;
    const FLOATS whole = (lifted * inverse + 12582912.0f) - 12582912.0f; /* 1.5·2^23 */
    const FLOATS code = (FLOATS)SMALLER((INTS)whole, (INTS)SPREAD(7.0f)), e = code * scale - lifted;
    squares[0] = FMA(lifted, lifted, squares[0]);
    squares[1] = FMA(d, d, squares[1]);
    squares[2] = FMA(e, e, squares[2]);
    codes[0] -= q != (FLOATS){0};
    codes[1] -= code != (FLOATS){0};
    saturated -= y > SATURATED;
  }
  int64_t counts[3] = {0};
  for (int k = 0; k < LANES; k++) {
    counts[0] += codes[0][k];
    counts[1] += codes[1][k];
    counts[2] += saturated[k];
  }
  for (int k = 0; k < 3; k++) NAME(add_up)(p, k, squares[k], lift);
  if (p->o->fields & NVFP4) p->o->counts[2] += there - counts[0], p->o->counts[3] += counts[2];
  if (p->o->fields & INT4) p->o->counts[4] += there - counts[1];
}

#undef SATURATED

/* A token of n elements, in a row padded with zeros to whole blocks. */
TARGET static void NAME(sample)(pass *p, const float *x, int64_t n, uint32_t top) {
  observation *o = p->o;
  const int64_t padded = rounded_up(n, BLOCK), there = NAME(there)(x, padded);
  if (o->fields & HISTOGRAM) {
    if (top >= NONFINITE) NAME(count_nonfinite)(p, x, n);
    else NAME(count_magnitudes)(p, x, n, there);
  }
  if (top >= NONFINITE || !(o->fields & (NVFP4 | INT4))) return;
  o->counts[0] += n;
  o->counts[1] += there;
  NAME(errors)(p, x, padded / BLOCK, from_bits(top), there);
}

/* Sampled tokens of an image's tile as rows: a channel at a time, as they lie in memory. */
TARGET static void NAME(gather_columns)(pass *p, int64_t first, int64_t padded) {
  const observation *o = p->o;
  for (int64_t c = 0; c < o->length; c++) {
    float *to = p->values + c;
    for (int64_t i = first; i < p->t.columns; i += o->stride, to += padded)
      *to = NAME(element)(o, p->t.at + c * o->inner + i);
  }
  for (int64_t i = first, k = 0; i < p->t.columns; i += o->stride, k++)
    for (int64_t c = o->length; c < padded; c++) p->values[k * padded + c] = 0.0f;
}

/* A token that lies in one piece as a padded row: itself, or a copy. */
TARGET static const float *NAME(row)(pass *p, int64_t token, int64_t padded) {
  const observation *o = p->o;
  const int64_t n = o->length, at = p->t.at + token * n;
  if (o->type == F32 && n == padded) return (const float *)o->x + at;
  for (int64_t i = 0; i < n; i++) p->values[i] = NAME(element)(o, at + i);
  for (int64_t i = n; i < padded; i++) p->values[i] = 0.0f;
  return p->values;
}

/* Sampled tokens of the tile. */
TARGET static void NAME(sample_tile)(pass *p, const side *tokens) {
  const observation *o = p->o;
  if (!o->fields) return;
  const int64_t late = (p->first - o->offset) % o->stride, padded = rounded_up(o->length, BLOCK);
  const int64_t first = late ? o->stride - (late < 0 ? late + o->stride : late) : 0;
  if (!p->tokens_are_rows) NAME(gather_columns)(p, first, padded);
  const float *column = p->values;
  for (int64_t i = first; i < tokens->count; i += o->stride, column += padded) {
    const float *const x = p->tokens_are_rows ? NAME(row)(p, i, padded) : column;
    NAME(sample)(p, x, o->length, to_bits(tokens->largest[i]));
  }
}
