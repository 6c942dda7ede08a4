/* x [outer][count][inner], y [outer][inner]: the first place of the greatest */
static void argmax_u8(const uint8_t *x, int64_t *y, int outer, int count, int inner)
{
    for (int n = 0; n < outer; n++, x += count * inner)
        for (int c = 0; c < inner; c++) {
            int best = 0;
            for (int i = 1; i < count; i++)
                best = x[i * inner + c] > x[best * inner + c] ? i : best;
            *y++ = best;
        }
}
