/* Exports that appear whole: written under another name beside the output, then renamed. */
#include "../src/posix/posix.h"

#include "scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_PATH = 4096 };

static hydra_status fail(hydra_error *error, hydra_status status, const char *format, ...) {
    va_list list;
    va_start(list, format);
    error->status = status;
    vsnprintf(error->text, sizeof error->text, format, list);
    va_end(list);
    return status;
}

void scratch_remove(const char *scratch) {
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
    char path[2 * MOST_PATH];
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
        scratch_remove(path);
    }
    if (dir) closedir(dir);
}

hydra_status scratch_open(const char *output, char *scratch, size_t room, hydra_error *error) {
    size_t size = strlen(output), at;
    while (size > 1 && output[size - 1] == '/') size--;
    if (!size || size + 32 > room || size + 32 > MOST_PATH)
        return fail(error, HYDRA_USAGE, "a path that is empty or too long");
    for (at = size; at && output[at - 1] != '/';) at--;
    memcpy(scratch, output, at);
    scratch[at] = 0;
    if (at && access(scratch, F_OK) && errno == ENOENT)
        return fail(error, HYDRA_NOT_THERE,
                    "%.200s: its folder is not there. Make the folder %.200s first", output,
                    scratch);
    snprintf(scratch + at, room - at, ".%.*s.tmp-%ld", (int)(size - at), output + at,
             (long)getpid());
    remove_dead(scratch);
    scratch_remove(scratch);
    return HYDRA_OK;
}

hydra_status scratch_check(const char *output, int is_folder, hydra_error *error) {
    DIR *dir = is_folder ? opendir(output) : NULL;
    struct dirent *entry;
    struct stat about;
    int files = 0;
    if (!dir && !(is_folder ? errno != ENOENT : !stat(output, &about))) return HYDRA_OK;
    if (!dir)
        return fail(error, HYDRA_USAGE, "%.400s: something of that name is there already. Give "
                                        "another name", output);
    while ((entry = readdir(dir)) != NULL)
        files += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
    closedir(dir);
    if (files)
        return fail(error, HYDRA_USAGE, "%.400s: folder has files in it. Give another name",
                    output);
    return HYDRA_OK;
}

hydra_status scratch_done(const char *scratch, const char *output, int is_folder,
                          hydra_error *error) {
    if (is_folder) rmdir(output); /* an empty one; rename wants none in some systems */
    if (!rename(scratch, output)) return HYDRA_OK;
    fail(error, HYDRA_IO, "%.300s: cannot be put in place; got %.100s", output, strerror(errno));
    scratch_remove(scratch);
    return HYDRA_IO;
}
