/* What an open bundle is: its files, and what their manifests say. */
#ifndef HYDRA_BUNDLE_H
#define HYDRA_BUNDLE_H

#include "json.h"

#define HY_NONE 0xFFFFFFFFu

/* Texts of the manifest that are one of a few, and their numbers. */
enum { HY_LINEAR, HY_EMBEDDING, HY_CONV };
enum { HY_PLAIN, HY_TRANSPOSED, HY_ROWS, HY_EXPERTS, HY_FACTOR };
enum { HY_PEFT, HY_KOHYA, HY_DIFFUSERS, HY_LORALIB, HY_MLX };
enum {
    HY_DORA_MAGNITUDE, HY_LORA_BIAS, HY_BIAS, HY_TOKEN_ROWS, HY_SAVED, HY_TUNER, HY_TUNER_ONES,
    HY_EXACT
};
extern const char *const HY_MODULE_KINDS[], *const HY_LAYOUTS[], *const HY_FORMATS[],
    *const HY_EXTRA_KINDS[]; /* each ends with NULL */

/* dtypes by their safetensors names, in the order in which that package writes them in a file. */
enum {
    HY_U64, HY_I64, HY_F64, HY_F32, HY_U32, HY_I32, HY_BF16, HY_F16, HY_U16, HY_I16, HY_F8_E4M3,
    HY_F8_E5M2, HY_I8, HY_U8, HY_BOOL
};
extern const char *const HY_DTYPES[];
extern const uint8_t HY_DTYPE_BYTES[];
/* Index of a text among the names, or -1. */
int hy_one_of(hy_slice text, const char *const names[]);

/* Whether a key or column that is not known here may be ignored: it begins with '_'. */
int hy_is_optional(hy_slice name);

typedef struct hy_module {
    hy_slice path;
    uint32_t m, n, group, groups;
    uint8_t kind, layout, axes;
    uint32_t tail[8];
} hy_module;

/* A coded tensor that is no low-rank product: a matrix (rows, columns), transposed if the tensor
 * has more columns than rows. */
typedef struct hy_entry {
    hy_slice key, base; /* base.data is NULL if there is none */
    const uint64_t *shape;
    uint32_t axes, rows, columns;
    uint8_t dtype, kind, transposed;
} hy_entry;

typedef struct hy_item {
    hy_slice key;
    const uint64_t *shape;
    uint64_t size;
    uint32_t axes, of; /* HY_NONE: its own bytes */
    uint8_t dtype;
} hy_item;

typedef struct hy_blob {
    hy_item *items;
    uint32_t count, file, tensor; /* tensor: in the file */
    uint64_t raw_size;
} hy_blob;

/* Rising indices: start, stop, start, stop, ... */
typedef struct hy_ranges {
    const uint32_t *bounds;
    uint32_t pairs, count;
} hy_ranges;

typedef struct hy_key {
    uint32_t module, half, order; /* half: 0 is A, 1 is B; order: in the manifest */
    hy_slice key;
} hy_key;

/* Rank and scale in the config of a module. */
typedef struct hy_kept {
    uint32_t module, rank; /* module: unused in the first row, which is of all other modules */
    double scale;
} hy_kept;

typedef struct hy_task {
    hy_slice name, base_model; /* base_model.data is NULL if there is none */
    uint32_t file;             /* of several */
    uint32_t content, config;  /* content: a stream, or HY_NONE */
    uint8_t format, dtype, lossless, has_harm;
    hy_ranges modules, tensors;
    const uint8_t *errors, *tensor_errors; /* codes */
    double error, likely, kl;
    uint64_t changed, answers;
    int held_out;
    const uint32_t *carried; /* blobs */
    uint32_t carried_count, carried_items;
    const hy_key *keys; /* sorted; of two for one place the last counts */
    uint32_t key_count;
    const hy_json *json; /* of what follows: nodes, or 0 */
    uint32_t bias_scales, extra_kinds, metadata;
    uint32_t seed, start_numbers; /* of the start; 0 numbers: none */
    const hy_kept *kept; /* ranks that an export keeps; NULL: it takes those of the pairs */
    uint32_t kept_count;
} hy_task;

