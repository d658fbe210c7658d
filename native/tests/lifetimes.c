/* Test of lifetimes and reentrant calls; run it with sanitizers. Usage: lifetimes FILE...
 *
 * The files are a core and its tasks. Each test frees or overwrites what the header says the
 * caller may free, and calls the library from inside callbacks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#ifndef HYDRA_NO_FILES
#include "hydra_files.h"
#endif

enum { MOST_PARTS = 16 };

typedef struct {
    hydra_reader readers[MOST_PARTS];
    Bytes bytes[MOST_PARTS];
    size_t count;
} Parts;

static int read_bytes(void *user, uint64_t offset, void *buffer, size_t size) {
    const Bytes *bytes = user;
    memcpy(buffer, bytes->data + offset, size);
    return 0;
}

/* Opens the parts with readers, names and options that are gone when it returns. */
static hydra_status open_parts(const Parts *parts, Heap *heap, hydra_bundle **bundle,
                               hydra_error *error) {
    hydra_reader *readers = malloc(parts->count * sizeof *readers);
    char **names = malloc(parts->count * sizeof *names);
    hydra_options *options = malloc(sizeof *options);
    hydra_status status;
    size_t i;
    if (!readers || !names || !options) abort();
    *options = options_of(heap);
    memcpy(readers, parts->readers, parts->count * sizeof *readers);
    for (i = 0; i < parts->count; i++) {
        names[i] = malloc(32);
        if (!names[i]) abort();
        sprintf(names[i], "the part %u", (unsigned)i);
    }
    status = hydra_open_parts(readers, (const char *const *)names, parts->count, options, bundle,
                              error);
    for (i = 0; i < parts->count; i++) memset(names[i], '#', 31), free(names[i]);
    free(names), free(readers), free(options);
    return status;
}

/* ---- names ---------------------------------------------------------------------------------- */

static int refuse(void *user, uint64_t offset, void *buffer, size_t size) {
    (void)user, (void)offset, (void)buffer, (void)size;
    return -1;
}

/* A message about a part names it after the caller has freed the names. */
static void names_are_copied(Parts *parts) {
    Heap heap = {-1, 0, 0, 0};
    hydra_bundle *bundle;
    hydra_error error;
    size_t i;
    EXPECT(!open_parts(parts, &heap, &bundle, &error));
    EXPECT(!hydra_verify(bundle, &error));
    hydra_close(bundle);
    for (i = 0; i < parts->count; i++) {
        char name[32];
        Bytes kept = parts->bytes[i];
        unsigned char *changed = malloc(kept.size);
        if (!changed) abort();
        memcpy(changed, kept.data, kept.size);
        changed[kept.size - 1] ^= 1; /* in the last tensor, which is read after opening */
        parts->bytes[i].data = changed;
        sprintf(name, "the part %u", (unsigned)i);
        EXPECT(!open_parts(parts, &heap, &bundle, &error));
        EXPECT(hydra_verify(bundle, &error) == HYDRA_CHECKSUM && strstr(error.text, name));
        hydra_close(bundle);
        parts->bytes[i] = kept;
        free(changed);
    }
    parts->readers[0].read_at = refuse;
    EXPECT(open_parts(parts, &heap, &bundle, &error) == HYDRA_IO && !bundle);
    EXPECT(strstr(error.text, "the part 0") != NULL);
    parts->readers[0].read_at = read_bytes;
    EXPECT(heap.bytes == 0);
}

/* ---- calls from inside callbacks ------------------------------------------------------------ */

/* How a callback calls the library again. */
typedef enum { NO_ERROR, OWN_ERROR, SAME_ERROR, WAYS } Way;

typedef struct {
    hydra_bundle *bundle;
    hydra_error *outer;
    Way way;
    int depth, closing;
    unsigned long pairs, tensors, sum;
} Nest;

static int sink_begin(void *user, const char *name, uint64_t size) {
    (void)user, (void)name, (void)size;
    return 0;
}

static int sink_write(void *user, const void *data, size_t size) {
    const unsigned char *p = data;
    unsigned long *sum = user;
    while (size--) *sum = *sum * 31 + *p++;
    return 0;
}

static int sink_end(void *user) {
    (void)user;
    return 0;
}

static int count_pair(void *user, const hydra_pair *pair) {
    unsigned long *count = user;
    (void)pair;
    ++*count;
    return 0;
}

static int count_tensor(void *user, const hydra_tensor *tensor) {
    unsigned long *count = user;
    (void)tensor;
    ++*count;
    return 0;
}

static int stop(void *user, const hydra_pair *pair) {
    (void)user, (void)pair;
    return 1;
}

