/* What is measured of one sampled token, written one element at a time for the compiler to turn into
 * vector code. summary.c includes this file once per instruction set. The arithmetic of the formats is
 * that of kernels.c, so that counts are those of the PyTorch path.
 */

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

TARGET static void NAME(count_magnitudes)(pass *p, const float *restrict x, int64_t n) {
  uint32_t *restrict e = p->exponents;
  const uint32_t *bits = (const uint32_t *)x;
  int64_t i = 0, zeros = 0;
  for (; i + 4 <= n; i += 4) {
    e[(bits[i] >> 23) & 255]++;
    e[256 + ((bits[i + 1] >> 23) & 255)]++;
    e[512 + ((bits[i + 2] >> 23) & 255)]++;
    e[768 + ((bits[i + 3] >> 23) & 255)]++;
  }
  for (; i < n; i++) e[(bits[i] >> 23) & 255]++;
  for (i = 0; i < n; i++) zeros += (bits[i] & 0x7FFFFFFFu) == 0;
  p->o->magnitudes[0] -= zeros; /* they were counted with the smallest numbers */
  p->o->magnitudes[MAGNITUDES] += zeros;
}

/* The same for a token that has NaN or infinite elements. */
TARGET static void NAME(count_nonfinite)(pass *p, const float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    const uint32_t a = magnitude(x[i]);
    if (a < NONFINITE) NAME(count_magnitudes)(p, x + i, 1);
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

TARGET static void NAME(nvfp4_error)(pass *p, const float *restrict x, int64_t blocks, float lift) {
  float *encode = p->block, *decode = p->block + blocks;
  float error[WIDTH] = {0};
  int32_t lost[WIDTH] = {0}, saturated[WIDTH] = {0};
  NAME(scales)(p, x, blocks, encode, decode);
  for (int64_t b = 0; b < blocks; b++)
    for (int k = 0; k < WIDTH; k++) {
      const uint32_t a = magnitude(x[b * BLOCK + k]);
      const uint32_t y = magnitude(x[b * BLOCK + k] * encode[b]);
      const float q = e2m1_nearest(y);
      const float d = (q * decode[b] - from_bits(a)) * lift;
      error[k] += d * d;
      lost[k] += (q == 0.0f) & (a != 0);
      saturated[k] += from_bits(y) > SATURATED;
    }
  add_up(p, 1, error, lift);
  p->o->counts[2] += total(lost);
  p->o->counts[3] += total(saturated);
}

#undef SATURATED

/* One scale for the token; a subnormal scale is lifted, as its inverse may not be finite. */
TARGET static void NAME(int4_error)(pass *p, const float *restrict x, int64_t n, float top, float lift) {
  const float up = top > 0.0f && top < FLT_MIN * 7.0f ? 0x1p64f : 1.0f;
  const float lifted = top == 0.0f ? 1.0f : top * up / 7.0f;
  const float scale = lifted / up, inverse = 1.0f / lifted;
  float error[WIDTH] = {0};
  int32_t lost[WIDTH] = {0};
  for (int64_t i = 0; i < n; i += WIDTH)
    for (int k = 0; k < WIDTH; k++) {
      const float a = from_bits(magnitude(x[i + k]));
      const float y = a * up * inverse + 12582912.0f; /* 1.5·2^23: what is left is an integer */
      const float code = y - 12582912.0f;
      const float d = ((code > 7.0f ? 7.0f : code) * scale - a) * lift;
      error[k] += d * d;
      lost[k] += (code == 0.0f) & (a != 0.0f);
    }
  add_up(p, 2, error, lift);
  p->o->counts[4] += total(lost);
}

TARGET static void NAME(signal)(pass *p, const float *restrict x, int64_t n, float lift) {
  float energy[WIDTH] = {0};
  int32_t there[WIDTH] = {0};
  for (int64_t i = 0; i < n; i += WIDTH)
    for (int k = 0; k < WIDTH; k++) {
      const float a = x[i + k] * lift;
      energy[k] += a * a;
      there[k] += x[i + k] != 0.0f;
    }
  add_up(p, 0, energy, lift);
  p->o->counts[1] += total(there);
}

/* A token of the tile as a row that is padded with zeros to whole blocks. */
TARGET static const float *NAME(gather)(pass *p, int64_t token) {
  const tile *t = &p->t;
  const int64_t n = p->o->length, padded = rounded_up(n, BLOCK);
  if (p->tokens_are_rows && n == padded) return t->x + token * t->stride;
  const float *const x = t->x + token * (p->tokens_are_rows ? t->stride : 1);
  const int64_t step = p->tokens_are_rows ? 1 : t->stride;
  float *const row = p->row;
  for (int64_t i = 0; i < n; i++) row[i] = x[i * step];
  for (int64_t i = n; i < padded; i++) row[i] = 0.0f;
  return row;
}

TARGET static void NAME(sample)(pass *p, int64_t token, uint32_t top) {
  observation *o = p->o;
  const int64_t padded = rounded_up(o->length, BLOCK);
  const float *x = NAME(gather)(p, token);
  if (o->fields & HISTOGRAM) {
    if (top >= NONFINITE) NAME(count_nonfinite)(p, x, o->length);
    else NAME(count_magnitudes)(p, x, o->length);
  }
  if (top >= NONFINITE || !(o->fields & (NVFP4 | INT4))) return;
  const float lift = lift_of(top);
  o->counts[0] += o->length;
  NAME(signal)(p, x, padded, lift);
  if (o->fields & NVFP4) NAME(nvfp4_error)(p, x, padded / BLOCK, lift);
  if (o->fields & INT4) NAME(int4_error)(p, x, padded, from_bits(top), lift);
}

/* Sampled tokens of the tile. */
TARGET static void NAME(sample_tile)(pass *p, const side *tokens) {
  const observation *o = p->o;
  if (!o->fields) return;
  const int64_t late = (p->first - o->offset) % o->stride;
  for (int64_t i = late ? o->stride - (late < 0 ? late + o->stride : late) : 0; i < tokens->count;
       i += o->stride)
    NAME(sample)(p, i, to_bits(tokens->largest[i]));
}
