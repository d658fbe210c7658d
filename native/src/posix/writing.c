/* Files of the system: exports. */
#include "posix.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"

/* The output of an export: files of a folder, or one file. */
typedef struct {
    const char *path;
    int is_folder, sync, error; /* error: errno of what failed */
    FILE *stream;
} Target;

static hydra_status path_of(char *path, const Target *t, const char *name) {
    int size = snprintf(path, HY_MOST_PATH, t->is_folder ? "%s/%s" : "%s", t->path, name);
    return size < HY_MOST_PATH ? HYDRA_OK : HYDRA_USAGE;
}

static int begin_target(void *user, const char *name, uint64_t size) {
    Target *t = user;
    char path[HY_MOST_PATH];
    int fd;
    (void)size;
    if (path_of(path, t, name)) return t->error = ENAMETOOLONG, -1;
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    t->stream = fd < 0 ? NULL : fdopen(fd, "wb");
    if (!t->stream) t->error = errno;
    return t->stream ? 0 : -1;
}

static int write_target(void *user, const void *data, size_t size) {
    Target *t = user;
    if (!size || fwrite(data, 1, size, t->stream) == size) return 0;
    t->error = errno;
    return -1;
}

static int end_target(void *user) {
    Target *t = user;
    int failed = fflush(t->stream) || (t->sync && fsync(fileno(t->stream)));
    if (failed) t->error = errno;
    if (fclose(t->stream)) failed = 1, t->error = errno;
    t->stream = NULL;
    return failed ? -1 : 0;
}

static hydra_sink sink_of(Target *target, const char *path, int is_folder) {
    hydra_sink sink;
    memset(target, 0, sizeof *target);
    target->path = path;
    target->is_folder = is_folder;
    sink.begin = begin_target;
    sink.write = write_target;
    sink.end = end_target;
    sink.user = target;
    return sink;
}

/* Ends a failed export: nothing is left of it. */
static hydra_status finish(Target *t, hydra_status status, hydra_error *error) {
    static const char *const names[] = {"adapter_model.safetensors", "adapter_config.json"};
    char path[HY_MOST_PATH];
    size_t i;
    if (t->stream) fclose(t->stream);
    if (!status) return HYDRA_OK;
    for (i = 0; i < 2; i++)
        if (t->is_folder && !path_of(path, t, names[i])) unlink(path);
    if (t->is_folder) rmdir(t->path);
    else if (t->error != EEXIST) unlink(t->path); /* else it is of another process */
    if (status == HYDRA_IO && t->error)
        return hy_fail_in(error, HYDRA_IO, "%s: cannot be written; got %s", t->path,
                          strerror(t->error));
    return status;
}

hydra_status hydra_write_peft_folder(hydra_bundle *bundle, hydra_task task,
                                     const hydra_peft_options *options, const char *folder,
                                     hydra_error *error) {
    Target target;
    hydra_sink sink = sink_of(&target, folder, 1);
    hydra_peft_options own;
    if (options) {
        HY_TRY(hy_read_sized(&own, sizeof own, options, "hydra_peft_options", error));
        target.sync = own.sync;
    }
    if (mkdir(folder, 0777))
        return errno != EEXIST ? hy_io(error, "cannot be made", folder)
                               : hy_fail_in(error, HYDRA_USAGE,
                                            "%s: is there already. Give another name", folder);
    return finish(&target, hydra_write_peft(bundle, task, options, &sink, error), error);
}

hydra_status hydra_write_gguf_file(hydra_bundle *bundle, hydra_task task,
                                   const hydra_gguf_options *options, const char *file,
                                   hydra_error *error) {
    Target target;
    hydra_sink sink = sink_of(&target, file, 0);
    hydra_gguf_options own;
    HY_TRY(hy_read_sized(&own, sizeof own, options, "hydra_gguf_options", error));
    target.sync = own.sync;
    if (!access(file, F_OK))
        return hy_fail_in(error, HYDRA_USAGE, "%s: file is there already. Give another name", file);
    return finish(&target, hydra_write_gguf(bundle, task, options, &sink, error), error);
}
