/* The command hydra: looks into bundles and takes tasks out of them. */
#include "../src/posix/posix.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hydra_files.h"
#include "scratch.h"

static const char HELP[] =
    "hydra " HYDRA_VERSION ": extract LoRA adapters from hydraopt bundles (format version 2)\n"
    "\n"
    "  hydra list BUNDLE                       list tasks, sizes and errors\n"
    "  hydra extract BUNDLE TASK -o OUTPUT     write one task as an adapter\n"
    "  hydra verify BUNDLE                     read and check every byte\n"
    "\n"
    "BUNDLE is a file, or a folder with a core and its tasks (hydraopt split).\n"
    "\n"
    "Options of extract:\n"
    "  --to peft       a PEFT folder (default)\n"
    "  --to gguf       a LoRA file for llama.cpp; needs --base\n"
    "  --to raw        a safetensors file: PATH.B (m, k) and PATH.A (k, n) of each module, and "
    "every\n"
    "                  other tensor under its own name\n"
    "  --dtype TYPE    type of the factors: same (default, as the original), f16, bf16, f32, f64\n"
    "  --base CONFIG   the base model's config.json, or its folder (gguf)\n"
    "  --              end of the options, for names that begin with -\n"
    "\n"
    "Examples:\n"
    "  hydra list phone.hydra.safetensors\n"
    "  hydra extract phone.hydra.safetensors numbers-de -o numbers-de\n"
    "  hydra extract phone.hydra.safetensors numbers-de -o de.gguf --to gguf --base "
    "llama/config.json\n"
    "\n"
    "Exit codes: 0 success, 1 error in the bundle or the output, 2 error in the command line,\n"
    "128 + N stopped by signal N.\n";

static int fail(const hydra_error *error) {
    fprintf(stderr, "hydra: %s\n", error->text);
    return error->status == HYDRA_USAGE ? 2 : 1;
}

/* got: the word that is wrong, or NULL. */
static int wrong(const char *what, const char *got) {
    fprintf(stderr, "hydra: %s%s%s. Run hydra --help\n", what, got ? "; got " : "", got ? got : "");
    return 2;
}

/* Of a task's file that is left out; user: how many there are. */
static void left_out(void *user, const hydra_error *error) {
    ++*(int *)user;
    fail(error);
}

static int list(hydra_bundle *bundle, int bad) {
    size_t count = hydra_task_count(bundle), i;
    const char *base = hydra_base_model(bundle);
    printf("%lu tasks of %s\n", (unsigned long)count, base ? base : "a base model without a name");
    printf("%10s %9s %9s  %s\n", "bytes", "error %", "harm %", "task");
    for (i = 0; i < count; i++) {
        hydra_task_info info = {.struct_size = sizeof info};
        char harm[16] = "-";
        hydra_describe(bundle, i, &info, NULL);
        if (info.harm_likely >= 0) sprintf(harm, "%.2f", 100 * info.harm_likely);
        printf("%10llu %9.2f %9s  %s%s\n",
               (unsigned long long)(info.stream_bytes + info.carried_bytes), 100 * info.error,
               harm, info.name, info.lossless ? " (lossless)" : "");
    }
    return bad > 0;
}

/* ---- raw ------------------------------------------------------------------------------------ */

typedef struct {
    char *name, *shape;
    const char *dtype;
    void *data;
    size_t size;
} Row;

typedef struct {
    Row *rows;
    size_t count;
    int failed;
} Rows;

static void add_row(Rows *rows, const char *name, const char *end, const char *dtype,
                    const uint64_t *shape, size_t axes, const void *data, size_t size) {
    Row *grown = realloc(rows->rows, (rows->count + 1) * sizeof *grown), *row;
    size_t i, room = 24 * axes + 1, used = 0;
    if (!grown) {
        rows->failed = 1;
        return;
    }
    rows->rows = grown;
    row = grown + rows->count++;
    row->name = malloc(strlen(name) + strlen(end) + 1);
    row->shape = malloc(room);
    row->data = malloc(size + 1);
    row->dtype = dtype;
    row->size = size;
    if (!row->name || !row->shape || !row->data) {
        rows->failed = 1;
        return;
    }
    sprintf(row->name, "%s%s", name, end);
    row->shape[0] = 0;
    for (i = 0; i < axes; i++)
        used += (size_t)snprintf(row->shape + used, room - used, "%s%llu", i ? "," : "",
                                 (unsigned long long)shape[i]);
    if (size) memcpy(row->data, data, size);
}

