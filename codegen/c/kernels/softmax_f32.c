static void softmax_f32(const float *x, float *y, int rows, int count)
{
    for (int n = 0; n < rows; n++, x += count, y += count) {
        float top = x[0], sum = 0;
        for (int i = 1; i < count; i++)
            top = x[i] > top ? x[i] : top;
        for (int i = 0; i < count; i++)
            sum += y[i] = expf(x[i] - top);
        for (int i = 0; i < count; i++)
            y[i] /= sum;
    }
}
