/* README.md of an adapter: what it is of, its error, and what was measured of its answers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapter.h"

/* As C's %.*f or %.*g, with a point in every locale. */
static void put_number(hy_text *out, const char *format, int digits, double value) {
    char text[400];
    int i, size = snprintf(text, sizeof text, format, digits, value), strange = 0;
    for (i = 0; i < size; i++) {
        if (strchr("0123456789+-e", text[i])) {
            hy_put(out, text + i, 1);
            strange = 0;
        } else if (!strange++) {
            hy_puts(out, "."); /* one point, of however many bytes */
        }
    }
}

static void put_thousands(hy_text *out, uint64_t value) {
    char digits[24];
    int size = snprintf(digits, sizeof digits, "%llu", (unsigned long long)value), i;
    for (i = 0; i < size; i++) {
        if (i && (size - i) % 3 == 0) hy_puts(out, ",");
        hy_put(out, digits + i, 1);
    }
}

static void put_harm(hy_text *out, const hy_task *x, uint64_t tokens) {
    hy_puts(out, "Of the original adapter's answers to ");
    put_thousands(out, x->answers);
    hy_puts(out, x->answers == 1 ? " prompt " : " prompts ");
    hy_puts(out,
            x->held_out ? "that no part was trained on, " : "that parts of it were trained on, ");
    put_thousands(out, x->changed);
    hy_puts(out, x->changed == 1 ? " changes; " : " change; ");
    put_number(out, "%.*f", 2, 100 * x->likely);
    hy_puts(out, " % are likely to. KL from the original is ");
    put_number(out, "%.*g", 3, x->kl);
    hy_puts(out, " nats an answer. Of an answer the first ");
    put_thousands(out, tokens);
    hy_puts(out, " tokens count.");
}

void hy_card(const hydra_bundle *b, const hy_task *x, const char *library, hy_text *out) {
    hy_slice base = x->base_model.data ? x->base_model : b->base_model;
    hy_puts(out, "---\n");
    if (base.data) {
        hy_puts(out, "base_model: ");
        hy_dump_string(out, base, 0);
        hy_puts(out, "\n");
    }
    hy_puts(out, "library_name: ");
    hy_puts(out, library);
    hy_puts(out, "\ntags:\n- hydraopt\n---\n\n# ");
    hy_put(out, x->name.data, x->name.size);
    hy_puts(out, "\n\nAn adapter of ");
    if (base.data) hy_put(out, base.data, base.size);
    else hy_puts(out, "a base model that it does not name");
    hy_puts(out, ", out of a bundle of hydraopt. ");
    if (x->lossless && !b->by_method) {
        hy_puts(out, "Its tensors are those of the original, bit by bit.");
    } else {
        hy_puts(out, "The relative error of its weights is ");
        put_number(out, "%.*g", 4, x->error);
        hy_puts(out, b->estimated ? " (Frobenius norms, estimated)." : " (Frobenius norms).");
    }
    hy_puts(out, "\n\n");
    if (x->has_harm) put_harm(out, x, b->answer_tokens);
    else hy_puts(out, "Nobody measured whether its answers change.");
    hy_puts(out, "\n");
}
