/* a [batch][rows][count], b [batch][count][columns] */
static void matmul_f32(const float *a, const float *b, float *y, int batch, int rows, int count,
                       int columns)
{
    for (int n = 0; n < batch; n++, b += count * columns)
        for (int r = 0; r < rows; r++, a += count)
            for (int c = 0; c < columns; c++) {
                float sum = 0;
                for (int i = 0; i < count; i++)
                    sum += a[i] * b[i * columns + c];
                *y++ = sum;
            }
}
