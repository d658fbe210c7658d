/* Reads and checks every byte. */
#include <string.h>

#include "factors.h"

static hydra_status read_dense(void *user, uint32_t index, const hy_entry *x, const hy_dense *dense,
                               const hy_dense *common) {
    hy_parts *parts = user;
    uint8_t *data;
    (void)index;
    if (x->base.data) return HYDRA_OK; /* its numbers need the base model */
    HY_TRY(hy_dense_bytes(parts->b, x, dense, common, &data));
    hy_free(&parts->b->env, data, (uint64_t)x->rows * x->columns * HY_DTYPE_BYTES[x->dtype] + 1, 1);
    return HYDRA_OK;
}

static hydra_status verify_tensors(hydra_bundle *b) {
    size_t f;
    uint32_t i;
    for (f = 0; f < b->file_count; f++)
        for (i = 0; i < b->files[f].count; i++) {
            const uint8_t *data;
            HY_TRY(hy_file_view(&b->env, b->files + f, i, &data));
            hy_file_release(&b->env, b->files + f, i, data);
        }
    return HYDRA_OK;
}

static hydra_status verify_blobs(hydra_bundle *b) {
    uint32_t i;
    for (i = 0; i < b->blob_count; i++) {
        hy_tensors outs;
        hydra_status status;
        memset(&outs, 0, sizeof outs);
        status = hy_blob_tensors(b, b->blobs + i, &outs);
        hy_tensors_close(&outs, &b->env);
        HY_TRY(status);
    }
    return HYDRA_OK;
}

/* Reads each stream once, for the first task that has it. */
static hydra_status verify_streams(hydra_bundle *b) {
    uint8_t *seen = hy_alloc(&b->env, b->stream_count, 1);
    hydra_status status = seen ? HYDRA_OK : b->env.error->status;
    uint32_t i;
    for (i = 0; i < b->task_count && !status; i++) {
        const hy_task *task = b->tasks + i;
        if (task->content == HY_NONE || seen[task->content]) continue;
        seen[task->content] = 1;
        status = hy_parts_read(b, task, read_dense);
    }
    hy_free(&b->env, seen, b->stream_count, 1);
    return status;
}

static hydra_status verify(hydra_bundle *b) {
    int kept = b->core != NULL;
    hydra_status status;
    HY_TRY(verify_blobs(b));
    HY_TRY(verify_tensors(b));
    HY_TRY(hy_core_keep(b, 0));
    status = verify_streams(b);
    if (!kept) hy_core_close(b);
    return status;
}

hydra_status hydra_verify(hydra_bundle *b, hydra_error *error) {
    hy_call call;
    hy_enter(b, &call);
    return hy_leave(b, &call, verify(b), error);
}
