/* Streams of an open bundle: chunks, records, and what they give. */
#ifndef HYDRA_CORE_H
#define HYDRA_CORE_H

#include "bundle.h"
#include "coder.h"

/* open.c: starts the allocator and limits of a bundle, or of a call without one. */
hydra_status hy_env_open(hy_env *env, const hydra_options *options, hydra_error *error);

/* A call on a bundle. Calls nest where a callback calls the library again, so each has an error of
 * its own. */
typedef struct hy_call {
    hydra_error error, *outer;
} hy_call;
HY_NOINLINE void hy_enter(hydra_bundle *b, hy_call *call);
/* Reports the result of the call to the caller, and returns it. */
HY_NOINLINE hydra_status hy_leave(hydra_bundle *b, const hy_call *call, hydra_status status,
                                  hydra_error *error);

/* open.c: what a file holds, into the bundle: a bundle or a core; a task's own file, behind its
 * core; whether the latter names the core that was opened. */
hydra_status hy_read_main(hydra_bundle *b, uint32_t index);
hydra_status hy_read_part(hydra_bundle *b, uint32_t index);
int hy_is_of_core(const hydra_bundle *b, uint32_t index);
/* folder.c: all of its files; the tasks of those behind the core. */
hydra_status hy_open_files(hydra_bundle *b, const hy_tolerance *tolerance);
hydra_status hy_open_tasks(hydra_bundle *b, const hy_tolerance *tolerance);
extern const hy_tolerance HY_INTOLERANT; /* everything that is wrong is an error */
/* open.c: copies what the caller gave of files, behind the first `before`; streams of a file; the
 * numbers that the streams may stand for, and whether starts may draw as many as they do. */
hydra_status hy_take_files(hydra_bundle *b, const hydra_reader *readers, const char *const *names,
                           size_t count, size_t before);
hydra_status hy_add_streams(hydra_bundle *b, uint32_t file, uint32_t first, uint32_t count);
void hy_set_most_numbers(hydra_bundle *b);
hydra_status hy_check_starts(hydra_bundle *b);
/* describe.c */
hydra_status hy_task_of(const hydra_bundle *b, hydra_task task, const hy_task **found,
                        hydra_error *error);
void hy_module_info(const hydra_bundle *b, const hy_task *task, uint32_t index,
                    hydra_module_info *info);

enum { HY_MOST_EXPONENT = 6400 };

/* ---- start.c -------------------------------------------------------------------------------- */

enum { HY_STATE_WORDS = 624 };

/* States of a task's generator at regular places of its sequence. They do not change. */
typedef struct hy_states {
    uint32_t seed, numbers; /* of the start */
    uint32_t users, count;  /* calls in progress; states */
    uint32_t *words;
} hy_states;

/* The states of a task with a start: those of the call before, if it had the same start. */
hydra_status hy_states_open(hydra_bundle *b, const hy_task *task, hy_states **states);
void hy_states_close(hydra_bundle *b, hy_states *states);
/* Frees the states that the bundle keeps for the next call. */
void hy_states_drop(hydra_bundle *b);

typedef struct hy_generator {
    const hy_states *states;
    uint32_t twists; /* of `words`; 0 before the first number */
    uint32_t words[HY_STATE_WORDS];
} hy_generator;

/* Numbers of the sequence, from `first` on, each from -2^23 to 2^23 - 1. */
void hy_numbers(hy_generator *generator, uint32_t first, uint32_t count, int32_t *out);

/* ---- chunks.c ------------------------------------------------------------------------------- */

typedef struct hy_chunk {
    uint32_t records, numbers, size, crc;
} hy_chunk;

/* A stream that is read record by record. */
typedef struct hy_source {
    hydra_bundle *b;
    const char *name; /* of its tensor */
    const hy_file *file; /* whose tensor the stream is */
    uint32_t tensor;
    const uint8_t *data;
    uint64_t size, start; /* start: of the chunk that is read */
    hy_chunk *chunks;
    uint32_t chunk_count, chunk, left; /* left: records of the chunk that are to be read */
    uint32_t record, record_count;     /* next record, and how many there are */
    uint64_t counted;                  /* numbers of the chunk so far */
    int only_read;                     /* products are not needed: sides lack what is shared */
    uint32_t start_numbers;            /* of the task's start; 0 for none */
    hy_generator generator;            /* of the start, unless products are not needed */
    hy_coder coder;
} hy_source;

/* Reads a stream and its table, and counts its numbers against those of the file. */
hydra_status hy_source_open(hy_source *source, hydra_bundle *b, uint32_t stream, uint32_t records);
void hy_source_close(hy_source *source);
/* Moves forward to that record, or to an earlier one of its chunk, without decoding the chunks
 * before. */
hydra_status hy_source_seek(hy_source *source, uint32_t record);
/* Skips `chunks` chunks. */
hydra_status hy_source_pass(hy_source *source, uint32_t chunks);
/* Counts numbers of the record that is read, before they are decoded. */
hydra_status hy_source_spend(hy_source *source, uint64_t numbers);
hydra_status hy_source_end_record(hy_source *source);
hydra_status hy_damaged(const hy_source *source, const char *what);

/* A side integer in [low, high]. */
hydra_status hy_read_integer(hy_source *source, int kind, int64_t low, int64_t high,
                             const char *what, int32_t *value);
