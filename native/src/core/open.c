/* Opening bundles, and what is asked of an open one without reading streams. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"


static void *plain_resize(void *user, void *block, size_t old_size, size_t new_size) {
    (void)user, (void)old_size;
    if (new_size) return realloc(block, new_size);
    free(block);
    return NULL;
}

static void clear(hydra_error *error) {
    error->status = HYDRA_OK;
    error->text[0] = 0;
}

/* Tells the caller what became of a call. */
HY_NOINLINE static hydra_status report(hydra_error *error, hydra_status status,
                                       const hydra_error *problem) {
    if (error && status) *error = *problem;
    else if (error) clear(error);
    return status;
}

hydra_status hy_env_open(hy_env *env, const hydra_options *options, hydra_error *error) {
    hydra_options own;
    memset(env, 0, sizeof *env);
    env->error = error ? error : &env->own;
    clear(env->error);
    env->allocator.resize = plain_resize;
    if (!options) return HYDRA_OK;
    HY_TRY(hy_read_sized(&own, sizeof own, options, "hydra_options", env->error));
    if (own.allocator.resize) env->allocator = own.allocator;
    env->limits = own.limits;
    env->parallel = own.parallel;
    return HYDRA_OK;
}

void hy_enter(hydra_bundle *b, hy_call *call) {
    call->outer = b->env.error;
    clear(&call->error);
    b->env.error = &call->error;
    b->calls++;
}

hydra_status hy_leave(hydra_bundle *b, const hy_call *call, hydra_status status,
                      hydra_error *error) {
    report(error, status, &call->error);
    b->env.error = call->outer;
    if (--b->calls) return status;
    if (b->drop_core) hydra_drop_core(b);
    if (b->closed) hydra_close(b);
    return status;
}

/* ---- what a file holds ---------------------------------------------------------------------- */

static hydra_status known_keys(hy_env *env, const hy_json *json, uint32_t object,
                               const char *const known[], const char *what) {
    uint32_t i;
    HY_CHECK(env, hy_kind(json, object) == HY_OBJECT, "%s is no object. " AGAIN, what);
    for (i = hy_first(object); i < hy_end(json, object); i = hy_next(json, i))
        HY_CHECK(env,
                 hy_is_optional(hy_string(json, i)) || hy_one_of(hy_string(json, i), known) >= 0,
                 "%s has an unknown key '%.80s'. " AGAIN, what, hy_string(json, i).data);
    return HYDRA_OK;
}

/* manifest, then shared (unless a task's file), then task/0 ..., carried/0 ...: how many tasks. */
static hydra_status check_places(hy_env *env, const hy_file *file, uint32_t blobs,
                                 uint32_t *streams) {
    uint32_t i = 1, j;
    char name[32];
    *streams = 0;
    if (file->kind != HY_TASK) {
        HY_CHECK(env, file->count > 1 && hy_is(file->places[1].name, "shared"),
                 "tensors are not those of the manifest; the second is to be 'shared'. " AGAIN);
        i = 2;
    }
    for (; i < file->count; i++, ++*streams) {
        snprintf(name, sizeof name, "task/%u", (unsigned)*streams);
        if (!hy_is(file->places[i].name, name)) break;
    }
    for (j = 0; j < blobs; j++, i++) {
        snprintf(name, sizeof name, "carried/%u", (unsigned)j);
        HY_CHECK(env, i < file->count && hy_is(file->places[i].name, name),
                 "tensors are not those of the manifest; '%s' is missing. " AGAIN, name);
    }
    HY_CHECK(env, i == file->count,
             "tensors are not those of the manifest; got '%.80s' as well. " AGAIN,
             file->places[i].name.data);
    return HYDRA_OK;
}

/* The base model's name, in the manifest and, if there is one, in the metadata. */
static hydra_status check_base_model(hydra_bundle *b, const hy_file *file) {
    const hy_json *json = &file->manifest;
    uint32_t node = hy_get(json, 0, "base_model"), about = hy_metadata(file, "base_model");
    if (node && hy_kind(json, node) != HY_NULL) {
        HY_CHECK(&b->env, hy_is_text(json, node, 0), "manifest: the base model is no text");
        b->base_model = hy_string(json, node);
    }
    HY_CHECK(&b->env,
             b->base_model.data ? about && hy_same(hy_string(&file->header, about), b->base_model)
                                : !about,
             "metadata 'base_model' contradicts the manifest. " AGAIN);
    node = hy_metadata(file, "library");
    if (node) b->library = hy_string(&file->header, node);
    node = hy_get(json, 0, "recipe");
    HY_CHECK(&b->env, !node || hy_kind(json, node) == HY_OBJECT,
             "manifest: the recipe is no object");
    return HYDRA_OK;
}

