/* Strict JSON, as docs/reference/format.md wants it: UTF-8, no repeated keys, no NaN, no infinity,
 * nested at most 64 deep. A text becomes a row of nodes in the order of the text. */
#ifndef HYDRA_JSON_H
#define HYDRA_JSON_H

#include "base.h"

typedef enum {
    HY_NULL, HY_FALSE, HY_TRUE, HY_INT, HY_FLOAT, HY_STRING, HY_LIST, HY_OBJECT
} hy_type;

/* start, size: bytes of the text (a string's are decoded, and end with a zero byte); of a list or
 * object size counts its values. next: the node after all that is inside. An object's members are a
 * string node and, behind it, the value's node. */
typedef struct hy_node {
    uint32_t type, start, size, next;
} hy_node;

typedef struct hy_json {
    hy_env *env;
    char *text;
    size_t size, text_room;
    hy_node *nodes;
    uint32_t count, room;
} hy_json;

/* Parses `size` bytes at text, which have room for one more and belong to the json from now on,
 * also on failure; they were allocated with text_room bytes. what: for messages. */
hydra_status hy_json_open(hy_json *json, hy_env *env, char *text, size_t size, size_t text_room,
                          const char *what);
/* The same of a copy of the text. */
hydra_status hy_json_copy(hy_json *json, hy_env *env, const char *text, size_t size,
                          const char *what);
void hy_json_close(hy_json *json);

/* A row of bytes that belongs to someone else. */
typedef struct hy_slice {
    const char *data;
    size_t size;
} hy_slice;

hy_slice hy_slice_of(const char *word);
int hy_same(hy_slice a, hy_slice b);
int hy_is(hy_slice a, const char *word);
/* As memcmp, a shorter one first: the order of code points. For qsort. */
int hy_compare(const void *a, const void *b);
int hy_ends_with(hy_slice text, const char *end);
/* Index of the byte's last place in the text, or its size. */
size_t hy_last(hy_slice text, char byte);

hy_type hy_kind(const hy_json *json, uint32_t node);
hy_slice hy_string(const hy_json *json, uint32_t node);
/* The value of a key of an object; 0, the root, if there is none or it is no object. */
uint32_t hy_get(const hy_json *json, uint32_t object, const char *key);
/* A whole number in [low, high]; 0 if the node is none. */
int hy_natural(const hy_json *json, uint32_t node, uint64_t low, uint64_t high, uint64_t *value);
/* A number as a double, true and false as 1 and 0; 0 if the node is none of these. Integers beyond
 * doubles are infinite. */
int hy_number(const hy_json *json, uint32_t node, double *value);
/* Whether Python takes the value for true. */
int hy_truth(const hy_json *json, uint32_t node);

/* Goes over what is in a list or an object:
 *     for (i = hy_first(json, node); i < hy_end(json, node); i = hy_next(json, i))
 * In an object i is a key, and hy_next expects the value, i + 1. */
uint32_t hy_first(uint32_t node);
uint32_t hy_end(const hy_json *json, uint32_t node);
uint32_t hy_next(const hy_json *json, uint32_t node);

/* A sorted set of texts: the keys of an object, or the texts of a list. */
typedef struct hy_set {
    hy_slice *texts;
    uint32_t count;
} hy_set;
hydra_status hy_set_open(hy_set *set, const hy_json *json, uint32_t node);
int hy_set_has(const hy_set *set, hy_slice text);
void hy_set_close(hy_set *set, hy_env *env);
/* Whether no text occurs twice; sorts them. */
int hy_unique(hy_slice *texts, size_t count);

typedef enum { HY_COMPACT, HY_PRETTY } hy_style;

/* The value as JSON with sorted keys: compact as UTF-8, or as Python's json.dumps(indent=2). */
void hy_dump(hy_text *out, const hy_json *json, uint32_t node, hy_style style);
void hy_dump_string(hy_text *out, hy_slice text, int ascii);
/* The shortest text that is this double again, as Python's repr; finite. */
void hy_dump_double(hy_text *out, double value);
/* The value to so many significant digits, as Python's float(f"{value:.3g}"). */
double hy_rounded(double value, int digits);
/* A number's text as a double, whatever the locale. */
double hy_to_double(const char *text, size_t size);

/* UTF-8: the character at *at, which moves behind it; -1 for what is none. */
int32_t hy_character(const char *text, size_t size, size_t *at);
/* The number of characters of a valid text. */
size_t hy_length(hy_slice text);
/* Whether it has none of the hidden characters of format.md, section 2. */
int hy_is_visible(hy_slice text);

#endif
