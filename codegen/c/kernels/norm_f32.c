/* x and y [rows][count]: each row brought to mean 0, if centred, and mean square 1. Rows are those
   of so many groups, by turns, and side numbers beside each other have one weight. */
static void norm_f32(const float *x, const float *weight, const float *bias, float *y, int rows,
                     int count, int groups, int side, int centred, float epsilon)
{
    for (int n = 0; n < rows; n++, x += count, y += count) {
        int first = n % groups * (count / side);
        float mean = 0, square = 0;
        for (int i = 0; centred && i < count; i++)
            mean += x[i];
        mean /= (float)count;
        for (int i = 0; i < count; i++)
            square += (x[i] - mean) * (x[i] - mean);
        float factor = 1 / sqrtf(square / (float)count + epsilon);
        for (int i = 0; i < count; i++)
            y[i] = (x[i] - mean) * factor * weight[first + i / side] + bias[first + i / side];
    }
}
