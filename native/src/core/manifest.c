/* Modules, coded tensors, blobs and configs of a manifest. */
#include <stdio.h>
#include <string.h>

#include "bundle.h"

enum { MOST_ROWS = 1000000 };

/* The text behind the last "::" of a path, or the whole path. */
static hy_slice behind_colons(hy_slice path) {
    size_t i;
    hy_slice end = path;
    for (i = 0; i + 1 < path.size; i++)
        if (path.data[i] == ':' && path.data[i + 1] == ':') {
            end.data = path.data + i + 2;
            end.size = path.size - i - 2;
        }
    return end;
}

/* A fused projection's slot stands at the path's end; a factor's name and size do. */
static int path_fits(const hy_module *x) {
    hy_slice end = behind_colons(x->path);
    size_t i, stem = 0;
    char name[80];
    if (x->layout == HY_ROWS && x->kind != HY_CONV) {
        for (i = 0; i < end.size; i++)
            if (end.data[i] < '0' || end.data[i] > '9') return 0;
        return end.size > 0 && end.size <= 7;
    }
    if (x->layout != HY_FACTOR) return 1;
    while (stem + 1 < x->path.size && !(x->path.data[stem] == ':' && x->path.data[stem + 1] == ':'))
        stem++;
    if (x->kind != HY_LINEAR || x->groups != 2 || !stem || stem + 2 > x->path.size) return 0;
    end.data = x->path.data + stem;
    end.size = x->path.size - stem;
    snprintf(name, sizeof name, "::w%u.%ux%u", (unsigned)x->group + 1, (unsigned)x->m,
             (unsigned)x->n);
    if (hy_is(end, name)) return 1;
    *strchr(name, '.') = 0;
    return hy_is(end, name);
}

enum { PATH, KIND, M, N, LAYOUT, GROUP, GROUPS, TAIL, MODULE_COLUMNS };

static hydra_status read_tail(hydra_bundle *b, const hy_json *json, uint32_t node, hy_module *x) {
    uint64_t size, product = 1;
    uint32_t at, count = node ? json->nodes[node].size : 0;
    HY_CHECK(&b->env, !node || (hy_kind(json, node) == HY_LIST && count <= 8),
             "manifest: the kernel of '%s' is no list of at most 8 sizes", x->path.data);
    for (at = hy_first(node); x->axes < count; at = json->nodes[at].next) {
        HY_CHECK(&b->env, hy_natural(json, at, 1, (uint64_t)1 << 24, &size),
                 "manifest: the kernel of '%s' has a size that is none", x->path.data);
        if (product <= x->n) product *= size;
        x->tail[x->axes++] = (uint32_t)size;
    }
    HY_CHECK(&b->env, (x->kind == HY_CONV) == (count > 0) && product <= x->n && x->n % product == 0,
             "manifest: the kernel of '%s' does not divide n, or it is no convolution",
             x->path.data);
    return HYDRA_OK;
}

static hydra_status read_module(hydra_bundle *b, const hy_json *json, const hy_column *c,
                                hy_module *x) {
    uint64_t m, n, group = 0, groups = 1;
    int kind = 0, layout = 0;
    HY_CHECK(&b->env, hy_is_text(json, c[PATH].at, 0),
             "manifest: a module's path is no text of 1 to 4096 characters, none hidden");
    x->path = hy_string(json, c[PATH].at);
    if (c[KIND].at)
        kind = hy_kind(json, c[KIND].at) == HY_STRING
                   ? hy_one_of(hy_string(json, c[KIND].at), HY_MODULE_KINDS) : -1;
    if (c[LAYOUT].at)
        layout = hy_kind(json, c[LAYOUT].at) == HY_STRING
                     ? hy_one_of(hy_string(json, c[LAYOUT].at), HY_LAYOUTS) : -1;
    HY_CHECK(&b->env, kind >= 0 && layout >= 0, "manifest: kind or layout of '%s' is not known",
             x->path.data);
    HY_CHECK(&b->env,
             c[M].at && c[N].at && hy_natural(json, c[M].at, 1, (uint64_t)1 << 24, &m) &&
                 hy_natural(json, c[N].at, 1, (uint64_t)1 << 24, &n),
             "manifest: m or n of '%s' is not one of 1 to 2^24", x->path.data);
    HY_CHECK(&b->env,
             (!c[GROUPS].at || hy_natural(json, c[GROUPS].at, 1, (uint64_t)1 << 20, &groups)) &&
                 (!c[GROUP].at || hy_natural(json, c[GROUP].at, 0, groups - 1, &group)) &&
                 group < groups,
             "manifest: group or groups of '%s' make no sense", x->path.data);
    x->m = (uint32_t)m, x->n = (uint32_t)n;
    x->group = (uint32_t)group, x->groups = (uint32_t)groups;
    x->kind = (uint8_t)kind, x->layout = (uint8_t)layout;
    HY_TRY(read_tail(b, json, c[TAIL].at, x));
    HY_CHECK(&b->env, path_fits(x), "manifest: the path '%s' does not fit its layout",
             x->path.data);
    return HYDRA_OK;
}

