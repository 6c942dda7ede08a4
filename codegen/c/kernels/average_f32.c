/* The mean of what lies in the image, or, where the padding counts, of padding and image. */
static void average_f32(const float *x, float *y, int padding_counts, struct window w)
{
    for (int n = 0; n < w.batch; n++)
        for (int oy = 0; oy < w.out_height; oy++)
            for (int ox = 0; ox < w.out_width; ox++)
                for (int c = 0; c < w.channels; c++) {
                    int count = 0;
                    float sum = 0;
                    for (int ky = 0; ky < w.kernel_height; ky++)
                        for (int kx = 0; kx < w.kernel_width; kx++) {
                            int iy = oy * w.stride_y - w.top + ky;
                            int ix = ox * w.stride_x - w.left + kx;
                            int inside = iy >= 0 && iy < w.height && ix >= 0 && ix < w.width;
                            if (inside)
                                sum += x[((n * w.height + iy) * w.width + ix) * w.channels + c];
                            count += inside || (padding_counts && iy < w.height + w.top
                                                && ix < w.width + w.left);
                        }
                    *y++ = sum / (float)count;
                }
}
