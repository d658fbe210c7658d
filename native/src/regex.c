/* Python's regular expressions, as far as configs of adapters use them: literals, classes, groups,
 * alternatives, repeats, anchors. No lookaround, no references, no flags.
 *
 * An expression becomes a program; each (instruction, place) is tried once, in Python's order, so
 * that no expression takes more than their product. What they take is counted. */
#include <string.h>

#include "adapter.h"

enum { MOST_CODE = 4096, MOST_TEXT = 1 << 14, DEEPEST = 12, MOST_RANGES = 64 };
enum { CHAR, ANY, CLASS, SPLIT, JUMP, START, END, LINE_END, WORD, NO_WORD, SAVE, DONE };

typedef struct {
    uint8_t op, negated;
    uint32_t x, y; /* a character; ranges from x, y of them; targets, x tried first; a slot */
} Step;

typedef struct {
    hy_env *env;
    hy_slice pattern;
    size_t at, group; /* group: where the first group of the pattern opens */
    Step *code;
    uint32_t count;
    int depth, failed, tired;
    int wanted;  /* what the first group matched */
    int classes; /* \d and the like occur, of which only the ASCII part is known here */
    struct {
        int32_t low, high;
    } ranges[MOST_RANGES];
    uint32_t range_count;
} Program;

static void spend(Program *p, uint64_t steps) {
    p->tired |= steps >= p->env->patience;
    p->failed |= p->tired;
    p->env->patience = p->tired ? 0 : p->env->patience - steps;
}

static uint32_t emit(Program *p, int op, uint32_t x, uint32_t y) {
    if (p->count == MOST_CODE) {
        p->failed = 1;
        return 0;
    }
    p->code[p->count].op = (uint8_t)op;
    p->code[p->count].negated = 0;
    p->code[p->count].x = x;
    p->code[p->count].y = y;
    return p->count++;
}

static char peek(const Program *p) { return p->at < p->pattern.size ? p->pattern.data[p->at] : 0; }

static int32_t next(Program *p) {
    int32_t code = hy_character(p->pattern.data, p->pattern.size, &p->at);
    if (code < 0) p->failed = 1;
    return code;
}

static void add_range(Program *p, int32_t low, int32_t high) {
    if (p->range_count == MOST_RANGES || low > high) {
        p->failed = 1;
        return;
    }
    p->ranges[p->range_count].low = low;
    p->ranges[p->range_count++].high = high;
}

/* The ranges of \d, \w or \s in ASCII; 0 for another letter. */
static int add_class(Program *p, int32_t letter) {
    if (letter == 'd') add_range(p, '0', '9');
    else if (letter == 'w') {
        add_range(p, '0', '9'), add_range(p, 'A', 'Z'), add_range(p, 'a', 'z');
        add_range(p, '_', '_');
    } else if (letter == 's') add_range(p, 9, 13), add_range(p, 28, 32);
    else return 0;
    p->classes = 1;
    return 1;
}

/* A character behind a backslash that stands for one; -1 for what is not known here. */
static int32_t literal_escape(int32_t c) {
    static const char from[] = "nrtfva", to[] = "\n\r\t\f\v\a";
    const char *known = c > 0 && c < 128 ? strchr(from, (int)c) : NULL;
    if (known) return to[known - from];
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return -1;
    return c;
}

static void set(Program *p) {
    uint32_t step, first = p->range_count;
    int negated = 0, any = 0;
    if (peek(p) == '^') negated = 1, p->at++;
    while (!p->failed && (peek(p) != ']' || !any)) {
        int32_t low = next(p), high;
        any = 1;
        if (low == '[') p->failed = 1; /* Python warns of what it may mean one day */
        if (low == '\\') {
            low = next(p);
            if (add_class(p, low)) continue;
            low = literal_escape(low);
            if (low < 0) p->failed = 1;
        }
        high = low;
        if (peek(p) == '-' && p->at + 1 < p->pattern.size && p->pattern.data[p->at + 1] != ']') {
            p->at++;
            high = next(p);
            if (high == '\\') high = literal_escape(next(p));
            if (high < 0) p->failed = 1;
        }
        add_range(p, low, high);
    }
    p->at++;
    step = emit(p, CLASS, first, p->range_count - first);
    p->code[step].negated = (uint8_t)negated;
}

