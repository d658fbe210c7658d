/* What adapter_config.json has to say so that PEFT gives each module its rank and its scale. */
#include <string.h>

#include "adapter.h"

enum { MOST_COMPARED = 1000 };

/* Characters that an expression does not take as they are. */
#define SPECIAL "()[]{}?*+|^$\\"

static const char *const VARIANTS[][2] = {{"kasa_config", "LORA, KaSA"},
                                          {"use_bdlora", "LORA, BD-LoRA"},
                                          {"use_qalora", "LORA, QALoRA"},
                                          {"monteclora_config", "LORA, MonteCLoRA"},
                                          {"arrow_config", "LORA, Arrow"}};

hy_slice hy_tuner(const hy_json *config) {
    uint32_t node = hy_get(config, 0, "peft_type"), i;
    if (node && hy_kind(config, node) != HY_NULL) {
        if (hy_kind(config, node) != HY_STRING) return hy_slice_of("?");
        if (!hy_is(hy_string(config, node), "LORA")) return hy_string(config, node);
    }
    for (i = 0; i < sizeof VARIANTS / sizeof *VARIANTS; i++) {
        node = hy_get(config, 0, VARIANTS[i][0]);
        if (node && hy_truth(config, node)) return hy_slice_of(VARIANTS[i][1]);
    }
    return hy_slice_of("LORA");
}

int hy_changes_base(const hy_json *config) {
    static const char *const names[] = {"pissa", "olora", "corda", "loftq", "lora_ga"};
    uint32_t node = hy_get(config, 0, "init_lora_weights");
    hy_slice text;
    size_t i;
    if (!node || hy_kind(config, node) != HY_STRING) return 0;
    text = hy_string(config, node);
    for (i = 0; i < 5; i++)
        if (hy_find_text(text, names[i], 0) < text.size) return 1;
    return 0;
}

/* ---- patterns ------------------------------------------------------------------------------- */

/* Whether (.*\.)?(PATTERN)$ matches the path, PATTERN being a path without special characters: its
 * dots stand for any character. */
static int matches(hy_slice pattern, hy_slice path) {
    size_t i = pattern.size, j = path.size;
    while (i) {
        if (!j--) return 0;
        if (pattern.data[--i] == '.')
            while (j && ((unsigned char)path.data[j] & 0xC0) == 0x80) j--;
        else if (pattern.data[i] != path.data[j]) return 0;
    }
    return !j || path.data[j - 1] == '.';
}

/* A pattern that PEFT matches with this path and with no other of the ranks': the path itself, if
 * that does. */
static void put_pattern(hy_text *out, hy_env *env, hy_slice path, const hy_rank *ranks,
                        uint32_t count) {
    hy_text text;
    hy_slice whole;
    int alone = count <= MOST_COMPARED && strcspn(path.data, SPECIAL) >= path.size;
    uint32_t i;
    size_t j;
    for (i = 0; i < count && alone; i++)
        alone = matches(path, ranks[i].path) == hy_same(ranks[i].path, path);
    hy_text_open(&text, env);
    if (!alone) hy_puts(&text, "^");
    for (j = 0; j < path.size; j++) {
        if (!alone && strchr("()[]{}?*+-|^$\\.&~# \t\n\r\v\f", path.data[j])) hy_puts(&text, "\\");
        hy_put(&text, path.data + j, 1);
    }
    whole.data = text.data, whole.size = text.size;
    hy_dump_string(out, whole, 0);
    if (text.failed) out->failed = 1;
    hy_text_close(&text);
}

void hy_put_ranks(hy_text *out, hy_env *env, const hy_rank *ranks, uint32_t count, uint64_t r) {
    uint32_t i;
    int any = 0;
    hy_puts(out, "{");
    for (i = 0; i < count; i++) {
        if (ranks[i].rank == r) continue;
        if (any) hy_puts(out, ",");
        any = 1;
        put_pattern(out, env, ranks[i].path, ranks, count);
        hy_puts(out, ":");
        hy_put_natural(out, ranks[i].rank);
    }
    hy_puts(out, "}");
}

