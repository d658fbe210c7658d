/* The container: a safetensors file whose tensors are rows of bytes, each with a checksum. */
#include <string.h>

#include "bundle.h"

enum { MOST_HEADER = 100000000 };

static hydra_status read_at(hy_env *env, const hy_file *file, uint64_t at, void *out, size_t size) {
    if (size && file->reader.read_at(file->reader.user, at, out, size) != 0)
        return hy_fail(env, HYDRA_IO, "%llu bytes at %llu cannot be read", (unsigned long long)size,
                       (unsigned long long)at);
    return HYDRA_OK;
}

int hy_read_memory(void *user, uint64_t offset, void *buffer, size_t size) {
    memcpy(buffer, (const char *)user + (size_t)offset, size);
    return 0;
}

static int in_memory(const hy_file *file) { return file->reader.read_at == hy_read_memory; }

static hydra_status read_header(hy_env *env, hy_file *file, uint64_t *start) {
    uint8_t head[8];
    uint64_t length = 0;
    char *text;
    int i;
    HY_CHECK(env, file->reader.size >= 8, "not a bundle: a file of %llu bytes. " AGAIN,
             (unsigned long long)file->reader.size);
    HY_TRY(read_at(env, file, 0, head, 8));
    for (i = 7; i >= 0; i--) length = length << 8 | head[i];
    HY_CHECK(env, length <= file->reader.size - 8 && length <= MOST_HEADER,
             "not a bundle, or cut off inside its header; got a header of %llu bytes in a file of "
             "%llu. " AGAIN,
             (unsigned long long)length, (unsigned long long)file->reader.size);
    text = hy_alloc(env, length + 1, 1);
    if (!text) return env->error->status;
    if (read_at(env, file, 8, text, (size_t)length)) {
        hy_free(env, text, length + 1, 1);
        return HYDRA_IO;
    }
    *start = 8 + length;
    HY_TRY(
        hy_json_open(&file->header, env, text, (size_t)length, (size_t)length + 1, "the header"));
    HY_CHECK(env, hy_kind(&file->header, 0) == HY_OBJECT, "not a bundle: its header is no object");
    return HYDRA_OK;
}

/* The entry of a tensor: U8, one axis, where the one before ended. */
static hydra_status read_place(hy_env *env, hy_file *file, uint32_t key, uint64_t start,
                               uint64_t *position) {
    const hy_json *json = &file->header;
    hy_place *place = file->places + file->count;
    uint32_t entry = key + 1, dtype = hy_get(json, entry, "dtype"), shape, offsets;
    uint64_t size, begin, end;
    place->name = hy_string(json, key);
    shape = hy_get(json, entry, "shape");
    offsets = hy_get(json, entry, "data_offsets");
    HY_CHECK(env,
             dtype && shape && offsets && json->nodes[entry].size == 3 &&
                 hy_kind(json, dtype) == HY_STRING && hy_is(hy_string(json, dtype), "U8") &&
                 hy_kind(json, shape) == HY_LIST && json->nodes[shape].size == 1 &&
                 hy_kind(json, offsets) == HY_LIST && json->nodes[offsets].size == 2,
             "tensor %.80s is not a row of bytes. " AGAIN, place->name.data);
    HY_CHECK(env,
             hy_natural(json, shape + 1, 0, (uint64_t)1 << 62, &size) &&
                 hy_natural(json, offsets + 1, 0, (uint64_t)1 << 62, &begin) &&
                 hy_natural(json, offsets + 2, 0, (uint64_t)1 << 62, &end) && begin == *position &&
                 end >= begin && end - begin == size,
             "tensor %.80s does not lie behind the one before it, or its size does not fit. " AGAIN,
             place->name.data);
    place->start = start + begin;
    place->size = size;
    *position = end;
    file->count++;
    return HYDRA_OK;
}

uint32_t hy_metadata(const hy_file *file, const char *key) {
    return file->metadata ? hy_get(&file->header, file->metadata, key) : 0;
}

