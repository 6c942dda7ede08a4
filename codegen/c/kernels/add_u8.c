/* left and right are steps of the result's scale; rest is its zero point less those of the two. */
static void add_u8(const uint8_t *a, const uint8_t *b, uint8_t *y, int count, int side, int period,
                   float left, float right, float rest)
{
    for (int i = 0; i < count; i++)
        y[i] = to_u8(fmaf(a[i], left, fmaf(b[i / side % period], right, rest)), 0);
}
