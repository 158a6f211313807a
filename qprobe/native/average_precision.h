/* What average precision is told; see average_precision.c. */

#ifndef QPROBE_AVERAGE_PRECISION_H
#define QPROBE_AVERAGE_PRECISION_H

#include <stdint.h>

/* Counts [rows, bins] of either kind by rising score; both lie alike, steps are in elements. */
typedef struct {
  const double *negatives, *positives;
  int64_t rows, bins, row, bin;
  /* Of each row what its positives add, and how many they are. */
  double *total, *hits;
} binned;

#endif
