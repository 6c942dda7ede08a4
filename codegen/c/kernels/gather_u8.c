/* Rows that lie anywhere in x, so many numbers each. */
static void gather_u8(const uint8_t *x, const int32_t *first, uint8_t *y, int rows, int count)
{
    for (int n = 0; n < rows; n++, y += count)
        memcpy(y, x + first[n], (size_t)count * sizeof *y);
}
