static void quantize_u8(const float *x, uint8_t *y, int count, float scale, int zero)
{
    for (int i = 0; i < count; i++)
        y[i] = to_u8(x[i] / scale, zero);
}
