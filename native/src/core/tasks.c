/* The table of tasks of a manifest, and what the whole has to be. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bundle.h"

enum { MOST_TASKS = 1000000, MOST_NAME = 200 };

enum {
    T_NAME, T_CONFIG, T_CONTENT, T_FORMAT, T_BASE_MODEL, T_NUMBERS,
    T_DTYPE, T_LOSSLESS, T_MODULES, T_ERRORS, T_ERROR, T_CARRIED, T_KEYS,
    T_BIAS_SCALES, T_EXTRA_KINDS, T_NOTES, T_METADATA, T_TENSORS,
    T_TENSOR_ERRORS, T_HARM, T_ADDED, T_RANKS, T_START
};

double hy_error_of(unsigned code) { return code == 255 ? 0.0 : exp2(-(double)code / 16); }

static int usable_name(hy_slice name) {
    size_t i;
    if (!name.size || hy_length(name) > MOST_NAME || !hy_is_visible(name)) return 0;
    if (name.data[0] == ' ' || name.data[name.size - 1] == ' ') return 0;
    if (hy_is(name, ".") || hy_is(name, "..")) return 0;
    for (i = 0; i < name.size; i++)
        if (strchr("/\\:", name.data[i])) return 0;
    return 1;
}

/* A map from text to values of these types. */
static int is_map(const hy_json *json, uint32_t node, int text) {
    uint32_t i;
    double number;
    if (!node) return 1;
    if (hy_kind(json, node) != HY_OBJECT) return 0;
    for (i = hy_first(node); i < hy_end(json, node); i = hy_next(json, i)) {
        if (text ? hy_kind(json, i + 1) != HY_STRING
                 : hy_kind(json, i + 1) < HY_INT || !hy_number(json, i + 1, &number) ||
                       !(number - number == 0))
            return 0;
    }
    return 1;
}

static int all_texts(const hy_json *json, uint32_t node) {
    uint32_t i;
    if (!node) return 1;
    if (hy_kind(json, node) != HY_LIST) return 0;
    for (i = hy_first(node); i < hy_end(json, node); i = json->nodes[i].next)
        if (hy_kind(json, i) != HY_STRING) return 0;
    return 1;
}

static hydra_status read_harm(hydra_bundle *b, const hy_json *json, uint32_t node, hy_task *x) {
    uint32_t at;
    hy_type held;
    if (!node || hy_kind(json, node) == HY_NULL) return HYDRA_OK;
    HY_CHECK(&b->env, hy_kind(json, node) == HY_LIST && json->nodes[node].size == 5,
             "manifest: harm of '%s' is no list of five values", x->name.data);
    at = hy_first(node); /* none of the five holds others, if they are right */
    held = hy_end(json, node) == node + 6 ? hy_kind(json, at + 4) : HY_NULL;
    HY_CHECK(&b->env,
             (held == HY_TRUE || held == HY_FALSE) &&
                 hy_natural(json, at + 1, 1, 1000000000, &x->answers) &&
                 hy_natural(json, at, 0, x->answers, &x->changed) &&
                 hy_kind(json, at + 2) >= HY_INT && hy_number(json, at + 2, &x->likely) &&
                 x->likely >= 0 && x->likely <= 1 && hy_kind(json, at + 3) >= HY_INT &&
                 hy_number(json, at + 3, &x->kl) && x->kl >= 0 && x->kl - x->kl == 0,
             "manifest: harm of '%s' makes no sense", x->name.data);
    x->likely = hy_rounded(x->likely, 3);
    x->kl = hy_rounded(x->kl, 3);
    x->held_out = held == HY_TRUE;
    x->has_harm = 1;
    return HYDRA_OK;
}

