/* What adapter_config.json has to say so that PEFT gives each module its rank and its scale. */
#include <math.h>
#include <string.h>

#include "adapter.h"

enum { MOST_COMPARED = 1000, MOST_PATTERN = 1 << 16 };

/* Characters that an expression does not take as they are. */
#define SPECIAL "()[]{}?*+|^$\\\n"

static const char *const VARIANTS[][2] = {{"kasa_config", "LORA, KaSA"},
                                          {"use_bdlora", "LORA, BD-LoRA"},
                                          {"use_qalora", "LORA, QALoRA"},
                                          {"monteclora_config", "LORA, MonteCLoRA"},
                                          {"arrow_config", "LORA, Arrow"}};

hy_slice hy_tuner(const hy_json *config) {
    uint32_t node = hy_get(config, 0, "peft_type"), i;
    if (node && hy_kind(config, node) != HY_NULL) {
        if (hy_kind(config, node) != HY_STRING) return hy_slice_of("?");
        if (!hy_is(hy_string(config, node), "LORA")) return hy_string(config, node);
    }
    for (i = 0; i < sizeof VARIANTS / sizeof *VARIANTS; i++) {
        node = hy_get(config, 0, VARIANTS[i][0]);
        if (node && hy_truth(config, node)) return hy_slice_of(VARIANTS[i][1]);
    }
    return hy_slice_of("LORA");
}

int hy_changes_base(const hy_json *config) {
    static const char *const names[] = {"pissa", "olora", "corda", "loftq", "lora_ga"};
    uint32_t node = hy_get(config, 0, "init_lora_weights");
    hy_slice text;
    size_t i;
    if (!node || hy_kind(config, node) != HY_STRING) return 0;
    text = hy_string(config, node);
    for (i = 0; i < 5; i++)
        if (hy_find_text(text, names[i], 0) < text.size) return 1;
    return 0;
}

/* ---- what PEFT matches ---------------------------------------------------------------------- */

/* Of HY_UNKNOWN, and where Python refuses what takes too long. */
static hydra_status not_understood(hy_env *env, hy_slice pattern) {
    if (env->error->status) return env->error->status;
    return hy_fail(env, HYDRA_UNSUPPORTED,
                   "an expression of the config is not understood here or takes too long; got "
                   "'%.120s'. Export it with hydraopt",
                   pattern.data);
}

/* Whether a regular expression matches the path whole, or a list holds it or its end. */
static hydra_status named(hy_env *env, const hy_json *config, uint32_t node, hy_slice path,
                          int *yes) {
    uint32_t i;
    *yes = 0;
    if (!node) return HYDRA_OK;
    if (hy_kind(config, node) == HY_STRING) {
        hy_answer answer = hy_match(env, hy_string(config, node), path, 1, NULL);
        if (answer == HY_UNKNOWN) return not_understood(env, hy_string(config, node));
        *yes = answer == HY_YES;
        return HYDRA_OK;
    }
    if (hy_kind(config, node) != HY_LIST) return HYDRA_OK;
    for (i = hy_first(node); i < hy_end(config, node) && !*yes; i = config->nodes[i].next) {
        hy_slice name;
        if (hy_kind(config, i) != HY_STRING) continue;
        name = hy_string(config, i);
        *yes = hy_ends_with(path, name.data) && strlen(name.data) == name.size &&
               (path.size == name.size || path.data[path.size - name.size - 1] == '.');
        if (name.size == path.size + 1 && name.data[0] == '.') *yes = 0;
    }
    return HYDRA_OK;
}

static int holds(const hy_json *config, uint32_t node, hy_slice path) {
    uint32_t i;
    for (i = hy_first(node); i < hy_end(config, node); i = config->nodes[i].next)
        if (hy_kind(config, i) == HY_STRING && hy_same(hy_string(config, i), path)) return 1;
    return 0;
}

/* The path's layer by one head of layers_pattern (or the usual one); size 0 if it does not match.
 */
