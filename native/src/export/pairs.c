/* From a task's modules to the pairs of tensors that PEFT stores: ranks, groups, kernels. */
#include <stdlib.h>
#include <string.h>

#include "adapter.h"

static int by_key(const void *one, const void *other) {
    const hy_member *a = one, *b = other;
    int order = hy_compare(&a->key, &b->key);
    if (order) return order;
    if (a->position != b->position) return a->position < b->position ? -1 : 1;
    return a->index < b->index ? -1 : 1;
}

static hydra_status keep_text(hydra_bundle *b, hy_arena *arena, hy_text *text, hy_slice *kept) {
    char *copy = text->failed ? NULL : hy_arena_alloc(&b->env, arena, (uint64_t)text->size + 1, 1);
    if (copy) {
        if (text->size) memcpy(copy, text->data, text->size);
        kept->data = copy;
        kept->size = text->size;
    }
    hy_text_close(text);
    return copy ? HYDRA_OK : b->env.error->status;
}

/* The group, or the slot of a fused projection, which its path ends in. */
static uint64_t position_of(const hy_module *x) {
    uint64_t slot = 0;
    size_t i;
    if (x->layout != HY_ROWS || x->kind == HY_CONV) return x->group;
    i = hy_last(x->path, ':');
    for (i = i == x->path.size ? 0 : i + 1; i < x->path.size; i++)
        slot = slot * 10 + (uint64_t)(x->path.data[i] - '0');
    return slot;
}

static uint32_t groups_of(const hy_module *x, const hy_pair *pair) {
    if (pair->slots) return pair->slots;
    return x->layout == HY_ROWS || x->layout == HY_EXPERTS ? x->groups : 1;
}

static const hy_module *module_of(const hydra_bundle *b, const hy_pairs *pairs,
                                  const hy_pair *pair) {
    return b->modules + pairs->members[pair->first].module;
}

static hydra_status check_members(hydra_bundle *b, const hy_task *task, const hy_pairs *pairs,
                                  const hy_pair *pair) {
    const hy_module *first = module_of(b, pairs, pair);
    uint32_t i, groups = groups_of(first, pair);
    for (i = 0; i < pair->count; i++) {
        const hy_member *member = pairs->members + pair->first + i;
        const hy_module *x = b->modules + member->module;
        if (x->m != first->m || x->n != first->n || x->kind != first->kind ||
            x->layout != first->layout || x->groups != first->groups || x->axes != first->axes ||
            memcmp(x->tail, first->tail, sizeof x->tail) != 0 || member->position >= groups ||
            (i && member->position == member[-1].position))
            return hy_fail(&b->env, HYDRA_UNSUPPORTED,
                           "module '%.200s' of task '%s' does not fit the others of its pair",
                           x->path.data, task->name.data);
    }
    return HYDRA_OK;
}

static hydra_status open_pair(hy_pairs *pairs, hydra_bundle *b, const hy_task *task,
                              const hy_json *config, hy_pair *pair) {
    const hy_module *x = module_of(b, pairs, pair);
    hy_text text;
    uint32_t enabled;
    if (x->layout == HY_FACTOR)
        return hy_fail(
            &b->env, HYDRA_UNSUPPORTED,
            "module '%.200s' of task '%s' is a factor of a product, and no low-rank change "
            "of its own. Export it with hydraopt in the format that it came in",
            x->path.data, task->name.data);
    pair->keys[0] = pairs->members[pair->first].key;
    hy_text_open(&text, &b->env);
    hy_key_of(b, task, pairs->members[pair->first].module, 1, &text);
    HY_TRY(keep_text(b, &pairs->arena, &text, pair->keys + 1));
    hy_text_open(&text, &b->env);
    if (!hy_parse_key(&text, NULL, pair->keys[0])) {
        hy_slice stem = hy_stem(x);
        hy_put(&text, stem.data, stem.size);
    }
    HY_TRY(keep_text(b, &pairs->arena, &text, &pair->path));
    pair->scale = 1;
    if (x->layout == HY_ROWS && x->kind != HY_CONV) {
        enabled = hy_get(config, 0, "enable_lora");
        if (!enabled || hy_kind(config, enabled) != HY_LIST ||
            config->nodes[enabled].size <= pairs->members[pair->first + pair->count - 1].position)
            return hy_fail(
                &b->env, HYDRA_UNSUPPORTED,
                "PEFT has to know which parts of the fused projection '%.160s' task '%s' "
                "changes; expected enable_lora in its config. Add it and merge again",
                x->path.data, task->name.data);
        pair->slots = config->nodes[enabled].size;
    }
    return check_members(b, task, pairs, pair);
}

