/* Names of an adapter's tensors, as PEFT has them. */
#include <string.h>

#include "adapter.h"

#define PREFIX "base_model.model."

static int is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           (unsigned char)c >= 0x80;
}

static int starts(hy_slice text, size_t at, const char *word) {
    size_t size = strlen(word);
    return at <= text.size && text.size - at >= size && memcmp(text.data + at, word, size) == 0;
}

size_t hy_find_text(hy_slice whole, const char *part, size_t from) {
    size_t i, size = strlen(part);
    for (i = from; i + size <= whole.size; i++)
        if (memcmp(whole.data + i, part, size) == 0) return i;
    return whole.size;
}

void hy_plain_name(hy_text *out, hy_slice key) {
    static const char *const wrappers[] = {"_orig_mod.", "_fsdp_wrapped_module."};
    size_t i = starts(key, 0, "module.") ? 7 : 0;
    while (i < key.size) {
        size_t w;
        for (w = 0; w < 2; w++)
            if (starts(key, i, wrappers[w]) && (!i || !is_word(key.data[i - 1]))) break;
        if (w < 2) i += strlen(wrappers[w]);
        else hy_put(out, key.data + i++, 1);
    }
    hy_put(out, "", 1); /* so that it is a text; not counted */
    if (!out->failed) out->size--;
}

static hy_slice slice(const char *data, size_t size) {
    hy_slice made;
    made.data = data;
    made.size = size;
    return made;
}

/* Bytes before ".lora_A" or ".lora_B" (or the like of an embedding) at a name's end, with an
 * adapter's own name behind it or without; 0 if there is no such end. */
static size_t before_half(hy_slice name, const char *role) {
    size_t turn, size = strlen(role);
    for (turn = 0; turn < 2; turn++) {
        if (name.size > size + 1 && starts(name, name.size - size - 1, role) &&
            strchr("AB", name.data[name.size - 1]))
            return name.size - size - 1;
        name.size = hy_last(name, '.') == name.size ? 0 : hy_last(name, '.');
    }
    return 0;
}

int hy_parse_key(hy_text *settings, hy_text *inner, hy_slice key) {
    hy_text plain;
    hy_slice name;
    size_t end = 0, cut;
    hy_text_open(&plain, settings->env);
    hy_plain_name(&plain, key);
    name = slice(plain.data, plain.size);
    if (starts(name, 0, PREFIX))
        name = slice(name.data + strlen(PREFIX), name.size - strlen(PREFIX));
    if (hy_ends_with(name, ".weight") && !plain.failed) {
        hy_slice most = slice(name.data, name.size - 7);
        if (most.size && most.data[most.size - 1] != '.') end = before_half(most, ".lora_");
    }
    if (!end && name.size && name.data[name.size - 1] != '.')
        end = before_half(name, ".lora_embedding_");
    if (end) {
        name.size = end;
        if (inner) hy_put(inner, name.data, end);
        cut = hy_find_text(name, ".base_layer", 0);
        hy_put(settings, name.data, cut);
    }
    if (plain.failed) settings->failed = 1;
    hy_text_close(&plain);
    return end != 0;
}

hy_slice hy_stem(const hy_module *module) {
    return slice(module->path.data, hy_find_text(module->path, "::", 0));
}

void hy_default_key(hy_text *out, const hy_module *module, int half) {
    hy_slice stem = hy_stem(module);
    hy_puts(out, PREFIX);
    hy_put(out, stem.data, stem.size);
    hy_puts(out, module->kind == HY_EMBEDDING ? (half ? ".lora_embedding_B" : ".lora_embedding_A")
                                              : (half ? ".lora_B.weight" : ".lora_A.weight"));
}

