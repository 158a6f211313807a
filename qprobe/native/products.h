/* What products of rows are told; see products.c. */

#ifndef QPROBE_PRODUCTS_H
#define QPROBE_PRODUCTS_H

#include <stdint.h>

typedef struct {
  const float *a, *b; /* [batch, rows, depth] and [batch, columns, depth] */
  int64_t across;     /* whether b is [batch, depth, columns] instead */
  float *out;         /* [batch, rows, columns] */
  int64_t batch, rows, columns, depth;
  double scale;   /* a float32 number */
  float *scratch; /* qprobe_products_scratch(depth) of them */
} products;

int64_t qprobe_products_scratch(int64_t depth);
void qprobe_products(const products *p);

#endif
