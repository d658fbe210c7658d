/* Numbers of a task for a caller who writes no adapter: pairs, tensors; and reading all of them. */
#include <string.h>

#include "adapter.h"

typedef struct {
    hydra_bundle *b;
    const hy_task *task;
    int dtype;
    hydra_dtype named;
    int (*take)(void *user, const hydra_pair *pair);
    void *user;
} Giver;

static hydra_status give_pair(void *user, uint32_t index, const hy_module *module,
                              const hy_product *product) {
    Giver *g = user;
    hydra_pair pair;
    hydra_module_info info;
    hy_factors f;
    hydra_status status = hy_factors_of(&f, &g->b->env, product, g->dtype, 1, g->task, module);
    memset(&pair, 0, sizeof pair);
    if (!status) {
        hy_module_info(g->b, g->task, index, &info);
        pair.module = &info;
        pair.index = index;
        pair.k = f.k;
        pair.dtype = g->named;
        pair.b = f.b, pair.a = f.a;
        if (g->take(g->user, &pair))
            status = hy_fail(&g->b->env, HYDRA_STOPPED, "the caller stopped at module '%.200s'",
                             module->path.data);
    }
    hy_factors_close(&f, &g->b->env, module, g->dtype);
    return status;
}

static hydra_status give_pairs(hydra_bundle *b, hydra_task index, hydra_dtype dtype,
                               int (*take)(void *user, const hydra_pair *pair), void *user) {
    const hy_task *task = NULL;
    hy_visitor visitor;
    Giver giver;
    HY_TRY(hy_task_of(b, index, &task, b->env.error));
    if (task->lossless)
        return hy_fail(&b->env, HYDRA_UNSUPPORTED,
                       "task '%s' is kept bit by bit and has no coded pairs; read its tensors",
                       task->name.data);
    giver.b = b;
    giver.task = task;
    giver.dtype = hy_dtype_of(dtype, task->dtype);
    giver.named = giver.dtype == HY_F16    ? HYDRA_F16
                  : giver.dtype == HY_BF16 ? HYDRA_BF16
                  : giver.dtype == HY_F32  ? HYDRA_F32
                                           : HYDRA_F64;
    giver.take = take;
    giver.user = user;
    visitor.module = give_pair;
    visitor.tensor = NULL;
    visitor.user = &giver;
    visitor.only_read = 0;
    return hy_visit(b, task, &visitor);
}

hydra_status hydra_pairs(hydra_bundle *b, hydra_task task, hydra_dtype dtype,
                         int (*take)(void *user, const hydra_pair *pair), void *user,
                         hydra_error *error) {
    hy_call call;
    hy_enter(b, &call);
    return hy_leave(b, &call, give_pairs(b, task, dtype, take, user), error);
}

static hydra_status give_tensors(hydra_bundle *b, hydra_task index,
                                 int (*take)(void *user, const hydra_tensor *tensor),
                                 void *user) {
    const hy_task *task = NULL;
    hy_outs outs;
    hy_kinds kinds;
    hydra_status status;
    uint32_t i;
    HY_TRY(hy_task_of(b, index, &task, b->env.error));
    memset(&outs, 0, sizeof outs);
    status = hy_kinds_open(&kinds, b, task);
    if (!status) status = hy_all_tensors(b, task, 1, &outs);
    for (i = 0; i < outs.count && !status; i++) {
        const hy_out *x = outs.rows + i;
        hydra_tensor tensor;
        if (strlen(x->name.data) != x->name.size) {
            status = hy_fail(&b->env, HYDRA_UNSUPPORTED,
                             "a tensor's name has a zero byte; got '%.200s'", x->name.data);
            break;
        }
        tensor.key = x->name.data;
        tensor.dtype = HY_DTYPES[x->dtype];
        tensor.kind = HY_EXTRA_KINDS[hy_kind_of(&kinds, x->name, NULL)];
        tensor.shape = x->shape;
        tensor.axes = x->axes;
        tensor.coded = x->half != 0;
        tensor.data = x->data;
        tensor.size = (size_t)x->size;
        if (take(user, &tensor))
            status = hy_fail(&b->env, HYDRA_STOPPED, "the caller stopped at tensor '%.200s'",
                             tensor.key);
    }
    hy_outs_close(&outs, &b->env);
    hy_kinds_close(&kinds, b);
    return status;
}