/* ---- what is written ------------------------------------------------------------------------ */

typedef struct {
    hydra_bundle *b;
    const hy_task *task;
    const hy_json *config;
    hy_text *out;
    const char *names[24]; /* written anew, or left out */
    uint32_t count;
} Writer;

static void replace(Writer *w, const char *name) { w->names[w->count++] = name; }

/* A member that is written anew; its value follows. */
static void put_name(Writer *w, const char *name) {
    if (w->out->size > 1) hy_puts(w->out, ",");
    hy_dump_string(w->out, hy_slice_of(name), 0);
    hy_puts(w->out, ":");
}

static void put_rest(Writer *w) {
    const hy_json *config = w->config;
    uint32_t i, j;
    for (i = hy_first(0); i < hy_end(config, 0); i = hy_next(config, i)) {
        hy_slice key = hy_string(config, i);
        for (j = 0; j < w->count && !hy_is(key, w->names[j]);) j++;
        if (j < w->count) continue;
        if (w->out->size > 1) hy_puts(w->out, ",");
        hy_dump_string(w->out, key, 0);
        hy_puts(w->out, ":");
        hy_dump(w->out, config, i + 1, HY_COMPACT);
    }
}

/* The base model's name, where the config has none. */
static void put_base(Writer *w) {
    uint32_t node = hy_get(w->config, 0, "base_model_name_or_path");
    hy_slice base = w->task->base_model.data ? w->task->base_model : w->b->base_model;
    if ((node && hy_truth(w->config, node)) || !base.data) return;
    put_name(w, "base_model_name_or_path");
    hy_dump_string(w->out, base, 0);
    replace(w, "base_model_name_or_path");
}

/* The paths, where the config names nothing. */
static void put_targets(Writer *w, const hy_rank *ranks, uint32_t count) {
    uint32_t parameters = hy_get(w->config, 0, "target_parameters"), i;
    if (!count || hy_get(w->config, 0, "target_modules") ||
        (parameters && hy_truth(w->config, parameters)))
        return;
    put_name(w, "target_modules");
    hy_puts(w->out, "[");
    for (i = 0; i < count; i++) {
        if (i) hy_puts(w->out, ",");
        hy_dump_string(w->out, ranks[i].path, 0);
    }
    hy_puts(w->out, "]");
}

/* Keys of a task's carried and coded tensors, one after another; 0 at the end. */
static int nth_tensor(const Writer *w, uint32_t *blob, uint32_t *item, uint32_t *tensor,
                      hy_slice *key) {
    const hydra_bundle *b = w->b;
    while (*blob < w->task->carried_count) {
        const hy_blob *held = b->blobs + w->task->carried[*blob];
        if (*item < held->count) return *key = held->items[(*item)++].key, 1;
        ++*blob, *item = 0;
    }
    if (*tensor >= w->task->tensors.count) return 0;
    return *key = b->entries[hy_nth(&w->task->tensors, (*tensor)++)].key, 1;
}