static void alternatives(Program *p);

static void group(Program *p) {
    size_t opened = p->at - 1;
    int named = 0;
    if (peek(p) == '?') {
        p->at++;
        if (peek(p) == ':') p->at++;
        else {
            p->failed = 1;
            return;
        }
    } else {
        named = opened == p->group;
    }
    if (++p->depth > DEEPEST) {
        p->failed = 1;
        return;
    }
    if (named) emit(p, SAVE, 0, 0);
    alternatives(p);
    if (named) emit(p, SAVE, 1, 0);
    p->depth--;
    if (peek(p) != ')') p->failed = 1;
    p->at++;
}

static void escape(Program *p) {
    int32_t c = next(p), upper = c >= 'A' && c <= 'Z' ? c + 32 : c;
    uint32_t first = p->range_count, step;
    p->classes |= upper == 'b';
    if (c == 'b') emit(p, WORD, 0, 0);
    else if (c == 'B') emit(p, NO_WORD, 0, 0);
    else if (c == 'A') emit(p, START, 0, 0);
    else if (c == 'Z') emit(p, END, 0, 0);
    else if (add_class(p, upper)) {
        step = emit(p, CLASS, first, p->range_count - first);
        p->code[step].negated = c != upper;
    } else {
        c = literal_escape(c);
        if (c < 0) p->failed = 1;
        else emit(p, CHAR, (uint32_t)c, 0);
    }
}

static int quantifier(Program *p, uint32_t *least, uint32_t *most);

/* One atom; 0 for one that cannot be repeated. */
static int atom(Program *p) {
    int32_t c = next(p);
    uint32_t least, most;
    switch (c) {
        case '(': group(p); return 1;
        case '[': set(p); return 1;
        case '.': emit(p, ANY, 0, 0); return 1;
        case '^': emit(p, START, 0, 0); return 0;
        case '$': emit(p, LINE_END, 0, 0); return 0;
        case '*':
        case '+':
        case '?': p->failed = 1; return 0;
        case '{': /* itself, unless it is a repeat of nothing */
            p->at--;
            if (quantifier(p, &least, &most)) return p->failed = 1, 0;
            p->at++;
            emit(p, CHAR, '{', 0);
            return 1;
        case '\\':
            escape(p);
            return p->count && p->code[p->count - 1].op <= CLASS;
        default: emit(p, CHAR, (uint32_t)c, 0); return 1;
    }
}

static uint32_t digits(Program *p, uint32_t none) {
    uint32_t value = 0;
    if (peek(p) < '0' || peek(p) > '9') return none;
    while (peek(p) >= '0' && peek(p) <= '9') {
        if (value < 100000) value = value * 10 + (uint32_t)(peek(p) - '0');
        p->at++;
    }
    return value;
}

/* How often the atom before is repeated; 0 if the pattern does not say. */
static int quantifier(Program *p, uint32_t *least, uint32_t *most) {
    size_t before = p->at;
    char c = peek(p);
    *least = c == '+';
    *most = c == '?' ? 1 : MOST_CODE;
    if (c == '*' || c == '+' || c == '?') return p->at++, 1;
    if (c != '{') return 0;
    p->at++;
    c = peek(p);
    *least = digits(p, 0);
    if (peek(p) == ',') {
        p->at++;
        *most = digits(p, MOST_CODE);
    } else {
        *most = *least;
        if (c < '0' || c > '9') *most = 0, p->at = p->pattern.size;
    }
    if (peek(p) == '}') {
        p->at++;
        if (*most < *least) p->failed = 1;
        return 1;
    }
    p->at = before;
    return 0;
}

static void again(Program *p, size_t from) {
    p->at = from;
    atom(p);
    spend(p, p->at - from + 1);
}

