/* x [outer][count][inner], y [outer][inner] */
static void sum_f32(const float *x, float *y, int outer, int count, int inner)
{
    for (int n = 0; n < outer; n++, x += count * inner)
        for (int c = 0; c < inner; c++) {
            float sum = 0;
            for (int i = 0; i < count; i++)
                sum += x[i * inner + c];
            *y++ = sum;
        }
}
