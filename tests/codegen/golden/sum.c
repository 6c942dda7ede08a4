/* Written by Regauge: 0 bytes of constants, 40 bytes of arena.
   Build with -std=c99 -O3 -ffp-contract=off, and without -ffast-math. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include "model.h"

static union { float aligned; uint8_t bytes[40]; } arena;

/* The nearest code of a number of steps: a half goes to the even one, what is beyond saturates. */
static inline uint8_t to_u8(float steps, int zero)
{
    float low = (float)(0 - zero), high = (float)(UINT8_MAX - zero);
    steps = steps > low ? steps : low;
    return (uint8_t)((int)rintf(steps < high ? steps : high) + zero);
}

/* left and right are steps of the result's scale; rest is its zero point less those of the two. */
static void add_u8(const uint8_t *a, const uint8_t *b, uint8_t *y, int count, int side, int period,
                   float left, float right, float rest)
{
    for (int i = 0; i < count; i++)
        y[i] = to_u8(fmaf(a[i], left, fmaf(b[i / side % period], right, rest)), 0);
}

/* x [outer][count][inner], y [outer][inner]: the mean of what the codes stand for */
static void mean_u8(const uint8_t *x, float *y, int outer, int count, int inner, float scale,
                    int zero)
{
    for (int n = 0; n < outer; n++, x += count * inner)
        for (int c = 0; c < inner; c++) {
            int32_t sum = 0;
            for (int i = 0; i < count; i++)
                sum += x[i * inner + c] - zero;
            *y++ = (float)sum * scale / (float)count;
        }
}

static void quantize_u8(const float *x, uint8_t *y, int count, float scale, int zero)
{
    for (int i = 0; i < count; i++)
        y[i] = to_u8(x[i] / scale, zero);
}

int model_run(const float *x, const float *y, float *m)
{
    if (x == NULL || y == NULL || m == NULL)
        return 1;
    uint8_t *p = arena.bytes;  /* [1, 2, 3, 3] */
    quantize_u8(x, p, 18, 0.0199999996f, 128);
    uint8_t *q = arena.bytes + 20;  /* [1, 2, 3, 3] */
    quantize_u8(y, q, 18, 0.0299999993f, 100);
    uint8_t *k = arena.bytes;  /* [1, 2, 3, 3] */
    add_u8(p, q, k, 18, 1, 18, 0.399999976f, 0.599999964f, -111.199997f);
    mean_u8(k, m, 2, 9, 1, 0.0500000007f, 0);
    return 0;
}