static int take_pair(void *user, const hydra_pair *pair) {
    static const char *const names[] = {"", "F16", "BF16", "F32", "F64"};
    static const size_t sizes[] = {0, 2, 2, 4, 8};
    uint64_t b[2], a[2];
    b[0] = pair->module->m, b[1] = a[0] = pair->k, a[1] = pair->module->n;
    add_row(user, pair->module->path, ".B", names[pair->dtype], b, 2, pair->b,
            (size_t)(b[0] * b[1]) * sizes[pair->dtype]);
    add_row(user, pair->module->path, ".A", names[pair->dtype], a, 2, pair->a,
            (size_t)(a[0] * a[1]) * sizes[pair->dtype]);
    return ((Rows *)user)->failed;
}

static int take_tensor(void *user, const hydra_tensor *tensor) {
    add_row(user, tensor->key, "", tensor->dtype, tensor->shape, tensor->axes, tensor->data,
            tensor->size);
    return ((Rows *)user)->failed;
}

static void put_json(FILE *out, const char *text) {
    fputc('"', out);
    for (; *text; text++) {
        const unsigned char *c = (const unsigned char *)text;
        if (*c == '"' || *c == '\\') fprintf(out, "\\%c", *c);
        else if (*c < 0x20 || *c == 0x7F) fprintf(out, "\\u%04x", (unsigned)*c);
        else if (*c == 0xC2 && c[1] < 0xA0) fprintf(out, "\\u%04x", (unsigned)c[1]), text++;
        else fputc(*text, out);
    }
    fputc('"', out);
}

static int by_name(const void *one, const void *other) {
    return strcmp(*(const char *const *)one, *(const char *const *)other);
}

/* A name that two tensors would have, or NULL. */
static const char *twice(Rows *rows) {
    const char **names = malloc((rows->count + 1) * sizeof *names), *found = NULL;
    size_t i;
    if (!names) return rows->failed = 1, NULL;
    for (i = 0; i < rows->count; i++) names[i] = rows->rows[i].name;
    qsort(names, rows->count, sizeof *names, by_name);
    for (i = 1; i < rows->count && !found; i++)
        if (!strcmp(names[i - 1], names[i])) found = names[i];
    free(names);
    return found;
}

static int write_file(const Rows *rows, const char *path) {
    FILE *head = tmpfile(), *out;
    size_t i, at = 0;
    long size;
    int c, failed;
    if (!head) return -1;
    fputc('{', head);
    for (i = 0; i < rows->count; i++) {
        const Row *row = rows->rows + i;
        if (i) fputc(',', head);
        put_json(head, row->name);
        fprintf(head, ":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%lu,%lu]}", row->dtype,
                row->shape, (unsigned long)at, (unsigned long)(at + row->size));
        at += row->size;
    }
    fputc('}', head);
    while (ftell(head) % 8) fputc(' ', head);
    size = ftell(head);
    out = fopen(path, "wbx");
    if (!out) {
        fclose(head);
        return -1;
    }
    for (i = 0; i < 8; i++) fputc((int)((unsigned long long)size >> 8 * i & 255), out);
    rewind(head);
    while ((c = fgetc(head)) != EOF) fputc(c, out);
    for (i = 0; i < rows->count; i++) fwrite(rows->rows[i].data, 1, rows->rows[i].size, out);
    failed = ferror(out) || ferror(head) || fflush(out) || fsync(fileno(out));
    fclose(head);
    return fclose(out) || failed;
}

/* What the output of extract is called until it is whole. */
static char scratch[4096];

static void stop(int sign) {
    scratch_remove(scratch);
    _exit(128 + sign);
}

