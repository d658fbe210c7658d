/* A decoder of hydraopt streams (docs/format.md, "Streams"), complete, on a page.
 *
 *     cc -O2 -o decoder docs/decoder.c
 *     decoder FILE KIND ROWS COLUMNS     prints the first block of a stream, a row a line
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static int64_t magnitude(Stream *s, int c) {          /* unary to 15, then Exp-Golomb */
    for (int j = 0; j < BINS - 1; j++) if (!bit(s, c + j)) return j;
    int width = 0;
    while (width < 30 && bit(s, c + BINS - 1)) width++;
    return ((int64_t)1 << width) + raw(s, width) - 1 + (BINS - 1);
}

int64_t stream_integer(Stream *s, int kind) {         /* a side integer */
    int c = CONTEXTS + kind * 2 * BINS;
    int64_t v = magnitude(s, c);
    return v && bit(s, c + BINS) ? -v : v;
}

/* A block of `rows` x `columns` into out[row * columns + column]; 0 if the stream is damaged. */
int stream_block(Stream *s, int kind, int64_t rows, int64_t columns, int32_t *out) {
    int *spread = malloc(sizeof(int) * (columns + 1));
    int64_t *seen = calloc(rows + 1, sizeof *seen), before = 0;
    for (int64_t j = 0; j < columns; j++) {
        before += stream_integer(s, kind);
        if (before < 0 || before > 92) { free(spread); free(seen); return 0; }
        spread[j] = (int)before;
    }
    for (int64_t j = 0; j < columns; j++) {
        int shift = spread[j] < CLASSES ? 0 : (spread[j] - SHIFT_FROM) >> 2, state = 0;
        int cls = spread[j] - 4 * shift;
        int64_t total = 0;
        for (int64_t i = 0; i < rows; i++) total += seen[i];
        for (int64_t i = 0; i < rows; i++) {
            int q = state & 1;                        /* odd states use the second quantiser */
            int lively = 10 * seen[i] * rows < 7 * total ? 0 : 10 * seen[i] * rows < 13 * total ? 1 : 2;
            int64_t k = magnitude(s, ((q * CLASSES + cls) * ACTIVITIES + lively) * BINS), v = 0;
            if (shift) k = k << shift | raw(s, shift);
            if (k) {
                v = 2 * k - q;
                seen[i] += v;
                if (raw(s, 1)) v = -v;
            }
            out[i * columns + j] = (int32_t)v;
            state = NEXT[state][k & 1];
        }
    }
    free(spread); free(seen);
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    FILE *f = fopen(argv[1], "rb");
    if (!f) return 2;
    static uint8_t data[1 << 24];
    size_t size = fread(data, 1, sizeof data, f);
    fclose(f);
    static Stream s;
    stream_open(&s, data, size);
    int64_t rows = atoll(argv[3]), columns = atoll(argv[4]);
    int32_t *out = malloc(sizeof *out * (rows * columns + 1));
    if (!stream_block(&s, atoi(argv[2]), rows, columns, out)) return 1;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) printf("%d%c", out[i * columns + j], j + 1 == columns ? '\n' : ' ');
    return 0;
}
