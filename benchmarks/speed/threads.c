/* Times libhydra on threads: threads BUNDLE TASK THREADS REPEATS
 *
 * Prints JSON: least wall and CPU milliseconds of opening the mapped bundle, of decoding its core,
 * of reading one task, and of reading all tasks. One task is decoded chunk by chunk on the threads;
 * of all tasks each thread takes the next, over the same core. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "hydra.h"

enum { OPEN, CORE, TASK, TASKS, STEPS };
static const char *const NAMES[STEPS] = {"open", "core", "task", "tasks"};

static void check(hydra_status status, const hydra_error *error) {
    if (!status) return;
    fprintf(stderr, "%s\n", error->text);
    exit(1);
}

static double milliseconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return 1000.0 * (double)t.tv_sec + (double)t.tv_nsec / 1e6;
}

/* ---- threads -------------------------------------------------------------------------------- */

typedef struct {
    void (*body)(void *work, size_t index);
    void *work;
    size_t count, next;
    pthread_mutex_t lock;
} Queue;

static void *take_calls(void *user) {
    Queue *queue = user;
    for (;;) {
        size_t index;
        pthread_mutex_lock(&queue->lock);
        index = queue->next++;
        pthread_mutex_unlock(&queue->lock);
        if (index >= queue->count) return NULL;
        queue->body(queue->work, index);
    }
}

/* The caller's thread is one of them. user: how many. */
static void run(void *user, size_t count, void (*body)(void *work, size_t index), void *work) {
    size_t threads = *(const size_t *)user, i;
    pthread_t *handles = malloc(threads * sizeof *handles);
    Queue queue = {body, work, count, 0, PTHREAD_MUTEX_INITIALIZER};
    for (i = 1; i < threads; i++) pthread_create(handles + i, NULL, take_calls, &queue);
    take_calls(&queue);
    for (i = 1; i < threads; i++) pthread_join(handles[i], NULL);
    free(handles);
}

/* ---- reading -------------------------------------------------------------------------------- */

/* Decodes a task into memory of the caller's. */
static void read_task(hydra_bundle *bundle, hydra_task task) {
    hydra_error error;
    hydra_task_info info = {.struct_size = sizeof info};
    const uint32_t *ranks;
    hydra_factors *factors;
    size_t i;
    check(hydra_describe(bundle, task, &info, &error), &error);
    if (info.lossless) return;
    check(hydra_ranks(bundle, task, &ranks, &error), &error);
    factors = malloc((info.modules + 1) * sizeof *factors);
    for (i = 0; i < info.modules; i++) {
        hydra_module_info module = {.struct_size = sizeof module};
        check(hydra_describe_module(bundle, task, i, &module, &error), &error);
        factors[i].k = ranks[i];
        factors[i].b = malloc((size_t)module.m * ranks[i] * sizeof(float) + 1);
        factors[i].a = malloc((size_t)module.n * ranks[i] * sizeof(float) + 1);
    }
    check(hydra_read_factors(bundle, task, 0, info.modules, HYDRA_F32, factors, &error), &error);
    for (i = 0; i < info.modules; i++) free(factors[i].b), free(factors[i].a);
    free(factors);
}

static void read_shared(void *work, size_t task) {
    hydra_bundle *bundle;
    hydra_error error;
    check(hydra_share(work, NULL, NULL, 0, NULL, &bundle, &error), &error);
    read_task(bundle, task);
    hydra_close(bundle);
}

typedef struct {
    double wall[STEPS], cpu[STEPS];
} Times;

static void add(Times *times, int step, double *wall, double *cpu) {
    double now = milliseconds(CLOCK_MONOTONIC), used = milliseconds(CLOCK_PROCESS_CPUTIME_ID);
    if (!times->wall[step] || now - *wall < times->wall[step]) times->wall[step] = now - *wall;
    if (!times->cpu[step] || used - *cpu < times->cpu[step]) times->cpu[step] = used - *cpu;
    *wall = milliseconds(CLOCK_MONOTONIC), *cpu = milliseconds(CLOCK_PROCESS_CPUTIME_ID);
}

static void measure(const void *data, size_t size, const char *name, size_t threads,
                    Times *times) {
    hydra_options options = {.struct_size = sizeof options};
    hydra_bundle *bundle;
    hydra_error error;
    hydra_task task;
    double wall = milliseconds(CLOCK_MONOTONIC), cpu = milliseconds(CLOCK_PROCESS_CPUTIME_ID);
    if (threads > 1) options.parallel.run = run, options.parallel.user = &threads;
    check(hydra_open_memory(data, size, &options, &bundle, &error), &error);
    add(times, OPEN, &wall, &cpu);
    check(hydra_keep_core(bundle, 0, &error), &error);
    add(times, CORE, &wall, &cpu);
    check(hydra_find(bundle, name, &task, &error), &error);
    read_task(bundle, task);
    add(times, TASK, &wall, &cpu);
    run(&threads, hydra_task_count(bundle), read_shared, bundle);
    add(times, TASKS, &wall, &cpu);
    hydra_close(bundle);
}

int main(int count, char **words) {
    Times times;
    struct stat about;
    void *data;
    size_t threads, i;
    int repeats, step, file;
    if (count != 5) return 2;
    threads = (size_t)atoi(words[3]), repeats = atoi(words[4]);
    file = open(words[1], O_RDONLY);
    if (file < 0 || fstat(file, &about)) return 2;
    data = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    if (data == MAP_FAILED || !threads) return 2;
    memset(&times, 0, sizeof times);
    for (i = 0; i < (size_t)repeats; i++)
        measure(data, (size_t)about.st_size, words[2], threads, &times);
    printf("{");
    for (step = 0; step < STEPS; step++)
        printf("%s\"%s\": {\"wall_ms\": %.3f, \"cpu_ms\": %.3f}", step ? ", " : "", NAMES[step],
               times.wall[step], times.cpu[step]);
    printf("}\n");
    return 0;
}