static hydra_status layer_by(hy_env *env, hy_slice head, hy_slice path, hy_slice *layer, int *hit) {
    hy_text pattern;
    hy_slice whole;
    hy_answer answer;
    hy_text_open(&pattern, env);
    hy_puts(&pattern, head.data ? "(?:^|.*?\\.)" : ".*?\\.[^.]*");
    hy_put(&pattern, head.data, head.size);
    hy_puts(&pattern, "\\.(\\d+)\\.");
    whole.data = pattern.data, whole.size = pattern.size;
    answer = pattern.failed ? HY_UNKNOWN : hy_match(env, whole, path, 0, layer);
    hy_text_close(&pattern);
    if (answer == HY_UNKNOWN)
        return not_understood(env, head.data ? head : hy_slice_of("layers_to_transform"));
    *hit = answer == HY_YES;
    return HYDRA_OK;
}

/* Whether the path's first number is among layers_to_transform, if any are named. */
static hydra_status in_layers(hy_env *env, const hy_json *config, hy_slice path, int *yes) {
    uint32_t wanted = hy_get(config, 0, "layers_to_transform"), i;
    uint32_t patterns = hy_get(config, 0, "layers_pattern");
    hy_slice layer = {NULL, 0}, none = {NULL, 0};
    uint64_t number = 0, one;
    int hit = 0;
    *yes = 1;
    if (!wanted || hy_kind(config, wanted) == HY_NULL) return HYDRA_OK;
    if (hy_kind(config, wanted) == HY_LIST && !config->nodes[wanted].size) return HYDRA_OK;
    *yes = 0;
    if (patterns && hy_kind(config, patterns) == HY_STRING && config->nodes[patterns].size) {
        HY_TRY(layer_by(env, hy_string(config, patterns), path, &layer, &hit));
    } else if (patterns && hy_kind(config, patterns) == HY_LIST && config->nodes[patterns].size) {
        for (i = hy_first(patterns); i < hy_end(config, patterns) && !hit;
             i = config->nodes[i].next)
            if (hy_kind(config, i) == HY_STRING)
                HY_TRY(layer_by(env, hy_string(config, i), path, &layer, &hit));
    } else {
        HY_TRY(layer_by(env, none, path, &layer, &hit));
    }
    if (!hit) return HYDRA_OK;
    for (i = 0; i < layer.size; i++) {
        if (layer.data[i] < '0' || layer.data[i] > '9') return HYDRA_OK;
        if (number < (uint64_t)1 << 59) number = number * 10 + (uint64_t)(layer.data[i] - '0');
        else return HYDRA_OK; /* larger than any layer that is named */
    }
    if (!layer.size) return HYDRA_OK;
    if (hy_kind(config, wanted) == HY_INT)
        *yes = hy_natural(config, wanted, 0, (uint64_t)1 << 62, &one) && one == number;
    else if (hy_kind(config, wanted) == HY_LIST)
        for (i = hy_first(wanted); i < hy_end(config, wanted); i = config->nodes[i].next)
            *yes |= hy_natural(config, i, 0, (uint64_t)1 << 62, &one) && one == number;
    return HYDRA_OK;
}

/* Whether PEFT wraps the module at `path` by the config's own settings. */
hydra_status hy_finds(hy_env *env, const hy_json *config, hy_slice path, int *yes) {
    uint32_t targets = hy_get(config, 0, "target_modules");
    int text = targets && hy_kind(config, targets) == HY_STRING, i;
    if (text && config->nodes[targets].size == 10) {
        const char *name = hy_string(config, targets).data;
        for (i = 0; i < 10 && (name[i] | 32) == ("all-linear"[i] | 32); i++) continue;
        if (i == 10) return *yes = 1, HYDRA_OK;
    }
    HY_TRY(named(env, config, hy_get(config, 0, "exclude_modules"), path, yes));
    if (*yes) return *yes = 0, HYDRA_OK;
    HY_TRY(named(env, config, targets, path, yes));
    if (!*yes || text || holds(config, targets, path)) return HYDRA_OK;
    return in_layers(env, config, path, yes);
}

