/* One look at a sample of one head of an attention under a recipe: everything from the model's own memory
 * to the statistics, so that nothing in between is written where somebody else's data lie.
 *
 * The same steps, of the same functions, as qprobe/probes/attended.py takes with PyTorch one by one;
 * blocks and rows lie along the channels, all is rounded to nearest, nothing rotated. The caller owns
 * every buffer, nothing is kept between calls.
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

void qprobe_group_max(float *x, int64_t outer, int64_t length, int64_t inner, int64_t tile);
int64_t qprobe_integer_scratch(int64_t length, int64_t inner, int across);
void qprobe_integer_apply(const float *x, float *y, int64_t outer, int64_t length, int64_t inner, int across,
                          float largest, float *scratch);
void qprobe_integer_under(const float *x, float *y, int64_t n, float top, float largest);

/* What shares a scale: NVFP4 in blocks of a row or in square tiles of a weight, under a scale of the whole
 * tensor; or integers up to `largest`, a row or the whole tensor. */
enum { BLOCKS = 0, TILES = 1, ROWS = 2, WHOLE = 3 };

typedef struct {
  int64_t sharing;
  double largest;
} how;

/* Vectors of tokens: the first one, its type, and how far apart samples and tokens are. */
typedef struct {
  const void *first;
  int64_t type, sample, token;
  double top; /* the largest magnitude of all there are, where the whole shares a scale */
} vectors;

/* The layer that made queries or keys, x·wᵀ + bias, and which rows of the weight made the head. It casts
 * what it takes to `type` and gives its result in it, as autocast makes a layer do. */
typedef struct {
  const void *x;      /* [.., tokens, inputs], samples `sample` apart */
  const void *weight; /* [outputs, inputs] */
  const void *bias;   /* [outputs], or null */
  int64_t type, x_type, weight_type, bias_type;
  int64_t sample, tokens, outputs, inputs, row, step;
} layer;

/* Which projections are made anew: none; those of quantized operands, to compare with the queries and keys
 * that there are; those of the operands as they are, to compare with queries and keys that were made
 * under the recipe; or both, to compare with each other. */
enum { NEITHER = 0, QUANTIZED = 1, PLAIN = 2, BOTH = 3 };

