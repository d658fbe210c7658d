/* Records of modules: shared bases, and a task's parts over them, multiplied out.
 *
 * Sums of products have one order, so that every reader gets the same bits: of a side V Y + E,
 * first the products of column 0 of V, then of column 1 and so on, each rounded to a double and
 * added to the sum; then E. No product and sum are fused into one rounding. */
#include <math.h>
#include <string.h>

#include "core.h"

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

enum { MOST_BLOCK = 1 << 25, MOST_VECTORS = 1 << 16, STARTED = 9 };

/* round(2^(30 + i/32)): part of the format. */
static const uint32_t MANTISSAS[32] = {
    1073741824, 1097253708, 1121280436, 1145833280, 1170923762, 1196563654, 1222764986, 1249540052,
    1276901417, 1304861917, 1333434672, 1362633090, 1392470869, 1422962010, 1454120821, 1485961921,
    1518500250, 1551751076, 1585730000, 1620452965, 1655936265, 1692196547, 1729250827, 1767116489,
    1805811301, 1845353420, 1885761398, 1927054196, 1969251188, 2012372174, 2056437387, 2101467502};

double hy_power(int32_t e) {
    int32_t low = e & 31;
    return ldexp((double)MANTISSAS[low], (e - low) / 32 - 30);
}

void hy_block_close(hy_block *block, hy_env *env) {
    if (block->data) hy_free(env, block->data, block->room, 1);
    if (block->packed) hy_free(env, block->packed, block->columns, sizeof *block->packed);
    memset(block, 0, sizeof *block);
}

/* Appends a column in one, two or four bytes a number; a block's room grows with what it holds. */
static int pack(hy_block *block, hy_env *env, uint32_t column, const int32_t *values,
                uint64_t *used) {
    uint32_t i, any = 0;
    uint8_t width, *out;
    for (i = 0; i < block->rows; i++) any |= (uint32_t)(values[i] ^ values[i] >> 31);
    width = any < 128 ? 1 : any < 32768 ? 2 : 4;
    if (block->room - *used < (uint64_t)width * block->rows) {
        uint64_t left = block->columns - column, room = *used + left * width * block->rows;
        uint8_t *grown = hy_resize(env, block->data, block->room, room);
        if (!grown) return 0;
        block->data = grown;
        block->room = (size_t)room;
    }
    out = block->data + *used;
    block->packed[column].start = *used;
    block->packed[column].width = width;
    *used += (uint64_t)width * block->rows;
    if (width == 1) {
        for (i = 0; i < block->rows; i++) out[i] = (uint8_t)values[i];
    } else if (width == 2) {
        for (i = 0; i < block->rows; i++) {
            int16_t small = (int16_t)values[i];
            memcpy(out + 2 * (size_t)i, &small, 2);
        }
    } else {
        memcpy(out, values, 4 * (size_t)block->rows);
    }
    return 1;
}

void hy_block_column(const hy_block *block, uint32_t column, uint32_t first, uint32_t count,
                     int32_t *out) {
    uint8_t width = block->packed[column].width;
    const uint8_t *data = block->data + block->packed[column].start + (size_t)first * width;
    uint32_t i;
    if (width == 1) {
        for (i = 0; i < count; i++) out[i] = (int8_t)data[i];
    } else if (width == 2) {
        for (i = 0; i < count; i++) {
            int16_t small;
            memcpy(&small, data + 2 * (size_t)i, 2);
            out[i] = small;
        }
    } else {
        memcpy(out, data, 4 * (size_t)count);
    }
}

/* What a block may be, before anything is allocated for it. */
static hydra_status check_block(hy_source *s, uint32_t rows, uint32_t columns) {
    if (hy_coder_passed(&s->coder)) return hy_damaged(s, "its end too early");
    if ((uint64_t)rows * columns > MOST_BLOCK) return hy_damaged(s, "a block of too many numbers");
    return HYDRA_OK;
}

/* Where the columns of a block go, one after the other. */
typedef struct {
    int (*take)(void *user, uint32_t column, int32_t *values);
    void *user;
} Columns;

