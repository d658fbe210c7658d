/* What the library says of bundles: hydra-conformance FILE...
 *
 * It prints a line for each: the file, the status of opening and verifying it, and of each task the
 * status of writing it as a PEFT adapter, with a hash (FNV-1a, 32 bits) of what was written. The
 * tests compare the lines with hydraopt's verdicts; `list` among them has those that all readers
 * must give. */
#include <stdio.h>
#include <string.h>

#include "hydra_files.h"

static void add(uint32_t *hash, const void *data, size_t size) {
    const unsigned char *bytes = data;
    size_t i;
    for (i = 0; i < size; i++) *hash = (*hash ^ bytes[i]) * 16777619u;
}

static int begin(void *user, const char *name, uint64_t size) {
    (void)size;
    add(user, name, strlen(name) + 1);
    return 0;
}

static int write_some(void *user, const void *data, size_t size) {
    add(user, data, size);
    return 0;
}

static int end(void *user) {
    (void)user;
    return 0;
}

int main(int count, char **words) {
    int i;
    for (i = 1; i < count; i++) {
        hydra_bundle *bundle;
        hydra_status status = hydra_open_path(words[i], NULL, &bundle, NULL);
        size_t task, tasks = status ? 0 : hydra_task_count(bundle);
        if (!status) status = hydra_verify(bundle, NULL);
        if (!status) status = hydra_verify_peft(bundle, NULL);
        printf("%s\t%s", words[i], hydra_status_name(status));
        for (task = 0; task < tasks; task++) {
            uint32_t hash = 2166136261u;
            hydra_sink sink;
            sink.begin = begin, sink.write = write_some, sink.end = end, sink.user = &hash;
            status = hydra_write_peft(bundle, task, NULL, &sink, NULL);
            printf("\t%s", hydra_status_name(status));
            if (!status) printf(" %08lx", (unsigned long)hash);
        }
        putchar('\n');
        hydra_close(bundle);
    }
    return 0;
}
