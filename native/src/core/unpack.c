/* zlib streams (RFC 1950) of deflate (RFC 1951), and crc32. What is packed lies in memory whole and
 * the content's size is known, so no state is kept between calls, and nothing is allocated. */
#include <string.h>

#include "base.h"

uint32_t hy_crc32(const uint8_t *data, size_t size) {
    uint32_t tables[4][256], crc = 0xFFFFFFFFu, i, j;
    for (i = 0; i < 256; i++) {
        uint32_t x = i;
        for (j = 0; j < 8; j++) x = x >> 1 ^ (x & 1 ? 0xEDB88320u : 0);
        tables[0][i] = x;
    }
    for (j = 1; j < 4; j++)
        for (i = 0; i < 256; i++)
            tables[j][i] = tables[j - 1][i] >> 8 ^ tables[0][tables[j - 1][i] & 255];
    for (; size >= 4; size -= 4, data += 4) {
        crc ^= (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
               (uint32_t)data[3] << 24;
        crc = tables[3][crc & 255] ^ tables[2][crc >> 8 & 255] ^ tables[1][crc >> 16 & 255] ^
              tables[0][crc >> 24];
    }
    for (; size; size--) crc = crc >> 8 ^ tables[0][(crc ^ *data++) & 255];
    return ~crc;
}

/* ---- bits and codes ------------------------------------------------------------------------- */

enum { LONGEST = 15, FAST = 9, LITERALS = 288, DISTANCES = 32, END_OF_BLOCK = 256 };

typedef struct {
    const uint8_t *in, *end;
    uint64_t bits;  /* read ahead, the next one lowest; zeros behind the last */
    unsigned count; /* of them */
    uint8_t *out;
    size_t made, size;
} Unpacker;

/* A prefix code. fast: by the next FAST bits, symbol << 4 | length; 0 for longer codes. */
typedef struct {
    uint16_t fast[1 << FAST], counts[LONGEST + 1], symbols[LITERALS];
} Code;

static void fill(Unpacker *u) {
    while (u->count <= 56 && u->in < u->end) {
        u->bits |= (uint64_t)*u->in++ << u->count;
        u->count += 8;
    }
}

/* The next `count` bits, at most 16, or -1. */
static int32_t take(Unpacker *u, unsigned count) {
    int32_t value;
    if (u->count < count) fill(u);
    if (u->count < count) return -1;
    value = (int32_t)(u->bits & (((uint64_t)1 << count) - 1));
    u->bits >>= count;
    u->count -= count;
    return value;
}

/* 0 if there can be no such code. Like zlib's, a code that leaves words without a symbol is none,
 * unless it has one symbol of one bit, or no symbols. */
static int make_code(Code *code, const uint8_t *lengths, unsigned count, int may_be_short) {
    uint16_t next[LONGEST + 1];
    unsigned i, length, word = 0, used = 0, longest = 0;
    int32_t left = 1;
    memset(code, 0, sizeof *code);
    for (i = 0; i < count; i++) code->counts[lengths[i]]++;
    code->counts[0] = 0;
    for (length = 1; length <= LONGEST; length++) {
        left = 2 * left - code->counts[length];
        if (left < 0) return 0;
        if (code->counts[length]) longest = length;
        next[length] = (uint16_t)used;
        used += code->counts[length];
    }
    if (left > 0 && longest > 0 && !(may_be_short && longest == 1)) return 0;
    for (i = 0; i < count; i++)
        if (lengths[i]) code->symbols[next[lengths[i]]++] = (uint16_t)i;
    for (length = 1, i = 0; length <= FAST; length++, word <<= 1) {
        for (used = code->counts[length]; used; used--, word++, i++) {
            unsigned transposed = 0, j;
            for (j = 0; j < length; j++) transposed |= (word >> j & 1) << (length - 1 - j);
            for (; transposed < 1 << FAST; transposed += 1u << length)
                code->fast[transposed] = (uint16_t)((unsigned)code->symbols[i] << 4 | length);
        }
    }
    return 1;
}

/* The next symbol, or -1. */
static HY_INLINE int decode(Unpacker *u, const Code *code) {
    unsigned length, symbol;
    int32_t word = 0, first = 0, index = 0;
    if (u->count < LONGEST) fill(u);
    symbol = code->fast[u->bits & ((1 << FAST) - 1)];
    length = symbol & 15;
    symbol >>= 4;
    if (!length) {
        do {
            word = word << 1 | (int32_t)(u->bits >> length & 1);
            if (++length > LONGEST) return -1;
            index += code->counts[length - 1];
            first = (first + code->counts[length - 1]) << 1;
        } while (word - first >= code->counts[length]);
        symbol = code->symbols[index + word - first];
    }
    if (length > u->count) return -1;
    u->bits >>= length;
    u->count -= length;
    return (int)symbol;
}

/* ---- blocks: 1 if there is one, 0 if it is damaged ------------------------------------------- */

static int stored(Unpacker *u) {
    int32_t size, transposed;
    take(u, u->count & 7);
    size = take(u, 16);
    transposed = take(u, 16);
    if (size < 0 || transposed < 0 || (size ^ transposed) != 0xFFFF ||
        (size_t)size > u->size - u->made)
        return 0;
    u->in -= u->count / 8; /* what was read ahead goes back */
    u->bits = 0, u->count = 0;
    if (size > u->end - u->in) return 0;
    memcpy(u->out + u->made, u->in, (size_t)size);
    u->in += size, u->made += (size_t)size;
    return 1;
}

/* What a length's or a distance's symbol stands for: `steps` symbols for each power of two, the
 * first two powers without bits of their own. -1: the bits end. */
static HY_INLINE int32_t number(Unpacker *u, unsigned symbol, unsigned steps) {
    unsigned extra = symbol < 2 * steps ? 0 : symbol / steps - 1;
    int32_t more = take(u, extra);
    if (more < 0) return -1;
    return (int32_t)(extra ? (steps + symbol % steps) << extra : symbol) + more;
}

static int coded(Unpacker *u, const Code *literals, const Code *distances) {
    for (;;) {
        int symbol = decode(u, literals);
        int32_t length, distance;
        uint8_t *to = u->out + u->made;
        if (symbol < END_OF_BLOCK) {
            if (symbol < 0 || u->made == u->size) return 0;
            *to = (uint8_t)symbol;
            u->made++;
            continue;
        }
        if (symbol == END_OF_BLOCK) return 1;
        if (symbol > 285) return 0;
        length = symbol == 285 ? 258 : 3 + number(u, (unsigned)symbol - 257, 4);
        symbol = decode(u, distances);
        if (length < 3 || symbol < 0 || symbol > 29) return 0;
        distance = 1 + number(u, (unsigned)symbol, 2);
        if (distance < 1 || (size_t)distance > u->made || (size_t)length > u->size - u->made)
            return 0;
        u->made += (size_t)length;
        for (; length; length--, to++) *to = to[-distance];
    }
}

static int fixed(Unpacker *u) {
    Code literals, distances;
    uint8_t lengths[LITERALS];
    memset(lengths, 8, 144);
    memset(lengths + 144, 9, 112);
    memset(lengths + 256, 7, 24);
    memset(lengths + 280, 8, 8);
    make_code(&literals, lengths, LITERALS, 0);
    memset(lengths, 5, DISTANCES);
    make_code(&distances, lengths, DISTANCES, 0);
    return coded(u, &literals, &distances);
}

static int dynamic(Unpacker *u) {
    static const uint8_t order[] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                    11, 4,  12, 3, 13, 2, 14, 1, 15};
    Code literals, distances; /* literals: first the code of the lengths themselves */
    uint8_t lengths[LITERALS + DISTANCES], own[19] = {0};
    int32_t first = take(u, 5), second = take(u, 5), few = take(u, 4), i, all;
    if (first < 0 || second < 0 || few < 0 || first > 286 - 257 || second > 30 - 1) return 0;
    first += 257, second += 1, few += 4;
    all = first + second;
    for (i = 0; i < few; i++) {
        int32_t length = take(u, 3);
        if (length < 0) return 0;
        own[order[i]] = (uint8_t)length;
    }
    if (!make_code(&literals, own, 19, 0)) return 0;
    for (i = 0; i < all;) {
        int symbol = decode(u, &literals);
        int32_t again = 1;
        uint8_t length = (uint8_t)symbol;
        if (symbol < 0) return 0;
        if (symbol > 15) {
            if (symbol == 16 && !i) return 0;
            length = symbol == 16 ? lengths[i - 1] : 0;
            again = take(u, symbol == 16 ? 2 : symbol == 17 ? 3 : 7);
            if (again < 0) return 0;
            again += symbol == 18 ? 11 : 3;
        }
        if (again > all - i) return 0;
        memset(lengths + i, length, (size_t)again);
        i += again;
    }
    if (!make_code(&literals, lengths, (unsigned)first, 1)) return 0;
    if (!make_code(&distances, lengths + first, (unsigned)second, 1)) return 0;
    return coded(u, &literals, &distances);
}

