/* Tensors beside the low-rank pairs, as PEFT names and shapes them. */
#include <string.h>

#include "adapter.h"

static hydra_status no_place(hydra_bundle *b, const hy_task *task, hy_slice key, const char *why) {
    return hy_fail(
        &b->env, HYDRA_UNSUPPORTED,
        "PEFT has no place for tensor '%.160s' of task '%s': %s. Export it raw, or in the "
        "format that it came in",
        key.data, task->name.data, why);
}

/* A bias of lora_B times the scale of its module: in its own dtype, or a wider one where a number
 * would not fit. */
static hydra_status scale_bias(hydra_bundle *b, const hy_task *task, hy_tensor *x, double scale) {
    uint64_t count = x->size / HY_DTYPE_BYTES[x->dtype], k;
    int dtype = x->dtype, wide;
    uint8_t *made = NULL;
    if (scale != scale) return no_place(b, task, x->name, "the scale of its module is not known");
    if (scale == 1) return HYDRA_OK;
    if (!strchr(HY_DTYPES[dtype], 'F')) return no_place(b, task, x->name, "it is no float");
    if (!x->data) return HYDRA_OK; /* a header alone */
    if (dtype == HY_F8_E4M3 || dtype == HY_F8_E5M2) dtype = HY_BF16;
    for (wide = 0; wide < 2; wide++) {
        int fine = 1;
        if (wide) dtype = HY_F32;
        made = hy_alloc(&b->env, count * HY_DTYPE_BYTES[dtype] + 1, 1);
        if (!made) return b->env.error->status;
        for (k = 0; k < count; k++) {
            double value = hy_load(x->dtype, x->data + k * HY_DTYPE_BYTES[x->dtype]) * scale;
            int finite = value - value == 0;
            fine &= hy_store(dtype, &value, 1, 1, made + k * HY_DTYPE_BYTES[dtype]) || !finite;
        }
        if (fine) break;
        hy_free(&b->env, made, count * HY_DTYPE_BYTES[dtype] + 1, 1);
        made = NULL;
    }
    if (!made)
        return hy_fail(&b->env, HYDRA_RANGE,
                       "numbers of '%.160s' of task '%s' do not fit F32 once scaled", x->name.data,
                       task->name.data);
    hy_free(&b->env, x->data, x->data_room, 1);
    x->data = made;
    x->dtype = dtype;
    x->size = count * HY_DTYPE_BYTES[dtype];
    x->data_room = x->size + 1;
    return HYDRA_OK;
}

/* Gives a tensor the name, which is closed. */
static hydra_status rename_out(hydra_bundle *b, hy_tensors *outs, hy_tensor *x, hy_text *name) {
    char *copy =
        name->failed ? NULL : hy_arena_alloc(&b->env, &outs->arena, (uint64_t)name->size + 1, 1);
    if (copy) {
        if (name->size) memcpy(copy, name->data, name->size);
        x->name.data = copy;
        x->name.size = name->size;
    }
    hy_text_close(name);
    return copy ? HYDRA_OK : b->env.error->status;
}

/* Shapes and names a DoRA magnitude of kohya or MLX as PEFT's of a linear layer: a number for each
 * output. */
static hydra_status as_magnitude(hydra_bundle *b, const hy_task *task, hy_tensors *outs,
                                 hy_tensor *x) {
    static const char *const ends[] = {".m", ".dora_scale", ".lora_magnitude_vector"};
    const hy_module *module = NULL;
    uint64_t outputs = x->size / HY_DTYPE_BYTES[x->dtype], *shape;
    hy_slice stem = {NULL, 0};
    uint32_t i, pair;
    hy_text name;
    for (i = 0; i < 3 && !stem.data; i++)
        if (hy_ends_with(x->name, ends[i]) && x->name.size > strlen(ends[i])) {
            stem.data = x->name.data;
            stem.size = x->name.size - strlen(ends[i]);
        }
    for (pair = 0; stem.data && pair < task->modules.pairs; pair++)
        for (i = task->modules.bounds[2 * pair]; i < task->modules.bounds[2 * pair + 1]; i++)
            if (hy_same(b->modules[i].path, stem)) module = b->modules + i;
    if (!module || module->kind != HY_LINEAR || outputs != module->m ||
        !(x->axes == 1 || (x->axes == 2 && x->shape[0] == outputs)))
        return no_place(b, task, x->name, "a magnitude of that shape");
    shape = (uint64_t *)(uintptr_t)x->shape;
    shape[0] = outputs;
    x->axes = 1;
    hy_text_open(&name, &b->env);
    hy_put(&name, stem.data, stem.size);
    hy_puts(&name, ".lora_magnitude_vector");
    return rename_out(b, outs, x, &name);
}

static hydra_status export_one(hydra_bundle *b, const hy_task *task, const hy_kinds *kinds,
                               int unfolded, int named, hy_tensors *outs, hy_tensor *x) {
    double scale;
    int kind = hy_kind_of(kinds, x->name, &scale);
    hy_text name;
    if (kind == HY_LORA_BIAS && !unfolded) HY_TRY(scale_bias(b, task, x, scale));
    if (task->format != HY_PEFT && kind == HY_DORA_MAGNITUDE)
        HY_TRY(as_magnitude(b, task, outs, x));
    else if (task->format != HY_PEFT && kind != HY_LORA_BIAS && task->format != HY_LORALIB)
        return no_place(b, task, x->name, "tensors of this kind have no match");
    hy_text_open(&name, &b->env);
    hy_peft_name(&name, x->name, named);
    return rename_out(b, outs, x, &name);
}

hydra_status hy_exported_extras(hydra_bundle *b, const hy_task *task, int unfolded,
                                hy_tensors *outs) {
    uint32_t i = outs->count;
    int named;
    hy_kinds kinds;
    hydra_status status;
    HY_TRY(hy_all_tensors(b, task, 0, outs));
    named = outs->count > i && hy_names_adapter(outs->rows + i, outs->count - i);
    status = hy_kinds_open(&kinds, b, task);
    for (; i < outs->count && !status; i++)
        status = export_one(b, task, &kinds, unfolded, named, outs, outs->rows + i);
    hy_kinds_close(&kinds, b);
    return status;
}
