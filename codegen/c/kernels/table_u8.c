/* A function of one code, by all its 256 values, those of negative codes last. */
static void table_u8(const uint8_t *x, const uint8_t *table, uint8_t *y, int count)
{
    for (int i = 0; i < count; i++)
        y[i] = table[x[i] & 255];
}
