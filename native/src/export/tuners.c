/* A task of another tuner than LoRA, as PEFT holds it: the same settings, names and shapes. Ranks
 * and scales stay those of the config; a factor of less rank is padded with zeros. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapter.h"

#define KEY_PREFIX "base_model.model."

static hydra_status cannot_hold(hydra_bundle *b, const hy_task *task, const char *what,
                                hy_slice path) {
    return hy_fail(
        &b->env, HYDRA_UNSUPPORTED,
        "task '%s', module '%.160s' cannot be written as a PEFT adapter: %s. Merge it with "
        "--lossless, or leave it out",
        task->name.data, path.data, what);
}

typedef struct {
    hydra_bundle *b;
    const hy_task *task;
    hy_tensors *outs;
    int dtype, adalora;
    const char *const *names; /* B and A of w1, then of w2; or NULL */
    hy_set first;             /* stems of the products whose first factor the task has */
    const uint32_t *parts;    /* of each module, if no number is wanted */
    uint64_t numbers;
} Tuner;

/* Adds a tensor of `rows` x `columns` numbers, all zeros. */
static hydra_status add(Tuner *t, hy_slice inner, const char *part, uint64_t rows, uint64_t columns,
                        hy_tensor **out) {
    uint64_t shape[2];
    hy_text name;
    hy_slice slice;
    hydra_status status;
    shape[0] = rows, shape[1] = columns;
    t->numbers += rows * columns;
    HY_TRY(hy_check_room(t->b, t->task, t->numbers));
    hy_text_open(&name, &t->b->env);
    hy_puts(&name, KEY_PREFIX);
    hy_put(&name, inner.data, inner.size);
    hy_puts(&name, ".");
    hy_puts(&name, part);
    slice.data = name.data, slice.size = name.size;
    status = name.failed ? t->b->env.error->status
                         : hy_tensors_add(t->outs, &t->b->env, slice, t->dtype, shape, 2, out);
    hy_text_close(&name);
    if (status || t->parts) return status;
    (*out)->data = hy_alloc(&t->b->env, (*out)->size + 1, 1);
    if (!(*out)->data) return t->b->env.error->status;
    (*out)->data_room = (*out)->size + 1;
    return HYDRA_OK;
}

/* The name of the factor, w1 or w2, that a path ends in: 0 or 1; -1 for none. */
static int factor_of(hy_slice path) {
    size_t at = hy_find_text(path, "::w", 0);
    if (at + 3 >= path.size) return -1;
    if (at + 4 < path.size && path.data[at + 4] != '.') return -1;
    return path.data[at + 3] == '1' ? 0 : path.data[at + 3] == '2' ? 1 : -1;
}

/* The stems of first factors, which have the scale of their product. */
static hydra_status find_first(Tuner *t) {
    const hy_ranges *ranges = &t->task->modules;
    uint32_t pair, i;
    t->first.texts = hy_alloc(&t->b->env, ranges->count, sizeof *t->first.texts);
    if (!t->first.texts) return t->b->env.error->status;
    for (pair = 0; pair < ranges->pairs; pair++)
        for (i = ranges->bounds[2 * pair]; i < ranges->bounds[2 * pair + 1]; i++)
            if (!t->b->modules[i].group)
                t->first.texts[t->first.count++] = hy_stem(t->b->modules + i);
    hy_unique(t->first.texts, t->first.count);
    return HYDRA_OK;
}

