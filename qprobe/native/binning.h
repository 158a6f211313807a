/* What the histograms of logits are told; see binning.c. */

#ifndef QPROBE_BINNING_H
#define QPROBE_BINNING_H

#include <stdint.h>

typedef struct {
  const float *logits, *target; /* [images, pixels] */
  int64_t images, pixels, bins;
  float limit, each; /* bins run from -limit on, so many of them a logit */
  int64_t *counts;   /* [images, 2, bins] */
} logits;

#endif
