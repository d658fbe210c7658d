/* Numbers of a task for a caller who writes no adapter: pairs and tensors. */
#include <string.h>

#include "factors.h"

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
    hy_tensors outs;
    hy_kinds kinds;
    hydra_status status;
    uint32_t i;
    HY_TRY(hy_task_of(b, index, &task, b->env.error));
    memset(&outs, 0, sizeof outs);
    status = hy_kinds_open(&kinds, b, task);
    if (!status) status = hy_all_tensors(b, task, 1, &outs);
    for (i = 0; i < outs.count && !status; i++) {
        const hy_tensor *x = outs.rows + i;
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
    hy_tensors_close(&outs, &b->env);
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
