/* Reads the column `ranks`: ranks and scales that an export of a task keeps, by module. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bundle.h"

static int read_size(const hy_json *json, uint32_t node, hy_kept *kept) {
    uint64_t rank;
    if (!hy_natural(json, node, 0, ((uint64_t)1 << 31) - 1, &rank) ||
        hy_kind(json, node + 1) < HY_INT || !hy_number(json, node + 1, &kept->scale) ||
        !(kept->scale - kept->scale == 0))
        return 0;
    kept->rank = (uint32_t)rank;
    return 1;
}

/* Whether a node is a list of `size` values that have no children: one node each. */
static int is_row(const hy_json *json, uint32_t node, uint32_t size) {
    return hy_kind(json, node) == HY_LIST && json->nodes[node].size == size &&
           hy_end(json, node) == node + 1 + size;
}

hydra_status hy_ranks_read(hydra_bundle *b, const hy_json *json, uint32_t node, hy_task *x) {
    uint32_t size, i, at;
    uint64_t module, least = 0;
    hy_kept *kept;
    if (!node || hy_kind(json, node) == HY_NULL) return HYDRA_OK;
    size = hy_kind(json, node) == HY_LIST ? json->nodes[node].size : 0;
    HY_CHECK(&b->env, size >= 2 && !x->lossless && json->nodes[node + 1].next == node + 2,
             "manifest: ranks of '%s' are no list of a coded task", x->name.data);
    kept = hy_arena_alloc(&b->env, &b->arena, size, sizeof *kept);
    if (!kept) return b->env.error->status;
    HY_CHECK(&b->env, read_size(json, node + 1, kept),
             "manifest: ranks of '%s' make no sense", x->name.data);
    for (i = 1, at = json->nodes[node + 2].next; i < size - 1; i++, at = json->nodes[at].next) {
        hy_kept *row = kept + i;
        HY_CHECK(&b->env,
                 is_row(json, at, 3) && b->module_count &&
                     hy_natural(json, at + 1, least, b->module_count - 1, &module) &&
                     hy_has_index(&x->modules, (uint32_t)module) && read_size(json, at + 2, row) &&
                     !(row->rank == kept->rank && row->scale == kept->scale),
                 "manifest: ranks of '%s' have a row that is no [module, rank, scale] of its own",
                 x->name.data);
        row->module = (uint32_t)module;
        least = module + 1;
    }
    x->kept = kept;
    x->kept_count = size - 1;
    return HYDRA_OK;
}

static int by_module(const void *key, const void *row) {
    uint32_t a = *(const uint32_t *)key, b = ((const hy_kept *)row)->module;
    return a < b ? -1 : a > b;
}

const hy_kept *hy_kept_of(const hy_task *task, uint32_t module) {
    const hy_kept *row = NULL;
    if (task->kept_count > 1)
        row = bsearch(&module, task->kept + 1, task->kept_count - 1, sizeof *row, by_module);
    return row ? row : task->kept;
}
