#include "base.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const NAMES[] = {"ok",          "damaged", "checksum", "version", "not there",
                                    "unsupported", "range",   "limit",    "memory",  "io",
                                    "usage",       "stopped"};

const char *hydra_status_name(hydra_status status) {
    return (unsigned)status < sizeof NAMES / sizeof *NAMES ? NAMES[status] : "unknown";
}

/* Cuts a text that did not fit so that it stays UTF-8. */
static void whole_characters(char *text, size_t room) {
    size_t end = strlen(text), start = end;
    if (end + 1 < room) return;
    while (start > 0 && ((unsigned char)text[start - 1] & 0xC0) == 0x80) start--;
    if (start > 0 && (unsigned char)text[start - 1] >= 0xC0) text[start - 1] = 0;
}

/* A '?' for each control character, and for each broken or cut sequence of UTF-8: messages hold
 * texts of files, and terminals would obey them. */
static void make_plain(char *text) {
    unsigned char *from = (unsigned char *)text, *to = from;
    while (*from) {
        unsigned c = *from, more = c < 0x80 ? 0 : c < 0xE0 ? 1 : c < 0xF0 ? 2 : 3, i = 1;
        int fine = c < 0x80 ? c >= 0x20 && c != 0x7F : c >= 0xC2 && c <= 0xF4;
        while (i <= more && (from[i] & 0xC0) == 0x80) i++;
        if (i <= more) fine = 0;
        else if (c == 0xC2 || c == 0xE0) fine = from[1] >= 0xA0;
        else if (c == 0xF0) fine = from[1] >= 0x90;
        else if (c == 0xED) fine = from[1] < 0xA0;
        else if (c == 0xF4) fine = from[1] < 0x90;
        if (fine) memmove(to, from, i);
        else *to = '?';
        to += fine ? i : 1;
        from += i;
    }
    *to = 0;
}

static void write_error(hydra_error *error, hydra_status status, const char *where,
                        const char *format, va_list arguments) {
    int used = 0, more;
    if (!error) return;
    error->status = status;
    error->text[0] = 0;
    if (where) used = snprintf(error->text, sizeof error->text, "%.200s: ", where);
    if (used < 0) used = 0;
    more = vsnprintf(error->text + used, sizeof error->text - (size_t)used, format, arguments);
    if (more < 0) error->text[used] = 0;
    used += more;
    if (format[strlen(format) - 1] == AGAIN[0] && more > 0 && used < (int)sizeof error->text)
        snprintf(error->text + used - 1, sizeof error->text - (size_t)used + 1,
                 "Fetch the bundle again or restore a copy");
    whole_characters(error->text, sizeof error->text);
    make_plain(error->text);
}

hydra_status hy_fail(hy_env *env, hydra_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_error(env->error, status, env->where, format, arguments);
    va_end(arguments);
    return status;
}

hydra_status hy_fail_in(hydra_error *error, hydra_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_error(error, status, NULL, format, arguments);
    va_end(arguments);
    return status;
}

/* The bytes of a caller's struct that both sides know; 0, with an error, if its size is wrong. */
static size_t common_size(const void *given, size_t size, const char *name, hydra_error *error) {
    size_t theirs;
    memcpy(&theirs, given, sizeof theirs);
    if (theirs > sizeof theirs && theirs <= 4096) return theirs < size ? theirs : size;
    hy_fail_in(error, HYDRA_USAGE, "struct_size of %s is wrong. Set it to sizeof(%s)", name, name);
    return 0;
}

hydra_status hy_read_sized(void *own, size_t size, const void *given, const char *name,
                           hydra_error *error) {
    size_t both = common_size(given, size, name, error), theirs, i;
    if (!both) return HYDRA_USAGE;
    memcpy(&theirs, given, sizeof theirs);
    for (i = size; i < theirs; i++)
        if (((const char *)given)[i])
            return hy_fail_in(error, HYDRA_USAGE,
                              "a newer member of %s is set. Install a newer libhydra", name);
    memset(own, 0, size);
    memcpy(own, given, both);
    return HYDRA_OK;
}

hydra_status hy_write_sized(void *given, const void *own, size_t size, const char *name,
                            hydra_error *error) {
    size_t both = common_size(given, size, name, error), theirs, head = sizeof theirs;
    if (!both) return HYDRA_USAGE;
    memcpy(&theirs, given, sizeof theirs);
    memset((char *)given + head, 0, theirs - head);
    memcpy((char *)given + head, (const char *)own + head, both - head);
    return HYDRA_OK;
}

