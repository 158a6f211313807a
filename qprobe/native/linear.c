/* A linear layer with quantized operands, for evaluation: a few rows of x are rounded at a time and
 * multiplied while they are in the cache, y = x_q·w_qᵀ + bias.
 *
 * What is rounded to is documented in qprobe/quant/blockscale.py and integer.py. A number of E2M1
 * times a scale of E4M3 has six significant bits and an integer of eight bits seven: both are
 * bfloat16 numbers, so their products are exact, and are summed in float32, as the hardware does.
 * What the tensor, the row or the column has in common is multiplied with the sum. Only for
 * processors that multiply bfloat16; elsewhere a library multiplies float32 numbers.
 *
 * The caller owns every buffer; nothing is kept between calls.
 */

#include "linear.h"
#include "formats.h"
#include "variants.h"

/* Older compilers do not know the instructions. */
#if defined(X86_VARIANTS) && ((defined(__clang__) && __clang_major__ >= 9) || (!defined(__clang__) && __GNUC__ >= 10))

#include <immintrin.h>

#define DOT __attribute__((target(AVX512_FEATURES ",avx512bf16")))

/* Numbers of a vector; rows and columns of a tile; rows that are rounded together. */
enum { LANES = 16, TILE = 12, PANEL = 2 * LANES, TOGETHER = 4 * TILE };

/* Rounded rows, and of their blocks or of themselves the scales. */
typedef struct {
  uint16_t *rounded;     /* [TOGETHER, depth] */
  float *stored, *encode; /* [TOGETHER, blocks] */
  float shared[TOGETHER]; /* what a row's sums are multiplied with */
} workspace;

INLINE int64_t whole(int64_t n, int64_t of) { return (n + of - 1) / of * of; }

DOT INLINE __mmask16 up_to(int64_t n) { return (__mmask16)(n < LANES ? (1u << (n > 0 ? n : 0)) - 1 : 0xFFFF); }

DOT INLINE __m512 absolute(__m512 x) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), x); }

/* Sixteen magnitudes that bfloat16 can hold, with the signs of x. */
DOT INLINE void put(uint16_t *to, __m512 value, __m512 x) {
  const __m512i sign = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(INT32_MIN));
  const __m512i bits = _mm512_or_si512(_mm512_castps_si512(value), sign);
  _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
}

/* The largest magnitude by its bits: their order is that of the numbers, with NaN on top. */
DOT static float largest_of(const float *x, int64_t n) {
  __m512i top = _mm512_setzero_si512();
  for (int64_t i = 0; i < n; i += LANES)
    top = _mm512_max_epu32(
        top, _mm512_castps_si512(absolute(_mm512_maskz_loadu_ps(up_to(n - i), x + i))));
  return from_bits(_mm512_reduce_max_epu32(top));
}

/* E2M1 of x·encode, times the stored scale of the block. */
DOT static void round_block(const float *x, int64_t n, float encode, float stored, uint16_t *to) {
  const __m512 v = _mm512_maskz_loadu_ps(up_to(n), x);
  const __m512 a =
      _mm512_min_ps(absolute(_mm512_mul_ps(v, _mm512_set1_ps(encode))), _mm512_set1_ps(6.0f));
  const __m512i exponent = _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7F800000));
  const __m512 step = _mm512_max_ps(_mm512_castsi512_ps(exponent), _mm512_set1_ps(1.0f));
  const __m512 c = _mm512_mul_ps(step, _mm512_set1_ps(6291456.0f));
  const __m512 q = _mm512_sub_ps(_mm512_add_ps(a, c), c);
  put(to, _mm512_mul_ps(q, _mm512_set1_ps(stored)), v);
}

DOT static void round_blocks(const linear *p, const float *x, int64_t rows, int64_t depth,
                             const tensor_scale *t, workspace *w) {
  const int64_t blocks = depth / LANES, count = rows * blocks;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t left = p->inputs - b * LANES;
      w->stored[r * blocks + b] = largest_of(x + r * p->inputs + b * LANES, left < LANES ? left : LANES);
    }
  for (int64_t i = 0; i < count; i++) {
    const float s = e4m3(w->stored[i] * t->block_factor);
    w->stored[i] = s;
    w->encode[i] = 1.0f / (s * t->decode); /* infinite where s is zero, and so is what comes of it */
  }
  for (int64_t r = 0; r < rows; r++)
    for (int64_t b = 0; b < blocks; b++)
      round_block(x + r * p->inputs + b * LANES, p->inputs - b * LANES, w->encode[r * blocks + b],
                  w->stored[r * blocks + b], w->rounded + r * depth + b * LANES);
}

/* Integers of a row; returns its scale. */
DOT static float round_row(const float *x, int64_t n, float absmax, float largest, uint16_t *to) {
  const float up = absmax > 0.0f && absmax < FLT_MIN * largest ? 0x1p64f : 1.0f;
  const float lifted = absmax == 0.0f ? 1.0f : absmax * up / largest;
  const __m512 lift = _mm512_set1_ps(up), inverse = _mm512_set1_ps(1.0f / lifted);
  const __m512 c = _mm512_set1_ps(12582912.0f), top = _mm512_set1_ps(largest);
  for (int64_t i = 0; i < n; i += LANES) {
    const __m512 v = _mm512_maskz_loadu_ps(up_to(n - i), x + i);
    const __m512 a = absolute(_mm512_mul_ps(_mm512_mul_ps(v, lift), inverse));
    put(to + i, _mm512_min_ps(_mm512_sub_ps(_mm512_add_ps(a, c), c), top), v);
  }
  return lifted / up;
}

