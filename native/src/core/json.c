#include "json.h"

#include <stdlib.h>
#include <string.h>

enum { DEEPEST = 64, MOST_DIGITS = 4300, FEW = 16 };

typedef struct {
    hy_json *json;
    size_t at;
    const char *problem;
} Parser;

static uint32_t new_node(Parser *p, hy_type type, size_t start, size_t size) {
    hy_json *json = p->json;
    hy_node *node;
    if (json->count == json->room) {
        uint64_t room = (uint64_t)json->room + json->room / 2 + 64;
        node = hy_resize(json->env, json->nodes, json->room * sizeof *node, room * sizeof *node);
        if (!node) {
            p->problem = "";
            return 0;
        }
        json->nodes = node;
        json->room = (uint32_t)room;
    }
    node = json->nodes + json->count;
    node->type = (uint32_t)type;
    node->start = (uint32_t)start;
    node->size = (uint32_t)size;
    node->next = json->count + 1;
    return json->count++;
}

static int fail(Parser *p, const char *problem) {
    if (!p->problem) p->problem = problem;
    return 0;
}

static void skip_space(Parser *p) {
    const char *text = p->json->text;
    while (text[p->at] == ' ' || text[p->at] == '\t' || text[p->at] == '\n' || text[p->at] == '\r')
        p->at++;
}

/* Four hex digits at `at`, or -1. */
static int32_t hex4(const char *text) {
    int32_t value = 0;
    int i;
    for (i = 0; i < 4; i++) {
        char c = text[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

static size_t put_character(char *out, int32_t code) {
    if (code < 0x80) return out[0] = (char)code, 1;
    if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6), out[1] = (char)(0x80 | (code & 63));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | code >> 12), out[1] = (char)(0x80 | (code >> 6 & 63));
        out[2] = (char)(0x80 | (code & 63));
        return 3;
    }
    out[0] = (char)(0xF0 | code >> 18), out[1] = (char)(0x80 | (code >> 12 & 63));
    out[2] = (char)(0x80 | (code >> 6 & 63)), out[3] = (char)(0x80 | (code & 63));
    return 4;
}

/* The escape at p->at, behind the backslash, to out; bytes written, or 0. */
static size_t escape(Parser *p, char *out) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *text = p->json->text, *known;
    char c = text[p->at++];
    int32_t code, low;
    if (c != 'u') {
        known = c ? strchr(from, c) : NULL;
        if (!known) return fail(p, "an unknown escape"), (size_t)0;
        out[0] = to[known - from];
        return 1;
    }
    code = hex4(text + p->at);
    if (code < 0) return fail(p, "an unknown escape"), (size_t)0;
    p->at += 4;
    if (code >= 0xD800 && code < 0xDC00 && text[p->at] == '\\' && text[p->at + 1] == 'u') {
        low = hex4(text + p->at + 2);
        if (low >= 0xDC00 && low < 0xE000) {
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
            p->at += 6;
        }
    }
    if (code >= 0xD800 && code < 0xE000) return fail(p, "a lone surrogate"), (size_t)0;
    return put_character(out, code);
}

/* A string, decoded where it stands: it only gets shorter. */
static int string(Parser *p) {
    char *text = p->json->text, *out;
    size_t start = ++p->at;
    out = text + start;
    for (;;) {
        unsigned char c = (unsigned char)text[p->at];
        if (c == '"') break;
        if (c < 0x20)
            return fail(p, p->at >= p->json->size ? "a text without end" : "a control character");
        if (c == '\\') {
            size_t made;
            p->at++;
            made = escape(p, out);
            if (!made) return 0;
            out += made;
        } else {
            *out++ = text[p->at++];
        }
    }
    p->at++;
    *out = 0;
    new_node(p, HY_STRING, start, (size_t)(out - (text + start)));
    return !p->problem;
}

static int is_digit(char c) { return c >= '0' && c <= '9'; }

static int parse_number(Parser *p) {
    const char *text = p->json->text;
    size_t start = p->at, digits;
    hy_type type = HY_INT;
    if (text[p->at] == '-') p->at++;
    digits = p->at;
    if (text[p->at] == '0') p->at++;
    else while (is_digit(text[p->at])) p->at++;
    if (p->at == digits) return fail(p, "a character that begins no value");
    if (text[p->at] == '.' && is_digit(text[p->at + 1])) {
        type = HY_FLOAT;
        for (p->at++; is_digit(text[p->at]);) p->at++;
    }
    if (text[p->at] == 'e' || text[p->at] == 'E') {
        size_t at = p->at + 1;
        if (text[at] == '+' || text[at] == '-') at++;
        if (is_digit(text[at])) {
            type = HY_FLOAT;
            while (is_digit(text[at])) at++;
            p->at = at;
        }
    }
    if (type == HY_INT && p->at - digits > MOST_DIGITS)
        return fail(p, "a number of too many digits");
    if (type == HY_FLOAT) {
        double value = hy_to_double(text + start, p->at - start);
        if (value - value != 0) return fail(p, "a number that is too large");
    }
    new_node(p, type, start, p->at - start);
    return !p->problem;
}

