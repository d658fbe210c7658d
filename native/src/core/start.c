/* Numbers of a task's generator, MT19937: streams.md, section 5. */
#include <string.h>

#include "core.h"

/* States that are kept lie so many twists apart, which bounds the cost of going to any number. */
enum { APART = 64 };

static HY_INLINE void mix(uint32_t *words, uint32_t i, uint32_t next, uint32_t ahead) {
    uint32_t mixed = (words[i] & 0x80000000u) | (words[next] & 0x7FFFFFFFu);
    words[i] = words[ahead] ^ mixed >> 1 ^ ((mixed & 1) * 0x9908B0DFu);
}

static void twist(uint32_t *words) {
    enum { LAST = HY_STATE_WORDS - 1, AHEAD = 397, WRAP = HY_STATE_WORDS - AHEAD };
    uint32_t i;
    for (i = 0; i < WRAP; i++) mix(words, i, i + 1, i + AHEAD);
    for (; i < LAST; i++) mix(words, i, i + 1, i - WRAP);
    mix(words, LAST, 0, AHEAD - 1);
}

static uint32_t tempered(uint32_t x) {
    x ^= x >> 11;
    x ^= x << 7 & 0x9D2C5680u;
    x ^= x << 15 & 0xEFC60000u;
    return x ^ x >> 18;
}

static void close_states(hy_env *env, hy_states *states) {
    if (states) hy_free(env, states->words, states->count, sizeof(uint32_t[HY_STATE_WORDS]));
    hy_free(env, states, 1, sizeof *states);
}

static hydra_status make_states(hydra_bundle *b, const hy_task *task, hy_states **made) {
    uint32_t state[HY_STATE_WORDS], i;
    hy_states *states = hy_alloc(&b->env, 1, sizeof *states);
    if (!states) return b->env.error->status;
    states->seed = task->seed;
    states->numbers = task->start_numbers;
    states->count = (task->start_numbers - 1) / HY_STATE_WORDS / APART + 1;
    states->words = hy_alloc(&b->env, states->count, sizeof state);
    if (!states->words) {
        hy_free(&b->env, states, 1, sizeof *states);
        return b->env.error->status;
    }
    state[0] = task->seed;
    for (i = 1; i < HY_STATE_WORDS; i++)
        state[i] = 1812433253u * (state[i - 1] ^ state[i - 1] >> 30) + i;
    twist(state);
    for (i = 0;;) {
        uint32_t j;
        memcpy(states->words + (size_t)i * HY_STATE_WORDS, state, sizeof state);
        if (++i == states->count) break;
        for (j = 0; j < APART; j++) twist(state);
    }
    *made = states;
    return HYDRA_OK;
}

hydra_status hy_states_open(hydra_bundle *b, const hy_task *task, hy_states **states) {
    hy_states *kept = b->states;
    if (!kept || kept->seed != task->seed || kept->numbers != task->start_numbers) {
        HY_TRY(make_states(b, task, &b->states));
        if (kept && !kept->users) close_states(&b->env, kept);
    }
    *states = b->states;
    b->states->users++;
    return HYDRA_OK;
}

void hy_states_close(hydra_bundle *b, hy_states *states) {
    if (states && !--states->users && states != b->states) close_states(&b->env, states);
}

void hy_states_drop(hydra_bundle *b) {
    close_states(&b->env, b->states);
    b->states = NULL;
}

void hy_numbers(hy_generator *g, uint32_t first, uint32_t count, int32_t *out) {
    while (count) {
        uint32_t at = first % HY_STATE_WORDS, last = first / HY_STATE_WORDS, some, i;
        uint32_t near = last / APART, *words = g->words;
        if (g->twists > last + 1 || g->twists <= near * APART) {
            memcpy(words, g->states->words + (size_t)near * HY_STATE_WORDS, sizeof g->words);
            g->twists = near * APART + 1;
        }
        for (; g->twists <= last; g->twists++) twist(words);
        some = HY_STATE_WORDS - at < count ? HY_STATE_WORDS - at : count;
        for (i = 0; i < some; i++)
            out[i] = (int32_t)(tempered(words[at + i]) & 0xFFFFFFu) - (1 << 23);
        first += some, out += some, count -= some;
    }
}
