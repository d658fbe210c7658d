/* libhydra: reads hydraopt bundles (docs/reference/format.md, version 2), in C99.
 *
 * A bundle holds many LoRA adapters ("tasks") of one base model in one file. This header opens
 * bundles and gives the numbers of a task; hydra_export.h writes a task as an adapter, and
 * hydra_files.h opens and writes files of the system. The library needs libc alone. Nothing is
 * global: two threads may use two bundles at once, which may share their contents (hydra_share);
 * one bundle belongs to one thread at a time.
 *
 *     hydra_error error;
 *     hydra_bundle *bundle;
 *     hydra_task task;
 *     if (hydra_open_memory(data, size, NULL, &bundle, &error)) {
 *         fprintf(stderr, "%s\n", error.text);
 *         return 1;
 *     }
 *     if (!hydra_find(bundle, "numbers-de", &task, &error))
 *         hydra_pairs(bundle, task, HYDRA_F16, take_pair, NULL, &error);
 *     hydra_close(bundle);
 *
 * Letters: a module of the base has m outputs and n inputs, and a task changes its weight by
 * dW = B A, with B (m, k) and A (k, n). The adapter's scale is inside B. Matrices are row-major.
 *
 * Conventions. Every function that can fail returns a hydra_status: HYDRA_OK = 0 on success. On
 * failure it describes the problem in *error and leaves its other outputs unchanged; error may be
 * NULL. Texts are UTF-8 and end with a zero byte. Sizes in bytes are size_t, offsets in files
 * uint64_t.
 *
 * Lifetimes. The library copies every argument that it needs after a call: options, readers (the
 * struct, not what its `user` points to), names and paths. Two things stay the caller's and must
 * outlive the bundle: the bytes of hydra_open_memory, and whatever the functions of a reader or an
 * allocator use. Texts that a bundle returns live until hydra_close. Pointers that a callback
 * receives are valid until that callback returns.
 *
 * Reentrancy. `take` of hydra_pairs and hydra_tensors, and the functions of a sink, may call any
 * function on the same bundle, with the same error object or another one: the outer call continues
 * unaffected and reports its own result. hydra_close and hydra_drop_core in such a callback take
 * effect when the outermost call on the bundle returns. The functions of a reader or an allocator
 * must not call the library on the bundle that they serve.
 *
 * Versions. A struct that may grow begins with struct_size, which the caller sets to its sizeof:
 *
 *     hydra_task_info info = {.struct_size = sizeof info};
 *
 * A later library writes only as many bytes as the caller's struct has and reads missing members as
 * zeros. An older library sets members that it does not know to zero, and refuses options that it
 * does not know with HYDRA_USAGE. hydra_pair and hydra_tensor belong to the library and grow at
 * their ends; hydra_error, hydra_allocator, hydra_reader and hydra_sink never change.
 */
#ifndef HYDRA_H
#define HYDRA_H

#include <stddef.h>
#include <stdint.h>

#define HYDRA_VERSION_MAJOR 0
#define HYDRA_VERSION_MINOR 1
#define HYDRA_VERSION_PATCH 0
#define HYDRA_VERSION "0.1.0"
#define HYDRA_FORMAT_VERSION 2 /* of the bundles that are read */

/* Between these two stands what a shared library exports. */
#if defined(__GNUC__)
#define HYDRA_VISIBLE _Pragma("GCC visibility push(default)")
#define HYDRA_HIDDEN _Pragma("GCC visibility pop")
#else
#define HYDRA_VISIBLE
#define HYDRA_HIDDEN
#endif
#ifdef __cplusplus
#define HYDRA_BEGIN extern "C" { HYDRA_VISIBLE
#define HYDRA_END HYDRA_HIDDEN }
#else
#define HYDRA_BEGIN HYDRA_VISIBLE
#define HYDRA_END HYDRA_HIDDEN
#endif

HYDRA_BEGIN

/* HYDRA_VERSION of the library that is linked, which may be another than that of this header. */
const char *hydra_version(void);

/* ---- errors --------------------------------------------------------------------------------- */

