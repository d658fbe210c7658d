/* A task as a LoRA GGUF file. llama.cpp takes, for each tensor NAME of the base, NAME.lora_a (r, n)
 * and NAME.lora_b (m, r), and adds alpha / r * lora_b lora_a with r that pair's own rank. There is
 * one alpha for the file, so what a pair of another rank lacks goes into its B. */
#include <stdlib.h>
#include <string.h>

#include "adapter.h"
#include "gguf_table.h"

enum { ALIGNMENT = 32, MOST_LAYERS = 100000 };
enum { TYPE_F32 = 0, TYPE_F16 = 1, KV_U32 = 4, KV_F32 = 6, KV_STRING = 8 };

static const char *const ARCHITECTURES[] = {"llama", "qwen2", "gemma3", NULL};

static hydra_status refused(hydra_bundle *b, const hy_task *task, const char *what, hy_slice path) {
    return hy_fail(
        &b->env, HYDRA_UNSUPPORTED,
        "llama.cpp cannot hold %s (task '%s', '%.160s'). Export it to peft, which holds more", what,
        task->name.data, path.data ? path.data : "");
}

/* Whether "base_layer" is one of the path's parts. */
static int is_wrapped(hy_slice path) {
    size_t at = 0;
    for (; (at = hy_find_text(path, "base_layer", at)) < path.size; at++)
        if ((!at || path.data[at - 1] == '.') &&
            (at + 10 == path.size || path.data[at + 10] == '.'))
            return 1;
    return 0;
}

/* Refuses everything but low-rank changes of linear layers. */
static hydra_status check_plain(hydra_bundle *b, const hy_task *task, const hy_json *config) {
    static const char *const settings[] = {"alora_invocation_tokens", "layer_replication"};
    hy_slice tuner = hy_tuner(config), none = {NULL, 0};
    uint32_t pair, i;
    if (!hy_is(tuner, "LORA") && !hy_is(tuner, "ADALORA"))
        return refused(b, task, "a task of another tuner than LoRA", tuner);
    if (hy_changes_base(config))
        return refused(b, task, "an initialisation that also changes the base", none);
    for (i = 0; i < 2; i++) {
        uint32_t node = hy_get(config, 0, settings[i]);
        if (node && hy_truth(config, node))
            return refused(b, task, "what this setting does", hy_slice_of(settings[i]));
    }
    if (task->lossless)
        return refused(b, task,
                       "a task that is kept bit by bit, which this library does not take apart",
                       none);
    if (task->tensors.count || task->carried_items)
        return refused(b, task, "tensors that are no low-rank pairs", none);
    for (pair = 0; pair < task->modules.pairs; pair++)
        for (i = task->modules.bounds[2 * pair]; i < task->modules.bounds[2 * pair + 1]; i++) {
            const hy_module *x = b->modules + i;
            if (x->kind != HY_LINEAR)
                return refused(b, task, "a low-rank change of an embedding or a convolution",
                               x->path);
            if (x->layout != HY_PLAIN)
                return refused(b, task, "layers that are fused or stacked in one tensor", x->path);
            if (is_wrapped(x->path)) return refused(b, task, "two pairs on one layer", x->path);
        }
    return task->modules.count ? HYDRA_OK : refused(b, task, "an adapter without any module", none);
}

/* The layer's number in `path` where `own` has '#', the two alike otherwise; -2: not alike, -1: no
 * number in it. size: of own. */
static int64_t layer_in(const char *own, size_t size, hy_slice path) {
    int64_t layer = -1;
    size_t i = 0;
    for (; size; own++, size--) {
        if (*own != '#') {
            if (i == path.size || path.data[i++] != *own) return -2;
            continue;
        }
        if (i == path.size || path.data[i] < '0' || path.data[i] > '9') return -2;
        if (path.data[i] == '0' && i + 1 < path.size && path.data[i + 1] >= '0' &&
            path.data[i + 1] <= '9')
            return -2;
        for (layer = 0; i < path.size && path.data[i] >= '0' && path.data[i] <= '9'; i++)
            if (layer < MOST_LAYERS) layer = layer * 10 + (path.data[i] - '0');
    }
    return i == path.size ? layer : -2;
}

/* llama.cpp's name of a layer, with '#' for its number, which goes to *layer; NULL if there is
 * none. */
