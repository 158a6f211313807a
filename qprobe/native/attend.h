/* What attention in evaluation is told; see attend.c. */

#ifndef QPROBE_ATTEND_H
#define QPROBE_ATTEND_H

#include <stdint.h>

/* [batch, heads, tokens, channels], channels dense; how far samples, heads and tokens are apart. */
typedef struct {
  const float *first;
  int64_t sample, head, token;
} vectors;

typedef struct {
  vectors q, k, v;
  vectors bias; /* to logits, [batch, heads, queries, keys], or of nothing */
  vectors out;
  int64_t batch, heads, queries, keys, depth, width;
  float scale;
  float *scratch; /* qprobe_attend_scratch(keys, depth) of them */
} attending;

#endif