typedef enum hydra_status {
    HYDRA_OK = 0,
    HYDRA_DAMAGED = 1,       /* no bundle, cut off, or against the format */
    HYDRA_CHECKSUM = 2,      /* bytes are not those that were written; a kind of damage */
    HYDRA_VERSION_ERROR = 3, /* a version of the format that is not read here */
    HYDRA_NOT_THERE = 4,     /* no task, tensor or file of that name */
    HYDRA_UNSUPPORTED =
        5,            /* sound, but the target cannot hold it, or this library cannot make it */
    HYDRA_RANGE = 6,  /* a number does not fit the dtype asked for */
    HYDRA_LIMIT = 7,  /* beyond what the caller's hydra_limits allow */
    HYDRA_MEMORY = 8, /* the allocator returned NULL */
    HYDRA_IO = 9,     /* a reader or writer of the caller's, or the system's, failed */
    HYDRA_USAGE = 10, /* an argument makes no sense */
    HYDRA_STOPPED = 11 /* the caller's own function asked for the end */
} hydra_status;

/* An error. text: the problem, its place, actual and expected values, and a remedy. */
typedef struct hydra_error {
    hydra_status status;
    char text[512];
} hydra_error;

/* The status in a word, such as "damaged". */
const char *hydra_status_name(hydra_status status);

/* ---- what the caller may set ---------------------------------------------------------------- */

/* All memory comes from here, except what functions of libc take for themselves (opendir, fdopen,
 * qsort). resize: a block of new_size bytes with the content of `block`, which
 * has old_size bytes and is NULL if old_size is 0; new_size 0 frees it. NULL if there is none. */
typedef struct hydra_allocator {
    void *(*resize)(void *user, void *block, size_t old_size, size_t new_size);
    void *user;
} hydra_allocator;

/* Where the bytes of a file come from: size bytes, of which read_at copies some. It returns 0, or
 * anything else if it cannot: then the call that needed them returns HYDRA_IO. The reader must go
 * on working, and the bytes stay the same, until hydra_close. */
typedef struct hydra_reader {
    int (*read_at)(void *user, uint64_t offset, void *buffer, size_t size);
    void *user;
    uint64_t size;
} hydra_reader;

/* Bounds on top of those of the format (section 7: a file of N bytes asks for a stated multiple of
 * N), for programs that take files from strangers. 0 stands for no bound but the format's. */
typedef struct hydra_limits {
    size_t memory;         /* bytes that may be allocated at once */
    uint64_t numbers;      /* that streams of one file may stand for, multiplied out */
    uint64_t output;       /* bytes of one exported file */
} hydra_limits;

/* Threads of the caller. run: calls body(work, 0) to body(work, count - 1), in any order and on any
 * threads, and returns when all of them have ended. hydra_keep_core without a bound then decodes
 * the chunks of the core in such calls. While the core is kept, hydra_ranks, hydra_read_factors,
 * hydra_verify and exports decode the chunks of a task in the same way. The allocator must be
 * callable from these threads. Each call may take as much memory as limits leave at its start. */
typedef struct hydra_parallel {
    void (*run)(void *user, size_t count, void (*body)(void *work, size_t index), void *work);
    void *user;
} hydra_parallel;

/* NULL in place of options, and zeros in them, stand for malloc, no limits, and one thread. */
typedef struct hydra_options {
    size_t struct_size;
    hydra_allocator allocator;
    hydra_limits limits;
    hydra_parallel parallel;
} hydra_options;

/* ---- opening -------------------------------------------------------------------------------- */

typedef struct hydra_bundle hydra_bundle;

/* Opens a bundle: reads its header and manifest and checks them whole; streams are read when a task
 * needs them. *bundle is NULL on failure. */
hydra_status hydra_open(const hydra_reader *reader, const hydra_options *options,
                        hydra_bundle **bundle, hydra_error *error);

/* Opens a core and tasks that lie apart ("hydraopt split") as one bundle: `count` readers, one of
 * them of the core file, the others of task files of this core, in any order. names: how messages
 * call them, or NULL. */