/* Every function that takes an error, each with success and, where it can, with failure. */
static void call_again(const Nest *nest, hydra_error *error) {
    hydra_bundle *b = nest->bundle;
    hydra_task count = hydra_task_count(b), task;
    unsigned long some = 0;
    hydra_sink sink = {sink_begin, sink_write, sink_end, NULL};
    sink.user = &some;
    for (task = 0; task < count; task++) {
        const char *json;
        EXPECT(!hydra_pairs(b, task, HYDRA_F32, count_pair, &some, error));
        EXPECT(!hydra_tensors(b, task, count_tensor, &some, error));
        EXPECT(!hydra_write_peft(b, task, NULL, &sink, error));
        EXPECT(!hydra_config(b, task, &json, error) && json[0] == '{');
    }
    EXPECT(!hydra_verify(b, error));
    EXPECT(hydra_pairs(b, 0, HYDRA_F32, stop, NULL, error) == HYDRA_STOPPED);
    EXPECT(hydra_pairs(b, count, HYDRA_F32, count_pair, &some, error) == HYDRA_USAGE);
    EXPECT(hydra_tensors(b, count, count_tensor, &some, error) == HYDRA_USAGE);
    EXPECT(hydra_write_peft(b, count, NULL, &sink, error) == HYDRA_USAGE);
    EXPECT(hydra_find(b, "no such task", &task, error) == HYDRA_NOT_THERE);
}

static void call_in_a_frame(const Nest *nest) {
    hydra_error own;
    memset(&own, '#', sizeof own);
    call_again(nest, nest->way == NO_ERROR     ? NULL
                     : nest->way == SAME_ERROR ? nest->outer
                                               : &own);
}

static int nested_pair(void *user, const hydra_pair *pair) {
    Nest *nest = user;
    hydra_bundle *b = nest->bundle;
    float first = pair->k ? ((const float *)pair->b)[0] : 0;
    nest->pairs++;
    call_in_a_frame(nest);
    hydra_drop_core(b);
    EXPECT(!hydra_keep_core(b, 0, NULL));
    hydra_drop_core(b);
    if (nest->depth < 2) {
        hydra_error inner;
        nest->depth++;
        EXPECT(!hydra_pairs(b, 0, HYDRA_F32, nested_pair, nest, &inner) && !inner.text[0]);
        nest->depth--;
    }
    EXPECT(!pair->k || ((const float *)pair->b)[0] == first);
    if (nest->closing) hydra_close(b);
    return 0;
}

static int nested_tensor(void *user, const hydra_tensor *tensor) {
    Nest *nest = user;
    nest->tensors++;
    nest->sum += tensor->size ? *(const unsigned char *)tensor->data : 0;
    call_in_a_frame(nest);
    return 0;
}

static int nested_write(void *user, const void *data, size_t size) {
    Nest *nest = user;
    sink_write(&nest->sum, data, size);
    call_in_a_frame(nest);
    return 0;
}

static void callbacks_call_again(const Parts *parts) {
    int way, kept, given;
    for (way = 0; way < WAYS; way++)
        for (kept = 0; kept < 2; kept++)
            for (given = 0; given < 2; given++) {
                Heap heap = {-1, 0, 0, 0};
                Nest nest = {NULL, NULL, NO_ERROR, 0, 0, 0, 0, 0};
                hydra_sink sink = {sink_begin, nested_write, sink_end, NULL};
                hydra_error error, *asked = given ? &error : NULL;
                unsigned long plain = 0;
                hydra_sink whole = {sink_begin, sink_write, sink_end, NULL};
                memset(&error, 0, sizeof error);
                EXPECT(!open_parts(parts, &heap, &nest.bundle, &error));
                nest.way = (Way)way;
                nest.outer = asked;
                if (kept) EXPECT(!hydra_keep_core(nest.bundle, 0, NULL));
                EXPECT(!hydra_pairs(nest.bundle, 0, HYDRA_F32, nested_pair, &nest, asked));
                EXPECT(nest.pairs && !error.status && !error.text[0]);
                EXPECT(!hydra_tensors(nest.bundle, 0, nested_tensor, &nest, asked));
                EXPECT(!error.status && !error.text[0]);
                nest.sum = 0;
                sink.user = &nest, whole.user = &plain;
                EXPECT(!hydra_write_peft(nest.bundle, 0, NULL, &sink, asked));
                EXPECT(!hydra_write_peft(nest.bundle, 0, NULL, &whole, asked));
                EXPECT(nest.sum == plain && !error.status && !error.text[0]);
                hydra_close(nest.bundle);
                EXPECT(heap.bytes == 0);
            }
}

