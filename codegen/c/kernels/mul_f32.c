/* b is repeated: each of its period numbers stands for so many side by side. */
static void mul_f32(const float *a, const float *b, float *y, int count, int side, int period)
{
    for (int i = 0; i < count; i++)
        y[i] = a[i] * b[i / side % period];
}