static int extract_raw(hydra_bundle *bundle, hydra_task task, hydra_dtype dtype, const char *path) {
    Rows rows = {NULL, 0, 0};
    hydra_task_info info = {.struct_size = sizeof info};
    hydra_error error;
    hydra_status status = hydra_describe(bundle, task, &info, &error);
    const char *same = NULL;
    int failed = 0;
    size_t i;
    if (!status && !info.lossless)
        status = hydra_pairs(bundle, task, dtype, take_pair, &rows, &error);
    if (!status) status = hydra_tensors(bundle, task, take_tensor, &rows, &error);
    if (!status && !rows.failed) same = twice(&rows);
    if (rows.failed) {
        fprintf(stderr, "hydra: %s: no memory is left\n", path);
        failed = 1;
    } else if (status) {
        failed = fail(&error);
    } else if (same) {
        fprintf(stderr, "hydra: %s: two tensors have one name; got ", path);
        put_json(stderr, same), fputc('\n', stderr);
        failed = 1;
    } else if (write_file(&rows, scratch)) {
        fprintf(stderr, "hydra: %s: cannot be written; got %s\n", path, strerror(errno));
        scratch_remove(scratch);
        failed = 1;
    }
    for (i = 0; i < rows.count; i++)
        free(rows.rows[i].name), free(rows.rows[i].shape), free(rows.rows[i].data);
    free(rows.rows);
    return failed;
}

/* ---- gguf ----------------------------------------------------------------------------------- */

/* The text of config.json, of the file itself or in a folder. */
static char *read_config(const char *path, size_t *size) {
    struct stat about;
    char name[4096], *text = NULL;
    FILE *file;
    if (strlen(path) + 20 > sizeof name) return NULL;
    strcpy(name, path);
    if (!stat(path, &about) && S_ISDIR(about.st_mode)) strcat(name, "/config.json");
    file = fopen(name, "rb");
    if (!file) return NULL;
    if (!fseek(file, 0, SEEK_END)) {
        long end = ftell(file);
        rewind(file);
        text = end >= 0 && end < 1 << 24 ? malloc((size_t)end + 1) : NULL;
        *size = text ? fread(text, 1, (size_t)end, file) : 0;
    }
    fclose(file);
    return text;
}

static int extract_gguf(hydra_bundle *bundle, hydra_task task, hydra_dtype dtype,
                        const char *base) {
    hydra_gguf_options options;
    hydra_error error;
    hydra_status status;
    size_t size = 0;
    char *text;
    text = read_config(base, &size);
    if (!text) {
        fprintf(stderr, "hydra: %s: cannot be read; got %s\n", base, strerror(errno));
        return 1;
    }
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.dtype = dtype;
    options.sync = 1;
    status = hydra_gguf_base(text, size, NULL, &options, &error);
    free(text);
    if (!status) status = hydra_write_gguf_file(bundle, task, &options, scratch, &error);
    return status ? fail(&error) : 0;
}

/* ---- the command line ----------------------------------------------------------------------- */

typedef struct {
    const char *verb, *bundle, *task, *output, *to, *dtype, *base;
    const char *option; /* the last that was given, or NULL */
} Line;

static int parse(int count, char **words, Line *line) {
    static const char *const names[] = {"-o", "--output", "--to", "--dtype", "--base"};
    const char **const places[] = {&line->output, &line->output, &line->to, &line->dtype,
                                   &line->base};
    const char **plain[3];
    int i, at = 0, plain_alone = 0; /* behind "--" nothing is an option */
    size_t j;
    plain[0] = &line->verb, plain[1] = &line->bundle, plain[2] = &line->task;
    for (i = 1; i < count; i++) {
        if (!plain_alone && !strcmp(words[i], "--")) {
            plain_alone = 1;
            continue;
        }
        for (j = plain_alone ? 5 : 0; j < 5 && strcmp(words[i], names[j]);) j++;
        if (j < 5) {
            if (++i == count) return wrong("an option lacks its value", names[j]);
            line->option = names[j];
            *places[j] = words[i];
        } else if (!plain_alone && words[i][0] == '-' && words[i][1]) {
            return wrong("an unknown option", words[i]);
        } else if (at == 3) {
            return wrong("too many arguments", words[i]);
        } else {
            *plain[at++] = words[i];
        }
    }
    return 0;
}

