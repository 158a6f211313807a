/* Attention as it is, for evaluation: out = softmax(q·kᵀ·scale + bias)·v in float32.
 *
 * A few queries at a time meet all keys of their head while these are in the cache. Products are
 * fused with their sums, and the exponential is off by less than 1.5 units in the last place. Only
 * for processors with AVX-512; elsewhere PyTorch attends.
 *
 * The caller owns every buffer; nothing is kept between calls.
 */

#include "attend.h"
#include "formats.h"
#include "variants.h"

#include <math.h>

#ifdef X86_VARIANTS

#include <immintrin.h>

#define WIDE __attribute__((target(AVX512_FEATURES ",fma")))

/* Numbers of a vector, and queries that are worked on together. */
enum { LANES = 16, TILE = 8 };

INLINE int64_t whole(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

WIDE INLINE __mmask16 up_to(int64_t n) { return (__mmask16)(n < LANES ? (1u << (n > 0 ? n : 0)) - 1 : 0xFFFF); }

/* e^x for x <= 0 and NaN: 2^n times the series of e^r to r^7, |r| <= ln 2 / 2, ln 2 in two parts. */
WIDE INLINE __m512 exponential(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 sum = _mm512_set1_ps(1.0f / 5040);
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 720));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 120));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 24));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 6));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(0.5f));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f));
  /* Of minus infinity r is NaN. */
  const __mmask16 gone = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-104.0f), _CMP_LT_OQ);
  return _mm512_mask_mov_ps(_mm512_scalef_ps(sum, n), gone, _mm512_setzero_ps());
}

/* Columns of sixteen rows become rows; `channels` of each are there, what is missing is zero. */
WIDE static void transpose(const float *from, int64_t step, int64_t rows, int64_t channels, float *to,
                           int64_t stride) {
  __m512 a[LANES], b[LANES];
  const __mmask16 there = up_to(channels);
#pragma GCC unroll 16
  for (int i = 0; i < LANES; i++)
    a[i] = i < rows ? _mm512_maskz_loadu_ps(there, from + i * step) : _mm512_setzero_ps();
#pragma GCC unroll 8
  for (int i = 0; i < LANES; i += 2) {
    b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < LANES; i += 4) { /* a[i + j]: column 4·lane + j of rows i to i + 3 */
    a[i] = _mm512_shuffle_ps(b[i], b[i + 2], 0x44);
    a[i + 1] = _mm512_shuffle_ps(b[i], b[i + 2], 0xEE);
    a[i + 2] = _mm512_shuffle_ps(b[i + 1], b[i + 3], 0x44);
    a[i + 3] = _mm512_shuffle_ps(b[i + 1], b[i + 3], 0xEE);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    const __m512 even = _mm512_shuffle_f32x4(a[j], a[j + 4], 0x88), odd = _mm512_shuffle_f32x4(a[j], a[j + 4], 0xDD);
    const __m512 even2 = _mm512_shuffle_f32x4(a[j + 8], a[j + 12], 0x88);
    const __m512 odd2 = _mm512_shuffle_f32x4(a[j + 8], a[j + 12], 0xDD);
    b[j] = _mm512_shuffle_f32x4(even, even2, 0x88);
    b[j + 4] = _mm512_shuffle_f32x4(odd, odd2, 0x88);
    b[j + 8] = _mm512_shuffle_f32x4(even, even2, 0xDD);
    b[j + 12] = _mm512_shuffle_f32x4(odd, odd2, 0xDD);
  }
#pragma GCC unroll 16
  for (int i = 0; i < LANES; i++)
    if (i < channels) _mm512_storeu_ps(to + i * stride, b[i]);
}

/* sums[TILE, n of LANES] of left [TILE, depth] times right [depth, LANES·n]; the last columns of
 * `right` may be missing. Its rows are `step`, those of `left` `stride` apart. */
#define PRODUCT(NAME_, VECTORS)                                                                      \
  WIDE INLINE void NAME_(const float *left, int64_t stride, const float *right, int64_t step,        \
                         int64_t depth, __mmask16 last, __m512 sums[TILE][VECTORS]) {                \
    _Pragma("GCC unroll 8") for (int i = 0; i < TILE; i++)                                           \
      _Pragma("GCC unroll 2") for (int j = 0; j < VECTORS; j++) sums[i][j] = _mm512_setzero_ps();    \
    for (int64_t c = 0; c < depth; c++, right += step) {                                             \
      __m512 column[VECTORS];                                                                        \
      _Pragma("GCC unroll 2") for (int j = 0; j < VECTORS; j++)                                      \
        column[j] = _mm512_maskz_loadu_ps(j + 1 < VECTORS ? 0xFFFF : last, right + j * LANES);       \
      _Pragma("GCC unroll 8") for (int i = 0; i < TILE; i++) {                                       \
        const __m512 one = _mm512_set1_ps(left[i * stride + c]);                                     \
        _Pragma("GCC unroll 2") for (int j = 0; j < VECTORS; j++)                                    \
          sums[i][j] = _mm512_fmadd_ps(one, column[j], sums[i][j]);                                  \
      }                                                                                              \
    }                                                                                                \
  }

PRODUCT(one_vector, 1)
PRODUCT(two_vectors, 2)

/* Logits of TILE queries, without scale and bias. */
WIDE static void logits_of(const float *q, int64_t step, const float *keys, int64_t depth, int64_t padded,
                           float *s) {
  int64_t at = 0;
  for (; at + 2 * LANES <= padded; at += 2 * LANES) {
    __m512 sums[TILE][2];
    two_vectors(q, step, keys + at, padded, depth, 0xFFFF, sums);
#pragma GCC unroll 8
    for (int i = 0; i < TILE; i++) {
      _mm512_storeu_ps(s + i * padded + at, sums[i][0]);
      _mm512_storeu_ps(s + i * padded + at + LANES, sums[i][1]);
    }
  }
  if (at < padded) {
    __m512 sums[TILE][1];
    one_vector(q, step, keys + at, padded, depth, 0xFFFF, sums);
#pragma GCC unroll 8
    for (int i = 0; i < TILE; i++) _mm512_storeu_ps(s + i * padded + at, sums[i][0]);
  }
}