/* shape: the block's, which the first column is expected to have. */
static hydra_status read_columns(hy_source *s, uint32_t rows, uint32_t columns, int shape,
                                 Columns to) {
    hy_env *env = &s->b->env;
    hydra_status status = HYDRA_OK;
    int32_t *values;
    int last = -1;
    uint32_t j;
    HY_TRY(check_block(s, rows, columns));
    values = hy_alloc(env, rows, sizeof *values);
    if (!values) return env->error->status;
    for (j = 0; j < columns && !status; j++) {
        hy_coder_column(&s->coder, &last, &shape, rows, values);
        if (s->coder.damaged) status = hy_damaged(s, "a class or a number that no block may hold");
        else if (!to.take(to.user, j, values)) status = env->error->status;
    }
    hy_free(env, values, rows, sizeof *values);
    return status;
}

typedef struct {
    hy_block *block;
    hy_env *env;
    uint64_t used;
} Packer;

static int pack_column(void *user, uint32_t column, int32_t *values) {
    Packer *p = user;
    return pack(p->block, p->env, column, values, &p->used);
}

hydra_status hy_block_read(hy_block *block, hy_source *s, uint32_t rows, uint32_t columns,
                           int shape) {
    Packer packer;
    Columns to;
    hydra_status status;
    memset(block, 0, sizeof *block);
    HY_TRY(check_block(s, rows, columns));
    block->packed = hy_alloc(&s->b->env, columns, sizeof *block->packed);
    if (!block->packed) return s->b->env.error->status;
    block->rows = rows;
    block->columns = columns;
    packer.block = block;
    packer.env = &s->b->env;
    packer.used = 0;
    to.take = pack_column;
    to.user = &packer;
    status = read_columns(s, rows, columns, shape, to);
    if (!status && packer.used < block->room) {
        uint8_t *less =
            hy_resize(&s->b->env, block->data, block->room, packer.used ? packer.used : 1);
        if (!less) return s->b->env.error->status;
        block->data = less;
        block->room = (size_t)(packer.used ? packer.used : 1);
    }
    return status;
}

/* ---- bases ---------------------------------------------------------------------------------- */

static hydra_status read_powers(hy_source *s, uint32_t count, double **powers) {
    hy_env *env = &s->b->env;
    int32_t *exponents = hy_alloc(env, count, sizeof *exponents);
    double *made = exponents ? hy_alloc(env, count, sizeof *made) : NULL;
    hydra_status status = env->error->status;
    uint32_t j;
    if (made)
        status = hy_read_run(s, HY_EXPONENT, count, -HY_MOST_EXPONENT, HY_MOST_EXPONENT,
                             "an exponent", exponents);
    for (j = 0; made && !status && j < count; j++) made[j] = hy_power(exponents[j]);
    hy_free(env, exponents, count, sizeof *exponents);
    if (status) hy_free(env, made, count, sizeof *made);
    else *powers = made;
    return status;
}

static hydra_status read_basis(hy_basis *basis, hy_source *s, uint32_t length, uint32_t most) {
    int32_t q;
    HY_TRY(hy_read_integer(s, HY_COUNT, 0, most, "the number of basis vectors", &q));
    if (!q) return HYDRA_OK;
    HY_TRY(hy_source_spend(s, (uint64_t)length * (uint32_t)q));
    HY_TRY(hy_block_read(&basis->block, s, length, (uint32_t)q, HY_NORMAL));
    HY_TRY(read_powers(s, (uint32_t)q, &basis->powers));
    basis->q = (uint32_t)q;
    return HYDRA_OK;
}

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

hydra_status hy_bases_read(hy_bases *bases, hy_source *s, const hy_module *module) {
    memset(bases, 0, sizeof *bases);
    HY_TRY(read_basis(&bases->left, s, module->m, least(module->m, MOST_VECTORS)));
    HY_TRY(read_basis(&bases->right, s, module->n, least(module->n, MOST_VECTORS)));
    return hy_source_end_record(s);
}

