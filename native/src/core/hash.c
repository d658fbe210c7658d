/* sha256 (FIPS 180-4). */
#include <string.h>

#include "base.h"

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

void hy_sha256_open(hy_sha256 *sha) {
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(sha->state, start, sizeof start);
    sha->size = 0;
}

static uint32_t transposed(uint32_t x, int by) { return x >> by | x << (32 - by); }

/* One round. Eight of them turn the names once around, so that no value is moved. */
#define ROUND(a, b, c, d, e, f, g, h, i)                                                           \
    do {                                                                                           \
        uint32_t sum = h + (transposed(e, 6) ^ transposed(e, 11) ^ transposed(e, 25)) +            \
                       (g ^ (e & (f ^ g))) + K[i] + w[i];                                          \
        d += sum;                                                                                  \
        h = sum + (transposed(a, 2) ^ transposed(a, 13) ^ transposed(a, 22)) +                     \
            ((a & b) | (c & (a | b)));                                                             \
    } while (0)

static void one_block(uint32_t state[8], const uint8_t *p) {
    uint32_t w[64], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4],
                    f = state[5], g = state[6], h = state[7];
    int i;
    for (i = 0; i < 16; i++, p += 4)
        w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    for (; i < 64; i++) {
        uint32_t x = w[i - 15], y = w[i - 2];
        x = transposed(x, 7) ^ transposed(x, 18) ^ x >> 3;
        y = transposed(y, 17) ^ transposed(y, 19) ^ y >> 10;
        w[i] = w[i - 16] + x + w[i - 7] + y;
    }
    for (i = 0; i < 64; i += 8) {
        ROUND(a, b, c, d, e, f, g, h, i);
        ROUND(h, a, b, c, d, e, f, g, i + 1);
        ROUND(g, h, a, b, c, d, e, f, i + 2);
        ROUND(f, g, h, a, b, c, d, e, i + 3);
        ROUND(e, f, g, h, a, b, c, d, i + 4);
        ROUND(d, e, f, g, h, a, b, c, i + 5);
        ROUND(c, d, e, f, g, h, a, b, i + 6);
        ROUND(b, c, d, e, f, g, h, a, i + 7);
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

void hy_sha256_add(hy_sha256 *sha, const void *data, size_t size) {
    const uint8_t *p = data;
    size_t held = (size_t)(sha->size & 63);
    sha->size += size;
    if (held) {
        size_t take = size < 64 - held ? size : 64 - held;
        memcpy(sha->block + held, p, take);
        p += take, size -= take;
        if (held + take < 64) return;
        one_block(sha->state, sha->block);
    }
    for (; size >= 64; p += 64, size -= 64) one_block(sha->state, p);
    if (size) memcpy(sha->block, p, size);
}

void hy_sha256_end(hy_sha256 *sha, uint8_t digest[32]) {
    uint64_t bits = sha->size * 8;
    size_t held = (size_t)(sha->size & 63);
    int i;
    sha->block[held++] = 0x80;
    if (held > 56) {
        memset(sha->block + held, 0, 64 - held);
        one_block(sha->state, sha->block);
        held = 0;
    }
    memset(sha->block + held, 0, 56 - held);
    for (i = 0; i < 8; i++) sha->block[56 + i] = (uint8_t)(bits >> (56 - 8 * i));
    one_block(sha->state, sha->block);
    for (i = 0; i < 32; i++) digest[i] = (uint8_t)(sha->state[i / 4] >> (24 - 8 * (i % 4)));
}

void hy_checksum(const void *data, size_t size, char digits[17]) {
    hy_sha256 sha;
    uint8_t digest[32];
    int i;
    hy_sha256_open(&sha);
    hy_sha256_add(&sha, data, size);
    hy_sha256_end(&sha, digest);
    for (i = 0; i < 16; i++)
        digits[i] = "0123456789abcdef"[i & 1 ? digest[i / 2] & 15 : digest[i / 2] >> 4];
    digits[16] = 0;
}
