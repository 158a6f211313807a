/* Compiles the source that KERNELS names once per instruction set; included once for each of them.
 * NAME(f) gives a function the name of its variant, TARGET lets the compiler use its instructions. */

#define NAME(f) JOIN(f, portable)
#define TARGET
#include KERNELS
#undef NAME
#undef TARGET

#ifdef X86_VARIANTS
#define NAME(f) JOIN(f, avx2)
#define TARGET __attribute__((target("avx2")))
#include KERNELS
#undef NAME
#undef TARGET
#define NAME(f) JOIN(f, avx512)
#define TARGET __attribute__((target(AVX512_FEATURES)))
#include KERNELS
#undef NAME
#undef TARGET
#endif

#undef KERNELS
