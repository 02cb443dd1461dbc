/* Linears over packed weights; a unit of work is one group of 64 columns for all rows of the step. */
#pragma once
#include "tile.h"

#define GROUP_BLOCKS 4
#define GROUP (GROUP_BLOCKS * LANES) /* columns of a unit */
#define ROWS_AT_ONCE 98 /* their sums of one group stay in the nearest caches */
#define PAIRS_AT_ONCE 512 /* 128 KiB of a group's weights stay in a core's own cache while the rows go over them */

typedef struct {
  const uint32_t *weight; /* [groups][4][pairs][16] pairs of bfloat16, see tile.h */
  const float *bias;      /* [groups * 64], or null */
  int64_t columns;        /* that exist; the last group may be padded */
  int64_t pairs;          /* width / 2 */
} Linear;

typedef struct {
  const bf16 *x; /* [rows, width] */
  int64_t rows;
  float *out; /* [rows, stride]; what `finish` makes of it */
  bf16 *halves;
  int64_t stride;
} Operands;

typedef void (*Finish)(const Operands *, const Linear *, int64_t group, int64_t row, float *sums);

INLINE int64_t groups_of(const Linear *linear) { return (linear->columns + GROUP - 1) / GROUP; }

static void linear_unit(const Operands *o, const Linear *linear, int64_t group, Finish finish) {
  float sums[ROWS_AT_ONCE * GROUP] __attribute__((aligned(64)));
  const int64_t w_stride = linear->pairs * LANES;
  for (int64_t row = 0; row < o->rows; row += ROWS_AT_ONCE) {
    const int64_t rows = o->rows - row < ROWS_AT_ONCE ? o->rows - row : ROWS_AT_ONCE;
    for (int64_t pair = 0; pair < linear->pairs; pair += PAIRS_AT_ONCE) {
      const int64_t left = linear->pairs - pair;
      const Tile t = {
          .x = (const uint32_t *)o->x + row * linear->pairs + pair,
          .x_stride = linear->pairs,
          .w = linear->weight + group * GROUP_BLOCKS * w_stride + pair * LANES,
          .w_stride = w_stride,
          .pairs = left < PAIRS_AT_ONCE ? left : PAIRS_AT_ONCE,
          .sums = sums,
          .sums_stride = GROUP,
          .is_fresh = pair == 0,
      };
      product(&t, rows, GROUP_BLOCKS);
    }
    for (int64_t r = 0; r < rows; r++) finish(o, linear, group, row + r, sums + r * GROUP);
  }
}

INLINE __m512 with_bias(const Linear *linear, int64_t column, const float *sums) {
  const __m512 sum = _mm512_loadu_ps(sums);
  return linear->bias ? _mm512_add_ps(sum, _mm512_loadu_ps(linear->bias + column)) : sum;
}

/* out = sums */
static void finish_plain(const Operands *o, const Linear *linear, int64_t group, int64_t row, float *sums) {
  for (int64_t i = 0; i < GROUP; i += LANES) {
    const int64_t column = group * GROUP + i;
    float *to = o->out + row * o->stride + column;
    _mm512_mask_storeu_ps(to, first_lanes(linear->columns - column), with_bias(linear, column, sums + i));
  }
}

/* out += sums */
static void finish_residual(const Operands *o, const Linear *linear, int64_t group, int64_t row, float *sums) {
  for (int64_t i = 0; i < GROUP; i += LANES) {
    const int64_t column = group * GROUP + i;
    const __mmask16 mask = first_lanes(linear->columns - column);
    float *to = o->out + row * o->stride + column;
    const __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), with_bias(linear, column, sums + i));
    _mm512_mask_storeu_ps(to, mask, sum);
  }
}

/* halves = silu(gate) * up; a group holds 32 gates and then the 32 they gate. */
static void finish_gated(const Operands *o, const Linear *linear, int64_t group, int64_t row, float *sums) {
  for (int64_t i = 0; i < GROUP / 2; i += LANES) {
    const int64_t gate = group * GROUP + i, up = gate + GROUP / 2;
    const __m512 value = _mm512_mul_ps(silu(with_bias(linear, gate, sums + i)), with_bias(linear, up, sums + GROUP / 2 + i));
    store_bf16(o->halves + row * o->stride + group * (GROUP / 2) + i, value);
  }
}