/* A tensor of a file. */
typedef struct hy_place {
    hy_slice name, checksum;
    uint64_t start, size;
} hy_place;

typedef enum { HY_BUNDLE, HY_CORE, HY_TASK } hy_file_kind;

typedef struct hy_file {
    hydra_reader reader;
    const char *name;
    hy_file_kind kind;
    hy_json header, manifest;
    uint32_t metadata, count; /* node of the header; places */
    hy_place *places;
} hy_file;

typedef struct hy_stream {
    uint32_t file, tensor;
    uint64_t spent; /* numbers that its table states, once it was read */
    uint32_t start_numbers;
    uint32_t *parts, part_count; /* of the record of each module, or NULL; see hy_parts_of */
} hy_stream;

typedef struct hy_core hy_core;
struct hy_states;

struct hydra_bundle {
    hy_env env;
    hy_arena arena;
    hy_file *files;
    size_t file_count;
    hy_module *modules;
    uint32_t module_count;
    hy_entry *entries;
    uint32_t entry_count;
    hy_blob *blobs;
    uint32_t blob_count, blob_room;
    hy_text *configs; /* canonical JSON, with a zero byte behind */
    uint32_t config_count, config_room;
    hy_task *tasks;
    uint32_t task_count, task_room;
    hy_stream *streams; /* the first is shared */
    uint32_t stream_count, stream_room;
    uint64_t stream_bytes, most_numbers;
    int limits_numbers; /* most_numbers is the caller's */
    hy_slice base_model, library; /* data is NULL if there is none */
    uint64_t entry_sum;           /* entries of all manifests */
    hy_core *core;                /* kept, or NULL */
    struct hy_states *states;     /* of the start that was used last, or NULL */
    const hydra_bundle *origin;   /* whose contents this one shares, or NULL */
    uint32_t borrowed_configs;    /* the first of `configs`, which are the origin's */
    unsigned calls;               /* in progress: more than one inside callbacks */
    int drop_core, closed;        /* asked for inside a call, to be done at its end */
    void (*on_close)(void *user); /* of who opened the files, or NULL */
    void *on_close_user;
};

/* Index of the i-th module (or tensor) of ranges. */
uint32_t hy_nth(const hy_ranges *ranges, uint32_t i);
int hy_has_index(const hy_ranges *ranges, uint32_t index);
int hy_ranges_same(const hy_ranges *a, const hy_ranges *b);

/* container.c: opens a file, up to its parsed manifest. */
hydra_status hy_file_open(hy_env *env, hy_arena *arena, hy_file *file);
void hy_file_close(hy_env *env, hy_file *file);
/* Checks a tensor against its checksum and returns its bytes: a copy, or the caller's own bytes of
 * a bundle in memory. hy_file_release ends their use. */
hydra_status hy_file_view(hy_env *env, const hy_file *file, uint32_t tensor, const uint8_t **data);
void hy_file_release(hy_env *env, const hy_file *file, uint32_t tensor, const uint8_t *data);
/* The reader of a bundle in memory; its user is the first byte. */
int hy_read_memory(void *user, uint64_t offset, void *buffer, size_t size);
/* The node of the metadata's key, or 0. */
uint32_t hy_metadata(const hy_file *file, const char *key);

/* table.c: tables of the manifest, which are columns. */
typedef struct hy_column {
    const char *name;
    uint32_t at, kind; /* the cell of the row, or 0: the default */
} hy_column;
/* Checks a table and stands at its first row. columns: the lead first, ends with a name of NULL. */
hydra_status hy_table_open(hy_env *env, const hy_json *json, uint32_t table, hy_column *columns,
                           uint32_t most, const char *what, uint32_t *rows);
void hy_table_next(const hy_json *json, hy_column *columns);
/* Whether it is a text of 1 to 4096 characters, none hidden. empty: also any text of that length.
 */
