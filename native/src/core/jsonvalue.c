/* Values of a parsed JSON text, and texts of values. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

hy_slice hy_slice_of(const char *word) {
    hy_slice slice;
    slice.data = word;
    slice.size = strlen(word);
    return slice;
}

int hy_same(hy_slice a, hy_slice b) {
    return a.size == b.size && (!a.size || memcmp(a.data, b.data, a.size) == 0);
}

int hy_is(hy_slice a, const char *word) { return hy_same(a, hy_slice_of(word)); }

int hy_compare(const void *one, const void *other) {
    const hy_slice *a = one, *b = other;
    size_t least = a->size < b->size ? a->size : b->size;
    int order = least ? memcmp(a->data, b->data, least) : 0;
    return order ? order : (a->size > b->size) - (a->size < b->size);
}

int hy_ends_with(hy_slice text, const char *end) {
    size_t size = strlen(end);
    return text.size >= size && memcmp(text.data + text.size - size, end, size) == 0;
}

size_t hy_last(hy_slice text, char byte) {
    size_t i = text.size;
    while (i-- > 0)
        if (text.data[i] == byte) return i;
    return text.size;
}

hy_type hy_kind(const hy_json *json, uint32_t node) { return (hy_type)json->nodes[node].type; }

hy_slice hy_string(const hy_json *json, uint32_t node) {
    hy_slice slice;
    slice.data = json->text + json->nodes[node].start;
    slice.size = json->nodes[node].size;
    return slice;
}

uint32_t hy_first(uint32_t node) { return node + 1; }
uint32_t hy_end(const hy_json *json, uint32_t node) { return json->nodes[node].next; }
uint32_t hy_next(const hy_json *json, uint32_t node) {
    /* A key leads to the node behind its value; its own `next` is the value. */
    return json->nodes[json->nodes[node].next].next;
}

uint32_t hy_get(const hy_json *json, uint32_t object, const char *key) {
    uint32_t i;
    if (hy_kind(json, object) != HY_OBJECT) return 0;
    for (i = hy_first(object); i < hy_end(json, object); i = hy_next(json, i))
        if (hy_is(hy_string(json, i), key)) return i + 1;
    return 0;
}

int hy_natural(const hy_json *json, uint32_t node, uint64_t low, uint64_t high, uint64_t *value) {
    const hy_node *n = json->nodes + node;
    const char *text = json->text + n->start;
    uint64_t sum = 0;
    uint32_t i;
    if (n->type != HY_INT) return 0;
    for (i = 0; i < n->size; i++) {
        if (text[i] == '-') continue; /* only -0 is a natural number */
        if (sum > ((uint64_t)-1 - 9) / 10) return 0;
        sum = sum * 10 + (uint64_t)(text[i] - '0');
    }
    if ((text[0] == '-' && sum) || sum < low || sum > high) return 0;
    *value = sum;
    return 1;
}

/* Digits beyond so many do not move a double, unless they are a tie's: one more stands for them. */
enum { SIGNIFICANT = 800 };

double hy_to_double(const char *text, size_t size) {
    char plain[SIGNIFICANT + 40];
    size_t i = 0, made = 0, digits = 0;
    long exponent = 0, stated = 0;
    int point = 0, sticky = 0, sign = 1;
    if (i < size && text[i] == '-') plain[made++] = text[i++];
    for (; i < size && text[i] != 'e' && text[i] != 'E'; i++) {
        if (text[i] == '.') {
            point = 1;
            continue;
        }
        if (digits || text[i] != '0') {
            if (digits < SIGNIFICANT) {
                plain[made++] = text[i];
                digits++;
            } else {
                sticky |= text[i] != '0';
                if (exponent < 100000000) exponent++;
            }
        }
        if (point && exponent > -100000000) exponent--;
    }
    if (!digits) plain[made++] = '0';
    if (sticky) {
        plain[made++] = '1';
        exponent--;
    }
    if (i < size) {
        i++;
        if (text[i] == '+' || text[i] == '-') sign = text[i++] == '-' ? -1 : 1;
        for (; i < size; i++)
            if (stated < 100000000) stated = stated * 10 + (text[i] - '0');
    }
    snprintf(plain + made, sizeof plain - made, "e%ld", exponent + sign * stated);
    return strtod(plain, NULL);
}

int hy_number(const hy_json *json, uint32_t node, double *number) {
    const hy_node *n = json->nodes + node;
    if (n->type == HY_TRUE || n->type == HY_FALSE) {
        *number = n->type == HY_TRUE;
        return 1;
    }
    if (n->type != HY_INT && n->type != HY_FLOAT) return 0;
    *number = hy_to_double(json->text + n->start, n->size);
    return 1;
}

int hy_truth(const hy_json *json, uint32_t node) {
    double number;
    switch (hy_kind(json, node)) {
        case HY_NULL: return 0;
        case HY_STRING:
        case HY_LIST:
        case HY_OBJECT: return json->nodes[node].size != 0;
        default: return hy_number(json, node, &number) && number != 0;
    }
}

