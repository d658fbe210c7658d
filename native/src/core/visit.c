/* Going over a task's stream, beside what is shared: kept, or decoded along with it. */
#include <string.h>

#include "core.h"

/* What is shared, as a visit needs it: kept by the bundle, or read on. */
typedef struct {
    hydra_bundle *b;
    hy_source source;
    int open;      /* the source is */
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

/* Decodes the records of modules up to `end`; those before `first` are passed over. */
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

/* ---- chunks on several threads -------------------------------------------------------------- */

typedef struct {
    hydra_status status;
    hydra_error error;
    size_t used; /* memory that the chunk's decoder keeps */
} Outcome;

typedef struct {
    const hydra_bundle *b;
    const hy_source *source; /* before the first of the chunks */
    const hy_task *task;
    const hy_visitor *visitor;
    uint32_t first, end; /* modules */
    Outcome *outcomes;
} Work;

/* Decodes one chunk in a context of its own. */
static void decode_chunk(void *user, size_t place) {
    const Work *w = user;
    Outcome *outcome = w->outcomes + place;
    hydra_bundle context = *w->b;
    uint32_t end;
    hy_source *own;
    Shared shared;
    context.env.used = 0;
    context.env.error = &outcome->error;
    if (context.env.limits.memory) context.env.limits.memory -= w->b->env.used;
    own = hy_alloc(&context.env, 1, sizeof *own);
    outcome->status = outcome->error.status;
    if (!own) return;
    memcpy(own, w->source, offsetof(hy_source, coder));
    own->b = &context;
    outcome->status = hy_source_pass(own, (uint32_t)place);
    if (!outcome->status) outcome->status = open_shared(&shared, &context);
    if (!outcome->status) {
        end = own->record + own->left < w->end ? own->record + own->left : w->end;
        outcome->status = visit_modules(&shared, own, w->task, w->visitor, w->first, end);
        close_shared(&shared);
    }
    hy_free(&context.env, own, 1, sizeof *own);
    outcome->used = context.env.used;
}

/* The same of all chunks that hold these modules, on the caller's threads. */
static hydra_status visit_chunks(hydra_bundle *b, hy_source *own, const hy_task *task,
                                 const hy_visitor *visitor, uint32_t first, uint32_t end) {
    uint32_t count = 0, records = own->record, i;
    hydra_status status = HYDRA_OK;
    Work work;
    while (records < end) records += own->chunks[own->chunk + count++].records;
    work.b = b, work.source = own, work.task = task, work.visitor = visitor;
    work.first = first, work.end = end;
    work.outcomes = hy_alloc(&b->env, count, sizeof *work.outcomes);
    if (!work.outcomes) return b->env.error->status;
    b->env.parallel.run(b->env.parallel.user, count, decode_chunk, &work);
    for (i = 0; i < count; i++) {
        b->env.used += work.outcomes[i].used;
        if (!work.outcomes[i].status || status) continue;
        status = work.outcomes[i].status;
        *b->env.error = work.outcomes[i].error;
    }
    hy_free(&b->env, work.outcomes, count, sizeof *work.outcomes);
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

hydra_status hy_visit(hydra_bundle *b, const hy_task *task, const hy_visitor *visitor) {
    Shared *shared;
    hy_source *own;
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
    if (!status && visitor->module) status = hy_source_seek(own, visitor->first);
    if (!status && visitor->module && end > visitor->first) {
        int several = visitor->parallel && b->env.parallel.run && !shared->open &&
                      end - own->record > own->left;
        status = several ? visit_chunks(b, own, task, visitor, visitor->first, end)
                         : visit_modules(shared, own, task, visitor, visitor->first, end);
    }
    if (!status && task->tensors.count && (visitor->tensor || !visitor->module)) {
        uint32_t all = task->modules.count;
        status = hy_source_seek(own, all);
        if (!status) status = visit_modules(shared, own, task, visitor, all, all);
        own->only_read = visitor->only_read;
        if (!status) status = visit_tensors(shared, own, task, visitor);
    }
    close_shared(shared);
    hy_source_close(own);
    hy_free(&b->env, own, 1, sizeof *own);
    hy_free(&b->env, shared, 1, sizeof *shared);
    return status;
}

/* ---- the kept core -------------------------------------------------------------------------- */

static hydra_status read_core(hydra_bundle *b, hy_source *s, hy_core *core, size_t before,
                              size_t most) {
    uint32_t i;
    HY_TRY(hy_source_open(s, b, 0, b->module_count + b->entry_count));
    for (i = 0; i < b->module_count + b->entry_count; i++) {
        if (i < b->module_count)
            HY_TRY(hy_bases_read(core->modules + i, s, b->modules + i));
        else
            HY_TRY(hy_dense_read(core->tensors + (i - b->module_count), s,
                                 b->entries + (i - b->module_count), NULL, 1));
        if (most && b->env.used - before > most)
            return hy_fail(
                &b->env, HYDRA_LIMIT,
                "what is shared takes more memory than allowed; expected at most %llu bytes",
                (unsigned long long)most);
    }
    return HYDRA_OK;
}

hydra_status hy_core_keep(hydra_bundle *b, size_t most) {
    size_t before = b->env.used;
    hy_core *core;
    hy_source *s;
    hydra_status status;
    if (b->core || !has_shared(b)) return HYDRA_OK;
    s = hy_alloc(&b->env, 1, sizeof *s);
    core = s ? hy_alloc(&b->env, 1, sizeof *core) : NULL;
    if (core) core->modules = hy_alloc(&b->env, b->module_count, sizeof *core->modules);
    if (core && core->modules)
        core->tensors = hy_alloc(&b->env, b->entry_count, sizeof *core->tensors);
    status = b->env.error->status;
    if (core && core->tensors) {
        s->b = b;
        status = read_core(b, s, core, before, most);
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
