/* Threads that share the work of a step, phase by phase.
 *
 * A phase is over when all of its units are done, not when all threads have come by: a thread that the system holds up
 * between two units, as a core that others use too will do, stops nobody. Units are taken from a counter.
 */
#pragma once
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SPINS 4000 /* about 50 us of waiting for the last units of a phase, before the core is offered to others */

typedef struct {
  _Alignas(64) atomic_int_fast64_t taken;
  _Alignas(64) atomic_int_fast64_t done;
} Phase;

typedef struct {
  void *context;
  int64_t num_phases;
  int64_t (*units)(void *context, int64_t phase);
  void (*run)(void *context, int64_t phase, int64_t unit);
} Job;

typedef struct {
  pthread_t *threads;
  int num_helpers;
  pthread_mutex_t lock;
  pthread_cond_t wake;
  uint64_t num_jobs; /* under the lock, as is_ending */
  int is_ending;
  Job job;
  Phase *phases;
  int64_t num_phases; /* allocated */
  atomic_int inside;  /* helpers that may look at the job */
  atomic_int is_open;
} Crew;

static void work(Crew *crew) {
  const Job *job = &crew->job;
  for (int64_t p = 0; p < job->num_phases; p++) {
    Phase *phase = crew->phases + p;
    const int64_t units = job->units(job->context, p);
    for (int64_t unit; (unit = atomic_fetch_add(&phase->taken, 1)) < units; atomic_fetch_add(&phase->done, 1))
      job->run(job->context, p, unit);
    for (int spins = 0; atomic_load(&phase->done) < units;) {
      if (spins++ < SPINS) _mm_pause();
      else sched_yield();
    }
  }
}

static void *help(void *argument) {
  Crew *crew = argument;
  uint64_t seen = 0;
  for (;;) {
    pthread_mutex_lock(&crew->lock);
    while (crew->num_jobs == seen && !crew->is_ending) pthread_cond_wait(&crew->wake, &crew->lock);
    seen = crew->num_jobs;
    const int is_ending = crew->is_ending;
    pthread_mutex_unlock(&crew->lock);
    if (is_ending) return NULL;
    atomic_fetch_add(&crew->inside, 1);
    if (atomic_load(&crew->is_open)) work(crew); /* else the step was over before this thread was awake */
    atomic_fetch_sub(&crew->inside, 1);
  }
}

static void crew_end(Crew *crew) {
  pthread_mutex_lock(&crew->lock);
  crew->is_ending = 1;
  pthread_cond_broadcast(&crew->wake);
  pthread_mutex_unlock(&crew->lock);
  for (int i = 0; i < crew->num_helpers; i++) pthread_join(crew->threads[i], NULL);
  free(crew->threads);
  free(crew->phases);
  free(crew);
}

/* Null when the system gives no memory or threads. */
static Crew *crew_begin(int num_threads) {
  Crew *crew = calloc(1, sizeof(Crew));
  if (!crew) return NULL;
  pthread_mutex_init(&crew->lock, NULL);
  pthread_cond_init(&crew->wake, NULL);
  crew->threads = calloc(num_threads, sizeof(pthread_t));
  for (; crew->threads && crew->num_helpers < num_threads - 1; crew->num_helpers++)
    if (pthread_create(crew->threads + crew->num_helpers, NULL, help, crew)) break;
  if (crew->num_helpers == num_threads - 1) return crew;
  crew_end(crew);
  return NULL;
}

/* Do all of a job; the calling thread works too. Returns 0, or -1 when there is no memory for its phases. */
static int crew_do(Crew *crew, Job job) {
  if (job.num_phases > crew->num_phases) {
    free(crew->phases);
    crew->phases = aligned_alloc(64, job.num_phases * sizeof(Phase));
    crew->num_phases = crew->phases ? job.num_phases : 0;
    if (!crew->phases) return -1;
  }
  memset(crew->phases, 0, job.num_phases * sizeof(Phase));
  crew->job = job;
  atomic_store(&crew->is_open, 1);
  pthread_mutex_lock(&crew->lock);
  crew->num_jobs++;
  pthread_cond_broadcast(&crew->wake);
  pthread_mutex_unlock(&crew->lock);
  work(crew);
  atomic_store(&crew->is_open, 0);
  while (atomic_load(&crew->inside)) sched_yield(); /* nobody looks at the job any more */
  return 0;
}
