/* Shared by what opens and what writes files of the system. */
#ifndef HYDRA_POSIX_FILES_H
#define HYDRA_POSIX_FILES_H

#include "../core/core.h"
#include "hydra_files.h"

enum { HY_MOST_PATH = 4096 };

/* Of a call of the system that failed: HYDRA_NOT_THERE or HYDRA_IO, with the reason. */
hydra_status hy_io(hydra_error *error, const char *what, const char *path);

#endif
