/* Shared by the fuzz targets: faults, every call on a bundle, and checksums that fit a mutant. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

/* ---- faults --------------------------------------------------------------------------------- */

static void *resize(void *user, void *block, size_t old_size, size_t new_size) {
    fuzz_faults *faults = user;
    if (new_size && faults->allocations == 0) {
        faults->allocations = -1;
        faults->failed = 1;
        return NULL;
    }
    if (new_size && faults->allocations > 0) faults->allocations--;
    faults->held += new_size - old_size;
    if (new_size) return realloc(block, new_size);
    free(block);
    return NULL;
}

static int read_at(void *user, uint64_t offset, void *buffer, size_t size) {
    fuzz_file *file = user;
    if (offset > file->size || size > file->size - offset) abort(); /* the reader's size is known */
    if (file->faults->reads == 0) return -1;
    if (file->faults->reads > 0) file->faults->reads--;
    memcpy(buffer, file->data + offset, size);
    return 0;
}

hydra_options fuzz_options(fuzz_faults *faults) {
    hydra_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.allocator.resize = resize;
    options.allocator.user = faults;
    options.limits.memory = (size_t)256 << 20;
    options.limits.numbers = 1 << 22;
    return options;
}

hydra_reader fuzz_reader(fuzz_file *file) {
    hydra_reader reader;
    reader.read_at = read_at;
    reader.user = file;
    reader.size = file->size;
    return reader;
}

/* ---- every call on a bundle ----------------------------------------------------------------- */

static int begin(void *user, const char *name, uint64_t size) {
    (void)user, (void)name, (void)size;
    return 0;
}

static int write_some(void *user, const void *data, size_t size) {
    const unsigned char *p = data;
    fuzz_faults *faults = user;
    if (faults->writes == 0) return -1;
    if (faults->writes > 0) faults->writes--;
    while (size--) faults->sum += *p++;
    return 0;
}

static int end(void *user) {
    (void)user;
    return 0;
}

static int take_pair(void *user, const hydra_pair *pair) {
    fuzz_faults *faults = user;
    faults->sum += pair->module->m + pair->k;
    return 0;
}

static int take_tensor(void *user, const hydra_tensor *tensor) {
    return write_some(user, tensor->data, tensor->size);
}

void fuzz_check(hydra_status status, const hydra_error *error, fuzz_faults *faults) {
    if (status != error->status || (status == HYDRA_OK) != (error->text[0] == 0)) abort();
    if (faults->failed && status != HYDRA_MEMORY) abort(); /* a failed allocation was overlooked */
    faults->failed = 0;
}

void fuzz_everything(hydra_bundle *bundle, fuzz_faults *faults) {
    hydra_gguf_options base = {.struct_size = sizeof base, .architecture = "llama", .blocks = 4,
                               .heads = 4, .kv_heads = 2};
    hydra_sink sink = {begin, write_some, end, NULL};
    hydra_options options = fuzz_options(faults);
    hydra_bundle *other;
    const uint32_t *ranks;
    hydra_error error;
    size_t task, i;
    sink.user = faults;
    fuzz_check(hydra_share(bundle, NULL, NULL, 0, &options, &other, &error), &error, faults);
    for (task = 0; other && task < hydra_task_count(other) && task < 4; task++)
        fuzz_check(hydra_ranks(other, task, &ranks, &error), &error, faults);
    hydra_close(other);
    fuzz_check(hydra_verify(bundle, &error), &error, faults);
    fuzz_check(hydra_verify_peft(bundle, &error), &error, faults);
    for (task = 0; task < hydra_task_count(bundle) && task < 4; task++) {
        hydra_task_info info = {.struct_size = sizeof info};
        hydra_module_info module = {.struct_size = sizeof module};
        const char *json;
        if (hydra_describe(bundle, task, &info, NULL)) abort();
        for (i = 0; i < info.modules; i++)
            if (hydra_describe_module(bundle, task, i, &module, NULL)) abort();
        if (hydra_config(bundle, task, &json, NULL)) abort();
        fuzz_check(hydra_write_peft(bundle, task, NULL, &sink, &error), &error, faults);
        fuzz_check(hydra_write_gguf(bundle, task, &base, &sink, &error), &error, faults);
        fuzz_check(hydra_pairs(bundle, task, HYDRA_F32, take_pair, faults, &error), &error, faults);
        fuzz_check(hydra_tensors(bundle, task, take_tensor, faults, &error), &error, faults);
    }
}

/* ---- checksums ------------------------------------------------------------------------------ */

/* Length of a varint at *at, whose value goes to *value. */
static int varint(const uint8_t *data, size_t size, size_t *at, uint64_t *value) {
    int shift = 0;
    *value = 0;
    for (; *at < size && shift < 35; shift += 7) {
        uint8_t byte = data[(*at)++];
        *value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) return 1;
    }
    return 0;
}

