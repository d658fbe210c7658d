/* Shared by the library's own tests: checks, a counting allocator, whole files. */
#ifndef HYDRA_CHECK_H
#define HYDRA_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hydra_export.h"

static int failures;

#define EXPECT(fine)                                                                    \
    do {                                                                                \
        if (!(fine)) {                                                                  \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #fine);          \
            failures++;                                                                 \
        }                                                                               \
    } while (0)

typedef struct {
    long left;    /* allocations until one fails; -1: none does */
    int failed;   /* one did */
    size_t bytes; /* held at present */
    size_t most;
} Heap;

static inline void *heap_resize(void *user, void *block, size_t old_size, size_t new_size) {
    Heap *heap = user;
    void *grown;
    if (!new_size) {
        free(block);
        heap->bytes -= old_size;
        return NULL;
    }
    if (heap->left == 0) { /* the ones after it do not */
        heap->left = -1;
        heap->failed = 1;
        return NULL;
    }
    if (heap->left > 0) heap->left--;
    grown = realloc(block, new_size);
    heap->bytes += new_size - old_size;
    if (heap->bytes > heap->most) heap->most = heap->bytes;
    return grown;
}

static inline hydra_options options_of(Heap *heap) {
    hydra_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.allocator.resize = heap_resize;
    options.allocator.user = heap;
    return options;
}

typedef struct {
    const unsigned char *data;
    size_t size;
} Bytes;

/* A file in memory, in a block of its very size so that sanitizers see reads behind its end. */
static inline Bytes read_whole(const char *path) {
    FILE *stream = fopen(path, "rb");
    Bytes bytes = {NULL, 0};
    unsigned char *data = malloc(1 << 20), *fitting;
    if (stream && data) bytes.size = fread(data, 1, 1 << 20, stream);
    if (stream) fclose(stream);
    fitting = malloc(bytes.size + !bytes.size);
    if (!bytes.size || !fitting) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(2);
    }
    memcpy(fitting, data, bytes.size);
    free(data);
    bytes.data = fitting;
    return bytes;
}

#endif
