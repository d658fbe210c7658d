/* Opens bundles that share the contents and the decoded core of another one. */
#include <string.h>

#include "core.h"

/* Takes over what no call changes. */
static void borrow(hydra_bundle *b, const hydra_bundle *of) {
    b->origin = of;
    b->files = of->files, b->file_count = of->file_count;
    b->modules = of->modules, b->module_count = of->module_count;
    b->entries = of->entries, b->entry_count = of->entry_count;
    b->blobs = of->blobs, b->blob_count = of->blob_count;
    b->configs = of->configs, b->config_count = of->config_count;
    b->tasks = of->tasks, b->task_count = of->task_count;
    b->base_model = of->base_model, b->library = of->library;
    b->stream_bytes = of->stream_bytes;
    b->core = of->core;
    b->env.where = of->file_count == 1 ? of->files->name : NULL;
}

/* Copies the streams, because calls count in them. */
static hydra_status copy_streams(hydra_bundle *b, const hydra_bundle *of) {
    uint32_t i;
    b->streams = hy_alloc(&b->env, of->stream_count, sizeof *b->streams);
    if (!b->streams) return b->env.error->status;
    b->stream_count = b->stream_room = of->stream_count;
    for (i = 0; i < of->stream_count; i++) {
        b->streams[i].file = of->streams[i].file;
        b->streams[i].tensor = of->streams[i].tensor;
    }
    return HYDRA_OK;
}

/* Leaves the core of `of` alone, without its tasks. */
static hydra_status take_core(hydra_bundle *b, const hydra_bundle *of) {
    if (of->files->kind != HY_CORE)
        return hy_fail(&b->env, HYDRA_USAGE,
                       "a whole bundle takes no task files; open the core that they belong to");
    b->files = NULL, b->file_count = 0;
    b->blobs = NULL, b->blob_count = 0;
    b->tasks = NULL, b->task_count = 0;
    b->stream_bytes = 0;
    b->configs = NULL, b->config_count = 0;
    if (!of->config_count) return HYDRA_OK;
    if (!hy_grow(&b->env, &b->configs, 0, &b->config_room, sizeof *b->configs))
        return b->env.error->status;
    b->configs[0] = of->configs[0];
    b->config_count = b->borrowed_configs = 1;
    return HYDRA_OK;
}

static hydra_status share(hydra_bundle *b, const hydra_bundle *of, const hydra_reader *readers,
                          const char *const *names, size_t count) {
    borrow(b, of);
    if (!count) return copy_streams(b, of);
    HY_TRY(take_core(b, of));
    HY_TRY(hy_take_files(b, readers, names, count, 1));
    b->files[0] = of->files[0];
    HY_TRY(hy_count_entries(&b->env, &b->files->manifest, NULL, &b->entry_sum));
    HY_TRY(hy_add_streams(b, 0, 1, 1));
    HY_TRY(hy_open_tasks(b, &HY_INTOLERANT));
    return hy_check_starts(b);
}

hydra_status hydra_share(const hydra_bundle *of, const hydra_reader *readers,
                         const char *const *names, size_t count, const hydra_options *options,
                         hydra_bundle **bundle, hydra_error *error) {
    hydra_error problem;
    hydra_bundle *b;
    hy_env env;
    hydra_status status;
    *bundle = NULL;
    if (error == NULL) error = &problem;
    HY_TRY(hy_env_open(&env, options, error));
    b = hy_alloc(&env, 1, sizeof *b);
    if (!b) return error->status;
    b->env = env;
    status = share(b, of, readers, names, count);
    hy_set_most_numbers(b);
    b->env.error = &b->env.own;
    if (status) hydra_close(b);
    else *bundle = b;
    return status;
}
