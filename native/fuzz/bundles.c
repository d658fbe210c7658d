/* Fuzz target: one bundle in memory. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_faults faults = FUZZ_NO_FAULTS;
    hydra_options options = fuzz_options(&faults);
    hydra_bundle *bundle;
    hydra_error error;
    uint8_t *copy = malloc(size + !size); /* of its very size, so that a read behind it is seen */
    if (!copy) return 0;
    memcpy(copy, data, size);
    fuzz_mend(copy, size);
    fuzz_check(hydra_open_memory(copy, size, &options, &bundle, &error), &error, &faults);
    if (bundle) fuzz_everything(bundle, &faults);
    hydra_close(bundle);
    if (faults.held) abort();
    free(copy);
    return 0;
}
