/* Counts the parts of each module of a task. */
#include <string.h>

#include "core.h"

static hydra_status count_parts(void *user, hydra_bundle *b, uint32_t index,
                                const hy_module *module, hy_product *product) {
    (void)b, (void)module;
    ((hy_parts *)user)->counts[index] = product->k;
    return HYDRA_OK;
}

hydra_status hy_parts_read(hydra_bundle *b, const hy_task *task,
                           hydra_status (*tensor)(void *user, uint32_t index, const hy_entry *entry,
                                                  const hy_dense *dense, const hy_dense *common)) {
    hy_stream *stream = b->streams + task->content;
    hy_visitor visitor;
    hydra_status status;
    hy_parts parts;
    parts.b = b;
    parts.counts = hy_alloc(&b->env, task->modules.count, sizeof *parts.counts);
    if (!parts.counts) return b->env.error->status;
    memset(&visitor, 0, sizeof visitor);
    visitor.module = count_parts;
    visitor.tensor = tensor;
    visitor.user = &parts;
    visitor.only_read = visitor.parallel = 1;
    status = hy_visit(b, task, &visitor);
    if (status || stream->parts) {
        hy_free(&b->env, parts.counts, task->modules.count, sizeof *parts.counts);
    } else {
        stream->parts = parts.counts;
        stream->part_count = task->modules.count;
    }
    return status;
}

hydra_status hy_parts_of(hydra_bundle *b, const hy_task *task, const uint32_t **counts) {
    if (!b->streams[task->content].parts) HY_TRY(hy_parts_read(b, task, NULL));
    *counts = b->streams[task->content].parts;
    return HYDRA_OK;
}