/* ---- a stream ------------------------------------------------------------------------------- */

static uint32_t adler32(const uint8_t *data, size_t size) {
    uint32_t a = 1, b = 0;
    while (size) {
        size_t some = size < 5552 ? size : 5552; /* the sums stay below 2^32 */
        size -= some;
        for (; some; some--) a += *data++, b += a;
        a %= 65521, b %= 65521;
    }
    return b << 16 | a;
}

static int unpack(Unpacker *u) {
    int32_t method = take(u, 8), flags = take(u, 8), last, kind;
    uint32_t sum = 0;
    int i;
    /* Deflate, a window of 32 KiB at most, and no dictionary. */
    if (flags < 0 || (method << 8 | flags) % 31 || (method & 15) != 8 || method >> 4 > 7 ||
        flags & 32)
        return 0;
    do {
        last = take(u, 1);
        kind = take(u, 2);
        if (kind == 0 ? !stored(u) : kind == 1 ? !fixed(u) : kind == 2 ? !dynamic(u) : 1) return 0;
    } while (!last);
    take(u, u->count & 7);
    for (i = 0; i < 4; i++) {
        int32_t byte = take(u, 8);
        if (byte < 0) return 0;
        sum = sum << 8 | (uint32_t)byte;
    }
    return sum == adler32(u->out, u->made) && u->made == u->size && !u->count && u->in == u->end;
}

hydra_status hy_inflate(hy_env *env, const uint8_t *data, size_t packed, uint8_t *out, size_t size,
                        const char *what) {
    Unpacker u;
    memset(&u, 0, sizeof u);
    u.in = data, u.end = data + packed;
    u.out = out, u.size = size;
    if (unpack(&u)) return HYDRA_OK;
    return hy_fail(env, HYDRA_DAMAGED,
                   "%s cannot be unpacked; got %llu of %llu bytes. Fetch the bundle again", what,
                   (unsigned long long)u.made, (unsigned long long)size);
}
