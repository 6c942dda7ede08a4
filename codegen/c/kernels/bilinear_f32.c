/* Between the four next numbers: of a place p of the result at (p + shift) * step - shift. */
static void bilinear_f32(const float *x, float *y, float step_y, float step_x, float shift,
                         struct window w)
{
    for (int n = 0; n < w.batch; n++)
        for (int oy = 0; oy < w.out_height; oy++)
            for (int ox = 0; ox < w.out_width; ox++) {
                float iy = step_y * ((float)oy + shift) - shift, ix = step_x * ((float)ox + shift) - shift;
                iy = iy > 0 ? iy : 0;
                ix = ix > 0 ? ix : 0;
                int top = (int)iy < w.height - 1 ? (int)iy : w.height - 1;
                int left = (int)ix < w.width - 1 ? (int)ix : w.width - 1;
                int down = top < w.height - 1 ? w.width * w.channels : 0;
                int right = left < w.width - 1 ? w.channels : 0;
                float dy = iy - (float)top, dx = ix - (float)left;
                const float *at = x + ((n * w.height + top) * w.width + left) * w.channels;
                for (int c = 0; c < w.channels; c++, at++)
                    *y++ = (1 - dy) * ((1 - dx) * at[0] + dx * at[right])
                        + dy * ((1 - dx) * at[down] + dx * at[down + right]);
            }
}
