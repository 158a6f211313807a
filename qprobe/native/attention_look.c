/* One look at a sample of one head of an attention under NVFP4: everything from the model's own memory
 * to the statistics, so that nothing in between is written where somebody else's data lie.
 *
 * The same steps, of the same functions, as qprobe/probes/attended.py takes with PyTorch one by one;
 * 1D blocks along the channels, rounded to nearest, nothing rotated. The caller owns every buffer,
 * nothing is kept between calls.
 */

#include <string.h>

#include "attention.h"
#include "formats.h"
#include "products.h"
#include "variants.h"

enum { BLOCK = 16, PAD = 64 };


void qprobe_block_absmax(const void *x, int type, int64_t outer, int64_t length, int64_t inner,
                         int64_t block, float *out);
void qprobe_nvfp4_scales(const float *absmax, int64_t n, float *encode, float *decode);
void qprobe_e2m1_apply(const void *x, int in, void *y, int to, const uint8_t *noise,
                       const float *encode, const float *decode, int64_t outer, int64_t length,
                       int64_t inner, int64_t block);

/* Where the vectors of tokens lie: the first one, and how far apart samples and tokens are. */
typedef struct {
  const float *first;
  int64_t sample, token;
} vectors;

/* The layer that made queries or keys, x·wᵀ + bias, and which rows of the weight made the head. */
typedef struct {
  const float *x;      /* [.., tokens, inputs], samples `sample` apart */
  const float *weight; /* [outputs, inputs] */
  const float *bias;   /* [outputs], or null */
  int64_t sample, tokens, outputs, inputs, row, step;
} layer;

typedef struct {
  vectors q, k;
  layer of_q, of_k;
  int64_t projected; /* whether the layers are known */
  int64_t samples, queries, keys, depth;
  const int64_t *sample, *query; /* which ones */
  double scale;
  const float *bias;      /* of the logits, [samples, queries, keys], or null */
  const uint8_t *visible; /* as long, or null */
  int64_t *counts[3];     /* of logits, of their softmax, of projected logits: as in attention.h */
  double *sums[3];
  int32_t *levels;
  float *scratch; /* qprobe_attention_look_scratch of them */
} look;

static int64_t blocks_of(int64_t depth) { return (depth + BLOCK - 1) / BLOCK; }

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Scratch memory of a look, by what stands in it. */
typedef struct {
  float *q, *k, *quantized_q, *quantized_k, *before, *after;
  float *input, *queries, *rows, *weight_q, *weight_k, *bias; /* of one sample; of one head */
  float *absmax, *decode, *product, *statistics; /* of blocks: absmax becomes the encoding scale */
} room;

typedef struct {
  float *base;
  int64_t used;
} memory;

/* Some of it, cache lines apart. */
static float *taken(memory *m, int64_t floats) {
  float *const here = m->base ? m->base + m->used : 0;
  m->used += (floats + PAD - 1) / PAD * PAD;
  return here;
}

static room rooms(const look *l, memory *m) {
  const layer *const q = &l->of_q, *const k = &l->of_k;
  const int64_t known = l->projected, inputs = known ? most(q->inputs, k->inputs) : 0;
  const int64_t tokens = known ? most(q->tokens, k->tokens) : 0;
  const int64_t outputs = known ? most(q->outputs, k->outputs) : 0;
  const int64_t plain = l->samples * most(l->queries, l->keys) * blocks_of(l->depth);
  const int64_t blocks = most(plain, most(l->samples * tokens, most(outputs, l->depth)) * blocks_of(inputs));
  return (room){
      .q = taken(m, l->samples * l->queries * l->depth),
      .k = taken(m, l->samples * l->keys * l->depth),
      .quantized_q = taken(m, l->samples * l->queries * l->depth),
      .quantized_k = taken(m, l->samples * l->keys * l->depth),
      .before = taken(m, l->samples * l->queries * l->keys),
      .after = taken(m, l->samples * l->queries * l->keys),
      .input = taken(m, tokens * inputs),
      .queries = taken(m, l->queries * inputs),
      .rows = taken(m, l->depth * inputs),
      .weight_q = taken(m, l->depth * inputs),
      .weight_k = taken(m, l->depth * inputs),
      .bias = taken(m, l->depth),
      .absmax = taken(m, blocks + 1),
      .decode = taken(m, blocks + 1),
      .product = taken(m, qprobe_products_scratch(most(inputs, l->depth))),
      .statistics = taken(m, 2 * qprobe_attention_scratch(l->keys)),
  };
}

/* Floats of working memory. */
EXPORT int64_t qprobe_attention_look_scratch(const look *l) {
  memory m = {0, 0};
  rooms(l, &m);
  return m.used;
}

/* Vectors of some tokens of the samples, all where `tokens` is null, one after the other. */
static void gather(const look *l, vectors v, const int64_t *tokens, int64_t count, float *out) {
  for (int64_t s = 0; s < l->samples; s++)
    for (int64_t t = 0; t < count; t++, out += l->depth)
      memcpy(out, v.first + l->sample[s] * v.sample + (tokens ? tokens[t] : t) * v.token,
             sizeof(float) * (size_t)l->depth);
}

static void absmax_of(const float *x, int64_t rows, int64_t depth, float *absmax) {
  qprobe_block_absmax(x, F32, rows, depth, 1, BLOCK, absmax);
}

/* Dense rows as NVFP4 has them, whose blocks' scales begin at row `first` of those at hand. */
static void apply(const room *r, const float *x, int64_t first, int64_t rows, int64_t depth, float *y) {
  const int64_t at = first * blocks_of(depth);
  qprobe_e2m1_apply(x, F32, y, F32, 0, r->absmax + at, r->decode + at, rows, depth, 1, BLOCK);
}

