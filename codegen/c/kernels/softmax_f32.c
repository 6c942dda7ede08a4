/* x and y [outer][count][inner]; as logarithms or not */
static void softmax_f32(const float *x, float *y, int outer, int count, int inner, int logarithm)
{
    for (int n = 0; n < outer; n++, x += count * inner, y += count * inner)
        for (int c = 0; c < inner; c++) {
            float top = x[c], sum = 0;
            for (int i = 1; i < count; i++)
                top = x[i * inner + c] > top ? x[i * inner + c] : top;
            for (int i = 0; i < count; i++) {
                float power = expf(x[i * inner + c] - top);
                sum += power;
                y[i * inner + c] = logarithm ? x[i * inner + c] - top : power;
            }
            if (logarithm)
                sum = logf(sum);
            for (int i = 0; i < count; i++)
                y[i * inner + c] = logarithm ? y[i * inner + c] - sum : y[i * inner + c] / sum;
        }
}
