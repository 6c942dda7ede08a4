/* What one position of the window sees of one group, in the order of the weights; outside: zero. */
static void patch_u8(const uint8_t *x, uint8_t *patch, const struct window *w, int n, int oy,
                     int ox, int group, uint8_t zero)
{
    int depth = w->channels / w->groups;
    for (int ky = 0; ky < w->kernel_height; ky++) {
        int iy = oy * w->stride_y - w->top + ky * w->dilation_y;
        for (int kx = 0; kx < w->kernel_width; kx++) {
            int ix = ox * w->stride_x - w->left + kx * w->dilation_x;
            if (iy < 0 || iy >= w->height || ix < 0 || ix >= w->width) {
                for (int c = 0; c < depth; c++)
                    patch[c] = zero;
            } else {
                const uint8_t *at = x + ((n * w->height + iy) * w->width + ix) * w->channels;
                for (int c = 0; c < depth; c++)
                    patch[c] = at[group * depth + c];
            }
            patch += depth;
        }
    }
}