static void put_crc(uint8_t *out, const uint8_t *data, size_t size) {
    uint32_t crc = hy_crc32(data, size);
    int i;
    for (i = 0; i < 4; i++) out[i] = (uint8_t)(crc >> 8 * i);
}

/* The checksums of a stream's chunks and of its table. */
static void mend_stream(uint8_t *data, size_t size) {
    size_t at = 0, row, body;
    uint64_t count, value, sizes[64];
    size_t places[64], i;
    if (!varint(data, size, &at, &count) || !count || count > 64) return;
    for (i = 0; i < count; i++) {
        if (!varint(data, size, &at, &value) || !varint(data, size, &at, &value) ||
            !varint(data, size, &at, &sizes[i]) || size - at < 4)
            return;
        places[i] = at;
        at += 4;
    }
    row = at;
    if (size - at < 4) return;
    body = at + 4;
    for (i = 0; i < count; i++) {
        if (sizes[i] > size - body) return;
        put_crc(data + places[i], data + body, (size_t)sizes[i]);
        body += (size_t)sizes[i];
    }
    put_crc(data + row, data, row);
}

/* Where the n-th text of 16 hex digits of the header's checksums stands, or NULL. */
static uint8_t *nth_checksum(uint8_t *header, size_t length, size_t n) {
    static const char name[] = "\"checksums\":\"[";
    size_t i = 0, left = n;
    while (i + sizeof name < length && memcmp(header + i, name, sizeof name - 1) != 0) i++;
    for (i += sizeof name - 1; i + 20 < length && header[i] != ']'; i++)
        if (header[i] == '\\' && header[i + 1] == '"' && header[i + 18] == '\\') {
            if (!left--) return header + i + 2;
            i += 19;
        }
    return NULL;
}

void fuzz_mend(uint8_t *data, size_t size) {
    static const char name[] = "\"data_offsets\":[";
    size_t length = 0, i, n = 0;
    if (size < 8) return;
    for (i = 3; i > 0; i--) length = length << 8 | data[i];
    length = length << 8 | data[0];
    if (length > size - 8) return;
    for (i = 8; i + sizeof name < 8 + length; i++) {
        unsigned long from, to;
        char *next, digits[17];
        uint8_t *place;
        if (memcmp(data + i, name, sizeof name - 1) != 0) continue;
        from = strtoul((char *)data + i + sizeof name - 1, &next, 10);
        to = *next == ',' ? strtoul(next + 1, &next, 10) : 0;
        place = nth_checksum(data + 8, length, n++);
        if (to < from || to > size - 8 - length || !place) continue;
        if (n > 1) mend_stream(data + 8 + length + from, to - from);
        hy_checksum(data + 8 + length + from, to - from, digits);
        memcpy(place, digits, 16);
    }
}

/* ---- several files in one input ------------------------------------------------------------- */

/* Where the value of a header's `name` starts, or NULL. */
static uint8_t *value_of(const fuzz_file *file, const char *name) {
    size_t size = strlen(name), i;
    for (i = 8; i + size + 17 < file->size; i++)
        if (!memcmp(file->data + i, name, size)) return file->data + i + size;
    return NULL;
}

/* The checksum of a core, which its task files state. */
static int core_checksum(const fuzz_file *core, char digits[17]) {
    static const char name[] = "\"checksums\":\"";
    uint8_t *from = value_of(core, name), *text, *to;
    if (!from || !value_of(core, "\"format\":\"hydraopt-core\"")) return 0;
    to = text = malloc(core->size);
    if (!text) return 0;
    for (; from < core->data + core->size && *from != '"'; from++) {
        if (*from == '\\' && from + 1 < core->data + core->size) from++;
        *to++ = *from;
    }
    hy_checksum(text, (size_t)(to - text), digits);
    free(text);
    return 1;
}

size_t fuzz_split(uint8_t *data, size_t size, fuzz_file *files, fuzz_faults *faults) {
    size_t count = 0, at = 0, i;
    char digits[17];
    while (count < FUZZ_MOST_FILES && size - at >= 4) {
        size_t length = data[at] | (size_t)data[at + 1] << 8 | (size_t)data[at + 2] << 16;
        at += 4;
        if (length > size - at) length = size - at;
        files[count].data = data + at;
        files[count].size = length;
        files[count++].faults = faults;
        at += length;
        fuzz_mend(files[count - 1].data, length);
    }
    for (i = 0; i < count && !core_checksum(files + i, digits);) i++;
    if (i == count) return count;
    for (i = 0; i < count; i++) {
        uint8_t *place = value_of(files + i, "\"core\":\"");
        if (place) memcpy(place, digits, 16);
    }
    return count;
}
