/* Files of the system: what of the library needs stdio, and folders where POSIX is. */
#ifndef HYDRA_NO_FILES
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
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

static int ends_with(const char *text, const char *end) {
    size_t a = strlen(text), b = strlen(end);
    return a >= b && !strcmp(text + a - b, end);
}

typedef struct Opened Opened;

typedef struct {
    Opened *owner;
    char *path;
    int fd; /* -1: not open at present */
    uint64_t size;
    time_t changed;
} File;

/* The files of a bundle. Of all cores one is open at a time, and of all tasks, so that a folder may
 * have more files than a process. */
struct Opened {
    hydra_reader *readers; /* the user of each is its File */
    const char **names;
    size_t count, room;
    File *open[2]; /* a core or a whole bundle; a task */
};

static void close_file(File *file) {
    if (file->fd >= 0) close(file->fd);
    file->fd = -1;
}

/* Opens it in the place of the last one of its kind; 0, or -1 with errno. */
static int open_file(File *file, struct stat *about) {
    File **last = file->owner->open + ends_with(file->path, ".task.safetensors");
    if (*last) close_file(*last);
    *last = NULL;
    file->fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file->fd < 0) return -1;
    *last = file;
    return fstat(file->fd, about);
}

static int read_file(void *user, uint64_t offset, void *buffer, size_t size) {
    File *file = user;
    char *out = buffer;
    struct stat about;
    if (file->fd < 0) {
        if (open_file(file, &about)) return -1;
        if ((uint64_t)about.st_size != file->size || about.st_mtime != file->changed) {
            close_file(file); /* another one by now, with another header */
            return -1;
        }
    }
    while (size) {
        ssize_t some = pread(file->fd, out, size, (off_t)offset);
        if (some < 0 && errno == EINTR) continue;
        if (some <= 0) return -1;
        out += some, size -= (size_t)some, offset += (uint64_t)some;
    }
    return 0;
}

static void close_all(void *user) {
    Opened *opened = user;
    size_t i;
    for (i = 0; i < opened->count; i++) {
        File *file = opened->readers[i].user;
        close_file(file);
        free(file->path);
        free(file);
    }
    free(opened->readers);
    free(opened->names);
    free(opened);
}

/* Room for one more; 0 if there is none. */
static int grow(Opened *opened) {
    size_t room = 2 * opened->room + 4;
    hydra_reader *readers;
    const char **names;
    if (opened->count < opened->room) return 1;
    readers = realloc(opened->readers, room * sizeof *readers);
    if (readers) opened->readers = readers;
    names = readers ? realloc(opened->names, room * sizeof *names) : NULL;
    if (!names) return 0;
    opened->names = names;
    opened->room = room;
    return 1;
}

static hydra_status add_file(Opened *opened, const char *path, hydra_error *error) {
    File *file = grow(opened) ? calloc(1, sizeof *file) : NULL;
    hydra_reader *reader;
    struct stat about;
    if (file) file->path = malloc(strlen(path) + 1);
    if (!file || !file->path) {
        free(file);
        return hy_fail_in(error, HYDRA_MEMORY, "no memory is left");
    }
    strcpy(file->path, path);
    file->owner = opened;
    file->fd = -1;
    opened->names[opened->count] = file->path;
    reader = opened->readers + opened->count++;
    reader->read_at = read_file;
    reader->user = file;
    if (open_file(file, &about)) return io(error, "cannot be opened", path);
    if (!S_ISREG(about.st_mode))
        return hy_fail_in(error, HYDRA_IO, "%s: not a regular file", path);
    file->size = (uint64_t)about.st_size;
    file->changed = about.st_mtime;
    reader->size = file->size;
    return HYDRA_OK;
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
        status = hy_open(opened->readers, opened->names, opened->count, beside, options, bundle,
                         error);
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
#else
typedef int hy_no_files; /* C wants a declaration */
#endif
