/* Inner loops of the coder, the quantiser and the planner, as the Python module loops (loops.pyi).
 *
 * Results are the same bits on every machine: the integers are exact, and no compiler may fuse or
 * reorder the floating-point operations, none of which calls a library. A function reads and writes
 * arrays that it is lent as buffers, allocates nothing, and releases the interpreter meanwhile.
 * docs/reference/streams.md is the normative text of the coder and of the trellis. */

#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <float.h>
#include <stdint.h>
#include <string.h>

#if FLT_EVAL_METHOD != 0
#error "double and float must be computed in their own precision"
#endif
#ifdef _MSC_VER
#pragma fp_contract(off)
#endif

/* Constants of the format; hydraopt.coding.tables has the same. */
enum {
    TOTAL_BITS = 12,
    TOTAL = 1 << TOTAL_BITS,
    LEAST = 1 << 16, /* least state of the coder */
    MIDDLE = 14,
    ESCAPE = 2 * MIDDLE + 1,
    SYMBOLS = ESCAPE + 1,
    CLASSES = 17,
    SHAPES = 3,
    EACH = 2 * CLASSES + 4,
    SIDE_TABLES = SHAPES * EACH,
    FIRST_CLASS = SIDE_TABLES + 2,
    NEXT_CLASS = SIDE_TABLES + 3,
    AFTER = SIDE_TABLES + 5,
    TABLES = SIDE_TABLES + 8,
    FIRST_OFFSET = 16,
    FIRST_SPREAD = 12,
    MOST_CLASS = 81,
    MOST_SIDE = 1 << 30,
    MOST_NUMBER = 1 << 27,
    BEYOND = 64, /* words past the end of a chunk at which decoding of a block stops */
    COST_BITS = 8,
    MOST_STEPS = 9
};

/* Number of low bits of the levels of a class that are raw. */
static inline int shift_of(int64_t number) {
    return number <= CLASSES ? 0 : (int)((number - CLASSES + 3) >> 2);
}

/* What is added to a value before its raw bits are cut off, so that symbols round. */
static inline int64_t half_of(int shift) { return (int64_t)1 << shift >> 1; }

static inline int64_t times_2_to(int64_t value, int shift) { return value * ((int64_t)1 << shift); }

static inline int level_table(int64_t shape, int64_t number, int quantiser) {
    if (number <= CLASSES) return (int)(shape * EACH + 2 * (number - 1) + quantiser);
    return (int)(shape * EACH + 2 * CLASSES + (number - CLASSES - 1) % 4);
}

/* ---- Trellis ---------------------------------------------------------------------------------- */

/* Trellis-coded quantisation: integers whose meaning depends on the path that led to them.
 *
 * Two uniform quantisers share one step: Q0 reconstructs at even multiples of the step, Q1 at odd
 * multiples and zero. Which one a number uses follows from the parities of the numbers before it,
 * through a trellis of 64 states: odd states use Q1. The decoder computes the next state; the
 * encoder finds the sequence with the lowest squared error + lam * bits by dynamic programming. On
 * a Gaussian source this regains 70 % of the quarter bit that separates a plain quantiser from the
 * Shannon bound (docs/decisions.md has the distances).
 *
 * Source: Marcellin and Fischer 1990, trellis coded quantization; the form with two quantisers and
 * parity-driven states is the "dependent quantization" of H.266/VVC (ITU-T H.266, 8.7.3). Differs:
 * 64 states, of a code that a search found; no sign-data hiding; the state runs on over a whole
 * column.
 *
 * A level k reconstructs to the integer 2k (Q0) or 2k - sign(k) (Q1), in steps. */

enum { STATES = 64, HALF = STATES / 2, QUARTER = STATES / 4, AFTER_ODD = 58, ODD_LEVEL = 17 };

static inline uint32_t next_state(uint32_t state, int64_t level) {
    return state >> 1 ^ (state & 1) * AFTER_ODD ^ (uint32_t)(level & 1) * ODD_LEVEL;
}

#define FAR 1e300
#define UNREACHED 1e30f

typedef struct {
    int64_t even, odd;
    double even_cost, odd_cost;
} Levels;

/* The best even and odd levels of a quantiser for a >= 0, with their costs.
 *
 * The two levels around a have different parities, so each parity has a candidate; zero, and one
 * level less, compete where the saved bits outweigh the error. bits: of |level| = 0 to top; slope:
 * cost of one more level beyond. Branches on the data would be mispredicted half of the time, so
 * all candidates are computed. */
static inline Levels best(double a, int q, double lam, const double *bits, int64_t top,
                          double slope) {
    int64_t k = (int64_t)((a + q) * 0.5), i = k < top - 1 ? k : top - 1;
    double more = slope * (double)(k - i);
    double at = lam * bits[i] + more, near = lam * bits[i + 1] + more;
    double far = lam * bits[i > 0 ? i - 1 : 0] + more;
    double nothing = a * a, off = a - (2.0 * (double)k - q), here = k ? off * off : nothing;
    double over = (off - 2.0) * (off - 2.0) + near, less, cost, zero;
    int64_t other;
    int odd = k & 1;
    Levels found;
    less = k == 1 ? nothing : (off + 2.0) * (off + 2.0);
    less = k == 0 ? FAR : less + far;
    here += at;
    other = less < over ? k - 1 : k + 1;
    cost = over < less ? over : less;
    found.even = odd ? other : k;
    found.even_cost = odd ? cost : here;
    found.odd = odd ? k : other;
    found.odd_cost = odd ? here : cost;
    zero = nothing + lam * bits[0];
    if (zero < found.even_cost) {
        found.even = 0;
        found.even_cost = zero;
    }
    return found;
}