hydra_status hy_pairs_open(hy_pairs *pairs, hydra_bundle *b, const hy_task *task,
                           const hy_json *config) {
    uint32_t count = task->modules.count, pair, i, index = 0;
    pairs->members = hy_alloc(&b->env, count, sizeof *pairs->members);
    if (!pairs->members) return b->env.error->status;
    pairs->member_count = count;
    pairs->by_index = hy_alloc(&b->env, count, sizeof *pairs->by_index);
    if (!pairs->by_index) return b->env.error->status;
    pairs->pairs = hy_alloc(&b->env, count, sizeof *pairs->pairs);
    if (!pairs->pairs) return b->env.error->status;
    for (pair = 0; pair < task->modules.pairs; pair++)
        for (i = task->modules.bounds[2 * pair]; i < task->modules.bounds[2 * pair + 1];
             i++, index++) {
            hy_member *member = pairs->members + index;
            hy_text text;
            hy_text_open(&text, &b->env);
            hy_key_of(b, task, i, 0, &text);
            HY_TRY(keep_text(b, &pairs->arena, &text, &member->key));
            member->index = index;
            member->module = i;
            member->position = position_of(b->modules + i);
        }
    if (count) qsort(pairs->members, count, sizeof *pairs->members, by_key);
    for (i = 0; i < count; i++) {
        hy_member *member = pairs->members + i;
        if (!i || !hy_same(member->key, member[-1].key)) pairs->pairs[pairs->count++].first = i;
        member->pair = pairs->count - 1;
        pairs->pairs[member->pair].count++;
        pairs->by_index[member->index] = member;
    }
    for (i = 0; i < pairs->count; i++)
        HY_TRY(open_pair(pairs, b, task, config, pairs->pairs + i));
    return HYDRA_OK;
}

typedef struct {
    hy_pairs *pairs;
    const hy_task *task;
} Decoder;

static hydra_status decode_one(void *user, hydra_bundle *b, uint32_t index, const hy_module *module,
                               hy_product *product) {
    Decoder *d = user;
    hy_member *member = d->pairs->by_index[index];
    return hy_factors_of(&member->factors, &b->env, product, d->pairs->dtype,
                         d->pairs->pairs[member->pair].scale, d->task, module);
}

hydra_status hy_pairs_decode(hy_pairs *pairs, hydra_bundle *b, const hy_task *task) {
    hy_visitor visitor;
    Decoder decoder;
    decoder.pairs = pairs;
    decoder.task = task;
    memset(&visitor, 0, sizeof visitor);
    visitor.module = decode_one;
    visitor.user = &decoder;
    visitor.parallel = 1;
    return hy_visit(b, task, &visitor);
}

void hy_pairs_close(hy_pairs *pairs, hydra_bundle *b) {
    uint32_t i;
    for (i = 0; pairs->members && i < pairs->member_count; i++)
        hy_factors_close(&pairs->members[i].factors, &b->env, b->modules + pairs->members[i].module,
                         pairs->dtype);
    hy_free(&b->env, pairs->members, pairs->member_count, sizeof *pairs->members);
    hy_free(&b->env, pairs->by_index, pairs->member_count, sizeof *pairs->by_index);
    hy_free(&b->env, pairs->pairs, pairs->member_count, sizeof *pairs->pairs);
    hy_arena_close(&b->env, &pairs->arena);
    memset(pairs, 0, sizeof *pairs);
}

uint32_t hy_pair_multiple(const hydra_bundle *b, const hy_pairs *pairs, const hy_pair *pair) {
    const hy_module *x = module_of(b, pairs, pair);
    return x->layout == HY_ROWS && x->kind == HY_CONV ? x->groups : 1;
}

uint64_t hy_pair_least_rank(const hy_pairs *pairs, const hydra_bundle *b, const hy_pair *pair) {
    uint64_t sum = 0, most = 1;
    uint32_t i;
    for (i = 0; i < pair->count; i++) {
        uint32_t k = pairs->members[pair->first + i].factors.k;
        sum += k;
        if (k > most) most = k;
    }
    if (pair->slots) return sum ? sum : 1;
    return most * hy_pair_multiple(b, pairs, pair);
}

