/* What the library reads in bundles, a line of JSON for each (conformance/README.md):
 * hydra-conformance PATH... */
#include <stdio.h>
#include <string.h>

#include "../src/core/base.h"
#include "hydra_files.h"

/* A text in quotes. What JSON must escape, and every byte below a space, is written as \u00XX. */
static void put_text(const char *text) {
    putchar('"');
    for (; *text; text++)
        if ((unsigned char)*text < 32 || *text == '"' || *text == '\\')
            printf("\\u%04x", (unsigned)(unsigned char)*text);
        else
            putchar(*text);
    putchar('"');
}

static void put_hash(hy_sha256 *sha) {
    uint8_t digest[32];
    int i;
    hy_sha256_end(sha, digest);
    putchar('"');
    for (i = 0; i < 8; i++) printf("%02x", digest[i]);
    putchar('"');
}

/* Items of an object: its first one opens it. */
static void put_key(int *some, const char *key) {
    fputs(*some ? ", " : "{", stdout);
    *some = 1;
    put_text(key);
    fputs(": ", stdout);
}

static void end_object(int some) { fputs(some ? "}" : "{}", stdout); }

static int count_pair(void *user, const hydra_pair *pair) { return (void)user, (void)pair, 0; }
static int count_tensor(void *user, const hydra_tensor *x) { return (void)user, (void)x, 0; }

static int put_pair(void *user, const hydra_pair *pair) {
    const hydra_module_info *module = pair->module;
    hy_sha256 sha;
    hy_sha256_open(&sha);
    if (pair->k) {
        hy_sha256_add(&sha, pair->b, (size_t)module->m * pair->k * sizeof(double));
        hy_sha256_add(&sha, pair->a, (size_t)module->n * pair->k * sizeof(double));
    }
    put_key(user, module->path);
    printf("[%u, ", (unsigned)pair->k);
    put_hash(&sha);
    putchar(']');
    return 0;
}

static int put_tensor(void *user, const hydra_tensor *tensor) {
    hy_sha256 sha;
    size_t i;
    hy_sha256_open(&sha);
    hy_sha256_add(&sha, tensor->data, tensor->size);
    put_key(user, tensor->key);
    printf("[\"%s\", [", tensor->dtype);
    for (i = 0; i < tensor->axes; i++)
        printf("%s%llu", i ? ", " : "", (unsigned long long)tensor->shape[i]);
    fputs("], ", stdout);
    put_hash(&sha);
    putchar(']');
    return 0;
}

/* Files that are written: name and hash of each, printed once all are there. */
typedef struct {
    char names[2][32];
    hy_sha256 hashes[2];
    int count;
} Files;

static int begin(void *user, const char *name, uint64_t size) {
    Files *files = user;
    (void)size;
    if (files->count == 2 || strlen(name) >= sizeof *files->names) return 1;
    strcpy(files->names[files->count], name);
    hy_sha256_open(&files->hashes[files->count++]);
    return 0;
}

static int write_some(void *user, const void *data, size_t size) {
    Files *files = user;
    hy_sha256_add(&files->hashes[files->count - 1], data, size);
    return 0;
}

static int end(void *user) { return (void)user, 0; }

static void put_task(hydra_bundle *bundle, hydra_task task) {
    hydra_task_info info = {.struct_size = sizeof info};
    hydra_status status;
    Files files = {.count = 0};
    hydra_sink sink = {begin, write_some, end, NULL};
    int some = 0, i;
    sink.user = &files;
    hydra_describe(bundle, task, &info, NULL);
    put_text(info.name);
    fputs(": {\"modules\": ", stdout);
    /* Once without output, so that what is refused in the middle prints a word alone. */
    status = info.lossless ? HYDRA_OK
                           : hydra_pairs(bundle, task, HYDRA_F64, count_pair, NULL, NULL);
    if (status) {
        put_text(hydra_status_name(status));
    } else {
        if (!info.lossless) hydra_pairs(bundle, task, HYDRA_F64, put_pair, &some, NULL);
        end_object(some);
    }
    fputs(", \"tensors\": ", stdout);
    status = hydra_tensors(bundle, task, count_tensor, NULL, NULL);
    some = 0;
    if (status) {
        put_text(hydra_status_name(status));
    } else {
        hydra_tensors(bundle, task, put_tensor, &some, NULL);
        end_object(some);
    }
    fputs(", \"adapter\": ", stdout);
    status = hydra_write_peft(bundle, task, NULL, &sink, NULL);
    some = 0;
    if (status) {
        put_text(hydra_status_name(status));
    } else {
        for (i = 0; i < files.count; i++) {
            put_key(&some, files.names[i]);
            put_hash(&files.hashes[i]);
        }
        end_object(some);
    }
    putchar('}');
}

int main(int count, char **words) {
    int i;
    for (i = 1; i < count; i++) {
        hydra_bundle *bundle;
        hydra_status status = hydra_open_path(words[i], NULL, &bundle, NULL);
        size_t task, tasks = status ? 0 : hydra_task_count(bundle);
        fputs("{\"tasks\": {", stdout);
        for (task = 0; task < tasks; task++) {
            if (task) fputs(", ", stdout);
            put_task(bundle, task);
        }
        if (!status) status = hydra_verify(bundle, NULL);
        if (!status) status = hydra_verify_peft(bundle, NULL);
        printf("}, \"verify\": \"%s\"}\n", hydra_status_name(status));
        hydra_close(bundle);
    }
    return 0;
}