static void close_basis(hy_basis *basis, hy_env *env) {
    hy_free(env, basis->powers, basis->q ? basis->q : basis->block.columns, sizeof *basis->powers);
    hy_block_close(&basis->block, env);
    memset(basis, 0, sizeof *basis);
}

void hy_bases_close(hy_bases *bases, hy_env *env) {
    close_basis(&bases->left, env);
    close_basis(&bases->right, env);
}

/* ---- parts ---------------------------------------------------------------------------------- */

/* Vectors of length n: of a basis, or of the initial A that begins at number `first`. */
typedef struct {
    const hy_basis *basis;
    uint32_t n, first;
} Vectors;

/* Vector j: the integers, and the power of two that they are multiplied with. */
static double vector_of(hy_source *s, const Vectors *v, uint32_t j, int32_t *integers) {
    int octaves = 0;
    if (v->basis) {
        hy_block_column(&v->basis->block, j, 0, v->n, integers);
        return v->basis->powers[j];
    }
    while ((uint64_t)1 << 2 * octaves < v->n) octaves++;
    hy_numbers(&s->generator, v->first + j * v->n, v->n, integers);
    return ldexp(1.0, -23 - octaves);
}

/* values (k, n) += the vectors times coordinates (q, k). */
static hydra_status add_products(hy_source *s, const Vectors *vectors, const hy_block *coordinates,
                                 double *values) {
    hy_env *env = &s->b->env;
    uint32_t n = vectors->n, k = coordinates->columns, i, j, c;
    int32_t *integers = hy_alloc(env, n, sizeof *integers), y;
    double *vector = integers ? hy_alloc(env, n, sizeof *vector) : NULL;
    if (!vector) {
        hy_free(env, integers, n, sizeof *integers);
        return env->error->status;
    }
    for (j = 0; j < coordinates->rows; j++) {
        double power;
        int any = 0;
        for (c = 0; c < k && !any; c++) {
            hy_block_column(coordinates, c, j, 1, &y);
            any = y != 0;
        }
        if (!any) continue;
        power = vector_of(s, vectors, j, integers);
        for (i = 0; i < n; i++) vector[i] = integers[i] * power;
        for (c = 0; c < k; c++) {
            double *out = values + (size_t)c * n, by;
            hy_block_column(coordinates, c, j, 1, &y);
            if (!y) continue; /* adding 0 changes no bit: no sum is -0 */
            by = y;
            for (i = 0; i < n; i++) out[i] += vector[i] * by;
        }
    }
    hy_free(env, vector, n, sizeof *vector);
    hy_free(env, integers, n, sizeof *integers);
    return HYDRA_OK;
}

typedef struct {
    double *values;
    uint32_t rows;
} Adder;

static int add_column(void *user, uint32_t column, int32_t *values) {
    Adder *a = user;
    double *out = a->values + (size_t)column * a->rows;
    uint32_t i;
    for (i = 0; i < a->rows; i++) out[i] += values[i];
    return 1;
}

/* One side of k vectors of length n: values (k, n). way: 0 explicit, 1 shared, 2 predicted. */
static hydra_status read_side(hy_source *s, int way, const hy_basis *basis, uint32_t n, uint32_t k,
                              double **values) {
    hy_block coordinates;
    hydra_status status;
    Adder adder;
    Columns to;
    if (way) {
        if (!basis || !basis->q)
            return hy_damaged(s, "a shared side in a module without such a basis");
        status = hy_block_read(&coordinates, s, basis->q, k, HY_HEAVY);
    } else {
        memset(&coordinates, 0, sizeof coordinates);
        status = check_block(s, n, k);
    }
    if (!status) {
        *values = hy_alloc(&s->b->env, (uint64_t)n * k, sizeof **values);
        if (!*values) status = s->b->env.error->status;
    }
    if (!status && way && !s->only_read) {
        Vectors vectors;
        vectors.basis = basis, vectors.n = n;
        status = add_products(s, &vectors, &coordinates, *values);
    }
    hy_block_close(&coordinates, &s->b->env);
    if (status || way == 1) return status;
    adder.values = *values;
    adder.rows = n;
    to.take = add_column;
    to.user = &adder;
    return read_columns(s, n, k, HY_NORMAL, to);
}

