/* Decodes the chunks of a stream on the caller's threads. */
#include <string.h>

#include "core.h"

typedef struct {
    hydra_status status;
    hydra_error error;
    size_t used; /* bytes that the decoded chunk keeps */
} Outcome;

typedef struct {
    const hydra_bundle *b;
    const hy_source *source; /* before the first of the chunks */
    uint32_t end;
    hy_span *span;
    void *user;
    Outcome *outcomes;
} Work;

static void decode_chunk(void *user, size_t place) {
    const Work *w = user;
    Outcome *outcome = w->outcomes + place;
    hydra_bundle context = *w->b;
    hy_source *own;
    context.env.used = 0;
    context.env.error = &outcome->error;
    if (context.env.limits.memory) {
        size_t left = context.env.limits.memory - w->b->env.used;
        context.env.limits.memory = left ? left : 1; /* 0 would be no limit */
    }
    own = hy_alloc(&context.env, 1, sizeof *own);
    outcome->status = outcome->error.status;
    if (!own) return;
    memcpy(own, w->source, offsetof(hy_source, coder));
    own->b = &context;
    outcome->status = hy_source_pass(own, (uint32_t)place);
    if (!outcome->status) {
        uint32_t end = own->record + own->left < w->end ? own->record + own->left : w->end;
        outcome->status = w->span(w->user, &context, own, end);
    }
    hy_free(&context.env, own, 1, sizeof *own);
    outcome->used = context.env.used;
}

hydra_status hy_each_chunk(hydra_bundle *b, hy_source *own, uint32_t end, hy_span *span,
                           void *user) {
    uint32_t count = 0, records = own->record, i;
    hydra_status status = HYDRA_OK;
    Work work;
    if (!b->env.parallel.run || end - own->record <= own->left) return span(user, b, own, end);
    while (records < end) records += own->chunks[own->chunk + count++].records;
    work.b = b, work.source = own, work.end = end;
    work.span = span, work.user = user;
    work.outcomes = hy_alloc(&b->env, count, sizeof *work.outcomes);
    if (!work.outcomes) return b->env.error->status;
    b->env.parallel.run(b->env.parallel.user, count, decode_chunk, &work);
    for (i = 0; i < count; i++) {
        b->env.used += work.outcomes[i].used;
        if (!work.outcomes[i].status || status) continue;
        status = work.outcomes[i].status; /* of the first chunk that failed */
        *b->env.error = work.outcomes[i].error;
    }
    hy_free(&b->env, work.outcomes, count, sizeof *work.outcomes);
    return status;
}