static void piece(Program *p) {
    size_t from = p->at, end;
    uint32_t code = p->count, ranges = p->range_count, least = 0, most = 0, i, split = 0;
    int repeatable = atom(p), counted = !p->failed && quantifier(p, &least, &most), lazy;
    spend(p, p->at - from + 1);
    if (p->failed || !counted) return;
    if (!repeatable) {
        p->failed = 1;
        return;
    }
    lazy = peek(p) == '?';
    if (lazy) p->at++;
    if (strchr("*+?", peek(p)) && peek(p)) p->failed = 1;
    end = p->at;
    /* Python keeps what an empty last turn matched. */
    if (p->wanted && p->group >= from && p->group < end) p->failed = 1;
    p->count = code;
    p->range_count = ranges;
    for (i = 0; i < least && !p->failed; i++) again(p, from);
    if (most == MOST_CODE) {
        split = emit(p, SPLIT, 0, 0);
        again(p, from);
        emit(p, JUMP, split, 0);
        p->code[split].x = lazy ? p->count : split + 1;
        p->code[split].y = lazy ? split + 1 : p->count;
    } else {
        uint32_t first = p->count;
        for (; i < most && !p->failed; i++) {
            split = emit(p, SPLIT, 0, 1); /* y marks it until the end is known */
            again(p, from);
        }
        if (i > least && !p->failed) {
            /* The splits of this level were made in turn: each leads on, or behind all of them. */
            uint32_t size = (p->count - first) / (most - least);
            for (i = first; i < p->count; i += size) {
                p->code[i].x = lazy ? p->count : i + 1;
                p->code[i].y = lazy ? i + 1 : p->count;
            }
        }
    }
    p->at = end;
}

static void alternatives(Program *p) {
    uint32_t jumps[64], count = 0, start, i;
    for (;;) {
        start = emit(p, SPLIT, 0, 0); /* to this alternative, or the next one */
        p->code[start].x = start + 1;
        while (!p->failed && p->at < p->pattern.size && peek(p) != '|' && peek(p) != ')') piece(p);
        if (p->failed || peek(p) != '|' || p->at == p->pattern.size) break;
        p->at++;
        if (count == 64) {
            p->failed = 1;
            break;
        }
        jumps[count++] = emit(p, JUMP, 0, 0);
        p->code[start].y = p->count;
    }
    p->code[start].op = JUMP; /* the last one has no next */
    for (i = 0; i < count; i++) p->code[jumps[i]].x = p->count;
}

/* ---- matching ------------------------------------------------------------------------------- */

typedef struct {
    uint32_t step, at; /* or, with step MOST_CODE + slot: what the slot was */
} Job;

static int word_at(hy_slice text, size_t at) {
    unsigned char c;
    if (at >= text.size) return 0;
    c = (unsigned char)text.data[at];
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
}

/* Whether the step takes the character at *at, or holds there; moves behind it. */
static int takes(const Program *p, const Step *step, hy_slice text, size_t *at) {
    int32_t c;
    uint32_t i;
    int boundary;
    switch (step->op) {
        case START: return *at == 0;
        case END: return *at == text.size;
        case LINE_END:
            return *at == text.size || (*at + 1 == text.size && text.data[*at] == '\n');
        case WORD:
        case NO_WORD:
            boundary = word_at(text, *at) != (*at > 0 && word_at(text, *at - 1));
            return boundary == (step->op == WORD);
        default: break;
    }
    if (*at >= text.size) return 0;
    c = hy_character(text.data, text.size, at);
    if (step->op == CHAR) return c == (int32_t)step->x;
    if (step->op == ANY) return c != '\n';
    for (i = 0; i < step->y; i++)
        if (c >= p->ranges[step->x + i].low && c <= p->ranges[step->x + i].high)
            return !step->negated;
    return step->negated;
}

