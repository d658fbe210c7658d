/* A task as a PEFT adapter. The scale is folded into B and the config says alpha = rank for every
 * module; adapters whose initialisation changes the base (PiSSA and its kin) keep theirs. */
#include <stdlib.h>
#include <string.h>

#include "adapter.h"

static int by_path(const void *one, const void *other) {
    return hy_compare(&((const hy_rank *)one)->path, &((const hy_rank *)other)->path);
}

static uint64_t up_to(uint64_t rank, uint64_t multiple) {
    return (rank + multiple - 1) / multiple * multiple;
}

static hydra_status cannot_write(hydra_bundle *b, const hy_task *task, const char *what) {
    return hy_fail(
        &b->env, HYDRA_UNSUPPORTED,
        "task '%s' cannot be written as a PEFT adapter: %s. Merge it with --lossless, or "
        "leave out what PEFT cannot hold",
        task->name.data, what);
}

static hy_rank *rank_of(hy_rank *ranks, uint32_t count, hy_slice path) {
    hy_rank key;
    key.path = path;
    key.rank = 0;
    return bsearch(&key, ranks, count, sizeof key, by_path);
}

/* The one rank that all have where PEFT cannot vary it. */
static void make_uniform(hydra_bundle *b, const hy_pairs *pairs, hy_rank *ranks, uint32_t count) {
    uint64_t multiple = 1, most = 1;
    uint32_t i;
    for (i = 0; i < pairs->count; i++) {
        uint64_t a = multiple, c = hy_pair_multiple(b, pairs, pairs->pairs + i), own = c;
        while (c) {
            uint64_t rest = a % c;
            a = c, c = rest;
        }
        if (multiple < (uint64_t)1 << 40) multiple = multiple / a * own;
    }
    for (i = 0; i < count; i++)
        if (ranks[i].rank > most) most = ranks[i].rank;
    for (i = 0; i < count; i++) ranks[i].rank = up_to(most, multiple);
}

/* The rank of each path; pairs on one wrapped layer share it. */
static hydra_status set_ranks(hydra_bundle *b, const hy_task *task, const hy_json *config,
                              hy_pairs *pairs, hy_rank *ranks, uint32_t *count) {
    uint32_t i, made = 0, parameters = hy_get(config, 0, "target_parameters");
    uint64_t numbers = 0;
    for (i = 0; i < pairs->count; i++) {
        ranks[i].path = pairs->pairs[i].path;
        ranks[i].rank = hy_pair_least_rank(pairs, b, pairs->pairs + i);
    }
    if (pairs->count) qsort(ranks, pairs->count, sizeof *ranks, by_path);
    for (i = 0; i < pairs->count; i++) {
        if (made && hy_same(ranks[made - 1].path, ranks[i].path)) {
            if (ranks[i].rank > ranks[made - 1].rank) ranks[made - 1].rank = ranks[i].rank;
        } else {
            ranks[made++] = ranks[i];
        }
    }
    *count = made;
    for (i = 0; i < pairs->count; i++) {
        hy_rank *rank = rank_of(ranks, made, pairs->pairs[i].path);
        rank->rank = up_to(rank->rank, hy_pair_multiple(b, pairs, pairs->pairs + i));
    }
    if (made && parameters && hy_truth(config, parameters)) make_uniform(b, pairs, ranks, made);
    for (i = 0; i < pairs->count; i++) {
        hy_pair *pair = pairs->pairs + i;
        const hy_kept *kept = hy_kept_of(task, pairs->members[pair->first].module);
        if (kept && hy_pair_least_rank(pairs, b, pair) > kept->rank)
            return cannot_write(b, task,
                          "a module has more parts than the rank that its initialisation ties the "
                          "base to");
        pair->rank = kept ? kept->rank : rank_of(ranks, made, pair->path)->rank;
        numbers += hy_pair_numbers(b, pairs, pairs->pairs + i);
        if (numbers > (uint64_t)1 << 60) numbers = (uint64_t)1 << 60;
    }
    return hy_check_room(b, task, numbers);
}

