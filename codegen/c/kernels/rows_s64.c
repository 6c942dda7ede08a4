/* Rows of a table, of so many bytes each; a place that is beyond it is that of its last row. */
static void rows_s64(const int64_t *x, const void *table, void *y, int count, int rows, int bytes)
{
    for (int n = 0; n < count; n++) {
        size_t row = x[n] < 0 ? 0 : x[n] < rows ? (size_t)x[n] : (size_t)rows - 1;
        memcpy((char *)y + (size_t)n * (size_t)bytes, (const char *)table + row * (size_t)bytes,
               (size_t)bytes);
    }
}
