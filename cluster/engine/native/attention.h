/* Attention over paged keys and values; a unit of work is a few query tokens of one sequence and one group of heads.
 *
 * 64 keys at a time: their transposed copy serves all queries of the unit, the running maximum and sum are those of
 * online softmax (Milakov and Gimelshein, 2018). Keys and values behind the sequence's end are never read, so what a
 * page still holds of its last owner, NaN or not, reaches nobody.
 */
#pragma once
#include <string.h>

#include "tile.h"

#define MAX_QUERIES 64 /* heads times tokens of a unit */
#define MAX_DIM 256
#define KEYS_AT_ONCE 64

typedef struct {
  bf16 *pages; /* [P, layers, 2, page_size, groups, dim] */
  int64_t layers, page_size, groups, dim;
} Pool;

typedef struct {
  const int32_t *table; /* pages of the sequence */
  const bf16 *query;    /* [tokens, heads, dim] of the unit's first token; rotated */
  bf16 *context;        /* alike */
  int64_t heads;        /* of all groups */
  int64_t group, layer;
  int64_t tokens;
  int64_t length; /* keys that the first token sees, itself included; each next one sees one more */
} Span;

typedef struct {
  uint32_t query[MAX_QUERIES * MAX_DIM / 2], keys[KEYS_AT_ONCE * MAX_DIM / 2], values[KEYS_AT_ONCE * MAX_DIM / 2];
  float context[MAX_QUERIES * MAX_DIM], scores[MAX_QUERIES * KEYS_AT_ONCE];
  bf16 shares[MAX_QUERIES * KEYS_AT_ONCE];
  float best[MAX_QUERIES], total[MAX_QUERIES];
} __attribute__((aligned(64))) Scratch;

/* Of a query's sums: whole pairs of blocks. What a head of one block does not have is computed, and never read. */
INLINE int64_t width_of(const Pool *pool) { return (pool->dim + 2 * LANES - 1) / (2 * LANES) * (2 * LANES); }

/* Where keys (half 0) or values (half 1) of `count` tokens begin. */
static void find(const Pool *pool, const Span *span, int64_t half, int64_t first, int64_t count, const bf16 **places) {
  const int64_t row = pool->groups * pool->dim, layer = (span->layer * 2 + half) * pool->page_size * row;
  const int64_t page_row = pool->layers * 2 * pool->page_size * row;
  int64_t page = first / pool->page_size, offset = first % pool->page_size;
  const bf16 *next = NULL;
  for (int64_t i = 0; i < count; i++, next += row) {
    if (!i || offset == pool->page_size) {
      if (i) page++, offset = 0;
      next = pool->pages + span->table[page] * page_row + layer + offset * row + span->group * pool->dim;
    }
    offset++;
    places[i] = next;
  }
}

/* Keys as columns of a product; those beyond `count` are zero, or whatever was there in a block of them alone. */
static void pack_keys(Scratch *s, const bf16 *const *keys, int64_t count, int64_t pairs) {
  for (int64_t block = 0; block * LANES < count; block++, keys += LANES) {
    const int64_t here = count - block * LANES;
    for (int64_t pair = 0; pair < pairs; pair += LANES) {
      __m512i rows[LANES];
#pragma GCC unroll 16
      for (int64_t i = 0; i < LANES; i++)
        rows[i] = _mm512_maskz_loadu_epi32(i < here ? first_lanes(pairs - pair) : 0, (const uint32_t *)keys[i] + pair);
      transpose(rows);
      uint32_t *to = s->keys + (block * pairs + pair) * LANES; /* what is too much, the next block writes over */
#pragma GCC unroll 16
      for (int64_t i = 0; i < LANES; i++) _mm512_store_si512(to + i * LANES, rows[i]);
    }
  }
}

/* Values: pairs of tokens are pairs of k, channels are columns. */
static void pack_values(Scratch *s, const bf16 *const *values, int64_t count, int64_t dim) {
  for (int64_t token = 0; token < count; token += 2) {
    const bf16 *one = values[token], *next = token + 1 < count ? values[token + 1] : NULL;
    for (int64_t channel = 0; channel < dim; channel += LANES) {
      __m512i pair = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(one + channel)));
      if (next) {
        const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(next + channel)));
        pair = _mm512_or_si512(pair, _mm512_slli_epi32(high, 16));
      }
      _mm512_store_si512(s->values + (channel / LANES * (KEYS_AT_ONCE / 2) + token / 2) * LANES, pair);
    }
  }
}

/* Into the second cache, which waits for twice as much at a time as the first: pages lie all over the pool. */
static void prefetch(const bf16 *const *places, int64_t count, int64_t dim) {
  for (int64_t i = 0; i < count; i++)
    for (int64_t line = 0; line < dim; line += 32) _mm_prefetch((const char *)(places[i] + line), _MM_HINT_T1);
}