/* A call that fails after a nested call has failed reports its own failure. */
static int fail_inside(void *user, const hydra_pair *pair) {
    Nest *nest = user;
    call_in_a_frame(nest);
    return stop(user, pair);
}

static void outer_errors_stay(const Parts *parts) {
    int way;
    for (way = 0; way < WAYS; way++) {
        Heap heap = {-1, 0, 0, 0};
        Nest nest = {NULL, NULL, NO_ERROR, 0, 0, 0, 0, 0};
        hydra_error error;
        EXPECT(!open_parts(parts, &heap, &nest.bundle, &error));
        nest.way = (Way)way;
        nest.outer = &error;
        EXPECT(hydra_pairs(nest.bundle, 0, HYDRA_F32, fail_inside, &nest, &error) ==
               HYDRA_STOPPED);
        EXPECT(error.status == HYDRA_STOPPED && error.text[0]);
        hydra_close(nest.bundle);
        EXPECT(heap.bytes == 0);
    }
}

/* A bundle that is closed inside a callback goes when the outermost call returns. */
static void closing_waits(const Parts *parts) {
    int kept;
    for (kept = 0; kept < 2; kept++) {
        Heap heap = {-1, 0, 0, 0};
        Nest nest = {NULL, NULL, OWN_ERROR, 0, 1, 0, 0, 0};
        hydra_error error;
        EXPECT(!open_parts(parts, &heap, &nest.bundle, &error));
        if (kept) EXPECT(!hydra_keep_core(nest.bundle, 0, NULL));
        EXPECT(!hydra_pairs(nest.bundle, 0, HYDRA_F32, nested_pair, &nest, &error));
        EXPECT(heap.bytes == 0);
    }
}

/* ---- memory --------------------------------------------------------------------------------- */

#ifndef HYDRA_NO_FILES
static void ignore(void *user, const hydra_error *error) {
    unsigned long *count = user;
    EXPECT(error->text[0]);
    ++*count;
}

/* Opens a path as the caller asks, reads every byte, and closes it. */
static hydra_status open_path(const char *path, int readable, Heap *heap, size_t limit) {
    hydra_options options = options_of(heap);
    hydra_bundle *bundle;
    hydra_error error;
    unsigned long count = 0;
    hydra_status status;
    options.limits.memory = limit;
    status = readable ? hydra_open_readable(path, NULL, &options, ignore, &count, &bundle, &error)
                      : hydra_open_path(path, &options, &bundle, &error);
    EXPECT((status == HYDRA_OK) == (bundle != NULL) && error.status == status);
    if (!status) status = hydra_verify(bundle, &error);
    hydra_close(bundle);
    EXPECT(heap->bytes == 0);
    return status;
}

/* Files of the system: every allocation fails once, and a limit of memory is kept. */
static void paths_use_the_allocator(const char *core) {
    const char *slash = strrchr(core, '/');
    char folder[4096] = ".";
    int readable, whole;
    if (slash) sprintf(folder, "%.*s", (int)(slash - core), core);
    for (readable = 0; readable < 2; readable++)
        for (whole = 0; whole < 2; whole++) {
            const char *path = whole ? folder : core;
            Heap heap = {-1, 0, 0, 0};
            hydra_status status = HYDRA_MEMORY;
            long i;
            EXPECT(!open_path(path, readable, &heap, 0));
            EXPECT(open_path(path, readable, &heap, heap.most - 1) == HYDRA_LIMIT);
            for (i = 0; status; i++) {
                heap.left = i;
                heap.failed = 0;
                status = open_path(path, readable, &heap, 0);
                EXPECT(status == (heap.failed ? HYDRA_MEMORY : HYDRA_OK));
                if (i > 100000) abort();
            }
        }
}
#endif

int main(int count, char **paths) {
    static Parts parts;
    int i;
    if (count < 3 || count > MOST_PARTS) return 2;
    for (i = 1; i < count; i++) {
        parts.bytes[parts.count] = read_whole(paths[i]);
        parts.readers[parts.count].read_at = read_bytes;
        parts.readers[parts.count].user = parts.bytes + parts.count;
        parts.readers[parts.count].size = parts.bytes[parts.count].size;
        parts.count++;
    }
    names_are_copied(&parts);
    callbacks_call_again(&parts);
    outer_errors_stay(&parts);
    closing_waits(&parts);
#ifndef HYDRA_NO_FILES
    for (i = 1; i < count; i++)
        if (strstr(paths[i], ".core.")) paths_use_the_allocator(paths[i]);
#endif
    for (i = 1; i < count; i++) free((void *)(uintptr_t)parts.bytes[i - 1].data);
    return failures ? 1 : 0;
}