hydra_status hydra_open_parts(const hydra_reader *readers, const char *const *names, size_t count,
                              const hydra_options *options, hydra_bundle **bundle,
                              hydra_error *error);

/* Opens bytes in memory, such as a mapped file. Streams are decoded from them without a copy, so
 * they must stay there, unchanged, until this bundle and all that share it are closed. */
hydra_status hydra_open_memory(const void *data, size_t size, const hydra_options *options,
                               hydra_bundle **bundle, hydra_error *error);

/* Opens a bundle that shares what `of` has read, checked and kept (hydra_keep_core), for another
 * thread or for other tasks: each has its own memory, limits and errors, and one thread uses each.
 * Without files it has the tasks of `of`. With `count` task files, named as for hydra_open_parts,
 * it has their tasks; `of` must then be a core that was opened apart, with or without tasks. `of`
 * must stay open, and its core kept, until all that share it are closed; meanwhile one thread may
 * use it. The functions of its readers are called by all of these threads. */
hydra_status hydra_share(const hydra_bundle *of, const hydra_reader *readers,
                         const char *const *names, size_t count, const hydra_options *options,
                         hydra_bundle **bundle, hydra_error *error);

/* Frees everything that belongs to the bundle. NULL is fine. */
void hydra_close(hydra_bundle *bundle);

/* ---- what is in it -------------------------------------------------------------------------- */

/* A task's index, 0 to hydra_task_count - 1, by name in the order of code points. */
typedef size_t hydra_task;

typedef struct hydra_task_info {
    size_t struct_size;
    const char *name;
    const char *base_model;  /* what the task belongs to, or NULL */
    const char *format;      /* of the original: peft, kohya, diffusers, loralib, mlx */
    const char *dtype;       /* of the original's low-rank numbers: F16, BF16, F32, ... */
    double error;            /* relative Frobenius error of its weights, as the writer measured */
    int lossless;            /* every tensor is kept bit by bit */
    size_t modules;          /* low-rank modules; of a lossless task those that are listed */
    size_t tensors;          /* coded tensors that are no low-rank products */
    size_t carried;          /* tensors that are kept bit by bit */
    uint64_t stream_bytes;   /* of its own stream; tasks of equal content share one */
    double harm_likely;      /* expected share of answers that change; -1: not measured */
    uint64_t carried_bytes;  /* of what is kept bit by bit, as it lies in the file */
} hydra_task_info;

/* A module that a task changes. */
typedef struct hydra_module_info {
    size_t struct_size;
    const char *path;        /* in the base model; "...::GROUP" for one of several in one pair */
    const char *kind; /* linear, embedding: dW is (dim, vocabulary), conv: (out, in kernel) */
    const char *layout;      /* plain, rows, experts, factor */
    uint32_t m, n;
    uint32_t group, groups;
    double error;            /* relative Frobenius error, on a grid of 4.4 % */
} hydra_module_info;

size_t hydra_task_count(const hydra_bundle *bundle);

/* The base model of all tasks, or NULL; who wrote the file, or NULL. */
const char *hydra_base_model(const hydra_bundle *bundle);
const char *hydra_library(const hydra_bundle *bundle);

/* Reports what the manifest states about a task; HYDRA_USAGE for an index beyond the last, or
 * without struct_size. */
hydra_status hydra_describe(const hydra_bundle *bundle, hydra_task task, hydra_task_info *info,
                            hydra_error *error);

/* The task of a name; HYDRA_NOT_THERE, with names that there are, if there is none. */
hydra_status hydra_find(const hydra_bundle *bundle, const char *name, hydra_task *task,
                        hydra_error *error);

/* Module `index` of a task, 0 to modules - 1, in the order of the streams. */
hydra_status hydra_describe_module(const hydra_bundle *bundle, hydra_task task, size_t index,
                                   hydra_module_info *info, hydra_error *error);

/* The task's config as the bundle stores it, as canonical JSON: keys sorted, no spaces. A coded
 * task's lacks what an export writes anew (format.md, section 2). */
hydra_status hydra_config(hydra_bundle *bundle, hydra_task task, const char **json,
                          hydra_error *error);