/* Extends eight states by the two ways into each: through an even level of cost f from states at
 * a, through an odd one of cost g from states at b. Marks in bit what the odd level wins.
 *
 * A short loop that gcc unrolls it no longer makes vectors of. */
static inline void extend(const float *restrict a, float f, const float *restrict b, float g,
                          float *restrict out, uint32_t *restrict won, uint32_t bit) {
    int i;
#pragma GCC unroll 1
    for (i = 0; i < 8; i++) {
        float by_even = a[i] + f, by_odd = b[i] + g;
        won[i] |= by_odd < by_even ? bit : 0;
        out[i] = by_odd < by_even ? by_odd : by_even;
    }
}

/* Orders eight costs by index i ^ 5. */
static inline void turn(const float *restrict x, float *restrict out) {
    int i;
    for (i = 0; i < 8; i++) out[i] = x[i ^ 5];
}

/* Splits sixteen costs into those at even and at odd indices. */
static inline void split(const float *restrict x, float *restrict even, float *restrict odd) {
    int i;
#pragma GCC unroll 1
    for (i = 0; i < 8; i++) {
        even[i] = x[2 * i];
        odd[i] = x[2 * i + 1];
    }
}

/* Computes the levels of a column x (n,) with the least sum (x - reconstruction)^2 + lam bits.
 *
 * bits (2, top + 1): cost of |level| in each quantiser. choices (n, 4): best even and odd level of
 * each quantiser. paths (n, 8): for each state a bit, 1 where an odd level leads to it at less
 * cost. State s has bit 4 (s / 32) + 2 (s % 2) + (s / 16 % 2) of byte s / 2 % 8. */
static void quantise_column(const double *x, int64_t n, double lam, const double *bits,
                            int64_t top, int32_t *levels, int32_t *choices, uint8_t *paths) {
    double slope = lam * (bits[top] - bits[top - 1]);
    /* Costs of the states 4 u + i, relative to state 0. */
    float cost[4][QUARTER];
    float after[4][QUARTER], turned[2][QUARTER], least;
    uint32_t state = 0;
    int64_t i;
    int u, s;
    for (s = 0; s < 4; s++)
        for (u = 0; u < QUARTER; u++) cost[s][u] = UNREACHED;
    cost[0][0] = 0;
    for (i = 0; i < n; i++) {
        double a = x[i] < 0 ? -x[i] : x[i], smallest;
        Levels of0 = best(a, 0, lam, bits, top, slope);
        Levels of1 = best(a, 1, lam, bits + top + 1, top, slope);
        float base = cost[0][0], f0, g0, f1, g1;
        uint32_t won[8] = {0};
        int32_t *choice = choices + 4 * i;
        choice[0] = (int32_t)of0.even, choice[1] = (int32_t)of0.odd;
        choice[2] = (int32_t)of1.even, choice[3] = (int32_t)of1.odd;
        /* The same number is subtracted from all paths, so that the costs stay small. */
        smallest = of0.even_cost < of0.odd_cost ? of0.even_cost : of0.odd_cost;
        smallest = of1.even_cost < smallest ? of1.even_cost : smallest;
        smallest = of1.odd_cost < smallest ? of1.odd_cost : smallest;
        f0 = (float)(of0.even_cost - smallest) - base;
        g0 = (float)(of0.odd_cost - smallest) - base;
        f1 = (float)(of1.even_cost - smallest) - base;
        g1 = (float)(of1.odd_cost - smallest) - base;
        /* State 2 t goes to t, or t ^ 17 by an odd level; here t = 2 u + i, and 17 = 2 * 8 + 1. */
        extend(cost[0], f0, cost[2] + 8, g0, after[0], won, 1);
        extend(cost[0] + 8, f0, cost[2], g0, after[0] + 8, won, 2);
        extend(cost[2], f0, cost[0] + 8, g0, after[1], won, 4);
        extend(cost[2] + 8, f0, cost[0], g0, after[1] + 8, won, 8);
        /* State 2 t + 1 goes to 32 + (t ^ 26), 26 = 2 * 13, or 32 + (t ^ 11), 11 = 2 * 5 + 1. */
        for (s = 0; s < 2; s++) {
            turn(cost[1 + 2 * s], turned[s]);
            turn(cost[1 + 2 * s] + 8, turned[s] + 8);
        }
        extend(turned[0] + 8, f1, turned[1], g1, after[2], won, 16);
        extend(turned[0], f1, turned[1] + 8, g1, after[2] + 8, won, 32);
        extend(turned[1] + 8, f1, turned[0], g1, after[3], won, 64);
        extend(turned[1], f1, turned[0] + 8, g1, after[3] + 8, won, 128);
        split(after[0], cost[0], cost[2]);
        split(after[1], cost[1], cost[3]);
        split(after[2], cost[0] + 8, cost[2] + 8);
        split(after[3], cost[1] + 8, cost[3] + 8);
        for (u = 0; u < 8; u++) paths[8 * i + u] = (uint8_t)won[u];
    }
    least = cost[0][0];
    for (s = 0; s < STATES; s++)
        if (cost[s & 3][s >> 2] < least) least = cost[s & 3][s >> 2], state = (uint32_t)s;
    for (i = n - 1; i >= 0; i--) {
        uint32_t q = state >> 5, bit = 4 * q + 2 * (state & 1) + (state >> 4 & 1);
        uint32_t odd = paths[8 * i + (state >> 1 & 7)] >> bit & 1;
        int32_t k = choices[4 * i + 2 * q + odd];
        levels[i] = x[i] >= 0 ? k : -k;
        state = 2 * (state ^ AFTER_ODD * q ^ ODD_LEVEL * odd) + q;
    }
}