hydra_status hy_key_of(hydra_bundle *b, const hy_task *task, uint32_t module, int half,
                       hy_text *out) {
    uint32_t low = 0, high = task->key_count;
    while (low < high) { /* the first key that is behind this place */
        uint32_t middle = low + (high - low) / 2;
        const hy_key *key = task->keys + middle;
        if (key->module < module || (key->module == module && key->half <= (uint32_t)half))
            low = middle + 1;
        else
            high = middle;
    }
    if (low && task->keys[low - 1].module == module && task->keys[low - 1].half == (uint32_t)half)
        hy_put(out, task->keys[low - 1].key.data, task->keys[low - 1].key.size);
    else
        hy_default_key(out, b->modules + module, half);
    return out->failed ? b->env.error->status : HYDRA_OK;
}

/* Cuts what follows the last `role` of the name, which is to be of the pattern role + NAME + end.
 */
static void without_adapter(hy_text *name, const char *role, const char *end, int dots) {
    hy_slice text = slice(name->data, name->size);
    size_t at = hy_find_text(text, role, 0), from, size = strlen(end);
    for (; at < text.size; at = hy_find_text(text, role, at + 1)) {
        from = at + strlen(role);
        if (text.size <= from + size || !hy_ends_with(text, end)) continue;
        if (!dots && memchr(text.data + from, '.', text.size - size - from)) continue;
        name->size = at + strlen(role) - 1;
        hy_puts(name, end);
        return;
    }
}

void hy_peft_name(hy_text *out, hy_slice key, int named) {
    hy_text plain;
    hy_slice name;
    size_t i = 0, from, end;
    hy_text_open(&plain, out->env);
    hy_plain_name(&plain, key);
    if (plain.failed) out->failed = 1;
    if (!starts(slice(plain.data, plain.size), 0, "base_model.")) {
        hy_text with;
        hy_text_open(&with, out->env);
        hy_puts(&with, PREFIX);
        hy_put(&with, plain.data, plain.size);
        hy_text_close(&plain);
        plain = with;
    }
    without_adapter(&plain, ".lora_magnitude_vector.", "", 1);
    without_adapter(&plain, ".lora_B.", ".bias", 0);
    without_adapter(&plain, ".trainable_tokens_delta.", "", 0);
    name = slice(plain.data, plain.size);
    while (i < name.size) {
        static const char saved[] = ".modules_to_save.";
        if (named && starts(name, i, saved)) {
            from = i + strlen(saved);
            end = hy_find_text(name, ".", from);
            if (end > from && end < name.size) {
                hy_puts(out, ".");
                i = end + 1;
                continue;
            }
        }
        hy_put(out, name.data + i++, 1);
    }
    if (plain.failed) out->failed = 1;
    hy_text_close(&plain);
}

/* Whether `name` holds the word with a dot on either side. */
static int has_part(hy_slice name, hy_slice word) {
    size_t i;
    for (i = 0; i + word.size + 2 <= name.size; i++)
        if (name.data[i] == '.' && name.data[i + word.size + 1] == '.' &&
            !memcmp(name.data + i + 1, word.data, word.size))
            return 1;
    return 0;
}

static int holds(hy_slice name, const char *part) {
    return hy_find_text(name, part, 0) < name.size;
}

int hy_names_adapter(const hy_tensor *rows, uint32_t count) {
    static const char saved[] = ".modules_to_save.";
    hy_slice word = {NULL, 0};
    uint32_t i;
    for (i = 0; i < count; i++) {
        hy_slice name = rows[i].name, found;
        size_t at = hy_find_text(name, saved, 0), end;
        if (at == name.size) continue;
        at += strlen(saved);
        end = hy_find_text(name, ".", at);
        found.data = name.data + at;
        found.size = end - at;
        if (end == name.size || (word.data && !hy_same(word, found))) return 0;
        word = found;
    }
    for (i = 0; i < count && word.data; i++) {
        hy_slice name = rows[i].name;
        if ((has_part(name, word) || holds(name, ".original_module.")) && !holds(name, saved) &&
            !holds(name, ".lora_") && !holds(name, ".trainable_tokens_delta."))
            return 0;
    }
    return word.data != NULL;
}
