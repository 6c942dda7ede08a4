/* x [outer][count][inner], y [outer][inner]: the squares about the mean over count less some, or
   the root of that */
static void variance_f32(const float *x, float *y, int outer, int count, int inner, float less,
                         int root)
{
    for (int n = 0; n < outer; n++, x += count * inner)
        for (int c = 0; c < inner; c++) {
            float mean = 0, sum = 0;
            for (int i = 0; i < count; i++)
                mean += x[i * inner + c];
            mean /= (float)count;
            for (int i = 0; i < count; i++)
                sum += (x[i * inner + c] - mean) * (x[i * inner + c] - mean);
            sum /= (float)count - less;
            *y++ = root ? sqrtf(sum) : sum;
        }
}
