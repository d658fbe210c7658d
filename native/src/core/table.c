/* Pieces of a manifest: tables as columns, ranges, errors as base64, shapes. */
#include <string.h>

#include "bundle.h"

enum { MOST_TEXT = 4096, MOST_AXES = 64 };
enum { MISSING, CONSTANT, LISTED };

const char *const HY_MODULE_KINDS[] = {"linear", "embedding", "conv", NULL};
const char *const HY_LAYOUTS[] = {"plain", "transposed", "rows", "experts", "factor", NULL};
const char *const HY_FORMATS[] = {"peft", "kohya", "diffusers", "loralib", "mlx", NULL};
const char *const HY_EXTRA_KINDS[] = {"dora_magnitude", "lora_bias", "bias",       "token_rows",
                                      "saved",          "tuner",     "tuner_ones", "exact",
                                      NULL};
const char *const HY_DTYPES[] = {"U64", "I64", "F64", "F32", "U32",     "I32",     "BF16", "F16",
                                 "U16", "I16", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL", NULL};
const uint8_t HY_DTYPE_BYTES[] = {8, 8, 8, 4, 4, 4, 2, 2, 2, 2, 1, 1, 1, 1, 1};

int hy_one_of(hy_slice text, const char *const names[]) {
    int i;
    for (i = 0; names[i]; i++)
        if (hy_is(text, names[i])) return i;
    return -1;
}

int hy_is_optional(hy_slice name) { return name.size && name.data[0] == '_'; }

hydra_status hy_table_open(hy_env *env, const hy_json *json, uint32_t table, hy_column *columns,
                           uint32_t most, const char *what, uint32_t *rows) {
    uint32_t i, lead;
    int j;
    HY_CHECK(env, table && hy_kind(json, table) == HY_OBJECT, "manifest: %s are not a table", what);
    lead = hy_get(json, table, columns[0].name);
    HY_CHECK(env, lead && hy_kind(json, lead) == HY_LIST, "manifest: %s lack the column '%s'", what,
             columns[0].name);
    *rows = json->nodes[lead].size;
    HY_CHECK(env, *rows <= most, "manifest: too many %s; got %u, expected at most %u", what,
             (unsigned)*rows, (unsigned)most);
    for (j = 0; columns[j].name; j++) columns[j].at = 0, columns[j].kind = MISSING;
    for (i = hy_first(table); i < hy_end(json, table); i = hy_next(json, i)) {
        hy_slice name = hy_string(json, i);
        uint32_t cells = i + 1;
        if (hy_is_optional(name)) continue;
        for (j = 0; columns[j].name && !hy_is(name, columns[j].name);) j++;
        HY_CHECK(env, columns[j].name, "manifest: %s have an unknown column '%.80s'", what,
                 name.data);
        if (hy_kind(json, cells) == HY_OBJECT) {
            uint32_t value = hy_get(json, cells, "=");
            HY_CHECK(env, value && json->nodes[cells].size == 1,
                     "manifest: column '%s' of %s is no {\"=\": value}", columns[j].name, what);
            columns[j].kind = CONSTANT;
            columns[j].at = value;
            continue;
        }
        HY_CHECK(env, hy_kind(json, cells) == HY_LIST && json->nodes[cells].size == *rows,
                 "manifest: column '%s' of %s does not fit; expected %u values", columns[j].name,
                 what, (unsigned)*rows);
        columns[j].kind = LISTED;
        columns[j].at = hy_first(cells);
    }
    return HYDRA_OK;
}

void hy_table_next(const hy_json *json, hy_column *columns) {
    for (; columns->name; columns++)
        if (columns->kind == LISTED) columns->at = json->nodes[columns->at].next;
}

int hy_is_text(const hy_json *json, uint32_t node, int empty) {
    hy_slice text;
    if (hy_kind(json, node) != HY_STRING) return 0;
    text = hy_string(json, node);
    if (hy_length(text) > MOST_TEXT) return 0;
    return empty || (text.size && hy_is_visible(text));
}

hydra_status hy_ranges_read(hydra_bundle *b, const hy_json *json, uint32_t node, uint32_t count,
                            const char *what, hy_ranges *ranges) {
    uint32_t size, at, i, *bounds;
    uint64_t before = 0, bound;
    memset(ranges, 0, sizeof *ranges);
    if (!node || (hy_kind(json, node) == HY_STRING && hy_is(hy_string(json, node), "all"))) {
        bounds = hy_arena_alloc(&b->env, &b->arena, 2, sizeof *bounds);
        if (!bounds) return b->env.error->status;
        bounds[1] = count;
        ranges->bounds = bounds;
        ranges->pairs = count ? 1 : 0;
        ranges->count = count;
        return HYDRA_OK;
    }
    size = json->nodes[node].size;
    HY_CHECK(&b->env, hy_kind(json, node) == HY_LIST && size % 2 == 0,
             "manifest: %s are neither \"all\" nor pairs", what);
    bounds = hy_arena_alloc(&b->env, &b->arena, (uint64_t)size + 1, sizeof *bounds);
    if (!bounds) return b->env.error->status;
    for (at = hy_first(node), i = 0; i < size; at = json->nodes[at].next, i++) {
        HY_CHECK(&b->env,
                 hy_natural(json, at, 0, count, &bound) && (i == 0 || bound > before),
                 "manifest: ranges of %s do not rise from 0 to %u", what, (unsigned)count);
        before = bound;
        bounds[i] = (uint32_t)bound;
        if (i & 1) ranges->count += bounds[i] - bounds[i - 1];
    }
    ranges->bounds = bounds;
    ranges->pairs = size / 2;
    return HYDRA_OK;
}

uint32_t hy_nth(const hy_ranges *ranges, uint32_t i) {
    uint32_t pair;
    for (pair = 0; pair < ranges->pairs; pair++) {
        uint32_t start = ranges->bounds[2 * pair], size = ranges->bounds[2 * pair + 1] - start;
        if (i < size) return start + i;
        i -= size;
    }
    return HY_NONE;
}

int hy_has_index(const hy_ranges *ranges, uint32_t index) {
    uint32_t low = 0, high = ranges->pairs;
    while (low < high) {
        uint32_t pair = low + (high - low) / 2;
        if (index < ranges->bounds[2 * pair]) high = pair;
        else if (index >= ranges->bounds[2 * pair + 1]) low = pair + 1;
        else return 1;
    }
    return 0;
}

int hy_ranges_same(const hy_ranges *a, const hy_ranges *b) {
    return a->count == b->count && a->pairs == b->pairs &&
           (!a->pairs || !memcmp(a->bounds, b->bounds, 2 * a->pairs * sizeof *a->bounds));
}

int32_t hy_base64(hy_slice text, uint8_t *out) {
    uint32_t held = 0;
    size_t i, digits = text.size, padding;
    int32_t made = 0;
    while (digits && text.data[digits - 1] == '=') digits--;
    padding = text.size - digits;
    if (digits % 4 == 1 || padding > (4 - digits % 4) % 4) return -1;
    for (i = 0; i < digits; i++) {
        char c = text.data[i];
        int value = c >= 'A' && c <= 'Z'   ? c - 'A'
                    : c >= 'a' && c <= 'z' ? c - 'a' + 26
                    : c >= '0' && c <= '9' ? c - '0' + 52
                    : c == '+'             ? 62
                    : c == '/'             ? 63
                                           : -1;
        if (value < 0) return -1;
        held = held << 6 | (uint32_t)value;
        if (i % 4) out[made++] = (uint8_t)(held >> (6 - 2 * (i % 4)));
    }
    return made;
}

hydra_status hy_codes_read(hydra_bundle *b, const hy_json *json, uint32_t node, uint32_t count,
                           const char *what, const uint8_t **codes) {
    hy_slice text = hy_slice_of("");
    uint8_t *made;
    HY_CHECK(&b->env, !node || hy_kind(json, node) == HY_STRING, "manifest: %s are no text", what);
    if (node) text = hy_string(json, node);
    /* Before anything is allocated: the length follows from the count. */
    HY_CHECK(&b->env,
             text.size <= (uint64_t)count * 4 / 3 + 4 && text.size >= (uint64_t)count * 4 / 3,
             "manifest: %s are not base64 of %u codes", what, (unsigned)count);
    made = hy_arena_alloc(&b->env, &b->arena, (uint64_t)text.size + 4, 1);
    if (!made) return b->env.error->status;
    HY_CHECK(&b->env, hy_base64(text, made) == (int32_t)count,
             "manifest: %s are not base64 of %u codes", what, (unsigned)count);
    *codes = made;
    return HYDRA_OK;
}

hydra_status hy_shape_read(hydra_bundle *b, const hy_json *json, uint32_t node, uint64_t low,
                           uint64_t high, uint64_t most, const char *what, const uint64_t **shape,
                           uint32_t *axes, uint64_t *product) {
    uint32_t size = node ? json->nodes[node].size : 0, at, i;
    uint64_t *sizes, whole = 1;
    int zero = 0, over = 0;
    HY_CHECK(&b->env, !node || (hy_kind(json, node) == HY_LIST && size <= MOST_AXES),
             "manifest: the shape of %s is no list of at most %d sizes", what, MOST_AXES);
    sizes = hy_arena_alloc(&b->env, &b->arena, (uint64_t)size + 1, sizeof *sizes);
    if (!sizes) return b->env.error->status;
    for (at = node ? hy_first(node) : 0, i = 0; i < size; at = json->nodes[at].next, i++) {
        HY_CHECK(&b->env, hy_natural(json, at, low, high, sizes + i),
                 "manifest: a size in the shape of %s is not one of %llu to %llu", what,
                 (unsigned long long)low, (unsigned long long)high);
        zero |= sizes[i] == 0;
        if (sizes[i] && whole > most / sizes[i]) over = 1;
        else whole *= sizes[i];
    }
    HY_CHECK(&b->env, zero || !over, "manifest: %s is too large; expected at most %llu", what,
             (unsigned long long)most);
    *shape = sizes;
    *axes = size;
    *product = zero ? 0 : whole;
    return HYDRA_OK;
}

/* YYYY-MM-DD, a date of the Gregorian calendar. */
static int is_day(hy_slice text) {
    static const char days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int part[3] = {0, 0, 0}, i, k = 0, leap;
    if (text.size != 10) return 0;
    for (i = 0; i < 10; i++) {
        if (i == 4 || i == 7) {
            if (text.data[i] != '-') return 0;
            k++;
        } else {
            if (text.data[i] < '0' || text.data[i] > '9') return 0;
            part[k] = 10 * part[k] + (text.data[i] - '0');
        }
    }
    leap = part[0] % 4 == 0 && (part[0] % 100 != 0 || part[0] % 400 == 0);
    if (part[0] < 1 || part[1] < 1 || part[1] > 12 || part[2] < 1) return 0;
    return part[2] <= days[part[1] - 1] + (part[1] == 2 && leap);
}

int hy_is_digest(const hy_json *json, uint32_t node) {
    hy_slice text;
    uint32_t i;
    if (hy_kind(json, node) != HY_STRING) return 0;
    text = hy_string(json, node);
    if (text.size != 16) return 0;
    for (i = 0; i < 16; i++)
        if (!memchr("0123456789abcdef", text.data[i], 16)) return 0;
    return 1;
}

int hy_is_added(const hy_json *json, uint32_t node) {
    uint32_t second;
    if (!node || hy_kind(json, node) == HY_NULL) return 1;
    if (hy_kind(json, node) != HY_LIST || json->nodes[node].size != 2) return 0;
    second = json->nodes[node + 1].next;
    if (hy_kind(json, node + 1) != HY_STRING) return 0;
    return hy_is_digest(json, second) && is_day(hy_string(json, node + 1));
}
