/* How a window moves over an image; channels lie side by side. */
struct window {
    int batch, height, width, channels;
    int out_height, out_width, out_channels, groups;
    int kernel_height, kernel_width, stride_y, stride_x, top, left, dilation_y, dilation_x;
};
