/* The file that the safetensors package would write of the same tensors, into a sink. */
#include <stdlib.h>
#include <string.h>

#include "adapter.h"

hydra_status hy_sink_failed(hydra_bundle *b, const char *name) {
    return hy_fail(&b->env, HYDRA_IO, "'%s' cannot be written", name);
}

hydra_status hy_sink_text(hydra_bundle *b, const hydra_sink *sink, const char *name,
                          const void *data, size_t size) {
    if (b->env.limits.output && size > b->env.limits.output)
        return hy_fail(&b->env, HYDRA_LIMIT, "'%s' is larger than the limit of outputs", name);
    if (sink->begin(sink->user, name, size) || sink->write(sink->user, data, size) ||
        sink->end(sink->user))
        return hy_sink_failed(b, name);
    return HYDRA_OK;
}

static int by_dtype(const void *one, const void *other) {
    const hy_tensor *a = one, *b = other;
    return a->dtype != b->dtype ? a->dtype - b->dtype : hy_compare(&a->name, &b->name);
}

static int by_name(const void *one, const void *other) {
    return hy_compare(&((const hy_tensor *)one)->name, &((const hy_tensor *)other)->name);
}

static void put_metadata(hy_text *text, const hy_task *task) {
    const hy_json *json = task->json;
    uint32_t i;
    int any = 0;
    hy_puts(text, "{\"__metadata__\":{");
    if (task->lossless && task->metadata && json->nodes[task->metadata].size) {
        for (i = hy_first(task->metadata); i < hy_end(json, task->metadata); i = hy_next(json, i)) {
            if (any++) hy_puts(text, ",");
            hy_dump_string(text, hy_string(json, i), 0);
            hy_puts(text, ":");
            hy_dump_string(text, hy_string(json, i + 1), 0);
        }
    } else {
        hy_puts(text, "\"format\":\"pt\"");
    }
    hy_puts(text, "}");
}

/* The header, its length before it and spaces behind it. */
static void put_header(hy_text *text, const hy_task *task, const hy_tensors *outs) {
    hy_text json;
    uint64_t at = 0;
    uint32_t i, j;
    hy_text_open(&json, text->env);
    put_metadata(&json, task);
    for (i = 0; i < outs->count; i++) {
        const hy_tensor *x = outs->rows + i;
        hy_puts(&json, ",");
        hy_dump_string(&json, x->name, 0);
        hy_puts(&json, ":{\"dtype\":\"");
        hy_puts(&json, HY_DTYPES[x->dtype]);
        hy_puts(&json, "\",\"shape\":[");
        for (j = 0; j < x->axes; j++) {
            if (j) hy_puts(&json, ",");
            hy_put_natural(&json, x->shape[j]);
        }
        hy_puts(&json, "],\"data_offsets\":[");
        hy_put_natural(&json, at);
        hy_puts(&json, ",");
        hy_put_natural(&json, at += x->size);
        hy_puts(&json, "]}");
    }
    hy_puts(&json, "}");
    while (json.size % 8 && !json.failed) hy_puts(&json, " ");
    hy_put_le(text, json.size, 8);
    hy_put(text, json.data, json.size);
    if (json.failed) text->failed = 1;
    hy_text_close(&json);
}

static hydra_status write_one(hydra_bundle *b, const hy_tensor *x, const hy_pairs *pairs,
                              const hydra_sink *sink) {
    uint8_t *made;
    int failed;
    if (x->data)
        return x->size && sink->write(sink->user, x->data, (size_t)x->size)
                   ? hy_sink_failed(b, "adapter_model.safetensors") : HYDRA_OK;
    made = hy_alloc(&b->env, x->size, 1);
    if (!made) return b->env.error->status;
    hy_pair_fill(b, pairs, pairs->pairs + x->pair, (int)x->half, made);
    failed = sink->write(sink->user, made, (size_t)x->size);
    hy_free(&b->env, made, x->size, 1);
    return failed ? hy_sink_failed(b, "adapter_model.safetensors") : HYDRA_OK;
}

hydra_status hy_check_names(hydra_bundle *b, const hy_task *task, hy_tensors *outs) {
    uint32_t i;
    if (outs->count) qsort(outs->rows, outs->count, sizeof *outs->rows, by_name);
    for (i = 1; i < outs->count; i++)
        if (hy_same(outs->rows[i - 1].name, outs->rows[i].name))
            return hy_fail(
                &b->env, HYDRA_UNSUPPORTED,
                "task '%s' cannot be written as a PEFT adapter: two tensors would have the "
                "name '%.160s'",
                task->name.data, outs->rows[i].name.data);
    return HYDRA_OK;
}

hydra_status hy_write_safetensors(hydra_bundle *b, const hy_task *task, hy_tensors *outs,
                                  const hy_pairs *pairs, const hydra_sink *sink) {
    static const char name[] = "adapter_model.safetensors";
    hydra_status status = HYDRA_OK;
    hy_text head;
    uint64_t whole;
    uint32_t i;
    HY_TRY(hy_check_names(b, task, outs));
    if (outs->count) qsort(outs->rows, outs->count, sizeof *outs->rows, by_dtype);
    hy_text_open(&head, &b->env);
    put_header(&head, task, outs);
    whole = head.size;
    for (i = 0; i < outs->count; i++) whole += outs->rows[i].size;
    if (head.failed) status = b->env.error->status;
    else if (b->env.limits.output && whole > b->env.limits.output)
        status = hy_fail(&b->env, HYDRA_LIMIT,
                         "'%s' is larger than the limit of outputs; got %llu bytes", name,
                         (unsigned long long)whole);
    else if (sink->begin(sink->user, name, whole) || sink->write(sink->user, head.data, head.size))
        status = hy_sink_failed(b, name);
    hy_text_close(&head);
    for (i = 0; i < outs->count && !status; i++) status = write_one(b, outs->rows + i, pairs, sink);
    if (!status && sink->end(sink->user)) status = hy_sink_failed(b, name);
    return status;
}