/* A tile of y: TILE rounded rows with a panel of the weight, of which `rows` and `columns` are there. */
DOT static void tile(const linear *p, const uint16_t *a, int64_t depth, const float *shared,
                     int64_t rows, int64_t column, float *y) {
  const uint16_t *panel = p->weight + column * depth;
  __m512 sums[TILE][2];
#pragma GCC unroll 12
  for (int i = 0; i < TILE; i++) sums[i][0] = sums[i][1] = _mm512_setzero_ps();
  for (int64_t c = 0; c < depth; c += 2, panel += 2 * PANEL) {
    const __m512bh left = (__m512bh)_mm512_loadu_si512(panel);
    const __m512bh right = (__m512bh)_mm512_loadu_si512(panel + PANEL);
#pragma GCC unroll 12
    for (int i = 0; i < TILE; i++) {
      int32_t pair;
      memcpy(&pair, a + i * depth + c, 4);
      const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
      sums[i][0] = _mm512_dpbf16_ps(sums[i][0], both, left);
      sums[i][1] = _mm512_dpbf16_ps(sums[i][1], both, right);
    }
  }
#pragma GCC unroll 2
  for (int half = 0; half < 2; half++) {
    const int64_t at = column + half * LANES;
    const __mmask16 there = up_to(p->outputs - at);
    if (!there) break;
    const __m512 scale = _mm512_maskz_loadu_ps(there, p->scale + at);
    const __m512 bias = p->bias ? _mm512_maskz_loadu_ps(there, p->bias + at) : _mm512_setzero_ps();
#pragma GCC unroll 12
    for (int i = 0; i < TILE; i++)
      if (i < rows) {
        const __m512 sum = _mm512_mul_ps(_mm512_mul_ps(sums[i][half], _mm512_set1_ps(shared[i])), scale);
        _mm512_mask_storeu_ps(y + i * p->outputs + at, there, _mm512_add_ps(sum, bias));
      }
  }
}

/* `rows` of x, rounded in the form that is asked for. */
DOT static void round_rows(const linear *p, const float *x, int64_t rows, int64_t depth, float absmax,
                           workspace *w) {
  if (p->form == BLOCKS) {
    const tensor_scale t = tensor_scale_of(absmax);
    round_blocks(p, x, rows, depth, &t, w);
    for (int64_t r = 0; r < rows; r++) w->shared[r] = t.decode_first * t.decode_second;
    return;
  }
  for (int64_t r = 0; r < rows; r++) {
    const float *row = x + r * p->inputs;
    const float top = p->form == ROW ? largest_of(row, p->inputs) : absmax;
    w->shared[r] = round_row(row, p->inputs, top, (float)p->largest, w->rounded + r * depth);
  }
}

DOT static void multiply(const linear *p) {
  const int64_t depth = whole(p->inputs, LANES);
  const float absmax = p->form == ROW ? 0.0f : largest_of(p->x, p->rows * p->inputs);
  workspace w;
  w.stored = p->scratch;
  w.encode = w.stored + TOGETHER * depth / LANES;
  w.rounded = (uint16_t *)(w.encode + TOGETHER * depth / LANES);
  for (int64_t r = 0; r < p->rows; r += TOGETHER) {
    const int64_t rows = p->rows - r < TOGETHER ? p->rows - r : TOGETHER;
    round_rows(p, p->x + r * p->inputs, rows, depth, absmax, &w);
    memset(w.rounded + rows * depth, 0, sizeof(uint16_t) * (TOGETHER - rows) * depth);
    for (int64_t column = 0; column < p->outputs; column += PANEL)
      for (int64_t i = 0; i < rows; i += TILE)
        tile(p, w.rounded + i * depth, depth, w.shared + i, rows - i, column,
             p->y + (r + i) * p->outputs);
  }
}

/* Whether this processor has what it takes. */
EXPORT int qprobe_linear_usable(void) {
  __builtin_cpu_init();
  return qprobe_selected == AVX512 && __builtin_cpu_supports("avx512bf16");
}

EXPORT void qprobe_linear(const linear *p) { multiply(p); }

/* Bytes of working memory for rows of so many numbers. */
EXPORT int64_t qprobe_linear_scratch(int64_t inputs) {
  const int64_t depth = whole(inputs, LANES);
  return TOGETHER * (2 * depth / LANES * (int64_t)sizeof(float) + depth * (int64_t)sizeof(uint16_t));
}

#else

EXPORT int qprobe_linear_usable(void) { return 0; }
EXPORT void qprobe_linear(const linear *p) { (void)p; }
EXPORT int64_t qprobe_linear_scratch(int64_t inputs) { (void)inputs; return 0; }

#endif
