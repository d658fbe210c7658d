/* What adapter_config.json has to say so that PEFT gives each module its rank and its scale. */
#include <string.h>

#include "adapter.h"

enum { MOST_COMPARED = 1000 };

/* Characters that an expression does not take as they are. */
#define SPECIAL "()[]{}?*+|^$\\"

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

/* ---- patterns ------------------------------------------------------------------------------- */

/* Whether (.*\.)?(PATTERN)$ matches the path, PATTERN being a path without special characters: its
 * dots stand for any character. */
static int matches(hy_slice pattern, hy_slice path) {
    size_t i = pattern.size, j = path.size;
    while (i) {
        if (!j--) return 0;
        if (pattern.data[--i] == '.')
            while (j && ((unsigned char)path.data[j] & 0xC0) == 0x80) j--;
        else if (pattern.data[i] != path.data[j]) return 0;
    }
    return !j || path.data[j - 1] == '.';
}

/* A pattern that PEFT matches with this path and with no other of the ranks': the path itself, if
 * that does. */
static void put_pattern(hy_text *out, hy_env *env, hy_slice path, const hy_rank *ranks,
                        uint32_t count) {
    hy_text text;
    hy_slice whole;
    int alone = count <= MOST_COMPARED && strcspn(path.data, SPECIAL) >= path.size;
    uint32_t i;
    size_t j;
    for (i = 0; i < count && alone; i++)
        alone = matches(path, ranks[i].path) == hy_same(ranks[i].path, path);
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