/* ---- patterns ------------------------------------------------------------------------------- */

/* Whether a path without line feeds may match: not if it ends otherwise than the pattern. */
static int may_match(hy_slice pattern, hy_slice path) {
    size_t i = pattern.size, size;
    while (i && pattern.data[i - 1] != '.' && !strchr(SPECIAL, pattern.data[i - 1])) i--;
    size = pattern.size - i;
    if (size <= path.size && !memcmp(path.data + path.size - size, pattern.data + i, size))
        return 1;
    return (i && pattern.data[i - 1] == '\\') || memchr(pattern.data, '|', pattern.size);
}

/* The same match of a pattern without special characters: its dots stand for any character. */
static hy_answer plain_match(hy_slice pattern, hy_slice path) {
    size_t i = pattern.size, j = path.size;
    while (i) {
        if (!j--) return HY_NO;
        if (pattern.data[--i] == '.')
            while (j && ((unsigned char)path.data[j] & 0xC0) == 0x80) j--;
        else if (pattern.data[i] != path.data[j]) return HY_NO;
    }
    return !j || path.data[j - 1] == '.' ? HY_YES : HY_NO;
}

/* (.*\.)?(PATTERN)$, as PEFT tries a pattern. */
static hy_answer peft_match(hy_env *env, hy_slice pattern, hy_slice path) {
    hy_text text;
    hy_slice whole;
    hy_answer answer = HY_UNKNOWN;
    if (!memchr(path.data, '\n', path.size)) {
        if (!may_match(pattern, path)) return HY_NO;
        if (strcspn(pattern.data, SPECIAL) == pattern.size) return plain_match(pattern, path);
    }
    hy_text_open(&text, env);
    hy_puts(&text, "(.*\\.)?(");
    hy_put(&text, pattern.data, pattern.size);
    hy_puts(&text, ")$");
    if (!text.failed) {
        whole.data = text.data, whole.size = text.size;
        answer = hy_match(env, whole, path, 0, NULL);
    }
    hy_text_close(&text);
    return answer;
}

/* A pattern that PEFT matches with this path and with no other of the ranks': the path itself, if
 * that does. */
static void put_pattern(hy_text *out, hy_env *env, hy_slice path, const hy_rank *ranks,
                        uint32_t count) {
    hy_text text;
    hy_slice whole;
    int alone = count <= MOST_COMPARED;
    uint32_t i;
    size_t j;
    for (i = 0; i < count && alone; i++) {
        hy_answer answer = peft_match(env, path, ranks[i].path);
        if (answer == HY_UNKNOWN && env->error->status) out->failed = 1;
        alone = (answer == HY_YES) == hy_same(ranks[i].path, path);
    }
    hy_text_open(&text, env);
    if (!alone) hy_puts(&text, "^");
    for (j = 0; j < path.size; j++) {
        if (!alone && strchr("()[]{}?*+-|^$\\.&~# \t\n\r\v\f", path.data[j])) hy_puts(&text, "\\");
        hy_put(&text, path.data + j, 1);
    }
    whole.data = text.data, whole.size = text.size;
    hy_dump_string(out, whole, 0);
    if (text.failed) out->failed = 1;
    hy_text_close(&text);
}

void hy_put_ranks(hy_text *out, hy_env *env, const hy_rank *ranks, uint32_t count, uint64_t r) {
    uint32_t i;
    int any = 0;
    hy_puts(out, "{");
    for (i = 0; i < count; i++) {
        if (ranks[i].rank == r) continue;
        if (any) hy_puts(out, ",");
        any = 1;
        put_pattern(out, env, ranks[i].path, ranks, count);
        hy_puts(out, ":");
        hy_put_natural(out, ranks[i].rank);
    }
    hy_puts(out, "}");
}