static const char *find_layer(int architecture, hy_slice path, int64_t blocks, int64_t *layer) {
    const char *theirs, *own;
    size_t i;
    for (i = 0; i < sizeof LAYERS / sizeof *LAYERS; i++)
        for (theirs = LAYERS[i]; *theirs; theirs = own + 1)
            for (own = theirs + strlen(theirs) + 1; *own; own += strlen(own) + 1) {
                size_t size = strlen(own) - 1;
                if (!((own[size] - '@') >> architecture & 1)) continue;
                *layer = layer_in(own, size, path);
                if (*layer != -2 && *layer < blocks) return theirs;
            }
    return NULL;
}

/* llama.cpp's name of a layer, without ".weight". */
static hydra_status name_of(hydra_bundle *b, const hy_task *task, const hydra_gguf_options *options,
                            int architecture, hy_slice path, hy_text *out) {
    int64_t layer = -1;
    const char *c = find_layer(architecture, path, options->blocks, &layer);
    if (!c)
        return refused(b, task, "a module that the architecture with so many layers lacks", path);
    if (!strcmp(c, "output"))
        return refused(b, task, "an output layer without knowing whether the base has one", path);
    for (; *c; c++) {
        if (*c == '#') hy_put_natural(out, (uint64_t)layer);
        else hy_put(out, c, 1);
    }
    return HYDRA_OK;
}

static void put_string(hy_text *out, hy_slice text) {
    hy_put_le(out, text.size, 8);
    hy_put(out, text.data, text.size);
}

static void put_pair_of(hy_text *out, const char *key, const char *value) {
    put_string(out, hy_slice_of(key));
    hy_put_le(out, KV_STRING, 4);
    put_string(out, hy_slice_of(value));
}