static hydra_status check_task_names(hydra_bundle *b, const hy_file *file) {
    uint32_t node = hy_metadata(file, "tasks"), i;
    hy_text text;
    hy_slice slice;
    int same;
    hy_text_open(&text, &b->env);
    hy_puts(&text, "[");
    for (i = 0; i < b->task_count; i++) {
        if (i) hy_puts(&text, ",");
        hy_dump_string(&text, b->tasks[i].name, 0);
    }
    hy_puts(&text, "]");
    slice.data = text.data, slice.size = text.size;
    same = !text.failed && node && hy_same(hy_string(&file->header, node), slice);
    hy_text_close(&text);
    if (text.failed) return b->env.error->status;
    HY_CHECK(&b->env, same, "metadata 'tasks' contradicts the manifest. " AGAIN);
    return HYDRA_OK;
}

hydra_status hy_add_streams(hydra_bundle *b, uint32_t file, uint32_t first, uint32_t count) {
    uint32_t i;
    for (i = 0; i < count; i++) {
        hy_stream *stream;
        if (!hy_grow(&b->env, &b->streams, b->stream_count, &b->stream_room, sizeof *b->streams))
            return b->env.error->status;
        stream = b->streams + b->stream_count++;
        stream->file = file;
        stream->tensor = first + i;
        stream->spent = 0;
        stream->parts = NULL;
        stream->part_count = 0;
        b->stream_bytes += b->files[file].places[first + i].size;
    }
    return HYDRA_OK;
}

/* Bytes of all items of blobs `first` and later, copies included, against those that hold them. */
static hydra_status check_blob_sizes(hydra_bundle *b, uint32_t first) {
    uint64_t whole = 0, packed = 0, most;
    uint32_t i, j;
    for (i = first; i < b->blob_count; i++) {
        packed += b->files[b->blobs[i].file].places[b->blobs[i].tensor].size;
        for (j = 0; j < b->blobs[i].count; j++) whole += b->blobs[i].items[j].size;
    }
    most = ((uint64_t)1 << 24) + 256 * packed;
    HY_CHECK(
        &b->env, whole <= most,
        "too many bytes of carried tensors for the bytes there are; got %llu, expected at most "
        "%llu",
        (unsigned long long)whole, (unsigned long long)most);
    return HYDRA_OK;
}

static const char *const BUNDLE_KEYS[] = {"modules", "tasks", "tensors", "blobs", "configs",
                                          "recipe", "base_model", NULL};
static const char *const CORE_KEYS[] = {"modules", "tensors",    "configs",
                                        "recipe",  "base_model", NULL};
static const char *const TASK_KEYS[] = {"tasks", "blobs", "configs", NULL};
static const char *const BUNDLE_ABOUT[] = {"format", "format_version", "library", "base_model",
                                           "tasks", "checksums", NULL};
static const char *const CORE_ABOUT[] = {"format", "format_version", "library", "base_model",
                                         "checksums", NULL};
static const char *const TASK_ABOUT[] = {"format", "format_version", "core", "checksums", NULL};

static uint64_t file_bytes(const hydra_bundle *b) {
    uint64_t bytes = 0;
    size_t i;
    for (i = 0; i < b->file_count; i++) bytes += b->files[i].reader.size;
    return bytes;
}

hydra_status hy_read_main(hydra_bundle *b, uint32_t index) {
    hy_file *file = b->files + index;
    const hy_json *json = &file->manifest;
    uint32_t streams = 0, blobs, tasks;
    int core = file->kind == HY_CORE;
    HY_TRY(known_keys(&b->env, json, 0, core ? CORE_KEYS : BUNDLE_KEYS, "the manifest"));
    HY_TRY(hy_count_entries(&b->env, json, NULL, &b->entry_sum));
    HY_TRY(hy_check_entries(&b->env, b->entry_sum, core ? file_bytes(b) : file->reader.size));
    HY_TRY(hy_check_config_sizes(&b->env, json, file->reader.size));
    HY_TRY(hy_read_modules(b, json, hy_get(json, 0, "modules")));
    HY_TRY(hy_read_entries(b, json, hy_get(json, 0, "tensors")));
    HY_TRY(hy_read_configs(b, json, hy_get(json, 0, "configs")));
    HY_TRY(check_base_model(b, file));
    HY_TRY(known_keys(&b->env, &file->header, file->metadata, core ? CORE_ABOUT : BUNDLE_ABOUT,
                      "metadata"));
    blobs = hy_get(json, 0, "blobs");
    HY_TRY(hy_read_blobs(b, json, blobs, index, 0));
    HY_TRY(check_places(&b->env, file, b->blob_count, &streams));
    HY_TRY(hy_add_streams(b, index, 1, 1 + streams));
    for (blobs = 0; blobs < b->blob_count; blobs++) b->blobs[blobs].tensor += 2 + streams;
    if (core) {
        HY_CHECK(&b->env, !streams && b->config_count <= 1,
                 "a core holds tasks, or several configs. " AGAIN);
        return HYDRA_OK;
    }
    tasks = hy_get(json, 0, "tasks");
    HY_TRY(hy_read_tasks(b, json, tasks, 0, b->blob_count, 1, HY_NONE, 0, b->config_count));
    HY_TRY(hy_check_canonical(b));
    HY_TRY(check_task_names(b, file));
    return check_blob_sizes(b, 0);
}

