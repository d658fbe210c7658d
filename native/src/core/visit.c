/* Decodes a task's stream together with the shared one, unless the core is kept. */
#include <string.h>

#include "core.h"

/* Access to the shared stream during a visit. */
typedef struct {
    hydra_bundle *b;
    hy_source source;
    int open;       /* whether `source` is; 0 if the core is kept */
    hy_bases bases; /* of the module that was read last */
    hy_dense dense; /* of the tensor that was read last */
} Shared;

static int has_shared(const hydra_bundle *b) {
    return b->files[b->streams->file].places[b->streams->tensor].size > 0;
}

static hydra_status open_shared(Shared *shared, hydra_bundle *b) {
    memset(shared, 0, offsetof(Shared, source));
    memset(&shared->bases, 0, sizeof shared->bases);
    memset(&shared->dense, 0, sizeof shared->dense);
    shared->b = b;
    shared->open = 0;
    if (b->core || !has_shared(b)) return HYDRA_OK;
    shared->open = 1;
    memset(&shared->source, 0, offsetof(hy_source, coder));
    shared->source.b = b;
    return hy_source_open(&shared->source, b, 0, b->module_count + b->entry_count);
}

static void close_shared(Shared *shared) {
    hy_bases_close(&shared->bases, &shared->b->env);
    hy_dense_close(&shared->dense, &shared->b->env);
    if (shared->open) hy_source_close(&shared->source);
}

static hydra_status bases_of(Shared *shared, uint32_t module, const hy_bases **bases) {
    hydra_bundle *b = shared->b;
    *bases = NULL;
    if (b->core) *bases = b->core->modules + module;
    if (!shared->open) return HYDRA_OK;
    HY_TRY(hy_source_seek(&shared->source, module));
    while (shared->source.record <= module) {
        hy_bases_close(&shared->bases, &b->env);
        HY_TRY(hy_bases_read(&shared->bases, &shared->source, b->modules + shared->source.record));
    }
    *bases = &shared->bases;
    return HYDRA_OK;
}

static hydra_status common_of(Shared *shared, uint32_t tensor, const hy_dense **common) {
    hydra_bundle *b = shared->b;
    uint32_t record = b->module_count + tensor;
    hy_source *s = &shared->source;
    *common = NULL;
    if (b->core) *common = b->core->tensors + tensor;
    if (!shared->open) return HYDRA_OK;
    HY_TRY(hy_source_seek(s, record));
    while (s->record <= record) {
        hy_bases_close(&shared->bases, &b->env);
        hy_dense_close(&shared->dense, &b->env);
        if (s->record < b->module_count)
            HY_TRY(hy_bases_read(&shared->bases, s, b->modules + s->record));
        else
            HY_TRY(hy_dense_read(&shared->dense, s, b->entries + (s->record - b->module_count),
                                 NULL, 1));
    }
    *common = &shared->dense;
    return HYDRA_OK;
}

/* Decodes the records of modules up to `end`, and calls the visitor from `first` on. */
static hydra_status visit_modules(Shared *shared, hy_source *own, const hy_task *task,
                                  const hy_visitor *visitor, uint32_t first, uint32_t end) {
    hydra_bundle *b = shared->b;
    uint32_t pair, i, index = 0;
    for (pair = 0; pair < task->modules.pairs && index < end; pair++) {
        uint32_t start = task->modules.bounds[2 * pair], stop = task->modules.bounds[2 * pair + 1];
        for (i = start; i < stop && index < end; i++, index++) {
            const hy_module *x = b->modules + i;
            const hy_bases *bases;
            hy_product product;
            hydra_status status;
            if (index < own->record) continue;
            own->only_read = visitor->only_read || index < first;
            HY_TRY(bases_of(shared, i, &bases));
            status = hy_product_read(&product, own, x->m, x->n, bases);
            if (!status) status = hy_source_end_record(own);
            if (!status && visitor->module && index >= first)
                status = visitor->module(visitor->user, b, index, x, &product);
            hy_product_close(&product, &b->env);
            if (status) return status;
        }
    }
    return HYDRA_OK;
}

typedef struct {
    const hy_task *task;
    const hy_visitor *visitor;
} Visit;

/* Decodes the modules of one chunk; the core is kept, or there is none. */
static hydra_status visit_span(void *user, hydra_bundle *b, hy_source *own, uint32_t end) {
    const Visit *visit = user;
    Shared shared;
    hydra_status status = open_shared(&shared, b);
    if (!status)
        status = visit_modules(&shared, own, visit->task, visit->visitor, visit->visitor->first,
                               end);
    close_shared(&shared);
    return status;
}

static hydra_status visit_tensors(Shared *shared, hy_source *own, const hy_task *task,
                                  const hy_visitor *visitor) {
    hydra_bundle *b = shared->b;
    uint32_t pair, i, index = 0;
    for (pair = 0; pair < task->tensors.pairs; pair++)
        for (i = task->tensors.bounds[2 * pair]; i < task->tensors.bounds[2 * pair + 1]; i++) {
            const hy_entry *x = b->entries + i;
            const hy_dense *common;
            hy_dense dense;
            hydra_status status;
            HY_TRY(common_of(shared, i, &common));
            status = hy_dense_read(&dense, own, x, common, 0);
            if (!status && visitor->tensor)
                status = visitor->tensor(visitor->user, index, x, &dense, common);
            hy_dense_close(&dense, &b->env);
            if (status) return status;
            index++;
        }
    return HYDRA_OK;
}