/* Computes the integers, in steps, of a column of levels. */
static void reconstruct(const int32_t *levels, int64_t n, int32_t *out) {
    uint32_t state = 0;
    int64_t i;
    for (i = 0; i < n; i++) {
        int64_t k = levels[i], q = state & 1;
        out[i] = (int32_t)(2 * k - q * ((k > 0) - (k < 0)));
        state = next_state(state, k);
    }
}

/* Quantises columns x (columns, n) of these spread classes, each with its own lam. */
static void quantise(const double *x, int64_t columns, int64_t n, const int64_t *spreads,
                     const double *lam, const double *bits, int64_t width, int32_t *levels,
                     int32_t *integers, int32_t *choices, uint8_t *paths) {
    int64_t j;
    for (j = 0; j < columns; j++, x += n, levels += n, integers += n) {
        const double *own = bits + 2 * width * spreads[j];
        quantise_column(x, n, lam[j], own, width - 1, levels, choices, paths);
        reconstruct(levels, n, integers);
    }
}

/* ---- Decoder ---------------------------------------------------------------------------------- */

/* A stream that is read. It reads zeros past its end, and tables never lead outside of them, so a
 * damaged stream gives wrong numbers but no crash. */
typedef struct {
    int64_t x, y, at; /* the two states of the coder, the next one first; words taken */
    const uint16_t *words;
    int64_t size;
    const uint8_t *symbols; /* (TABLES, TOTAL), the symbol of each slot */
    const uint32_t *slots;  /* (TABLES, SYMBOLS), frequency and, from bit 16 on, first slot */
} Reader;

static inline void refill(Reader *r) {
    if (r->x < LEAST) {
        r->x = r->x << 16 | (r->at < r->size ? r->words[r->at] : 0);
        r->at++;
    }
}

static inline int64_t raw(Reader *r, int width) {
    int64_t value = r->x & (((int64_t)1 << width) - 1);
    r->x >>= width;
    refill(r);
    return value;
}

/* Decodes a value that has no symbol. */
static int64_t escaped(Reader *r) {
    int width = (int)raw(r, 5);
    int64_t high = width > 16 ? raw(r, width - 16) : 0;
    int64_t folded = ((int64_t)1 << width) + (high << 16) + raw(r, width < 16 ? width : 16);
    return folded & 1 ? -(folded >> 1) : folded >> 1;
}

/* Decodes a number: its symbol in a table, and shift raw bits. */
static inline int64_t number(Reader *r, int table, int shift) {
    int64_t slot = r->x & (TOTAL - 1), x = r->x;
    int symbol = r->symbols[table * TOTAL + slot];
    uint32_t step = r->slots[table * SYMBOLS + symbol];
    int64_t value = symbol - MIDDLE;
    r->x = (step & 0xFFFF) * (x >> TOTAL_BITS) + slot - (step >> 16);
    refill(r);
    if (symbol == ESCAPE) value = escaped(r);
    if (shift) value = times_2_to(value, shift) + raw(r, shift) - half_of(shift);
    return value;
}

/* Decodes a number with the first state, which then is the second one. */
static inline int64_t next_number(Reader *r, int table, int shift) {
    int64_t value = number(r, table, shift), x = r->x;
    r->x = r->y;
    r->y = x;
    return value;
}

static int decode_column(Reader *r, int even, int odd, int shift, int32_t *out, int64_t n) {
    Reader live = *r; /* in registers */
    uint32_t state = 0;
    int64_t i;
    for (i = 0; i < n; i++) {
        int64_t q = state & 1, level = next_number(&live, q ? odd : even, shift);
        int64_t value = 2 * level - q * ((level > 0) - (level < 0));
        state = next_state(state, level);
        if (value < -MOST_NUMBER || value > MOST_NUMBER) return 0;
        out[i] = (int32_t)value;
    }
    *r = live;
    return 1;
}

/* Decodes columns of integers (columns, n) and their spread classes; shape: expected of the first.
 * Returns 0 for what no writer writes. */
static int decode_block(Reader *r, int64_t shape, int32_t *integers, int64_t *spreads,
                        int64_t columns, int64_t n) {
    int64_t class_of = 0, j;
    int shift;
    for (j = 0; j < columns; j++) {
        class_of += next_number(r, j ? NEXT_CLASS : FIRST_CLASS, 0) + (j ? 0 : FIRST_OFFSET);
        if (class_of < 0 || class_of > MOST_CLASS || r->at > r->size + BEYOND) return 0;
        spreads[j] = class_of ? class_of + FIRST_SPREAD - 1 : 0;
        if (!class_of) {
            memset(integers + j * n, 0, (size_t)n * sizeof *integers);
            continue;
        }
        shape = next_number(r, AFTER + (int)shape, 0);
        if (shape < 0 || shape >= SHAPES) return 0;
        shift = shift_of(class_of);
        if (!decode_column(r, level_table(shape, class_of, 0), level_table(shape, class_of, 1),
                           shift, integers + j * n, n))
            return 0;
    }
    return 1;
}

