/* libhydra: bundles and adapters as files of the system. Needs POSIX.
 *
 *     hydra_error error;
 *     hydra_bundle *bundle;
 *     hydra_task task;
 *     if (hydra_open_path("phone.hydra.safetensors", NULL, &bundle, &error)) {
 *         fprintf(stderr, "%s\n", error.text);
 *         return 1;
 *     }
 *     if (!hydra_find(bundle, "numbers-de", &task, &error))
 *         hydra_write_peft_folder(bundle, task, NULL, "numbers-de", &error);
 *     hydra_close(bundle);
 */
#ifndef HYDRA_FILES_H
#define HYDRA_FILES_H

#include "hydra_export.h"

HYDRA_BEGIN

/* Opens a bundle file; or a folder of a core and task files, or the core file of one. Of a folder
 * the core stays open, and a task file is opened when it is read: all must keep name, size and time
 * until hydra_close. */
hydra_status hydra_open_path(const char *path, const hydra_options *options,
                             hydra_bundle **bundle, hydra_error *error);

/* As hydra_open_path, but of a folder a damaged task file costs that task alone. Task files that
 * cannot be read or belong to another core, and further ones of a task that is there, are left out,
 * and their errors told to `left_out` (NULL: to nobody). task: the one that is wanted; then only
 * files of its name are opened, and all if none of them holds it. NULL: all tasks. */
hydra_status hydra_open_readable(const char *path, const char *task, const hydra_options *options,
                                 void (*left_out)(void *user, const hydra_error *error),
                                 void *user, hydra_bundle **bundle, hydra_error *error);

/* Writes a PEFT folder, which is made; HYDRA_USAGE if it is there already. On failure nothing is
 * left. A process that is killed leaves a part: where that matters, write to another name
 * and rename the folder, as the command hydra does. */
hydra_status hydra_write_peft_folder(hydra_bundle *bundle, hydra_task task,
                                     const hydra_peft_options *options, const char *folder,
                                     hydra_error *error);

/* Writes a GGUF file, in the same way; HYDRA_USAGE if it is there already. */
hydra_status hydra_write_gguf_file(hydra_bundle *bundle, hydra_task task,
                                   const hydra_gguf_options *options, const char *file,
                                   hydra_error *error);

HYDRA_END

#endif
