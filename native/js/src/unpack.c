/* What zlib does for the library elsewhere: here the host unpacks, and crc32 is short. */
#include "../../src/base.h"
#include "host.h"

hydra_status hy_inflate(hy_env *env, const uint8_t *data, size_t packed, uint8_t *out, size_t size,
                        const char *what) {
    switch (host_inflate(data, (uint32_t)packed, out, (uint32_t)size)) {
    case 0: return HYDRA_OK;
    case 1: return hy_fail(env, HYDRA_IO, "%s is not unpacked yet", what);
    default:
        return hy_fail(env, HYDRA_DAMAGED,
                       "%s cannot be unpacked to %llu bytes. Fetch the bundle again", what,
                       (unsigned long long)size);
    }
}

uint32_t hy_crc32(const uint8_t *data, size_t size) {
    uint32_t table[16], crc = 0xFFFFFFFFu, i, j;
    for (i = 0; i < 16; i++) {
        uint32_t x = i;
        for (j = 0; j < 4; j++) x = x >> 1 ^ (x & 1 ? 0xEDB88320u : 0);
        table[i] = x;
    }
    for (; size; size--, data++) {
        crc = crc >> 4 ^ table[(crc ^ *data) & 15];
        crc = crc >> 4 ^ table[(crc ^ (uint32_t)*data >> 4) & 15];
    }
    return ~crc;
}
