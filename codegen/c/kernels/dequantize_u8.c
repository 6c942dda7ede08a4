static void dequantize_u8(const uint8_t *x, float *y, int count, float scale, int zero)
{
    for (int i = 0; i < count; i++)
        y[i] = (float)(x[i] - zero) * scale;
}
