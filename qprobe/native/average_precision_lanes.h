/* Average precision once per instruction set; see average_precision.c. */

/* What digamma's recurrence adds below SERIES, and start moved up there; p and start may be any
 * numbers >= 0: psi(a + p) - psi(a) = p / (a (a + p)) + psi(a + 1 + p) - psi(a + 1). */
TARGET static void NAME(low_terms)(double *restrict start, const double *restrict p, double *restrict out) {
  double each[ROWS];
  for (int i = 0; i < ROWS; i++) each[i] = 0.0;
  for (int k = 1; k <= SERIES; k++)
    for (int i = 0; i < ROWS; i++) each[i] += 1.0 / ((start[i] + k) * (start[i] + k + p[i]));
  for (int i = 0; i < ROWS; i++) {
    const double low = start[i] < SERIES ? 1.0 : 0.0;
    out[i] = low * p[i] * each[i];
    start[i] += low * SERIES;
  }
}

/* Sums 1/(start + i) for i = 1..p, of each row. */
TARGET static void NAME(harmonic)(double *restrict start, const double *restrict p, double *restrict out) {
  uint64_t low = 0;
  for (int i = 0; i < ROWS; i++) low |= start[i] < SERIES ? UINT64_MAX : 0;
  for (int i = 0; i < ROWS; i++) out[i] = 0.0;
  if (low) NAME(low_terms)(start, p, out);
  for (int i = 0; i < ROWS; i++) {
    const double first = start[i] + 0.5, last = first + p[i], both = 1.0 / (first * last);
    out[i] += log_ratio(first, last, p[i], both * last) + (tail(both * first) - tail(both * last));
  }
}

/* The counts of a bin; `dense` is known to the compiler. */
TARGET INLINE void NAME(take)(const double *restrict from, const int64_t *restrict at, int dense,
                              double *restrict to) {
  for (int i = 0; i < ROWS; i++) to[i] = from[dense ? at[0] + i : at[i]];
}

/* What some rows' positives add, and their number; the rows lie at `at`. */
TARGET INLINE void NAME(some_rows)(const binned *b, const int64_t *at, int dense, double *restrict total,
                                   double *restrict hits) {
  double misses[ROWS], n[ROWS], p[ROWS], start[ROWS], moved[ROWS], part[ROWS], sums[ROWS];
  for (int i = 0; i < ROWS; i++) total[i] = hits[i] = misses[i] = 0.0;
  for (int64_t bin = b->bins - 1; bin >= 0; bin--) {
    NAME(take)(b->negatives + bin * b->bin, at, dense, n);
    NAME(take)(b->positives + bin * b->bin, at, dense, p);
    uint64_t any = 0;
    for (int i = 0; i < ROWS; i++) any |= bits64(p[i]);
    if (any) {
      for (int i = 0; i < ROWS; i++) {
        part[i] = (p[i] + 1.0) / (p[i] + 1.0 + n[i]);
        moved[i] = start[i] = (hits[i] + misses[i]) * part[i];
      }
      NAME(harmonic)(moved, p, sums);
      for (int i = 0; i < ROWS; i++) {
        total[i] += (p[i] + (hits[i] - start[i]) * sums[i]) * part[i];
        hits[i] += p[i];
      }
    }
    for (int i = 0; i < ROWS; i++) misses[i] += n[i];
  }
}

TARGET static void NAME(average_precision)(const binned *b) {
  double total[ROWS], hits[ROWS];
  int64_t at[ROWS];
  for (int64_t r = 0; r < b->rows; r += ROWS) {
    const int64_t left = b->rows - r < ROWS ? b->rows - r : ROWS;
    for (int i = 0; i < ROWS; i++) at[i] = (r + (i < left ? i : left - 1)) * b->row;
    if (left == ROWS && b->row == 1)
      NAME(some_rows)(b, at, 1, total, hits);
    else
      NAME(some_rows)(b, at, 0, total, hits);
    memcpy(b->total + r, total, sizeof(double) * left);
    memcpy(b->hits + r, hits, sizeof(double) * left);
  }
}