int hy_is_text(const hy_json *json, uint32_t node, int empty);
hydra_status hy_ranges_read(hydra_bundle *b, const hy_json *json, uint32_t node, uint32_t count,
                            const char *what, hy_ranges *ranges);
/* Codes of base64, `count` of them. */
hydra_status hy_codes_read(hydra_bundle *b, const hy_json *json, uint32_t node, uint32_t count,
                           const char *what, const uint8_t **codes);
/* -1: no base64. */
int32_t hy_base64(hy_slice text, uint8_t *out);
/* A shape of sizes in [low, high] and at most 64 axes; its product, at most `most`. */
hydra_status hy_shape_read(hydra_bundle *b, const hy_json *json, uint32_t node, uint64_t low,
                           uint64_t high, uint64_t most, const char *what, const uint64_t **shape,
                           uint32_t *axes, uint64_t *product);

/* [day, digest] of where a task came from; also null, and no node. */
int hy_is_added(const hy_json *json, uint32_t node);
/* Whether a value is the first 16 hex digits of a sha256. */
int hy_is_digest(const hy_json *json, uint32_t node);

/* bounds.c: what is counted before it is believed. core: of a task's file, the core's manifest.
 * size: bytes of the file, or of all files. */
hydra_status hy_count_entries(hy_env *env, const hy_json *json, const hy_json *core,
                              uint64_t *entries);
hydra_status hy_check_entries(hy_env *env, uint64_t entries, uint64_t size);
hydra_status hy_check_config_sizes(hy_env *env, const hy_json *json, uint64_t size);

/* manifest.c, tasks.c: what a manifest says, into the bundle. */
hydra_status hy_read_modules(hydra_bundle *b, const hy_json *json, uint32_t table);
hydra_status hy_read_entries(hydra_bundle *b, const hy_json *json, uint32_t table);
hydra_status hy_read_blobs(hydra_bundle *b, const hy_json *json, uint32_t list, uint32_t file,
                           uint32_t first_tensor);
hydra_status hy_read_configs(hydra_bundle *b, const hy_json *json, uint32_t list);
hydra_status hy_add_empty_config(hydra_bundle *b);
/* The config that differs so from the first. node: 0 for not at all. */
hydra_status hy_add_config(hydra_bundle *b, const hy_json *json, uint32_t node);
/* blob_base, stream_base, config_base: what the table's indices count from. content: what it is
 * where the table does not say, or HY_NONE. */
hydra_status hy_read_tasks(hydra_bundle *b, const hy_json *json, uint32_t table, uint32_t blob_base,
                           uint32_t blob_count, uint32_t stream_base, uint32_t content,
                           uint32_t config_base, uint32_t config_count);
/* ranks.c: reads the column `ranks` of a task; finds the row of a module, NULL if it has none. */
hydra_status hy_ranks_read(hydra_bundle *b, const hy_json *json, uint32_t node, hy_task *task);
const hy_kept *hy_kept_of(const hy_task *task, uint32_t module);
/* Tasks sorted, everything numbered by its first use. */
hydra_status hy_check_canonical(hydra_bundle *b);

double hy_error_of(unsigned code);

/* What of several files is left out rather than refused. */
typedef struct hy_tolerance {
    int other_cores; /* tasks of other cores, without an error */
    uint32_t kept; /* files from this one on, if something is wrong with them; HY_NONE: none */
    void (*left_out)(void *user, const hydra_error *error); /* is told what, or NULL */
    void *user;
} hy_tolerance;

/* As hydra_open_parts. env: of the bundle, with what is allocated already. */
hydra_status hy_open(const hydra_reader *readers, const char *const *names, size_t count,
                     const hy_tolerance *tolerance, const hy_env *env, hydra_bundle **bundle,
                     hydra_error *error);

#define HY_CHECK(env, fine, ...)                                                        \
    do {                                                                                \
        if (!(fine)) return hy_fail(env, HYDRA_DAMAGED, __VA_ARGS__);                   \
    } while (0)

#endif