/* Whether no path or name of `count` rows of `size` bytes, at whose start a slice is, occurs twice.
 */
static hydra_status check_apart(hy_env *env, const void *rows, uint32_t count, size_t size,
                                const char *what) {
    hy_slice *names = hy_alloc(env, count, sizeof *names);
    uint32_t i;
    int apart;
    if (!names) return env->error->status;
    for (i = 0; i < count; i++) memcpy(names + i, (const char *)rows + i * size, sizeof *names);
    apart = hy_unique(names, count);
    hy_free(env, names, count, sizeof *names);
    HY_CHECK(env, apart, "manifest: %s occur twice", what);
    return HYDRA_OK;
}

hydra_status hy_read_modules(hydra_bundle *b, const hy_json *json, uint32_t table) {
    hy_column c[] = {{"path", 0, 0}, {"kind", 0, 0}, {"m", 0, 0}, {"n", 0, 0}, {"layout", 0, 0},
                     {"group", 0, 0}, {"groups", 0, 0}, {"a_tail", 0, 0}, {NULL, 0, 0}};
    uint32_t i, rows;
    HY_TRY(hy_table_open(&b->env, json, table, c, MOST_ROWS, "modules", &rows));
    b->modules = hy_arena_alloc(&b->env, &b->arena, (uint64_t)rows + 1, sizeof *b->modules);
    if (!b->modules) return b->env.error->status;
    b->module_count = rows;
    for (i = 0; i < rows; i++, hy_table_next(json, c))
        HY_TRY(read_module(b, json, c, b->modules + i));
    return check_apart(&b->env, b->modules, rows, sizeof *b->modules, "module paths");
}

/* ---- coded tensors -------------------------------------------------------------------------- */

enum { KEY, DTYPE, SHAPE, ENTRY_KIND, BASE };

