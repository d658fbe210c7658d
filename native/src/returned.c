/* Whether what is coded can be given back as the adapters that it came from. */
#include <stdlib.h>
#include <string.h>

#include "adapter.h"

int hy_is_copy(const hy_entry *x) {
    return x->kind == HY_SAVED && !x->base.data && hy_ends_with(x->key, ".base_layer.weight");
}

hydra_status hy_all_headers(hydra_bundle *b, const hy_task *task, int copies, hy_outs *outs) {
    uint32_t i, j;
    hy_out *out;
    for (i = 0; i < task->carried_count; i++) {
        const hy_blob *blob = b->blobs + task->carried[i];
        for (j = 0; j < blob->count; j++) {
            const hy_item *x = blob->items + j;
            HY_TRY(hy_outs_add(outs, &b->env, x->key, x->dtype, x->shape, x->axes, &out));
        }
    }
    for (i = 0; i < task->tensors.count; i++) {
        const hy_entry *x = b->entries + hy_nth(&task->tensors, i);
        if (!copies && hy_is_copy(x)) continue;
        HY_TRY(hy_outs_add(outs, &b->env, x->key, x->dtype, x->shape, x->axes, &out));
    }
    return HYDRA_OK;
}

static int by_config(const void *one, const void *other) {
    const hy_task *a = *(const hy_task *const *)one, *b = *(const hy_task *const *)other;
    if (a->config != b->config) return a->config < b->config ? -1 : 1;
    return a < b ? -1 : a > b;
}

/* The tasks of one config, which is parsed once. */
static hydra_status check_some(hydra_bundle *b, const hy_task *const *tasks, uint32_t count,
                               const uint32_t *parts, const uint32_t *first) {
    const hy_text *text = b->configs + tasks[0]->config;
    hy_json config;
    uint32_t i;
    hydra_status status =
        hy_json_copy(&config, &b->env, text->data, text->size - 1, "the config");
    for (i = 0; i < count && !status; i++)
        status = hy_check_peft(b, tasks[i], &config,
                               tasks[i]->content == HY_NONE ? parts
                                                            : parts + first[tasks[i]->content]);
    hy_json_close(&config);
    return status;
}

hydra_status hy_check_returned(hydra_bundle *b, const uint32_t *parts, const uint32_t *first) {
    const hy_task **tasks = hy_alloc(&b->env, b->task_count, sizeof *tasks);
    hydra_status status = tasks ? HYDRA_OK : b->env.error->status;
    uint32_t i, count = 0, next;
    for (i = 0; i < b->task_count && tasks; i++)
        if (b->tasks[i].format == HY_PEFT && !b->tasks[i].lossless) tasks[count++] = b->tasks + i;
    if (count) qsort(tasks, count, sizeof *tasks, by_config);
    for (i = 0; i < count && !status; i = next) {
        for (next = i + 1; next < count && tasks[next]->config == tasks[i]->config;) next++;
        status = check_some(b, tasks + i, next - i, parts, first);
    }
    hy_free(&b->env, tasks, b->task_count, sizeof *tasks);
    return status;
}
