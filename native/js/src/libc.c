/* Parts of libc that a page has in a better or smaller form: text of numbers, numbers of text, and
 * an allocator for one bundle. The library's formats are the only ones there are here. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"

/* ---- memory: first fit, neighbours that are free become one (Kernighan and Ritchie, 8.7) ------
 */

typedef struct block {
    struct block *next; /* of the free ones, by address */
    size_t size;        /* bytes, this head included */
} block;

enum { PAGE = 65536, UNIT = 16 };
_Static_assert(sizeof(block) <= UNIT, "a head fits in a unit");

static block *unused;

static size_t whole(size_t size) { return (size + UNIT + UNIT - 1) / UNIT * UNIT; }

void free(void *address) {
    block *own, *before, *after;
    if (!address) return;
    own = (block *)((char *)address - UNIT);
    for (before = NULL, after = unused; after && after < own; before = after, after = after->next)
        ;
    own->next = after;
    if (before) before->next = own;
    else unused = own;
    if (after && (char *)own + own->size == (char *)after) {
        own->size += after->size;
        own->next = after->next;
    }
    if (before && (char *)before + before->size == (char *)own) {
        before->size += own->size;
        before->next = own->next;
    }
}

static int grow(size_t size) {
    size_t pages = (size + PAGE - 1) / PAGE;
    size_t start = __builtin_wasm_memory_grow(0, pages);
    block *more;
    if (start == (size_t)-1) return 0;
    more = (block *)(start * PAGE);
    more->size = pages * PAGE;
    free((char *)more + UNIT);
    return 1;
}

void *malloc(size_t size) {
    size_t wanted = whole(size);
    if (size > 0x7FFFFFFF) return NULL;
    for (;;) {
        block **at, *own;
        for (at = &unused; (own = *at); at = &own->next) {
            if (own->size < wanted) continue;
            if (own->size - wanted < 2 * UNIT) {
                *at = own->next;
            } else {
                block *rest = (block *)((char *)own + wanted);
                rest->next = own->next;
                rest->size = own->size - wanted;
                own->size = wanted;
                *at = rest;
            }
            return (char *)own + UNIT;
        }
        if (!grow(wanted)) return NULL;
    }
}

void *calloc(size_t count, size_t size) {
    void *address;
    if (size && count > 0x7FFFFFFF / size) return NULL;
    address = malloc(count * size);
    if (address) memset(address, 0, count * size);
    return address;
}

void *realloc(void *address, size_t size) {
    size_t held;
    void *other;
    if (!address) return malloc(size);
    held = ((block *)((char *)address - UNIT))->size - UNIT;
    if (size <= held && held / 2 <= size) return address;
    other = malloc(size);
    if (!other) return NULL;
    memcpy(other, address, held < size ? held : size);
    free(address);
    return other;
}

/* ---- numbers ----------------------------------------------------------------------------------
 */

double strtod(const char *text, char **end) {
    if (end) *end = (char *)text + strlen(text);
    return host_number(text, (uint32_t)strlen(text));
}

long strtol(const char *text, char **end, int base) {
    long value = 0;
    int negative = *text == '-';
    (void)base;
    for (text += *text == '-' || *text == '+'; *text >= '0' && *text <= '9'; text++)
        value = value * 10 + (*text - '0');
    if (end) *end = (char *)text;
    return negative ? -value : value;
}

typedef struct {
    char *out;
    size_t room, made;
} sink;

static void put(sink *s, const char *text, size_t size) {
    size_t i;
    for (i = 0; i < size; i++, s->made++)
        if (s->made + 1 < s->room) s->out[s->made] = text[i];
}

static void put_number(sink *s, uint64_t value, int negative, unsigned base, int width) {
    char digits[24];
    int at = sizeof digits;
    do {
        digits[--at] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value || (int)sizeof digits - at < width);
    if (negative) put(s, "-", 1);
    put(s, digits + at, sizeof digits - (size_t)at);
}

/* %s %c %d %u %x %% with l, ll, z, a width of zeros and a precision; %e %f %g by the host. */
int vsnprintf(char *out, size_t room, const char *format, va_list list) {
    sink s = {out, room, 0};
    for (; *format; format++) {
        int width = 0, precision = -1, longs = 0;
        const char *plain = format;
        while (*format && *format != '%') format++;
        put(&s, plain, (size_t)(format - plain));
        if (!*format) break;
        for (format++; *format >= '0' && *format <= '9'; format++)
            width = width * 10 + (*format - '0');
        if (*format == '.') {
            precision = 0;
            if (*++format == '*') precision = va_arg(list, int), format++;
            for (; *format >= '0' && *format <= '9'; format++)
                precision = precision * 10 + (*format - '0');
        }
        for (; *format == 'l' || *format == 'z'; format++) longs += *format == 'l';
        switch (*format) {
        case 's': {
            const char *text = va_arg(list, const char *);
            size_t size = 0;
            while ((precision < 0 || size < (size_t)precision) && text[size]) size++;
            put(&s, text, size);
            break;
        }
        case 'c': {
            char letter = (char)va_arg(list, int);
            put(&s, &letter, 1);
            break;
        }
        case 'd': {
            int64_t value = longs > 1 ? va_arg(list, int64_t) : va_arg(list, int32_t);
            uint64_t size = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
            put_number(&s, size, value < 0, 10, width);
            break;
        }
        case 'u':
        case 'x': {
            uint64_t value = longs > 1 ? va_arg(list, uint64_t) : va_arg(list, uint32_t);
            put_number(&s, value, 0, *format == 'x' ? 16 : 10, width);
            break;
        }
        case 'e':
        case 'f':
        case 'g': {
            char text[400];
            int size = host_text(*format, precision, va_arg(list, double), text, sizeof text);
            if (size < 0) return -1;
            put(&s, text, (size_t)size);
            break;
        }
        case '%': put(&s, "%", 1); break;
        default: return -1;
        }
    }
    if (room) out[s.made < room ? s.made : room - 1] = 0;
    return (int)s.made;
}

int snprintf(char *out, size_t room, const char *format, ...) {
    va_list list;
    int size;
    va_start(list, format);
    size = vsnprintf(out, room, format, list);
    va_end(list);
    return size;
}