/* A row of logits becomes what its softmax is times its sum, which is returned. A query that may
 * look nowhere attends to nothing. */
WIDE INLINE float exponentials(float *s, int64_t keys, float scale, const float *bias) {
  const __m512 none = _mm512_set1_ps(-INFINITY);
  __m512 top = none, sum = _mm512_setzero_ps();
  for (int64_t at = 0; at < keys; at += LANES) {
    const __mmask16 there = up_to(keys - at);
    __m512 x = _mm512_mul_ps(_mm512_loadu_ps(s + at), _mm512_set1_ps(scale));
    if (bias) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(there, bias + at));
    x = _mm512_mask_mov_ps(none, there, x);
    top = _mm512_max_ps(top, x);
    _mm512_storeu_ps(s + at, x);
  }
  const float largest = _mm512_reduce_max_ps(top);
  const __m512 from = _mm512_set1_ps(largest == -INFINITY ? 0.0f : largest);
  for (int64_t at = 0; at < keys; at += LANES) {
    const __m512 e = exponential(_mm512_sub_ps(_mm512_loadu_ps(s + at), from));
    sum = _mm512_add_ps(sum, e);
    _mm512_storeu_ps(s + at, e);
  }
  return _mm512_reduce_add_ps(sum);
}

/* What `rows` queries get: their weights times v, of which `width` channels are there. */
WIDE static void values_of(const attending *p, const float *s, int64_t padded, const float *inverse,
                           const float *v, int64_t rows, float *out) {
  int64_t at = 0;
  for (; at + LANES < p->width; at += 2 * LANES) {
    const __mmask16 last = up_to(p->width - at - LANES);
    __m512 sums[TILE][2];
    two_vectors(s, padded, v + at, p->v.token, p->keys, last, sums);
#pragma GCC unroll 8
    for (int i = 0; i < TILE; i++)
      if (i < rows) {
        const __m512 scale = _mm512_set1_ps(inverse[i]);
        _mm512_storeu_ps(out + i * p->out.token + at, _mm512_mul_ps(sums[i][0], scale));
        _mm512_mask_storeu_ps(out + i * p->out.token + at + LANES, last, _mm512_mul_ps(sums[i][1], scale));
      }
  }
  if (at < p->width) {
    const __mmask16 last = up_to(p->width - at);
    __m512 sums[TILE][1];
    one_vector(s, padded, v + at, p->v.token, p->keys, last, sums);
#pragma GCC unroll 8
    for (int i = 0; i < TILE; i++)
      if (i < rows)
        _mm512_mask_storeu_ps(out + i * p->out.token + at, last, _mm512_mul_ps(sums[i][0], _mm512_set1_ps(inverse[i])));
  }
}

INLINE const float *place(const vectors *x, int64_t sample, int64_t head) {
  return x->first + sample * x->sample + head * x->head;
}

WIDE static void one_head(const attending *p, int64_t sample, int64_t head) {
  const int64_t padded = whole(p->keys), depth = p->depth;
  float *keys = p->scratch, *s = keys + depth * padded, *q = s + TILE * padded;
  const float *from = place(&p->q, sample, head), *k = place(&p->k, sample, head), *v = place(&p->v, sample, head);
  const float *bias = p->bias.first ? place(&p->bias, sample, head) : 0;
  float *out = (float *)place(&p->out, sample, head);
  for (int64_t key = 0; key < p->keys; key += LANES)
    for (int64_t c = 0; c < depth; c += LANES)
      transpose(k + key * p->k.token + c, p->k.token, p->keys - key, depth - c, keys + c * padded + key, padded);
  for (int64_t query = 0; query < p->queries; query += TILE) {
    const int64_t rows = p->queries - query < TILE ? p->queries - query : TILE;
    float inverse[TILE];
    const float *here = from + query * p->q.token;
    if (rows == TILE) {
      logits_of(here, p->q.token, keys, depth, padded, s);
    } else { /* missing queries repeat the last one */
      for (int64_t i = 0; i < TILE; i++)
        memcpy(q + i * depth, here + (i < rows ? i : rows - 1) * p->q.token, sizeof(float) * depth);
      logits_of(q, depth, keys, depth, padded, s);
    }
    for (int64_t i = 0; i < rows; i++) {
      const float sum = exponentials(s + i * padded, p->keys, p->scale,
                                     bias ? bias + (query + i) * p->bias.token : 0);
      inverse[i] = sum == 0.0f ? 0.0f : 1.0f / sum;
    }
    values_of(p, s, padded, inverse, v, rows, out + query * p->out.token);
  }
}

EXPORT int qprobe_attend_usable(void) { return qprobe_selected == AVX512; }

EXPORT void qprobe_attend(const attending *p) {
  for (int64_t sample = 0; sample < p->batch; sample++)
    for (int64_t head = 0; head < p->heads; head++) one_head(p, sample, head);
}

/* Floats of working memory. */
EXPORT int64_t qprobe_attend_scratch(int64_t keys, int64_t depth) {
  return (depth + TILE) * whole(keys) + TILE * depth;
}

#else

EXPORT int qprobe_attend_usable(void) { return 0; }
EXPORT void qprobe_attend(const attending *p) { (void)p; }
EXPORT int64_t qprobe_attend_scratch(int64_t keys, int64_t depth) { return keys * depth; }

#endif
