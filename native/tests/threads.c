/* Threads that share a core: hydra-threads CORE TASK... Under a sanitizer of threads it also shows
 * that nothing is written that another thread reads. */
#include <pthread.h>

#include "check.h"
#include "hydra_files.h"

enum { THREADS = 4, MOST_FILES = 8, MOST_MODULES = 64 };

/* What is read of a bundle: the factors of all its tasks. */
typedef struct {
    unsigned long sum;
    size_t count;
} Digest;

static void add(Digest *digest, const void *data, size_t size) {
    const unsigned char *bytes = data;
    size_t i;
    for (i = 0; i < size; i++) digest->sum = digest->sum * 31 + bytes[i];
}

static int take_pair(void *user, const hydra_pair *pair) {
    Digest *digest = user;
    if (pair->k) {
        add(digest, pair->b, (size_t)pair->module->m * pair->k * sizeof(float));
        add(digest, pair->a, (size_t)pair->module->n * pair->k * sizeof(float));
    }
    digest->count++;
    return 0;
}

static Digest by_pairs(hydra_bundle *bundle) {
    Digest digest = {0, 0};
    hydra_task task;
    for (task = 0; task < hydra_task_count(bundle); task++)
        EXPECT(!hydra_pairs(bundle, task, HYDRA_F32, take_pair, &digest, NULL));
    return digest;
}

/* The same into memory of its own, `step` modules at a time. */
static Digest by_factors(hydra_bundle *bundle, size_t step) {
    Digest digest = {0, 0};
    hydra_task task;
    for (task = 0; task < hydra_task_count(bundle); task++) {
        hydra_task_info info = {.struct_size = sizeof info};
        hydra_factors factors[MOST_MODULES];
        hydra_module_info modules[MOST_MODULES];
        const uint32_t *ranks = NULL;
        size_t i, at;
        EXPECT(!hydra_describe(bundle, task, &info, NULL) && info.modules <= MOST_MODULES);
        EXPECT(!hydra_ranks(bundle, task, &ranks, NULL));
        for (i = 0; i < info.modules; i++) {
            modules[i].struct_size = sizeof *modules;
            EXPECT(!hydra_describe_module(bundle, task, i, modules + i, NULL));
            factors[i].k = ranks[i] + (i == 1); /* room for more is fine */
            factors[i].b = malloc((size_t)modules[i].m * factors[i].k * sizeof(float) + 1);
            factors[i].a = malloc((size_t)modules[i].n * factors[i].k * sizeof(float) + 1);
        }
        for (at = 0; at < info.modules; at += step) {
            size_t count = info.modules - at < step ? info.modules - at : step;
            EXPECT(!hydra_read_factors(bundle, task, at, count, HYDRA_F32, factors + at, NULL));
        }
        for (i = 0; i < info.modules; i++) {
            EXPECT(factors[i].k == ranks[i]);
            add(&digest, factors[i].b, (size_t)modules[i].m * ranks[i] * sizeof(float));
            add(&digest, factors[i].a, (size_t)modules[i].n * ranks[i] * sizeof(float));
            digest.count++;
            if (ranks[i]) {
                hydra_error error;
                hydra_factors small = factors[i];
                small.k = ranks[i] - 1;
                EXPECT(hydra_read_factors(bundle, task, i, 1, HYDRA_F32, &small, &error) ==
                       HYDRA_USAGE);
            }
            free(factors[i].b), free(factors[i].a);
        }
        EXPECT(hydra_read_factors(bundle, task, info.modules, 1, HYDRA_F32, factors, NULL) ==
               HYDRA_USAGE);
    }
    return digest;
}

/* ---- threads of the caller ------------------------------------------------------------------ */

typedef struct {
    void (*body)(void *work, size_t index);
    void *work;
    size_t index;
} Call;

static void *call(void *user) {
    const Call *own = user;
    own->body(own->work, own->index);
    return NULL;
}

/* A thread for each; user: how often it ran. */
static void run(void *user, size_t count, void (*body)(void *work, size_t index), void *work) {
    pthread_t *threads = malloc(count * sizeof *threads);
    Call *calls = malloc(count * sizeof *calls);
    size_t i;
    ++*(int *)user;
    for (i = 0; i < count && threads && calls; i++) {
        calls[i].body = body, calls[i].work = work, calls[i].index = i;
        EXPECT(!pthread_create(threads + i, NULL, call, calls + i));
    }
    for (i = 0; i < count && threads && calls; i++) pthread_join(threads[i], NULL);
    free(threads), free(calls);
}

/* ---- limits of memory ----------------------------------------------------------------------- */

static size_t in_use; /* bytes that the library has of count_bytes */

static void *count_bytes(void *user, void *block, size_t old_size, size_t new_size) {
    (void)user;
    in_use += new_size - old_size;
    if (new_size) return realloc(block, new_size);
    free(block);
    return NULL;
}

/* Calls one after another; user: bytes in use at the start. */
static void run_here(void *user, size_t count, void (*body)(void *work, size_t index), void *work) {
    size_t i;
    *(size_t *)user = in_use;
    for (i = 0; i < count; i++) body(work, i);
}

