#include "coder.h"

#include <string.h>

#include "base.h"
#include "tables.h"

enum { MIDDLE = 14, ESCAPE = 29, CLASSES = 17, EACH = 2 * CLASSES + 4, LEAST = 65536 };

static const uint8_t OFFSET[HY_KINDS] = {10, 0, 16, 0, 0, 0, 0, 0};
static const uint8_t SHIFT[HY_KINDS] = {0, 0, 0, 0, 3, 0, 0, 0};

/* The next state of the trellis. */
static HY_INLINE uint32_t next_state(uint32_t state, uint32_t level) {
    return state >> 1 ^ (state & 1) * 58 ^ (level & 1) * 17;
}

/* The state of a coder in registers. */
typedef struct {
    uint32_t x, y;
    const uint8_t *data;
    size_t at, size;
} Live;

static HY_INLINE Live live_of(const hy_coder *c) {
    Live s;
    s.x = c->x;
    s.y = c->y;
    s.data = c->data;
    s.at = c->at;
    s.size = c->size;
    return s;
}

static HY_INLINE void keep(hy_coder *c, const Live *s) {
    c->x = s->x;
    c->y = s->y;
    c->at = s->at;
}

static HY_INLINE uint32_t word_at(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8; }

static HY_INLINE void refill(Live *s) {
    if (s->x < LEAST) {
        s->x = s->x << 16 | (s->at + 2 <= s->size ? word_at(s->data + s->at) : 0);
        s->at += 2;
    }
}

static HY_INLINE void swap(Live *s) {
    uint32_t x = s->x;
    s->x = s->y;
    s->y = x;
}

void hy_coder_open(hy_coder *c, const uint8_t *data, size_t size) {
    int sound = size >= 8 && size % 2 == 0;
    c->data = data;
    c->size = size;
    c->at = 8;
    c->x = sound ? word_at(data) | word_at(data + 2) << 16 : 0;
    c->y = sound ? word_at(data + 4) | word_at(data + 6) << 16 : 0;
    c->damaged = c->x < LEAST || c->y < LEAST;
    memset(c->first, 0, sizeof c->first);
}

int hy_coder_passed(const hy_coder *c) { return c->at > c->size + 128; }

int hy_coder_ended(const hy_coder *c) {
    return c->x == LEAST && c->y == LEAST && c->at == c->size;
}

/* Takes up to sixteen raw bits. */
static HY_INLINE uint32_t raw(Live *s, uint32_t width) {
    uint32_t value = s->x & (((uint32_t)1 << width) - 1);
    s->x >>= width;
    refill(s);
    return value;
}

/* Decodes a value that has no symbol; its magnitude is below 2^31. */
static int32_t escaped(Live *s) {
    uint32_t width = raw(s, 5), high = width > 16 ? raw(s, width - 16) << 16 : 0;
    uint32_t folded = ((uint32_t)1 << width) + high + raw(s, width < 16 ? width : 16);
    return folded & 1 ? -(int32_t)(folded >> 1) : (int32_t)(folded >> 1);
}

static HY_INLINE void advance(Live *s, uint32_t slot, uint32_t frequency, uint32_t start) {
    s->x = frequency * (s->x >> 12) + slot - start;
    refill(s);
}

static int32_t side(Live *s, int kind) {
    const uint16_t *row = SIDE[kind];
    uint32_t slot = s->x & (HY_TOTAL - 1), start = 0, symbol = 0;
    while (symbol < ESCAPE && slot - start >= row[symbol]) start += row[symbol++];
    if (symbol == ESCAPE) {
        advance(s, slot, HY_TOTAL - start, start);
        return escaped(s);
    }
    advance(s, slot, row[symbol], start);
    return (int32_t)symbol - MIDDLE;
}

int32_t hy_coder_integer(hy_coder *c, int kind) {
    Live s = live_of(c);
    int64_t value = side(&s, kind);
    uint32_t shift = SHIFT[kind];
    if (shift) value = value * (1 << shift) + raw(&s, shift) - (1 << shift >> 1);
    swap(&s);
    keep(c, &s);
    if (value <= -HY_MOST_SIDE || value >= HY_MOST_SIDE) {
        c->damaged = 1;
        return 0;
    }
    return (int32_t)value + OFFSET[kind];
}

/* Makes the table of a quantiser: integers of the second one, q = 1, are one step nearer to 0. */
static void make_table(const uint16_t *row, int q, uint32_t *step, uint8_t (*symbol)[2]) {
    uint32_t start = 0, i;
    for (i = 0; i < HY_SYMBOLS; i++) {
        int level = (int)i - MIDDLE, value = 2 * level - q * ((level > 0) - (level < 0));
        uint32_t frequency = i == ESCAPE ? HY_TOTAL - start : row[level < 0 ? -level : level];
        step[i] = frequency | start << 12 | (uint32_t)(value + 32) << 24;
        for (frequency += start; start < frequency; start++) symbol[start][q] = (uint8_t)i;
    }
}