/* Prepares the source for sides over an initial A. */
static hydra_status open_start(hydra_bundle *b, hy_source *own, const hy_task *task,
                               const hy_visitor *visitor, hy_states **states) {
    own->start_numbers = task->start_numbers;
    if (!task->start_numbers || visitor->only_read || !visitor->module) return HYDRA_OK;
    HY_TRY(hy_states_open(b, task, states));
    own->generator.states = *states;
    return HYDRA_OK;
}

hydra_status hy_visit(hydra_bundle *b, const hy_task *task, const hy_visitor *visitor) {
    Shared *shared;
    hy_source *own;
    hy_states *states = NULL;
    hydra_status status;
    uint32_t end = visitor->count ? visitor->first + visitor->count : task->modules.count;
    if (task->content == HY_NONE) return HYDRA_OK;
    shared = hy_alloc(&b->env, 1, sizeof *shared);
    own = shared ? hy_alloc(&b->env, 1, sizeof *own) : NULL;
    if (!own) {
        hy_free(&b->env, shared, 1, sizeof *shared);
        return b->env.error->status;
    }
    own->b = b;
    status = open_shared(shared, b);
    if (!status)
        status = hy_source_open(own, b, task->content, task->modules.count + task->tensors.count);
    if (!status) status = open_start(b, own, task, visitor, &states);
    if (!status && visitor->module) status = hy_source_seek(own, visitor->first);
    if (!status && visitor->module && end > visitor->first) {
        Visit visit;
        visit.task = task, visit.visitor = visitor;
        status = visitor->parallel && !shared->open
                     ? hy_each_chunk(b, own, end, visit_span, &visit)
                     : visit_modules(shared, own, task, visitor, visitor->first, end);
    }
    if (!status && task->tensors.count && (visitor->tensor || !visitor->module)) {
        uint32_t all = task->modules.count;
        status = hy_source_seek(own, all);
        if (!status) status = visit_modules(shared, own, task, visitor, all, all);
        own->only_read = visitor->only_read;
        own->start_numbers = 0; /* parts of a tensor state no mode */
        if (!status) status = visit_tensors(shared, own, task, visitor);
    }
    hy_states_close(b, states);
    close_shared(shared);
    hy_source_close(own);
    hy_free(&b->env, own, 1, sizeof *own);
    hy_free(&b->env, shared, 1, sizeof *shared);
    return status;
}

/* ---- the kept core -------------------------------------------------------------------------- */

typedef struct {
    hy_core *core;
    size_t before, most; /* bytes in use before; largest number of further bytes, 0 for any */
} Keeper;

static hydra_status read_span(void *user, hydra_bundle *b, hy_source *own, uint32_t end) {
    const Keeper *k = user;
    while (own->record < end) {
        uint32_t i = own->record;
        if (i < b->module_count)
            HY_TRY(hy_bases_read(k->core->modules + i, own, b->modules + i));
        else
            HY_TRY(hy_dense_read(k->core->tensors + (i - b->module_count), own,
                                 b->entries + (i - b->module_count), NULL, 1));
        if (k->most && b->env.used - k->before > k->most)
            return hy_fail(
                &b->env, HYDRA_LIMIT,
                "what is shared takes more memory than allowed; expected at most %llu bytes",
                (unsigned long long)k->most);
    }
    return HYDRA_OK;
}

static hydra_status read_core(hydra_bundle *b, hy_source *s, Keeper *keeper) {
    uint32_t records = b->module_count + b->entry_count;
    HY_TRY(hy_source_open(s, b, 0, records));
    /* A bound counts the bytes of all chunks, so they are decoded one after another. */
    return keeper->most ? read_span(keeper, b, s, records)
                        : hy_each_chunk(b, s, records, read_span, keeper);
}

hydra_status hy_core_keep(hydra_bundle *b, size_t most) {
    Keeper keeper;
    hy_core *core;
    hy_source *s;
    hydra_status status;
    if (b->core || !has_shared(b)) return HYDRA_OK;
    keeper.before = b->env.used;
    s = hy_alloc(&b->env, 1, sizeof *s);
    core = s ? hy_alloc(&b->env, 1, sizeof *core) : NULL;
    if (core) core->modules = hy_alloc(&b->env, b->module_count, sizeof *core->modules);
    if (core && core->modules)
        core->tensors = hy_alloc(&b->env, b->entry_count, sizeof *core->tensors);
    status = b->env.error->status;
    if (core && core->tensors) {
        s->b = b;
        keeper.core = core, keeper.most = most;
        status = read_core(b, s, &keeper);
        hy_source_close(s);
    }
    b->core = core;
    if (status) hy_core_close(b);
    hy_free(&b->env, s, 1, sizeof *s);
    return status;
}

hydra_status hydra_keep_core(hydra_bundle *b, size_t most, hydra_error *error) {
    hy_call call;
    hy_enter(b, &call);
    b->drop_core = 0;
    return hy_leave(b, &call, hy_core_keep(b, most), error);
}

void hydra_drop_core(hydra_bundle *b) {
    b->drop_core = b->calls > 0;
    if (!b->calls) hy_core_close(b);
}

void hy_core_close(hydra_bundle *b) {
    hy_core *core = b->core;
    uint32_t i;
    if (!core || (b->origin && core == b->origin->core)) return;
    for (i = 0; core->modules && i < b->module_count; i++)
        hy_bases_close(core->modules + i, &b->env);
    for (i = 0; core->tensors && i < b->entry_count; i++)
        hy_dense_close(core->tensors + i, &b->env);
    hy_free(&b->env, core->modules, b->module_count, sizeof *core->modules);
    hy_free(&b->env, core->tensors, b->entry_count, sizeof *core->tensors);
    hy_free(&b->env, core, 1, sizeof *core);
    b->core = NULL;
}
