#include "coder.h"

#include <string.h>

/* A Live that is handed to a function travels through memory, on some machines. */
#if defined(__GNUC__)
#define HY_INLINE inline __attribute__((always_inline))
#else
#define HY_INLINE inline
#endif

/* RATE[count] = floor(655360 / (10 count + 16)): part of the format. */
#define R1(n) (uint16_t)(655360 / (10 * (n) + 16))
#define R8(n) R1(n), R1(n + 1), R1(n + 2), R1(n + 3), R1(n + 4), R1(n + 5), R1(n + 6), R1(n + 7)
#define R64(n) R8(n), R8(n + 8), R8(n + 16), R8(n + 24), R8(n + 32), R8(n + 40), R8(n + 48), \
               R8(n + 56)
static const uint16_t RATE[256] = {R64(0), R64(64), R64(128), R64(192)};

/* NEXT[2 state + parity of the level] */
static const uint8_t NEXT[16] = {0, 2, 5, 7, 1, 3, 6, 4, 2, 0, 4, 6, 3, 1, 7, 5};

/* The state of a coder in registers; `s` is that of the column loop as well. */
typedef struct {
    uint64_t window;
    uint32_t range;
    int ahead;
} Live;

static HY_INLINE Live live_of(const hy_coder *c) {
    Live s;
    s.window = c->window;
    s.range = c->range;
    s.ahead = c->ahead;
    return s;
}

static inline void keep(hy_coder *c, Live s) {
    c->window = s.window;
    c->range = s.range;
    c->ahead = s.ahead;
}

static HY_INLINE uint32_t byte_at(const hy_coder *c, size_t at) {
    return at < c->size ? c->data[at] : 0;
}

/* Two more bytes, if fewer than two are ahead: a step takes two at most. */
static HY_INLINE Live refill(hy_coder *c, Live s) {
    if (s.ahead < 16) {
        uint32_t two;
        if (c->size >= 2 && c->at <= c->size - 2)
            two = (uint32_t)c->data[c->at] << 8 | c->data[c->at + 1];
        else
            two = byte_at(c, c->at) << 8 | byte_at(c, c->at + 1);
        c->at += 2;
        s.window = s.window << 16 | two;
        s.ahead += 16;
    }
    return s;
}

static HY_INLINE Live normal(hy_coder *c, Live s) {
    if (s.range < (uint32_t)1 << 24) {
        int bits = s.range < (uint32_t)1 << 16 ? 16 : 8;
        s.range <<= bits;
        s.ahead -= bits;
        s = refill(c, s);
    }
    return s;
}

void hy_coder_open(hy_coder *c, const uint8_t *data, size_t size) {
    int i;
    c->data = data;
    c->size = size;
    c->at = 5;
    c->window = 0;
    c->ahead = 0;
    c->damaged = 0;
    for (i = 1; i < 5; i++) c->window = c->window << 8 | byte_at(c, (size_t)i);
    c->range = 0xFFFFFFFFu;
    for (i = 0; i < HY_CONTEXTS; i++) c->model[i] = (uint32_t)32768 << 8;
    keep(c, refill(c, live_of(c)));
}

size_t hy_coder_taken(const hy_coder *c) { return c->at - (size_t)c->ahead / 8; }

/* One adaptive decision; the bit goes to *bit. */
static HY_INLINE Live decide(hy_coder *c, Live s, uint32_t *context, int *bit) {
    uint32_t known = *context, p = known >> 8, count = known & 255;
    uint32_t bound = (s.range >> 16) * p, rate = RATE[count];
    uint64_t edge = (uint64_t)bound << s.ahead;
    count += count < 255;
    if (s.window < edge) {
        *bit = 1;
        s.range = bound;
        p += (65536 - p) * rate >> 16;
        if (p > 65472) p = 65472;
    } else {
        *bit = 0;
        s.window -= edge;
        s.range -= bound;
        p -= p * rate >> 16;
        if (p < 64) p = 64;
    }
    *context = p << 8 | count;
    return normal(c, s);
}

