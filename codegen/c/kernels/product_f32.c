/* weight [O][I] times a vector, and the bias */
static void product_f32(const float *x, const float *weight, const float *bias, float *y,
                        int inputs, int outputs)
{
    for (int o = 0; o < outputs; o++) {
        float sum = 0;
        for (int i = 0; x != NULL && i < inputs; i++)
            sum += x[i] * weight[o * inputs + i];
        y[o] = sum + bias[o];
    }
}
