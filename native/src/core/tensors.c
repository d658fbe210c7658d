/* Unpacks and decodes tensors beside the low-rank pairs. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "factors.h"

hydra_status hy_tensors_add(hy_tensors *outs, hy_env *env, hy_slice name, int dtype,
                         const uint64_t *shape, uint32_t axes, hy_tensor **out) {
    hy_tensor *x;
    uint64_t *sizes;
    char *copy;
    uint32_t i;
    if (!hy_grow(env, &outs->rows, outs->count, &outs->room, sizeof *outs->rows))
        return env->error->status;
    copy = hy_arena_alloc(env, &outs->arena, (uint64_t)name.size + 1, 1);
    sizes = copy ? hy_arena_alloc(env, &outs->arena, (uint64_t)axes + 1, sizeof *sizes) : NULL;
    if (!sizes) return env->error->status;
    if (name.size) memcpy(copy, name.data, name.size);
    x = outs->rows + outs->count++;
    memset(x, 0, sizeof *x);
    x->name.data = copy;
    x->name.size = name.size;
    x->dtype = dtype;
    x->shape = sizes;
    x->axes = axes;
    x->size = HY_DTYPE_BYTES[dtype];
    for (i = 0; i < axes; i++) {
        sizes[i] = shape[i];
        x->size *= shape[i];
    }
    *out = x;
    return HYDRA_OK;
}

void hy_tensors_close(hy_tensors *outs, hy_env *env) {
    uint32_t i;
    for (i = 0; i < outs->count; i++)
        hy_free(env, outs->rows[i].data, outs->rows[i].data_room, 1);
    hy_free(env, outs->rows, outs->room, sizeof *outs->rows);
    hy_arena_close(env, &outs->arena);
    memset(outs, 0, sizeof *outs);
}

static hydra_status put_row(hy_kinds *kinds, hydra_bundle *b, uint32_t *room, hy_slice key,
                            int kind, double scale) {
    struct hy_kind_row *row;
    if (!hy_grow(&b->env, &kinds->rows, kinds->count, room, sizeof *kinds->rows))
        return b->env.error->status;
    row = kinds->rows + kinds->count++;
    row->key = key, row->kind = kind, row->scale = scale;
    return HYDRA_OK;
}

/* Joins the rows of one key. */
static void join_rows(hy_kinds *kinds) {
    uint32_t i, made = 0;
    if (kinds->count) qsort(kinds->rows, kinds->count, sizeof *kinds->rows, hy_compare);
    for (i = 0; i < kinds->count; i++) {
        struct hy_kind_row *row = kinds->rows + i, *last = kinds->rows + made - 1;
        if (!made || !hy_same(last->key, row->key)) {
            kinds->rows[made++] = *row;
            continue;
        }
        if (last->kind < 0) last->kind = row->kind;
        if (last->scale != last->scale) last->scale = row->scale;
    }
    for (i = made; i < kinds->count; i++) memset(kinds->rows + i, 0, sizeof *kinds->rows);
    kinds->count = made;
}

hydra_status hy_kinds_open(hy_kinds *kinds, hydra_bundle *b, const hy_task *task) {
    const hy_json *json = task->json;
    uint32_t i, pair;
    double scale = 1;
    kinds->rows = NULL;
    kinds->count = kinds->room = 0;
    for (pair = 0; pair < task->tensors.pairs; pair++)
        for (i = task->tensors.bounds[2 * pair]; i < task->tensors.bounds[2 * pair + 1]; i++)
            HY_TRY(put_row(kinds, b, &kinds->room, b->entries[i].key, b->entries[i].kind, NAN));
    for (i = hy_first(task->extra_kinds); task->extra_kinds && i < hy_end(json, task->extra_kinds);
         i = hy_next(json, i))
        HY_TRY(put_row(kinds, b, &kinds->room, hy_string(json, i),
                       hy_one_of(hy_string(json, i + 1), HY_EXTRA_KINDS), NAN));
    for (i = hy_first(task->bias_scales); task->bias_scales && i < hy_end(json, task->bias_scales);
         i = hy_next(json, i)) {
        hy_number(json, i + 1, &scale);
        HY_TRY(put_row(kinds, b, &kinds->room, hy_string(json, i), -1, scale));
    }
    join_rows(kinds);
    return HYDRA_OK;
}

void hy_kinds_close(hy_kinds *kinds, hydra_bundle *b) {
    hy_free(&b->env, kinds->rows, kinds->room, sizeof *kinds->rows);
    kinds->rows = NULL;
}