hydra_status hy_set_open(hy_set *set, const hy_json *json, uint32_t node) {
    uint32_t i, k = 0;
    set->count = json->nodes[node].size;
    set->texts = hy_alloc(json->env, set->count, sizeof *set->texts);
    if (!set->texts) return json->env->error->status;
    for (i = hy_first(node); k < set->count; k++) {
        set->texts[k] = hy_string(json, i);
        i = hy_kind(json, node) == HY_OBJECT ? hy_next(json, i) : json->nodes[i].next;
    }
    if (k) qsort(set->texts, k, sizeof *set->texts, hy_compare);
    return HYDRA_OK;
}

int hy_set_has(const hy_set *set, hy_slice text) {
    return set->count && bsearch(&text, set->texts, set->count, sizeof text, hy_compare) != NULL;
}

void hy_set_close(hy_set *set, hy_env *env) {
    if (set->texts) hy_free(env, set->texts, set->count, sizeof *set->texts);
    set->texts = NULL;
}

int hy_unique(hy_slice *texts, size_t count) {
    size_t i;
    if (count) qsort(texts, count, sizeof *texts, hy_compare);
    for (i = 1; i < count; i++)
        if (hy_same(texts[i - 1], texts[i])) return 0;
    return 1;
}

/* ---- texts of values ------------------------------------------------------------------------ */

/* `count` digits of a positive number, rounded, whatever the locale takes for a point; it is
 * 0.DIGITS times 10 to the returned power. */
static int digits_of(double number, int count, char *digits) {
    char text[48];
    int i, made = 0;
    snprintf(text, sizeof text, "%.*e", count - 1, number);
    for (i = 0; text[i] && text[i] != 'e'; i++)
        if (text[i] >= '0' && text[i] <= '9') digits[made++] = text[i];
    return (int)strtol(text + i + 1, NULL, 10) + 1;
}

static double of_digits(const char *digits, int count, int power) {
    char text[48];
    int size = snprintf(text, sizeof text, "%.*se%d", count, digits, power - count);
    return hy_to_double(text, (size_t)size);
}

double hy_rounded(double value, int digits) {
    char held[32];
    int power;
    if (value == 0) return 0;
    power = digits_of(value, digits, held);
    return of_digits(held, digits, power);
}

/* Add one to the last of `count` digits; 1 if the power rises. */
static int count_up(char *digits, int count) {
    while (count-- > 0) {
        if (digits[count]++ != '9') return 0;
        digits[count] = '0';
    }
    digits[0] = '1';
    return 1;
}

void hy_dump_double(hy_text *out, double number) {
    char text[16], digits[32];
    int count = 0, power = 0, i;
    if (number < 0 || (number == 0 && 1 / number < 0)) {
        hy_puts(out, "-");
        number = -number;
    }
    if (number == 0) {
        hy_puts(out, "0.0");
        return;
    }
    for (;;) {
        power = digits_of(number, ++count, digits);
        if (count == 17 || of_digits(digits, count, power) == number) break;
        /* Doubles lie closer below a power of two: the nearest digits below may be another one
         * where those above, though farther away, are this one. */
        power += count_up(digits, count);
        if (of_digits(digits, count, power) == number) break;
    }
    while (count > 1 && digits[count - 1] == '0') count--;
    if (power > 16 || power < -3) {
        hy_put(out, digits, 1);
        if (count > 1) hy_puts(out, "."), hy_put(out, digits + 1, (size_t)count - 1);
        snprintf(text, sizeof text, "e%c%02d", power > 0 ? '+' : '-', abs(power - 1));
        hy_puts(out, text);
        return;
    }
    if (power <= 0) {
        hy_puts(out, "0.");
        for (i = power; i < 0; i++) hy_puts(out, "0");
        hy_put(out, digits, (size_t)count);
        return;
    }
    for (i = 0; i < power; i++) hy_put(out, i < count ? digits + i : "0", 1);
    hy_puts(out, ".");
    if (count > power) hy_put(out, digits + power, (size_t)(count - power));
    else hy_puts(out, "0");
}

void hy_dump_string(hy_text *out, hy_slice text, int ascii) {
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    char escaped[16];
    size_t i = 0, start;
    hy_puts(out, "\"");
    while (i < text.size) {
        unsigned char c = (unsigned char)text.data[i];
        const char *known = c ? strchr(from, c) : NULL;
        int32_t code;
        start = i;
        if (known) {
            escaped[0] = '\\', escaped[1] = to[known - from];
            hy_put(out, escaped, 2);
            i++;
            continue;
        }
        if (c >= 0x20 && (c < 0x7F || !ascii)) {
            hy_put(out, text.data + i++, 1);
            continue;
        }
        code = hy_character(text.data, text.size, &i);
        if (code >= 0x10000) {
            code -= 0x10000;
            snprintf(escaped, sizeof escaped, "\\u%04x\\u%04x", (unsigned)(0xD800 + (code >> 10)),
                     (unsigned)(0xDC00 + (code & 1023)));
        } else {
            snprintf(escaped, sizeof escaped, "\\u%04x", (unsigned)code & 0xFFFF);
        }
        if (i == start) i++;
        hy_puts(out, escaped);
    }
    hy_puts(out, "\"");
}