uint64_t hy_pair_numbers(const hydra_bundle *b, const hy_pairs *pairs, const hy_pair *pair) {
    const hy_module *x = module_of(b, pairs, pair);
    uint64_t groups = groups_of(x, pair);
    uint64_t row = groups * x->m + (uint64_t)x->n * (pair->slots ? 1 : groups);
    return pair->rank > ((uint64_t)1 << 62) / row ? (uint64_t)1 << 62 : pair->rank * row;
}

hydra_status hy_check_room(hydra_bundle *b, const hy_task *task, uint64_t numbers) {
    uint64_t most = (uint64_t)1 << 23;
    size_t i;
    for (i = 0; i < b->file_count; i++) most += 512 * b->files[i].reader.size;
    if (numbers > most)
        return hy_fail(&b->env, HYDRA_UNSUPPORTED,
                       "task '%s' would be far larger than its bundle warrants; got %llu numbers, "
                       "expected at most %llu. Merge the originals again",
                       task->name.data, (unsigned long long)numbers, (unsigned long long)most);
    return HYDRA_OK;
}

/* Rank of one group. */
static uint64_t each_of(const hy_module *x, const hy_pair *pair) {
    return x->layout == HY_EXPERTS ? pair->rank : pair->rank / groups_of(x, pair);
}

uint32_t hy_pair_shape(const hydra_bundle *b, const hy_pairs *pairs, const hy_pair *pair, int half,
                       uint64_t *sizes) {
    const hy_module *x = module_of(b, pairs, pair);
    uint64_t groups = groups_of(x, pair), each = each_of(x, pair), kernel = 1;
    uint32_t i;
    if (pair->slots) {
        sizes[0] = half ? groups * x->m : pair->rank;
        sizes[1] = half ? pair->rank : x->n;
        return 2;
    }
    if (half) {
        sizes[0] = x->layout == HY_EXPERTS ? x->m : groups * x->m;
        sizes[1] = x->layout == HY_EXPERTS ? each * groups : each;
        for (i = 0; i < x->axes && x->layout != HY_EXPERTS; i++) sizes[2 + i] = 1;
        return x->layout == HY_EXPERTS ? 2 : 2 + x->axes;
    }
    sizes[0] = groups * each;
    for (i = 0; i < x->axes && x->layout != HY_EXPERTS; i++) {
        sizes[2 + i] = x->tail[i];
        kernel *= x->tail[i];
    }
    sizes[1] = x->n / kernel;
    return x->layout == HY_EXPERTS ? 2 : 2 + x->axes;
}

void hy_pair_fill(const hydra_bundle *b, const hy_pairs *pairs, const hy_pair *pair, int half,
                  uint8_t *out) {
    const hy_module *x = module_of(b, pairs, pair);
    size_t size = HY_DTYPE_BYTES[pairs->dtype], i, r;
    uint64_t groups = groups_of(x, pair), each = each_of(x, pair), row = 0, to;
    uint32_t j;
    for (j = 0; j < pair->count; j++) {
        const hy_member *member = pairs->members + pair->first + j;
        const hy_factors *f = &member->factors;
        uint64_t g = member->position;
        if (!half) {
            to = pair->slots ? row : g * each;
            if (f->k) memcpy(out + to * x->n * size, f->a, (size_t)f->k * x->n * size);
        } else if (x->layout == HY_EXPERTS) {
            for (i = 0; i < x->m; i++)
                for (r = 0; r < f->k; r++)
                    memcpy(out + (i * each * groups + r * groups + g) * size,
                           f->b + (i * f->k + r) * size, size);
        } else {
            uint64_t width = pair->slots ? pair->rank : each, from = pair->slots ? row : 0;
            for (i = 0; i < x->m && f->k; i++)
                memcpy(out + ((g * x->m + i) * width + from) * size, f->b + i * f->k * size,
                       f->k * size);
        }
        row += f->k;
    }
}

hydra_status hy_pairs_tensors(const hy_pairs *pairs, hydra_bundle *b, hy_tensors *outs) {
    uint32_t i;
    int half;
    for (i = 0; i < pairs->count; i++)
        for (half = 0; half < 2; half++) {
            uint64_t sizes[10];
            uint32_t axes = hy_pair_shape(b, pairs, pairs->pairs + i, half, sizes);
            hy_tensor *out;
            HY_TRY(hy_tensors_add(outs, &b->env, pairs->pairs[i].keys[half], pairs->dtype, sizes,
                                  axes, &out));
            out->pair = i;
            out->half = (uint32_t)half;
        }
    return HYDRA_OK;
}
