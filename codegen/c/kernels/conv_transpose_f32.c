/* weight [O][kernel][I / groups]; the window moves over the result */
static void conv_transpose_f32(const float *x, const float *weight, const float *bias, float *y,
                               struct window w)
{
    int depth = w.channels / w.groups, each = w.out_channels / w.groups;
    int taps = w.kernel_height * w.kernel_width;
    for (int n = 0; n < w.batch; n++)
        for (int oy = 0; oy < w.out_height; oy++)
            for (int ox = 0; ox < w.out_width; ox++, y += w.out_channels) {
                for (int o = 0; o < w.out_channels; o++)
                    y[o] = bias[o];
                for (int tap = 0; tap < taps; tap++) {
                    int iy = oy + w.top - tap / w.kernel_width * w.dilation_y;
                    int ix = ox + w.left - tap % w.kernel_width * w.dilation_x;
                    if (iy < 0 || ix < 0 || iy % w.stride_y || ix % w.stride_x)
                        continue;
                    iy /= w.stride_y;
                    ix /= w.stride_x;
                    if (iy >= w.height || ix >= w.width)
                        continue;
                    const float *at = x + ((n * w.height + iy) * w.width + ix) * w.channels;
                    for (int o = 0; o < w.out_channels; o++) {
                        const float *from = at + o / each * depth;
                        const float *by = weight + (o * taps + tap) * depth;
                        float sum = 0;
                        for (int i = 0; i < depth; i++)
                            sum += from[i] * by[i];
                        y[o] += sum;
                    }
                }
            }
}