static int decode_numbers(Reader *r, int table, int shift, int64_t *values, int64_t n) {
    int inside = 1;
    int64_t i;
    for (i = 0; i < n; i++) {
        values[i] = next_number(r, table, shift);
        inside &= -MOST_SIDE < values[i] && values[i] < MOST_SIDE;
    }
    return inside;
}

/* ---- Encoder ---------------------------------------------------------------------------------- */

/* What is written becomes steps first, because rANS codes a chunk from its end. A step is a symbol
 * of a table, or raw bits and then their width. */
enum { RAW = 1 << 15 };

typedef struct {
    uint16_t *steps;
    int64_t at, price; /* steps written; price of all steps, in 1/256 bit */
    const int32_t *frequencies, *prices; /* (TABLES, SYMBOLS) */
} Writer;

static inline void emit_raw(Writer *w, int64_t value, int width) {
    w->steps[w->at++] = (uint16_t)(value & (((int64_t)1 << width) - 1));
    w->steps[w->at++] = (uint16_t)(RAW | width);
}

/* The number that states an escaped value: its highest bit is not written. */
static inline int64_t folded_of(int64_t value) { return value > 0 ? 2 * value : 1 - 2 * value; }

/* Number of raw bits of an escaped value, without the five that state it. */
static inline int width_of(int64_t value) {
    int64_t folded = folded_of(value);
    int width = 0;
    while (folded >> (width + 1)) width++;
    return width;
}

static inline int has_symbol(int64_t symbol) { return -MIDDLE <= symbol && symbol <= MIDDLE; }

static void emit_escaped(Writer *w, int table, int64_t value) {
    int64_t folded = folded_of(value);
    int width = width_of(value);
    w->steps[w->at++] = (uint16_t)(table << 5 | ESCAPE);
    emit_raw(w, width, 5);
    if (width > 16) emit_raw(w, folded >> 16, width - 16);
    emit_raw(w, folded, width < 16 ? width : 16);
}

/* Writes the steps of a number, MOST_STEPS at most: its symbol in a table, and shift raw bits. */
static inline void emit(Writer *w, int table, int shift, int64_t value) {
    int64_t symbol = (value += half_of(shift)) >> shift;
    if (has_symbol(symbol) && w->frequencies[table * SYMBOLS + symbol + MIDDLE])
        w->steps[w->at++] = (uint16_t)(table << 5 | (int)(symbol + MIDDLE));
    else
        emit_escaped(w, table, symbol);
    if (shift) emit_raw(w, value, shift);
}

/* The price of a number, in 1/256 bit. */
static int64_t price_of(const int32_t *prices, int table, int shift, int64_t value) {
    int64_t symbol = (value + half_of(shift)) >> shift, price;
    price = has_symbol(symbol) ? prices[table * SYMBOLS + symbol + MIDDLE] : 0;
    if (!price) price = prices[table * SYMBOLS + ESCAPE] + ((5 + width_of(symbol)) << COST_BITS);
    return price + (shift << COST_BITS);
}

static void emit_priced(Writer *w, int table, int shift, int64_t value) {
    emit(w, table, shift, value);
    w->price += price_of(w->prices, table, shift, value);
}

/* The shape in which a column of a class takes the fewest bits; adds its price to the writer's.
 * before: shape of the last column. */
static int64_t shape_of(Writer *w, const int32_t *levels, int64_t n, int64_t class_of,
                        int64_t before) {
    int64_t counts[2][SYMBOLS] = {{0}}, half, far = 0, i, shape, found = 0, least = INT64_MAX;
    int shift = shift_of(class_of), q, index;
    uint32_t state = 0;
    half = half_of(shift);
    for (i = 0; i < n; i++) {
        int64_t symbol = (levels[i] + half) >> shift;
        if (has_symbol(symbol)) {
            counts[state & 1][symbol + MIDDLE]++;
        } else {
            counts[state & 1][ESCAPE]++;
            far += 5 + width_of(symbol);
        }
        state = next_state(state, levels[i]);
    }
    for (shape = 0; shape < SHAPES; shape++) {
        int64_t price = price_of(w->prices, AFTER + (int)before, 0, shape);
        for (q = 0; q < 2; q++) {
            int table = level_table(shape, class_of, q);
            for (index = 0; index < ESCAPE; index++)
                if (counts[q][index])
                    price += counts[q][index] * price_of(w->prices, table, 0, index - MIDDLE);
            price += counts[q][ESCAPE] * w->prices[table * SYMBOLS + ESCAPE];
        }
        if (price < least) found = shape, least = price;
    }
    w->price += least + times_2_to(far + shift * n, COST_BITS);
    return found;
}

/* Appends columns of levels (columns, n) of these classes. before: class, -1 for the first column
 * of a block, and shape of the last column; updated. */
static void emit_block(Writer *w, const int32_t *levels, const int64_t *classes, int64_t columns,
                       int64_t n, int64_t *before) {
    int64_t j, i;
    for (j = 0; j < columns; j++, levels += n) {
        int64_t class_of = classes[j], shape;
        int first = before[0] < 0, shift, even, odd;
        uint32_t state = 0;
        emit_priced(w, first ? FIRST_CLASS : NEXT_CLASS, 0,
                    class_of - (first ? FIRST_OFFSET : before[0]));
        before[0] = class_of;
        if (!class_of) continue;
        shape = shape_of(w, levels, n, class_of, before[1]);
        emit(w, AFTER + (int)before[1], 0, shape); /* its price is the shape's */
        before[1] = shape;
        shift = shift_of(class_of);
        even = level_table(shape, class_of, 0);
        odd = level_table(shape, class_of, 1);
        for (i = 0; i < n; i++) {
            emit(w, state & 1 ? odd : even, shift, levels[i]);
            state = next_state(state, levels[i]);
        }
    }
}

