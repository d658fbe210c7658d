/* Records of coded tensors that are no low-rank products. */
#include <string.h>

#include "core.h"

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

enum { REST = 1, PARTS = 2, COMMON = 4, ROWS = 8, OFFSETS = 16 };
enum { CUT = 1 << 20, FINER = 8, MOST_OFFSET = 1 << 24 };

/* round(2^(30 + i/256)): part of the format. */
static const uint32_t FRACTIONS[FINER] = {1073741824, 1076653033, 1079572136, 1082499153,
                                          1085434106, 1088377016, 1091327906, 1094286796};

static hydra_status read_step(hy_dense *dense, hy_source *s) {
    int32_t whole = 0, fine = 0;
    HY_TRY(
        hy_read_run(s, HY_EXPONENT, 1, -HY_MOST_EXPONENT, HY_MOST_EXPONENT, "an exponent", &whole));
    HY_TRY(hy_read_integer(s, HY_COUNT, 0, FINER - 1, "a step", &fine));
    dense->step = hy_power(whole) * ((double)FRACTIONS[fine] / 1073741824.0);
    return HYDRA_OK;
}

static hydra_status read_rows(hy_dense *dense, hy_source *s, const hy_entry *x) {
    uint32_t i;
    dense->rows = hy_alloc(&s->b->env, dense->row_count, sizeof *dense->rows);
    if (!dense->rows) return s->b->env.error->status;
    HY_TRY(
        hy_read_run(s, HY_COUNT, dense->row_count, 0, (int64_t)x->rows - 1, "a row", dense->rows));
    for (i = 1; i < dense->row_count; i++)
        if (dense->rows[i] <= dense->rows[i - 1])
            return hy_damaged(s, "rows of a tensor that do not rise");
    return HYDRA_OK;
}

static hydra_status read_blocks(hy_dense *dense, hy_source *s, const hy_entry *x) {
    uint32_t i, left = dense->row_count;
    dense->each = CUT / x->columns ? CUT / x->columns : 1;
    dense->block_count = left / dense->each + (left % dense->each != 0);
    dense->blocks = hy_alloc(&s->b->env, dense->block_count, sizeof *dense->blocks);
    if (!dense->blocks) {
        dense->block_count = 0;
        return s->b->env.error->status;
    }
    for (i = 0; i < dense->block_count; i++, left -= dense->each) {
        uint32_t rows = left < dense->each ? left : dense->each;
        HY_TRY(hy_block_read(dense->blocks + i, s, rows, x->columns, HY_NORMAL));
        if (left < dense->each) break;
    }
    return HYDRA_OK;
}

hydra_status hy_dense_read(hy_dense *dense, hy_source *s, const hy_entry *x, const hy_dense *common,
                           int shared) {
    /* What is shared, and what is over the base's own tensor, counts by what is coded. */
    int bounded = shared || x->base.data != NULL;
    int32_t what, rows;
    uint64_t whole = (uint64_t)x->rows * x->columns;
    memset(dense, 0, sizeof *dense);
    HY_TRY(hy_read_integer(s, HY_COUNT, 0, 31, "what a tensor's record has", &what));
    if ((what & (ROWS | OFFSETS) && !(what & REST)) ||
        (what & COMMON && (!common || !(common->what & REST))))
        return hy_damaged(s, "a tensor's record that has what it cannot have");
    if (shared && what & (PARTS | ROWS))
        return hy_damaged(s, "what is shared of a tensor not whole");
    dense->what = what;
    if (!bounded) HY_TRY(hy_source_spend(s, whole));
    if (what & PARTS) HY_TRY(hy_product_read(&dense->parts, s, x->rows, x->columns, NULL));
    if (!(what & REST)) return hy_source_end_record(s);
    HY_TRY(read_step(dense, s));
    dense->row_count = x->rows;
    if (what & ROWS) {
        HY_TRY(hy_read_integer(s, HY_COUNT, 0, x->rows, "the number of rows", &rows));
        dense->row_count = (uint32_t)rows;
    }
    if (bounded)
        HY_TRY(hy_source_spend(s, (uint64_t)dense->row_count * x->columns +
                                      (what & OFFSETS ? x->columns : 0)));
    if (what & ROWS) HY_TRY(read_rows(dense, s, x));
    if (what & OFFSETS) {
        dense->offsets = hy_alloc(&s->b->env, x->columns, sizeof *dense->offsets);
        if (!dense->offsets) return s->b->env.error->status;
        dense->offset_count = x->columns;
        HY_TRY(hy_read_run(s, HY_COUNT, x->columns, -MOST_OFFSET, MOST_OFFSET, "an offset",
                           dense->offsets));
    }
    HY_TRY(read_blocks(dense, s, x));
    return hy_source_end_record(s);
}

