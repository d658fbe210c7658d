/* hy_inflate by itself, for tests/native/test_unpack.py. It reads cases until the end of stdin: the
 * packed bytes' count and that of the content, 4 bytes each and little-endian, and the packed
 * bytes. It answers each with a byte, 1 or 0, and after a 1 the content and its crc32. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/core/base.h"

static uint32_t word(const uint8_t *at) {
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

int main(void) {
    hy_env env;
    hydra_error error;
    uint8_t head[8];
    memset(&env, 0, sizeof env);
    env.error = &error;
    while (fread(head, 1, 8, stdin) == 8) {
        size_t packed = word(head), size = word(head + 4);
        uint8_t *data = malloc(packed), *out = malloc(size); /* a byte beyond either is seen */
        uint32_t crc;
        int fine, i;
        if ((packed && !data) || (size && !out)) return 1;
        if (fread(data, 1, packed, stdin) != packed) return 1;
        fine = !hy_inflate(&env, data, packed, out, size, "it");
        putchar(fine);
        if (fine) fwrite(out, 1, size, stdout);
        crc = fine ? hy_crc32(out, size) : 0;
        for (i = 0; fine && i < 4; i++) putchar((int)(crc >> 8 * i & 255));
        free(data), free(out);
    }
    return ferror(stdout) ? 1 : 0;
}