/* Encodes steps from the last one to the first; returns the number of words in out. */
static int64_t encode(const uint16_t *steps, int64_t n, const int32_t *frequencies,
                      const int32_t *starts, uint64_t *states, uint16_t *out) {
    uint64_t y = states[0], x = states[1];
    int64_t size = 0, i = n - 1;
    while (i >= 0) {
        uint32_t step = steps[i], at, frequency, whole;
        if (step & RAW) {
            uint32_t width = step & 31;
            if (x >> (32 - width)) {
                out[size++] = (uint16_t)x;
                x >>= 16;
            }
            x = x << width | (i ? steps[i - 1] : 0);
            i -= 2;
            continue;
        }
        at = (step >> 5) * SYMBOLS + (step & 31);
        frequency = (uint32_t)frequencies[at];
        if (x >> 20 >= frequency) {
            out[size++] = (uint16_t)x;
            x >>= 16;
        }
        whole = (uint32_t)x / frequency; /* x is below 2^32 */
        x = ((uint64_t)whole << TOTAL_BITS) + (uint32_t)x % frequency + (uint32_t)starts[at];
        /* The last number uses the second state. */
        {
            uint64_t other = y;
            y = x;
            x = other;
        }
        i--;
    }
    states[0] = y;
    states[1] = x;
    return size;
}

/* ---- Product ---------------------------------------------------------------------------------- */

/* Adds columns^T right to out^T: columns (q, n), right (q, k), out (k, n), in the order of q. Each
 * product is rounded, then added to its sum, which is rounded again. Rows are taken some at a time,
 * so that a column and its sums stay in the cache nearest to the processor. */
static void add_products(const double *columns, const double *right, double *out, int64_t q,
                         int64_t k, int64_t n) {
    int64_t start, c, j, i;
    for (start = 0; start < n; start += 1024) {
        int64_t stop = start + 1024 < n ? start + 1024 : n;
        for (c = 0; c < k; c++) {
            double *row = out + c * n;
            for (j = 0; j < q; j++) {
                const double *column = columns + j * n;
                double factor = right[j * k + c];
                if (factor == 0) continue; /* adding 0 changes no bit: no sum is -0 */
                for (i = start; i < stop; i++) row[i] += factor * column[i];
            }
        }
    }
}

/* ---- Planner ---------------------------------------------------------------------------------- */

/* Bits a number that a finer class may take less where predictions are written, at most: where a
 * prediction errs less, what is left to be written is written more coarsely. */
#define DIP 0.6
enum { SHARED = 1, PREDICTED = 2, FIRST_WRITTEN = 13 };

/* One side of the parts of a module: see hydraopt.compress.sides.SideCost. */
typedef struct {
    const int64_t *head;   /* way, length, q, wider */
    const double *shares;  /* (2, parts), or (2, 1) for all parts alike */
    int64_t parts;
    const int64_t *classes; /* of the curve that it is refined along */
    const double *rates, *noises;
    int64_t count; /* of rates and noises */
} Side;

typedef struct {
    double bits, noise, gone;
} SidePrice;

static inline double clipped(const double *table, int64_t count, int64_t index) {
    return table[index < 0 ? 0 : index >= count ? count - 1 : index];
}

/* 2 log2(x), rounded, of a positive number, from its bits. */
static inline int64_t half_octaves(double x) {
    const uint64_t below = ((uint64_t)1 << 52) - 1;
    /* Fractions of 2^(1/4) and of 2^(3/4). */
    const uint64_t one = 0x306fe0a31b715, two = 0xae89f995ad3ad;
    uint64_t bits, fraction;
    memcpy(&bits, &x, sizeof bits);
    fraction = bits & below;
    return 2 * ((int64_t)(bits >> 52) - 1023) + (fraction >= one) + (fraction >= two);
}

/* Bits, noise and lost effect of one side of a part at a spread class. The noise is relative to the
 * part's energy; the lost effect is the share of it that no coefficient brings back. */
static SidePrice side_at(const Side *side, int64_t part, int64_t spread) {
    int64_t way = side->head[0], length = side->head[1], q = side->head[2], wider = side->head[3];
    const double *rates = side->rates, *noises = side->noises;
    int64_t count = side->count;
    SidePrice found;
    if (part >= side->parts) part = side->parts - 1;
    found.bits = (double)length * clipped(rates, count, spread);
    found.noise = clipped(noises, count, spread);
    found.gone = 0;
    if (way == SHARED) {
        found.bits = (double)q * clipped(rates, count, spread);
        found.noise += side->shares[side->parts + part];
        found.gone = side->shares[part];
    } else if (way == PREDICTED) {
        double lost = side->shares[part];
        /* The own numbers mend what the rounding of basis and coordinates leaves, too. */
        double within = side->shares[side->parts + part] + clipped(noises, count, spread + wider);
        double missed = lost + within, own, share;
        int64_t shift = half_octaves(missed > 1e-9 ? missed : 1e-9);
        int64_t finer = shift < 0 ? spread + shift : spread;
        found.bits = (double)length * clipped(rates, count, finer) +
                     (double)q * clipped(rates, count, spread + wider);
        /* One coefficient scales prediction and own numbers alike, so it cannot undo the shrinking
         * of the own ones alone: of what the basis misses a share is lost effect, and the rest is
         * noise. Where own numbers are too small to be written, all of it is lost. */
        own = clipped(noises, count, finer);
        share = finer >= FIRST_WRITTEN ? own / (1 + own) : 1.0;
        found.noise = share * within + lost * share * (1 - share);
        found.gone = lost * (share * share);
    }
    return found;
}

