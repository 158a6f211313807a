/* Histograms of logits, apart for background and foreground: qprobe/engine/metrics/prediction.py.
 *
 * Bins are found for a few hundred logits at a time, in vectors, and then counted one by one. The
 * caller owns every buffer; nothing is kept between calls.
 */

#include "binning.h"
#include "formats.h"
#include "variants.h"

#define AT_ONCE 512

#define KERNELS "binning_lanes.h"
#include "each_variant.h"

/* Adds to `counts`. NaN has no bin, and is counted in the first. */
EXPORT void qprobe_bin_logits(const logits *p) { CALL(bin_logits, p); }