int hy_is_of_core(const hydra_bundle *b, uint32_t index) {
    uint32_t about = hy_metadata(b->files + index, "core"),
             node = hy_metadata(b->files, "checksums");
    hy_slice sums = hy_string(&b->files->header, node);
    char digits[17];
    hy_checksum(sums.data, sums.size, digits);
    return about && hy_is(hy_string(&b->files[index].header, about), digits);
}

hydra_status hy_read_part(hydra_bundle *b, uint32_t index) {
    hy_file *file = b->files + index;
    const hy_json *json = &file->manifest;
    uint32_t streams, first_blob = b->blob_count, first_stream = b->stream_count, node, i;
    hy_task *task;
    if (!hy_is_of_core(b, index))
        return hy_fail(&b->env, HYDRA_DAMAGED,
                       "the task of another core than %s. Give the core that it was split from",
                       b->files->name ? b->files->name : "the one that was given");
    HY_TRY(known_keys(&b->env, json, 0, TASK_KEYS, "the manifest"));
    HY_TRY(known_keys(&b->env, &file->header, file->metadata, TASK_ABOUT, "metadata"));
    HY_TRY(hy_count_entries(&b->env, json, &b->files->manifest, &b->entry_sum));
    HY_TRY(hy_check_entries(&b->env, b->entry_sum, file_bytes(b)));
    HY_TRY(hy_read_blobs(b, json, hy_get(json, 0, "blobs"), index, 0));
    HY_TRY(check_places(&b->env, file, b->blob_count - first_blob, &streams));
    HY_CHECK(&b->env, streams <= 1, "a task's file holds %u streams. " AGAIN, (unsigned)streams);
    for (i = first_blob; i < b->blob_count; i++) b->blobs[i].tensor += 1 + streams;
    HY_TRY(hy_add_streams(b, index, 1, streams));
    node = hy_get(json, 0, "configs");
    HY_CHECK(&b->env, !node || (hy_kind(json, node) == HY_LIST && json->nodes[node].size == 1),
             "manifest: configs of a task are no list of one");
    if (!b->config_count) HY_TRY(hy_add_empty_config(b));
    HY_TRY(hy_add_config(b, json, node ? node + 1 : 0));
    i = b->task_count;
    HY_TRY(hy_read_tasks(b, json, hy_get(json, 0, "tasks"), first_blob, b->blob_count - first_blob,
                         first_stream, streams ? first_stream : HY_NONE, b->config_count - 1, 1));
    HY_CHECK(&b->env, b->task_count == i + 1, "manifest: a task's file is to have one task");
    task = b->tasks + i;
    HY_CHECK(&b->env,
             (task->content == HY_NONE) == !streams &&
                 (task->content == HY_NONE || task->content == first_stream) &&
                 task->carried_count == b->blob_count - first_blob,
             "tensors are not those of the manifest. " AGAIN);
    return check_blob_sizes(b, first_blob);
}

/* ---- opening -------------------------------------------------------------------------------- */

hydra_status hydra_open_parts(const hydra_reader *readers, const char *const *names, size_t count,
                              const hydra_options *options, hydra_bundle **bundle,
                              hydra_error *error) {
    hy_env env;
    *bundle = NULL;
    HY_TRY(hy_env_open(&env, options, error));
    return hy_open(readers, names, count, &HY_INTOLERANT, &env, bundle, error);
}

hydra_status hy_take_files(hydra_bundle *b, const hydra_reader *readers, const char *const *names,
                           size_t count, size_t before) {
    size_t i;
    b->files = hy_alloc(&b->env, (uint64_t)before + count, sizeof *b->files);
    if (!b->files) return b->env.error->status;
    b->file_count = before + count;
    for (i = 0; i < count; i++) {
        size_t size = names && names[i] ? strlen(names[i]) + 1 : 0;
        char *name = size ? hy_arena_alloc(&b->env, &b->arena, size, 1) : NULL;
        if (size && !name) return b->env.error->status;
        b->files[before + i].reader = readers[i];
        b->files[before + i].name = size ? memcpy(name, names[i], size) : NULL;
    }
    return HYDRA_OK;
}