/* One query's scores of `seen` keys become shares; what it had summed up before is weighed down to the new maximum. */
static void soften(Scratch *s, int64_t query, int64_t seen, int64_t width, float scale) {
  __m512 scores[KEYS_AT_ONCE / LANES], best = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < KEYS_AT_ONCE / LANES; i++) {
    const __m512 raw = _mm512_loadu_ps(s->scores + query * KEYS_AT_ONCE + i * LANES);
    scores[i] = _mm512_mask_mul_ps(_mm512_set1_ps(-INFINITY), first_lanes(seen - i * LANES), raw, _mm512_set1_ps(scale));
    best = _mm512_max_ps(best, scores[i]);
  }
  const float before = s->best[query], highest = _mm512_reduce_max_ps(best), now = highest > before ? highest : before;
  for (int64_t i = 0; i < KEYS_AT_ONCE / LANES; i++) {
    scores[i] = exp_f32(_mm512_sub_ps(scores[i], _mm512_set1_ps(now)));
    sum = _mm512_add_ps(sum, scores[i]);
    store_bf16(s->shares + query * KEYS_AT_ONCE + i * LANES, scores[i]);
  }
  const __m512 kept = exp_f32(_mm512_set1_ps(before - now));
  s->best[query] = now;
  s->total[query] = s->total[query] * _mm512_cvtss_f32(kept) + _mm512_reduce_add_ps(sum);
  float *context = s->context + query * width;
  if (before != now)
    for (int64_t i = 0; i < width; i += LANES)
      _mm512_storeu_ps(context + i, _mm512_mul_ps(_mm512_loadu_ps(context + i), kept));
}

static void take_queries(Scratch *s, const Pool *pool, const Span *span) {
  const int64_t heads = span->heads / pool->groups, size = pool->dim * sizeof(bf16);
  for (int64_t i = 0; i < span->tokens; i++)
    memcpy(s->query + i * heads * pool->dim / 2, span->query + (i * span->heads + span->group * heads) * pool->dim,
           heads * size);
  for (int64_t i = 0; i < span->tokens * heads; i++) s->best[i] = -INFINITY, s->total[i] = 0;
  memset(s->context, 0, span->tokens * heads * width_of(pool) * sizeof(float));
}

static void give_context(const Scratch *s, const Pool *pool, const Span *span) {
  const int64_t heads = span->heads / pool->groups;
  for (int64_t i = 0; i < span->tokens * heads; i++) {
    const __m512 total = _mm512_set1_ps(s->total[i]);
    bf16 *to = span->context + (i / heads * span->heads + span->group * heads + i % heads) * pool->dim;
    for (int64_t c = 0; c < pool->dim; c += LANES)
      store_bf16(to + c, _mm512_div_ps(_mm512_loadu_ps(s->context + i * width_of(pool) + c), total));
  }
}

static void attend(const Pool *pool, const Span *span) {
  Scratch s;
  const bf16 *keys[2][KEYS_AT_ONCE], *values[2][KEYS_AT_ONCE];
  const int64_t heads = span->heads / pool->groups, queries = span->tokens * heads, pairs = pool->dim / 2;
  const int64_t width = width_of(pool);
  const int64_t length = span->length + span->tokens - 1; /* of the last token */
  const float scale = 1 / sqrtf(pool->dim);
  take_queries(&s, pool, span);
  int64_t count = length < KEYS_AT_ONCE ? length : KEYS_AT_ONCE, now = 0;
  find(pool, span, 0, 0, count, keys[now]);
  find(pool, span, 1, 0, count, values[now]);
  for (int64_t first = 0; first < length; first += KEYS_AT_ONCE) {
    const int64_t after = first + count, following = length - after < KEYS_AT_ONCE ? length - after : KEYS_AT_ONCE;
    find(pool, span, 0, after, following, keys[!now]);
    find(pool, span, 1, after, following, values[!now]);
    prefetch(keys[!now], following, pool->dim);
    pack_keys(&s, keys[now], count, pairs);
    product(&(Tile){.x = s.query, .x_stride = pairs, .w = s.keys, .w_stride = pairs * LANES, .pairs = pairs,
                   .sums = s.scores, .sums_stride = KEYS_AT_ONCE, .is_fresh = 1},
            queries, (count + 2 * LANES - 1) / (2 * LANES) * 2);
    for (int64_t i = 0; i < queries; i++) soften(&s, i, span->length + i / heads - first, width, scale);
    prefetch(values[!now], following, pool->dim);
    pack_values(&s, values[now], count, pool->dim);
    product(&(Tile){.x = (const uint32_t *)s.shares, .x_stride = KEYS_AT_ONCE / 2, .w = s.values,
                   .w_stride = KEYS_AT_ONCE / 2 * LANES, .pairs = (count + 1) / 2, .sums = s.context,
                   .sums_stride = width},
            queries, width / LANES);
    count = following, now = !now;
  }
  give_context(&s, pool, span);
}
