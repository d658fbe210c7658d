/* What the library asks of the page or program around it. 0: done; 1: not there yet, call again
 * when it is; 2: never. Sizes and offsets as doubles: exact up to 2^53. */
#ifndef HYDRA_HOST_H
#define HYDRA_HOST_H

#include <stdint.h>

#define IMPORT(name) __attribute__((import_module("hydra"), import_name(name)))

IMPORT("read_at") int host_read_at(uint32_t file, double offset, void *buffer, uint32_t size);
/* The double nearest to a decimal text. */
IMPORT("number") double host_number(const char *text, uint32_t size);
/* printf's %.*e, %.*f, %.*g; its bytes, or -1 for more than `room`. */
IMPORT("text") int host_text(int kind, int precision, double value, char *out, uint32_t room);

#endif
