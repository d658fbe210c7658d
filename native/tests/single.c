/* The core alone, as one file: hydra-single BUNDLE reads every task and verifies the bundle. */
#include <stdio.h>
#include <stdlib.h>

#include "hydra.h"

static int take_pair(void *user, const hydra_pair *pair) {
    *(size_t *)user += pair->k;
    return 0;
}

static int read_at(void *user, uint64_t offset, void *buffer, size_t size) {
    FILE *file = user;
    return fseek(file, (long)offset, SEEK_SET) || fread(buffer, 1, size, file) != size;
}

int main(int count, char **words) {
    hydra_error error;
    hydra_bundle *bundle;
    hydra_reader reader;
    hydra_task task;
    size_t parts = 0;
    FILE *file = count == 2 ? fopen(words[1], "rb") : NULL;
    if (!file || fseek(file, 0, SEEK_END)) return 2;
    reader.read_at = read_at;
    reader.user = file;
    reader.size = (uint64_t)ftell(file);
    if (hydra_open(&reader, NULL, &bundle, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    for (task = 0; task < hydra_task_count(bundle); task++)
        if (hydra_pairs(bundle, task, HYDRA_F32, take_pair, &parts, &error)) break;
    if (task < hydra_task_count(bundle) || hydra_verify(bundle, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    printf("hydra %s: %lu parts\n", hydra_version(), (unsigned long)parts);
    hydra_close(bundle);
    fclose(file);
    return !parts;
}
