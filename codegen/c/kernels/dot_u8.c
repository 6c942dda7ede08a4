/* The sum and the products of codes with weights. */
#if defined(__ARM_FEATURE_MVE)
#include <arm_mve.h>
static inline int32_t dot_u8(const uint8_t *x, const int8_t *weight, int length, int32_t sum)
{
    __asm__ volatile("" ::: "memory"); /* GCC 12 moves these loads before stores to x */
    int i = 0;
    for (; i + 8 <= length; i += 8) {
        int16x8_t codes = vreinterpretq_s16_u16(vldrbq_u16(x + i));
        sum = vmladavaq_s16(sum, codes, vldrbq_s16(weight + i));
    }
    if (i < length) {
        mve_pred16_t some = vctp16q((uint32_t)(length - i));
        int16x8_t codes = vreinterpretq_s16_u16(vldrbq_z_u16(x + i, some));
        sum = vmladavaq_p_s16(sum, codes, vldrbq_z_s16(weight + i, some), some);
    }
    return sum;
}
#else
static inline int32_t dot_u8(const uint8_t *x, const int8_t *weight, int length, int32_t sum)
{
    for (int i = 0; i < length; i++)
        sum += x[i] * weight[i];
    return sum;
}
#endif