static hydra_status read_entry(hydra_bundle *b, const hy_json *json, const hy_column *c,
                               hy_entry *x) {
    uint64_t numbers, first, others;
    int dtype = HY_F32, kind = HY_SAVED;
    HY_CHECK(&b->env, hy_is_text(json, c[KEY].at, 0),
             "manifest: the key of a coded tensor is no text of 1 to 4096 characters, none hidden");
    x->key = hy_string(json, c[KEY].at);
    if (c[DTYPE].at)
        dtype = hy_kind(json, c[DTYPE].at) == HY_STRING
                    ? hy_one_of(hy_string(json, c[DTYPE].at), HY_DTYPES) : -1;
    if (c[ENTRY_KIND].at)
        kind = hy_kind(json, c[ENTRY_KIND].at) == HY_STRING
                   ? hy_one_of(hy_string(json, c[ENTRY_KIND].at), HY_EXTRA_KINDS) : -1;
    HY_CHECK(&b->env,
             kind >= 0 &&
                 (dtype == HY_F16 || dtype == HY_BF16 || dtype == HY_F32 || dtype == HY_F64),
             "manifest: dtype or kind of '%s' is not known", x->key.data);
    HY_CHECK(&b->env, c[SHAPE].at, "manifest: '%s' has no shape", x->key.data);
    HY_TRY(hy_shape_read(b, json, c[SHAPE].at, 1, (uint64_t)1 << 37, (uint64_t)1 << 37, x->key.data,
                         &x->shape, &x->axes, &numbers));
    first = x->axes ? x->shape[0] : 1;
    others = numbers / first;
    x->transposed = first < others;
    HY_CHECK(&b->env, (first > others ? first : others) <= (uint64_t)1 << 29,
             "manifest: '%s' has too many rows; expected at most 2^29", x->key.data);
    x->rows = (uint32_t)(x->transposed ? others : first);
    x->columns = (uint32_t)(x->transposed ? first : others);
    x->dtype = (uint8_t)dtype, x->kind = (uint8_t)kind;
    if (c[BASE].at && hy_kind(json, c[BASE].at) != HY_NULL) {
        HY_CHECK(&b->env, hy_is_digest(json, c[BASE].at),
                 "manifest: the base of '%s' is no 16 hex digits", x->key.data);
        x->base = hy_string(json, c[BASE].at);
    }
    return HYDRA_OK;
}

/* No two rows are equal: each is written out as a text. */
static hydra_status check_entries_apart(hydra_bundle *b) {
    hy_text text;
    hy_slice *rows = hy_alloc(&b->env, b->entry_count, sizeof *rows);
    size_t start;
    uint32_t i;
    int apart = 0;
    if (!rows) return b->env.error->status;
    hy_text_open(&text, &b->env);
    for (i = 0; i < b->entry_count; i++) {
        const hy_entry *x = b->entries + i;
        start = text.size;
        hy_put(&text, x->key.data, x->key.size);
        hy_put_le(&text, x->dtype, 2);
        hy_put_le(&text, x->kind + 256u * (x->base.data != NULL), 2);
        hy_put(&text, x->shape, x->axes * sizeof *x->shape);
        hy_put(&text, x->base.data, x->base.size);
        rows[i].size = text.size - start;
    }
    if (!text.failed) {
        size_t at = 0;
        for (i = 0; i < b->entry_count; i++) {
            rows[i].data = text.data + at;
            at += rows[i].size;
        }
        apart = hy_unique(rows, b->entry_count);
    }
    hy_free(&b->env, rows, b->entry_count, sizeof *rows);
    hy_text_close(&text);
    if (text.failed) return b->env.error->status;
    HY_CHECK(&b->env, apart, "manifest: a coded tensor is listed twice");
    return HYDRA_OK;
}

hydra_status hy_read_entries(hydra_bundle *b, const hy_json *json, uint32_t table) {
    hy_column c[] = {{"key", 0, 0}, {"dtype", 0, 0}, {"shape", 0, 0}, {"kind", 0, 0},
                     {"base", 0, 0}, {NULL, 0, 0}};
    uint32_t i, rows = 0;
    if (!table) return HYDRA_OK;
    HY_TRY(hy_table_open(&b->env, json, table, c, MOST_ROWS, "tensors", &rows));
    b->entries = hy_arena_alloc(&b->env, &b->arena, (uint64_t)rows + 1, sizeof *b->entries);
    if (!b->entries) return b->env.error->status;
    b->entry_count = rows;
    for (i = 0; i < rows; i++, hy_table_next(json, c))
        HY_TRY(read_entry(b, json, c, b->entries + i));
    return check_entries_apart(b);
}

/* ---- blobs ---------------------------------------------------------------------------------- */

