static void copy_u8(const uint8_t *x, uint8_t *y, struct loops l)
{
    for (int a = 0; a < l.count[0]; a++)
        for (int b = 0; b < l.count[1]; b++)
            for (int c = 0; c < l.count[2]; c++)
                for (int d = 0; d < l.count[3]; d++)
                    for (int e = 0; e < l.count[4]; e++) {
                        const uint8_t *from = x + a * l.from[0] + b * l.from[1] + c * l.from[2]
                            + d * l.from[3] + e * l.from[4];
                        uint8_t *to = y + a * l.to[0] + b * l.to[1] + c * l.to[2] + d * l.to[3]
                            + e * l.to[4];
                        if (l.from[5] == 1 && l.to[5] == 1)
                            memcpy(to, from, (size_t)l.count[5] * sizeof *to);
                        else
                            for (int i = 0; i < l.count[5]; i++)
                                to[i * l.to[5]] = from[i * l.from[5]];
                    }
}
