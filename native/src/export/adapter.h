/* From a task to an adapter: pairs, configs, other tensors, and writers of files. */
#ifndef HYDRA_ADAPTER_H
#define HYDRA_ADAPTER_H

#include "../core/factors.h"
#include "hydra_export.h"

/* ---- keys.c: names of tensors --------------------------------------------------------------- */

/* A name without the prefixes of training wrappers; to be closed. */
void hy_plain_name(hy_text *out, hy_slice key);
/* The module's path of a PEFT key of A or B, up to ".base_layer": what PEFT matches patterns with.
 * 0 if it is no such key, or no memory is left; then settings has failed. inner: the path as the
 * name has it. */
int hy_parse_key(hy_text *settings, hy_text *inner, hy_slice key);
/* The usual key of A (half 0) or B of a module. */
void hy_default_key(hy_text *out, const hy_module *module, int half);
/* The key of A or B of a task's module: its own one or the usual one. */
hydra_status hy_key_of(hydra_bundle *b, const hy_task *task, uint32_t module, int half,
                       hy_text *out);
/* The name that PEFT gives a tensor beside the pairs. named: whether the word behind
 * "modules_to_save" is an adapter's name. */
void hy_peft_name(hy_text *out, hy_slice key, int named);
/* Whether the word behind ".modules_to_save." is an adapter's name: the same in all names that have
 * one, with more behind it, and in no other tensor that is kept whole; nor is one of these of
 * ".original_module.", beside which copies stand. */
int hy_names_adapter(const struct hy_tensor *rows, uint32_t count);
/* The path up to "::". */
hy_slice hy_stem(const hy_module *module);
/* Index of the text `part` in `whole`, from `from` on, or the size of whole. */
size_t hy_find_text(hy_slice whole, const char *part, size_t from);

/* ---- extras.c ------------------------------------------------------------------------------- */

/* Every tensor of hy_all_tensors as PEFT names and shapes them. unfolded: the scale stays in the
 * config. */
hydra_status hy_exported_extras(hydra_bundle *b, const hy_task *task, int unfolded,
                                hy_tensors *outs);

/* ---- config.c ------------------------------------------------------------------------------- */

/* The rank of a path, as PEFT matches patterns with it. */
typedef struct hy_rank {
    hy_slice path;
    uint64_t rank;
} hy_rank;

/* The tuner of a config: LORA for none. */
hy_slice hy_tuner(const hy_json *config);
/* Whether the config's initialisation changes the base (PiSSA and its kin). */
int hy_changes_base(const hy_json *config);
/* A rank_pattern: a JSON object of the ranks that differ from r. */
void hy_put_ranks(hy_text *out, hy_env *env, const hy_rank *ranks, uint32_t count, uint64_t r);

/* The compact JSON of adapter_config.json. ranks: sorted by path. */
hydra_status hy_written_config(hydra_bundle *b, const hy_task *task, const hy_json *config,
                               const hy_rank *ranks, uint32_t count, hy_text *out);
/* The config without hydraopt's own settings, for other tuners. */
void hy_same_config(hydra_bundle *b, const hy_task *task, const hy_json *config, hy_text *out);

/* ---- pairs.c -------------------------------------------------------------------------------- */

/* One stored pair, A and B, of one module or all groups of one: members first to first + count of
 * the row of members. */
typedef struct hy_pair {
    hy_slice keys[2], path;
    uint32_t first, count, slots; /* slots: of a fused projection, else 0 */
    uint64_t rank;                /* that it is written with */
    double scale;
} hy_pair;

typedef struct hy_member {
    uint32_t index, module, pair; /* index: in the task */
    uint64_t position;
    hy_slice key; /* of A; for sorting */
    hy_factors factors;
} hy_member;

typedef struct hy_pairs {
    hy_arena arena;
    hy_pair *pairs;
    uint32_t count;
    hy_member *members; /* sorted by pair and position */
    hy_member **by_index;
    uint32_t member_count;
    int dtype;
} hy_pairs;

/* Opens the pairs by names and groups; nothing is decoded. config: of the task. */
hydra_status hy_pairs_open(hy_pairs *pairs, hydra_bundle *b, const hy_task *task,
                           const hy_json *config);
/* Decodes the factors, over each pair's scale. */
hydra_status hy_pairs_decode(hy_pairs *pairs, hydra_bundle *b, const hy_task *task);
void hy_pairs_close(hy_pairs *pairs, hydra_bundle *b);
uint64_t hy_pair_least_rank(const hy_pairs *pairs, const hydra_bundle *b, const hy_pair *pair);
uint32_t hy_pair_multiple(const hydra_bundle *b, const hy_pairs *pairs, const hy_pair *pair);
/* Numbers of A and B together, as they are written. */
uint64_t hy_pair_numbers(const hydra_bundle *b, const hy_pairs *pairs, const hy_pair *pair);
hydra_status hy_check_room(hydra_bundle *b, const hy_task *task, uint64_t numbers);
/* The shape of A (half 0) or B; sizes has room for 10. */
uint32_t hy_pair_shape(const hydra_bundle *b, const hy_pairs *pairs, const hy_pair *pair, int half,
                       uint64_t *sizes);
/* The bytes of A or B, into `out`, which is all zeros. */
void hy_pair_fill(const hydra_bundle *b, const hy_pairs *pairs, const hy_pair *pair, int half,
                  uint8_t *out);
/* A and B of the pairs as tensors to be written, under their keys. */
hydra_status hy_pairs_tensors(const hy_pairs *pairs, hydra_bundle *b, hy_tensors *outs);

/* tuners.c: the pairs of other tuners than LoRA. parts: of each module, if `outs` is to hold
 * headers alone. */
hydra_status hy_tuner_tensors(hydra_bundle *b, const hy_task *task, const hy_json *config,
                              int dtype, const uint32_t *parts, hy_tensors *outs);

/* peft.c: whether a coded task of PEFT's format can be written as an adapter again. Looks at names,
 * shapes, ranks and settings, and at no number. parts: of each of its modules. */
hydra_status hy_check_peft(hydra_bundle *b, const hy_task *task, const hy_json *config,
                           const uint32_t *parts);

/* safetensors.c: sorts the tensors by name, and refuses two of one name. */
hydra_status hy_check_names(hydra_bundle *b, const hy_task *task, hy_tensors *outs);
/* Sorts the tensors and writes them. metadata: node of task->json, or 0. */
hydra_status hy_write_safetensors(hydra_bundle *b, const hy_task *task, hy_tensors *outs,
                                  const hy_pairs *pairs, const hydra_sink *sink);
hydra_status hy_sink_text(hydra_bundle *b, const hydra_sink *sink, const char *name,
                          const void *data, size_t size);
hydra_status hy_sink_failed(hydra_bundle *b, const char *name);

#endif