static hydra_status read_item(hydra_bundle *b, const hy_json *json, const hy_column *c,
                              const hy_blob *blob, uint32_t index) {
    hy_item *x = blob->items + index;
    const uint64_t most = (uint64_t)1 << 40;
    uint64_t of, numbers;
    int dtype = HY_F32;
    HY_CHECK(&b->env, hy_is_text(json, c[KEY].at, 1),
             "manifest: the key of a carried tensor is no text of at most 4096 characters");
    x->key = hy_string(json, c[KEY].at);
    if (c[DTYPE].at)
        dtype = hy_kind(json, c[DTYPE].at) == HY_STRING
                    ? hy_one_of(hy_string(json, c[DTYPE].at), HY_DTYPES) : -1;
    HY_CHECK(&b->env, dtype >= 0, "manifest: the dtype of '%s' is not known", x->key.data);
    x->dtype = (uint8_t)dtype;
    HY_TRY(hy_shape_read(b, json, c[SHAPE].at, 0, most, most / HY_DTYPE_BYTES[dtype], x->key.data,
                         &x->shape, &x->axes, &numbers));
    x->size = numbers * HY_DTYPE_BYTES[dtype];
    x->of = HY_NONE;
    if (c[3].at && hy_kind(json, c[3].at) != HY_NULL) {
        HY_CHECK(&b->env,
                 index && hy_natural(json, c[3].at, 0, index - 1, &of) &&
                     blob->items[of].of == HY_NONE && blob->items[of].size == x->size &&
                     HY_DTYPE_BYTES[blob->items[of].dtype] == HY_DTYPE_BYTES[dtype],
                 "manifest: '%s' is no copy of an earlier tensor", x->key.data);
        x->of = (uint32_t)of;
    }
    return HYDRA_OK;
}

hydra_status hy_read_blobs(hydra_bundle *b, const hy_json *json, uint32_t list, uint32_t file,
                           uint32_t first_tensor) {
    uint32_t count = list ? json->nodes[list].size : 0, at, i, j, rows;
    HY_CHECK(&b->env, !list || hy_kind(json, list) == HY_LIST, "manifest: blobs are no list");
    for (at = hy_first(list), i = 0; i < count; at = json->nodes[at].next, i++) {
        hy_column c[] = {
            {"key", 0, 0}, {"dtype", 0, 0}, {"shape", 0, 0}, {"of", 0, 0}, {NULL, 0, 0}};
        hy_blob *blob;
        HY_TRY(hy_table_open(&b->env, json, at, c, MOST_ROWS, "carried items", &rows));
        HY_CHECK(&b->env, rows, "manifest: a blob has no items");
        if (!hy_grow(&b->env, &b->blobs, b->blob_count, &b->blob_room, sizeof *b->blobs))
            return b->env.error->status;
        blob = b->blobs + b->blob_count;
        blob->items = hy_arena_alloc(&b->env, &b->arena, rows, sizeof *blob->items);
        if (!blob->items) return b->env.error->status;
        blob->count = rows;
        blob->raw_size = 0;
        blob->file = file;
        blob->tensor = first_tensor + i;
        for (j = 0; j < rows; j++, hy_table_next(json, c)) {
            HY_TRY(read_item(b, json, c, blob, j));
            if (blob->items[j].of == HY_NONE) blob->raw_size += blob->items[j].size;
        }
        HY_CHECK(&b->env, blob->raw_size <= (uint64_t)1 << 40, "manifest: a blob is too large");
        b->blob_count++;
    }
    return HYDRA_OK;
}

/* ---- configs -------------------------------------------------------------------------------- */

static void put_member(hy_text *text, const hy_json *json, uint32_t key) {
    if (text->size > 1) hy_puts(text, ",");
    hy_dump_string(text, hy_string(json, key), 0);
    hy_puts(text, ":");
    hy_dump(text, json, key + 1, HY_COMPACT);
}

/* The canonical text of an object whose members are in any order. */
static hydra_status canonical(hydra_bundle *b, const char *data, size_t size, hy_text *out) {
    hy_json json;
    hydra_status status = hy_json_copy(&json, &b->env, data, size, "a config");
    if (!status) {
        hy_dump(out, &json, 0, HY_COMPACT);
        hy_put(out, "", 1);
        if (out->failed) status = b->env.error->status;
    }
    hy_json_close(&json);
    return status;
}

