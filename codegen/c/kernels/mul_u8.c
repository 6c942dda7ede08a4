/* scale: of a step of both in steps of the result, whose zero point is there before it is rounded. */
static void mul_u8(const uint8_t *a, const uint8_t *b, uint8_t *y, int count, int side, int period,
                   int a_zero, int b_zero, float scale, int zero)
{
    for (int i = 0; i < count; i++) {
        int32_t product = (a[i] - a_zero) * (b[i / side % period] - b_zero);
        y[i] = to_u8((float)product * scale + (float)zero, 0);
    }
}
