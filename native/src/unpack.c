/* What zlib does for us. native/js/src/unpack.c takes this file's place in WebAssembly. */
#include <string.h>

#include <zlib.h>

#include "base.h"

uint32_t hy_crc32(const uint8_t *data, size_t size) {
    uLong crc = crc32(0, Z_NULL, 0);
    while (size) {
        uInt some = size > 1u << 30 ? 1u << 30 : (uInt)size;
        crc = crc32(crc, data, some);
        data += some, size -= some;
    }
    return (uint32_t)crc;
}

/* zlib frees without telling the size, so it stands before each block. */
static voidpf take(voidpf user, uInt count, uInt size) {
    size_t bytes = (size_t)count * size + 16;
    unsigned char *block = hy_alloc(user, bytes, 1);
    if (!block) return Z_NULL;
    memcpy(block, &bytes, sizeof bytes);
    return block + 16;
}

static void give(voidpf user, voidpf address) {
    unsigned char *block = (unsigned char *)address - 16;
    size_t bytes;
    memcpy(&bytes, block, sizeof bytes);
    hy_free(user, block, bytes, 1);
}

hydra_status hy_inflate(hy_env *env, const uint8_t *data, size_t packed, uint8_t *out, size_t size,
                        const char *what) {
    z_stream stream;
    int code = Z_OK;
    size_t in = 0, made = 0;
    uint8_t none;
    memset(&stream, 0, sizeof stream);
    stream.zalloc = take;
    stream.zfree = give;
    stream.opaque = env;
    if (inflateInit(&stream) != Z_OK)
        return hy_fail(env, HYDRA_MEMORY, "no memory is left to unpack %s", what);
    while (code == Z_OK) {
        uInt some = packed - in > 1u << 30 ? 1u << 30 : (uInt)(packed - in);
        uInt room = size - made > 1u << 30 ? 1u << 30 : (uInt)(size - made);
        stream.next_in = (z_const Bytef *)(uintptr_t)(data + in);
        stream.avail_in = some;
        /* With all bytes made, one more would be too many: room for it, so that it shows. */
        stream.next_out = room ? out + made : &none;
        stream.avail_out = room ? room : 1;
        code = inflate(&stream, Z_NO_FLUSH);
        in += some - stream.avail_in;
        if (room)
            made += room - stream.avail_out;
        else if (!stream.avail_out)
            code = Z_DATA_ERROR;
        if (code == Z_OK && !some && stream.avail_out) code = Z_DATA_ERROR;
    }
    inflateEnd(&stream);
    if (code != Z_STREAM_END || made != size || in != packed)
        return hy_fail(env, code == Z_MEM_ERROR ? HYDRA_MEMORY : HYDRA_DAMAGED,
                       "%s cannot be unpacked; got %llu of %llu bytes. Fetch the bundle again",
                       what, (unsigned long long)made, (unsigned long long)size);
    return HYDRA_OK;
}