/* Blocks of a started side: coordinates over the initial A; own directions, and those over them. */
typedef struct {
    hy_block coordinates, over_own;
    hy_basis own;
} Started;

static hydra_status read_started_blocks(hy_source *s, uint32_t n, uint32_t k, uint32_t rows,
                                        Started *x) {
    HY_TRY(hy_block_read(&x->coordinates, s, rows, k, HY_HEAVY));
    HY_TRY(read_basis(&x->own, s, n, least(n, k)));
    return x->own.q ? hy_block_read(&x->over_own, s, x->own.q, k, HY_HEAVY) : HYDRA_OK;
}

/* A right side over the initial A and own directions: values (k, n). */
static hydra_status read_started(hy_source *s, uint32_t n, uint32_t k, double **values) {
    hy_env *env = &s->b->env;
    hydra_status status;
    Started x;
    Vectors vectors;
    uint64_t drawn;
    int32_t rows, first = 0;
    HY_TRY(hy_read_integer(s, HY_COUNT, 1, MOST_BLOCK / n, "the rows of an initial A", &rows));
    drawn = (uint64_t)rows * n;
    HY_TRY(hy_source_spend(s, drawn));
    if (drawn > s->start_numbers)
        return hy_damaged(s, "an initial A of more numbers than the start has");
    HY_TRY(hy_read_run(s, HY_COUNT, 1, 0, (int64_t)(s->start_numbers - drawn),
                       "the place of an initial A", &first));
    memset(&x, 0, sizeof x);
    status = read_started_blocks(s, n, k, (uint32_t)rows, &x);
    if (!status && (*values = hy_alloc(env, (uint64_t)n * k, sizeof **values)) == NULL)
        status = env->error->status;
    vectors.basis = NULL, vectors.n = n, vectors.first = (uint32_t)first;
    if (!status && !s->only_read) status = add_products(s, &vectors, &x.coordinates, *values);
    vectors.basis = &x.own;
    if (!status && !s->only_read && x.own.q)
        status = add_products(s, &vectors, &x.over_own, *values);
    hy_block_close(&x.coordinates, env);
    hy_block_close(&x.over_own, env);
    close_basis(&x.own, env);
    return status;
}

hydra_status hy_product_read(hy_product *p, hy_source *s, uint32_t m, uint32_t n,
                             const hy_bases *bases) {
    int32_t k, mode = 0;
    int started = s->start_numbers > 0;
    uint64_t most = 2 * (uint64_t)(m < n ? m : n) + 1;
    memset(p, 0, sizeof *p);
    p->m = m, p->n = n;
    HY_TRY(hy_read_integer(s, HY_COUNT, 0, (int64_t)most, "the number of parts", &k));
    HY_TRY(hy_source_spend(s, (uint64_t)k * ((uint64_t)m + n)));
    if (!k) return HYDRA_OK;
    p->k = (uint32_t)k;
    if (started || (bases && (bases->left.q || bases->right.q)))
        HY_TRY(hy_read_integer(s, HY_MODE, 0, 8 + started, "the mode of a record", &mode));
    if (mode == STARTED) {
        HY_TRY(read_started(s, n, p->k, &p->right));
        mode = 0;
    } else {
        HY_TRY(read_side(s, mode % 3, bases ? &bases->right : NULL, n, p->k, &p->right));
    }
    HY_TRY(read_side(s, mode / 3, bases ? &bases->left : NULL, m, p->k, &p->left));
    return read_powers(s, p->k, &p->powers);
}

void hy_product_close(hy_product *p, hy_env *env) {
    hy_free(env, p->left, (uint64_t)p->m * p->k, sizeof *p->left);
    hy_free(env, p->right, (uint64_t)p->n * p->k, sizeof *p->right);
    hy_free(env, p->powers, p->k, sizeof *p->powers);
    memset(p, 0, sizeof *p);
}
