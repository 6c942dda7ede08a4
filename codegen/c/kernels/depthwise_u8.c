/* A channel of the result for each of the image; weight [kernel][C], start the bias alone. */
static void depthwise_u8(const uint8_t *x, const int8_t *weight, const int32_t *start,
                         const float *scale, uint8_t *y, int zero, int out_zero, struct window w)
{
    for (int n = 0; n < w.batch; n++)
        for (int oy = 0; oy < w.out_height; oy++)
            for (int ox = 0; ox < w.out_width; ox++)
                for (int c = 0; c < w.channels; c++) {
                    int32_t sum = start[c];
                    for (int ky = 0; ky < w.kernel_height; ky++) {
                        int iy = oy * w.stride_y - w.top + ky * w.dilation_y;
                        if (iy < 0 || iy >= w.height)
                            continue;
                        for (int kx = 0; kx < w.kernel_width; kx++) {
                            int ix = ox * w.stride_x - w.left + kx * w.dilation_x;
                            if (ix < 0 || ix >= w.width)
                                continue;
                            int at = (n * w.height + iy) * w.width + ix;
                            int tap = ky * w.kernel_width + kx;
                            sum += (x[at * w.channels + c] - zero) * weight[tap * w.channels + c];
                        }
                    }
                    *y++ = to_u8((float)sum * scale[c], out_zero);
                }
}
