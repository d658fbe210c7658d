/* Streams in chunks: a table, then runs of whole records, each checked and decoded alone. */
#include <stdio.h>
#include <string.h>

#include "core.h"

hydra_status hy_damaged(const hy_source *s, const char *what) {
    return hy_fail(&s->b->env, HYDRA_DAMAGED, "damaged stream '%s'; got %s. " AGAIN, s->name, what);
}

typedef struct {
    hy_source *source;
    uint64_t at;
} Cursor;

static int take_u32(Cursor *c, uint32_t *value) {
    const uint8_t *p = c->source->data + c->at;
    if (c->source->size - c->at < 4) return 0;
    *value = p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    c->at += 4;
    return 1;
}

/* LEB128, in as few bytes as it takes, below 2^32. */
static int take_varint(Cursor *c, uint32_t least, uint32_t *value) {
    uint64_t sum = 0;
    int place;
    for (place = 0; place < 5; place++) {
        uint8_t byte;
        if (c->at >= c->source->size) return 0;
        byte = c->source->data[c->at++];
        sum |= (uint64_t)(byte & 127) << 7 * place;
        if (byte < 128) {
            *value = (uint32_t)sum;
            return (byte > 0 || place == 0) && sum >= least && sum >> 32 == 0;
        }
    }
    return 0;
}

/* Opens the chunk that `chunk` says: its checksum, then its coder. */
static hydra_status open_chunk(hy_source *s) {
    const hy_chunk *chunk;
    if (s->chunk == s->chunk_count) return HYDRA_OK;
    chunk = s->chunks + s->chunk;
    if (hy_crc32(s->data + s->start, chunk->size) != chunk->crc)
        return hy_damaged(s, "a chunk that does not fit its checksum");
    s->left = chunk->records;
    s->counted = 0;
    hy_coder_open(&s->coder, s->data + s->start, chunk->size);
    if (s->coder.damaged) return hy_damaged(s, "a chunk that begins as no writer begins one");
    return HYDRA_OK;
}

static hydra_status read_table(hy_source *s, uint64_t *numbers) {
    Cursor c;
    uint32_t count, i, crc, own;
    uint64_t records = 0, bytes = 0;
    c.source = s;
    c.at = 0;
    *numbers = 0;
    if (!take_varint(&c, 1, &count))
        return hy_damaged(s, "a table of chunks that no writer writes");
    /* A row takes seven bytes or more. */
    if (count > s->size / 7) return hy_damaged(s, "a table of chunks that is cut off");
    s->chunks = hy_alloc(&s->b->env, count, sizeof *s->chunks);
    if (!s->chunks) return s->b->env.error->status;
    s->chunk_count = count;
    for (i = 0; i < count; i++) {
        hy_chunk *x = s->chunks + i;
        if (!take_varint(&c, 1, &x->records) || !take_varint(&c, 0, &x->numbers) ||
            !take_varint(&c, 0, &x->size) || !take_u32(&c, &x->crc))
            return hy_damaged(s, "a table of chunks that no writer writes, or is cut off");
        records += x->records, bytes += x->size, *numbers += x->numbers;
    }
    own = hy_crc32(s->data, (size_t)c.at);
    if (!take_u32(&c, &crc) || crc != own)
        return hy_damaged(s, "a table of chunks that does not fit its checksum");
    if (records != s->record_count) return hy_damaged(s, "more or fewer records than there are");
    if (bytes != s->size - c.at) return hy_damaged(s, "chunks of another size than the stream");
    s->start = c.at;
    return HYDRA_OK;
}