/* Settings that follow from the kinds of the task's other tensors. */
static hydra_status put_kinds(Writer *w) {
    uint32_t blob = 0, item = 0, tensor = 0, count = 0, i, made = 0;
    int dora = 0, bias = 0;
    uint64_t most = (uint64_t)w->task->carried_items + w->task->tensors.count;
    hy_kinds kinds;
    hy_slice key, *saved;
    hydra_status status = hy_kinds_open(&kinds, w->b, w->task);
    saved = status ? NULL : hy_alloc(&w->b->env, most, sizeof *saved);
    if (!saved) {
        hy_kinds_close(&kinds, w->b);
        return w->b->env.error->status;
    }
    while (nth_tensor(w, &blob, &item, &tensor, &key)) {
        int kind = hy_kind_of(&kinds, key, NULL);
        dora |= kind == HY_DORA_MAGNITUDE;
        bias |= kind == HY_LORA_BIAS;
        if (kind != HY_SAVED || w->task->format != HY_LORALIB) continue;
        key.size = hy_last(key, '.') == key.size ? 0 : hy_last(key, '.');
        saved[count++] = key;
    }
    if (dora) put_name(w, "use_dora"), hy_puts(w->out, "true"), replace(w, "use_dora");
    if (bias) put_name(w, "lora_bias"), hy_puts(w->out, "true"), replace(w, "lora_bias");
    if (count) {
        hy_unique(saved, count);
        put_name(w, "modules_to_save");
        hy_puts(w->out, "[");
        for (i = 0; i < count; i++) {
            if (i && hy_same(saved[i], saved[i - 1])) continue;
            if (made++) hy_puts(w->out, ",");
            hy_dump_string(w->out, saved[i], 0);
        }
        hy_puts(w->out, "]");
        replace(w, "modules_to_save");
    }
    hy_free(&w->b->env, saved, most, sizeof *saved);
    hy_kinds_close(&kinds, w->b);
    return HYDRA_OK;
}

/* The largest rank, so that readers which know no patterns make room enough; then the others'. */
static void put_rank_settings(Writer *w, const hy_rank *ranks, uint32_t count) {
    uint64_t r = count ? 0 : 1;
    uint32_t i;
    for (i = 0; i < count; i++)
        if (ranks[i].rank > r) r = ranks[i].rank;
    put_name(w, "r"), hy_put_natural(w->out, r);
    put_name(w, "lora_alpha"), hy_put_natural(w->out, r);
    put_name(w, "use_rslora"), hy_puts(w->out, "false");
    put_name(w, "rank_pattern"), hy_put_ranks(w->out, &w->b->env, ranks, count, r);
    put_name(w, "alpha_pattern"), hy_put_ranks(w->out, &w->b->env, ranks, count, r);
    replace(w, "r"), replace(w, "lora_alpha"), replace(w, "use_rslora");
    replace(w, "rank_pattern"), replace(w, "alpha_pattern");
}

/* How factors began says nothing of these, and PEFT refuses "orthogonal" for odd ranks. */
static void put_start(Writer *w) {
    uint32_t node = hy_get(w->config, 0, "init_lora_weights");
    if (!node || hy_kind(w->config, node) != HY_STRING) return;
    put_name(w, "init_lora_weights"), hy_puts(w->out, "true");
    replace(w, "init_lora_weights");
}

hydra_status hy_written_config(hydra_bundle *b, const hy_task *task, const hy_json *config,
                               const hy_rank *ranks, uint32_t count, hy_text *out) {
    static const char *const ours[] = {"hydraopt", "enable_lora", "merge_weights", "peft_type"};
    Writer w;
    hydra_status status;
    uint32_t i;
    memset(&w, 0, sizeof w);
    w.b = b, w.task = task, w.out = out, w.config = config;
    for (i = 0; i < 4; i++) replace(&w, ours[i]);
    hy_puts(out, "{");
    put_name(&w, "peft_type"), hy_puts(out, "\"LORA\"");
    put_base(&w);
    put_targets(&w, ranks, count);
    status = put_kinds(&w);
    if (!status && !task->kept) put_rank_settings(&w, ranks, count), put_start(&w);
    if (!status) put_rest(&w);
    hy_puts(out, "}");
    if (!status && out->failed) status = b->env.error->status;
    return status;
}

void hy_same_config(hydra_bundle *b, const hy_task *task, const hy_json *config, hy_text *out) {
    Writer w;
    memset(&w, 0, sizeof w);
    w.b = b, w.task = task, w.config = config, w.out = out;
    hy_puts(out, "{");
    replace(&w, "hydraopt");
    put_base(&w);
    put_rest(&w);
    hy_puts(out, "}");
}
