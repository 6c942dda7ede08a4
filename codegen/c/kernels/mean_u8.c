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