int hy_kind_of(const hy_kinds *kinds, hy_slice key, double *scale) {
    const struct hy_kind_row *row = NULL;
    if (kinds->count) row = bsearch(&key, kinds->rows, kinds->count, sizeof *row, hy_compare);
    if (scale) *scale = row ? row->scale : NAN;
    return row && row->kind >= 0 ? row->kind : HY_SAVED;
}

/* ---- carried -------------------------------------------------------------------------------- */

/* Where a blob's elements of each size begin, and how many bytes they take; they are planes: all
 * first bytes, and so on. */
typedef struct {
    uint64_t begin, bytes, used;
} Planes;

static void find_planes(const hy_blob *blob, Planes planes[9]) {
    uint64_t begin = 0;
    uint32_t i;
    int width;
    memset(planes, 0, 9 * sizeof *planes);
    for (i = 0; i < blob->count; i++)
        if (blob->items[i].of == HY_NONE)
            planes[HY_DTYPE_BYTES[blob->items[i].dtype]].bytes += blob->items[i].size;
    for (width = 8; width; width--) {
        planes[width].begin = begin;
        begin += planes[width].bytes;
    }
}

static hydra_status unpack_blob(hydra_bundle *b, const hy_blob *blob, uint8_t **planes) {
    const hy_file *file = b->files + blob->file;
    uint64_t packed = file->places[blob->tensor].size, stated = 0;
    const uint8_t *data;
    hydra_status status;
    *planes = NULL;
    HY_TRY(hy_file_view(&b->env, file, blob->tensor, &data));
    if (packed >= 4)
        stated =
            data[0] | (uint64_t)data[1] << 8 | (uint64_t)data[2] << 16 | (uint64_t)data[3] << 24;
    if (packed < 4 || stated != blob->raw_size)
        status = hy_fail(&b->env, HYDRA_DAMAGED,
                         "'%s' cannot be unpacked; got %llu bytes, as it says, expected %llu",
                         file->places[blob->tensor].name.data, (unsigned long long)stated,
                         (unsigned long long)blob->raw_size);
    else {
        *planes = hy_alloc(&b->env, blob->raw_size + 1, 1);
        status = *planes ? hy_inflate(&b->env, data + 4, (size_t)packed - 4, *planes,
                                      (size_t)blob->raw_size, file->places[blob->tensor].name.data)
                         : b->env.error->status;
    }
    hy_file_release(&b->env, file, blob->tensor, data);
    if (status && *planes) {
        hy_free(&b->env, *planes, blob->raw_size + 1, 1);
        *planes = NULL;
    }
    return status;
}

/* Copies `size` bytes from element `at` on out of planes of `count` elements each. */
static void gather(uint8_t *out, const uint8_t *planes, uint64_t count, uint64_t at, uint64_t size,
                   int width) {
    uint64_t i, elements = size / (uint64_t)width;
    int p;
    for (p = 0; p < width; p++)
        for (i = 0; i < elements; i++)
            out[i * (uint64_t)width + (uint64_t)p] = planes[(uint64_t)p * count + at + i];
}

hydra_status hy_blob_tensors(hydra_bundle *b, const hy_blob *blob, hy_tensors *outs) {
    uint8_t *data;
    hydra_status status = unpack_blob(b, blob, &data);
    Planes planes[9];
    uint64_t *places;
    uint32_t i;
    if (status) return status;
    find_planes(blob, planes);
    places = hy_alloc(&b->env, blob->count, sizeof *places);
    if (!places) status = b->env.error->status;
    for (i = 0; i < blob->count && !status; i++) {
        const hy_item *x = blob->items + i;
        int width = HY_DTYPE_BYTES[x->dtype];
        Planes *own = planes + width;
        hy_tensor *out;
        if (x->of == HY_NONE) {
            places[i] = own->used;
            own->used += x->size;
        } else {
            places[i] = places[x->of];
        }
        status = hy_tensors_add(outs, &b->env, x->key, x->dtype, x->shape, x->axes, &out);
        if (status) break;
        out->data = hy_alloc(&b->env, x->size + 1, 1);
        if (!out->data) status = b->env.error->status;
        else {
            out->data_room = x->size + 1;
            gather(out->data, data + own->begin, own->bytes / (uint64_t)width,
                   places[i] / (uint64_t)width, x->size, width);
        }
    }
    hy_free(&b->env, places, blob->count, sizeof *places);
    hy_free(&b->env, data, blob->raw_size + 1, 1);
    return status;
}

/* ---- coded ---------------------------------------------------------------------------------- */

