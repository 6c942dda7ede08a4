/* The sum and the products of codes with weights. */
#if defined(__ARM_FEATURE_MVE)
#include <arm_mve.h>
static inline int32_t dot_s8(const int8_t *x, const int8_t *weight, int length, int32_t sum)
{
    __asm__ volatile("" ::: "memory"); /* GCC 12 moves these loads before stores to x */
    int i = 0;
    for (; i + 16 <= length; i += 16)
        sum = vmladavaq_s8(sum, vldrbq_s8(x + i), vldrbq_s8(weight + i));
    if (i < length) {
        mve_pred16_t some = vctp8q((uint32_t)(length - i));
        sum = vmladavaq_p_s8(sum, vldrbq_z_s8(x + i, some), vldrbq_z_s8(weight + i, some), some);
    }
    return sum;
}
#else
static inline int32_t dot_s8(const int8_t *x, const int8_t *weight, int length, int32_t sum)
{
    for (int i = 0; i < length; i++)
        sum += x[i] * weight[i];
    return sum;
}
#endif
