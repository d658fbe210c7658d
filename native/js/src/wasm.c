/* libhydra for one bundle in WebAssembly: what src/index.js calls, and what it has to offer.
 *
 * An instance holds one bundle, so a bundle's memory goes with its instance. The host reads, and
 * may have to wait: an import that cannot answer yet returns 1, the call ends with HYDRA_IO, and
 * the host calls again when it has what was missing.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "hydra_export.h"
#include "host.h"

#define EXPORT(name) __attribute__((export_name(name)))

IMPORT("begin") int host_begin(const char *name, double size);
IMPORT("write") int host_write(const void *data, uint32_t size);
IMPORT("end") int host_end(void);
IMPORT("pair") int host_pair(const hydra_pair *pair);
IMPORT("tensor") int host_tensor(const hydra_tensor *tensor);

static hydra_bundle *bundle;
static hydra_error error;

/* What index.js reads by offset: pointers and counts of 4 bytes, then doubles of 8. */
static struct {
    const char *name, *base_model, *format, *dtype;
    uint32_t lossless, modules, tensors, carried;
    double error, stream_bytes, harm_likely, carried_bytes;
} about;

static hydra_module_info module = {.struct_size = sizeof module};

/* index.js reads these structures by place. */
#define AT(type, field, place) \
    _Static_assert(offsetof(type, field) == (place), "index.js reads " #field " elsewhere")
AT(hydra_pair, module, 4);
AT(hydra_pair, k, 8);
AT(hydra_pair, dtype, 12);
AT(hydra_pair, b, 16);
AT(hydra_pair, a, 20);
AT(hydra_module_info, path, 4);
AT(hydra_module_info, error, 32);
AT(hydra_tensor, shape, 12);
AT(hydra_tensor, axes, 16);
AT(hydra_tensor, coded, 20);
AT(hydra_tensor, data, 24);
AT(hydra_tensor, size, 28);
_Static_assert(sizeof about == 64, "index.js reads these by place");

EXPORT("take") void *take(uint32_t size) { return malloc(size ? size : 1); }
EXPORT("give") void give(void *block) { free(block); }
EXPORT("error_text") const char *error_text(void) { return error.text; }

static int read_at(void *user, uint64_t offset, void *buffer, size_t size) {
    return host_read_at((uint32_t)(uintptr_t)user, (double)offset, buffer, (uint32_t)size);
}

/* sizes: of `count` files: a bundle, or a core and its task files. names: or NULL. */
EXPORT("open") int open_files(uint32_t count, const double *sizes, const char *const *names,
                              double memory, double numbers, double output) {
    hydra_options options = {.struct_size = sizeof options};
    hydra_reader *readers;
    uint32_t i;
    int status;
    options.limits.memory = (size_t)memory;
    options.limits.numbers = (uint64_t)numbers;
    options.limits.output = (uint64_t)output;
    readers = calloc(count ? count : 1, sizeof *readers);
    if (!readers) return HYDRA_MEMORY;
    for (i = 0; i < count; i++) {
        readers[i].read_at = read_at;
        readers[i].user = (void *)(uintptr_t)i;
        readers[i].size = (uint64_t)sizes[i];
    }
    status = hydra_open_parts(readers, names, count, &options, &bundle, &error);
    free(readers);
    return status;
}

EXPORT("task_count") uint32_t task_count(void) { return (uint32_t)hydra_task_count(bundle); }
EXPORT("base_model") const char *base_model(void) { return hydra_base_model(bundle); }
EXPORT("library") const char *library(void) { return hydra_library(bundle); }

EXPORT("describe") const void *describe(uint32_t task) {
    hydra_task_info info = {.struct_size = sizeof info};
    if (hydra_describe(bundle, task, &info, &error)) return NULL;
    about.name = info.name, about.base_model = info.base_model;
    about.format = info.format, about.dtype = info.dtype;
    about.lossless = (uint32_t)info.lossless, about.modules = (uint32_t)info.modules;
    about.tensors = (uint32_t)info.tensors, about.carried = (uint32_t)info.carried;
    about.error = info.error, about.stream_bytes = (double)info.stream_bytes;
    about.harm_likely = info.harm_likely, about.carried_bytes = (double)info.carried_bytes;
    return &about;
}

EXPORT("describe_module") const void *describe_module(uint32_t task, uint32_t index) {
    return hydra_describe_module(bundle, task, index, &module, &error) ? NULL : &module;
}

/* The status; *json is then the text. */
EXPORT("config") int config(uint32_t task, const char **json) {
    return hydra_config(bundle, task, json, &error);
}

EXPORT("keep_core") int keep_core(double most) {
    return hydra_keep_core(bundle, (size_t)most, &error);
}
EXPORT("verify") int verify(void) {
    int status = hydra_verify(bundle, &error);
    return status ? status : (int)hydra_verify_peft(bundle, &error);
}

static int sink_begin(void *user, const char *name, uint64_t size) {
    (void)user;
    return host_begin(name, (double)size);
}
static int sink_write(void *user, const void *data, size_t size) {
    (void)user;
    return host_write(data, (uint32_t)size);
}
static int sink_end(void *user) {
    (void)user;
    return host_end();
}
static const hydra_sink SINK = {sink_begin, sink_write, sink_end, NULL};

EXPORT("write_peft") int write_peft(uint32_t task, int dtype) {
    hydra_peft_options options = {.struct_size = sizeof options};
    options.dtype = (hydra_dtype)dtype;
    return hydra_write_peft(bundle, task, &options, &SINK, &error);
}

/* json: the base model's config.json. */
EXPORT("write_gguf") int write_gguf(uint32_t task, int dtype, const char *json, uint32_t size) {
    hydra_gguf_options options = {.struct_size = sizeof options};
    int status = hydra_gguf_base(json, size, NULL, &options, &error);
    if (status) return status;
    options.dtype = (hydra_dtype)dtype;
    return hydra_write_gguf(bundle, task, &options, &SINK, &error);
}

static int take_tensor(void *user, const hydra_tensor *tensor) {
    (void)user;
    return host_tensor(tensor);
}

/* A dtype other than HYDRA_SAME. */
static hydra_dtype dtype_of(uint32_t task, int dtype) {
    hydra_task_info info = {.struct_size = sizeof info};
    if (dtype || hydra_describe(bundle, task, &info, NULL)) return (hydra_dtype)dtype;
    if (!strcmp(info.dtype, "F16")) return HYDRA_F16;
    if (!strcmp(info.dtype, "F32")) return HYDRA_F32;
    return strcmp(info.dtype, "F64") ? HYDRA_BF16 : HYDRA_F64;
}

/* Reads `count` modules from `first` into memory for `numbers` numbers, then calls the host's
 * pair. */
static int give_pairs(uint32_t task, uint32_t first, uint32_t count, hydra_dtype dtype,
                      const uint32_t *ranks, size_t numbers) {
    size_t bytes = dtype == HYDRA_F64 ? 8 : dtype == HYDRA_F32 ? 4 : 2;
    hydra_factors *factors = malloc(count * sizeof *factors + 8 + numbers * bytes);
    char *at = (char *)factors + (count * sizeof *factors + 7) / 8 * 8;
    uint32_t i;
    int status = HYDRA_OK;
    if (!factors) return HYDRA_MEMORY;
    for (i = 0; i < count && !status; i++) {
        uint32_t k = ranks[first + i];
        status = hydra_describe_module(bundle, task, first + i, &module, &error);
        factors[i].k = k;
        factors[i].b = at, at += bytes * module.m * k;
        factors[i].a = at, at += bytes * module.n * k;
    }
    if (!status)
        status = hydra_read_factors(bundle, task, first, count, dtype, factors, &error);
    for (i = 0; i < count && !status; i++) {
        hydra_pair pair = {first + i, &module, factors[i].k, dtype, factors[i].b, factors[i].a};
        status = hydra_describe_module(bundle, task, first + i, &module, &error);
        if (!status && host_pair(&pair)) status = HYDRA_STOPPED;
    }
    free(factors);
    return status;
}

/* Modules from `first`: as many as stand for at most `most` numbers, and at least one. */
EXPORT("pairs") int pairs(uint32_t task, uint32_t first, uint32_t most, int dtype) {
    hydra_task_info info = {.struct_size = sizeof info};
    const uint32_t *ranks;
    uint64_t numbers = 0;
    uint32_t end;
    int status = hydra_describe(bundle, task, &info, &error);
    if (!status) status = hydra_ranks(bundle, task, &ranks, &error);
    for (end = first; !status && end < info.modules; end++) {
        uint64_t more;
        status = hydra_describe_module(bundle, task, end, &module, &error);
        more = ((uint64_t)module.m + module.n) * ranks[end];
        if (end > first && numbers + more > most) break;
        numbers += more;
    }
    if (status) return status;
    if (numbers > SIZE_MAX / 16) return HYDRA_MEMORY;
    return give_pairs(task, first, end - first, dtype_of(task, dtype), ranks, (size_t)numbers);
}
EXPORT("tensors") int tensors(uint32_t task) {
    return hydra_tensors(bundle, task, take_tensor, NULL, &error);
}
