/* The one inner loop of all products: a few rows of x times a few blocks of 16 columns of w, in registers.
 *
 * w stands in blocks of 16 columns, each [pairs][16][2] bfloat16: one load brings two consecutive k of 16 columns, and
 * one instruction multiplies them with two consecutive k of a row and adds to 16 float32 sums.
 */
#pragma once
#include "numbers.h"

/* The sums of a tile, its columns and one pair fit the 32 registers, in one of two shapes: few rows times 4 blocks, or
 * many times 2, which goes over the weights fewer times. */
#define FEW_ROWS 6
#define MANY_ROWS 14
#define MOST_BLOCKS 4

typedef struct {
  const uint32_t *x; /* pairs of row 0 */
  int64_t x_stride;  /* pairs between rows */
  const uint32_t *w; /* block 0 */
  int64_t w_stride;  /* dwords between blocks */
  int64_t pairs;     /* of k to go over */
  float *sums;       /* row 0, column 0 */
  int64_t sums_stride;
  int is_fresh; /* whether the sums begin at zero; else they are added to */
} Tile;

INLINE void tile(const Tile *t, const int rows, const int blocks) {
  __m512 sums[MANY_ROWS][MOST_BLOCKS];
#pragma GCC unroll 14
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int b = 0; b < blocks; b++)
      sums[r][b] = t->is_fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(t->sums + r * t->sums_stride + b * LANES);
  const uint32_t *x = t->x, *w = t->w;
  const int64_t x_stride = t->x_stride, w_stride = t->w_stride;
  for (int64_t p = 0; p < t->pairs; p++) {
    __m512bh columns[MOST_BLOCKS];
#pragma GCC unroll 4
    for (int b = 0; b < blocks; b++) columns[b] = (__m512bh)_mm512_loadu_si512(w + b * w_stride + p * LANES);
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
      const __m512bh pair = (__m512bh)_mm512_set1_epi32((int)x[r * x_stride + p]);
#pragma GCC unroll 4
      for (int b = 0; b < blocks; b++) sums[r][b] = _mm512_dpbf16_ps(sums[r][b], pair, columns[b]);
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int b = 0; b < blocks; b++) _mm512_storeu_ps(t->sums + r * t->sums_stride + b * LANES, sums[r][b]);
}

#define OF_2(rows) case rows: return tile(t, rows, 2)
#define OF_4(rows) case rows: return tile(t, rows, 4)

static void tile_of_2(const Tile *t, int64_t rows) {
  switch (rows) {
    OF_2(1); OF_2(2); OF_2(3); OF_2(4); OF_2(5); OF_2(6); OF_2(7);
    OF_2(8); OF_2(9); OF_2(10); OF_2(11); OF_2(12); OF_2(13); OF_2(14);
  }
}

static void tile_of_4(const Tile *t, int64_t rows) {
  switch (rows) { OF_4(1); OF_4(2); OF_4(3); OF_4(4); OF_4(5); OF_4(6); }
}

/* All rows and blocks, an even number, of a product, tile by tile. The rows of a sum do not depend on each other, and
 * its order is that of k: a row's result is the same to the last bit in any company. */
static void product(const Tile *whole, int64_t rows, int64_t blocks) {
  const int is_few = rows <= FEW_ROWS;
  const int64_t passes = (rows + MANY_ROWS - 1) / MANY_ROWS, at_once = (rows + passes - 1) / passes;
  for (int64_t b = 0, step; b < blocks; b += step) {
    step = is_few && blocks - b >= MOST_BLOCKS ? MOST_BLOCKS : 2;
    for (int64_t r = 0; r < rows; r += at_once) {
      Tile t = *whole;
      t.x += r * t.x_stride;
      t.w += b * t.w_stride;
      t.sums += r * t.sums_stride + b * LANES;
      const int64_t here = rows - r < at_once ? rows - r : at_once;
      if (step == MOST_BLOCKS) tile_of_4(&t, here);
      else tile_of_2(&t, here);
    }
  }
}