static uint64_t aligned(uint64_t size) { return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static void put_head(hy_text *out, const hy_task *task, const char *architecture, uint64_t alpha,
                     const hy_tensors *outs) {
    float strength = (float)alpha;
    uint32_t bits, i, j;
    uint64_t at = 0;
    memcpy(&bits, &strength, sizeof bits);
    hy_puts(out, "GGUF");
    hy_put_le(out, 3, 4);
    hy_put_le(out, outs->count, 8);
    hy_put_le(out, 5, 8);
    put_pair_of(out, "general.architecture", architecture);
    put_pair_of(out, "general.type", "adapter");
    put_pair_of(out, "adapter.type", "lora");
    put_pair_of(out, "general.name", task->name.data);
    put_string(out, hy_slice_of("adapter.lora.alpha"));
    hy_put_le(out, KV_F32, 4);
    hy_put_le(out, bits, 4);
    for (i = 0; i < outs->count; i++) {
        const hy_tensor *x = outs->rows + i;
        put_string(out, x->name);
        hy_put_le(out, x->axes, 4);
        for (j = x->axes; j-- > 0;) hy_put_le(out, x->shape[j], 8);
        hy_put_le(out, x->dtype == HY_F16 ? TYPE_F16 : TYPE_F32, 4);
        hy_put_le(out, at, 8);
        at += aligned(x->size);
    }
    while (out->size % ALIGNMENT && !out->failed) hy_put(out, "", 1);
}

/* The rows of B (m, r) in the order in which llama.cpp keeps those of q and k of a llama: within
 * each head row i of the first half is followed by row i of the second. */
static hydra_status permute(hydra_bundle *b, const hy_module *x, uint32_t heads, uint8_t *data,
                            size_t row) {
    uint32_t half = x->m / heads / 2, h, i, side;
    uint8_t *copy;
    if (x->m % (2 * (uint64_t)heads))
        return hy_fail(
            &b->env, HYDRA_UNSUPPORTED,
            "rows of '%.200s' do not divide among the heads of the base; got %u rows, %u heads",
            x->path.data, (unsigned)x->m, (unsigned)heads);
    copy = hy_alloc(&b->env, x->m, row);
    if (!copy) return b->env.error->status;
    memcpy(copy, data, x->m * row);
    for (h = 0; h < heads; h++)
        for (side = 0; side < 2; side++)
            for (i = 0; i < half; i++)
                memcpy(data + ((size_t)(h * half + i) * 2 + side) * row,
                       copy + ((size_t)(h * 2 + side) * half + i) * row, row);
    hy_free(&b->env, copy, x->m, row);
    return HYDRA_OK;
}

static hydra_status write_tensor(hydra_bundle *b, const hy_pairs *pairs, const hy_tensor *x,
                                 const hydra_gguf_options *options, int permuted,
                                 const hydra_sink *sink) {
    const hy_pair *pair = pairs->pairs + x->pair;
    const hy_module *module = b->modules + pairs->members[pair->first].module;
    uint64_t room = aligned(x->size);
    uint8_t *data = hy_alloc(&b->env, room, 1);
    hydra_status status = HYDRA_OK;
    if (!data) return b->env.error->status;
    hy_pair_fill(b, pairs, pair, (int)x->half, data);
    if (permuted && x->half) {
        size_t row = (size_t)(x->size / module->m);
        if (hy_ends_with(module->path, ".q_proj") || hy_is(module->path, "q_proj"))
            status = permute(b, module, options->heads, data, row);
        if (hy_ends_with(module->path, ".k_proj") || hy_is(module->path, "k_proj"))
            status = permute(b, module, options->kv_heads, data, row);
    }
    if (!status && sink->write(sink->user, data, (size_t)room))
        status = hy_sink_failed(b, "adapter.gguf");
    hy_free(&b->env, data, room, 1);
    return status;
}

/* Pairs by their path, each with its rank, over a scale that alpha makes up for. */
static hydra_status decode_pairs(hydra_bundle *b, const hy_task *task, const hy_json *config,
                           hy_pairs *pairs, uint64_t *alpha) {
    uint64_t numbers = 0;
    uint32_t i;
    HY_TRY(hy_pairs_open(pairs, b, task, config));
    /* Ranks first: the scale depends on the largest. */
    HY_TRY(hy_pairs_decode(pairs, b, task));
    *alpha = 1;
    for (i = 0; i < pairs->count; i++) {
        pairs->pairs[i].rank = hy_pair_least_rank(pairs, b, pairs->pairs + i);
        if (pairs->pairs[i].rank > *alpha) *alpha = pairs->pairs[i].rank;
        numbers += hy_pair_numbers(b, pairs, pairs->pairs + i);
    }
    HY_TRY(hy_check_room(b, task, numbers));
    for (i = 0; i < pairs->member_count; i++)
        hy_factors_close(&pairs->members[i].factors, &b->env, b->modules + pairs->members[i].module,
                         pairs->dtype);
    for (i = 0; i < pairs->count; i++)
        pairs->pairs[i].scale = (double)*alpha / (double)pairs->pairs[i].rank;
    return hy_pairs_decode(pairs, b, task);
}

static hydra_status add_names(hydra_bundle *b, const hy_task *task,
                              const hydra_gguf_options *options, int architecture,
                              const hy_pairs *pairs, hy_tensors *outs) {
    uint32_t i;
    int half;
    for (i = 0; i < pairs->count; i++)
        for (half = 0; half < 2; half++) {
            const hy_module *x = b->modules + pairs->members[pairs->pairs[i].first].module;
            uint64_t sizes[10];
            uint32_t axes = hy_pair_shape(b, pairs, pairs->pairs + i, half, sizes);
            hy_text name;
            hy_slice slice;
            hy_tensor *out;
            hydra_status status;
            hy_text_open(&name, &b->env);
            status = name_of(b, task, options, architecture, x->path, &name);
            if (!status) hy_puts(&name, half ? ".weight.lora_b" : ".weight.lora_a");
            slice.data = name.data, slice.size = name.size;
            if (!status && name.failed) status = b->env.error->status;
            if (!status)
                status = hy_tensors_add(outs, &b->env, slice, pairs->dtype, sizes, axes, &out);
            hy_text_close(&name);
            HY_TRY(status);
            out->pair = i;
            out->half = (uint32_t)half;
        }
    return HYDRA_OK;
}

static hydra_status write_file(hydra_bundle *b, const hy_task *task,
                               const hydra_gguf_options *options, const hy_pairs *pairs,
                               const hy_tensors *outs, uint64_t alpha, const hydra_sink *sink) {
    hy_text head;
    hydra_status status = HYDRA_OK;
    uint64_t whole;
    uint32_t i;
    hy_text_open(&head, &b->env);
    put_head(&head, task, options->architecture, alpha, outs);
    whole = head.size;
    for (i = 0; i < outs->count; i++) whole += aligned(outs->rows[i].size);
    if (head.failed) status = b->env.error->status;
    else if (b->env.limits.output && whole > b->env.limits.output)
        status = hy_fail(&b->env, HYDRA_LIMIT, "the GGUF file is larger than the limit of outputs");
    else if (sink->begin(sink->user, "adapter.gguf", whole) ||
             sink->write(sink->user, head.data, head.size))
        status = hy_sink_failed(b, "adapter.gguf");
    hy_text_close(&head);
    for (i = 0; i < outs->count && !status; i++)
        status = write_tensor(b, pairs, outs->rows + i, options,
                              !strcmp(options->architecture, "llama"), sink);
    if (!status && sink->end(sink->user)) status = hy_sink_failed(b, "adapter.gguf");
    return status;
}

static hydra_status write_gguf(hydra_bundle *b, hydra_task index, const hydra_gguf_options *given,
                               const hydra_sink *sink) {
    hydra_gguf_options own, *options = &own;
    const hy_task *task = NULL;
    const hy_text *text;
    hy_json config;
    hy_pairs pairs;
    hy_tensors outs;
    hydra_status status;
    uint64_t alpha = 1;
    int architecture;
    HY_TRY(hy_read_sized(&own, sizeof own, given, "hydra_gguf_options", b->env.error));
    HY_TRY(hy_task_of(b, index, &task, b->env.error));
    architecture =
        options->architecture ? hy_one_of(hy_slice_of(options->architecture), ARCHITECTURES) : -1;
    if (architecture < 0 || !options->blocks || !options->heads || !options->kv_heads)
        return hy_fail(&b->env, HYDRA_USAGE,
                       "options of the base model make no sense; expected llama, "
                       "qwen2 or gemma3 and its layers and heads");
    if (options->dtype != HYDRA_SAME && options->dtype != HYDRA_F16 && options->dtype != HYDRA_F32)
        return hy_fail(&b->env, HYDRA_USAGE, "a GGUF file is of f16 or f32");
    memset(&pairs, 0, sizeof pairs);
    memset(&outs, 0, sizeof outs);
    pairs.dtype = options->dtype == HYDRA_F32 ? HY_F32 : HY_F16;
    text = b->configs + task->config;
    status = hy_json_copy(&config, &b->env, text->data, text->size - 1, "the config");
    if (!status) status = check_plain(b, task, &config);
    if (!status) status = decode_pairs(b, task, &config, &pairs, &alpha);
    if (!status) status = add_names(b, task, options, architecture, &pairs, &outs);
    if (!status) status = write_file(b, task, options, &pairs, &outs, alpha, sink);
    hy_tensors_close(&outs, &b->env);
    hy_pairs_close(&pairs, b);
    hy_json_close(&config);
    return status;
}

hydra_status hydra_write_gguf(hydra_bundle *b, hydra_task task, const hydra_gguf_options *options,
                              const hydra_sink *sink, hydra_error *error) {
    hy_call call;
    hy_enter(b, &call);
    return hy_leave(b, &call, write_gguf(b, task, options, sink), error);
}

hydra_status hydra_gguf_base(const char *text, size_t size, const hydra_options *options,
                             hydra_gguf_options *gguf, hydra_error *error) {
    static const char *const types[] = {"llama", "qwen2", "gemma3_text", NULL};
    hydra_gguf_options own;
    hy_env env;
    hy_json json;
    hydra_status status;
    HY_TRY(hy_env_open(&env, options, error));
    HY_TRY(hy_read_sized(&own, sizeof own, gguf, "hydra_gguf_options", env.error));
    status = hy_json_copy(&json, &env, text, size, "the base model's config");
    if (!status) {
        uint32_t type = hy_get(&json, 0, "model_type"),
                 heads = hy_get(&json, 0, "num_attention_heads");
        uint32_t kv = hy_get(&json, 0, "num_key_value_heads");
        uint32_t layers = hy_get(&json, 0, "num_hidden_layers");
        int which = type && hy_kind(&json, type) == HY_STRING
                        ? hy_one_of(hy_string(&json, type), types)
                        : -1;
        uint64_t l, h, k;
        if (kv && !hy_truth(&json, kv)) kv = 0;
        if (which < 0)
            status =
                hy_fail(&env, HYDRA_UNSUPPORTED,
                        "LoRA GGUF files are not written for this architecture; expected llama, "
                        "qwen2 or gemma3_text as model_type");
        else if (!layers || !heads || !hy_natural(&json, layers, 1, 100000, &l) ||
                 !hy_natural(&json, heads, 1, 1 << 20, &h) ||
                 !hy_natural(&json, kv ? kv : heads, 1, 1 << 20, &k))
            status =
                hy_fail(&env, HYDRA_UNSUPPORTED, "the base model's config has no layers or heads");
        else {
            own.architecture = ARCHITECTURES[which];
            own.blocks = (uint32_t)l;
            own.heads = (uint32_t)h;
            own.kv_heads = (uint32_t)k;
            status = hy_write_sized(gguf, &own, sizeof own, "hydra_gguf_options", env.error);
        }
    }
    hy_json_close(&json);
    return status;
}