void hy_dense_close(hy_dense *dense, hy_env *env) {
    uint32_t i;
    hy_product_close(&dense->parts, env);
    for (i = 0; i < dense->block_count; i++) hy_block_close(dense->blocks + i, env);
    hy_free(env, dense->blocks, dense->block_count, sizeof *dense->blocks);
    hy_free(env, dense->rows, dense->row_count, sizeof *dense->rows);
    hy_free(env, dense->offsets, dense->offset_count, sizeof *dense->offsets);
    memset(dense, 0, sizeof *dense);
}

/* What the parts add: the products of part 0, then of part 1 and so on, summed before they are
 * added. sum: columns numbers of room. */
static void add_parts(const hy_product *p, uint32_t row, double *out, double *sum) {
    uint32_t c, j;
    for (c = 0; c < p->n; c++) sum[c] = 0;
    for (j = 0; j < p->k; j++) {
        double left = p->left[(size_t)j * p->m + row] * p->powers[j];
        const double *right = p->right + (size_t)j * p->n;
        for (c = 0; c < p->n; c++) sum[c] += left * right[c];
    }
    for (c = 0; c < p->n; c++) out[c] += sum[c];
}

/* Coded rows first to last - 1 are rows of the matrix from `base` on. */
static void add_coded(const hy_dense *dense, uint32_t first, uint32_t last, uint32_t base,
                      uint32_t columns, double *out, int32_t *scratch) {
    while (first < last) {
        const hy_block *block = dense->blocks + first / dense->each;
        uint32_t at = first % dense->each, count = block->rows - at, i, c;
        if (count > last - first) count = last - first;
        for (c = 0; c < columns; c++) {
            int32_t offset = dense->offsets ? dense->offsets[c] : 0;
            hy_block_column(block, c, at, count, scratch);
            for (i = 0; i < count; i++) {
                uint32_t row = dense->rows ? (uint32_t)dense->rows[first + i] : first + i;
                out[(size_t)(row - base) * columns + c] +=
                    (double)(scratch[i] + offset) * dense->step;
            }
        }
        first += count;
    }
}

/* The first coded row that is at or behind a row of the matrix. */
static uint32_t coded_from(const hy_dense *dense, uint32_t row) {
    uint32_t low = 0, high = dense->row_count;
    if (!dense->rows) return row < dense->row_count ? row : dense->row_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if ((uint32_t)dense->rows[middle] < row) low = middle + 1;
        else high = middle;
    }
    return low;
}

void hy_dense_rows(const hy_dense *dense, const hy_dense *common, const hy_entry *x, uint32_t first,
                   uint32_t count, double *out, double *sum, int32_t *scratch) {
    size_t i, numbers = (size_t)count * x->columns;
    double neutral = x->kind == HY_TUNER_ONES ? 1.0 : 0.0;
    uint32_t row;
    for (i = 0; i < numbers; i++) out[i] = neutral;
    if (dense->what & COMMON)
        add_coded(common, coded_from(common, first), coded_from(common, first + count), first,
                  x->columns, out, scratch);
    if (dense->parts.k)
        for (row = 0; row < count; row++)
            add_parts(&dense->parts, first + row, out + (size_t)row * x->columns, sum);
    if (dense->what & REST)
        add_coded(dense, coded_from(dense, first), coded_from(dense, first + count), first,
                  x->columns, out, scratch);
}