static const hy_tables *tables_of(hy_coder *c, int number, int shape) {
    int pair = number <= CLASSES ? number - 1 : CLASSES + (number - CLASSES - 1) % 4;
    uint32_t of = (uint32_t)(1 + shape * (CLASSES + 4) + pair);
    hy_tables *t = c->kept + of % HY_KEPT;
    const uint16_t(*rows)[15] = LEVELS + shape * EACH;
    if (t->of == of) return t;
    if (number <= CLASSES) {
        make_table(rows[2 * pair], 0, t->step[0], t->symbol);
        make_table(rows[2 * pair + 1], 1, t->step[1], t->symbol);
    } else {
        make_table(rows[CLASSES + pair], 0, t->step[0], t->symbol);
    }
    t->of = of;
    return t;
}

static HY_INLINE int32_t integer_of(hy_coder *c, int64_t level, uint32_t q) {
    int64_t value = 2 * level - (int64_t)q * ((level > 0) - (level < 0));
    if (value > HY_MOST_NUMBER || value < -HY_MOST_NUMBER) {
        c->damaged = 1;
        return 0;
    }
    return (int32_t)value;
}

/* The symbols of a slot in both tables, which are one load: the state that chooses is late. */
static HY_INLINE uint32_t both_at(const hy_tables *t, uint32_t slot) {
    return t->symbol[slot][0] | (uint32_t)t->symbol[slot][1] << 8;
}

/* Decodes a column whose numbers have no raw bits. The inner loop reads a word for each number,
 * needed or not, while there are words. */
static void plain_column(hy_coder *c, const hy_tables *t, uint32_t rows, int32_t *out) {
    Live s = live_of(c);
    uint32_t state = 0, i = 0;
    while (i < rows) {
        size_t words = s.at < s.size ? (s.size - s.at) / 2 : 0;
        uint32_t end = rows - i < words ? rows : i + (uint32_t)words, q, slot, symbol, step;
        uint32_t x = s.x, y = s.y;
        const uint8_t *p = s.data + (s.at < s.size ? s.at : s.size);
        const uint8_t *start = p;
        symbol = 0;
        while (i < end) {
            uint32_t empty, next;
            slot = x & (HY_TOTAL - 1);
            symbol = both_at(t, slot) >> (state & 1) * 8 & 255;
            step = t->step[state & 1][symbol];
            x = (step & 4095) * (x >> 12) + slot - (step >> 12 & 4095);
            empty = x < LEAST;
            next = x << 16 | word_at(p);
            x = empty ? next : x;
            p += 2 * empty;
            if (symbol == ESCAPE) break;
            out[i++] = (int32_t)(step >> 24) - 32;
            state = next_state(state, symbol);
            next = x, x = y, y = next;
        }
        s.x = x, s.y = y;
        s.at += (size_t)(p - start);
        if (i == rows) break;
        if (symbol != ESCAPE) { /* no word is left: one number with care */
            q = state & 1;
            slot = s.x & (HY_TOTAL - 1);
            symbol = t->symbol[slot][q];
            step = t->step[q][symbol];
            advance(&s, slot, step & 4095, step >> 12 & 4095);
        }
        {
            int32_t level = symbol == ESCAPE ? escaped(&s) : (int32_t)symbol - MIDDLE;
            out[i++] = integer_of(c, level, state & 1);
            state = next_state(state, (uint32_t)level);
            swap(&s);
        }
    }
    keep(c, &s);
}

/* Decodes a column whose numbers have raw bits. */
static void fine_column(hy_coder *c, const hy_tables *t, uint32_t shift, uint32_t rows,
                        int32_t *out) {
    Live s = live_of(c);
    int64_t half = (int64_t)1 << shift >> 1;
    uint32_t state = 0, i;
    for (i = 0; i < rows; i++) {
        uint32_t slot = s.x & (HY_TOTAL - 1), symbol = t->symbol[slot][0];
        uint32_t step = t->step[0][symbol];
        int64_t level = (int32_t)symbol - MIDDLE;
        advance(&s, slot, step & 4095, step >> 12 & 4095);
        if (symbol == ESCAPE) level = escaped(&s);
        level = level * ((int64_t)1 << shift) + raw(&s, shift) - half;
        out[i] = integer_of(c, level, state & 1);
        state = next_state(state, (uint32_t)level);
        swap(&s);
    }
    keep(c, &s);
}

void hy_coder_column(hy_coder *c, int *class_of, int *shape, uint32_t rows, int32_t *out) {
    int first = *class_of < 0;
    int64_t number = hy_coder_integer(c, first ? HY_FIRST_CLASS : HY_NEXT_CLASS);
    if (!first) number += *class_of;
    *class_of = (int)number;
    if (number < 0 || number > HY_MOST_CLASS || hy_coder_passed(c)) c->damaged = 1;
    if (!number || c->damaged) {
        memset(out, 0, sizeof *out * rows);
        return;
    }
    *shape = hy_coder_integer(c, HY_AFTER + *shape);
    if (*shape < 0 || *shape >= HY_SHAPES) {
        c->damaged = 1;
    } else if (number <= CLASSES) {
        plain_column(c, tables_of(c, (int)number, *shape), rows, out);
    } else {
        fine_column(c, tables_of(c, (int)number, *shape), (uint32_t)(number - CLASSES + 3) / 4,
                    rows, out);
    }
}
