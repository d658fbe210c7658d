/* The fuzz targets: one file each, LLVMFuzzerTestOneInput of libFuzzer. With clang:
 *
 *     native/fuzz/run bundles 60
 *
 * main.c runs a target on files, for compilers without libFuzzer (gcc) and for AFL.
 *
 * A mutant's checksums are wrong, and the code behind them would never run. So the checksums of
 * headers and of chunks are corrected first, where the file still has them. */
#ifndef HYDRA_FUZZ_H
#define HYDRA_FUZZ_H

#include "../src/export/adapter.h"

enum { FUZZ_MOST_FILES = 8 };

/* Failures to come: calls of each kind until one fails, -1 for never. */
typedef struct fuzz_faults {
    long allocations, reads, writes;
    int failed;  /* an allocation failed in this call */
    size_t held; /* bytes allocated */
    unsigned long sum;
} fuzz_faults;
#define FUZZ_NO_FAULTS {-1, -1, -1, 0, 0, 0}

typedef struct fuzz_file {
    uint8_t *data;
    size_t size;
    fuzz_faults *faults;
} fuzz_file;

hydra_options fuzz_options(fuzz_faults *faults);
hydra_reader fuzz_reader(fuzz_file *file);
/* Aborts unless the error fits the status, and a failed allocation is reported as one. */
void fuzz_check(hydra_status status, const hydra_error *error, fuzz_faults *faults);
/* Calls every function on the first tasks of a bundle. */
void fuzz_everything(hydra_bundle *bundle, fuzz_faults *faults);

/* Corrects the checksums, as far as the header can be read at a glance. */
void fuzz_mend(uint8_t *data, size_t size);
/* Splits an input into files: 4 bytes of length and the content of each. Corrects their checksums,
 * and the core that the task files state. files: room for FUZZ_MOST_FILES. */
size_t fuzz_split(uint8_t *data, size_t size, fuzz_file *files, fuzz_faults *faults);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
