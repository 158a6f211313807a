/* One read of a tensor: central moments of its channels, statistics of its tokens, and, on a sample of
 * the tokens, a histogram of magnitudes and the error of NVFP4 and INT4.
 *
 * A tensor is [outer, length, inner], dense, with the channels in the middle; a token is what has all
 * channels at one place. It is worked through in tiles that hold whole tokens and stay in cache: one
 * pass takes powers of the distances from numbers near the means, in float32; tiles are added up in
 * float64. qprobe/probes/summary.py says what the results mean.
 *
 * The caller owns every buffer; nothing is allocated here and nothing is kept between calls.
 */

#include "formats.h"
#include "variants.h"

#ifdef X86_VARIANTS
#include <immintrin.h>
#endif

enum { HISTOGRAM = 1, NVFP4 = 2, INT4 = 4 };

/* Numbers of bins. A quarter octave is an octave's quarter in width: the top two bits of a mantissa
 * choose it. Behind the bins of each histogram stands the count of tokens without a value. */
enum { SQUARE = 512, LARGEST = 256, KURTOSIS = 64, MAGNITUDES = 64 };
/* The exponents at which the bins start. */
enum { SQUARE_FIRST = -80, LARGEST_FIRST = -40, KURTOSIS_FIRST = 0, MAGNITUDE_FIRST = -40 };
enum { BIAS = 127, BLOCK = 16, WIDEST = 16, NONFINITE = 0x7F800000, EXPONENTS = 512 };
/* Elements of a tile, and how many tokens it holds at least and at most. */
enum { TILE = 98304, FEWEST = 8, MOST = 128, NARROWEST = 64, BROADEST = 1024 };
/* Columns gone through together: their sums stay in the nearest cache. */
enum { PANEL = 768 };

typedef struct {
  const void *x;
  int64_t type, outer, length, inner;
  int64_t fields, stride, offset; /* tokens offset, offset + stride, ... are sampled */
  double *reference;              /* what NVFP4 scales the tensor by: the largest magnitude so far */
  double *channels;               /* [6, length]: n, mean, M2, M3, M4, absmax */
  int64_t *tokens;                /* mean square, largest, kurtosis; tokens left out */
  int64_t *nonfinite;             /* NaN and infinite elements of the whole tensor */
  int64_t *magnitudes;            /* bins; zero, NaN, infinite */
  int64_t *counts;                /* elements, not zero, NVFP4 lost and saturated, INT4 lost */
  double *energy;                 /* signal, NVFP4 error, INT4 error */
  float *scratch;
} observation;

/* One axis of a tile: what is known of each of its channels or tokens, first sums of powers, then, of
 * tokens, mean and moments. */
typedef struct {
  int64_t count;
  float *lanes[5]; /* rows only: sum, second, third, fourth, largest, before lanes are added up */
  float *spare;    /* rows only: room for as many lanes */
  float *offset;   /* what is added to scaled values before their powers are taken; channels only */
  float *sum, *second, *third, *fourth, *largest;
} side;

typedef struct {
  int64_t at; /* the first element's place in the tensor */
  const void *from;
  int64_t rows, columns, pitch;
  int type;
  float scale;  /* the power of two that brings the largest magnitude near 1 */
  float offset; /* what is added to scaled values before powers are taken for tokens */
  side across, down; /* what columns are, what rows are */
} tile;

typedef struct {
  observation *o;
  int tokens_are_rows;
  int64_t first; /* the tile's first token */
  tile t;
  /* Tiles under one scale: where their first token begins, how many tokens they have, and by channel
   * four sums of powers and the largest magnitude. */
  int64_t run_at, run;
  double *raw[4];
  float *peak;
  float *pivots, pivot; /* numbers near the means of channels, and near those of tokens */
  uint32_t furthest;    /* bits of the largest magnitude among them */
  float *values;        /* room for a narrow tile, or for sampled tokens */
  float *block;         /* scales of a token's blocks, and what they are found with */
  uint32_t *exponents;  /* [4, 512]: four counts side by side, so that equal neighbours do not wait */
  tensor_scale tensor;
} pass;

