/* [batch][rows][columns] as [batch][columns][rows] */
static void swap_u8(const uint8_t *x, uint8_t *y, int batch, int rows, int columns)
{
    for (int n = 0; n < batch; n++, x += rows * columns)
        for (int c = 0; c < columns; c++)
            for (int r = 0; r < rows; r++)
                *y++ = x[r * columns + c];
}
