/* One source, compiled once per instruction set; which variant runs is chosen once for all kernels. */

#ifndef QPROBE_VARIANTS_H
#define QPROBE_VARIANTS_H

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#define INTERNAL
#else
#define EXPORT __attribute__((visibility("default")))
#define INTERNAL __attribute__((visibility("hidden")))
#endif

enum { PORTABLE = 0, AVX2 = 1, AVX512 = 2 };

extern INTERNAL int qprobe_selected;

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)

#if defined(__x86_64__) && defined(__GNUC__)
#define X86_VARIANTS 1
#define CALL(f, ...)                                                    \
  do {                                                                  \
    if (qprobe_selected == AVX512) JOIN(f, avx512)(__VA_ARGS__);        \
    else if (qprobe_selected == AVX2) JOIN(f, avx2)(__VA_ARGS__);       \
    else JOIN(f, portable)(__VA_ARGS__);                                \
  } while (0)
#else
#define CALL(f, ...) JOIN(f, portable)(__VA_ARGS__)
#endif

#define AVX512_FEATURES "avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"

#endif
