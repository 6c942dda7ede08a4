/* The nearest code of a number of steps: a half goes to the even one, what is beyond saturates. */
static inline int8_t to_s8(float steps, int zero)
{
    float low = (float)(INT8_MIN - zero), high = (float)(INT8_MAX - zero);
    steps = steps > low ? steps : low;
    return (int8_t)((int)rintf(steps < high ? steps : high) + zero);
}
