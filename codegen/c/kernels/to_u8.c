/* The nearest code of a number of steps: a half goes to the even one, what is beyond saturates. */
static inline uint8_t to_u8(float steps, int zero)
{
    float low = (float)(0 - zero), high = (float)(UINT8_MAX - zero);
    steps = steps > low ? steps : low;
    return (uint8_t)((int)rintf(steps < high ? steps : high) + zero);
}