static hydra_status one_module(void *user, hydra_bundle *b, uint32_t index, const hy_module *x,
                               hy_product *product) {
    Tuner *t = user;
    size_t size = HY_DTYPE_BYTES[t->dtype], i;
    uint64_t rank;
    double scale;
    const hy_kept *kept = hy_kept_of(t->task, (uint32_t)(x - t->b->modules));
    int factor = factor_of(x->path);
    hy_text key, settings, inner_text;
    hy_slice inner;
    hy_tensor *out;
    hy_factors f;
    hydra_status status;
    (void)b, (void)index;
    if (t->adalora ? x->layout != HY_PLAIN || x->kind != HY_LINEAR
                   : !t->names || x->layout != HY_FACTOR || factor < 0)
        return cannot_hold(t->b, t->task, "the tuner has no such module", x->path);
    if (!kept)
        return cannot_hold(t->b, t->task, "the bundle does not state the ranks of its modules",
                           x->path);
    rank = kept->rank, scale = kept->scale;
    hy_text_open(&key, &t->b->env), hy_text_open(&settings, &t->b->env);
    hy_text_open(&inner_text, &t->b->env);
    status = hy_key_of(t->b, t->task, (uint32_t)(x - t->b->modules), 0, &key);
    inner.data = key.data, inner.size = key.size;
    if (!status && !hy_parse_key(&settings, &inner_text, inner) && !settings.failed)
        status = cannot_hold(t->b, t->task, "the name of a tensor is none of PEFT's", x->path);
    hy_put(&inner_text, "", 1);
    if (!status && (settings.failed || inner_text.failed)) status = t->b->env.error->status;
    inner.data = inner_text.data, inner.size = inner_text.size ? inner_text.size - 1 : 0;
    if (x->group && hy_set_has(&t->first, hy_stem(x))) scale = 1;
    if (!status && product->k > rank)
        status =
            cannot_hold(t->b, t->task, "a module has more parts than its config's rank", x->path);
    memset(&f, 0, sizeof f);
    if (!status && !t->parts)
        status = hy_factors_of(&f, &t->b->env, product, t->dtype, scale, t->task, x);
    if (!status)
        status = add(t, inner, t->adalora ? "lora_A" : t->names[2 * factor + 1], rank, x->n, &out);
    if (!status && f.k) memcpy(out->data, f.a, (size_t)f.k * x->n * size);
    if (!status)
        status = add(t, inner, t->adalora ? "lora_B" : t->names[2 * factor], x->m, rank, &out);
    for (i = 0; !status && f.k && i < x->m; i++)
        memcpy(out->data + i * rank * size, f.b + i * f.k * size, f.k * size);
    if (!status && t->adalora) {
        double one = 1;
        status = add(t, inner, "lora_E", rank, 1, &out);
        for (i = 0; !status && !t->parts && i < rank; i++)
            hy_store(t->dtype, &one, 1, 1, out->data + i * size);
    }
    hy_factors_close(&f, &t->b->env, x, t->dtype);
    hy_text_close(&key), hy_text_close(&settings), hy_text_close(&inner_text);
    return status;
}

/* Goes over the modules, of which only the numbers of parts are known. */
static hydra_status each_header(Tuner *t) {
    uint32_t i;
    for (i = 0; i < t->task->modules.count; i++) {
        const hy_module *x = t->b->modules + hy_nth(&t->task->modules, i);
        hy_product product;
        memset(&product, 0, sizeof product);
        product.m = x->m, product.n = x->n, product.k = t->parts[i];
        HY_TRY(one_module(t, t->b, i, x, &product));
    }
    return HYDRA_OK;
}

hydra_status hy_tuner_tensors(hydra_bundle *b, const hy_task *task, const hy_json *config,
                              int dtype, const uint32_t *parts, hy_tensors *outs) {
    static const char *const loha[] = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"};
    static const char *const lokr[] = {"lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"};
    hy_slice name = hy_tuner(config);
    hy_visitor visitor;
    hydra_status status;
    Tuner t;
    memset(&t, 0, sizeof t);
    t.b = b, t.task = task, t.outs = outs, t.dtype = dtype;
    t.parts = parts;
    t.adalora = hy_is(name, "ADALORA");
    t.names = hy_is(name, "LOHA") ? loha : hy_is(name, "LOKR") ? lokr : NULL;
    memset(&visitor, 0, sizeof visitor);
    visitor.module = one_module;
    visitor.user = &t;
    status = t.adalora ? HYDRA_OK : find_first(&t);
    if (!status && task->modules.count)
        status = parts ? each_header(&t) : hy_visit(b, task, &visitor);
    hy_free(&b->env, t.first.texts, task->modules.count, sizeof *t.first.texts);
    return status ? status : hy_all_tensors(b, task, 0, outs);
}