void *hy_resize(hy_env *env, void *block, size_t old_size, uint64_t new_size) {
    void *made = NULL;
    uint64_t after = env->used - old_size + new_size;
    if (new_size > (size_t)-1 / 2) {
        hy_fail(env, HYDRA_MEMORY, "%llu bytes are more than this machine can address",
                (unsigned long long)new_size);
        return NULL;
    }
    if (env->limits.memory && after > env->limits.memory) {
        hy_fail(env, HYDRA_LIMIT,
                "the limit of memory is passed; got %llu bytes, expected at most %llu",
                (unsigned long long)after, (unsigned long long)env->limits.memory);
        return NULL;
    }
    made = env->allocator.resize(env->allocator.user, block, old_size, (size_t)new_size);
    if (!made && new_size) {
        hy_fail(env, HYDRA_MEMORY, "no memory is left; %llu bytes were asked for",
                (unsigned long long)new_size);
        return NULL;
    }
    env->used = (size_t)after;
    return made;
}

void *hy_alloc(hy_env *env, uint64_t count, size_t size) {
    uint64_t bytes = count * size;
    void *made;
    if (count > (uint64_t)-1 / 2 / size) bytes = (uint64_t)-1 / 2;
    if (!bytes) bytes = 1;
    made = hy_resize(env, NULL, 0, bytes);
    if (made) memset(made, 0, (size_t)bytes);
    return made;
}

void hy_free(hy_env *env, void *block, uint64_t count, size_t size) {
    size_t bytes = (size_t)(count * size);
    if (!block) return;
    if (!bytes) bytes = 1;
    env->allocator.resize(env->allocator.user, block, bytes, 0);
    env->used -= bytes;
}

int hy_grow(hy_env *env, void *array, uint32_t count, uint32_t *room, size_t size) {
    void *block, *grown;
    uint64_t more = (uint64_t)*room + *room / 2 + 8;
    if (count < *room) return 1;
    memcpy(&block, array, sizeof block);
    if (more > 0xFFFFFFFFu) more = 0xFFFFFFFFu;
    grown = hy_resize(env, block, *room * size, more * size);
    if (!grown) return 0;
    memset((char *)grown + *room * size, 0, (size_t)(more - *room) * size);
    memcpy(array, &grown, sizeof grown);
    *room = (uint32_t)more;
    return 1;
}

typedef struct hy_page {
    struct hy_page *next;
    size_t size, used; /* of the whole page; from its start */
} hy_page;

enum { ALIGNED = 16, PAGE = 1 << 13, HEAD = (sizeof(hy_page) + ALIGNED - 1) / ALIGNED * ALIGNED };

void *hy_arena_alloc(hy_env *env, hy_arena *arena, uint64_t count, size_t size) {
    hy_page *page = arena->pages;
    uint64_t bytes = (count * size + ALIGNED - 1) / ALIGNED * ALIGNED, whole;
    if (count > ((uint64_t)1 << 40) / size) bytes = (uint64_t)1 << 60;
    if (!page || page->size - page->used < bytes) {
        whole = bytes + HEAD > PAGE ? bytes + HEAD : PAGE;
        page = hy_alloc(env, whole, 1);
        if (!page) return NULL;
        page->size = (size_t)whole;
        page->used = HEAD;
        page->next = arena->pages;
        arena->pages = page;
    }
    page->used += (size_t)bytes;
    return (char *)page + (page->used - (size_t)bytes);
}

void hy_arena_close(hy_env *env, hy_arena *arena) {
    while (arena->pages) {
        hy_page *page = arena->pages;
        arena->pages = page->next;
        hy_free(env, page, page->size, 1);
    }
}

void hy_text_open(hy_text *text, hy_env *env) {
    memset(text, 0, sizeof *text);
    text->env = env;
}

void hy_text_close(hy_text *text) {
    if (text->data) hy_free(text->env, text->data, text->room, 1);
    text->data = NULL;
    text->size = text->room = 0;
}

void hy_put(hy_text *text, const void *data, size_t size) {
    if (text->failed) return;
    if (size > text->room - text->size) {
        uint64_t room = (uint64_t)text->room + text->room / 2 + size + 64;
        char *grown = hy_resize(text->env, text->data, text->room, room);
        if (!grown) {
            text->failed = 1;
            return;
        }
        text->data = grown;
        text->room = (size_t)room;
    }
    if (size) memcpy(text->data + text->size, data, size);
    text->size += size;
}

void hy_puts(hy_text *text, const char *word) { hy_put(text, word, strlen(word)); }

void hy_put_natural(hy_text *text, uint64_t value) {
    char digits[20];
    size_t at = sizeof digits;
    do digits[--at] = (char)('0' + value % 10);
    while (value /= 10);
    hy_put(text, digits + at, sizeof digits - at);
}

void hy_put_le(hy_text *text, uint64_t value, int bytes) {
    uint8_t out[8];
    int i;
    for (i = 0; i < bytes; i++) out[i] = (uint8_t)(value >> 8 * i);
    hy_put(text, out, (size_t)bytes);
}
