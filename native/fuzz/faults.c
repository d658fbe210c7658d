/* Fuzz target: allocators, readers and sinks that fail. The first 8 bytes say which call fails:
 * allocation (2 bytes), read, write, megabytes of memory (1 byte each), numbers (1 byte), flags (1
 * byte), 1 byte unused; 0 is never, or no limit. Files follow as for the target parts. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

static int keep_going(void *user, const hydra_pair *pair) {
    (void)user, (void)pair;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_faults faults = FUZZ_NO_FAULTS;
    hydra_options options = fuzz_options(&faults);
    hydra_reader readers[FUZZ_MOST_FILES];
    fuzz_file files[FUZZ_MOST_FILES];
    hydra_bundle *bundle;
    hydra_error error;
    size_t count, i;
    uint8_t *copy;
    if (size < 8) return 0;
    copy = malloc(size);
    if (!copy) return 0;
    memcpy(copy, data, size);
    count = fuzz_split(copy + 8, size - 8, files, &faults);
    for (i = 0; i < count; i++) readers[i] = fuzz_reader(files + i);
    faults.allocations = (data[0] | data[1] << 8) - 1L;
    faults.reads = data[2] - 1L;
    faults.writes = data[3] - 1L;
    if (data[4]) options.limits.memory = (size_t)data[4] << 12;
    if (data[5]) options.limits.numbers = (uint64_t)data[5] << 4;
    fuzz_check(hydra_open_parts(readers, NULL, count, &options, &bundle, &error), &error, &faults);
    if (bundle && data[6] & 1) {
        size_t most = data[6] & 2 ? (size_t)data[6] << 6 : 0;
        fuzz_check(hydra_keep_core(bundle, most, &error), &error, &faults);
    }
    if (bundle) fuzz_everything(bundle, &faults);
    faults.allocations = faults.reads = -1; /* what failed must not have broken the bundle */
    if (bundle && hydra_task_count(bundle))
        fuzz_check(hydra_pairs(bundle, 0, HYDRA_SAME, keep_going, NULL, &error), &error, &faults);
    hydra_close(bundle);
    if (faults.held) abort();
    free(copy);
    return 0;
}
