/* NVFP4 fake quantization on the CPU, behind a C ABI: no Python and no PyTorch headers.
 *
 * Same bits as the PyTorch path in qprobe/quant/blockscale.py, which documents the arithmetic.
 * The caller owns every buffer; nothing is allocated here and nothing is kept between calls.
 */

#include "formats.h"
#include "variants.h"

/* |y| with the sign of x: a negative number that rounds to zero keeps its sign (E2M1 code 8). */
INLINE float signed_as(float y, float x) { return from_bits(to_bits(y) | (to_bits(x) & 0x80000000u)); }

/* |y| moved up by r/256 of a step, then cut to the grid. r's eight bits below a power of two's own
 * are r/256 of its step more than it. From 1 on, a number cut to one mantissa bit is on the grid;
 * below, 0.5 and 0 are. */
INLINE float e2m1_stochastic(uint32_t a, uint32_t r) {
  a = min_u32(a, 0x40C00000u); /* 6 */
  const uint32_t p = max_u32(a & 0x7F800000u, 0x3F800000u);
  const uint32_t t = to_bits(from_bits(a) + (from_bits(p | r << 14) - from_bits(p)));
  const uint32_t q = t & (t < 0x3F800000u ? 0xFF800000u : 0xFFC00000u);
  return from_bits(t < 0x3F000000u ? 0 : q);
}

/* An element to its dequantized value; the scales belong to its block. */
#define NEAREST(x, e, v) (signed_as(e2m1_nearest(magnitude((x) * (e))) * (v), (x)))
#define STOCHASTIC(x, e, v, r) (signed_as(e2m1_stochastic(magnitude((x) * (e)), (r)) * (v), (x)))

/* What is quantized: `in` and `to` are the types of x and y; `noise` holds one random byte an element,
 * or is null to round to nearest. */
typedef struct {
  const void *x;
  int in;
  void *y;
  int to;
  const uint8_t *noise;
} operand;

#define KERNELS "lanes.h"
#include "each_variant.h"

int qprobe_selected = PORTABLE;

/* The best instruction set of this machine, not above `limit`; returns the one now in use. */
EXPORT int qprobe_select(int limit) {
  qprobe_selected = PORTABLE;
#ifdef X86_VARIANTS
  __builtin_cpu_init();
  if (limit >= AVX2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    qprobe_selected = AVX2;
  if (limit >= AVX512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    qprobe_selected = AVX512;
#else
  (void)limit;
#endif
  return qprobe_selected;
}

EXPORT int qprobe_abi(void) { return 7; }

EXPORT void qprobe_block_absmax(const void *x, int type, int64_t outer, int64_t length, int64_t inner,
                                int64_t block, float *out) {
  CALL(block_absmax, x, type, outer, length, inner, block, out);
}

/* Each group of `tile` neighbours along the middle axis of [outer, length, inner] gets its maximum. */
EXPORT void qprobe_group_max(float *x, int64_t outer, int64_t length, int64_t inner, int64_t tile) {
  uint32_t *bits = (uint32_t *)x;
  for (int64_t o = 0; o < outer; o++)
    for (int64_t g = 0; g < length; g += tile) {
      const int64_t stop = g + tile < length ? g + tile : length;
      for (int64_t i = 0; i < inner; i++) {
        uint32_t *column = bits + o * length * inner + i;
        uint32_t top = 0;
        for (int64_t k = g; k < stop; k++) top = max_u32(top, column[k * inner]);
        for (int64_t k = g; k < stop; k++) column[k * inner] = top;
      }
    }
}

EXPORT void qprobe_nvfp4_scales(const float *absmax, int64_t n, float *encode, float *decode) {
  CALL(nvfp4_scales, absmax, n, encode, decode);
}

/* y = dequantized E2M1 of x; float32 stays float32, bfloat16 may become float32. */
EXPORT void qprobe_e2m1_apply(const void *x, int in, void *y, int to, const uint8_t *noise,
                              const float *encode, const float *decode, int64_t outer,
                              int64_t length, int64_t inner, int64_t block) {
  const operand t = {x, in, y, to, noise};
  CALL(e2m1_apply, &t, encode, decode, outer, length, inner, block);
}
