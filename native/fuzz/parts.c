/* Fuzz target: a core and task files, opened whole, and with damaged files left out. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

static void left_out(void *user, const hydra_error *error) {
    (void)user;
    if (!error->status || !error->text[0]) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const names[FUZZ_MOST_FILES] = {"a", NULL, "a name", "d", "e", "f", "g", ""};
    fuzz_faults faults = FUZZ_NO_FAULTS;
    hydra_options options = fuzz_options(&faults);
    hydra_reader readers[FUZZ_MOST_FILES];
    fuzz_file files[FUZZ_MOST_FILES];
    hydra_bundle *bundle;
    hydra_error error;
    int tolerant;
    size_t count, i;
    uint8_t *copy = malloc(size + !size);
    if (!copy) return 0;
    memcpy(copy, data, size);
    count = fuzz_split(copy, size, files, &faults);
    for (i = 0; i < count; i++) readers[i] = fuzz_reader(files + i);
    for (tolerant = 0; tolerant < 2; tolerant++) {
        hydra_status status;
        if (tolerant) {
            hy_tolerance tolerance = {0, 1, left_out, NULL};
            hy_env env;
            hy_env_open(&env, &options, &error);
            tolerance.other_cores = size & 1;
            status = hy_open(readers, names, count, &tolerance, &env, &bundle, &error);
        } else {
            status = hydra_open_parts(readers, names, count, &options, &bundle, &error);
        }
        fuzz_check(status, &error, &faults);
        if (bundle) fuzz_everything(bundle, &faults);
        hydra_close(bundle);
        if (faults.held) abort();
    }
    free(copy);
    return 0;
}
