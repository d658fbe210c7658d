/* Files of the system: bundles, and folders of a core and its tasks. */
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

hydra_status hy_io(hydra_error *error, const char *what, const char *path) {
    return hy_fail_in(error, errno == ENOENT ? HYDRA_NOT_THERE : HYDRA_IO, "%s: %s; got %s", path,
                      what, strerror(errno));
}

#define CORE ".core.safetensors"
#define TASK ".task.safetensors"

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
    File **last = file->owner->open + ends_with(file->path, TASK);
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

static void drop_last(Opened *opened) {
    File *file = opened->readers[--opened->count].user;
    File **last = opened->open + ends_with(file->path, TASK);
    if (*last == file) *last = NULL;
    close_file(file);
    free(file->path);
    free(file);
}

static void close_all(void *user) {
    Opened *opened = user;
    while (opened->count) drop_last(opened);
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
    if (open_file(file, &about)) return hy_io(error, "cannot be opened", path);
    if (!S_ISREG(about.st_mode))
        return hy_fail_in(error, HYDRA_IO, "%s: not a regular file", path);
    file->size = (uint64_t)about.st_size;
    file->changed = about.st_mtime;
    reader->size = file->size;
    return HYDRA_OK;
}

static int is_task(const struct dirent *entry) { return ends_with(entry->d_name, TASK); }

static int is_part(const struct dirent *entry) {
    return is_task(entry) || ends_with(entry->d_name, CORE);
}

/* Cores first. Of task files the shorter name first, which is not the one of a copy. */
static int by_place(const struct dirent **one, const struct dirent **other) {
    const char *a = (*one)->d_name, *b = (*other)->d_name;
    int order = is_task(*one) - is_task(*other);
    if (!order) order = (strlen(a) > strlen(b)) - (strlen(a) < strlen(b));
    return order ? order : strcmp(a, b);
}

/* Whether a task's file may hold that task, by its name: TASK, or TASK~2 where that was taken. */
static int may_hold(const char *file, const char *task) {
    const char *rest = file + strlen(task);
    if (strncmp(file, task, strlen(task))) return 0;
    if (*rest == '~') rest += 1 + strspn(rest + 1, "0123456789");
    return !strcmp(rest, TASK);
}

/* A task's file that cannot be opened, left out where that is tolerated. */
static hydra_status add_task(Opened *opened, const char *path, const hy_tolerance *t,
                             hydra_error *error) {
    hydra_status status = add_file(opened, path, error);
    if (!status || t->kept == HY_NONE || status == HYDRA_MEMORY) return status;
    if (t->left_out) t->left_out(t->user, error);
    drop_last(opened);
    return HYDRA_OK;
}

/* The core and the tasks of a folder. core: the one that is meant, or NULL. task: the one that is
 * wanted, or NULL for all. */
static hydra_status add_folder(Opened *opened, const char *folder, const char *core,
                               const char *task, hy_tolerance *t, hydra_error *error) {
    struct dirent **entries;
    int count = scandir(folder, &entries, is_part, by_place), cores = core != NULL, i;
    hydra_status status = HYDRA_OK;
    char path[HY_MOST_PATH];
    if (count < 0) return hy_io(error, "cannot be opened", folder);
    if (core) status = add_file(opened, core, error);
    for (i = 0; i < count; i++) {
        const char *name = entries[i]->d_name;
        int fits = snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path;
        if (fits && !status && is_task(entries[i])) {
            if (!task || may_hold(name, task)) status = add_task(opened, path, t, error);
        } else if (fits && !status && !core) {
            status = add_file(opened, path, error);
            cores++;
        }
        free(entries[i]);
    }
    free(entries);
    if (t->kept != HY_NONE) t->kept = (uint32_t)cores;
    if (!status && !cores)
        status = hy_fail_in(error, HYDRA_NOT_THERE,
                            "%s: a folder without a core; expected NAME" CORE " and NAME" TASK,
                            folder);
    return status;
}

static hydra_status open_at(const char *path, const char *task, hy_tolerance t,
                            const hydra_options *options, hydra_bundle **bundle,
                            hydra_error *error) {
    struct stat about;
    Opened *opened = calloc(1, sizeof *opened);
    hydra_status status;
    char folder[HY_MOST_PATH];
    const char *slash = strrchr(path, '/');
    *bundle = NULL;
    if (!opened) return hy_fail_in(error, HYDRA_MEMORY, "no memory is left");
    if (stat(path, &about)) {
        status = hy_io(error, "cannot be opened", path);
    } else if (S_ISDIR(about.st_mode)) {
        status = add_folder(opened, path, NULL, task, &t, error);
    } else if (ends_with(path, CORE) && strlen(path) < sizeof folder) {
        strcpy(folder, slash ? path : ".");
        if (slash) folder[slash == path ? 1 : slash - path] = 0;
        t.strangers = 1;
        status = add_folder(opened, folder, path, task, &t, error);
    } else {
        t.kept = HY_NONE;
        status = add_file(opened, path, error);
    }
    if (!status)
        status = hy_open(opened->readers, opened->names, opened->count, &t, options, bundle,
                         error);
    if (status) {
        close_all(opened);
        return status;
    }
    (*bundle)->on_close = close_all;
    (*bundle)->on_close_user = opened;
    return HYDRA_OK;
}

hydra_status hydra_open_path(const char *path, const hydra_options *options, hydra_bundle **bundle,
                             hydra_error *error) {
    static const hy_tolerance none = {0, HY_NONE, NULL, NULL};
    return open_at(path, NULL, none, options, bundle, error);
}

hydra_status hydra_open_readable(const char *path, const char *task, const hydra_options *options,
                                 void (*left_out)(void *user, const hydra_error *error),
                                 void *user, hydra_bundle **bundle, hydra_error *error) {
    hy_tolerance t = {0, 0, NULL, NULL};
    hydra_task found;
    hydra_error own;
    if (!error) error = &own;
    if (task && !open_at(path, task, t, options, bundle, error)) {
        if (!hydra_find(*bundle, task, &found, error)) return HYDRA_OK;
        hydra_close(*bundle);
    }
    t.left_out = left_out, t.user = user;
    return open_at(path, NULL, t, options, bundle, error);
}
#else
typedef int hy_no_files; /* C wants a declaration */
#endif
