/* gates [T][B][4 H] of i, f, g, o; weight [4 H][H]; y [T][B][H]; cell [B][H], the first and then
   the last; hidden [B][H], or NULL for zeros; kept [4 H] */
static void lstm_f32(const float *gates, const float *weight, const float *bias,
                     const float *hidden, float *cell, float *y, float *kept, int times, int batch,
                     int size, int reverse)
{
    for (int step = 0; step < times; step++)
        for (int n = 0; n < batch; n++) {
            int t = reverse ? times - 1 - step : step, back = reverse ? batch : -batch;
            const float *g = gates + (t * batch + n) * 4 * size;
            float *h = y + (t * batch + n) * size, *c = cell + n * size;
            const float *before = step ? h + back * size : hidden ? hidden + n * size : NULL;
            product_f32(before, weight, bias, kept, size, 4 * size);
            for (int i = 0; i < size; i++) {
                float in = 1 / (1 + expf(-(g[i] + kept[i])));
                float keep = 1 / (1 + expf(-(g[size + i] + kept[size + i])));
                float out = 1 / (1 + expf(-(g[3 * size + i] + kept[3 * size + i])));
                c[i] = keep * c[i] + in * tanhf(g[2 * size + i] + kept[2 * size + i]);
                h[i] = out * tanhf(c[i]);
            }
        }
}
