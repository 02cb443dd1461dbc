/* One step of a ChatGLM3 over flat tokens and paged keys and values, as phases of a crew.
 *
 * The residual stream and all sums are float32; products take bfloat16. Which part of a step is where is decided by
 * cluster/engine/native/model.py, which also packs the weights; everything here trusts it.
 */
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")
#include "attention.h"
#include "crew.h"
#include "linear.h"

#define TOKENS_AT_ONCE 8 /* a unit of what goes token by token */

typedef struct {
  const float *input_norm, *post_norm; /* [hidden] */
  Linear qkv, dense, up, down;
} Layer;

typedef struct {
  int64_t num_layers, hidden, heads, groups, dim, inner, vocab; /* inner: padded to a multiple of 32 */
  float epsilon;
  const bf16 *embedding; /* [vocab, hidden] */
  const float *turns;    /* [positions, dim / 4, 2]: cosine, sine */
  const float *norm;     /* [hidden] */
  Linear output;
  const Layer *layers;
  Pool pool;
} Model;

typedef struct {
  int64_t num_tokens, num_rows, num_drawn, num_spans, table_width;
  const int32_t *token_ids, *positions, *tables; /* [tokens], [tokens], [rows, table_width] */
  const int64_t *slots;                          /* [tokens] */
  const int32_t *drawn;                          /* [drawn], tokens that get scores */
  const int32_t *span_rows, *span_tokens, *span_sizes, *span_lengths; /* [spans], see Span */
  float *x;                                                           /* [tokens, hidden] */
  bf16 *normed, *query, *context, *gated; /* [tokens, hidden], [tokens, heads * dim] twice, [tokens, inner] */
  float *qkv;                             /* [tokens, (heads + 2 groups) * dim] */
  float *scores;                          /* [drawn, vocab] */
  int32_t *best;                          /* [drawn], argmax, the first of equals */
  uint8_t *is_finite;                     /* [drawn] */
} Plan;

typedef struct {
  const Model *model;
  const Plan *plan;
} Step;

enum { NORM_IN, QKV, TURN, ATTEND, DENSE, NORM_POST, UP, DOWN, PER_LAYER };
enum { NORM_OUT = PER_LAYER, OUTPUT, SCAN, EMBED };

/* The embedding, then the phases of each layer, then those of the rows that draw. */
static int64_t kind_of(const Model *m, int64_t phase) {
  if (!phase) return EMBED;
  const int64_t last = m->num_layers * PER_LAYER;
  return phase <= last ? (phase - 1) % PER_LAYER : NORM_OUT + phase - 1 - last;
}

static int64_t units_of(void *context, int64_t phase) {
  const Step *s = context;
  const Layer *l = s->model->layers;
  switch (kind_of(s->model, phase)) {
    case QKV: return groups_of(&l->qkv);
    case ATTEND: return s->plan->num_spans * s->model->groups;
    case DENSE: return groups_of(&l->dense);
    case UP: return groups_of(&l->up);
    case DOWN: return groups_of(&l->down);
    case NORM_OUT: case SCAN: return s->plan->num_drawn;
    case OUTPUT: return s->plan->num_drawn ? groups_of(&s->model->output) : 0;
    default: return (s->plan->num_tokens + TOKENS_AT_ONCE - 1) / TOKENS_AT_ONCE;
  }
}

/* y = weight * x / sqrt(mean(x^2) + epsilon) */
static void normalise(const float *x, const float *weight, float epsilon, int64_t width, bf16 *y) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < width; i += LANES) {
    const __m512 v = _mm512_loadu_ps(x + i);
    sum = _mm512_fmadd_ps(v, v, sum);
  }
  const __m512 factor = _mm512_set1_ps(1 / sqrtf(_mm512_reduce_add_ps(sum) / width + epsilon));
  for (int64_t i = 0; i < width; i += LANES)
    store_bf16(y + i, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(x + i), factor), _mm512_loadu_ps(weight + i)));
}

static void embed(const Step *s, int64_t token) {
  const int64_t width = s->model->hidden;
  const bf16 *from = s->model->embedding + s->plan->token_ids[token] * width;
  for (int64_t i = 0; i < width; i += LANES) _mm512_storeu_ps(s->plan->x + token * width + i, load_bf16(from + i));
}

/* Rotates the first half of a head in pairs of neighbours and rounds the whole of it. */
static void turn_head(const float *from, const float *turns, int64_t dim, bf16 *to) {
  float turned[MAX_DIM];
  memcpy(turned, from, dim * sizeof(float));
  for (int64_t j = 0; j < dim / 4; j++) {
    const float cosine = turns[2 * j], sine = turns[2 * j + 1], even = from[2 * j], odd = from[2 * j + 1];
    turned[2 * j] = even * cosine - odd * sine;
    turned[2 * j + 1] = odd * cosine + even * sine;
  }
  for (int64_t i = 0; i < dim; i += LANES) store_bf16(to + i, _mm512_loadu_ps(turned + i));
}

static void turn(const Step *s, int64_t layer, int64_t token) {
  const Model *m = s->model;
  const Plan *p = s->plan;
  const Pool *pool = &m->pool;
  const float *from = p->qkv + token * (m->heads + 2 * m->groups) * m->dim;
  const float *turns = m->turns + p->positions[token] * (m->dim / 2);
  const int64_t page = p->slots[token] / pool->page_size, offset = p->slots[token] % pool->page_size;
  for (int64_t h = 0; h < m->heads; h++)
    turn_head(from + h * m->dim, turns, m->dim, p->query + (token * m->heads + h) * m->dim);
  const int64_t half = pool->page_size * m->groups * m->dim;
  bf16 *key = pool->pages + (page * pool->layers + layer) * 2 * half + offset * m->groups * m->dim;
  for (int64_t g = 0; g < m->groups; g++)
    turn_head(from + (m->heads + g) * m->dim, turns, m->dim, key + g * m->dim);
  const float *values = from + (m->heads + m->groups) * m->dim;
  for (int64_t i = 0; i < m->groups * m->dim; i += LANES) store_bf16(key + half + i, _mm512_loadu_ps(values + i));
}

