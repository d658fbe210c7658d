/* Files of the system: bundles, and folders of a core and its tasks. */
#include "posix.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"

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

typedef struct File {
    char *path;
    int fd; /* of a core or a whole bundle; -1: it is opened for each read */
    uint64_t size;
    time_t changed;
    struct File *next;
} File;

/* The files of a bundle. Task files are opened for each read, so that a folder may have more of
 * them than a process, and threads may read at once. */
typedef struct {
    hy_env *env;           /* the bundle's, once there is one */
    hy_arena arena;        /* of files and paths */
    hydra_reader *readers; /* the user of each is its File */
    const char **names;
    uint32_t count, reader_room, name_room;
    File *first; /* of all, the last that was added */
} Opened;

static int open_again(const char *path) {
    return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

static int read_some(int fd, uint64_t offset, char *out, size_t size) {
    while (size) {
        ssize_t some = pread(fd, out, size, (off_t)offset);
        if (some < 0 && errno == EINTR) continue;
        if (some <= 0) return -1;
        out += some, size -= (size_t)some, offset += (uint64_t)some;
    }
    return 0;
}

static int read_file(void *user, uint64_t offset, void *buffer, size_t size) {
    const File *file = user;
    struct stat about;
    int fd, failed;
    if (file->fd >= 0) return read_some(file->fd, offset, buffer, size);
    fd = open_again(file->path);
    if (fd < 0) return -1;
    /* Whether the file was replaced by one with another header. */
    failed = fstat(fd, &about) || (uint64_t)about.st_size != file->size ||
             about.st_mtime != file->changed || read_some(fd, offset, buffer, size);
    close(fd);
    return failed;
}

/* Frees the lists that opening needs; the files stay. */
static void close_lists(Opened *opened) {
    hy_free(opened->env, opened->readers, opened->reader_room, sizeof *opened->readers);
    hy_free(opened->env, opened->names, opened->name_room, sizeof *opened->names);
    opened->readers = NULL;
    opened->names = NULL;
}

static void close_all(void *user) {
    Opened *opened = user;
    const File *file;
    for (file = opened->first; file; file = file->next)
        if (file->fd >= 0) close(file->fd);
    close_lists(opened);
    hy_arena_close(opened->env, &opened->arena);
    hy_free(opened->env, opened, 1, sizeof *opened);
}

static hydra_status add_file(Opened *opened, const char *path, hydra_error *error) {
    hy_env *env = opened->env;
    size_t size = strlen(path) + 1;
    File *file = hy_arena_alloc(env, &opened->arena, 1, sizeof *file);
    hydra_reader *reader;
    struct stat about;
    if (file) file->path = hy_arena_alloc(env, &opened->arena, size, 1);
    if (!file || !file->path ||
        !hy_grow(env, &opened->readers, opened->count, &opened->reader_room, sizeof *reader) ||
        !hy_grow(env, &opened->names, opened->count, &opened->name_room, sizeof *opened->names))
        return env->error->status;
    memcpy(file->path, path, size);
    file->next = opened->first;
    opened->first = file;
    file->fd = open_again(path);
    if (file->fd < 0 || fstat(file->fd, &about)) return hy_io(error, "cannot be opened", path);
    if (ends_with(path, TASK)) {
        close(file->fd);
        file->fd = -1;
    }
    if (!S_ISREG(about.st_mode))
        return hy_fail_in(error, HYDRA_IO, "%s: not a regular file", path);
    file->size = (uint64_t)about.st_size;
    file->changed = about.st_mtime;
    opened->names[opened->count] = file->path;
    reader = opened->readers + opened->count++;
    reader->read_at = read_file;
    reader->user = file;
    reader->size = file->size;
    return HYDRA_OK;
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
    if (t->kept == HY_NONE || status == HYDRA_MEMORY || status == HYDRA_LIMIT) return status;
    if (status && t->left_out) t->left_out(t->user, error);
    return HYDRA_OK;
}

/* Names in a folder. */
typedef struct {
    char **rows;
    uint32_t count, room;
} Names;

/* Cores first. Of task files the shorter name first, which is not the one of a copy. */
static int cores_first(const void *one, const void *other) {
    const char *a = *(char *const *)one, *b = *(char *const *)other;
    int order = ends_with(a, TASK) - ends_with(b, TASK);
    if (!order) order = (strlen(a) > strlen(b)) - (strlen(a) < strlen(b));
    return order ? order : strcmp(a, b);
}

/* The cores and tasks of a folder, in order. */
static hydra_status list_parts(Opened *opened, const char *folder, Names *names) {
    hy_env *env = opened->env;
    DIR *dir = opendir(folder);
    struct dirent *entry;
    hydra_status status = HYDRA_OK;
    if (!dir) return hy_io(env->error, "cannot be opened", folder);
    while (!status && (entry = readdir(dir)) != NULL) {
        size_t size = strlen(entry->d_name) + 1;
        char *name;
        if (!ends_with(entry->d_name, TASK) && !ends_with(entry->d_name, CORE)) continue;
        name = hy_arena_alloc(env, &opened->arena, size, 1);
        if (name && hy_grow(env, &names->rows, names->count, &names->room, sizeof *names->rows))
            names->rows[names->count++] = memcpy(name, entry->d_name, size);
        else
            status = env->error->status;
    }
    closedir(dir);
    if (names->count) qsort(names->rows, names->count, sizeof *names->rows, cores_first);
    return status;
}

/* The core and the tasks of a folder. core: the one that is meant, or NULL. task: the one that is
 * wanted, or NULL for all. */
static hydra_status add_folder(Opened *opened, const char *folder, const char *core,
                               const char *task, hy_tolerance *t, hydra_error *error) {
    Names names = {NULL, 0, 0};
    uint32_t cores = core != NULL, i;
    hydra_status status = list_parts(opened, folder, &names);
    char path[HY_MOST_PATH];
    if (core && !status) status = add_file(opened, core, error);
    for (i = 0; i < names.count && !status; i++) {
        const char *name = names.rows[i];
        if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) continue;
        if (ends_with(name, TASK)) {
            if (!task || may_hold(name, task)) status = add_task(opened, path, t, error);
        } else if (!core) {
            status = add_file(opened, path, error);
            cores++;
        }
    }
    hy_free(opened->env, names.rows, names.room, sizeof *names.rows);
    if (t->kept != HY_NONE) t->kept = cores;
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
    hy_env env;
    Opened *opened;
    hydra_status status;
    char folder[HY_MOST_PATH];
    const char *slash = strrchr(path, '/');
    *bundle = NULL;
    HY_TRY(hy_env_open(&env, options, error));
    error = env.error;
    opened = hy_alloc(&env, 1, sizeof *opened);
    if (!opened) return error->status;
    opened->env = &env;
    if (stat(path, &about)) {
        status = hy_io(error, "cannot be opened", path);
    } else if (S_ISDIR(about.st_mode)) {
        status = add_folder(opened, path, NULL, task, &t, error);
    } else if (ends_with(path, CORE) && strlen(path) < sizeof folder) {
        strcpy(folder, slash ? path : ".");
        if (slash) folder[slash == path ? 1 : slash - path] = 0;
        t.other_cores = 1;
        status = add_folder(opened, folder, path, task, &t, error);
    } else {
        t.kept = HY_NONE;
        status = add_file(opened, path, error);
    }
    if (!status)
        status =
            hy_open(opened->readers, opened->names, opened->count, &t, &env, bundle, error);
    if (status) {
        close_all(opened);
        return status;
    }
    opened->env = &(*bundle)->env;
    close_lists(opened);
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