/* Integers in [low, high], each coded as its difference to the one before. */
hydra_status hy_read_run(hy_source *source, int kind, uint32_t count, int64_t low, int64_t high,
                         const char *what, int32_t *values);

/* Reads records up to `end` in a context of the bundle. */
typedef hydra_status hy_span(void *user, hydra_bundle *context, hy_source *source, uint32_t end);
/* parallel.c: calls `span` for the records up to `end`: on the caller's threads for each chunk, if
 * the options of the bundle have any, else at once. Afterwards `source` must seek. */
hydra_status hy_each_chunk(hydra_bundle *b, hy_source *source, uint32_t end, hy_span *span,
                           void *user);

/* ---- records.c ------------------------------------------------------------------------------ */

/* A block (rows, columns), column after column, each in as few bytes a number as it takes. */
typedef struct hy_block {
    uint32_t rows, columns;
    uint8_t *data;
    size_t room;
    struct hy_packed {
        uint64_t start;
        uint8_t width;
    } *packed;
} hy_block;

hydra_status hy_block_read(hy_block *block, hy_source *source, uint32_t rows, uint32_t columns,
                           int shape);
void hy_block_close(hy_block *block, hy_env *env);
/* `count` numbers of a column, from `first` on. */
void hy_block_column(const hy_block *block, uint32_t column, uint32_t first, uint32_t count,
                     int32_t *out);

/* A shared basis of q vectors: column j of the block times powers[j]. */
typedef struct hy_basis {
    uint32_t q;
    hy_block block;
    double *powers;
} hy_basis;

typedef struct hy_bases {
    hy_basis left, right;
} hy_bases;

hydra_status hy_bases_read(hy_bases *bases, hy_source *shared, const hy_module *module);
void hy_bases_close(hy_bases *bases, hy_env *env);

/* A task's record of a module, multiplied out: dW = sum_j powers[j] left_j right_j^T, with vectors
 * left + j m and right + j n. */
typedef struct hy_product {
    uint32_t m, n, k;
    double *left, *right, *powers;
} hy_product;

/* bases: of the module, NULL if nothing is shared. */
hydra_status hy_product_read(hy_product *product, hy_source *source, uint32_t m, uint32_t n,
                             const hy_bases *bases);
void hy_product_close(hy_product *product, hy_env *env);

/* 2^(e / 32), the same bits on every machine. */
double hy_power(int32_t e);

/* ---- dense.c -------------------------------------------------------------------------------- */

/* A record of a coded tensor: parts, and blocks of rows in steps; see streams.md, section 6. */
typedef struct hy_dense {
    int what;
    hy_product parts;
    double step;
    uint32_t row_count, offset_count, block_count, each; /* each: rows of a block */
    int32_t *rows, *offsets;               /* NULL: all rows; no offsets */
    hy_block *blocks;
} hy_dense;

/* common: what the shared stream has of it, NULL for the shared stream's own record or nothing. */
hydra_status hy_dense_read(hy_dense *dense, hy_source *source, const hy_entry *entry,
                           const hy_dense *common, int shared);
void hy_dense_close(hy_dense *dense, hy_env *env);
/* Rows first to first + count of the matrix (rows, columns), row-major, into out. Room: sum has
 * columns numbers, scratch count. */
void hy_dense_rows(const hy_dense *dense, const hy_dense *common, const hy_entry *entry,
                   uint32_t first, uint32_t count, double *out, double *sum, int32_t *scratch);

/* ---- visit.c -------------------------------------------------------------------------------- */

/* What is shared, decoded and kept. */
struct hy_core {
    hy_bases *modules;
    hy_dense *tensors;
};

/* hydra_keep_core inside a call. */
hydra_status hy_core_keep(hydra_bundle *b, size_t most);
void hy_core_close(hydra_bundle *b);

/* Callbacks of a visit to the records of a task; either may be NULL. index: in the task. `module`
 * may change the product, and takes memory from `b`, which is a context of the bundle if the
 * visitor is parallel. */
typedef struct hy_visitor {
    hydra_status (*module)(void *user, hydra_bundle *b, uint32_t index, const hy_module *module,
                           hy_product *product);
    hydra_status (*tensor)(void *user, uint32_t index, const hy_entry *entry, const hy_dense *dense,
                           const hy_dense *common);
    void *user;
    int only_read; /* the numbers are not needed */
    int parallel;  /* `module` may be called on several threads, in any order */
    uint32_t first, count; /* modules that are visited; 0, 0: all */
} hy_visitor;

/* parts.c: how many parts the record of each module of a task has, in its order. They are decoded
 * once and kept. hy_parts_read always decodes them; tensor: as of hy_visitor, its user an hy_parts.
 */
typedef struct hy_parts {
    hydra_bundle *b;
    uint32_t *counts;
} hy_parts;
hydra_status hy_parts_of(hydra_bundle *b, const hy_task *task, const uint32_t **counts);
hydra_status hy_parts_read(hydra_bundle *b, const hy_task *task,
                           hydra_status (*tensor)(void *user, uint32_t index, const hy_entry *entry,
                                                  const hy_dense *dense, const hy_dense *common));

/* Decodes a task's stream, record by record; nothing for a task without one. */
hydra_status hy_visit(hydra_bundle *b, const hy_task *task, const hy_visitor *visitor);

#endif
