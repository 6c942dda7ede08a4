/* Means of windows that share an image out, of sizes that differ by one where they must. */
static void adaptive_average_f32(const float *x, float *y, struct window w)
{
    for (int n = 0; n < w.batch; n++)
        for (int oy = 0; oy < w.out_height; oy++)
            for (int ox = 0; ox < w.out_width; ox++)
                for (int c = 0; c < w.channels; c++) {
                    int top = oy * w.height / w.out_height, left = ox * w.width / w.out_width;
                    int bottom = ((oy + 1) * w.height + w.out_height - 1) / w.out_height;
                    int right = ((ox + 1) * w.width + w.out_width - 1) / w.out_width;
                    float sum = 0;
                    for (int iy = top; iy < bottom; iy++)
                        for (int ix = left; ix < right; ix++)
                            sum += x[((n * w.height + iy) * w.width + ix) * w.channels + c];
                    *y++ = sum / (float)((bottom - top) * (right - left));
                }
}
