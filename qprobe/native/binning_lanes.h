/* Histograms of logits once per instruction set; see binning.c. */

/* The bins of `n` logits, those of foreground after all of background. */
TARGET static void NAME(bins_of)(const logits *p, int64_t from, int n, int32_t *restrict bins) {
  const float *restrict x = p->logits + from, *restrict target = p->target + from;
  const float limit = p->limit, each = p->each, last = (float)(p->bins - 1);
  const int32_t behind = (int32_t)p->bins;
  for (int i = 0; i < n; i++) {
    const float at = (x[i] + limit) * each, above = at > 0.0f ? at : 0.0f;
    bins[i] = (int32_t)(above < last ? above : last) + (target[i] > 0.5f ? behind : 0);
  }
}

TARGET static void NAME(bin_logits)(const logits *p) {
  int32_t bins[AT_ONCE];
  for (int64_t image = 0; image < p->images; image++) {
    int64_t *counts = p->counts + image * 2 * p->bins;
    for (int64_t start = 0; start < p->pixels; start += AT_ONCE) {
      const int n = (int)(p->pixels - start < AT_ONCE ? p->pixels - start : AT_ONCE);
      NAME(bins_of)(p, image * p->pixels + start, n, bins);
      for (int i = 0; i < n; i++) counts[bins[i]]++;
    }
  }
}