/* Chooses for each part the point of the curve with the least cost + price * bits.
 *
 * weighed: lost, projected and output of a measure, the price of a bit, bits of a part beside its
 * sides. best (parts,): the choice; priced (3, parts): its cost, its bits, the explained energy.
 * hydraopt.compress.measure has the formula. */
static void cheapest(const double *energy, int64_t parts, const Side *left, const Side *right,
                     int64_t points, const double *weighed, double *priced, int64_t *best_of) {
    double lost = weighed[0], projected = weighed[1], output = weighed[2], price = weighed[3];
    double dip = DIP * (double)((left->head[0] == PREDICTED) * left->head[1] +
                                (right->head[0] == PREDICTED) * right->head[1]);
    int64_t part, choice;
    for (part = 0; part < parts; part++) {
        /* What costs more than leaving the part out is no choice. */
        double least = lost * energy[part];
        SidePrice a = side_at(left, part, left->classes[0]);
        SidePrice b = side_at(right, part, right->classes[0]);
        best_of[part] = 0;
        priced[part] = least;
        priced[parts + part] = 0;
        priced[2 * parts + part] = energy[part] * (1 - a.gone) * (1 - b.gone);
        for (choice = 0; choice < points; choice++) {
            double bits, noise, kept, cost;
            /* One side is refined at a time. */
            if (choice > 0 && left->classes[choice] != left->classes[choice - 1])
                a = side_at(left, part, left->classes[choice]);
            else if (choice > 0)
                b = side_at(right, part, right->classes[choice]);
            bits = a.bits + b.bits + weighed[4];
            if (price * (bits - dip) > least) break;
            noise = a.noise / output + b.noise;
            kept = (1 - a.gone) * (1 - b.gone);
            cost = energy[part] * (kept * lost * noise / (lost + noise) + projected * (1 - kept));
            if (cost + price * bits < least) {
                least = cost + price * bits;
                best_of[part] = choice;
                priced[part] = cost;
                priced[parts + part] = bits;
            }
        }
    }
}

/* Computes the best classes of all parts of all tasks in one mode, and the kept parts: see
 * loops.pyi. */
static void price_mode(const double *energy, int64_t parts, const int64_t *edges, int64_t tasks,
                       const Side *left, const Side *right, int64_t points, const double *weighed,
                       double *priced, int64_t *orders, int64_t *classes, int64_t *counts,
                       double *sums) {
    int64_t *best_of = orders, *order = orders + parts, t, i, j;
    const double *explained = priced + 2 * parts;
    cheapest(energy, parts, left, right, points, weighed, priced, best_of);
    for (t = 0; t < tasks; t++) {
        int ended = 0;
        /* Parts are written from the one that explains most on, equal ones as they come. */
        for (i = edges[t]; i < edges[t + 1]; i++) {
            for (j = i; j > edges[t] && explained[order[j - 1]] < explained[i]; j--)
                order[j] = order[j - 1];
            order[j] = i;
        }
        sums[tasks + t] = weighed[5];
        for (i = edges[t]; i < edges[t + 1]; i++) {
            int64_t part = order[i];
            double cut = weighed[0] * energy[part];
            classes[i] = left->classes[best_of[part]];
            classes[parts + i] = right->classes[best_of[part]];
            /* A prefix, so that "the first k" says it all. */
            ended |= priced[part] + weighed[3] * priced[parts + part] >= cut;
            if (ended) {
                sums[t] += cut;
            } else {
                sums[t] += priced[part];
                sums[tasks + t] += priced[parts + part];
                counts[t]++;
            }
        }
    }
}

/* ---- The module ------------------------------------------------------------------------------- */

enum { MOST_ARGUMENTS = 16 };

typedef struct {
    Py_buffer views[MOST_ARGUMENTS]; /* of the arrays; obj is NULL for a number */
    int64_t numbers[MOST_ARGUMENTS];
    int count;
} Arguments;

#define ARRAY(i) (given.views[i].buf)
#define LENGTH(i, axis) ((int64_t)given.views[i].shape[axis])

static void give_back(Arguments *given) {
    while (given->count) PyBuffer_Release(&given->views[--given->count]);
}

static int is_kind(const Py_buffer *view, char kind) {
    static const struct {
        const char *kind, *formats;
        Py_ssize_t size;
    } kinds[] = {{"l", "lq", 8}, {"L", "LQ", 8}, {"i", "il", 4}, {"I", "IL", 4},
                 {"H", "H", 2},  {"B", "B", 1},  {"d", "d", 8}};
    size_t i = 0;
    while (*kinds[i].kind != kind) i++;
    return view->itemsize == kinds[i].size && strlen(view->format) == 1 &&
           strchr(kinds[i].formats, *view->format);
}

/* Takes the arguments of a call. The text has three characters for each: "n  " for a number; for a
 * contiguous array r or w, to read or to write; its dtype (l int64, i int32, H uint16, B uint8, d
 * float64, L uint64, I uint32); its number of axes. Returns 0 with an exception set. */
