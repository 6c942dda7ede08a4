static void max_pool_u8(const uint8_t *x, uint8_t *y, struct window w)
{
    for (int n = 0; n < w.batch; n++)
        for (int oy = 0; oy < w.out_height; oy++)
            for (int ox = 0; ox < w.out_width; ox++, y += w.channels) {
                int seen = 0;
                for (int ky = 0; ky < w.kernel_height; ky++)
                    for (int kx = 0; kx < w.kernel_width; kx++) {
                        int iy = oy * w.stride_y - w.top + ky * w.dilation_y;
                        int ix = ox * w.stride_x - w.left + kx * w.dilation_x;
                        if (iy < 0 || iy >= w.height || ix < 0 || ix >= w.width)
                            continue;
                        const uint8_t *at = x + ((n * w.height + iy) * w.width + ix) * w.channels;
                        for (int c = 0; c < w.channels; c++)
                            y[c] = seen && y[c] > at[c] ? y[c] : at[c];
                        seen = 1;
                    }
            }
}
