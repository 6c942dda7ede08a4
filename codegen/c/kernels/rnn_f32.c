/* gates [T][B][H]; weight [H][H]; y [T][B][H]; hidden [B][H], or NULL for zeros; kept [H] */
static void rnn_f32(const float *gates, const float *weight, const float *bias,
                    const float *hidden, float *y, float *kept, int times, int batch, int size,
                    int reverse, int relu)
{
    for (int step = 0; step < times; step++)
        for (int n = 0; n < batch; n++) {
            int t = reverse ? times - 1 - step : step, back = reverse ? batch : -batch;
            const float *g = gates + (t * batch + n) * size;
            float *h = y + (t * batch + n) * size;
            const float *before = step ? h + back * size : hidden ? hidden + n * size : NULL;
            product_f32(before, weight, bias, kept, size, size);
            for (int i = 0; i < size; i++) {
                float sum = g[i] + kept[i];
                h[i] = !relu ? tanhf(sum) : sum > 0 ? sum : 0;
            }
        }
}
