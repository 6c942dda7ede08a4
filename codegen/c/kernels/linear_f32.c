/* weight [O][I] */
static void linear_f32(const float *x, const float *weight, const float *bias, float *y, int rows,
                       int inputs, int outputs)
{
    for (int n = 0; n < rows; n++, x += inputs)
        for (int o = 0; o < outputs; o++) {
            float sum = 0;
            for (int i = 0; i < inputs; i++)
                sum += x[i] * weight[o * inputs + i];
            *y++ = sum + bias[o];
        }
}
