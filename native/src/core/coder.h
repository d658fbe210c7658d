/* The entropy coder of a chunk, rANS over fixed tables: streams.md, sections 1 and 2. */
#ifndef HYDRA_CODER_H
#define HYDRA_CODER_H

#include <stddef.h>
#include <stdint.h>

/* Kinds of side integers, and the first of three for the shape after each shape. */
enum {
    HY_COUNT = 0,
    HY_MODE = 1,
    HY_FIRST_CLASS = 2,
    HY_NEXT_CLASS = 3,
    HY_EXPONENT = 4,
    HY_AFTER = 5,
    HY_KINDS = 8
};

/* Shapes of columns; the third one is flat. */
enum { HY_NORMAL = 0, HY_HEAVY = 1, HY_SHAPES = 3 };

enum { HY_MOST_CLASS = 81, HY_SYMBOLS = 30, HY_TOTAL = 4096, HY_KEPT = 8 };

#define HY_MOST_NUMBER ((int32_t)1 << 27) /* of a block, in steps */
#define HY_MOST_SIDE ((int32_t)1 << 30)   /* every |side integer| is below */

/* Both tables of a class and shape, made when a column first needs them. of: number of the class
 * and shape, 0 for none. step: frequency, first slot (12 bits each), integer + 32. */
typedef struct hy_tables {
    uint32_t of, step[2][32];
    uint8_t symbol[HY_TOTAL][2];
} hy_tables;

/* One chunk. What hy_coder_open does not set must be 0 before the first chunk. */
typedef struct hy_coder {
    const uint8_t *data;
    size_t size, at; /* bytes of the chunk; bytes taken, which may be more */
    uint32_t x, y;   /* the states: of the next number, and of the one after it */
    int damaged;     /* whether a number was read that no writer writes */
    int32_t first[HY_KINDS];   /* of the last run of each kind */
    hy_tables kept[HY_KEPT];
} hy_coder;

/* Starts a chunk; `data` stays the caller's. Sets `damaged` unless it begins as a chunk does. */
void hy_coder_open(hy_coder *coder, const uint8_t *data, size_t size);

/* Whether the chunk was read far past its end. */
int hy_coder_passed(const hy_coder *coder);

/* Whether the coder is where the encoder started: at the chunk's end, with nothing left. */
int hy_coder_ended(const hy_coder *coder);

/* Decodes the next side integer of a kind. Sets `damaged` for what no writer writes. */
int32_t hy_coder_integer(hy_coder *coder, int kind);

/* Decodes the next column of a block, `rows` integers, into out. class_of, shape: those of the
 * previous column, -1 and the block's shape before the first; both are updated. Sets `damaged` for
 * what no writer writes; then out may be unset. */
void hy_coder_column(hy_coder *coder, int *class_of, int *shape, uint32_t rows, int32_t *out);

#endif
