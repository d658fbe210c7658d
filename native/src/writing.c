/* Files of the system: exports, which appear whole. */
#ifndef HYDRA_NO_FILES
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bundle.h"

typedef struct {
    char folder[HY_MOST_PATH], file[HY_MOST_PATH]; /* file: if one alone is written */
    FILE *stream;
    int error;
} Target;

static int begin(void *user, const char *name, uint64_t size) {
    Target *t = user;
    char path[2 * HY_MOST_PATH];
    int fd;
    (void)size;
    if (t->file[0]) strcpy(path, t->file);
    else snprintf(path, sizeof path, "%s/%s", t->folder, name);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    t->stream = fd < 0 ? NULL : fdopen(fd, "wb");
    if (!t->stream) t->error = errno;
    return t->stream ? 0 : -1;
}

static int write_some(void *user, const void *data, size_t size) {
    Target *t = user;
    if (!size || fwrite(data, 1, size, t->stream) == size) return 0;
    t->error = errno;
    return -1;
}

static int end(void *user) {
    Target *t = user;
    int failed = fflush(t->stream) || fsync(fileno(t->stream));
    if (failed) t->error = errno;
    if (fclose(t->stream)) failed = 1, t->error = errno;
    t->stream = NULL;
    return failed ? -1 : 0;
}

static hydra_sink sink_of(Target *target) {
    hydra_sink sink;
    sink.begin = begin;
    sink.write = write_some;
    sink.end = end;
    sink.user = target;
    return sink;
}

/* A scratch name beside the target. */
static hydra_status scratch_name(const char *target, char *out, hydra_error *error) {
    size_t size = strlen(target), at;
    const char *slash;
    char plain[HY_MOST_PATH];
    while (size > 1 && target[size - 1] == '/') size--;
    if (!size || size + 32 >= HY_MOST_PATH)
        return hy_fail_in(error, HYDRA_USAGE, "a path that is empty or too long");
    memcpy(plain, target, size);
    plain[size] = 0;
    slash = strrchr(plain, '/');
    at = slash ? (size_t)(slash - plain) + 1 : 0;
    memcpy(out, plain, at);
    out[at] = 0;
    if (at && access(out, F_OK) && errno == ENOENT)
        return hy_fail_in(error, HYDRA_NOT_THERE,
                          "%.200s: its folder is not there. Make the folder %.200s first", target,
                          out);
    out[at] = '.';
    memcpy(out + at + 1, plain + at, size - at);
    snprintf(out + size + 1, 31, ".tmp-%ld", (long)getpid());
    return HYDRA_OK;
}

static void clear(const char *folder) {
    static const char *const names[] = {"adapter_model.safetensors", "adapter_config.json",
                                        "README.md"};
    char path[2 * HY_MOST_PATH];
    size_t i;
    for (i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

static hydra_status check_free(const char *folder, hydra_error *error) {
    DIR *dir = opendir(folder);
    struct dirent *entry;
    int files = 0;
    if (!dir && errno == ENOENT) return HYDRA_OK;
    if (!dir)
        return hy_fail_in(error, HYDRA_USAGE, "%s: something is in the way of the folder", folder);
    while ((entry = readdir(dir)) != NULL)
        files += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
    closedir(dir);
    if (files)
        return hy_fail_in(error, HYDRA_USAGE, "%s: folder has files in it. Give another name",
                          folder);
    return HYDRA_OK;
}

static hydra_status with_reason(hydra_status status, const Target *target, const char *path,
                                hydra_error *error) {
    if (status == HYDRA_IO && target->error)
        return hy_fail_in(error, HYDRA_IO, "%s: cannot be written; got %s", path,
                          strerror(target->error));
    return status;
}

hydra_status hydra_write_peft_folder(hydra_bundle *bundle, hydra_task task,
                                     const hydra_peft_options *options, const char *folder,
                                     hydra_error *error) {
    Target target;
    hydra_sink sink = sink_of(&target);
    hydra_status status;
    memset(&target, 0, sizeof target);
    HY_TRY(check_free(folder, error));
    HY_TRY(scratch_name(folder, target.folder, error));
    clear(target.folder);
    if (mkdir(target.folder, 0777)) return hy_io(error, "cannot be made", folder);
    status =
        with_reason(hydra_write_peft(bundle, task, options, &sink, error), &target, folder, error);
    if (target.stream) fclose(target.stream);
    if (!status) {
        rmdir(folder); /* an empty one; rename wants none in some systems */
        if (rename(target.folder, folder)) status = hy_io(error, "cannot be put in place", folder);
    }
    if (status) clear(target.folder);
    return status;
}

hydra_status hydra_write_gguf_file(hydra_bundle *bundle, hydra_task task,
                                   const hydra_gguf_options *options, const char *file,
                                   hydra_error *error) {
    Target target;
    hydra_sink sink = sink_of(&target);
    hydra_status status;
    memset(&target, 0, sizeof target);
    HY_TRY(scratch_name(file, target.file, error));
    if (!access(file, F_OK))
        return hy_fail_in(error, HYDRA_USAGE, "%s: file is there already. Give another name", file);
    unlink(target.file);
    status =
        with_reason(hydra_write_gguf(bundle, task, options, &sink, error), &target, file, error);
    if (target.stream) fclose(target.stream);
    if (!status && rename(target.file, file)) status = hy_io(error, "cannot be put in place", file);
    if (status) unlink(target.file);
    return status;
}
#else
typedef int hy_no_files; /* C wants a declaration */
#endif
