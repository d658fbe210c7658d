#include "coder.h"

#include "base.h"

/* RATE[count] = floor(655360 / (10 count + 16)): part of the format. */
#define R1(n) (uint16_t)(655360 / (10 * (n) + 16))
#define R8(n) R1(n), R1(n + 1), R1(n + 2), R1(n + 3), R1(n + 4), R1(n + 5), R1(n + 6), R1(n + 7)
#define R64(n) R8(n), R8(n + 8), R8(n + 16), R8(n + 24), R8(n + 32), R8(n + 40), R8(n + 48), \
               R8(n + 56)
static const uint16_t RATE[256] = {R64(0), R64(64), R64(128), R64(192)};

/* 2 NEXT[state][parity of the level], at 2 state + parity. q is then bit 1. */
static const uint8_t NEXT[16] = {0, 4, 10, 14, 2, 6, 12, 8, 4, 0, 8, 12, 6, 2, 14, 10};

/* The state of a coder in registers. Places, not pointers: a damaged chunk is read far past its
 * end. */
typedef struct {
    uint32_t range, code;
    const uint8_t *data;
    size_t at, size;
} Live;

static HY_INLINE Live live_of(const hy_coder *c) {
    Live s;
    s.range = c->range;
    s.code = c->code;
    s.data = c->data;
    s.at = c->at;
    s.size = c->size;
    return s;
}

static HY_INLINE void keep(hy_coder *c, const Live *s) {
    c->range = s->range;
    c->code = s->code;
    c->at = s->at;
}

static HY_INLINE void take_byte(Live *s) {
    s->range <<= 8;
    s->code = s->code << 8 | (s->at < s->size ? s->data[s->at] : 0u);
    s->at++;
}

/* A step leaves at least 2^14 of the range: two bytes are enough. */
static HY_INLINE void normal(Live *s) {
    if (s->range < (uint32_t)1 << 24) {
        take_byte(s);
        if (s->range < (uint32_t)1 << 24) take_byte(s);
    }
}

void hy_coder_open(hy_coder *c, const uint8_t *data, size_t size) {
    Live s;
    int i;
    c->data = data;
    c->size = size;
    c->at = 1;
    c->range = 0;
    c->code = 0;
    c->damaged = 0;
    s = live_of(c);
    for (i = 0; i < 4; i++) take_byte(&s);
    s.range = 0xFFFFFFFFu;
    keep(c, &s);
    for (i = 0; i < HY_CONTEXTS; i++) {
        c->model[i].p = 32768;
        c->model[i].count = 0;
    }
}

size_t hy_coder_taken(const hy_coder *c) { return c->at; }

/* One adaptive decision. The bounds of the format, 64 and 65472, are no concern here: with these
 * rates no probability comes near them; tests/coding/test_probabilities.py goes over all there are.
 */
static HY_INLINE int decide(Live *s, hy_context *x) {
    uint32_t p = x->p, count = x->count, rate = RATE[count];
    uint32_t bound = (s->range >> 16) * p;
    x->count = (uint16_t)(count + (count < 255));
    if (s->code < bound) {
        s->range = bound;
        x->p = (uint16_t)(p + ((65536 - p) * rate >> 16));
        normal(s);
        return 1;
    }
    s->code -= bound;
    s->range -= bound;
    x->p = (uint16_t)(p - (p * rate >> 16));
    normal(s);
    return 0;
}

static HY_INLINE uint32_t raw_bit(Live *s) {
    uint32_t bit;
    s->range >>= 1;
    bit = s->code >= s->range;
    s->code -= s->range & (0 - bit);
    normal(s);
    return bit;
}

static HY_INLINE uint32_t raw_bits(Live *s, int width) {
    uint32_t value = 0;
    while (width-- > 0) value = value << 1 | raw_bit(s);
    return value;
}

/* A magnitude that is `least` or more, below 2^30 + 2^4. step: from a context to the next. */
static HY_INLINE uint32_t magnitude(hy_coder *c, Live *s, hy_context *x, int step, int least) {
    int j, width = 0;
    for (j = least; j < HY_BINS - 1; j++)
        if (!decide(s, x + j * step)) return (uint32_t)j;
    while (decide(s, x + (HY_BINS - 1) * step)) {
        if (++width > 29) {
            c->damaged = 1;
            return 0;
        }
    }
    return ((uint32_t)1 << width) + raw_bits(s, width) - 1 + (HY_BINS - 1);
}

int32_t hy_coder_integer(hy_coder *c, int kind) {
    hy_context *x = c->model + HY_LEVEL_CONTEXTS + kind * 2 * HY_BINS;
    Live s = live_of(c);
    uint32_t value = magnitude(c, &s, x, 1, 0);
    int negative = value ? decide(&s, x + HY_BINS) : 0;
    keep(c, &s);
    if (value >= HY_MOST_SUM) {
        c->damaged = 1;
        return 0;
    }
    return negative ? -(int32_t)value : (int32_t)value;
}

/* ceil(share / 10 of the mean), the least sum that is at or above it. */
static uint32_t threshold(uint64_t total, uint32_t rows, uint32_t share) {
    uint64_t of = (uint64_t)10 * rows;
    return (uint32_t)((share * total + of - 1) / of);
}

void hy_coder_column(hy_coder *c, int spread, uint32_t rows, uint32_t *sums, int32_t *out) {
    int shift = spread < HY_CLASSES ? 0 : (spread - HY_SHIFT_FROM) >> 2;
    hy_context *base = c->model + (spread - 4 * shift) * HY_ACTIVITIES * HY_BINS * 2;
    uint32_t usual, lively, state = 0, any = 0, i;
    uint64_t total = 0;
    Live s = live_of(c);
    for (i = 0; i < rows; i++) total += sums[i], any |= sums[i];
    if (any >= HY_MOST_SUM) c->damaged = 1;
    usual = threshold(total, rows, 7);
    lively = threshold(total, rows, 13);
    for (i = 0; i < rows; i++) {
        uint32_t seen = sums[i], q = state >> 1 & 1, k = 0, sign;
        hy_context *x = base + ((seen >= usual) + (uint32_t)(seen >= lively)) * (2 * HY_BINS) + q;
        /* Most numbers are 0 or 1: these two decisions are taken here, the rest in a loop. */
        if (decide(&s, x)) {
            k = 1;
            if (decide(&s, x + 2)) k = magnitude(c, &s, x, 2, 2);
        }
        if (shift) {
            uint32_t low = raw_bits(&s, shift);
            if (k > HY_MOST_NUMBER >> shift) c->damaged = 1, k = 0;
            k = k << shift | low;
        }
        if (!k) {
            out[i] = 0;
            state = NEXT[state];
            continue;
        }
        if (k > HY_MOST_NUMBER / 2) c->damaged = 1, k = 1;
        state = NEXT[state + (k & 1)];
        k = 2 * k - q;
        sums[i] = seen + k;
        sign = raw_bit(&s);
        out[i] = (int32_t)((k ^ (0 - sign)) + sign);
    }
    keep(c, &s);
}