static hydra_status differing(hydra_bundle *b, const hy_json *json, uint32_t node, hy_text *out) {
    uint32_t set = hy_get(json, node, "set"), drop = hy_get(json, node, "drop"), i;
    hy_json first;
    hy_set gone = {NULL, 0}, changed = {NULL, 0}, known = {NULL, 0};
    hy_text text;
    hydra_status status;
    HY_CHECK(&b->env,
             hy_kind(json, node) == HY_OBJECT &&
                 json->nodes[node].size == (uint32_t)(set != 0) + (uint32_t)(drop != 0) &&
                 (!set || hy_kind(json, set) == HY_OBJECT) &&
                 (!drop || hy_kind(json, drop) == HY_LIST),
             "manifest: a config is no {\"set\": {...}, \"drop\": [...]}");
    for (i = hy_first(drop); drop && i < hy_end(json, drop); i = json->nodes[i].next)
        HY_CHECK(&b->env, hy_kind(json, i) == HY_STRING,
                 "manifest: a config drops what is no text");
    hy_text_open(&text, &b->env);
    hy_puts(&text, "{");
    status = hy_json_copy(&first, &b->env, b->configs[0].data, b->configs[0].size - 1, "a config");
    if (!status && drop) status = hy_set_open(&gone, json, drop);
    if (!status && set) status = hy_set_open(&changed, json, set);
    if (!status) status = hy_set_open(&known, &first, 0);
    for (i = 0; !status && i < gone.count; i++)
        if (!hy_set_has(&known, gone.texts[i]))
            status = hy_fail(&b->env, HYDRA_DAMAGED,
                             "manifest: a config drops settings that are not there");
    for (i = 1; !status && i < hy_end(&first, 0); i = hy_next(&first, i))
        if (!hy_set_has(&gone, hy_string(&first, i)) && !hy_set_has(&changed, hy_string(&first, i)))
            put_member(&text, &first, i);
    for (i = hy_first(set); !status && set && i < hy_end(json, set); i = hy_next(json, i))
        put_member(&text, json, i);
    hy_puts(&text, "}");
    if (!status && text.failed) status = b->env.error->status;
    if (!status) status = canonical(b, text.data, text.size, out);
    hy_set_close(&gone, &b->env);
    hy_set_close(&changed, &b->env);
    hy_set_close(&known, &b->env);
    hy_json_close(&first);
    hy_text_close(&text);
    return status;
}

static hy_text *new_config(hydra_bundle *b) {
    if (!hy_grow(&b->env, &b->configs, b->config_count, &b->config_room, sizeof *b->configs))
        return NULL;
    hy_text_open(b->configs + b->config_count, &b->env);
    return b->configs + b->config_count++;
}

hydra_status hy_add_empty_config(hydra_bundle *b) {
    hy_text *text = new_config(b);
    if (!text) return b->env.error->status;
    hy_put(text, "{}", 3);
    return text->failed ? b->env.error->status : HYDRA_OK;
}

hydra_status hy_add_config(hydra_bundle *b, const hy_json *json, uint32_t node) {
    hy_text *text = new_config(b);
    if (!text) return b->env.error->status;
    if (node) return differing(b, json, node, text);
    hy_put(text, b->configs[0].data, b->configs[0].size);
    return text->failed ? b->env.error->status : HYDRA_OK;
}

hydra_status hy_read_configs(hydra_bundle *b, const hy_json *json, uint32_t list) {
    uint32_t at, i;
    HY_CHECK(&b->env, !list || hy_kind(json, list) == HY_LIST, "manifest: configs are no list");
    if (!list) return HYDRA_OK;
    for (at = hy_first(list), i = 0; i < json->nodes[list].size; at = json->nodes[at].next, i++) {
        hy_text *text;
        if (i) {
            HY_TRY(hy_add_config(b, json, at));
            continue;
        }
        HY_CHECK(&b->env, hy_kind(json, at) == HY_OBJECT,
                 "manifest: the first config is no object");
        text = new_config(b);
        if (!text) return b->env.error->status;
        hy_dump(text, json, at, HY_COMPACT);
        hy_put(text, "", 1);
        if (text->failed) return b->env.error->status;
    }
    return HYDRA_OK;
}
