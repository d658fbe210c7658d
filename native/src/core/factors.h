/* Factors and tensors of a task, in their dtypes. */
#ifndef HYDRA_FACTORS_H
#define HYDRA_FACTORS_H

#include "core.h"

/* ---- round.c: numbers in their dtypes ------------------------------------------------------- */

/* Stores `count` doubles in a float dtype, little-endian, rounded to nearest, ties to even; 0 if
 * one of them is too large for it. stride: numbers from one's place to the next one's. */
int hy_store(int dtype, const double *values, size_t count, size_t stride, uint8_t *out);
/* As hy_store, of values that are first clipped to the largest number of the dtype. */
void hy_store_clipped(int dtype, double *values, size_t count, uint8_t *out);
/* The number at `data` of a float dtype, through float32. */
double hy_load(int dtype, const uint8_t *data);
/* The dtype of factors for a caller's choice and the task's own dtype. */
int hy_dtype_of(hydra_dtype asked, int own);

/* ---- factors.c ------------------------------------------------------------------------------ */

/* A module of a task in its dtype: b (m, k), a (k, n), row-major. */
typedef struct hy_factors {
    uint32_t k;
    uint8_t *b, *a;
} hy_factors;

/* Divides a product by `scale` and balances its norms; scale 0 gives zeros. The product is used up.
 * hy_factors_into: into b and a, which have room. */
hydra_status hy_factors_of(hy_factors *factors, hy_env *env, hy_product *product, int dtype,
                           double scale, const hy_task *task, const hy_module *module);
hydra_status hy_factors_into(uint8_t *b, uint8_t *a, hy_env *env, hy_product *product, int dtype,
                             double scale, const hy_task *task, const hy_module *module);
void hy_factors_close(hy_factors *factors, hy_env *env, const hy_module *module, int dtype);

/* ---- tensors.c ------------------------------------------------------------------------------ */

/* A tensor to be written. data: its bytes; NULL: A or B (`half`) of the pair `pair`. */
typedef struct hy_tensor {
    hy_slice name; /* in the arena */
    int dtype;
    const uint64_t *shape;
    uint32_t axes;
    uint64_t size;
    uint8_t *data;
    uint64_t data_room;
    uint32_t pair, half;
} hy_tensor;

typedef struct hy_tensors {
    hy_arena arena;
    hy_tensor *rows;
    uint32_t count, room;
    int headers; /* names, dtypes and shapes alone: no data */
} hy_tensors;

hydra_status hy_tensors_add(hy_tensors *outs, hy_env *env, hy_slice name, int dtype,
                         const uint64_t *shape, uint32_t axes, hy_tensor **out);
void hy_tensors_close(hy_tensors *outs, hy_env *env);

/* What the manifest says of a task's tensors by key: kinds, or scales of biases; sorted. */
typedef struct hy_kinds {
    struct hy_kind_row {
        hy_slice key; /* first, so that hy_compare sorts */
        int kind;     /* -1: not said */
        double scale; /* NAN: not said */
    } *rows;
    uint32_t count, room;
} hy_kinds;
hydra_status hy_kinds_open(hy_kinds *kinds, hydra_bundle *b, const hy_task *task);
void hy_kinds_close(hy_kinds *kinds, hydra_bundle *b);
/* The kind of a key; the scale of a bias goes to *scale, unless that is NULL. */
int hy_kind_of(const hy_kinds *kinds, hy_slice key, double *scale);

/* The tensors of a blob, under their own names. */
hydra_status hy_blob_tensors(hydra_bundle *b, const hy_blob *blob, hy_tensors *outs);
/* Every carried and coded tensor, under its own name. copies: 0 leaves out coded copies of the
 * base's weights below pairs, because the base has them exactly. */
hydra_status hy_all_tensors(hydra_bundle *b, const hy_task *task, int copies, hy_tensors *outs);
/* The tensor of a coded record, as bytes of its dtype; size + 1 of room. */
hydra_status hy_dense_bytes(hydra_bundle *b, const hy_entry *entry, const hy_dense *dense,
                            const hy_dense *common, uint8_t **data);
/* Name, dtype and shape of every carried and coded tensor, by the manifest alone. copies: as of
 * hy_all_tensors. */
hydra_status hy_all_headers(hydra_bundle *b, const hy_task *task, int copies, hy_tensors *outs);
/* Whether a coded tensor is a copy of the base's weight below a pair. */
int hy_is_copy(const hy_entry *x);

#endif