INLINE int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t rounded_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

/* Tokens of a tile. */
static int64_t tokens_of_tile(int64_t length, int64_t inner) {
  if (inner == 1) return at_most(at_least(TILE / length, FEWEST), MOST);
  return at_most(at_most(at_least(TILE / length / NARROWEST * NARROWEST, NARROWEST), BROADEST), inner);
}

/* Bin of a positive number from its float's bits, `shift` octaves up. */
INLINE int32_t quarter_octave(uint32_t bits, int32_t first, int32_t count, int32_t shift) {
  const int32_t bin = (int32_t)(bits >> 21) + 4 * (shift - first - BIAS);
  return bin < 0 ? 0 : bin < count ? bin : count - 1;
}

/* The power of two that brings a magnitude into [1, 2), or, if that is not possible, near it. */
INLINE float lift_of(uint32_t magnitude_bits) {
  return from_bits((254u - min_u32(magnitude_bits >> 23, 253u)) << 23);
}

/* The same, but 1 where fourth powers need no help. */
INLINE float scale_of(uint32_t magnitude_bits) {
  const int32_t exponent = (int32_t)(magnitude_bits >> 23) - BIAS;
  return exponent >= -10 && exponent <= 20 ? 1.0f : lift_of(magnitude_bits);
}

/* Whether fourth powers need no other scale. */
INLINE int fits(uint32_t magnitude_bits, float scale) {
  const int32_t exponent = (int32_t)(magnitude_bits >> 23) + (int32_t)(to_bits(scale) >> 23) - 2 * BIAS;
  return scale == scale_of(magnitude_bits) || (exponent >= -10 && exponent <= 20);
}

/* Merge the moments of b[0] elements into a channel (Pébay 2008, equations 3.1); none change nothing. */
INLINE void merge(double *restrict n, int64_t length, const double *b) {
  double *mean = n + length, *m2 = mean + length, *m3 = m2 + length, *m4 = m3 + length;
  const double a = *n, m = b[0], total = a + m, part = total > 0.0 ? 1.0 / total : 0.0;
  const double d = b[1] - *mean, r = d * part, r2 = r * r, am = a * m;
  *m4 += b[4] + am * (a * a - am + m * m) * r2 * r * d + 6.0 * r2 * (a * a * b[2] + m * m * *m2) +
         4.0 * r * (a * b[3] - m * *m3);
  *m3 += b[3] + am * (a - m) * r2 * d + 3.0 * r * (a * b[2] - m * *m2);
  *m2 += b[2] + am * r * d;
  *mean += total > 0.0 ? d * (m / total) : 0.0; /* the first ones' mean, to the bit */
  *n = total;
}

#define NAME(f) JOIN(f, portable)
#define TARGET
#define LANES 4
#define ROWS 2
#define FMA(a, b, c) ((a) * (b) + (c))
#define LARGER(a, b) (((a) & ((a) > (b))) | ((b) & ~((a) > (b))))
#define SMALLER(a, b) (((a) & ((a) < (b))) | ((b) & ~((a) < (b))))
#include "summary_lanes.h"
#include "sample_lanes.h"
#include "tile_lanes.h"
#undef NAME
#undef TARGET
#undef LANES
#undef ROWS
#undef FMA
#undef LARGER
#undef SMALLER

#ifdef X86_VARIANTS
#define NAME(f) JOIN(f, avx2)
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define ROWS 2
#define FMA(a, b, c) ((NAME(floats))_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define LARGER(a, b) ((NAME(ints))_mm256_max_epi32((__m256i)(a), (__m256i)(b)))
#define SMALLER(a, b) ((NAME(ints))_mm256_min_epi32((__m256i)(a), (__m256i)(b)))
#include "summary_lanes.h"
#include "sample_lanes.h"
#include "tile_lanes.h"
#undef NAME
#undef TARGET
#undef LANES
#undef ROWS
#undef FMA
#undef LARGER
#undef SMALLER
#define NAME(f) JOIN(f, avx512)
#define TARGET __attribute__((target(AVX512_FEATURES ",fma")))
#define LANES 16
#define ROWS 4
#define FMA(a, b, c) ((NAME(floats))_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define LARGER(a, b) ((NAME(ints))_mm512_max_epi32((__m512i)(a), (__m512i)(b)))
#define SMALLER(a, b) ((NAME(ints))_mm512_min_epi32((__m512i)(a), (__m512i)(b)))
#include "summary_lanes.h"
#include "sample_lanes.h"
#include "tile_lanes.h"
#endif

