/* Products of rows with rows or columns, out[i][j] = scale · Σ_c a[i][c] · b[j][c], float32.
 *
 * For the small products of a sample of attention, made once among other work: a general library
 * then spends most of its time on fetching its own code. Sums run over c in order, in float32. The
 * caller owns every buffer, nothing is kept between calls.
 */

/* A product that is added needs no rounding of its own here, unlike in formats.h and where formats are
 * rounded to: on processors that multiply and add in one instruction this is half as long. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT ON
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=fast")
#endif

#include "formats.h"
#include "products.h"
#include "variants.h"

/* Columns that are worked on together at most: two of the widest vectors. */
enum { PANEL = 32 };

#define NAME(f) JOIN(f, portable)
#define TARGET
#define LANES 4
#define TOGETHER 4
#include "products_lanes.h"
#undef NAME
#undef TARGET
#undef LANES
#undef TOGETHER

#ifdef X86_VARIANTS
#define NAME(f) JOIN(f, avx2)
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define TOGETHER 4
#include "products_lanes.h"
#undef NAME
#undef TARGET
#undef LANES
#undef TOGETHER
#define NAME(f) JOIN(f, avx512)
#define TARGET __attribute__((target(AVX512_FEATURES)))
#define LANES 16
#define TOGETHER 8
#include "products_lanes.h"
#undef NAME
#undef TARGET
#undef LANES
#undef TOGETHER
#endif

/* Floats of working memory for rows of this depth. */
INTERNAL int64_t qprobe_products_scratch(int64_t depth) { return depth * PANEL; }

INTERNAL void qprobe_products(const products *p) { CALL(products, p); }