/* A limit that is used up when the calls start leaves nothing for them. */
static void check_exact_limit(const hydra_reader *core) {
    hydra_options options = {.struct_size = sizeof options};
    hydra_bundle *bundle;
    size_t used = 0;
    options.allocator.resize = count_bytes;
    options.parallel.run = run_here;
    options.parallel.user = &used;
    EXPECT(!hydra_open_parts(core, NULL, 1, &options, &bundle, NULL));
    EXPECT(!hydra_keep_core(bundle, 0, NULL) && used > 0);
    hydra_close(bundle);
    options.limits.memory = used;
    EXPECT(!hydra_open_parts(core, NULL, 1, &options, &bundle, NULL));
    used = 0;
    EXPECT(hydra_keep_core(bundle, 0, NULL) == HYDRA_LIMIT && used == options.limits.memory);
    hydra_close(bundle);
    EXPECT(!in_use);
}

/* ---- one core, several threads -------------------------------------------------------------- */

typedef struct {
    const hydra_bundle *core;
    const hydra_reader *reader; /* of a task file, or NULL */
    Digest digest;
} Reader;

static void *read_shared(void *user) {
    Reader *own = user;
    hydra_bundle *bundle;
    hydra_error error;
    if (hydra_share(own->core, own->reader, NULL, own->reader != NULL, NULL, &bundle, &error)) {
        fprintf(stderr, "%s\n", error.text);
        failures++;
        return NULL;
    }
    own->digest = by_pairs(bundle);
    EXPECT(by_factors(bundle, 1).sum == own->digest.sum);
    EXPECT(!hydra_verify(bundle, NULL) && !hydra_verify_peft(bundle, NULL));
    hydra_drop_core(bundle); /* which is another's, and stays */
    hydra_close(bundle);
    return NULL;
}

static int read_bytes(void *user, uint64_t offset, void *buffer, size_t size) {
    memcpy(buffer, ((const Bytes *)user)->data + offset, size);
    return 0;
}

int main(int count, char **paths) {
    static Bytes bytes[MOST_FILES];
    hydra_reader readers[MOST_FILES];
    Reader shared[THREADS], apart[MOST_FILES];
    pthread_t threads[THREADS + MOST_FILES];
    hydra_bundle *whole, *core, *parallel;
    hydra_options options = {.struct_size = sizeof options};
    Digest expected, each = {0, 0};
    int files = count - 1, i, ran = 0, kept;
    if (files < 2 || files > MOST_FILES) return 2;
    for (i = 0; i < files; i++) {
        bytes[i] = read_whole(paths[i + 1]);
        readers[i].read_at = read_bytes;
        readers[i].user = bytes + i;
        readers[i].size = bytes[i].size;
    }
    EXPECT(!hydra_open_path(paths[1], NULL, &whole, NULL));
    EXPECT(!hydra_open_parts(readers, NULL, 1, NULL, &core, NULL));
    EXPECT(!hydra_task_count(core) && hydra_task_count(whole) == (size_t)files - 1);
    expected = by_pairs(whole);
    EXPECT(by_factors(whole, 1).sum == expected.sum);
    EXPECT(by_factors(whole, 2).sum == expected.sum);
    EXPECT(by_factors(whole, MOST_MODULES).sum == expected.sum && expected.count > 0);
    for (kept = 0; kept < 2; kept++) {
        if (kept) EXPECT(!hydra_keep_core(whole, 0, NULL) && !hydra_keep_core(core, 0, NULL));
        for (i = 0; i < THREADS; i++) {
            shared[i].core = whole, shared[i].reader = NULL;
            EXPECT(!pthread_create(threads + i, NULL, read_shared, shared + i));
        }
        for (i = 1; i < files; i++) {
            apart[i].core = core, apart[i].reader = readers + i;
            EXPECT(!pthread_create(threads + THREADS + i, NULL, read_shared, apart + i));
        }
        EXPECT(by_pairs(whole).sum == expected.sum); /* meanwhile */
        for (i = 0; i < THREADS; i++) {
            pthread_join(threads[i], NULL);
            EXPECT(shared[i].digest.sum == expected.sum);
        }
        each.count = 0;
        for (i = 1; i < files; i++) {
            pthread_join(threads[THREADS + i], NULL);
            each.count += apart[i].digest.count;
        }
        EXPECT(each.count == expected.count);
    }
    options.parallel.run = run;
    options.parallel.user = &ran;
    EXPECT(hydra_share(whole, readers + 1, NULL, 1, &options, &parallel, NULL) == HYDRA_OK);
    hydra_close(parallel);
    EXPECT(!hydra_share(whole, NULL, NULL, 0, &options, &parallel, NULL));
    EXPECT(by_factors(parallel, MOST_MODULES).sum == expected.sum && ran > 0);
    hydra_close(parallel);
    ran = 0;
    EXPECT(!hydra_open_path(paths[1], &options, &parallel, NULL));
    EXPECT(!hydra_keep_core(parallel, 0, NULL) && ran == 1);
    EXPECT(by_pairs(parallel).sum == expected.sum);
    EXPECT(!hydra_verify(parallel, NULL));
    hydra_close(parallel);
    hydra_close(whole);
    hydra_close(core);
    check_exact_limit(readers);
    for (i = 0; i < files; i++) free((void *)(uintptr_t)bytes[i].data);
    return failures ? 1 : 0;
}