static hydra_status read_checksums(hy_env *env, hy_arena *arena, hy_file *file) {
    uint32_t node = hy_metadata(file, "checksums"), i = 0, at;
    hy_json json;
    hydra_status status;
    hy_slice text;
    HY_CHECK(env, node, "checksums do not fit the tensors; got none. " AGAIN);
    text = hy_string(&file->header, node);
    status = hy_json_copy(&json, env, text.data, text.size, "checksums in the header");
    if (!status && (hy_kind(&json, 0) != HY_LIST || json.nodes[0].size != file->count))
        status =
            hy_fail(env, HYDRA_DAMAGED, "checksums do not fit the tensors; expected %u. " AGAIN,
                    (unsigned)file->count);
    for (at = 1; !status && i < file->count; at = json.nodes[at].next, i++) {
        hy_slice one = hy_string(&json, at);
        char *copy;
        if (hy_kind(&json, at) != HY_STRING) {
            status = hy_fail(env, HYDRA_DAMAGED, "a checksum is no text. " AGAIN);
            break;
        }
        copy = hy_arena_alloc(env, arena, (uint64_t)one.size + 1, 1);
        if (!copy) {
            status = env->error->status;
            break;
        }
        memcpy(copy, one.data, one.size + 1);
        file->places[i].checksum.data = copy;
        file->places[i].checksum.size = one.size;
    }
    hy_json_close(&json);
    return status;
}

static hydra_status read_version(hy_env *env, hy_file *file) {
    const hy_json *json = &file->header;
    uint32_t format = hy_metadata(file, "format"), node = hy_metadata(file, "format_version");
    hy_slice text, name;
    uint64_t version = 0;
    size_t i;
    HY_CHECK(env, format, "a safetensors file, but not a bundle");
    name = hy_string(json, format);
    file->kind = hy_is(name, "hydraopt-core") ? HY_CORE
                 : hy_is(name, "hydraopt-task") ? HY_TASK
                                                : HY_BUNDLE;
    HY_CHECK(env, file->kind != HY_BUNDLE || hy_is(name, "hydraopt"),
             "a safetensors file, but not a bundle; got format %.80s, expected hydraopt",
             name.data);
    text = node ? hy_string(json, node) : hy_slice_of("");
    for (i = 0; i < text.size && i < 9; i++) {
        if (text.data[i] < '0' || text.data[i] > '9') break;
        version = version * 10 + (uint64_t)(text.data[i] - '0');
    }
    HY_CHECK(env, text.size && i == text.size && version, "the format version makes no sense");
    if (version > HYDRA_FORMAT_VERSION)
        return hy_fail(env, HYDRA_VERSION_ERROR,
                       "written in a newer format; got format version %llu, expected %d. Install a "
                       "newer libhydra",
                       (unsigned long long)version, HYDRA_FORMAT_VERSION);
    if (version < HYDRA_FORMAT_VERSION)
        return hy_fail(env, HYDRA_VERSION_ERROR,
                       "written in an unreleased format; got format version %llu, expected %d. "
                       "Merge the adapters again",
                       (unsigned long long)version, HYDRA_FORMAT_VERSION);
    HY_CHECK(env, hy_is(text, "2"), "the format version makes no sense");
    return HYDRA_OK;
}

/* The manifest's JSON, out of its packed bytes. */
static hydra_status read_manifest(hy_env *env, hy_file *file, const uint8_t *data,
                                  uint64_t packed) {
    uint64_t size, most = ((uint64_t)1 << 20) + 64 * packed;
    char *text;
    hydra_status status;
    HY_CHECK(env, packed >= 4, "the manifest cannot be unpacked; got %llu bytes. " AGAIN,
             (unsigned long long)packed);
    size = data[0] | (uint64_t)data[1] << 8 | (uint64_t)data[2] << 16 | (uint64_t)data[3] << 24;
    HY_CHECK(env, size <= most,
             "the manifest cannot be unpacked; got %llu bytes, as it says, expected at most %llu. "
             AGAIN, (unsigned long long)size, (unsigned long long)most);
    text = hy_alloc(env, size + 1, 1);
    if (!text) return env->error->status;
    status = hy_inflate(env, data + 4, (size_t)packed - 4, (uint8_t *)text, (size_t)size,
                        "the manifest");
    if (status) {
        hy_free(env, text, size + 1, 1);
        return status;
    }
    return hy_json_open(&file->manifest, env, text, (size_t)size, (size_t)size + 1, "the manifest");
}