static int take(PyObject *const *args, Py_ssize_t n, const char *text, Arguments *given) {
    given->count = 0;
    if ((size_t)n != strlen(text) / 3) {
        PyErr_Format(PyExc_TypeError, "%zd arguments, expected %zu", n, strlen(text) / 3);
        return 0;
    }
    for (; *text; text += 3) {
        int i = given->count;
        int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (*text == 'w' ? PyBUF_WRITABLE : 0);
        given->views[i].obj = NULL;
        if (*text == 'n') {
            given->numbers[i] = PyLong_AsLongLong(args[i]);
            if (PyErr_Occurred()) break;
            given->count++;
            continue;
        }
        if (PyObject_GetBuffer(args[i], &given->views[i], flags)) break;
        given->count++;
        if (!is_kind(&given->views[i], text[1]) || given->views[i].ndim != text[2] - '0') {
            PyErr_Format(PyExc_TypeError, "argument %d: dtype '%s', %d axes, expected '%c', %c",
                         i + 1, given->views[i].format, given->views[i].ndim, text[1], text[2]);
            break;
        }
    }
    if (!*text) return 1;
    give_back(given);
    return 0;
}

/* Runs a call unless its arrays do not fit one another, and returns what it gives. */
#define RUN(fit, call, result)                                                    \
    do {                                                                          \
        if (!(fit)) {                                                             \
            give_back(&given);                                                    \
            PyErr_SetString(PyExc_ValueError, "shapes that do not fit"); \
            return NULL;                                                          \
        }                                                                         \
        Py_BEGIN_ALLOW_THREADS;                                                   \
        call;                                                                     \
        Py_END_ALLOW_THREADS;                                                     \
        give_back(&given);                                                        \
        return result;                                                            \
    } while (0)

#define FUNCTION(name) \
    static PyObject *name(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n)

static int is_table(const Py_buffer *view, int width) {
    return view->shape[0] == TABLES && view->shape[1] == width;
}

static Reader reader_of(const Arguments *given) {
    const int64_t *state = given->views[0].buf;
    Reader r = {state[0], state[1], state[2], given->views[1].buf, given->views[1].shape[0],
                given->views[2].buf, given->views[3].buf};
    return r;
}

static void keep_state(const Reader *r, int64_t *state) {
    state[0] = r->x;
    state[1] = r->y;
    state[2] = r->at;
}

#define STREAM "wl1rH1rB2rI2"

static int is_stream(const Arguments *given) {
    return given->views[0].shape[0] == 3 && is_table(&given->views[2], TOTAL) &&
           is_table(&given->views[3], SYMBOLS);
}

FUNCTION(py_decode_numbers) {
    Arguments given;
    Reader r;
    int inside = 0;
    if (!take(args, n, STREAM "n  n  wl1", &given)) return NULL;
    r = reader_of(&given);
    RUN(is_stream(&given) && given.numbers[4] >= 0 && given.numbers[4] < TABLES,
        inside = decode_numbers(&r, (int)given.numbers[4], (int)given.numbers[5], ARRAY(6),
                                LENGTH(6, 0));
        keep_state(&r, ARRAY(0)), PyBool_FromLong(inside));
}

FUNCTION(py_decode_block) {
    Arguments given;
    Reader r;
    int inside = 0;
    if (!take(args, n, STREAM "n  wi2wl1", &given)) return NULL;
    r = reader_of(&given);
    RUN(is_stream(&given) && given.numbers[4] >= 0 && given.numbers[4] < SHAPES &&
            LENGTH(5, 0) == LENGTH(6, 0),
        inside = decode_block(&r, given.numbers[4], ARRAY(5), ARRAY(6), LENGTH(5, 0), LENGTH(5, 1));
        if (inside) keep_state(&r, ARRAY(0)), PyBool_FromLong(inside));
}

static Writer writer_of(const Arguments *given) {
    const int64_t *meter = given->views[1].buf;
    Writer w = {given->views[0].buf, meter[0], meter[1], given->views[2].buf, given->views[3].buf};
    return w;
}

static void keep_meter(const Writer *w, int64_t *meter) {
    meter[0] = w->at;
    meter[1] = w->price;
}

#define STEPS "wH1wl1ri2ri2"

static int has_room(const Arguments *given, int64_t numbers) {
    const int64_t *meter = given->views[1].buf;
    return given->views[1].shape[0] == 2 && is_table(&given->views[2], SYMBOLS) &&
           is_table(&given->views[3], SYMBOLS) && meter[0] >= 0 &&
           numbers <= (given->views[0].shape[0] - meter[0]) / MOST_STEPS;
}

FUNCTION(py_emit_numbers) {
    Arguments given;
    Writer w;
    int64_t i;
    if (!take(args, n, STEPS "n  n  rl1", &given)) return NULL;
    w = writer_of(&given);
    RUN(has_room(&given, LENGTH(6, 0)) && given.numbers[4] >= 0 && given.numbers[4] < TABLES,
        for (i = 0; i < LENGTH(6, 0); i++)
            emit_priced(&w, (int)given.numbers[4], (int)given.numbers[5],
                        ((const int64_t *)ARRAY(6))[i]);
        keep_meter(&w, ARRAY(1)), Py_NewRef(Py_None));
}

