/* What a linear layer with quantized operands is told; see linear.c. */

#ifndef QPROBE_LINEAR_H
#define QPROBE_LINEAR_H

#include <stdint.h>

/* How x is rounded: to E2M1 in blocks of sixteen, or to integers that share a scale in a row or all. */
enum { BLOCKS = 0, ROW = 1, TENSOR = 2 };

typedef struct {
  const float *x; /* [rows, inputs] */
  float *y;       /* [rows, outputs] */
  int64_t rows, inputs, outputs;
  int64_t form;
  double largest; /* of integers */
  /* The rounded weight in bfloat16, [outputs / PANEL, depth / 2, PANEL, 2], what is missing zero. */
  const uint16_t *weight;
  const float *scale; /* of each output */
  const float *bias;  /* of each output, or null */
  void *scratch;      /* qprobe_linear_scratch(inputs) bytes */
} linear;

#endif
