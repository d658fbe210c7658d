/* What an open bundle holds, for whoever asks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"

const char *hydra_version(void) { return HYDRA_VERSION; }
size_t hydra_task_count(const hydra_bundle *b) { return b->task_count; }
const char *hydra_base_model(const hydra_bundle *b) { return b->base_model.data; }
const char *hydra_library(const hydra_bundle *b) { return b->library.data; }

hydra_status hy_task_of(const hydra_bundle *b, hydra_task task, const hy_task **found,
                        hydra_error *error) {
    if (task >= b->task_count)
        return hy_fail_in(error, HYDRA_USAGE, "no task has index %llu; there are %u",
                          (unsigned long long)task, (unsigned)b->task_count);
    *found = b->tasks + task;
    return HYDRA_OK;
}

hydra_status hydra_describe(const hydra_bundle *b, hydra_task task, hydra_task_info *info,
                            hydra_error *error) {
    const hy_task *x = NULL;
    hydra_task_info own;
    uint32_t i;
    HY_TRY(hy_task_of(b, task, &x, error));
    memset(&own, 0, sizeof own);
    own.name = x->name.data;
    own.base_model = x->base_model.data ? x->base_model.data : b->base_model.data;
    own.format = HY_FORMATS[x->format];
    own.dtype = HY_DTYPES[x->dtype];
    own.error = x->error;
    own.lossless = x->lossless;
    own.modules = x->modules.count;
    own.tensors = x->tensors.count;
    own.carried = x->carried_items;
    if (x->content != HY_NONE) {
        const hy_stream *stream = b->streams + x->content;
        own.stream_bytes = b->files[stream->file].places[stream->tensor].size;
    }
    for (i = 0; i < x->carried_count; i++) {
        const hy_blob *blob = b->blobs + x->carried[i];
        own.carried_bytes += b->files[blob->file].places[blob->tensor].size;
    }
    own.harm_likely = x->has_harm ? x->likely : -1;
    return hy_write_sized(info, &own, sizeof own, "hydra_task_info", error);
}

hydra_status hydra_find(const hydra_bundle *b, const char *name, hydra_task *task,
                        hydra_error *error) {
    hy_slice key = hy_slice_of(name);
    const hy_task *found = NULL;
    if (b->task_count)
        found = bsearch(&key, b->tasks, b->task_count, sizeof *b->tasks, hy_compare);
    if (!found) {
        char some[256] = "";
        int used = 0;
        uint32_t i;
        for (i = 0; i < 3 && i < b->task_count; i++)
            used += snprintf(some + used, sizeof some - (size_t)used, "%s%.60s", i ? ", " : "",
                             b->tasks[i].name.data);
        if (i < b->task_count)
            snprintf(some + used, sizeof some - (size_t)used,
                     " and %u more. \"hydra list\" names all", (unsigned)(b->task_count - i));
        return hy_fail_in(error, HYDRA_NOT_THERE,
                          "no such task; got '%.100s', expected one of %u: %s", name,
                          (unsigned)b->task_count, some);
    }
    *task = (hydra_task)(found - b->tasks);
    return HYDRA_OK;
}

void hy_module_info(const hydra_bundle *b, const hy_task *task, uint32_t index,
                    hydra_module_info *info) {
    const hy_module *x = b->modules + hy_nth(&task->modules, index);
    memset(info, 0, sizeof *info);
    info->struct_size = sizeof *info;
    info->path = x->path.data;
    info->kind = HY_MODULE_KINDS[x->kind];
    info->layout = HY_LAYOUTS[x->layout];
    info->m = x->m, info->n = x->n;
    info->group = x->group, info->groups = x->groups;
    info->error = hy_error_of(task->errors[index]);
}

hydra_status hydra_describe_module(const hydra_bundle *b, hydra_task task, size_t index,
                                   hydra_module_info *info, hydra_error *error) {
    const hy_task *x = NULL;
    hydra_module_info own;
    HY_TRY(hy_task_of(b, task, &x, error));
    if (index >= x->modules.count)
        return hy_fail_in(error, HYDRA_USAGE, "'%s' has no module %llu; it has %u", x->name.data,
                          (unsigned long long)index, (unsigned)x->modules.count);
    hy_module_info(b, x, (uint32_t)index, &own);
    return hy_write_sized(info, &own, sizeof own, "hydra_module_info", error);
}

hydra_status hydra_config(hydra_bundle *b, hydra_task task, const char **json, hydra_error *error) {
    const hy_task *x = NULL;
    HY_TRY(hy_task_of(b, task, &x, error));
    *json = b->configs[x->config].data;
    return HYDRA_OK;
}