FUNCTION(py_emit_block) {
    Arguments given;
    Writer w;
    if (!take(args, n, STEPS "ri2rl1wl1", &given)) return NULL;
    w = writer_of(&given);
    RUN(LENGTH(4, 0) == LENGTH(5, 0) && LENGTH(6, 0) == 2 &&
            has_room(&given, LENGTH(4, 0) * (LENGTH(4, 1) + 2)),
        emit_block(&w, ARRAY(4), ARRAY(5), LENGTH(4, 0), LENGTH(4, 1), ARRAY(6));
        keep_meter(&w, ARRAY(1)), Py_NewRef(Py_None));
}

FUNCTION(py_encode) {
    Arguments given;
    int64_t size = 0;
    if (!take(args, n, "rH1ri2ri2wL1wH1", &given)) return NULL;
    RUN(is_table(&given.views[1], SYMBOLS) && is_table(&given.views[2], SYMBOLS) &&
            LENGTH(3, 0) == 2 && LENGTH(4, 0) >= LENGTH(0, 0),
        size = encode(ARRAY(0), LENGTH(0, 0), ARRAY(1), ARRAY(2), ARRAY(3), ARRAY(4)),
        PyLong_FromLongLong(size));
}

FUNCTION(py_quantise) {
    Arguments given;
    if (!take(args, n, "rd2rl1rd1rd3wi2wi2wi2wB2", &given)) return NULL;
    RUN(LENGTH(1, 0) == LENGTH(0, 0) && LENGTH(2, 0) == LENGTH(0, 0) && LENGTH(3, 1) == 2 &&
            LENGTH(3, 2) >= 2 && LENGTH(4, 0) == LENGTH(0, 0) && LENGTH(4, 1) == LENGTH(0, 1) &&
            LENGTH(5, 0) == LENGTH(0, 0) && LENGTH(5, 1) == LENGTH(0, 1) &&
            LENGTH(6, 0) == LENGTH(0, 1) && LENGTH(6, 1) == 4 && LENGTH(7, 0) == LENGTH(0, 1) &&
            LENGTH(7, 1) == 8,
        quantise(ARRAY(0), LENGTH(0, 0), LENGTH(0, 1), ARRAY(1), ARRAY(2), ARRAY(3), LENGTH(3, 2),
                 ARRAY(4), ARRAY(5), ARRAY(6), ARRAY(7)),
        Py_NewRef(Py_None));
}

FUNCTION(py_reconstruct) {
    Arguments given;
    if (!take(args, n, "ri1wi1", &given)) return NULL;
    RUN(LENGTH(0, 0) == LENGTH(1, 0), reconstruct(ARRAY(0), LENGTH(0, 0), ARRAY(1)),
        Py_NewRef(Py_None));
}

FUNCTION(py_add_products) {
    Arguments given;
    if (!take(args, n, "rd2rd2wd2", &given)) return NULL;
    RUN(LENGTH(0, 0) == LENGTH(1, 0) && LENGTH(0, 1) == LENGTH(2, 1) && LENGTH(1, 1) == LENGTH(2, 0),
        add_products(ARRAY(0), ARRAY(1), ARRAY(2), LENGTH(0, 0), LENGTH(1, 1), LENGTH(0, 1)),
        Py_NewRef(Py_None));
}

/* The side whose head, shares and classes are the arguments from `at` on. */
static Side side_of(const Arguments *given, int at) {
    Side side = {given->views[at].buf,     given->views[at + 1].buf,
                 given->views[at + 1].shape[1], given->views[at + 2].buf,
                 given->views[8].buf,      given->views[9].buf,
                 given->views[8].shape[0]};
    return side;
}

FUNCTION(py_price_mode) {
    Arguments given;
    Side left, right;
    if (!take(args, n,
              "rd1rl1rl1rd2rl1rl1rd2rl1rd1rd1rd1wd2wl2wl2wl1wd2", &given))
        return NULL;
    left = side_of(&given, 2);
    right = side_of(&given, 5);
    RUN(LENGTH(2, 0) == 4 && LENGTH(3, 0) == 2 && LENGTH(5, 0) == 4 && LENGTH(6, 0) == 2 &&
            (!LENGTH(0, 0) || (LENGTH(3, 1) > 0 && LENGTH(6, 1) > 0 && LENGTH(4, 0) > 0)) &&
            LENGTH(4, 0) == LENGTH(7, 0) && LENGTH(8, 0) == LENGTH(9, 0) && LENGTH(10, 0) == 6 &&
            LENGTH(11, 0) == 3 && LENGTH(11, 1) == LENGTH(0, 0) && LENGTH(12, 0) == 2 &&
            LENGTH(12, 1) == LENGTH(0, 0) && LENGTH(13, 0) == 2 && LENGTH(13, 1) == LENGTH(0, 0) &&
            LENGTH(14, 0) == LENGTH(1, 0) - 1 && LENGTH(15, 0) == 2 &&
            LENGTH(15, 1) == LENGTH(14, 0),
        price_mode(ARRAY(0), LENGTH(0, 0), ARRAY(1), LENGTH(14, 0), &left, &right, LENGTH(4, 0),
                   ARRAY(10), ARRAY(11), ARRAY(12), ARRAY(13), ARRAY(14), ARRAY(15)),
        Py_NewRef(Py_None));
}

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))py_##name, METH_FASTCALL, NULL}

static PyMethodDef methods[] = {
    METHOD(add_products), METHOD(decode_block), METHOD(decode_numbers), METHOD(emit_block),
    METHOD(emit_numbers), METHOD(encode),       METHOD(price_mode),     METHOD(quantise),
    METHOD(reconstruct),  {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "loops", NULL, 0, methods,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_loops(void) { return PyModule_Create(&module); }
