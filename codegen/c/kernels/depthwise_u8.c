/* A channel of the result for each of the image; weight [kernel][C], start the bias alone. */
static void depthwise_u8(const uint8_t *x, const int8_t *weight, const int32_t *start,
                         const float *scale, uint8_t *y, int zero, int out_zero, struct window w)
{
    enum { SIDE = 16 }; /* channels that are summed side by side */
    int channels = w.channels;
    for (int n = 0; n < w.batch; n++)
        for (int oy = 0; oy < w.out_height; oy++)
            for (int ox = 0; ox < w.out_width; ox++, y += channels)
                for (int first = 0; first < channels; first += SIDE) {
                    int32_t sums[SIDE];
                    int count = channels - first < SIDE ? channels - first : SIDE;
                    for (int c = 0; c < count; c++)
                        sums[c] = start[first + c];
                    for (int ky = 0; ky < w.kernel_height; ky++)
                        for (int kx = 0; kx < w.kernel_width; kx++) {
                            int iy = oy * w.stride_y - w.top + ky * w.dilation_y;
                            int ix = ox * w.stride_x - w.left + kx * w.dilation_x;
                            if (iy < 0 || iy >= w.height || ix < 0 || ix >= w.width)
                                continue;
                            int tap = ky * w.kernel_width + kx;
                            const uint8_t *at = x + ((n * w.height + iy) * w.width + ix) * channels;
                            const int8_t *by = weight + tap * channels;
                            for (int c = 0; c < count; c++)
                                sums[c] += (at[first + c] - zero) * by[first + c];
                        }
                    for (int c = 0; c < count; c++)
                        y[first + c] = to_u8((float)sums[c] * scale[first + c], out_zero);
                }
}
