/* gates [T][B][3 H] of r, z, n; weight [3 H][H]; y [T][B][H]; hidden [B][H], or NULL for zeros;
   kept [3 H] */
static void gru_f32(const float *gates, const float *weight, const float *bias,
                    const float *hidden, float *y, float *kept, int times, int batch, int size,
                    int reverse)
{
    for (int step = 0; step < times; step++)
        for (int n = 0; n < batch; n++) {
            int t = reverse ? times - 1 - step : step, back = reverse ? batch : -batch;
            const float *g = gates + (t * batch + n) * 3 * size;
            float *h = y + (t * batch + n) * size;
            const float *before = step ? h + back * size : hidden ? hidden + n * size : NULL;
            product_f32(before, weight, bias, kept, size, 3 * size);
            for (int i = 0; i < size; i++) {
                float reset = 1 / (1 + expf(-(g[i] + kept[i])));
                float update = 1 / (1 + expf(-(g[size + i] + kept[size + i])));
                float made = tanhf(g[2 * size + i] + reset * kept[2 * size + i]);
                h[i] = made + update * ((before ? before[i] : 0) - made);
            }
        }
}
