/* A decoder of hydraopt streams (streams.md), complete but for tables.h. It needs zlib's crc32 alone.
 *
 *     cc -O2 -o decoder decoder.c -lz
 *     decoder FILE SHAPE ROWS COLUMNS    prints the first block of every chunk of a stream, a row a line
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "tables.h"

typedef struct {
    const uint8_t *data;
    size_t size, pos;
    uint32_t x, y;
    int64_t first[8];                                 /* of the last list of each kind */
} Stream;

static uint32_t word(Stream *s) {
    uint32_t w = s->pos + 2 <= s->size ? s->data[s->pos] | s->data[s->pos + 1] << 8 : 0;
    s->pos += 2;
    return w;
}

static uint32_t u32(const uint8_t *p) { return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24; }

int stream_open(Stream *s, const uint8_t *data, size_t size) { /* 0: refuse */
    memset(s, 0, sizeof *s);
    s->data = data; s->size = size; s->pos = 8;
    if (size >= 8) { s->x = u32(data); s->y = u32(data + 4); }
    return size % 2 == 0 && s->x >= 65536 && s->y >= 65536;
}

int stream_ended(const Stream *s) { return s->x == 65536 && s->y == 65536 && s->pos == s->size; }

static void refill(Stream *s) { if (s->x < 65536) s->x = s->x << 16 | word(s); }

static uint32_t raw(Stream *s, int width) {
    uint32_t high = 0, v;
    if (width > 16) { high = raw(s, width - 16) << 16; width = 16; }
    v = s->x & ((1u << width) - 1);
    s->x >>= width;
    refill(s);
    return high | v;
}

/* A number: `row` has the slots of 29 symbols, or of the magnitudes 0 to 14 if it is symmetric. */
static int64_t number(Stream *s, const uint16_t *row, int symmetric, int width) {
    uint32_t slot = s->x & 4095, start = 0, f = 0;
    int t = -1;
    do {
        start += f; t++;
        f = t == 29 ? 4096 - start : row[symmetric ? abs(t - 14) : t];
    } while (slot - start >= f);
    s->x = f * (s->x >> 12) + slot - start;
    refill(s);
    int64_t v = t - 14;
    if (t == 29) {                                    /* the escape */
        int e = (int)raw(s, 5);
        int64_t z = ((int64_t)1 << e) + raw(s, e);
        v = z & 1 ? -(z >> 1) : z >> 1;
    }
    v = v * (1 << width) + (width ? raw(s, width) : 0) - (1 << width >> 1);
    uint32_t x = s->x; s->x = s->y; s->y = x;
    return v;
}

int64_t stream_integer(Stream *s, int kind) {         /* a side integer; 2^30 or more: refuse */
    return number(s, SIDE[kind], 0, kind == 4 ? 3 : 0) + (kind == 0 ? 10 : kind == 2 ? 16 : 0);
}

void stream_list(Stream *s, int kind, int64_t count, int64_t *out) {
    for (int64_t i = 0; i < count; i++) out[i] = stream_integer(s, kind) + (i ? out[i - 1] : s->first[kind]);
    if (count) s->first[kind] = out[0];
}

/* A block of `rows` x `columns` into out[row * columns + column]; 0 if the stream is damaged. shape: the block's. */
int stream_block(Stream *s, int shape, int64_t rows, int64_t columns, int32_t *out) {
    if (rows * columns > 1 << 25) return 0;
    int64_t class = 0, state = 0;
    for (int64_t j = 0; j < columns; j++) {
        class += stream_integer(s, j ? 3 : 2);
        if (class < 0 || class > 81 || s->pos > s->size + 128) return 0;
        for (int64_t i = 0; i < rows && !class; i++) out[i * columns + j] = 0;
        if (!class) continue;
        int64_t next = stream_integer(s, 5 + shape);
        if (next < 0 || next > 2) return 0;
        shape = (int)next;
        state = 0;
        for (int64_t i = 0; i < rows; i++) {
            int q = state & 1;                        /* odd states use the second quantiser */
            int64_t k = class <= 17 ? number(s, LEVELS[38 * shape + 2 * (class - 1) + q], 1, 0)
                                    : number(s, LEVELS[38 * shape + 34 + (class - 18) % 4], 1, (int)(class - 14) / 4);
            int64_t v = 2 * k - (k > 0 ? q : k < 0 ? -q : 0);
            if (v > 1 << 27 || v < -(1 << 27)) return 0;
            out[i * columns + j] = (int32_t)v;
            state = state >> 1 ^ (state & 1) * 58 ^ (k & 1) * 17;
        }
    }
    return 1;
}

typedef struct { uint32_t records, numbers, bytes, crc; } Chunk;

static int varint(const uint8_t **p, const uint8_t *end, uint32_t *out) {
    uint64_t v = 0;
    for (int i = 0; i < 5; i++) {
        if (*p == end) return 0;
        uint8_t b = *(*p)++;
        v |= (uint64_t)(b & 127) << 7 * i;
        if (b < 128) { *out = (uint32_t)v; return (b || !i) && v >> 32 == 0; }
    }
    return 0;
}

/* The table of a stream: chunks[0 .. *count), the caller frees. Bytes of the table, or 0 if it is damaged. */
size_t stream_table(const uint8_t *data, size_t size, Chunk **chunks, uint32_t *count) {
    const uint8_t *p = data, *end = data + size;
    uint64_t bytes = 0;
    if (!varint(&p, end, count) || !*count || *count > size / 7) return 0;
    *chunks = malloc(sizeof **chunks * *count);
    for (uint32_t i = 0; i < *count; i++) {
        Chunk *c = *chunks + i;
        if (!varint(&p, end, &c->records) || !c->records || !varint(&p, end, &c->numbers)) return 0;
        if (!varint(&p, end, &c->bytes) || end - p < 4) return 0;
        c->crc = u32(p); p += 4; bytes += c->bytes;
    }
    if (end - p < 4 || u32(p) != crc32(0, data, (uInt)(p - data))) return 0;
    p += 4;
    return bytes == (uint64_t)(end - p) ? (size_t)(p - data) : 0;
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    FILE *f = fopen(argv[1], "rb");
    if (!f) return 2;
    static uint8_t data[1 << 24];
    size_t size = fread(data, 1, sizeof data, f);
    fclose(f);
    static Stream s;
    Chunk *chunks = 0;
    uint32_t count;
    size_t at = stream_table(data, size, &chunks, &count);
    int64_t rows = atoll(argv[3]), columns = atoll(argv[4]);
    int32_t *out = malloc(sizeof *out * (rows * columns + 1));
    if (!at) return 1;
    for (uint32_t n = 0; n < count; at += chunks[n++].bytes) {
        if (crc32(0, data + at, chunks[n].bytes) != chunks[n].crc) return 1;
        if (!stream_open(&s, data + at, chunks[n].bytes)) return 1;
        if (!stream_block(&s, atoi(argv[2]), rows, columns, out) || !stream_ended(&s)) return 1;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++)
                printf("%d%c", out[i * columns + j], j + 1 == columns ? '\n' : ' ');
    }
    return 0;
}