typedef struct {
  vectors q, k;
  layer of_q, of_k;
  how attending, input, weight; /* queries and keys; what layers take */
  int64_t projected;
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
  float *q, *k, *made_q, *made_k, *before, *after;
  float *wide, *input, *queries, *rows, *weight_q, *weight_k, *bias; /* of one sample; of one head */
  float *whole;                                      /* largest magnitudes of all blocks of a weight */
  float *absmax, *decode, *integers, *product, *statistics; /* absmax becomes the encoding scale */
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
  const int64_t known = l->projected != NEITHER, inputs = known ? most(q->inputs, k->inputs) : 0;
  const int64_t tokens = known ? most(q->tokens, k->tokens) : 0;
  const int64_t outputs = known ? most(q->outputs, k->outputs) : 0;
  const int64_t plain = l->samples * most(l->queries, l->keys) * blocks_of(l->depth);
  const int64_t blocks = most(plain, most(l->samples * tokens, l->depth) * blocks_of(inputs));
  return (room){
      .q = taken(m, l->samples * l->queries * l->depth),
      .k = taken(m, l->samples * l->keys * l->depth),
      .made_q = taken(m, l->samples * l->queries * l->depth),
      .made_k = taken(m, l->samples * l->keys * l->depth),
      .before = taken(m, l->samples * l->queries * l->keys),
      .after = taken(m, l->samples * l->queries * l->keys),
      .wide = taken(m, tokens * inputs),
      .input = taken(m, tokens * inputs),
      .queries = taken(m, l->queries * inputs),
      .rows = taken(m, l->depth * inputs),
      .weight_q = taken(m, l->depth * inputs),
      .weight_k = taken(m, l->depth * inputs),
      .bias = taken(m, l->depth),
      .whole = taken(m, outputs * blocks_of(inputs)),
      .absmax = taken(m, blocks + 1),
      .decode = taken(m, blocks + 1),
      .integers = taken(m, qprobe_integer_scratch(1, 1, 0)),
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

/* To the precision of a type. */
static void round_to(int64_t type, float *x, int64_t n) {
  for (int64_t i = 0; type == BF16 && i < n; i++) x[i] = widen(narrow(x[i]));
}

/* `n` elements from `at` on as floats, cut to the precision of `to`. */
static void widened(const void *x, int64_t type, int64_t to, int64_t at, int64_t n, float *restrict out) {
  if (type == BF16) {
    const uint16_t *const from = (const uint16_t *)x + at;
    for (int64_t i = 0; i < n; i++) out[i] = widen(from[i]);
    return;
  }
  memcpy(out, (const float *)x + at, sizeof(float) * (size_t)n);
  round_to(to, out, n);
}

/* Vectors of some tokens of the samples, all where `tokens` is null, one after the other. */
static void gather(const look *l, vectors v, const int64_t *tokens, int64_t count, float *out) {
  for (int64_t s = 0; s < l->samples; s++)
    for (int64_t t = 0; t < count; t++, out += l->depth)
      widened(v.first, v.type, v.type, l->sample[s] * v.sample + (tokens ? tokens[t] : t) * v.token, l->depth,
              out);
}

/* Largest magnitudes of the blocks of dense rows, of what a layer of the type `to` makes of them: the
 * largest of numbers that are rounded is the largest one, rounded. */
static void absmax_of(const void *x, int64_t type, int64_t to, int64_t rows, int64_t depth, float *absmax) {
  qprobe_block_absmax(x, (int)type, rows, depth, 1, BLOCK, absmax);
  if (type == F32) round_to(to, absmax, rows * blocks_of(depth));
}

/* The largest of `n` magnitudes, NaN above all. */
static float top_of(const float *absmax, int64_t n) {
  uint32_t top = 0;
  for (int64_t i = 0; i < n; i++) top = max_u32(top, to_bits(absmax[i]));
  return from_bits(top);
}

/* Dense rows as a format has them: NVFP4 under the scales that begin at row `first` of those at hand. */
static void apply(const room *r, how as, float top, const float *x, int64_t first, int64_t rows,
                  int64_t depth, float *y) {
  const int64_t at = first * blocks_of(depth);
  const float largest = (float)as.largest;
  if (as.sharing == ROWS) qprobe_integer_apply(x, y, rows, depth, 1, 0, largest, r->integers);
  else if (as.sharing == WHOLE) qprobe_integer_under(x, y, rows * depth, top, largest);
  else qprobe_e2m1_apply(x, F32, y, F32, 0, r->absmax + at, r->decode + at, rows, depth, 1, BLOCK);
}

/* Queries or keys. */
static void quantize(const look *l, const room *r, double top, const float *x, int64_t rows, float *y) {
  if (l->attending.sharing == BLOCKS) {
    absmax_of(x, F32, F32, rows, l->depth, r->absmax);
    qprobe_nvfp4_scales(r->absmax, rows * blocks_of(l->depth), r->absmax, r->decode);
  }
  apply(r, l->attending, (float)top, x, 0, rows, l->depth, y);
}

/* Largest magnitudes of the blocks of a whole weight, or of their tiles, unless a row is on its own. */
static void look_over(const look *l, const room *r, const layer *from) {
  const int64_t blocks = blocks_of(from->inputs);
  if (l->weight.sharing == ROWS) return;
  absmax_of(from->weight, from->weight_type, from->type, from->outputs, from->inputs, r->whole);
  if (l->weight.sharing == TILES) qprobe_group_max(r->whole, 1, from->outputs, blocks, BLOCK);
}

/* The rows of the head; the scales of their blocks are that of the whole weight's largest too. */
static void take_rows(const look *l, const room *r, const layer *from, int quantized, float *y) {
  const int64_t size = from->inputs, blocks = blocks_of(size);
  float *const rows = quantized ? r->rows : y;
  for (int64_t i = 0; i < l->depth; i++) {
    const int64_t row = from->row + i * from->step;
    widened(from->weight, from->weight_type, from->type, row * size, size, rows + i * size);
    if (l->weight.sharing <= TILES)
      memcpy(r->absmax + i * blocks, r->whole + row * blocks, sizeof(float) * (size_t)blocks);
  }
  if (!quantized) return;
  float top = 0.0f;
  if (l->weight.sharing != ROWS) top = top_of(r->whole, from->outputs * blocks);
  if (l->weight.sharing <= TILES) {
    r->absmax[l->depth * blocks] = top;
    qprobe_nvfp4_scales(r->absmax, l->depth * blocks + 1, r->absmax, r->decode);
  }
  apply(r, l->weight, top, rows, 0, l->depth, size, y);
}

static void multiply(const room *r, products p) {
  p.scratch = r->product;
  qprobe_products(&p);
}

/* Queries or keys of some rows of a sample's input, in the precision that the layer gives them. */
static void project_rows(const look *l, const room *r, const layer *from, const float *x, int64_t rows,
                         float *out) {
  const float *const weight = from == &l->of_q ? r->weight_q : r->weight_k;
  multiply(r, (products){.a = x, .b = weight, .out = out, .batch = 1, .rows = rows, .columns = l->depth,
                         .depth = from->inputs, .scale = 1.0});
  for (int64_t i = 0; from->bias && i < l->depth; i++)
    widened(from->bias, from->bias_type, from->type, from->row + i * from->step, 1, r->bias + i);
  for (int64_t i = 0; i < rows; i++, out += l->depth) {
    round_to(from->type, out, l->depth);
    if (!from->bias) continue;
    for (int64_t c = 0; c < l->depth; c++) out[c] += r->bias[c];
    round_to(from->type, out, l->depth);
  }
}

/* Scales that all samples of an input share; gives the largest magnitude where it alone is one. */
static float scales_of(const look *l, const room *r, const layer *from) {
  const int64_t each = from->tokens * blocks_of(from->inputs), bytes = from->x_type == BF16 ? 2 : 4;
  if (l->input.sharing == ROWS) return 0.0f;
  for (int64_t s = 0; s < l->samples; s++)
    absmax_of((const char *)from->x + l->sample[s] * from->sample * bytes, from->x_type, from->type,
              from->tokens, from->inputs, r->absmax + s * each);
  if (l->input.sharing == WHOLE) return top_of(r->absmax, l->samples * each);
  qprobe_nvfp4_scales(r->absmax, l->samples * each, r->absmax, r->decode);
  return 0.0f;
}

/* The input of a sample as the layer takes it: where it lies, or a copy. */
static const float *input_of(const look *l, const room *r, const layer *from, int64_t s) {
  const int64_t at = l->sample[s] * from->sample;
  if (from->x_type == F32 && from->type == F32) return (const float *)from->x + at;
  widened(from->x, from->x_type, from->type, at, from->tokens * from->inputs, r->wide);
  return r->wide;
}

static void logits(const look *l, const room *r, const float *q, const float *k, float *out) {
  multiply(r, (products){.a = q, .b = k, .out = out, .batch = l->samples, .rows = l->queries,
                         .columns = l->keys, .depth = l->depth, .scale = l->scale});
}

/* Logits of a sample's queries with an input whose keys are not made: q·(x·wᵀ)ᵀ = (q·w)·xᵀ has half the
 * products where queries are few. A key's bias adds the same to all logits of a query, whose mean is
 * taken off them. */
static void unmade(const look *l, const room *r, const float *x, int64_t s, float *out) {
  const int64_t size = l->of_k.inputs;
  multiply(r, (products){.a = r->made_q + s * l->queries * l->depth, .b = r->weight_k, .across = 1,
                         .out = r->queries, .batch = 1, .rows = l->queries, .columns = size,
                         .depth = l->depth, .scale = l->scale});
  multiply(r, (products){.a = r->queries, .b = x, .out = out + s * l->queries * l->keys, .batch = 1,
                         .rows = l->queries, .columns = l->keys, .depth = size, .scale = 1.0});
}

/* Queries, keys or both, as a layer makes them of its input, quantized or not; and the logits of keys that
 * are not rounded when they are made. */
static void project(const look *l, const room *r, const layer *from, int quantized, int queries, float *out) {
  const int64_t n = from->tokens, size = from->inputs;
  const float top = quantized ? scales_of(l, r, from) : 0.0f;
  for (int64_t s = 0; s < l->samples; s++) {
    const float *x = input_of(l, r, from, s);
    if (quantized) {
      apply(r, l->input, top, x, s * n, n, size, r->input);
      x = r->input;
    }
    for (int64_t i = 0; queries && i < l->queries; i++)
      memcpy(r->queries + i * size, x + l->query[i] * size, sizeof(float) * (size_t)size);
    if (queries)
      project_rows(l, r, &l->of_q, r->queries, l->queries, r->made_q + s * l->queries * l->depth);
    if (!out) continue;
    if (from->type == F32) unmade(l, r, x, s, out);
    else project_rows(l, r, &l->of_k, x, n, r->made_k + s * n * l->depth);
  }
}

/* Logits of queries and keys that the layers make anew. */
static void project_logits(const look *l, const room *r, int quantized, float *out) {
  const layer *const q = &l->of_q, *const k = &l->of_k;
  const int shared = q->weight == k->weight && q->outputs == k->outputs && q->type == k->type;
  const int together = q->x == k->x && q->sample == k->sample && q->type == k->type;
  if (quantized) look_over(l, r, q);
  take_rows(l, r, q, quantized, r->weight_q);
  if (quantized && !shared) look_over(l, r, k);
  take_rows(l, r, k, quantized, r->weight_k);
  if (!together) project(l, r, q, quantized, 1, 0);
  project(l, r, k, quantized, together, out);
  if (k->type != F32) logits(l, r, r->made_q, r->made_k, out);
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
  quantize(l, &r, l->q.top, r.q, l->samples * l->queries, r.made_q);
  quantize(l, &r, l->k.top, r.k, l->samples * l->keys, r.made_k);
  logits(l, &r, r.q, r.k, r.before);
  logits(l, &r, r.made_q, r.made_k, r.after);
  attention errors = rows_of(l, &r, 0), moved = rows_of(l, &r, 1), projected = rows_of(l, &r, 2);
  moved.bias = l->bias;
  if (!qprobe_logit_error(&errors) || !qprobe_softmax_change(&moved)) return 0;
  if (l->projected == NEITHER) return 1;
  if (l->projected == PLAIN) { /* the logits that there are come after those without the recipe */
    projected.before = r.after;
    projected.after = r.before;
    project_logits(l, &r, 0, r.after);
    return qprobe_logit_error(&projected);
  }
  if (l->projected == BOTH) project_logits(l, &r, 0, r.before);
  project_logits(l, &r, 1, r.after);
  return qprobe_logit_error(&projected);
}
