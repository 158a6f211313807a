/* What the statistics of attention's rows are told; see attention.c. */

#ifndef QPROBE_ATTENTION_H
#define QPROBE_ATTENTION_H

#include <stdint.h>

/* Bins of 1/64 octave from 2^-20 to 1; behind them what is in none. */
enum { STEPS = 64, OCTAVES = 20, BINS = STEPS * OCTAVES + 1 };

typedef struct {
  const void *before, *after; /* logits [samples, heads, queries, keys] */
  const void *bias;           /* added to both, of the same shape, or null */
  const uint8_t *visible;     /* of the same shape, or null where nothing is hidden */
  int64_t wide;               /* whether logits and bias are double, not float */
  int64_t samples, heads, queries, keys;
  int64_t *counts; /* logits: [2, heads]; softmax: [5, heads] */
  double *sums;    /* [2, 2, heads]: each a sum and what rounding left out of it, which is zero */
  int32_t *levels; /* softmax: [2, BINS, heads] */
  double *scratch; /* qprobe_attention_scratch(keys) of them */
} attention;

int64_t qprobe_attention_scratch(int64_t keys);
int qprobe_logit_error(const attention *a);
int qprobe_softmax_change(const attention *a);

#endif
