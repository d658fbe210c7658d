/* Gives the pairs and tensors of a task to the caller. */
#include <string.h>

#include "factors.h"

typedef struct {
    const hy_task *task;
    int dtype;
    hydra_dtype named;
    int (*take)(void *user, const hydra_pair *pair);
    void *user;
} Giver;

static hydra_status give_pair(void *user, hydra_bundle *b, uint32_t index, const hy_module *module,
                              hy_product *product) {
    Giver *g = user;
    hydra_pair pair;
    hydra_module_info info;
    hy_factors f;
    hydra_status status = hy_factors_of(&f, &b->env, product, g->dtype, 1, g->task, module);
    memset(&pair, 0, sizeof pair);
    if (!status) {
        hy_module_info(b, g->task, index, &info);
        pair.module = &info;
        pair.index = index;
        pair.k = f.k;
        pair.dtype = g->named;
        pair.b = f.b, pair.a = f.a;
        if (g->take(g->user, &pair))
            status = hy_fail(&b->env, HYDRA_STOPPED, "the caller stopped at module '%.200s'",
                             module->path.data);
    }
    hy_factors_close(&f, &b->env, module, g->dtype);
    return status;
}

/* Finds a task; refuses a lossless one. */
static hydra_status coded_task(hydra_bundle *b, hydra_task index, const hy_task **task) {
    HY_TRY(hy_task_of(b, index, task, b->env.error));
    if (!(*task)->lossless) return HYDRA_OK;
    return hy_fail(&b->env, HYDRA_UNSUPPORTED,
                   "task '%s' is kept bit by bit and has no coded pairs; read its tensors",
                   (*task)->name.data);
}

static hydra_status give_pairs(hydra_bundle *b, hydra_task index, hydra_dtype dtype,
                               int (*take)(void *user, const hydra_pair *pair), void *user) {
    const hy_task *task = NULL;
    hy_visitor visitor;
    Giver giver;
    HY_TRY(coded_task(b, index, &task));
    giver.task = task;
    giver.dtype = hy_dtype_of(dtype, task->dtype);
    giver.named = giver.dtype == HY_F16    ? HYDRA_F16
                  : giver.dtype == HY_BF16 ? HYDRA_BF16
                  : giver.dtype == HY_F32  ? HYDRA_F32
                                           : HYDRA_F64;
    giver.take = take;
    giver.user = user;
    memset(&visitor, 0, sizeof visitor);
    visitor.module = give_pair;
    visitor.user = &giver;
    return hy_visit(b, task, &visitor);
}

hydra_status hydra_pairs(hydra_bundle *b, hydra_task task, hydra_dtype dtype,
                         int (*take)(void *user, const hydra_pair *pair), void *user,
                         hydra_error *error) {
    hy_call call;
    hy_enter(b, &call);
    return hy_leave(b, &call, give_pairs(b, task, dtype, take, user), error);
}

/* ---- into the caller's memory --------------------------------------------------------------- */

static hydra_status find_ranks(hydra_bundle *b, hydra_task index, const uint32_t **ranks) {
    static const uint32_t none = 0;
    const hy_task *task = NULL;
    HY_TRY(coded_task(b, index, &task));
    *ranks = &none;
    return task->content == HY_NONE ? HYDRA_OK : hy_parts_of(b, task, ranks);
}

hydra_status hydra_ranks(hydra_bundle *b, hydra_task task, const uint32_t **ranks,
                         hydra_error *error) {
    hy_call call;
    const uint32_t *found = NULL;
    hydra_status status;
    hy_enter(b, &call);
    status = hy_leave(b, &call, find_ranks(b, task, &found), error);
    if (!status) *ranks = found;
    return status;
}

typedef struct {
    const hy_task *task;
    int dtype;
    size_t first;
    hydra_factors *factors;
} Filler;

static hydra_status fill_factors(void *user, hydra_bundle *b, uint32_t index,
                                 const hy_module *module, hy_product *product) {
    Filler *f = user;
    hydra_factors *out = f->factors + (index - f->first);
    if (product->k > out->k)
        return hy_fail(&b->env, HYDRA_USAGE,
                       "module '%.200s' has more parts than there is room for; got room for %u, "
                       "expected %u",
                       module->path.data, (unsigned)out->k, (unsigned)product->k);
    out->k = product->k;
    return hy_factors_into(out->b, out->a, &b->env, product, f->dtype, 1, f->task, module);
}

static hydra_status read_factors(hydra_bundle *b, hydra_task index, size_t first, size_t count,
                                 hydra_dtype dtype, hydra_factors *factors) {
    const hy_task *task = NULL;
    hy_visitor visitor;
    Filler filler;
    HY_TRY(coded_task(b, index, &task));
    if (first > task->modules.count || count > task->modules.count - first)
        return hy_fail(&b->env, HYDRA_USAGE, "'%s' has no modules %llu to %llu; it has %u",
                       task->name.data, (unsigned long long)first,
                       (unsigned long long)first + count, (unsigned)task->modules.count);
    if (!count) return HYDRA_OK;
    filler.task = task;
    filler.dtype = hy_dtype_of(dtype, task->dtype);
    filler.first = first;
    filler.factors = factors;
    memset(&visitor, 0, sizeof visitor);
    visitor.module = fill_factors;
    visitor.user = &filler;
    visitor.parallel = 1;
    visitor.first = (uint32_t)first, visitor.count = (uint32_t)count;
    return hy_visit(b, task, &visitor);
}

hydra_status hydra_read_factors(hydra_bundle *b, hydra_task task, size_t first, size_t count,
                                hydra_dtype dtype, hydra_factors *factors, hydra_error *error) {
    hy_call call;
    hy_enter(b, &call);
    return hy_leave(b, &call, read_factors(b, task, first, count, dtype, factors), error);
}

/* ---- tensors -------------------------------------------------------------------------------- */

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
