/* weight [O][kernel][I / groups]; start: the bias less the zero point times the sum of weights. */
static void conv_u8(const uint8_t *x, const int8_t *weight, const int32_t *start,
                    const float *scale, uint8_t *y, uint8_t *patch, int zero, int out_zero,
                    struct window w)
{
    int length = w.kernel_height * w.kernel_width * w.channels / w.groups;
    int each = w.out_channels / w.groups;
    for (int n = 0; n < w.batch; n++)
        for (int oy = 0; oy < w.out_height; oy++)
            for (int ox = 0; ox < w.out_width; ox++)
                for (int g = 0; g < w.groups; g++) {
                    patch_u8(x, patch, &w, n, oy, ox, g, (uint8_t)zero);
                    for (int o = g * each; o < (g + 1) * each; o++) {
                        int32_t sum = dot_u8(patch, weight + o * length, length, start[o]);
                        *y++ = to_u8((float)sum * scale[o], out_zero);
                    }
                }
}
