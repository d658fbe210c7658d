/* app BUNDLE TASK FOLDER: list the tasks, read the factors of one, and write it as a PEFT folder. */
#include <stdio.h>

#include "hydra_files.h"

static int count_numbers(void *user, const hydra_pair *pair) {
    *(unsigned long *)user += (unsigned long)pair->k * (pair->module->m + pair->module->n);
    return 0;
}

int main(int count, char **words) {
    hydra_error error;
    hydra_bundle *bundle;
    hydra_task i, task;
    unsigned long numbers = 0;
    int failed;
    if (count != 4) return 2;
    failed = hydra_open_path(words[1], NULL, &bundle, &error) ||
             hydra_find(bundle, words[2], &task, &error) ||
             hydra_pairs(bundle, task, HYDRA_F32, count_numbers, &numbers, &error) ||
             hydra_write_peft_folder(bundle, task, NULL, words[3], &error);
    if (failed) {
        fprintf(stderr, "%s\n", error.text);
    } else {
        for (i = 0; i < hydra_task_count(bundle); i++) {
            hydra_task_info info = {.struct_size = sizeof info};
            hydra_describe(bundle, i, &info, NULL);
            printf("%s: %lu modules\n", info.name, (unsigned long)info.modules);
        }
        printf("%s: %lu numbers\n", words[2], numbers);
    }
    hydra_close(bundle);
    return failed;
}
