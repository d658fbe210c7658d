/* Whether what is coded can be given back as the adapters that it came from. */
#include <stdlib.h>
#include <string.h>

#include "adapter.h"

static int by_config(const void *one, const void *other) {
    const hy_task *a = *(const hy_task *const *)one, *b = *(const hy_task *const *)other;
    if (a->config != b->config) return a->config < b->config ? -1 : 1;
    return a < b ? -1 : a > b;
}

/* The tasks of one config, which is parsed once. */
static hydra_status check_some(hydra_bundle *b, const hy_task *const *tasks, uint32_t count) {
    static const uint32_t none = 0;
    const hy_text *text = b->configs + tasks[0]->config;
    hy_json config;
    uint32_t i;
    hydra_status status = hy_json_copy(&config, &b->env, text->data, text->size - 1, "the config");
    for (i = 0; i < count && !status; i++) {
        const uint32_t *parts = &none;
        if (tasks[i]->content != HY_NONE) status = hy_parts_of(b, tasks[i], &parts);
        if (!status) status = hy_check_peft(b, tasks[i], &config, parts);
    }
    hy_json_close(&config);
    return status;
}

static hydra_status verify_peft(hydra_bundle *b) {
    const hy_task **tasks = hy_alloc(&b->env, b->task_count, sizeof *tasks);
    int kept = b->core != NULL;
    hydra_status status = tasks ? hy_core_keep(b, 0) : b->env.error->status;
    uint32_t i, count = 0, next;
    for (i = 0; i < b->task_count && tasks; i++)
        if (b->tasks[i].format == HY_PEFT && !b->tasks[i].lossless) tasks[count++] = b->tasks + i;
    if (count) qsort(tasks, count, sizeof *tasks, by_config);
    for (i = 0; i < count && !status; i = next) {
        for (next = i + 1; next < count && tasks[next]->config == tasks[i]->config;) next++;
        status = check_some(b, tasks + i, next - i);
    }
    if (!kept) hy_core_close(b);
    hy_free(&b->env, tasks, b->task_count, sizeof *tasks);
    return status;
}

hydra_status hydra_verify_peft(hydra_bundle *b, hydra_error *error) {
    hy_call call;
    hy_enter(b, &call);
    return hy_leave(b, &call, verify_peft(b), error);
}