static float *take(float **from, int64_t n) {
  float *room = *from;
  *from += rounded_up(n, WIDEST);
  return room;
}

/* Lay the working memory out, or, from a null pointer, see how far it reaches. */
static float *lay_out(pass *p, float *room, int64_t length, int64_t inner) {
  const int64_t tokens = tokens_of_tile(length, inner);
  const int64_t rows = inner == 1 ? tokens : length, columns = inner == 1 ? length : tokens;
  side *sides[2] = {&p->t.across, &p->t.down};
  const int64_t sizes[2] = {at_least(columns, WIDEST), rows};
  for (int i = 0; i < 2; i++) {
    float **parts[6] = {&sides[i]->offset, &sides[i]->sum,    &sides[i]->second,
                        &sides[i]->third,  &sides[i]->fourth, &sides[i]->largest};
    for (int k = 0; k < 6; k++) *parts[k] = take(&room, sizes[i]);
  }
  for (int k = 0; k < 5; k++) p->t.down.lanes[k] = take(&room, rows * WIDEST);
  p->t.down.spare = take(&room, rows * WIDEST);
  p->raw[0] = (double *)(void *)take(&room, 8 * length);
  for (int k = 1; k < 4; k++) p->raw[k] = p->raw[0] + k * length;
  p->peak = take(&room, length);
  p->pivots = take(&room, length);
  p->values = take(&room, at_least(rows * WIDEST, tokens * rounded_up(length, BLOCK)));
  p->block = take(&room, rounded_up(length, BLOCK) * 2);
  p->exponents = (uint32_t *)take(&room, 4 * EXPONENTS);
  return room;
}

/* Floats of working memory that a tensor of this shape needs. */
EXPORT int64_t qprobe_summary_scratch(int64_t length, int64_t inner) {
  pass p;
  return (lay_out(&p, (float *)(uintptr_t)64, length, inner) - (float *)(uintptr_t)64);
}

static void count_exponents(const pass *p) {
  int64_t *bins = p->o->magnitudes;
  if (!(p->o->fields & HISTOGRAM)) return;
  for (int e = 0; e < 256; e++) {
    int64_t n = 0;
    for (int k = 0; k < 8; k++) n += p->exponents[256 * k + e];
    bins[at_most(at_least(e - BIAS - MAGNITUDE_FIRST, 0), MAGNITUDES - 1)] += n;
  }
}

/* A tensor of which nothing was seen before is read once more, for its largest finite magnitude. */
static void find_reference(observation *o) {
  uint32_t top = 0;
  if (*o->reference > 0.0 || !(o->fields & NVFP4)) return;
  CALL(largest, o->x, o->type, o->outer * o->length * o->inner, &top);
  *o->reference = from_bits(top);
}

EXPORT void qprobe_summarise(observation *o) {
  pass p = {.o = o, .tokens_are_rows = o->inner == 1};
  lay_out(&p, o->scratch, o->length, o->inner);
  find_reference(o);
  p.tensor = tensor_scale_of((float)*o->reference);
  if (o->fields & HISTOGRAM) memset(p.exponents, 0, 4 * EXPONENTS * sizeof(uint32_t));
  CALL(summarise, &p);
  count_exponents(&p);
  for (int64_t c = 0; c < o->length; c++) {
    const double largest = o->channels[5 * o->length + c];
    if (*o->reference < largest) *o->reference = largest;
  }
}
