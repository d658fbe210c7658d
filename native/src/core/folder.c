/* The files of a bundle: which make it up, and which are left out. */
#include <stdlib.h>

#include "core.h"

#define SECOND "a second core; give one core and its tasks"

const hy_tolerance HY_INTOLERANT = {0, HY_NONE, NULL, NULL};

/* HYDRA_OK if the file may be left out: its error is told. */
static hydra_status leave_out(hydra_bundle *b, const hy_tolerance *t, uint32_t index,
                              hydra_status status) {
    if (index < t->kept || status == HYDRA_MEMORY || status == HYDRA_LIMIT) return status;
    if (t->left_out) t->left_out(t->user, b->env.error);
    b->env.error->status = HYDRA_OK;
    b->env.error->text[0] = 0;
    return HYDRA_OK;
}

/* Opens a file; one that is left out has no tensors. */
static hydra_status open_part(hydra_bundle *b, uint32_t index, const hy_tolerance *t) {
    hy_file *file = b->files + index;
    hydra_status status = hy_file_open(&b->env, &b->arena, file);
    if (!status && (index < t->kept ? file->kind == HY_BUNDLE && b->file_count > 1
                                    : file->kind != HY_TASK))
        status = hy_fail(&b->env, HYDRA_DAMAGED,
                         file->kind == HY_CORE ? SECOND : "a whole bundle; open it alone");
    if (!status) return HYDRA_OK;
    hy_file_close(&b->env, file);
    file->count = 0;
    file->kind = HY_TASK;
    return leave_out(b, t, index, status);
}

/* Adds a task's file; of one that is left out nothing stays. */
static hydra_status add_part(hydra_bundle *b, uint32_t index, const hy_tolerance *t) {
    uint32_t blobs = b->blob_count, streams = b->stream_count, configs = b->config_count,
             tasks = b->task_count;
    uint64_t bytes = b->stream_bytes, entries = b->entry_sum;
    hydra_status status;
    b->env.where = b->files[index].name;
    if (!b->files[index].count || (t->other_cores && !hy_is_of_core(b, index))) return HYDRA_OK;
    status = hy_read_part(b, index);
    if (!status) {
        b->tasks[tasks].file = index;
        return HYDRA_OK;
    }
    HY_TRY(leave_out(b, t, index, status));
    b->blob_count = blobs, b->stream_count = streams, b->task_count = tasks;
    b->stream_bytes = bytes, b->entry_sum = entries;
    while (b->config_count > configs) hy_text_close(b->configs + --b->config_count);
    b->files[index].count = 0;
    return HYDRA_OK;
}

static int by_task_name(const void *one, const void *other) {
    const hy_task *a = one, *b = other;
    int order = hy_compare(a, b);
    return order ? order : (a->file > b->file) - (a->file < b->file);
}

/* Sorted by name; of two of one name the first file's is kept. */
static hydra_status sort_tasks(hydra_bundle *b, const hy_tolerance *t) {
    uint32_t i, count = 0;
    if (b->task_count) qsort(b->tasks, b->task_count, sizeof *b->tasks, by_task_name);
    for (i = 0; i < b->task_count; i++) {
        const hy_task *x = b->tasks + i;
        if (!count || !hy_same(b->tasks[count - 1].name, x->name)) {
            b->tasks[count++] = *x;
            continue;
        }
        b->env.where = b->files[x->file].name;
        HY_TRY(leave_out(b, t, x->file,
                         hy_fail(&b->env, HYDRA_DAMAGED,
                                 "two tasks are named '%s'. Remove the file that is one too many",
                                 x->name.data)));
    }
    b->task_count = count;
    return HYDRA_OK;
}

static hydra_status add_tasks(hydra_bundle *b, const hy_tolerance *t) {
    uint32_t i;
    for (i = 1; i < b->file_count; i++) HY_TRY(add_part(b, i, t));
    return sort_tasks(b, t);
}

hydra_status hy_open_files(hydra_bundle *b, const hy_tolerance *t) {
    uint32_t i, cores = 0, core = 0;
    for (i = 0; i < b->file_count; i++) {
        HY_TRY(open_part(b, i, t));
        if (b->files[i].kind == HY_CORE) cores++, core = i;
    }
    if (b->files->kind == HY_BUNDLE) return hy_read_main(b, 0);
    if (cores != 1) {
        b->env.where = cores ? b->files[core].name : b->files->name;
        return hy_fail(&b->env, HYDRA_USAGE,
                       cores ? SECOND : "a task without its core; give the core file as well");
    }
    if (core) {
        hy_file first = b->files[core];
        b->files[core] = b->files[0];
        b->files[0] = first;
    }
    b->env.where = b->files->name;
    HY_TRY(hy_read_main(b, 0));
    return add_tasks(b, t);
}

hydra_status hy_open_tasks(hydra_bundle *b, const hy_tolerance *t) {
    uint32_t i;
    for (i = 1; i < b->file_count; i++) HY_TRY(open_part(b, i, t));
    return add_tasks(b, t);
}