hydra_status hy_source_open(hy_source *s, hydra_bundle *b, uint32_t index, uint32_t records) {
    hy_stream *stream = b->streams + index;
    const hy_file *file = b->files + stream->file;
    uint64_t numbers, whole = 0;
    uint32_t i;
    memset(s, 0, offsetof(hy_source, coder));
    s->b = b;
    s->name = file->places[stream->tensor].name.data;
    s->size = file->places[stream->tensor].size;
    s->record_count = records;
    s->file = file, s->tensor = stream->tensor;
    HY_TRY(hy_file_view(&b->env, file, stream->tensor, &s->data));
    HY_TRY(read_table(s, &numbers));
    stream->spent = numbers;
    for (i = 0; i < b->stream_count; i++) whole += b->streams[i].spent;
    if (whole > b->most_numbers)
        return hy_fail(
            &b->env, b->limits_numbers ? HYDRA_LIMIT : HYDRA_DAMAGED,
            "'%s' stands for more numbers than the bytes of the file can hold; got %llu, "
            "expected at most %llu. " AGAIN,
            s->name, (unsigned long long)whole, (unsigned long long)b->most_numbers);
    return open_chunk(s);
}

void hy_source_close(hy_source *s) {
    if (s->file) hy_file_release(&s->b->env, s->file, s->tensor, s->data);
    if (s->chunks) hy_free(&s->b->env, s->chunks, s->chunk_count, sizeof *s->chunks);
    s->data = NULL;
    s->chunks = NULL;
}

static void pass_chunk(hy_source *s) {
    s->record += s->left;
    s->start += s->chunks[s->chunk++].size;
    s->left = s->chunk < s->chunk_count ? s->chunks[s->chunk].records : 0;
}

hydra_status hy_source_seek(hy_source *s, uint32_t record) {
    uint32_t before = s->chunk;
    while (s->chunk < s->chunk_count && record - s->record >= s->left) pass_chunk(s);
    return s->chunk > before ? open_chunk(s) : HYDRA_OK;
}

hydra_status hy_source_pass(hy_source *s, uint32_t chunks) {
    while (chunks--) pass_chunk(s);
    return open_chunk(s);
}

hydra_status hy_source_spend(hy_source *s, uint64_t numbers) {
    s->counted += numbers;
    if (s->chunk == s->chunk_count || s->counted > s->chunks[s->chunk].numbers)
        return hy_damaged(s, "a chunk that holds more numbers than its table states");
    return HYDRA_OK;
}

hydra_status hy_source_end_record(hy_source *s) {
    const hy_chunk *chunk = s->chunks + s->chunk;
    if (s->chunk == s->chunk_count) return hy_damaged(s, "fewer records than there are");
    s->record++;
    if (--s->left) return HYDRA_OK;
    if (s->counted != chunk->numbers)
        return hy_damaged(s, "a chunk that holds fewer numbers than its table states");
    if (!hy_coder_ended(&s->coder))
        return hy_damaged(s, "a chunk that does not end where its last record does");
    s->start += chunk->size;
    s->chunk++;
    return open_chunk(s);
}

hydra_status hy_read_integer(hy_source *s, int kind, int64_t low, int64_t high, const char *what,
                             int32_t *value) {
    *value = hy_coder_integer(&s->coder, kind);
    if (s->coder.damaged || *value < low || *value > high)
        return hy_fail(&s->b->env, HYDRA_DAMAGED,
                       "damaged stream '%s'; got %ld for %s, expected %lld to %lld. " AGAIN,
                       s->name, (long)*value, what, (long long)low, (long long)high);
    return HYDRA_OK;
}

hydra_status hy_read_run(hy_source *s, int kind, uint32_t count, int64_t low, int64_t high,
                         const char *what, int32_t *values) {
    int64_t before = s->coder.first[kind];
    uint32_t i;
    for (i = 0; i < count; i++) {
        before += hy_coder_integer(&s->coder, kind);
        if (s->coder.damaged || before < low || before > high)
            return hy_fail(&s->b->env, HYDRA_DAMAGED,
                           "damaged stream '%s'; got %lld for %s, expected %lld to %lld. " AGAIN,
                           s->name, (long long)before, what, (long long)low, (long long)high);
        values[i] = (int32_t)before;
    }
    if (count) s->coder.first[kind] = values[0];
    return HYDRA_OK;
}
