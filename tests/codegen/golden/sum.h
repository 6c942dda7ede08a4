#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#define MODEL_X_COUNT 18  /* float[1][2][3][3] */
#define MODEL_Y_COUNT 18  /* float[1][2][3][3] */
#define MODEL_M_COUNT 2  /* float[1][2] */
#define MODEL_ARENA_BYTES 40
#define MODEL_CONSTANT_BYTES 0

#ifdef __cplusplus
extern "C" {
#endif

/* Arrays as PyTorch lays them out, the last axis side by side; they must not overlap.
   Gives 0, or 1 where one is NULL. Not for two threads at once: there is one arena. */
int model_run(const float *x, const float *y, float *m);

#ifdef __cplusplus
}
#endif

#endif