hydra_status hydra_tensors(hydra_bundle *b, hydra_task task,
                           int (*take)(void *user, const hydra_tensor *tensor), void *user,
                           hydra_error *error) {
    hy_call call;
    hy_enter(b, &call);
    return hy_leave(b, &call, give_tensors(b, task, take, user), error);
}

/* ---- verify --------------------------------------------------------------------------------- */

typedef struct {
    hydra_bundle *b;
    uint32_t *parts; /* of the modules of the stream that is read */
} Reader;

static hydra_status count_parts(void *user, uint32_t index, const hy_module *module,
                                const hy_product *product) {
    (void)module;
    ((Reader *)user)->parts[index] = product->k;
    return HYDRA_OK;
}

static hydra_status read_dense(void *user, uint32_t index, const hy_entry *x, const hy_dense *dense,
                               const hy_dense *common) {
    hydra_bundle *b = ((Reader *)user)->b;
    uint8_t *data;
    (void)index;
    if (x->base.data) return HYDRA_OK; /* its numbers need the base model */
    HY_TRY(hy_dense_bytes(b, x, dense, common, &data));
    hy_free(&b->env, data, (uint64_t)x->rows * x->columns * HY_DTYPE_BYTES[x->dtype] + 1, 1);
    return HYDRA_OK;
}

static hydra_status verify_tensors(hydra_bundle *b) {
    size_t f;
    uint32_t i;
    for (f = 0; f < b->file_count; f++)
        for (i = 0; i < b->files[f].count; i++) {
            uint8_t *data;
            HY_TRY(hy_file_read(&b->env, b->files + f, i, &data));
            hy_free(&b->env, data, b->files[f].places[i].size + 1, 1);
        }
    return HYDRA_OK;
}

static hydra_status verify_blobs(hydra_bundle *b) {
    uint32_t i;
    for (i = 0; i < b->blob_count; i++) {
        hy_outs outs;
        hydra_status status;
        memset(&outs, 0, sizeof outs);
        status = hy_blob_tensors(b, b->blobs + i, &outs);
        hy_outs_close(&outs, &b->env);
        HY_TRY(status);
    }
    return HYDRA_OK;
}

/* Each stream once, by the first task that has it, with the core kept. parts, first: as
 * hy_check_returned has them. */
static hydra_status read_streams(hydra_bundle *b, uint32_t *parts, uint32_t *first) {
    hy_visitor visitor;
    Reader reader;
    uint32_t i, used = 0;
    reader.b = b;
    visitor.module = count_parts;
    visitor.tensor = read_dense;
    visitor.user = &reader;
    visitor.only_read = 1;
    for (i = 0; i < b->stream_count; i++) first[i] = HY_NONE;
    for (i = 0; i < b->task_count; i++) {
        const hy_task *task = b->tasks + i;
        if (task->content == HY_NONE || first[task->content] != HY_NONE) continue;
        first[task->content] = used;
        reader.parts = parts + used;
        used += task->modules.count;
        HY_TRY(hy_visit(b, task, &visitor));
    }
    return HYDRA_OK;
}

static hydra_status verify_streams(hydra_bundle *b) {
    uint64_t room = 0;
    uint32_t *parts, *first, i;
    hydra_status status;
    for (i = 0; i < b->task_count; i++) room += b->tasks[i].modules.count;
    parts = hy_alloc(&b->env, room, sizeof *parts);
    first = parts ? hy_alloc(&b->env, b->stream_count, sizeof *first) : NULL;
    status = first ? read_streams(b, parts, first) : b->env.error->status;
    if (!status) status = hy_check_returned(b, parts, first);
    hy_free(&b->env, first, b->stream_count, sizeof *first);
    hy_free(&b->env, parts, room, sizeof *parts);
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
