/* Files of the system: exports, which appear whole. */
#ifndef HYDRA_NO_FILES
#include "posix.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
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

void hydra_remove_scratch(const char *scratch) {
    static const char *const names[] = {"adapter_model.safetensors", "adapter_config.json",
                                        "README.md"};
    /* Not through a link: others may make one of this name where all may write. */
    int folder = open(scratch, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    size_t i;
    if (folder >= 0) {
        for (i = 0; i < 3; i++) unlinkat(folder, names[i], 0);
        close(folder);
    }
    if (unlink(scratch)) rmdir(scratch);
}

/* Removes what processes that have ended left of exports to the same output. */
static void remove_dead(const char *scratch) {
    const char *slash = strrchr(scratch, '/'), *name = slash ? slash + 1 : scratch;
    size_t size = (size_t)(strrchr(name, '-') - name) + 1;
    int before = (int)(name - scratch);
    char path[2 * HY_MOST_PATH];
    struct dirent *entry;
    DIR *dir;
    snprintf(path, sizeof path, "%.*s", before, scratch);
    dir = opendir(before ? path : ".");
    while (dir && (entry = readdir(dir)) != NULL) {
        const char *pid = entry->d_name + size;
        if (strncmp(entry->d_name, name, size) || !*pid || strlen(pid) > 9 ||
            pid[strspn(pid, "0123456789")] || !kill((pid_t)atol(pid), 0) || errno != ESRCH)
            continue;
        snprintf(path, sizeof path, "%.*s%s", before, scratch, entry->d_name);
        hydra_remove_scratch(path);
    }
    if (dir) closedir(dir);
}

hydra_status hydra_scratch(const char *output, char *scratch, size_t room, hydra_error *error) {
    size_t size = strlen(output), at;
    while (size > 1 && output[size - 1] == '/') size--;
    if (!size || size + 32 > room || size + 32 > HY_MOST_PATH)
        return hy_fail_in(error, HYDRA_USAGE, "a path that is empty or too long");
    for (at = size; at && output[at - 1] != '/';) at--;
    memcpy(scratch, output, at);
    scratch[at] = 0;
    if (at && access(scratch, F_OK) && errno == ENOENT)
        return hy_fail_in(error, HYDRA_NOT_THERE,
                          "%.200s: its folder is not there. Make the folder %.200s first", output,
                          scratch);
    snprintf(scratch + at, room - at, ".%.*s.tmp-%ld", (int)(size - at), output + at,
             (long)getpid());
    remove_dead(scratch);
    return HYDRA_OK;
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
    HY_TRY(hydra_scratch(folder, target.folder, sizeof target.folder, error));
    hydra_remove_scratch(target.folder);
    if (mkdir(target.folder, 0777)) return hy_io(error, "cannot be made", folder);
    status =
        with_reason(hydra_write_peft(bundle, task, options, &sink, error), &target, folder, error);
    if (target.stream) fclose(target.stream);
    if (!status) {
        rmdir(folder); /* an empty one; rename wants none in some systems */
        if (rename(target.folder, folder)) status = hy_io(error, "cannot be put in place", folder);
    }
    if (status) hydra_remove_scratch(target.folder);
    return status;
}

hydra_status hydra_write_gguf_file(hydra_bundle *bundle, hydra_task task,
                                   const hydra_gguf_options *options, const char *file,
                                   hydra_error *error) {
    Target target;
    hydra_sink sink = sink_of(&target);
    hydra_status status;
    memset(&target, 0, sizeof target);
    HY_TRY(hydra_scratch(file, target.file, sizeof target.file, error));
    if (!access(file, F_OK))
        return hy_fail_in(error, HYDRA_USAGE, "%s: file is there already. Give another name", file);
    hydra_remove_scratch(target.file);
    status =
        with_reason(hydra_write_gguf(bundle, task, options, &sink, error), &target, file, error);
    if (target.stream) fclose(target.stream);
    if (!status && rename(target.file, file)) status = hy_io(error, "cannot be put in place", file);
    if (status) hydra_remove_scratch(target.file);
    return status;
}
#else
typedef int hy_no_files; /* C wants a declaration */
#endif
