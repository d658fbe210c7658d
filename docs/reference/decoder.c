/* A decoder of hydraopt streams (streams.md), complete, on a page. It needs zlib's crc32 alone.
 *
 *     cc -O2 -o decoder decoder.c -lz
 *     decoder FILE KIND ROWS COLUMNS     prints the first block of every chunk of a stream, a row a line
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { CLASSES = 29, SHIFT_FROM = 25, ACTIVITIES = 3, BINS = 16, KINDS = 8 };
enum { CONTEXTS = 2 * CLASSES * ACTIVITIES * BINS, MODEL = CONTEXTS + KINDS * 2 * BINS };

static const uint8_t NEXT[8][2] = {{0,2},{5,7},{1,3},{6,4},{2,0},{4,6},{3,1},{7,5}};

typedef struct {
    const uint8_t *data;
    size_t size, pos;
    uint32_t code, range;
    int32_t p[MODEL], count[MODEL];
} Stream;

static uint32_t byte_at(Stream *s) { return s->pos < s->size ? s->data[s->pos++] : (s->pos++, 0); }

static void refill(Stream *s) {
    while (s->range < 1u << 24) { s->code = s->code << 8 | byte_at(s); s->range <<= 8; }
}

void stream_open(Stream *s, const uint8_t *data, size_t size) {
    memset(s, 0, sizeof *s);
    s->data = data; s->size = size; s->range = 0xFFFFFFFFu;
    for (int i = 0; i < 5; i++) s->code = s->code << 8 | byte_at(s);
    for (int i = 0; i < MODEL; i++) s->p[i] = 32768;
}

static int bit(Stream *s, int c) {                    /* one adaptive decision */
    uint32_t bound = (s->range >> 16) * (uint32_t)s->p[c];
    int32_t rate = 655360 / (10 * s->count[c] + 16), one = s->code < bound;
    if (one) {
        s->range = bound;
        s->p[c] += (int32_t)((int64_t)(65536 - s->p[c]) * rate >> 16);
        if (s->p[c] > 65536 - 64) s->p[c] = 65536 - 64;
    } else {
        s->code -= bound; s->range -= bound;
        s->p[c] -= (int32_t)((int64_t)s->p[c] * rate >> 16);
        if (s->p[c] < 64) s->p[c] = 64;
    }
    if (s->count[c] < 255) s->count[c]++;
    refill(s);
    return one;
}

static int64_t raw(Stream *s, int width) {            /* plain bits, high first */
    int64_t v = 0;
    while (width-- > 0) {
        s->range >>= 1;
        int one = s->code >= s->range;
        if (one) s->code -= s->range;
        v = v << 1 | one;
        refill(s);
    }
    return v;
}

static int64_t magnitude(Stream *s, int c) {          /* unary to 15, then Exp-Golomb; 2^30 or more: refuse */
    for (int j = 0; j < BINS - 1; j++) if (!bit(s, c + j)) return j;
    int width = 0;
    while (width < 30 && bit(s, c + BINS - 1)) width++;
    return ((int64_t)1 << width) + raw(s, width) - 1 + (BINS - 1);
}

int64_t stream_integer(Stream *s, int kind) {         /* a side integer; 2^30 or more: refuse */
    int c = CONTEXTS + kind * 2 * BINS;
    int64_t v = magnitude(s, c);
    return v && bit(s, c + BINS) ? -v : v;
}

/* A block of `rows` x `columns` into out[row * columns + column]; 0 if the stream is damaged. */
int stream_block(Stream *s, int kind, int64_t rows, int64_t columns, int32_t *out) {
    if (s->pos > s->size + 64 || rows * columns > 1 << 25) return 0;
    int *spread = malloc(sizeof(int) * (columns + 1)), sound = 1;
    int64_t *seen = calloc(rows + 1, sizeof *seen), before = 0;
    for (int64_t j = 0; j < columns && sound; j++) {
        before += stream_integer(s, kind);
        spread[j] = (int)before;
        sound = before >= 0 && before <= 92;
    }
    for (int64_t j = 0; j < columns && sound; j++) {
        int shift = spread[j] < CLASSES ? 0 : (spread[j] - SHIFT_FROM) >> 2, state = 0;
        int cls = spread[j] - 4 * shift;
        int64_t total = 0;
        for (int64_t i = 0; i < rows; i++) { total += seen[i]; sound &= seen[i] < 1 << 30; }
        int64_t usual = (7 * total + 10 * rows - 1) / (10 * rows), lively = (13 * total + 10 * rows - 1) / (10 * rows);
        for (int64_t i = 0; i < rows && sound; i++) {
            int q = state & 1;                        /* odd states use the second quantiser */
            int active = (seen[i] >= usual) + (seen[i] >= lively);
            int64_t k = magnitude(s, ((q * CLASSES + cls) * ACTIVITIES + active) * BINS), v = 0;
            if (shift) k = k << shift | raw(s, shift);
            if (k) {
                v = 2 * k - q;
                seen[i] += v;
                sound = v <= 1 << 27;
                if (raw(s, 1)) v = -v;
            }
            out[i * columns + j] = (int32_t)v;
            state = NEXT[state][k & 1];
        }
    }
    free(spread); free(seen);
    return sound;
}

typedef struct { uint32_t records, numbers, bytes, crc; } Chunk;

static uint32_t u32(const uint8_t *p) { return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24; }

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
        stream_open(&s, data + at, chunks[n].bytes);
        if (!stream_block(&s, atoi(argv[2]), rows, columns, out) || s.pos < s.size) return 1;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++)
                printf("%d%c", out[i * columns + j], j + 1 == columns ? '\n' : ' ');
    }
    return 0;
}