static void new_line(hy_text *out, int level) {
    hy_puts(out, "\n");
    while (level-- > 0) hy_puts(out, "  ");
}

static void dump_node(hy_text *out, const hy_json *json, uint32_t node, hy_style style, int level);

typedef struct {
    hy_slice key; /* first, so that hy_compare sorts */
    uint32_t node;
} Member;

static void dump_object(hy_text *out, const hy_json *json, uint32_t node, hy_style style,
                        int level) {
    uint32_t count = json->nodes[node].size, i, k = 0;
    Member *members = hy_alloc(out->env, count, sizeof *members);
    if (!members) {
        out->failed = 1;
        return;
    }
    for (i = hy_first(node); i < hy_end(json, node); i = hy_next(json, i), k++) {
        members[k].key = hy_string(json, i);
        members[k].node = i + 1;
    }
    qsort(members, count, sizeof *members, hy_compare);
    hy_puts(out, "{");
    for (k = 0; k < count; k++) {
        if (k) hy_puts(out, ",");
        if (style == HY_PRETTY) new_line(out, level + 1);
        hy_dump_string(out, members[k].key, style == HY_PRETTY);
        hy_puts(out, style == HY_PRETTY ? ": " : ":");
        dump_node(out, json, members[k].node, style, level + 1);
    }
    if (style == HY_PRETTY && count) new_line(out, level);
    hy_puts(out, "}");
    hy_free(out->env, members, count, sizeof *members);
}

static void dump_node(hy_text *out, const hy_json *json, uint32_t node, hy_style style, int level) {
    const hy_node *n = json->nodes + node;
    const char *text = json->text + n->start;
    uint32_t i;
    switch ((hy_type)n->type) {
        case HY_NULL: hy_puts(out, "null"); return;
        case HY_TRUE: hy_puts(out, "true"); return;
        case HY_FALSE: hy_puts(out, "false"); return;
        case HY_INT:
            if (n->size == 2 && text[0] == '-' && text[1] == '0') hy_puts(out, "0");
            else hy_put(out, text, n->size);
            return;
        case HY_FLOAT: hy_dump_double(out, hy_to_double(text, n->size)); return;
        case HY_STRING: hy_dump_string(out, hy_string(json, node), style == HY_PRETTY); return;
        case HY_OBJECT: dump_object(out, json, node, style, level); return;
        case HY_LIST:
            hy_puts(out, "[");
            for (i = hy_first(node); i < hy_end(json, node); i = json->nodes[i].next) {
                if (i > hy_first(node)) hy_puts(out, ",");
                if (style == HY_PRETTY) new_line(out, level + 1);
                dump_node(out, json, i, style, level + 1);
            }
            if (style == HY_PRETTY && n->size) new_line(out, level);
            hy_puts(out, "]");
            return;
    }
}

void hy_dump(hy_text *out, const hy_json *json, uint32_t node, hy_style style) {
    dump_node(out, json, node, style, 0);
}

/* ---- characters ----------------------------------------------------------------------------- */

int32_t hy_character(const char *text, size_t size, size_t *at) {
    const unsigned char *p = (const unsigned char *)text + *at;
    size_t left = size - *at, more, i;
    int32_t code;
    if (!left) return -1;
    if (p[0] < 0x80) return *at += 1, p[0];
    more = p[0] >= 0xF0 ? 3 : p[0] >= 0xE0 ? 2 : 1;
    if (p[0] < 0xC2 || p[0] > 0xF4 || left <= more) return -1;
    code = p[0] & (0x3F >> more);
    for (i = 1; i <= more; i++) {
        if ((p[i] & 0xC0) != 0x80) return -1;
        code = code << 6 | (p[i] & 0x3F);
    }
    if ((more == 2 && code < 0x800) || (more == 3 && (code < 0x10000 || code > 0x10FFFF)))
        return -1;
    if (code >= 0xD800 && code < 0xE000) return -1;
    *at += more + 1;
    return code;
}

size_t hy_length(hy_slice text) {
    size_t i, count = 0;
    for (i = 0; i < text.size; i++) count += ((unsigned char)text.data[i] & 0xC0) != 0x80;
    return count;
}

int hy_is_visible(hy_slice text) {
    static const int32_t hidden[][2] = {
        {0, 0x1F},         {0x7F, 0xA0},     {0xAD, 0xAD},     {0x61C, 0x61C},   {0x1680, 0x1680},
        {0x180E, 0x180E},  {0x2000, 0x200F}, {0x2028, 0x202F}, {0x205F, 0x206F}, {0x3000, 0x3000},
        {0xD800, 0xDFFF},  {0xFEFF, 0xFEFF}, {0xFFF0, 0xFFFB}, {0xE0000, 0xE0FFF}};
    size_t at = 0, i;
    while (at < text.size) {
        int32_t code = hy_character(text.data, text.size, &at);
        for (i = 0; i < sizeof hidden / sizeof *hidden; i++)
            if (code >= hidden[i][0] && code <= hidden[i][1]) return 0;
    }
    return 1;
}
