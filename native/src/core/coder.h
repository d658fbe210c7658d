/* The adaptive binary range coder of a chunk: docs/reference/streams.md, sections 1 and 2. */
#ifndef HYDRA_CODER_H
#define HYDRA_CODER_H

#include <stddef.h>
#include <stdint.h>

enum {
    HY_CLASSES = 29,
    HY_SHIFT_FROM = 25,
    HY_ACTIVITIES = 3,
    HY_BINS = 16,
    HY_KINDS = 8,
    HY_LEVEL_CONTEXTS = 2 * HY_CLASSES * HY_ACTIVITIES * HY_BINS,
    HY_CONTEXTS = HY_LEVEL_CONTEXTS + HY_KINDS * 2 * HY_BINS,
    HY_MOST_SPREAD = 92
};

/* Kinds of side integers, which learn apart. */
enum {
    HY_COUNT = 0,
    HY_MODE = 1,
    HY_COORDINATE_SPREAD = 2,
    HY_RIGHT_SPREAD = 3,
    HY_LEFT_SPREAD = 4,
    HY_EXPONENT = 5,
    HY_BASIS_SPREAD = 6,
    HY_DENSE_SPREAD = 7
};

#define HY_MOST_NUMBER ((uint32_t)1 << 27) /* of a block, in steps */
#define HY_MOST_SUM ((uint32_t)1 << 30)    /* of a row, before a column */

/* Apart, not in one word: a decision then waits for nothing but the probability. */
typedef struct hy_context {
    uint16_t p;     /* of a 1, in 1/65536 */
    uint16_t count; /* of decisions, up to 255 */
} hy_context;

/* One chunk. A context of levels lies beside that of the other q. */
typedef struct hy_coder {
    const uint8_t *data;
    size_t size, at; /* bytes of the chunk; bytes taken, which may be more */
    uint32_t range, code;
    int damaged; /* a width or a number that no writer writes */
    hy_context model[HY_CONTEXTS];
} hy_coder;

/* Starts a chunk; `data` stays the caller's. */
void hy_coder_open(hy_coder *coder, const uint8_t *data, size_t size);

/* Bytes that the format has taken so far: more than `size` if the end was passed. */
size_t hy_coder_taken(const hy_coder *coder);

/* The next side integer of a kind; |value| < 2^30. Sets `damaged` for what no writer writes. */
int32_t hy_coder_integer(hy_coder *coder, int kind);

/* The next column of a block: `rows` integers of a spread class into out. sums: what the columns
 * before add up to in each row, all 0 at a block's start; this one is added. Sets `damaged` at
 * numbers above HY_MOST_NUMBER, and where a sum had reached HY_MOST_SUM before. */
void hy_coder_column(hy_coder *coder, int spread, uint32_t rows, uint32_t *sums, int32_t *out);

#endif