hydra_status hy_dense_bytes(hydra_bundle *b, const hy_entry *x, const hy_dense *dense,
                            const hy_dense *common, uint8_t **data) {
    size_t size = HY_DTYPE_BYTES[x->dtype];
    uint32_t each = (1u << 16) / x->columns ? (1u << 16) / x->columns : 1, first, count, i, c;
    double *rows, *sum;
    int32_t *scratch;
    if (x->base.data)
        return hy_fail(
            &b->env, HYDRA_UNSUPPORTED,
            "tensor '%.200s' is kept as its difference from the base model's own. Export it "
            "with hydraopt --base",
            x->key.data);
    if (each > x->rows) each = x->rows;
    *data = hy_alloc(&b->env, (uint64_t)x->rows * x->columns * size + 1, 1);
    rows = *data ? hy_alloc(&b->env, (uint64_t)each * x->columns, sizeof *rows) : NULL;
    sum = rows ? hy_alloc(&b->env, x->columns, sizeof *sum) : NULL;
    scratch = sum ? hy_alloc(&b->env, each, sizeof *scratch) : NULL;
    for (first = 0; scratch && first < x->rows; first += count) {
        count = x->rows - first < each ? x->rows - first : each;
        hy_dense_rows(dense, common, x, first, count, rows, sum, scratch);
        if (!x->transposed) {
            hy_store_clipped(x->dtype, rows, (size_t)count * x->columns,
                             *data + (size_t)first * x->columns * size);
            continue;
        }
        for (i = 0; i < count; i++)
            for (c = 0; c < x->columns; c++)
                hy_store_clipped(x->dtype, rows + (size_t)i * x->columns + c, 1,
                                 *data + ((size_t)c * x->rows + first + i) * size);
    }
    hy_free(&b->env, scratch, each, sizeof *scratch);
    hy_free(&b->env, sum, x->columns, sizeof *sum);
    hy_free(&b->env, rows, (uint64_t)each * x->columns, sizeof *rows);
    if (scratch) return HYDRA_OK;
    if (*data) hy_free(&b->env, *data, (uint64_t)x->rows * x->columns * size + 1, 1);
    *data = NULL;
    return b->env.error->status;
}

int hy_is_copy(const hy_entry *x) {
    return x->kind == HY_SAVED && !x->base.data && hy_ends_with(x->key, ".base_layer.weight");
}

hydra_status hy_all_headers(hydra_bundle *b, const hy_task *task, int copies, hy_tensors *outs) {
    uint32_t i, j;
    hy_tensor *out;
    for (i = 0; i < task->carried_count; i++) {
        const hy_blob *blob = b->blobs + task->carried[i];
        for (j = 0; j < blob->count; j++) {
            const hy_item *x = blob->items + j;
            HY_TRY(hy_tensors_add(outs, &b->env, x->key, x->dtype, x->shape, x->axes, &out));
        }
    }
    for (i = 0; i < task->tensors.count; i++) {
        const hy_entry *x = b->entries + hy_nth(&task->tensors, i);
        if (!copies && hy_is_copy(x)) continue;
        HY_TRY(hy_tensors_add(outs, &b->env, x->key, x->dtype, x->shape, x->axes, &out));
    }
    return HYDRA_OK;
}

typedef struct {
    hydra_bundle *b;
    hy_tensors *outs;
    int copies;
} Collector;

static hydra_status add_dense(void *user, uint32_t index, const hy_entry *x, const hy_dense *dense,
                              const hy_dense *common) {
    Collector *a = user;
    hy_tensor *out;
    (void)index;
    if (!a->copies && hy_is_copy(x)) return HYDRA_OK;
    HY_TRY(hy_tensors_add(a->outs, &a->b->env, x->key, x->dtype, x->shape, x->axes, &out));
    HY_TRY(hy_dense_bytes(a->b, x, dense, common, &out->data));
    out->data_room = out->size + 1;
    out->half = 1; /* marks what is coded */
    return HYDRA_OK;
}

hydra_status hy_all_tensors(hydra_bundle *b, const hy_task *task, int copies, hy_tensors *outs) {
    hy_visitor visitor;
    Collector collector;
    uint32_t i;
    if (outs->headers) return hy_all_headers(b, task, copies, outs);
    for (i = 0; i < task->carried_count; i++)
        HY_TRY(hy_blob_tensors(b, b->blobs + task->carried[i], outs));
    if (!task->tensors.count) return HYDRA_OK;
    collector.b = b;
    collector.outs = outs;
    collector.copies = copies;
    memset(&visitor, 0, sizeof visitor);
    visitor.tensor = add_dense;
    visitor.user = &collector;
    return hy_visit(b, task, &visitor);
}
