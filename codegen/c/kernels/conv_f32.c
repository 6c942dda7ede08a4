/* weight [O][kernel][I / groups] */
static void conv_f32(const float *x, const float *weight, const float *bias, float *y,
                     float *patch, struct window w)
{
    int length = w.kernel_height * w.kernel_width * w.channels / w.groups;
    int each = w.out_channels / w.groups;
    for (int n = 0; n < w.batch; n++)
        for (int oy = 0; oy < w.out_height; oy++)
            for (int ox = 0; ox < w.out_width; ox++)
                for (int g = 0; g < w.groups; g++) {
                    patch_f32(x, patch, &w, n, oy, ox, g, 0);
                    for (int o = g * each; o < (g + 1) * each; o++) {
                        float sum = 0;
                        for (int i = 0; i < length; i++)
                            sum += patch[i] * weight[o * length + i];
                        *y++ = sum + bias[o];
                    }
                }
}