/* The rising indices below `count` of a list. */
static hydra_status read_carried(hydra_bundle *b, const hy_json *json, uint32_t node, uint32_t base,
                                 uint32_t count, hy_task *x) {
    uint32_t size = node ? json->nodes[node].size : 0, at, i, *indices;
    uint64_t index, least = 0;
    HY_CHECK(&b->env, !node || hy_kind(json, node) == HY_LIST,
             "manifest: carried blobs of '%s' are no list", x->name.data);
    indices = hy_arena_alloc(&b->env, &b->arena, (uint64_t)size + 1, sizeof *indices);
    if (!indices) return b->env.error->status;
    for (at = hy_first(node), i = 0; i < size; at = json->nodes[at].next, i++) {
        HY_CHECK(&b->env, count && hy_natural(json, at, least, count - 1, &index),
                 "manifest: carried blobs of '%s' do not rise, or are not there", x->name.data);
        least = index + 1;
        indices[i] = base + (uint32_t)index;
        x->carried_items += b->blobs[indices[i]].count;
    }
    x->carried = indices;
    x->carried_count = size;
    return HYDRA_OK;
}

static int by_place(const void *one, const void *other) {
    const hy_key *a = one, *b = other;
    if (a->module != b->module) return a->module < b->module ? -1 : 1;
    if (a->half != b->half) return a->half < b->half ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

static hydra_status read_keys(hydra_bundle *b, const hy_json *json, uint32_t node, hy_task *x) {
    uint32_t size = node ? json->nodes[node].size : 0, at, i;
    hy_key *keys;
    HY_CHECK(&b->env, !node || hy_kind(json, node) == HY_LIST, "manifest: keys of '%s' are no list",
             x->name.data);
    keys = hy_arena_alloc(&b->env, &b->arena, (uint64_t)size + 1, sizeof *keys);
    if (!keys) return b->env.error->status;
    for (at = hy_first(node), i = 0; i < size; at = json->nodes[at].next, i++) {
        uint64_t module;
        int fine = hy_kind(json, at) == HY_LIST && json->nodes[at].size == 3 &&
                   hy_end(json, at) == at + 4 && b->module_count &&
                   hy_natural(json, at + 1, 0, b->module_count - 1, &module) &&
                   hy_kind(json, at + 2) == HY_STRING;
        HY_CHECK(&b->env,
                 fine && hy_has_index(&x->modules, (uint32_t)module) &&
                     (hy_is(hy_string(json, at + 2), "A") || hy_is(hy_string(json, at + 2), "B")) &&
                     hy_is_text(json, at + 3, 0),
                 "manifest: a key of '%s' is no [module, \"A\" or \"B\", key] of a module it has",
                 x->name.data);
        keys[i].module = (uint32_t)module;
        keys[i].half = hy_is(hy_string(json, at + 2), "B") ? 1 : 0;
        keys[i].key = hy_string(json, at + 3);
        keys[i].order = i;
    }
    if (size) qsort(keys, size, sizeof *keys, by_place);
    x->keys = keys;
    x->key_count = size;
    return HYDRA_OK;
}

/* Keys of carried and coded tensors: unique, and known to scales and kinds. */
static hydra_status check_tensor_keys(hydra_bundle *b, const hy_json *json, hy_task *x) {
    uint32_t count = x->carried_items + x->tensors.count, i, j, k = 0, pair;
    hy_set all;
    int fine, named = 1;
    uint32_t maps[2];
    if (!count && !x->bias_scales && !x->extra_kinds) return HYDRA_OK;
    all.texts = hy_alloc(&b->env, count, sizeof *all.texts);
    if (!all.texts) return b->env.error->status;
    all.count = count;
    for (i = 0; i < x->carried_count; i++) {
        const hy_blob *blob = b->blobs + x->carried[i];
        for (j = 0; j < blob->count; j++) all.texts[k++] = blob->items[j].key;
    }
    for (pair = 0; pair < x->tensors.pairs; pair++)
        for (i = x->tensors.bounds[2 * pair]; i < x->tensors.bounds[2 * pair + 1]; i++)
            all.texts[k++] = b->entries[i].key;
    fine = hy_unique(all.texts, count);
    maps[0] = x->bias_scales, maps[1] = x->extra_kinds;
    for (j = 0; j < 2; j++)
        for (i = hy_first(maps[j]); maps[j] && i < hy_end(json, maps[j]); i = hy_next(json, i))
            named &= hy_set_has(&all, hy_string(json, i));
    hy_set_close(&all, &b->env);
    HY_CHECK(&b->env, fine, "manifest: keys of the tensors of '%s' occur twice", x->name.data);
    HY_CHECK(&b->env, named, "manifest: bias scales or kinds of '%s' name no tensor of its",
             x->name.data);
    return HYDRA_OK;
}

static int named_or(const hy_json *json, uint32_t node, const char *const names[], int usual) {
    if (!node) return usual;
    return hy_kind(json, node) == HY_STRING ? hy_one_of(hy_string(json, node), names) : -1;
}

/* Reads the columns of a row that do not depend on others, the name first. */
static hydra_status read_plain(hydra_bundle *b, const hy_json *json, const hy_column *c,
                               hy_task *x) {
    uint64_t numbers;
    int format = named_or(json, c[T_FORMAT].at, HY_FORMATS, HY_PEFT);
    int dtype = named_or(json, c[T_DTYPE].at, HY_DTYPES, HY_F32);
    HY_CHECK(&b->env,
             hy_kind(json, c[T_NAME].at) == HY_STRING && usable_name(hy_string(json, c[T_NAME].at)),
             "manifest: a task's name is not usable as a folder's");
    x->name = hy_string(json, c[T_NAME].at);
    HY_CHECK(&b->env, format >= 0 && dtype >= 0 && strchr(HY_DTYPES[dtype], 'F'),
             "manifest: format or dtype of '%s' is not known", x->name.data);
    x->format = (uint8_t)format;
    x->dtype = (uint8_t)dtype;
    HY_CHECK(&b->env,
             !c[T_NUMBERS].at || hy_natural(json, c[T_NUMBERS].at, 0, (uint64_t)1 << 50, &numbers),
             "manifest: numbers of '%s' make no sense", x->name.data);
    if (c[T_BASE_MODEL].at && hy_kind(json, c[T_BASE_MODEL].at) != HY_NULL) {
        HY_CHECK(&b->env, hy_is_text(json, c[T_BASE_MODEL].at, 0),
                 "manifest: the base model of '%s' is no text", x->name.data);
        x->base_model = hy_string(json, c[T_BASE_MODEL].at);
    }
    if (c[T_LOSSLESS].at) {
        hy_type type = hy_kind(json, c[T_LOSSLESS].at);
        HY_CHECK(&b->env, type == HY_TRUE || type == HY_FALSE,
                 "manifest: lossless of '%s' is neither true nor false", x->name.data);
        x->lossless = type == HY_TRUE;
    }
    HY_CHECK(&b->env,
             !c[T_ERROR].at || (hy_kind(json, c[T_ERROR].at) >= HY_INT &&
                                hy_number(json, c[T_ERROR].at, &x->error) && x->error >= 0 &&
                                x->error - x->error == 0),
             "manifest: the error of '%s' is no number >= 0", x->name.data);
    x->error = hy_rounded(x->error, 4);
    HY_CHECK(&b->env, all_texts(json, c[T_NOTES].at), "manifest: notes of '%s' are no texts",
             x->name.data);
    HY_CHECK(&b->env,
             is_map(json, c[T_METADATA].at, 1) && is_map(json, c[T_EXTRA_KINDS].at, 1) &&
                 is_map(json, c[T_BIAS_SCALES].at, 0),
             "manifest: metadata, kinds or bias scales of '%s' are no map", x->name.data);
    x->json = json;
    x->metadata = c[T_METADATA].at;
    x->extra_kinds = c[T_EXTRA_KINDS].at;
    x->bias_scales = c[T_BIAS_SCALES].at;
    return HYDRA_OK;
}

/* [seed, numbers]; only of a coded task. */
static hydra_status read_start(hydra_bundle *b, const hy_json *json, uint32_t node, hy_task *x) {
    uint64_t seed, numbers;
    uint32_t at;
    if (!node || hy_kind(json, node) == HY_NULL) return HYDRA_OK;
    HY_CHECK(&b->env, x->content != HY_NONE, "manifest: '%s' has a start and nothing coded",
             x->name.data);
    HY_CHECK(&b->env, hy_kind(json, node) == HY_LIST && json->nodes[node].size == 2,
             "manifest: the start of '%s' is not [seed, numbers]", x->name.data);
    at = hy_first(node);
    HY_CHECK(&b->env,
             hy_natural(json, at, 0, 0xFFFFFFFFu, &seed) &&
                 hy_natural(json, json->nodes[at].next, 1, (uint64_t)1 << 30, &numbers),
             "manifest: a value of the start of '%s' is out of range", x->name.data);
    x->seed = (uint32_t)seed;
    x->start_numbers = (uint32_t)numbers;
    return HYDRA_OK;
}

/* Reads the columns that depend on others. */
static hydra_status read_rest(hydra_bundle *b, const hy_json *json, const hy_column *c,
                              hy_task *x) {
    uint32_t i, kinds;
    int coded;
    HY_TRY(hy_ranges_read(b, json, c[T_MODULES].at, b->module_count, x->name.data, &x->modules));
    if (c[T_TENSORS].at && hy_kind(json, c[T_TENSORS].at) != HY_NULL)
        HY_TRY(hy_ranges_read(b, json, c[T_TENSORS].at, b->entry_count, x->name.data, &x->tensors));
    else
        HY_CHECK(&b->env, !c[T_TENSORS].at,
                 "manifest: tensors of '%s' are neither \"all\" nor pairs", x->name.data);
    HY_TRY(hy_codes_read(b, json, c[T_ERRORS].at, x->modules.count, x->name.data, &x->errors));
    HY_TRY(hy_codes_read(b, json, c[T_TENSOR_ERRORS].at, x->tensors.count, x->name.data,
                         &x->tensor_errors));
    kinds = x->extra_kinds;
    for (i = hy_first(kinds); kinds && i < hy_end(json, kinds); i = hy_next(json, i))
        HY_CHECK(&b->env, hy_one_of(hy_string(json, i + 1), HY_EXTRA_KINDS) >= 0,
                 "manifest: a kind of '%s' is not known", x->name.data);
    coded = (x->modules.count || x->tensors.count) && !x->lossless;
    HY_CHECK(&b->env, coded == (x->content != HY_NONE) && !(x->lossless && x->tensors.count),
             "manifest: the content of '%s' does not fit what it has", x->name.data);
    HY_TRY(read_start(b, json, c[T_START].at, x));
    HY_TRY(read_keys(b, json, c[T_KEYS].at, x));
    HY_TRY(hy_ranks_read(b, json, c[T_RANKS].at, x));
    HY_TRY(read_harm(b, json, c[T_HARM].at, x));
    HY_CHECK(&b->env, hy_is_added(json, c[T_ADDED].at),
             "manifest: the history of '%s' is no [day, 16 hex digits]", x->name.data);
    return check_tensor_keys(b, json, x);
}

hydra_status hy_read_tasks(hydra_bundle *b, const hy_json *json, uint32_t table, uint32_t blob_base,
                           uint32_t blob_count, uint32_t stream_base, uint32_t content,
                           uint32_t config_base, uint32_t config_count) {
    hy_column c[] = {{"name", 0, 0}, {"config", 0, 0}, {"content", 0, 0}, {"format", 0, 0},
                     {"base_model", 0, 0}, {"numbers", 0, 0}, {"dtype", 0, 0}, {"lossless", 0, 0},
                     {"modules", 0, 0}, {"errors", 0, 0}, {"error", 0, 0}, {"carried", 0, 0},
                     {"keys", 0, 0}, {"bias_scales", 0, 0}, {"extra_kinds", 0, 0}, {"notes", 0, 0},
                     {"metadata", 0, 0}, {"tensors", 0, 0}, {"tensor_errors", 0, 0}, {"harm", 0, 0},
                     {"added", 0, 0}, {"ranks", 0, 0}, {"start", 0, 0}, {NULL, 0, 0}};
    uint32_t i, rows;
    HY_TRY(hy_table_open(&b->env, json, table, c, MOST_TASKS, "tasks", &rows));
    for (i = 0; i < rows; i++, hy_table_next(json, c)) {
        uint64_t index = 0;
        hy_task *x;
        if (!hy_grow(&b->env, &b->tasks, b->task_count, &b->task_room, sizeof *b->tasks))
            return b->env.error->status;
        x = b->tasks + b->task_count;
        memset(x, 0, sizeof *x);
        x->content = c[T_CONTENT].at ? HY_NONE : content;
        if (c[T_CONTENT].at && hy_kind(json, c[T_CONTENT].at) != HY_NULL) {
            HY_CHECK(&b->env, hy_natural(json, c[T_CONTENT].at, 0, MOST_TASKS - 1, &index),
                     "manifest: the content of a task is no index");
            x->content = stream_base + (uint32_t)index;
        }
        index = 0;
        HY_CHECK(&b->env,
                 config_count && (!c[T_CONFIG].at ||
                                  hy_natural(json, c[T_CONFIG].at, 0, config_count - 1, &index)),
                 "manifest: a task names a config that is not there");
        x->config = config_base + (uint32_t)index;
        HY_TRY(read_plain(b, json, c, x));
        HY_TRY(read_carried(b, json, c[T_CARRIED].at, blob_base, blob_count, x));
        HY_TRY(read_rest(b, json, c, x));
        b->task_count++;
    }
    return HYDRA_OK;
}

/* ---- the whole ------------------------------------------------------------------------------ */

static hydra_status check_sharing(hydra_bundle *b) {
    hy_task **users = hy_alloc(&b->env, b->stream_count, sizeof *users);
    hydra_status status = HYDRA_OK;
    uint32_t i;
    if (!users) return b->env.error->status;
    for (i = 0; i < b->task_count && !status; i++) {
        hy_task *x = b->tasks + i, *first;
        if (x->content == HY_NONE) continue;
        if (x->content >= b->stream_count) {
            status = hy_fail(&b->env, HYDRA_DAMAGED,
                             "manifest: '%s' names a stream that is not there", x->name.data);
            break;
        }
        first = users[x->content];
        if (!first) users[x->content] = x;
        else if (!hy_ranges_same(&x->modules, &first->modules) ||
                 !hy_ranges_same(&x->tensors, &first->tensors) || x->seed != first->seed ||
                 x->start_numbers != first->start_numbers)
            status = hy_fail(&b->env, HYDRA_DAMAGED,
                             "manifest: '%s' and '%s' share a stream, not what it holds",
                             x->name.data, first->name.data);
    }
    hy_free(&b->env, users, b->stream_count, sizeof *users);
    return status;
}

/* Configs, streams (from 1 on) and blobs are each used first in the order of their numbers. */
static hydra_status check_first_use(hydra_bundle *b) {
    uint32_t i, j, configs = 0, streams = 1, blobs = 0;
    for (i = 0; i < b->task_count; i++) {
        const hy_task *x = b->tasks + i;
        int fine = x->config <= configs;
        configs += x->config == configs;
        if (x->content != HY_NONE) {
            fine &= x->content <= streams;
            streams += x->content == streams;
        }
        for (j = 0; j < x->carried_count; j++) {
            fine &= x->carried[j] <= blobs;
            blobs += x->carried[j] == blobs;
        }
        HY_CHECK(&b->env, fine,
                 "manifest: configs, streams or blobs are not numbered by first use");
    }
    HY_CHECK(&b->env,
             configs == b->config_count && streams == b->stream_count && blobs == b->blob_count,
             "manifest: a config, stream or blob belongs to no task");
    return HYDRA_OK;
}

hydra_status hy_check_canonical(hydra_bundle *b) {
    hy_slice *texts;
    uint32_t i;
    int apart;
    for (i = 1; i < b->task_count; i++)
        HY_CHECK(&b->env, hy_compare(&b->tasks[i - 1].name, &b->tasks[i].name) < 0,
                 "manifest: tasks are not sorted by name, or occur twice");
    HY_TRY(check_sharing(b));
    HY_TRY(check_first_use(b));
    texts = hy_alloc(&b->env, b->config_count, sizeof *texts);
    if (!texts) return b->env.error->status;
    for (i = 0; i < b->config_count; i++) {
        texts[i].data = b->configs[i].data;
        texts[i].size = b->configs[i].size;
    }
    apart = hy_unique(texts, b->config_count);
    hy_free(&b->env, texts, b->config_count, sizeof *texts);
    HY_CHECK(&b->env, apart, "manifest: configs occur twice");
    return HYDRA_OK;
}