static int word(Parser *p, const char *name, hy_type type) {
    size_t size = strlen(name);
    if (strncmp(p->json->text + p->at, name, size) != 0)
        return fail(p, "a character that begins no value");
    new_node(p, type, p->at, size);
    p->at += size;
    return !p->problem;
}

/* Whether no key of an object occurs twice. */
static int keys_apart(Parser *p, uint32_t object) {
    hy_json *json = p->json;
    uint32_t count = json->nodes[object].size, i, j, k;
    hy_slice *keys, few[FEW];
    int apart = 1;
    if (count < 2) return 1;
    keys = count <= FEW ? few : hy_alloc(json->env, count, sizeof *keys);
    if (!keys) return fail(p, "");
    for (i = object + 1, k = 0; k < count; i = hy_next(json, i), k++) keys[k] = hy_string(json, i);
    if (count <= FEW) {
        for (i = 1; i < count; i++)
            for (j = 0; j < i; j++) apart &= !hy_same(keys[i], keys[j]);
    } else {
        qsort(keys, count, sizeof *keys, hy_compare);
        for (i = 1; i < count; i++) apart &= !hy_same(keys[i - 1], keys[i]);
        hy_free(json->env, keys, count, sizeof *keys);
    }
    return apart ? 1 : fail(p, "a key that occurs twice");
}

static int parse_value(Parser *p, int levels);

static int container(Parser *p, int levels, char close) {
    const char *text = p->json->text;
    hy_type type = close == '}' ? HY_OBJECT : HY_LIST;
    uint32_t node = new_node(p, type, p->at, 0), count = 0;
    if (p->problem) return 0;
    if (!levels) return fail(p, "values nested too deeply");
    p->at++;
    skip_space(p);
    if (text[p->at] == close) {
        p->at++;
        return 1;
    }
    for (;;) {
        if (type == HY_OBJECT) {
            skip_space(p);
            if (text[p->at] != '"') return fail(p, "a key that is no text");
            if (!string(p)) return 0;
            skip_space(p);
            if (text[p->at++] != ':') return fail(p, "a key without a value");
        }
        if (!parse_value(p, levels - 1)) return 0;
        count++;
        skip_space(p);
        if (text[p->at] == close) break;
        if (text[p->at++] != ',') return fail(p, "a list or object without end");
    }
    p->at++;
    p->json->nodes[node].size = count;
    p->json->nodes[node].next = p->json->count;
    return type == HY_LIST || keys_apart(p, node);
}

static int parse_value(Parser *p, int levels) {
    skip_space(p);
    switch (p->json->text[p->at]) {
        case '{': return container(p, levels, '}');
        case '[': return container(p, levels, ']');
        case '"': return string(p);
        case 't': return word(p, "true", HY_TRUE);
        case 'f': return word(p, "false", HY_FALSE);
        case 'n': return word(p, "null", HY_NULL);
        default: return parse_number(p);
    }
}

hydra_status hy_json_open(hy_json *json, hy_env *env, char *text, size_t size, size_t text_room,
                          const char *what) {
    Parser p;
    size_t at = 0;
    memset(json, 0, sizeof *json);
    json->env = env;
    json->text = text;
    json->size = size;
    json->text_room = text_room;
    text[size] = 0;
    p.json = json;
    p.at = 0;
    p.problem = NULL;
    if (size >= 0xFFFFFFF0u) return hy_fail(env, HYDRA_LIMIT, "%s has 4 GiB or more", what);
    while (at < size)
        if (hy_character(text, size, &at) < 0)
            return hy_fail(env, HYDRA_DAMAGED,
                           "%s is not valid JSON; got bytes at %llu that are no UTF-8", what,
                           (unsigned long long)at);
    if (parse_value(&p, DEEPEST)) {
        skip_space(&p);
        if (p.at == size) return HYDRA_OK;
        fail(&p, "something behind the value");
    }
    if (!*p.problem) return env->error->status;
    return hy_fail(env, HYDRA_DAMAGED, "%s is not valid JSON; got %s at byte %llu", what, p.problem,
                   (unsigned long long)p.at);
}

hydra_status hy_json_copy(hy_json *json, hy_env *env, const char *text, size_t size,
                          const char *what) {
    char *copy;
    memset(json, 0, sizeof *json);
    copy = hy_alloc(env, (uint64_t)size + 1, 1);
    if (!copy) return env->error->status;
    memcpy(copy, text, size);
    return hy_json_open(json, env, copy, size, size + 1, what);
}

void hy_json_close(hy_json *json) {
    if (json->text) hy_free(json->env, json->text, json->text_room, 1);
    if (json->nodes) hy_free(json->env, json->nodes, json->room, sizeof *json->nodes);
    memset(json, 0, sizeof *json);
}
