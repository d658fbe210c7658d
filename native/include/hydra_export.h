/* libhydra: writes a task as a PEFT adapter, or as a LoRA GGUF for llama.cpp. */
#ifndef HYDRA_EXPORT_H
#define HYDRA_EXPORT_H

#include "hydra.h"

HYDRA_BEGIN

/* Where an export goes: files by name, each written from its start to its end. All three return 0,
 * or anything else if they cannot; then the export returns HYDRA_IO. `size` is that of the whole
 * file, known before. */
typedef struct hydra_sink {
    int (*begin)(void *user, const char *name, uint64_t size);
    int (*write)(void *user, const void *data, size_t size);
    int (*end)(void *user);
    void *user;
} hydra_sink;

typedef struct hydra_peft_options {
    size_t struct_size;
    hydra_dtype dtype; /* of the factors; other tensors keep theirs */
    int sync;          /* hydra_write_peft_folder returns when the files are on the disk */
} hydra_peft_options;

/* Writes a PEFT adapter: adapter_model.safetensors and adapter_config.json. The bytes
 * are those of "hydraopt export". NULL options: the original's dtype. HYDRA_UNSUPPORTED for what
 * PEFT cannot hold. */
hydra_status hydra_write_peft(hydra_bundle *bundle, hydra_task task,
                              const hydra_peft_options *options, const hydra_sink *sink,
                              hydra_error *error);

/* What a LoRA GGUF has to know of its base model. */
typedef struct hydra_gguf_options {
    size_t struct_size;
    const char *architecture; /* llama, qwen2 or gemma3 */
    uint32_t blocks;          /* layers */
    uint32_t heads, kv_heads; /* of attention; a llama's rows of q and k are stored by head */
    hydra_dtype dtype;        /* HYDRA_SAME or HYDRA_F16: f16; HYDRA_F32 */
    int sync;                 /* as of hydra_peft_options, for hydra_write_gguf_file */
} hydra_gguf_options;

/* Reads a transformers config.json (text of `size` bytes) of the base into *gguf, whose dtype and
 * sync stay. `architecture` then points to a constant. HYDRA_UNSUPPORTED for other architectures.
 */
hydra_status hydra_gguf_base(const char *json, size_t size, const hydra_options *options,
                             hydra_gguf_options *gguf, hydra_error *error);

/* Writes a LoRA GGUF for llama.cpp, one file. The bytes are those of "hydraopt export --format gguf
 * --base config.json". HYDRA_UNSUPPORTED for what llama.cpp cannot hold. */
hydra_status hydra_write_gguf(hydra_bundle *bundle, hydra_task task,
                              const hydra_gguf_options *options, const hydra_sink *sink,
                              hydra_error *error);

/* Checks what hydra_verify does not: whether every coded task that came from PEFT can be written as
 * a PEFT adapter again, else HYDRA_UNSUPPORTED. No number is rounded. */
hydra_status hydra_verify_peft(hydra_bundle *bundle, hydra_error *error);

HYDRA_END

#endif