/* Pairs and config of a LoRA. parts: of each module, if `outs` is to hold headers alone. */
static hydra_status lora(hydra_bundle *b, const hy_task *task, const hy_json *config, int dtype,
                         const uint32_t *parts, hy_pairs *pairs, hy_tensors *outs,
                         hy_text *written) {
    uint32_t count = 0, i;
    hy_rank *ranks;
    hydra_status status;
    pairs->dtype = dtype;
    HY_TRY(hy_pairs_open(pairs, b, task, config));
    for (i = 0; i < pairs->count && task->kept; i++)
        pairs->pairs[i].scale =
            hy_kept_of(task, pairs->members[pairs->pairs[i].first].module)->scale;
    for (i = 0; i < pairs->member_count && parts; i++) pairs->by_index[i]->factors.k = parts[i];
    if (!parts) HY_TRY(hy_pairs_decode(pairs, b, task));
    ranks = hy_alloc(&b->env, pairs->count, sizeof *ranks);
    if (!ranks) return b->env.error->status;
    status = set_ranks(b, task, config, pairs, ranks, &count);
    if (!status && !parts) status = hy_written_config(b, task, config, ranks, count, written);
    hy_free(&b->env, ranks, pairs->count, sizeof *ranks);
    if (!status) status = hy_pairs_tensors(pairs, b, outs);
    if (!status) status = hy_exported_extras(b, task, task->kept != NULL, outs);
    return status;
}

hydra_status hy_check_peft(hydra_bundle *b, const hy_task *task, const hy_json *config,
                           const uint32_t *parts) {
    hy_pairs pairs;
    hy_tensors outs;
    hydra_status status;
    memset(&pairs, 0, sizeof pairs);
    memset(&outs, 0, sizeof outs);
    outs.headers = 1;
    status = hy_is(hy_tuner(config), "LORA")
                 ? lora(b, task, config, task->dtype, parts, &pairs, &outs, NULL)
                 : hy_tuner_tensors(b, task, config, task->dtype, parts, &outs);
    if (!status) status = hy_check_names(b, task, &outs);
    hy_tensors_close(&outs, &b->env);
    hy_pairs_close(&pairs, b);
    return status;
}

static hydra_status write_config(hydra_bundle *b, const hy_text *compact, const hydra_sink *sink) {
    hy_json json;
    hy_text pretty;
    hydra_status status = hy_json_copy(&json, &b->env, compact->data, compact->size, "the config");
    hy_text_open(&pretty, &b->env);
    if (!status) {
        hy_dump(&pretty, &json, 0, HY_PRETTY);
        status = pretty.failed
                     ? b->env.error->status
                     : hy_sink_text(b, sink, "adapter_config.json", pretty.data, pretty.size);
    }
    hy_text_close(&pretty);
    hy_json_close(&json);
    return status;
}

static hydra_status export_task(hydra_bundle *b, const hy_task *task, const hy_json *config,
                                hydra_dtype asked, const hydra_sink *sink) {
    hy_pairs pairs;
    hy_tensors outs;
    hy_text written;
    hydra_status status;
    int dtype = hy_dtype_of(asked, task->dtype);
    memset(&pairs, 0, sizeof pairs);
    memset(&outs, 0, sizeof outs);
    hy_text_open(&written, &b->env);
    if (task->lossless) {
        if (task->format != HY_PEFT || (asked && dtype != task->dtype))
            status = cannot_write(b, task,
                            "it is kept bit by bit, and is to be read as another format or dtype; "
                            "use hydraopt export");
        else {
            const hy_text *own = b->configs + task->config;
            hy_put(&written, own->data, own->size - 1);
            status = hy_all_tensors(b, task, 1, &outs);
        }
    } else if (task->format == HY_PEFT && !hy_is(hy_tuner(config), "LORA")) {
        hy_same_config(b, task, config, &written);
        status = hy_tuner_tensors(b, task, config, dtype, NULL, &outs);
    } else {
        status = lora(b, task, config, dtype, NULL, &pairs, &outs, &written);
    }
    if (!status && written.failed) status = b->env.error->status;
    if (!status) status = hy_write_safetensors(b, task, &outs, &pairs, sink);
    if (!status) status = write_config(b, &written, sink);
    hy_text_close(&written);
    hy_tensors_close(&outs, &b->env);
    hy_pairs_close(&pairs, b);
    return status;
}

static hydra_status write_peft(hydra_bundle *b, hydra_task index,
                               const hydra_peft_options *given, const hydra_sink *sink) {
    hydra_peft_options options;
    const hy_task *task = NULL;
    const hy_text *text;
    hy_json config;
    hydra_status status;
    memset(&options, 0, sizeof options);
    if (given)
        HY_TRY(hy_read_sized(&options, sizeof options, given, "hydra_peft_options", b->env.error));
    HY_TRY(hy_task_of(b, index, &task, b->env.error));
    text = b->configs + task->config;
    status = hy_json_copy(&config, &b->env, text->data, text->size - 1, "the config");
    if (!status) status = export_task(b, task, &config, options.dtype, sink);
    hy_json_close(&config);
    return status;
}

hydra_status hydra_write_peft(hydra_bundle *b, hydra_task task, const hydra_peft_options *options,
                              const hydra_sink *sink, hydra_error *error) {
    hy_call call;
    hy_enter(b, &call);
    return hy_leave(b, &call, write_peft(b, task, options, sink), error);
}