static void quantize(const room *r, const float *x, int64_t rows, int64_t depth, float *y) {
  absmax_of(x, rows, depth, r->absmax);
  qprobe_nvfp4_scales(r->absmax, rows * blocks_of(depth), r->absmax, r->decode);
  apply(r, x, 0, rows, depth, y);
}

/* The largest magnitude of a whole weight, NaN above all. */
static float top_of(const room *r, const layer *from) {
  const int64_t all = from->outputs * blocks_of(from->inputs);
  uint32_t top = 0;
  absmax_of(from->weight, from->outputs, from->inputs, r->absmax);
  for (int64_t i = 0; i < all; i++) top = max_u32(top, to_bits(r->absmax[i]));
  return from_bits(top);
}

/* The rows of the head, whose scale is that of the whole weight: its largest comes along as a block. */
static void quantize_head(const look *l, const room *r, const layer *from, float top, float *y) {
  const int64_t blocks = l->depth * blocks_of(from->inputs);
  for (int64_t i = 0; i < l->depth; i++)
    memcpy(r->rows + i * from->inputs, from->weight + (from->row + i * from->step) * from->inputs,
           sizeof(float) * (size_t)from->inputs);
  absmax_of(r->rows, l->depth, from->inputs, r->absmax);
  r->absmax[blocks] = top;
  qprobe_nvfp4_scales(r->absmax, blocks + 1, r->absmax, r->decode);
  apply(r, r->rows, 0, l->depth, from->inputs, y);
}

static void multiply(const room *r, products p) {
  p.scratch = r->product;
  qprobe_products(&p);
}

/* Queries or keys of some rows of a sample's quantized input. */
static void project_rows(const look *l, const room *r, const layer *from, const float *x, int64_t rows,
                         float *out) {
  const float *const weight = from == &l->of_q ? r->weight_q : r->weight_k;
  for (int64_t i = 0; from->bias && i < l->depth; i++) r->bias[i] = from->bias[from->row + i * from->step];
  multiply(r, (products){.a = x, .b = weight, .bias = from->bias ? r->bias : 0, .out = out, .batch = 1,
                         .rows = rows, .columns = l->depth, .depth = from->inputs, .scale = 1.0});
}

/* Queries, keys or both, as a layer makes them of its quantized input. */
static void project(const look *l, const room *r, const layer *from, int queries, int keys) {
  const int64_t n = from->tokens, size = from->inputs, each = blocks_of(size);
  for (int64_t s = 0; s < l->samples; s++)
    absmax_of(from->x + l->sample[s] * from->sample, n, size, r->absmax + s * n * each);
  qprobe_nvfp4_scales(r->absmax, l->samples * n * each, r->absmax, r->decode);
  for (int64_t s = 0; s < l->samples; s++) {
    apply(r, from->x + l->sample[s] * from->sample, s * n, n, size, r->input);
    if (keys) project_rows(l, r, &l->of_k, r->input, n, r->quantized_k + s * n * l->depth);
    if (!queries) continue;
    for (int64_t i = 0; i < l->queries; i++)
      memcpy(r->queries + i * size, r->input + l->query[i] * size, sizeof(float) * (size_t)size);
    project_rows(l, r, &l->of_q, r->queries, l->queries, r->quantized_q + s * l->queries * l->depth);
  }
}

static void logits(const look *l, const room *r, const float *q, const float *k, float *out) {
  multiply(r, (products){.a = q, .b = k, .out = out, .batch = l->samples, .rows = l->queries,
                         .columns = l->keys, .depth = l->depth, .scale = l->scale});
}

static attention rows_of(const look *l, const room *r, int which) {
  return (attention){.before = r->before, .after = r->after, .visible = l->visible, .samples = l->samples,
                     .heads = 1, .queries = l->queries, .keys = l->keys, .counts = l->counts[which],
                     .sums = l->sums[which], .levels = l->levels, .scratch = (double *)r->statistics};
}

/* What quantized queries and keys make of logits and of their softmax, and quantized projections of
 * logits. Gives 0 where something visible is not finite. */
EXPORT int qprobe_attention_look(const look *l) {
  memory m = {l->scratch, 0};
  const room r = rooms(l, &m);
  gather(l, l->q, l->query, l->queries, r.q);
  gather(l, l->k, 0, l->keys, r.k);
  quantize(&r, r.q, l->samples * l->queries, l->depth, r.quantized_q);
  quantize(&r, r.k, l->samples * l->keys, l->depth, r.quantized_k);
  logits(l, &r, r.q, r.k, r.before);
  logits(l, &r, r.quantized_q, r.quantized_k, r.after);
  attention errors = rows_of(l, &r, 0), moved = rows_of(l, &r, 1), projected = rows_of(l, &r, 2);
  moved.bias = l->bias;
  if (!qprobe_logit_error(&errors) || !qprobe_softmax_change(&moved)) return 0;
  if (!l->projected) return 1;
  const float top = top_of(&r, &l->of_q);
  const int shared = l->of_q.weight == l->of_k.weight && l->of_q.outputs == l->of_k.outputs;
  quantize_head(l, &r, &l->of_q, top, r.weight_q);
  quantize_head(l, &r, &l->of_k, shared ? top : top_of(&r, &l->of_k), r.weight_k);
  const int together = l->of_q.x == l->of_k.x && l->of_q.sample == l->of_k.sample;
  project(l, &r, &l->of_k, together, 1);
  if (!together) project(l, &r, &l->of_q, 1, 0);
  logits(l, &r, r.quantized_q, r.quantized_k, r.after);
  return qprobe_logit_error(&projected);
}