static void attend_unit(const Step *s, int64_t layer, int64_t unit) {
  const Model *m = s->model;
  const Plan *p = s->plan;
  const int64_t index = unit / m->groups, start = p->span_tokens[index] * m->heads * m->dim;
  const Span span = {
      .table = p->tables + p->span_rows[index] * p->table_width,
      .query = p->query + start,
      .context = p->context + start,
      .heads = m->heads,
      .group = unit % m->groups,
      .layer = layer,
      .tokens = p->span_sizes[index],
      .length = p->span_lengths[index],
  };
  attend(&m->pool, &span);
}

static void scan(const Step *s, int64_t row) {
  const int64_t vocab = s->model->vocab;
  const float *scores = s->plan->scores + row * vocab;
  __m512 most = _mm512_set1_ps(-INFINITY);
  __mmask16 is_broken = 0;
  for (int64_t i = 0; i < vocab; i += LANES) {
    const __m512 v = _mm512_mask_loadu_ps(_mm512_set1_ps(-3e38f), first_lanes(vocab - i), scores + i);
    is_broken |= _mm512_fpclass_ps_mask(v, 0x99); /* either NaN, either infinity */
    most = _mm512_max_ps(most, v);
  }
  const __m512 best = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  int64_t place = 0;
  for (int64_t i = 0; i < vocab; i += LANES) {
    const __m512 v = _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), first_lanes(vocab - i), scores + i);
    const __mmask16 found = _mm512_cmp_ps_mask(v, best, _CMP_EQ_OQ);
    if (found) {
      place = i + __builtin_ctz(found);
      break;
    }
  }
  s->plan->best[row] = place;
  s->plan->is_finite[row] = !is_broken;
}

static void run_tokens(const Step *s, int64_t kind, int64_t layer, int64_t first) {
  const Model *m = s->model;
  const Plan *p = s->plan;
  const int64_t end = first + TOKENS_AT_ONCE < p->num_tokens ? first + TOKENS_AT_ONCE : p->num_tokens;
  for (int64_t t = first; t < end; t++) {
    if (kind == EMBED) embed(s, t);
    else if (kind == TURN) turn(s, layer, t);
    else {
      const Layer *l = m->layers + layer;
      const float *weight = kind == NORM_IN ? l->input_norm : l->post_norm;
      normalise(p->x + t * m->hidden, weight, m->epsilon, m->hidden, p->normed + t * m->hidden);
    }
  }
}

static void run_unit(void *context, int64_t phase, int64_t unit) {
  const Step *s = context;
  const Model *m = s->model;
  const Plan *p = s->plan;
  const int64_t layer = (phase - 1) / PER_LAYER, kind = kind_of(m, phase), wide = (m->heads + 2 * m->groups) * m->dim;
  const Layer *l = m->layers + layer;
  const int64_t rows = p->num_tokens;
  switch (kind) {
    case QKV:
      return linear_unit(&(Operands){p->normed, rows, p->qkv, NULL, wide}, &l->qkv, unit, finish_plain);
    case ATTEND: return attend_unit(s, layer, unit);
    case DENSE:
      return linear_unit(&(Operands){p->context, rows, p->x, NULL, m->hidden}, &l->dense, unit, finish_residual);
    case UP:
      return linear_unit(&(Operands){p->normed, rows, NULL, p->gated, m->inner}, &l->up, unit, finish_gated);
    case DOWN:
      return linear_unit(&(Operands){p->gated, rows, p->x, NULL, m->hidden}, &l->down, unit, finish_residual);
    case NORM_OUT:
      return normalise(p->x + p->drawn[unit] * m->hidden, m->norm, m->epsilon, m->hidden, p->normed + unit * m->hidden);
    case OUTPUT:
      return linear_unit(&(Operands){p->normed, p->num_drawn, p->scores, NULL, m->vocab}, &m->output, unit, finish_plain);
    case SCAN: return scan(s, unit);
    default: return run_tokens(s, kind, layer, unit * TOKENS_AT_ONCE);
  }
}

int chatglm_is_supported(void) {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16");
}

void *chatglm_begin(int num_threads) { return crew_begin(num_threads); }

void chatglm_end(void *crew) { crew_end(crew); }

int chatglm_step(void *crew, const Model *model, const Plan *plan) {
  Step step = {model, plan};
  return crew_do(crew, (Job){&step, 1 + model->num_layers * PER_LAYER + 3, units_of, run_unit});
}

/* `from` [any, width] row by row in `order` [columns]; -1 is left as it is, and so is what
 * `to`, which begins with zeros, has in width beyond `from`. Widths in pairs. */
void chatglm_pack(const uint32_t *from, int64_t from_pairs, const int32_t *order, int64_t columns, int64_t pairs,
                  uint32_t *to) {
  for (int64_t column = 0; column < columns; column++) {
    if (order[column] < 0) continue;
    const uint32_t *row = from + order[column] * from_pairs;
    uint32_t *block = to + column / LANES * pairs * LANES + column % LANES;
    for (int64_t pair = 0; pair < from_pairs; pair++) block[pair * LANES] = row[pair];
  }
}

#else

int chatglm_is_supported(void) { return 0; }

#endif