static hydra_status find_pattern(hy_env *env, const hy_json *config, const char *key, hy_slice path,
                                 uint32_t *node) {
    uint32_t patterns = hy_get(config, 0, key), i;
    if (!patterns || hy_kind(config, patterns) != HY_OBJECT) return HYDRA_OK;
    for (i = hy_first(patterns); i < hy_end(config, patterns); i = hy_next(config, i)) {
        hy_answer answer = peft_match(env, hy_string(config, i), path);
        if (answer == HY_UNKNOWN || answer == HY_TIRED)
            return not_understood(env, hy_string(config, i));
        if (answer == HY_YES) return *node = i + 1, HYDRA_OK;
    }
    return HYDRA_OK;
}

int hy_is_rank(const hy_json *config, uint32_t node) {
    uint64_t rank;
    return node && hy_natural(config, node, 1, ((uint64_t)1 << 31) - 1, &rank);
}

int hy_is_alpha(const hy_json *config, uint32_t node) {
    double strength;
    return node && hy_kind(config, node) >= HY_INT && hy_number(config, node, &strength) &&
           fabs(strength) < 1e300;
}

hydra_status hy_senseless(hy_env *env, const char *setting) {
    return hy_fail(env, HYDRA_UNSUPPORTED, "setting %s of the config is missing or wrong",
                   setting);
}

static hydra_status check_patterns(hy_env *env, const hy_json *config, const char *setting,
                                   int (*fine)(const hy_json *config, uint32_t node)) {
    uint32_t patterns = hy_get(config, 0, setting), i;
    if (!patterns || !hy_truth(config, patterns)) return HYDRA_OK;
    if (hy_kind(config, patterns) != HY_OBJECT) return hy_senseless(env, setting);
    for (i = hy_first(patterns); i < hy_end(config, patterns); i = hy_next(config, i)) {
        hy_slice pattern = hy_string(config, i), none = {"", 0};
        if (!fine(config, i + 1)) return hy_senseless(env, setting);
        /* A broken one is refused, whatever it would be matched with. */
        if (strcspn(pattern.data, SPECIAL) < pattern.size || hy_length(pattern) > MOST_PATTERN) {
            hy_answer answer = hy_match(env, pattern, none, 0, NULL);
            if (answer == HY_UNKNOWN || answer == HY_TIRED) return not_understood(env, pattern);
        }
    }
    return HYDRA_OK;
}

hydra_status hy_check_rule(hy_env *env, const hy_json *config, const char *alpha_key) {
    if (!hy_is_rank(config, hy_get(config, 0, "r"))) return hy_senseless(env, "r");
    if (!hy_is_alpha(config, hy_get(config, 0, alpha_key))) return hy_senseless(env, alpha_key);
    HY_TRY(check_patterns(env, config, "rank_pattern", hy_is_rank));
    return check_patterns(env, config, "alpha_pattern", hy_is_alpha);
}

hydra_status hy_rule(hy_env *env, const hy_json *config, const char *alpha_key, int rslora,
                     hy_slice path, uint64_t *rank, double *scale) {
    uint32_t r = hy_get(config, 0, "r"), alpha = hy_get(config, 0, alpha_key), rs;
    double strength;
    HY_TRY(find_pattern(env, config, "rank_pattern", path, &r));
    HY_TRY(find_pattern(env, config, "alpha_pattern", path, &alpha));
    if (!hy_is_rank(config, r) || !hy_is_alpha(config, alpha) ||
        !hy_natural(config, r, 1, UINT32_MAX, rank) || !hy_number(config, alpha, &strength))
        return hy_senseless(env, "rank_pattern or alpha_pattern");
    rs = rslora ? hy_get(config, 0, "use_rslora") : 0;
    *scale = strength / (rs && hy_truth(config, rs) ? sqrt((double)*rank) : (double)*rank);
    return HYDRA_OK;
}