static HY_INLINE Live raw_bit(hy_coder *c, Live s, uint32_t *bit) {
    uint64_t edge;
    s.range >>= 1;
    edge = (uint64_t)s.range << s.ahead;
    *bit = s.window >= edge;
    s.window -= edge & (0 - (uint64_t)*bit);
    return normal(c, s);
}

static HY_INLINE Live raw_bits(hy_coder *c, Live s, int width, uint32_t *value) {
    uint32_t bit;
    *value = 0;
    while (width-- > 0) {
        s = raw_bit(c, s, &bit);
        *value = *value << 1 | bit;
    }
    return s;
}

/* A magnitude that is `least` or more, below 2^30 + 2^4. */
static HY_INLINE Live magnitude_from(hy_coder *c, Live s, uint32_t *contexts, int least, uint32_t *value) {
    int j, bit, width = 0;
    uint32_t rest;
    for (j = least; j < HY_BINS - 1; j++) {
        s = decide(c, s, contexts + j, &bit);
        if (!bit) {
            *value = (uint32_t)j;
            return s;
        }
    }
    for (;;) {
        s = decide(c, s, contexts + HY_BINS - 1, &bit);
        if (!bit) break;
        if (++width > 29) {
            c->damaged = 1;
            *value = 0;
            return s;
        }
    }
    s = raw_bits(c, s, width, &rest);
    *value = ((uint32_t)1 << width) + rest - 1 + (HY_BINS - 1);
    return s;
}

int32_t hy_coder_integer(hy_coder *c, int kind) {
    uint32_t *contexts = c->model + HY_LEVEL_CONTEXTS + kind * 2 * HY_BINS, value;
    int negative = 0;
    Live s = magnitude_from(c, live_of(c), contexts, 0, &value);
    if (value) s = decide(c, s, contexts + HY_BINS, &negative);
    keep(c, s);
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

void hy_coder_column(hy_coder *c, int spread, uint32_t rows, hy_sums *sums, int32_t *out) {
    int shift = spread < HY_CLASSES ? 0 : (spread - HY_SHIFT_FROM) >> 2, bit;
    uint32_t usual = threshold(sums->total, rows, 7), lively = threshold(sums->total, rows, 13);
    uint32_t *base = c->model + (spread - 4 * shift) * HY_ACTIVITIES * HY_BINS;
    uint32_t state = 0, i, any = sums->any;
    uint64_t total = sums->total;
    Live s = live_of(c);
    if (any >= HY_MOST_SUM) c->damaged = 1;
    for (i = 0; i < rows; i++) {
        uint32_t seen = sums->rows[i], q = state & 1, k, sign;
        uint32_t *contexts = base + q * (HY_CLASSES * HY_ACTIVITIES * HY_BINS);
        contexts += ((seen >= usual) + (uint32_t)(seen >= lively)) * HY_BINS;
        /* Most numbers are 0 or 1: these two decisions are taken here, the rest in a call. */
        s = decide(c, s, contexts, &bit);
        k = (uint32_t)bit;
        if (bit) {
            s = decide(c, s, contexts + 1, &bit);
            if (bit) s = magnitude_from(c, s, contexts, 2, &k);
        }
        if (shift) {
            uint32_t low;
            s = raw_bits(c, s, shift, &low);
            if (k > HY_MOST_NUMBER >> shift) c->damaged = 1, k = 0;
            k = k << shift | low;
        }
        if (k) {
            if (k > HY_MOST_NUMBER / 2) c->damaged = 1, k = 1;
            k = 2 * k - q;
            total += k;
            seen += k;
            any |= seen;
            sums->rows[i] = seen;
            s = raw_bit(c, s, &sign);
            out[i] = (int32_t)((k ^ (0 - sign)) + sign);
            k = (k + q) >> 1;
        } else {
            out[i] = 0;
        }
        state = NEXT[2 * state + (k & 1)];
    }
    sums->total = total;
    sums->any = any;
    keep(c, s);
}
