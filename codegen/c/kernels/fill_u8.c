static void fill_u8(uint8_t *y, int count, uint8_t value)
{
    for (int i = 0; i < count; i++)
        y[i] = value;
}