static int dtype_of(const char *name, hydra_dtype *dtype) {
    static const char *const names[] = {"same", "f16", "bf16", "f32", "f64",
                                        "same", "float16", "bfloat16", "float32", "float64"};
    size_t i;
    for (i = 0; i < 10; i++)
        if (!strcmp(name, names[i])) return *dtype = (hydra_dtype)(i % 5), 1;
    return 0;
}

static int extract(hydra_bundle *bundle, const Line *line) {
    static const int signs[] = {SIGINT, SIGTERM, SIGHUP};
    hydra_peft_options options = {.struct_size = sizeof options};
    hydra_task task;
    hydra_error error;
    size_t i;
    int code, is_folder = *line->to == 'p';
    if (!line->task || !line->output) return wrong("extract needs TASK and -o OUTPUT", NULL);
    if (!dtype_of(line->dtype, &options.dtype))
        return wrong("--dtype is same, f16, bf16, f32 or f64", line->dtype);
    if (hydra_find(bundle, line->task, &task, &error)) return fail(&error);
    if (strcmp(line->to, "peft") && strcmp(line->to, "gguf") && strcmp(line->to, "raw"))
        return wrong("--to is peft, gguf or raw", line->to);
    if (*line->to == 'g' && !line->base)
        return wrong("--to gguf needs --base, the base model's config.json", NULL);
    if (scratch_open(line->output, scratch, sizeof scratch, &error) ||
        scratch_check(line->output, is_folder, &error))
        return fail(&error);
    for (i = 0; i < 3; i++) /* what is ignored, as by nohup, stays so */
        if (signal(signs[i], stop) == SIG_IGN) signal(signs[i], SIG_IGN);
    options.sync = 1; /* what is renamed is on the disk */
    if (*line->to == 'g') code = extract_gguf(bundle, task, options.dtype, line->base);
    else if (*line->to == 'r') code = extract_raw(bundle, task, options.dtype, line->output);
    else code = hydra_write_peft_folder(bundle, task, &options, scratch, &error) ? fail(&error) : 0;
    if (code) return code;
    return scratch_done(scratch, line->output, is_folder, &error) ? fail(&error) : 0;
}

static int run(int count, char **words) {
    Line line = {NULL, NULL, NULL, NULL, "peft", "same", NULL, NULL};
    const char *more;
    hydra_bundle *bundle;
    hydra_error error;
    int i, code, bad = 0;
    for (i = 1; i < count && strcmp(words[i], "--"); i++) {
        if (!strcmp(words[i], "--help") || !strcmp(words[i], "-h")) return fputs(HELP, stdout) < 0;
        if (!strcmp(words[i], "--version")) return puts("hydra " HYDRA_VERSION) < 0;
    }
    if (count < 2) return fputs(HELP, stderr), 2;
    code = parse(count, words, &line);
    if (code) return code;
    if (!line.bundle) return wrong("a bundle is missing", NULL);
    if (strcmp(line.verb, "list") && strcmp(line.verb, "extract") && strcmp(line.verb, "verify"))
        return wrong("the verbs are list, extract and verify", line.verb);
    more = line.task ? line.task : line.option;
    if (more && strcmp(line.verb, "extract")) {
        fprintf(stderr,
                "hydra: %s takes a bundle and nothing else; got %s. Usage: hydra %s BUNDLE\n",
                line.verb, more, line.verb);
        return 2;
    }
    if (strcmp(line.verb, "verify")
            ? hydra_open_readable(line.bundle, line.task, NULL, left_out, &bad, &bundle, &error)
            : hydra_open_path(line.bundle, NULL, &bundle, &error))
        return fail(&error);
    if (!strcmp(line.verb, "list")) {
        code = list(bundle, bad);
    } else if (!strcmp(line.verb, "extract")) {
        code = extract(bundle, &line);
    } else {
        code = hydra_verify(bundle, &error) || hydra_verify_peft(bundle, &error) ? fail(&error) : 0;
        if (!code)
            printf("%s: sound, %lu tasks\n", line.bundle, (unsigned long)hydra_task_count(bundle));
    }
    hydra_close(bundle);
    return code;
}

int main(int count, char **words) {
    int code = run(count, words);
    if (!(fflush(stdout) | ferror(stdout))) return code;
    fprintf(stderr, "hydra: the standard output cannot be written; got %s\n", strerror(errno));
    return code ? code : 1;
}
