/* What everything in the library stands on: memory with a bound, errors with a text, byte buffers.
 */
#ifndef HYDRA_BASE_H
#define HYDRA_BASE_H

#include <float.h>

#include "hydra.h"

/* Adapters are the same bytes everywhere only if each operation is rounded to its own type. */
#if FLT_EVAL_METHOD != 0
#error "doubles are not rounded after each operation: on 32-bit x86 add -msse2 -mfpmath=sse"
#endif

typedef struct hy_env {
    hydra_allocator allocator;
    hydra_limits limits;
    hydra_parallel parallel;
    size_t used;
    hydra_error *error; /* of the call in progress, never NULL */
    hydra_error own;    /* what it is if the caller gave none */
    const char *where;  /* the file that messages name, or NULL */
} hy_env;

#if defined(__GNUC__)
#define HY_PRINTF(a, b) __attribute__((format(printf, a, b)))
#define HY_INLINE inline __attribute__((always_inline))
#define HY_NOINLINE __attribute__((noinline)) /* small rather than fast */
#else
#define HY_PRINTF(a, b)
#define HY_INLINE inline
#define HY_NOINLINE
#endif

/* At the end of a format: a sentence that is kept once, "Fetch the bundle again ...". */
#define AGAIN "\n"

/* Returns `status` after it has put it and the text into the error of the call. */
hydra_status hy_fail(hy_env *env, hydra_status status, const char *format, ...) HY_PRINTF(3, 4);
/* The same for calls that have no bundle. */
hydra_status hy_fail_in(hydra_error *error, hydra_status status, const char *format, ...)
    HY_PRINTF(3, 4);

/* Structs that begin with their size, see "Versions" in hydra.h. hy_read_sized copies a caller's
 * struct, hy_write_sized fills one; HYDRA_USAGE if its size cannot be right, or if it asks for
 * something that this library does not know. size: of the library's own struct. */
HY_NOINLINE hydra_status hy_read_sized(void *own, size_t size, const void *given, const char *name,
                                       hydra_error *error);
HY_NOINLINE hydra_status hy_write_sized(void *given, const void *own, size_t size,
                                        const char *name, hydra_error *error);

/* count * size bytes of zeros; NULL with an error beyond the limits. A count of 0 gives a block. */
void *hy_alloc(hy_env *env, uint64_t count, size_t size);
void *hy_resize(hy_env *env, void *block, size_t old_size, uint64_t new_size);
void hy_free(hy_env *env, void *block, uint64_t count, size_t size);

/* Room for one more behind `count` elements; 0 if there is none. array: a pointer's address. */
int hy_grow(hy_env *env, void *array, uint32_t count, uint32_t *room, size_t size);

/* What is freed all at once. */
typedef struct hy_arena {
    struct hy_page *pages;
} hy_arena;
void *hy_arena_alloc(hy_env *env, hy_arena *arena, uint64_t count, size_t size);
void hy_arena_close(hy_env *env, hy_arena *arena);

/* A growing row of bytes. Once `failed` it stays as it is, so that only the end is asked. */
typedef struct hy_text {
    hy_env *env;
    char *data;
    size_t size, room;
    int failed;
} hy_text;

void hy_text_open(hy_text *text, hy_env *env);
void hy_text_close(hy_text *text);
void hy_put(hy_text *text, const void *data, size_t size);
void hy_puts(hy_text *text, const char *word);
void hy_put_natural(hy_text *text, uint64_t value);
/* Little-endian. */
void hy_put_le(hy_text *text, uint64_t value, int bytes);

#define HY_TRY(call)                    \
    do {                                \
        hydra_status try_ = (call);     \
        if (try_ != HYDRA_OK) return try_; \
    } while (0)

/* sha256 */
typedef struct hy_sha256 {
    uint32_t state[8];
    uint64_t size;
    uint8_t block[64];
} hy_sha256;
void hy_sha256_open(hy_sha256 *sha);
void hy_sha256_add(hy_sha256 *sha, const void *data, size_t size);
void hy_sha256_end(hy_sha256 *sha, uint8_t digest[32]);
/* The first 16 hex digits, and a zero byte: what checksums of a bundle are. */
void hy_checksum(const void *data, size_t size, char digits[17]);

/* One zlib stream (RFC 1950) that gives exactly `size` bytes and is followed by none. */
hydra_status hy_inflate(hy_env *env, const uint8_t *data, size_t packed, uint8_t *out, size_t size,
                        const char *what);
uint32_t hy_crc32(const uint8_t *data, size_t size);

#endif
