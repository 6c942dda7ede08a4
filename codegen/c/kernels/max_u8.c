/* x [outer][count][inner], y [outer][inner] */
static void max_u8(const uint8_t *x, uint8_t *y, int outer, int count, int inner)
{
    for (int n = 0; n < outer; n++, x += count * inner)
        for (int c = 0; c < inner; c++) {
            uint8_t best = x[c];
            for (int i = 1; i < count; i++)
                best = x[i * inner + c] > best ? x[i * inner + c] : best;
            *y++ = best;
        }
}
