/* Exports that appear whole: written under another name beside the output, then renamed. */
#ifndef HYDRA_SCRATCH_H
#define HYDRA_SCRATCH_H

#include <stddef.h>

#include "hydra.h"

/* The name that an export to `output` by this process has until it is whole, into `room` bytes:
 * .NAME.tmp-PID beside it. Removes those of processes that have ended, as SIGKILL or a loss of
 * power leaves them. Processes of other machines and containers are not seen: do not export to one
 * output from several. */
hydra_status scratch_open(const char *output, char *scratch, size_t room, hydra_error *error);

/* Whether an export may take the place of the output: nothing is there or, of a folder, no file. */
hydra_status scratch_check(const char *output, int is_folder, hydra_error *error);

/* Puts what was written in the place of the output. */
hydra_status scratch_done(const char *scratch, const char *output, int is_folder,
                          hydra_error *error);

/* Removes it, if it is there. For handlers of signals: it calls nothing that these may not. */
void scratch_remove(const char *scratch);

#endif