/* ---- the core ------------------------------------------------------------------------------- */

/* Decodes what all tasks share and keeps it, so that every further task costs its own stream only.
 * Without it each call that needs the core decodes it anew, module by module, and keeps nothing.
 * most: bytes that it may take; HYDRA_LIMIT if it takes more, 0 for no bound. Calling it again is
 * free. */
hydra_status hydra_keep_core(hydra_bundle *bundle, size_t most, hydra_error *error);

/* Gives the memory of hydra_keep_core back. */
void hydra_drop_core(hydra_bundle *bundle);

/* ---- numbers -------------------------------------------------------------------------------- */

typedef enum hydra_dtype {
    HYDRA_SAME = 0, /* as the original's; of 8-bit floats BF16 */
    HYDRA_F16 = 1,
    HYDRA_BF16 = 2,
    HYDRA_F32 = 3,
    HYDRA_F64 = 4
} hydra_dtype;

/* One module of a task: dW = B A. b (m, k), a (k, n), in the dtype asked for; k may be 0, then both
 * are NULL. The norms of B's columns and A's rows are alike within a factor of two. */
typedef struct hydra_pair {
    size_t index; /* as of hydra_describe_module */
    const hydra_module_info *module;
    uint32_t k;
    hydra_dtype dtype;
    const void *b, *a;
} hydra_pair;

/* Calls `take` for every module of a task in the order of the streams, with one module in memory at
 * a time. When `take` returns anything but 0, it stops and returns HYDRA_STOPPED. HYDRA_RANGE if a
 * number does not fit the dtype. Lossless tasks have no coded pairs: read their carried tensors. */
hydra_status hydra_pairs(hydra_bundle *bundle, hydra_task task, hydra_dtype dtype,
                         int (*take)(void *user, const hydra_pair *pair), void *user,
                         hydra_error *error);

/* How many parts each module of a task has: k of its hydra_pair, in the order of the streams. The
 * stream is decoded for this once; the numbers live until hydra_close. */
hydra_status hydra_ranks(hydra_bundle *bundle, hydra_task task, const uint32_t **ranks,
                         hydra_error *error);

/* Room for the factors of a module in memory of the caller's. k: parts that b (m, k) and a (k, n)
 * have room for; then how many there are, packed for that number. */
typedef struct hydra_factors {
    void *b, *a;
    uint32_t k;
} hydra_factors;

/* Decodes modules `first` to first + count - 1 of a task into factors[0] to factors[count - 1], in
 * that dtype; HYDRA_USAGE if one lacks room. Parts of the stream without these modules are passed
 * over. The numbers are those of hydra_pairs. */
hydra_status hydra_read_factors(hydra_bundle *bundle, hydra_task task, size_t first, size_t count,
                                hydra_dtype dtype, hydra_factors *factors, hydra_error *error);

/* A tensor of a task beside its low-rank pairs. */
typedef struct hydra_tensor {
    const char *key;
    const char *dtype;      /* safetensors name */
    const char *kind;       /* saved, bias, dora_magnitude, token_rows, ... (format.md) */
    const uint64_t *shape;
    size_t axes;
    int coded;              /* comes back with an error; else bit by bit */
    const void *data;       /* little-endian, row-major */
    size_t size;
} hydra_tensor;

/* Calls `take` for every carried tensor, bit by bit, and every coded one, in its own dtype, of a
 * task. As hydra_pairs otherwise. HYDRA_UNSUPPORTED for a tensor that is kept as a difference from
 * the base model's own, and for one whose name has a zero byte. */
hydra_status hydra_tensors(hydra_bundle *bundle, hydra_task task,
                           int (*take)(void *user, const hydra_tensor *tensor), void *user,
                           hydra_error *error);

/* ---- checking ------------------------------------------------------------------------------- */

/* Reads every byte: all checksums, and every stream to its end. The first thing that is wrong is
 * the error. hydra_verify_peft of hydra_export.h checks what remains. */
hydra_status hydra_verify(hydra_bundle *bundle, hydra_error *error);

HYDRA_END

#endif