hydra_status hy_check_starts(hydra_bundle *b) {
    uint64_t whole = 0, most = ((uint64_t)1 << 24) + 4096 * b->stream_bytes;
    uint32_t i;
    for (i = 0; i < b->task_count; i++)
        if (b->tasks[i].content != HY_NONE)
            b->streams[b->tasks[i].content].start_numbers = b->tasks[i].start_numbers;
    for (i = 0; i < b->stream_count; i++) whole += b->streams[i].start_numbers;
    if (whole > most)
        return hy_fail(&b->env, HYDRA_DAMAGED,
                       "too many numbers of starts for the bytes there are; got %llu, expected at "
                       "most %llu",
                       (unsigned long long)whole, (unsigned long long)most);
    return HYDRA_OK;
}

void hy_set_most_numbers(hydra_bundle *b) {
    b->most_numbers = ((uint64_t)1 << 20) + 128 * b->stream_bytes;
    b->limits_numbers = b->env.limits.numbers && b->most_numbers > b->env.limits.numbers;
    if (b->limits_numbers) b->most_numbers = b->env.limits.numbers;
}

hydra_status hy_open(const hydra_reader *readers, const char *const *names, size_t count,
                     const hy_tolerance *tolerance, const hy_env *given, hydra_bundle **bundle,
                     hydra_error *error) {
    hydra_error problem;
    hy_env env = *given;
    hydra_bundle *b = NULL;
    hydra_status status = HYDRA_OK;
    *bundle = NULL;
    env.error = &problem;
    clear(&problem);
    if (!count || count >= HY_NONE)
        status =
            hy_fail(&env, HYDRA_USAGE, "%llu files are no bundle", (unsigned long long)count);
    else if ((b = hy_alloc(&env, 1, sizeof *b)) == NULL)
        status = problem.status;
    if (status) return report(error, status, &problem);
    b->env = env;
    status = hy_take_files(b, readers, names, count, 0);
    if (!status) status = hy_open_files(b, tolerance);
    if (!status) status = hy_check_starts(b);
    hy_set_most_numbers(b);
    b->env.where = count == 1 && !status ? b->files->name : NULL;
    b->env.error = &b->env.own; /* calls bring theirs */
    if (status) hydra_close(b);
    else *bundle = b;
    return report(error, status, &problem);
}

hydra_status hydra_open(const hydra_reader *reader, const hydra_options *options,
                        hydra_bundle **bundle, hydra_error *error) {
    return hydra_open_parts(reader, NULL, 1, options, bundle, error);
}

hydra_status hydra_open_memory(const void *data, size_t size, const hydra_options *options,
                               hydra_bundle **bundle, hydra_error *error) {
    hydra_reader reader;
    reader.read_at = hy_read_memory;
    reader.user = (void *)(uintptr_t)data;
    reader.size = size;
    return hydra_open(&reader, options, bundle, error);
}

/* Files, configs, blobs and tasks, unless they are another bundle's. */
static void close_contents(hydra_bundle *b) {
    size_t i;
    if (b->origin && b->files == b->origin->files) return;
    /* The first file of several over another bundle's core is that core. */
    for (i = b->origin != NULL; i < b->file_count; i++) hy_file_close(&b->env, b->files + i);
    hy_free(&b->env, b->files, b->file_count, sizeof *b->files);
    for (i = b->borrowed_configs; i < b->config_count; i++) hy_text_close(b->configs + i);
    hy_free(&b->env, b->configs, b->config_room, sizeof *b->configs);
    hy_free(&b->env, b->blobs, b->blob_room, sizeof *b->blobs);
    hy_free(&b->env, b->tasks, b->task_room, sizeof *b->tasks);
}

void hydra_close(hydra_bundle *b) {
    hy_env env;
    size_t i;
    if (!b) return;
    if (b->calls) {
        b->closed = 1;
        return;
    }
    hy_core_close(b);
    hy_states_drop(b);
    close_contents(b);
    for (i = 0; i < b->stream_count; i++)
        hy_free(&b->env, b->streams[i].parts, b->streams[i].part_count, sizeof(uint32_t));
    hy_free(&b->env, b->streams, b->stream_room, sizeof *b->streams);
    hy_arena_close(&b->env, &b->arena);
    if (b->on_close) b->on_close(b->on_close_user);
    env = b->env;
    hy_free(&env, b, 1, sizeof *b);
}