static hy_answer run(const Program *p, hy_slice text, int whole, size_t slots[2], uint8_t *seen,
                     Job *jobs, uint32_t room) {
    uint32_t count = 0, step = 0, at = 0;
    for (;;) {
        uint32_t bit = step * ((uint32_t)text.size + 1) + at;
        const Step *s = p->code + step;
        size_t place = at;
        int fine = !(seen[bit / 8] >> (bit % 8) & 1);
        if (!p->env->patience) return HY_TIRED;
        p->env->patience--;
        seen[bit / 8] = (uint8_t)(seen[bit / 8] | 1u << (bit % 8));
        if (fine && s->op == DONE) {
            if (!whole || at == text.size) return HY_YES;
            fine = 0;
        } else if (fine && s->op == JUMP) {
            step = s->x;
            continue;
        } else if (fine && (s->op == SPLIT || s->op == SAVE)) {
            if (count == room) return HY_UNKNOWN;
            jobs[count].step = s->op == SPLIT ? s->y : MOST_CODE + s->x;
            jobs[count++].at = s->op == SPLIT ? at : (uint32_t)slots[s->x];
            if (s->op == SAVE) slots[s->x] = at;
            step = s->op == SPLIT ? s->x : step + 1;
            continue;
        } else if (fine) {
            fine = takes(p, s, text, &place);
        }
        if (fine) {
            step++, at = (uint32_t)place;
            continue;
        }
        for (;;) {
            if (!count) return HY_NO;
            count--;
            if (jobs[count].step < MOST_CODE) break;
            slots[jobs[count].step - MOST_CODE] = jobs[count].at;
        }
        step = jobs[count].step, at = jobs[count].at;
    }
}

/* Where the first group that is counted opens. */
static size_t first_group(hy_slice p) {
    size_t i;
    int inside = 0;
    for (i = 0; i < p.size; i++) {
        if (p.data[i] == '\\') i++;
        else if (p.data[i] == '[' && !inside) {
            inside = 1;
            if (i + 1 < p.size && p.data[i + 1] == '^') i++;
            if (i + 1 < p.size && p.data[i + 1] == ']') i++;
        } else if (p.data[i] == ']') inside = 0;
        else if (p.data[i] == '(' && !inside && (i + 1 == p.size || p.data[i + 1] != '?')) return i;
    }
    return p.size;
}

hy_answer hy_match(hy_env *env, hy_slice pattern, hy_slice text, int whole, hy_slice *group_text) {
    Program *p = hy_alloc(env, 1, sizeof *p);
    hy_answer answer = HY_UNKNOWN;
    size_t slots[2] = {0, 0}, i;
    if (!p) return HY_UNKNOWN;
    p->env = env;
    spend(p, pattern.size + 1);
    p->pattern = pattern;
    p->group = first_group(pattern);
    p->wanted = group_text != NULL;
    p->code = hy_resize(env, NULL, 0, MOST_CODE * sizeof *p->code);
    if (p->code && pattern.size < 1 << 16 && text.size < MOST_TEXT) {
        alternatives(p);
        emit(p, DONE, 0, 0);
        if (p->at < pattern.size) p->failed = 1; /* a bracket too many */
    } else {
        p->failed = 1;
    }
    for (i = 0; i < text.size && p->classes; i++)
        if ((unsigned char)text.data[i] >= 0x80) p->failed = 1;
    if (!p->failed) spend(p, (uint64_t)p->count * (text.size + 1) / 64);
    if (!p->failed) {
        uint64_t bits = (uint64_t)p->count * (text.size + 1);
        uint32_t room = (uint32_t)(bits < 1 << 20 ? bits + 8 : 1 << 20);
        uint8_t *seen = hy_alloc(env, bits / 8 + 1, 1);
        Job *jobs = seen ? hy_resize(env, NULL, 0, (uint64_t)room * sizeof *jobs) : NULL;
        if (jobs) answer = run(p, text, whole, slots, seen, jobs, room);
        hy_free(env, jobs, room, sizeof *jobs);
        hy_free(env, seen, bits / 8 + 1, 1);
    }
    if (p->tired) answer = HY_TIRED;
    if (group_text) {
        group_text->data = text.data + slots[0];
        group_text->size = slots[1] - slots[0];
    }
    hy_free(env, p->code, MOST_CODE, sizeof *p->code);
    hy_free(env, p, 1, sizeof *p);
    return answer;
}