void hy_file_release(hy_env *env, const hy_file *file, uint32_t tensor, const uint8_t *data) {
    if (data && !in_memory(file))
        hy_free(env, (void *)(uintptr_t)data, file->places[tensor].size + 1, 1);
}

hydra_status hy_file_view(hy_env *env, const hy_file *file, uint32_t tensor,
                          const uint8_t **data) {
    const hy_place *place = file->places + tensor;
    const char *before = env->where;
    char digits[17];
    hydra_status status = HYDRA_OK;
    env->where = file->name;
    if (in_memory(file)) {
        *data = (const uint8_t *)file->reader.user + (size_t)place->start;
    } else {
        uint8_t *copy = hy_alloc(env, place->size + 1, 1);
        *data = copy;
        if (!copy) return env->error->status;
        status = read_at(env, file, place->start, copy, (size_t)place->size);
    }
    if (!status) {
        hy_checksum(*data, (size_t)place->size, digits);
        if (!hy_is(place->checksum, digits))
            status = hy_fail(env, HYDRA_CHECKSUM,
                             "bytes of '%s' are not those that were written; got checksum %s, "
                             "expected %.20s. " AGAIN,
                             place->name.data, digits, place->checksum.data);
    }
    if (status) {
        hy_file_release(env, file, tensor, *data);
        *data = NULL;
    }
    env->where = before;
    return status;
}

hydra_status hy_file_open(hy_env *env, hy_arena *arena, hy_file *file) {
    uint64_t start = 0, position = 0;
    uint32_t i, others;
    const uint8_t *data;
    hydra_status status;
    env->where = file->name;
    HY_TRY(read_header(env, file, &start));
    others = file->header.nodes[0].size;
    file->places = hy_arena_alloc(env, arena, (uint64_t)others + 1, sizeof *file->places);
    if (!file->places) return env->error->status;
    /* The metadata first: it says whether the rest is to be understood. */
    for (i = 1; i < hy_end(&file->header, 0); i = hy_next(&file->header, i))
        if (hy_is(hy_string(&file->header, i), "__metadata__") &&
            hy_kind(&file->header, i + 1) == HY_OBJECT)
            file->metadata = i + 1;
    if (file->metadata) {
        uint32_t meta = file->metadata;
        for (i = hy_first(meta); i < hy_end(&file->header, meta); i = hy_next(&file->header, i))
            HY_CHECK(env, hy_kind(&file->header, i + 1) == HY_STRING,
                     "metadata is not a map from text to text. " AGAIN);
    }
    HY_TRY(read_version(env, file));
    for (i = 1; i < hy_end(&file->header, 0); i = hy_next(&file->header, i)) {
        if (hy_is(hy_string(&file->header, i), "__metadata__")) {
            HY_CHECK(env, file->metadata == i + 1, "metadata is no object. " AGAIN);
            continue;
        }
        HY_TRY(read_place(env, file, i, start, &position));
    }
    HY_CHECK(env, start + position == file->reader.size,
             "%s; got %llu bytes, expected %llu. " AGAIN,
             start + position > file->reader.size ? "cut off"
                                                  : "with bytes that belong to no tensor",
             (unsigned long long)file->reader.size, (unsigned long long)(start + position));
    HY_TRY(read_checksums(env, arena, file));
    HY_CHECK(env, file->count && hy_is(file->places[0].name, "manifest"),
             "tensors are not those of the manifest; the first is to be 'manifest'. " AGAIN);
    HY_TRY(hy_file_view(env, file, 0, &data));
    status = read_manifest(env, file, data, file->places[0].size);
    hy_file_release(env, file, 0, data);
    return status;
}

void hy_file_close(hy_env *env, hy_file *file) {
    (void)env;
    hy_json_close(&file->header);
    hy_json_close(&file->manifest);
}
