/* A module's product as two matrices whose norms are alike, in the dtype of an adapter. */
#include <math.h>
#include <string.h>

#include "factors.h"

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

static double norm(const double *x, uint32_t n) {
    double sum = 0;
    uint32_t i;
    for (i = 0; i < n; i++) sum += x[i] * x[i];
    return sqrt(sum);
}

/* Half the octaves between two norms, a whole number. Both sides are then within a factor of two,
 * in the middle of what a narrow dtype holds. */
static int shift_of(double nb, double na) {
    double octaves;
    if (!(nb > 0 && na > 0)) return 0;
    octaves = rint(0.5 * log2(nb / na));
    return octaves - octaves == 0 ? (int)octaves : 0;
}

/* row *= 2^shift, rounded once. A product with a power of two is that; ldexp is for others. */
static void scale_by(double *row, uint32_t n, int shift) {
    uint32_t i;
    double by = ldexp(1, shift);
    if (!shift) return;
    if (shift >= -1022 && shift <= 1023)
        for (i = 0; i < n; i++) row[i] *= by;
    else
        for (i = 0; i < n; i++) row[i] = ldexp(row[i], shift);
}

hydra_status hy_factors_into(uint8_t *b, uint8_t *a, hy_env *env, hy_product *p, int dtype,
                             double scale, const hy_task *task, const hy_module *module) {
    size_t size = HY_DTYPE_BYTES[dtype];
    uint32_t i, j;
    int fine = 1;
    for (j = 0; j < p->k; j++) {
        double *left = p->left + (size_t)j * p->m, *right = p->right + (size_t)j * p->n;
        int shift = 0;
        if (scale != 0) {
            for (i = 0; i < p->m; i++) left[i] = left[i] * p->powers[j] / scale;
            shift = shift_of(norm(left, p->m), norm(right, p->n));
        } else {
            memset(left, 0, p->m * sizeof *left);
            memset(right, 0, p->n * sizeof *right);
        }
        scale_by(left, p->m, -shift);
        fine &= hy_store(dtype, left, p->m, p->k, b + (size_t)j * size);
        scale_by(right, p->n, shift);
        fine &= hy_store(dtype, right, p->n, 1, a + (size_t)j * p->n * size);
    }
    if (!fine)
        return hy_fail(env, HYDRA_RANGE,
                       "numbers of task '%s', module '%s' do not fit %s. Choose a "
                       "wider dtype",
                       task->name.data, module->path.data, HY_DTYPES[dtype]);
    return HYDRA_OK;
}

hydra_status hy_factors_of(hy_factors *f, hy_env *env, hy_product *p, int dtype, double scale,
                           const hy_task *task, const hy_module *module) {
    size_t size = HY_DTYPE_BYTES[dtype];
    memset(f, 0, sizeof *f);
    if (!p->k) return HYDRA_OK;
    f->k = p->k;
    f->b = hy_alloc(env, (uint64_t)p->m * p->k, size);
    f->a = f->b ? hy_alloc(env, (uint64_t)p->n * p->k, size) : NULL;
    if (!f->a) return env->error->status;
    return hy_factors_into(f->b, f->a, env, p, dtype, scale, task, module);
}

void hy_factors_close(hy_factors *f, hy_env *env, const hy_module *module, int dtype) {
    hy_free(env, f->b, (uint64_t)module->m * f->k, HY_DTYPE_BYTES[dtype]);
    hy_free(env, f->a, (uint64_t)module->n * f->k, HY_DTYPE_BYTES[dtype]);
    memset(f, 0, sizeof *f);
}
