/* Files of the system: what of the library needs stdio, and folders where POSIX is. */
#ifndef HYDRA_NO_FILES
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#else
#error \
    "files.c is for POSIX; build with HYDRA_NO_FILES and use hydra_open and hydra_write_peft"
#endif

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bundle.h"

enum { MOST_PATH = 4096 };

static hydra_status io(hydra_error *error, const char *what, const char *path) {
    return hy_fail_in(error, errno == ENOENT ? HYDRA_NOT_THERE : HYDRA_IO, "%s: %s; got %s", path,
                      what, strerror(errno));
}

/* ---- reading -------------------------------------------------------------------------------- */

static int read_fd(void *user, uint64_t offset, void *buffer, size_t size) {
    int fd = (int)(intptr_t)user;
    char *out = buffer;
    while (size) {
        ssize_t some = pread(fd, out, size, (off_t)offset);
        if (some < 0 && errno == EINTR) continue;
        if (some <= 0) return -1;
        out += some, size -= (size_t)some, offset += (uint64_t)some;
    }
    return 0;
}

static hydra_status open_reader(const char *path, hydra_reader *reader, hydra_error *error) {
    struct stat about;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return io(error, "cannot be opened", path);
    if (fstat(fd, &about) || !S_ISREG(about.st_mode)) {
        close(fd);
        return hy_fail_in(error, HYDRA_IO, "%s: not a regular file", path);
    }
    reader->read_at = read_fd;
    reader->user = (void *)(intptr_t)fd;
    reader->size = (uint64_t)about.st_size;
    return HYDRA_OK;
}

/* Files that are open as long as their bundle is. */
typedef struct {
    hydra_reader *readers;
    char **names;
    size_t count, room;
} Opened;

static void close_all(void *user) {
    Opened *opened = user;
    size_t i;
    for (i = 0; i < opened->count; i++) {
        close((int)(intptr_t)opened->readers[i].user);
        free(opened->names[i]);
    }
    free(opened->readers);
    free(opened->names);
    free(opened);
}

static hydra_status add_file(Opened *opened, const char *path, hydra_error *error) {
    hydra_reader reader;
    if (opened->count == opened->room) {
        size_t room = 2 * opened->room + 4;
        hydra_reader *readers = realloc(opened->readers, room * sizeof *readers);
        char **names;
        if (readers) opened->readers = readers;
        names = readers ? realloc(opened->names, room * sizeof *names) : NULL;
        if (!names) return hy_fail_in(error, HYDRA_MEMORY, "no memory is left");
        opened->names = names;
        opened->room = room;
    }
    HY_TRY(open_reader(path, &reader, error));
    opened->names[opened->count] = malloc(strlen(path) + 1);
    if (!opened->names[opened->count]) {
        close((int)(intptr_t)reader.user);
        return hy_fail_in(error, HYDRA_MEMORY, "no memory is left");
    }
    strcpy(opened->names[opened->count], path);
    opened->readers[opened->count++] = reader;
    return HYDRA_OK;
}

static int ends_with(const char *text, const char *end) {
    size_t a = strlen(text), b = strlen(end);
    return a >= b && !strcmp(text + a - b, end);
}

/* The core and the tasks of a folder; if a core is named, that one alone. */
static hydra_status add_folder(Opened *opened, const char *folder, const char *core,
                               hydra_error *error) {
    DIR *dir = opendir(folder);
    struct dirent *entry;
    hydra_status status = HYDRA_OK;
    char path[MOST_PATH];
    if (!dir) return io(error, "cannot be opened", folder);
    while (!status && (entry = readdir(dir)) != NULL) {
        int task = ends_with(entry->d_name, ".task.safetensors");
        if (!task && (core || !ends_with(entry->d_name, ".core.safetensors"))) continue;
        if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) >= sizeof path)
            continue;
        status = add_file(opened, path, error);
    }
    closedir(dir);
    if (!status && core) status = add_file(opened, core, error);
    if (!status && !opened->count)
        status = hy_fail_in(error, HYDRA_NOT_THERE,
                            "%s: a folder without a core; expected NAME.core.safetensors and "
                            "TASK.task.safetensors", folder);
    return status;
}

hydra_status hydra_open_path(const char *path, const hydra_options *options, hydra_bundle **bundle,
                             hydra_error *error) {
    struct stat about;
    Opened *opened = calloc(1, sizeof *opened);
    hydra_status status;
    char folder[MOST_PATH];
    const char *slash = strrchr(path, '/');
    int beside = 0; /* the tasks beside a core that was named */
    *bundle = NULL;
    if (!opened) return hy_fail_in(error, HYDRA_MEMORY, "no memory is left");
    if (stat(path, &about)) {
        status = io(error, "cannot be opened", path);
    } else if (S_ISDIR(about.st_mode)) {
        status = add_folder(opened, path, NULL, error);
    } else if (ends_with(path, ".core.safetensors") && strlen(path) < sizeof folder) {
        strcpy(folder, slash ? path : ".");
        if (slash) folder[slash == path ? 1 : slash - path] = 0;
        beside = 1;
        status = add_folder(opened, folder, path, error);
    } else {
        status = add_file(opened, path, error);
    }
    if (!status)
        status = hy_open(opened->readers, (const char *const *)opened->names, opened->count, beside,
                         options, bundle, error);
    if (status) {
        close_all(opened);
        return status;
    }
    (*bundle)->on_close = close_all;
    (*bundle)->on_close_user = opened;
    return HYDRA_OK;
}

/* ---- writing -------------------------------------------------------------------------------- */

typedef struct {
    char folder[MOST_PATH], file[MOST_PATH]; /* file: if one alone is written */
    FILE *stream;
    int error;
} Target;

static int begin(void *user, const char *name, uint64_t size) {
    Target *t = user;
    char path[2 * MOST_PATH];
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
    char plain[MOST_PATH];
    while (size > 1 && target[size - 1] == '/') size--;
    if (!size || size + 32 >= MOST_PATH)
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
    char path[2 * MOST_PATH];
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
    if (mkdir(target.folder, 0777)) return io(error, "cannot be made", folder);
    status =
        with_reason(hydra_write_peft(bundle, task, options, &sink, error), &target, folder, error);
    if (target.stream) fclose(target.stream);
    if (!status) {
        rmdir(folder); /* an empty one; rename wants none in some systems */
        if (rename(target.folder, folder)) status = io(error, "cannot be put in place", folder);
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
    if (!status && rename(target.file, file)) status = io(error, "cannot be put in place", file);
    if (status) unlink(target.file);
    return status;
}
#endif
