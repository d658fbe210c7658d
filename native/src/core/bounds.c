/* What a manifest may ask of its reader, by the bytes of its file: counted before it is believed.
 */
#include "bundle.h"

static uint64_t sum(uint64_t a, uint64_t b) { return a > (uint64_t)-1 - b ? (uint64_t)-1 : a + b; }

static uint64_t times(uint64_t a, uint64_t b) {
    return b && a > (uint64_t)-1 / b ? (uint64_t)-1 : a * b;
}

/* Length of the lead column of a table, 0 for what is none. */
static uint32_t rows_of(const hy_json *json, uint32_t table, const char *lead) {
    uint32_t column = table ? hy_get(json, table, lead) : 0;
    return column && hy_kind(json, column) == HY_LIST ? json->nodes[column].size : 0;
}

typedef struct {
    const hy_json *json;
    uint64_t modules, tensors;
    uint32_t blob_count, *items; /* of each blob */
} Counts;

static uint64_t of_ranges(const hy_json *json, uint32_t cell, uint64_t all) {
    uint64_t whole = 0, start = 0, stop;
    uint32_t at, i = 0;
    if (hy_kind(json, cell) != HY_LIST) return all;
    for (at = hy_first(cell); at < hy_end(json, cell); at = json->nodes[at].next, i++) {
        if (hy_kind(json, at) != HY_INT) return all;
        /* What is negative or huge is refused when it is read; here it counts for most or none. */
        if (!hy_natural(json, at, 0, (uint64_t)1 << 62, &stop))
            stop = json->text[json->nodes[at].start] == '-' ? 0 : (uint64_t)1 << 62;
        if (i & 1) whole = sum(whole, stop > start ? stop - start : 0);
        start = stop;
    }
    return whole;
}

/* Entries that a cell of a column of the tasks stands for. */
static uint64_t of_cell(const Counts *c, hy_slice name, uint32_t cell) {
    const hy_json *json = c->json;
    hy_type type = hy_kind(json, cell);
    uint64_t whole;
    uint32_t at;
    if (hy_is(name, "modules")) return of_ranges(json, cell, c->modules);
    if (hy_is(name, "tensors")) return of_ranges(json, cell, c->tensors);
    if (type != HY_LIST && type != HY_OBJECT) return 0;
    whole = json->nodes[cell].size;
    if (!hy_is(name, "carried") || type != HY_LIST) return whole;
    for (at = hy_first(cell); at < hy_end(json, cell); at = json->nodes[at].next) {
        uint64_t blob;
        if (c->blob_count && hy_natural(json, at, 0, c->blob_count - 1, &blob))
            whole = sum(whole, c->items[blob]);
    }
    return whole;
}

static uint64_t of_tasks(const Counts *c, uint32_t tasks, uint64_t names) {
    const hy_json *json = c->json;
    uint64_t whole = 0;
    uint32_t i, at;
    if (!tasks || hy_kind(json, tasks) != HY_OBJECT) return 0;
    if (!hy_get(json, tasks, "modules")) whole = times(c->modules, names);
    for (i = hy_first(tasks); i < hy_end(json, tasks); i = hy_next(json, i)) {
        hy_slice name = hy_string(json, i);
        uint32_t column = i + 1;
        uint64_t own = 0;
        int same = hy_kind(json, column) == HY_OBJECT;
        if (!same && hy_kind(json, column) != HY_LIST) continue;
        for (at = hy_first(column); at < hy_end(json, column); at = json->nodes[at].next) {
            if (same) at = json->nodes[at].next; /* from the key to its value */
            own = sum(own, of_cell(c, name, at));
        }
        whole = sum(whole, times(own, same ? names : 1));
    }
    return whole;
}

/* About the bytes of a value. */
static uint64_t weight(const hy_json *json, uint32_t node) {
    uint64_t whole = 2;
    uint32_t at;
    hy_type type = hy_kind(json, node);
    if (type == HY_STRING) return hy_length(hy_string(json, node));
    /* A whole number may have thousands of digits; others are written with two dozen at most. */
    if (type == HY_INT && json->nodes[node].size > 8) return json->nodes[node].size;
    if (type != HY_LIST && type != HY_OBJECT) return 8;
    /* The keys of an object are nodes of their own. */
    for (at = hy_first(node); at < hy_end(json, node); at = json->nodes[at].next)
        whole += weight(json, at);
    return whole;
}

hydra_status hy_count_entries(hy_env *env, const hy_json *json, const hy_json *core,
                              uint64_t *entries) {
    const hy_json *of = core ? core : json;
    uint32_t tasks = hy_get(json, 0, "tasks"), blobs = hy_get(json, 0, "blobs"), at, i = 0;
    uint64_t names;
    Counts c;
    c.json = json;
    c.modules = rows_of(of, hy_get(of, 0, "modules"), "path");
    c.tensors = rows_of(of, hy_get(of, 0, "tensors"), "key");
    c.blob_count = blobs && hy_kind(json, blobs) == HY_LIST ? json->nodes[blobs].size : 0;
    c.items = hy_alloc(env, c.blob_count, sizeof *c.items);
    if (!c.items) return env->error->status;
    names = rows_of(json, tasks, "name");
    *entries = sum(*entries, names + (core ? 0 : c.modules + c.tensors));
    for (at = blobs + 1; i < c.blob_count; at = json->nodes[at].next, i++)
        *entries += c.items[i] = rows_of(json, at, "key");
    *entries = sum(*entries, of_tasks(&c, tasks, names));
    hy_free(env, c.items, c.blob_count, sizeof *c.items);
    return HYDRA_OK;
}

hydra_status hy_check_entries(hy_env *env, uint64_t entries, uint64_t size) {
    uint64_t most = ((uint64_t)1 << 17) + 2 * size;
    HY_CHECK(
        env, entries <= most,
        "too many entries of modules, tasks and their lists for the bytes there are; got %llu, "
        "expected at most %llu",
        (unsigned long long)entries, (unsigned long long)most);
    return HYDRA_OK;
}

hydra_status hy_check_config_sizes(hy_env *env, const hy_json *json, uint64_t size) {
    uint32_t configs = hy_get(json, 0, "configs");
    uint64_t whole, most = ((uint64_t)1 << 24) + 64 * size;
    if (!configs || hy_kind(json, configs) != HY_LIST || !json->nodes[configs].size)
        return HYDRA_OK;
    whole = times(json->nodes[configs].size, weight(json, configs + 1));
    HY_CHECK(env, whole <= most,
             "too many bytes of configs for the bytes there are; got %llu, expected at most %llu",
             (unsigned long long)whole, (unsigned long long)most);
    return HYDRA_OK;
}
