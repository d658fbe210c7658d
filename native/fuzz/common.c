/* One target for all that a bundle can make the library do. With clang's libFuzzer:
 *
 *     native/fuzz/run bundles 60
 *
 * Without it (gcc, AFL): -DFUZZ_MAIN, and the files to run as arguments.
 *
 * A mutant's checksums are wrong, and nothing behind them would be reached. So those of the header
 * and of chunks are made right first, where the file still has them: hydra_fuzz_mend. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/core.h"

static int begin(void *user, const char *name, uint64_t size) {
    (void)user, (void)name, (void)size;
    return 0;
}

static int write_some(void *user, const void *data, size_t size) {
    const unsigned char *p = data;
    unsigned *sum = user;
    while (size--) *sum += *p++;
    return 0;
}

static int end(void *user) {
    (void)user;
    return 0;
}

static int take_pair(void *user, const hydra_pair *pair) {
    (void)user, (void)pair;
    return 0;
}

static int take_tensor(void *user, const hydra_tensor *tensor) {
    return write_some(user, tensor->data, tensor->size);
}

static void everything(const uint8_t *data, size_t size) {
    hydra_options options;
    hydra_bundle *bundle;
    hydra_sink sink;
    hydra_gguf_options base = {"llama", 4, 4, 2, HYDRA_SAME};
    unsigned sum = 0;
    size_t task;
    memset(&options, 0, sizeof options);
    options.limits.memory = (size_t)256 << 20;
    options.limits.numbers = 1 << 22;
    sink.begin = begin, sink.write = write_some, sink.end = end, sink.user = &sum;
    if (hydra_open_memory(data, size, &options, &bundle, NULL)) return;
    hydra_verify(bundle, NULL);
    for (task = 0; task < hydra_task_count(bundle) && task < 4; task++) {
        hydra_write_peft(bundle, task, NULL, &sink, NULL);
        hydra_write_gguf(bundle, task, &base, &sink, NULL);
        hydra_pairs(bundle, task, HYDRA_F32, take_pair, NULL, NULL);
        hydra_tensors(bundle, task, take_tensor, &sum, NULL);
    }
    hydra_close(bundle);
}

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

/* Makes checksums right, as far as the header can be read with a glance. */
void hydra_fuzz_mend(uint8_t *data, size_t size) {
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size + 1);
    if (!copy) return 0;
    memcpy(copy, data, size);
    copy[size] = 0;
    hydra_fuzz_mend(copy, size);
    everything(copy, size);
    free(copy);
    return 0;
}

#ifdef FUZZ_MAIN
int main(int count, char **names) {
    int i;
    for (i = 1; i < count; i++) {
        FILE *file = fopen(names[i], "rb");
        uint8_t *data = malloc(1 << 24);
        if (file && data) LLVMFuzzerTestOneInput(data, fread(data, 1, 1 << 24, file));
        if (file) fclose(file);
        free(data);
    }
    return 0;
}
#endif
