/* weight [O][I]; start: less the zero point times the sum of weights. */
static void linear_u8(const uint8_t *x, const int8_t *weight, const int32_t *start,
                      const float *scale, const float *bias, float *y, int rows, int inputs,
                      int outputs)
{
    for (int n = 0; n < rows; n++, x += inputs)
        for (int o = 0; o < outputs; o++) {
            int32_t sum = dot_u8(x, weight + o * inputs, inputs, start[o]);
            *y++ = (float)sum * scale[o] + bias[o];
        }
}
