/* The library's own test: what the command does not reach. Usage: api FILE...
 *
 * Every allocation fails once, and every read: the call must say so and leave nothing behind. */
#include "check.h"

typedef struct {
    const unsigned char *data;
    long left; /* reads until one fails; -1: none does */
} File;

static int read_at(void *user, uint64_t offset, void *buffer, size_t size) {
    File *file = user;
    if (file->left == 0) return -1;
    if (file->left > 0) file->left--;
    memcpy(buffer, file->data + offset, size);
    return 0;
}

typedef struct {
    uint64_t stated, got;
    long left;
    unsigned long sum; /* of the bytes, so that exports can be compared */
} Sink;

static int begin(void *user, const char *name, uint64_t size) {
    Sink *sink = user;
    (void)name;
    if (sink->left == 0) return -1;
    if (sink->left > 0) sink->left--;
    sink->stated = size;
    sink->got = 0;
    return 0;
}

static int write_some(void *user, const void *data, size_t size) {
    Sink *sink = user;
    const unsigned char *p = data;
    size_t i;
    if (sink->left == 0) return -1;
    if (sink->left > 0) sink->left--;
    sink->got += size;
    for (i = 0; i < size; i++) sink->sum = sink->sum * 31 + p[i];
    return 0;
}

static int end(void *user) {
    Sink *sink = user;
    EXPECT(sink->got == sink->stated);
    return 0;
}

static int take_pair(void *user, const hydra_pair *pair) {
    unsigned long *count = user;
    EXPECT((pair->k == 0) == (pair->a == NULL));
    ++*count;
    return 0;
}

static int take_tensor(void *user, const hydra_tensor *tensor) {
    unsigned long *count = user;
    EXPECT(tensor->data != NULL && tensor->key != NULL);
    ++*count;
    return 0;
}

static int stop(void *user, const hydra_pair *pair) {
    (void)user, (void)pair;
    return 1;
}

/* Ranks and the first module of a task, by a bundle that shares the contents of this one. */
static hydra_status share_and_read(hydra_bundle *of, const hydra_options *options,
                                   hydra_error *error) {
    hydra_bundle *bundle;
    hydra_status status = hydra_share(of, NULL, NULL, 0, options, &bundle, error);
    const uint32_t *ranks = NULL;
    EXPECT((status == HYDRA_OK) == (bundle != NULL));
    if (!status && hydra_task_count(bundle)) status = hydra_ranks(bundle, 0, &ranks, error);
    if (status == HYDRA_UNSUPPORTED) status = HYDRA_OK; /* a lossless task */
    if (!status && ranks) {
        hydra_module_info info = {.struct_size = sizeof info};
        hydra_factors factors;
        if (!hydra_describe_module(bundle, 0, 0, &info, NULL)) {
            factors.k = ranks[0];
            factors.b = malloc((size_t)info.m * ranks[0] * sizeof(double) + 1);
            factors.a = malloc((size_t)info.n * ranks[0] * sizeof(double) + 1);
            status = hydra_read_factors(bundle, 0, 0, 1, HYDRA_F64, &factors, error);
            free(factors.b), free(factors.a);
        }
    }
    hydra_close(bundle);
    return status;
}

/* Everything that a bundle can be asked; the first status that is not OK, or is not the task's. */
static hydra_status everything(const hydra_options *options, File *file, size_t size, Sink *counts,
                               int core) {
    hydra_reader reader;
    hydra_bundle *bundle;
    hydra_error error;
    hydra_sink sink;
    hydra_status status;
    size_t task;
    reader.read_at = read_at;
    reader.user = file;
    reader.size = size;
    sink.begin = begin, sink.write = write_some, sink.end = end, sink.user = counts;
    status = hydra_open(&reader, options, &bundle, &error);
    EXPECT((status == HYDRA_OK) == (bundle != NULL));
    EXPECT(status == error.status && (status == HYDRA_OK) == (error.text[0] == 0));
    if (!status && core) status = hydra_keep_core(bundle, 0, &error);
    for (task = 0; !status && task < hydra_task_count(bundle); task++) {
        hydra_task_info info = {.struct_size = sizeof info};
        const char *json;
        unsigned long pairs = 0, tensors = 0;
        EXPECT(!hydra_describe(bundle, task, &info, NULL));
        EXPECT(!hydra_config(bundle, task, &json, NULL) && json[0] == '{');
        if (!info.lossless) {
            status = hydra_pairs(bundle, task, HYDRA_F32, take_pair, &pairs, &error);
            EXPECT(status || pairs == info.modules);
        }
        if (!status) {
            status = hydra_tensors(bundle, task, take_tensor, &tensors, &error);
            EXPECT(status || tensors == info.tensors + info.carried);
        }
        if (!status) status = hydra_write_peft(bundle, task, NULL, &sink, &error);
        if (status == HYDRA_UNSUPPORTED) status = HYDRA_OK;
    }
    if (!status) status = hydra_verify(bundle, &error);
    if (!status) status = hydra_verify_peft(bundle, &error);
    if (!status) status = share_and_read(bundle, options, &error);
    EXPECT(status == HYDRA_OK || error.text[0]);
    hydra_close(bundle);
    return status;
}

static void fail_each(File *file, size_t size) {
    Heap heap = {-1, 0, 0, 0};
    Sink sink = {0, 0, -1, 0};
    hydra_options options = options_of(&heap);
    unsigned long whole;
    size_t most;
    long i;
    hydra_status status = HYDRA_MEMORY;
    EXPECT(everything(&options, file, size, &sink, 0) == HYDRA_OK);
    EXPECT(heap.bytes == 0);
    whole = sink.sum;
    sink.sum = 0;
    EXPECT(everything(&options, file, size, &sink, 1) == HYDRA_OK && sink.sum == whole);
    most = heap.most;
    for (i = 0; status; i++) {
        heap.left = i;
        heap.failed = 0;
        status = everything(&options, file, size, &sink, (int)(i & 1));
        EXPECT(status == (heap.failed ? HYDRA_MEMORY : HYDRA_OK));
        EXPECT(heap.bytes == 0);
    }
    heap.left = -1;
    for (i = 0, status = HYDRA_IO; status; i++) {
        file->left = i;
        status = everything(&options, file, size, &sink, 0);
        EXPECT(status == HYDRA_OK || status == HYDRA_IO);
        EXPECT(heap.bytes == 0);
    }
    file->left = -1;
    for (i = 0, status = HYDRA_IO; status; i += 1 + i / 20) {
        sink.left = i;
        status = everything(&options, file, size, &sink, 0);
        EXPECT(status == HYDRA_OK || status == HYDRA_IO);
        EXPECT(heap.bytes == 0);
    }
    sink.left = -1;
    /* A limit of memory is kept, and says that it is one. */
    options.limits.memory = most - 1;
    status = everything(&options, file, size, &sink, 0);
    EXPECT(status == HYDRA_LIMIT || everything(&options, file, size, &sink, 1) == HYDRA_LIMIT);
    EXPECT(heap.bytes == 0);
}

static void edges(const void *data, size_t size) {
    hydra_options options = {.struct_size = sizeof options};
    hydra_bundle *bundle = NULL;
    hydra_error error;
    hydra_task task = 77;
    hydra_task_info info = {.struct_size = sizeof info};
    EXPECT(hydra_open_memory(data, 5, NULL, &bundle, &error) == HYDRA_DAMAGED && !bundle);
    EXPECT(hydra_open_memory(data, size - 1, NULL, &bundle, NULL) == HYDRA_DAMAGED && !bundle);
    EXPECT(hydra_open_parts(NULL, NULL, 0, NULL, &bundle, &error) == HYDRA_USAGE);
    EXPECT(!hydra_open_memory(data, size, NULL, &bundle, &error));
    EXPECT(hydra_find(bundle, "no such task", &task, &error) == HYDRA_NOT_THERE && task == 77);
    EXPECT(hydra_describe(bundle, 1000, &info, &error) == HYDRA_USAGE);
    EXPECT(!hydra_describe(bundle, 0, &info, &error));
    EXPECT(!hydra_find(bundle, info.name, &task, &error) && task == 0);
    if (info.modules && !info.lossless) {
        EXPECT(hydra_pairs(bundle, 0, HYDRA_SAME, stop, NULL, &error) == HYDRA_STOPPED);
        EXPECT(error.status == HYDRA_STOPPED && strstr(error.text, "stopped at module"));
        hydra_close(bundle);
        options.limits.numbers = 1;
        EXPECT(!hydra_open_memory(data, size, &options, &bundle, &error));
        EXPECT(hydra_verify(bundle, &error) == HYDRA_LIMIT);
    }
    EXPECT(hydra_keep_core(bundle, 1, NULL) == HYDRA_LIMIT ||
           hydra_keep_core(bundle, 0, NULL) == HYDRA_OK);
    hydra_close(bundle);
    hydra_close(NULL);
    EXPECT(!strcmp(hydra_status_name(HYDRA_LIMIT), "limit") && hydra_status_name((hydra_status)99));
}

/* A bundle in memory is read without a copy of its streams: it allocates less often. */
static void no_copies(const void *data, size_t size) {
    enum { MANY = 1 << 30 };
    File file = {data, -1};
    Heap heap = {MANY, 0, 0, 0};
    hydra_options options = options_of(&heap);
    hydra_reader reader;
    hydra_bundle *bundle;
    long copied;
    reader.read_at = read_at, reader.user = &file, reader.size = size;
    EXPECT(!hydra_open(&reader, &options, &bundle, NULL) && !hydra_verify(bundle, NULL));
    hydra_close(bundle);
    copied = MANY - heap.left;
    heap.left = MANY;
    EXPECT(!hydra_open_memory(data, size, &options, &bundle, NULL) && !hydra_verify(bundle, NULL));
    hydra_close(bundle);
    EXPECT(MANY - heap.left < copied);
}

/* Structs of callers that were compiled against an older or a newer header. */
static void sizes(const void *data, size_t size) {
    struct {
        size_t struct_size;
        const char *name;
        unsigned char behind[256];
    } older = {2 * sizeof(size_t), NULL, {0}}, untouched = older;
    struct {
        hydra_task_info info;
        unsigned char added[64];
    } newer;
    struct {
        hydra_options options;
        unsigned char added[64];
    } options;
    struct {
        hydra_peft_options options;
        unsigned char added[64];
    } peft;
    hydra_module_info module = {.struct_size = 2 * sizeof(size_t)};
    hydra_gguf_options gguf = {.struct_size = 0};
    hydra_bundle *bundle = NULL;
    hydra_error error;
    hydra_sink sink = {begin, write_some, end, NULL};
    Sink counts = {0, 0, -1, 0};
    sink.user = &counts;
    memset(&options, 0, sizeof options);
    EXPECT(hydra_open_memory(data, size, &options.options, &bundle, &error) == HYDRA_USAGE);
    EXPECT(!bundle && error.status == HYDRA_USAGE && error.text[0]);
    options.options.struct_size = sizeof options;
    options.added[63] = 1; /* asks for what this library does not know */
    EXPECT(hydra_open_memory(data, size, &options.options, &bundle, &error) == HYDRA_USAGE);
    options.added[63] = 0;
    EXPECT(!hydra_open_memory(data, size, &options.options, &bundle, &error));

    memset(older.behind, 0xA5, sizeof older.behind);
    memset(untouched.behind, 0xA5, sizeof untouched.behind);
    EXPECT(!hydra_describe(bundle, 0, (hydra_task_info *)(void *)&older, &error));
    EXPECT(older.name && older.struct_size == untouched.struct_size);
    EXPECT(!memcmp(older.behind, untouched.behind, sizeof older.behind));
    memset(&newer, 0xA5, sizeof newer);
    newer.info.struct_size = sizeof newer;
    EXPECT(!hydra_describe(bundle, 0, &newer.info, &error) && newer.info.name == older.name);
    EXPECT(newer.info.struct_size == sizeof newer && !newer.added[0] && !newer.added[63]);
    newer.info.struct_size = 0;
    EXPECT(hydra_describe(bundle, 0, &newer.info, &error) == HYDRA_USAGE && error.text[0]);
    if (newer.info.modules) {
        EXPECT(!hydra_describe_module(bundle, 0, 0, &module, &error));
        EXPECT(module.path && !module.kind && !module.m);
        module.struct_size = 0;
        EXPECT(hydra_describe_module(bundle, 0, 0, &module, &error) == HYDRA_USAGE);
    }
    memset(&peft, 0, sizeof peft);
    EXPECT(hydra_write_peft(bundle, 0, &peft.options, &sink, &error) == HYDRA_USAGE);
    peft.options.struct_size = sizeof peft;
    peft.added[0] = 1;
    EXPECT(hydra_write_peft(bundle, 0, &peft.options, &sink, &error) == HYDRA_USAGE);
    EXPECT(hydra_write_gguf(bundle, 0, &gguf, &sink, &error) == HYDRA_USAGE);
    EXPECT(hydra_gguf_base("{}", 2, NULL, &gguf, &error) == HYDRA_USAGE);
    EXPECT(!counts.sum && error.text[0]);
    hydra_close(bundle);
}

/* The text of a base model's config comes from the caller's allocator as well. */
static void bases(void) {
    static const char text[] = "{\"model_type\":\"llama\",\"num_attention_heads\":4,"
                               "\"num_hidden_layers\":2}";
    Heap heap = {-1, 0, 0, 0};
    hydra_options options = options_of(&heap);
    hydra_status status = HYDRA_MEMORY;
    hydra_error error;
    long i;
    for (i = 0; status; i++) {
        hydra_gguf_options base = {.struct_size = sizeof base};
        heap.left = i;
        heap.failed = 0;
        status = hydra_gguf_base(text, sizeof text - 1, &options, &base, &error);
        EXPECT(status == (heap.failed ? HYDRA_MEMORY : HYDRA_OK) && heap.bytes == 0);
        EXPECT(base.blocks == (status ? 0u : 2u) && (base.architecture != NULL) == !status);
    }
    EXPECT(i > 1);
}

static void check_version(void) {
    char text[32];
    sprintf(text, "%d.%d.%d", HYDRA_VERSION_MAJOR, HYDRA_VERSION_MINOR, HYDRA_VERSION_PATCH);
    EXPECT(!strcmp(text, HYDRA_VERSION) && !strcmp(text, hydra_version()));
}

int main(int count, char **names) {
    int i;
    check_version();
    bases();
    for (i = 1; i < count; i++) {
        Bytes bytes = read_whole(names[i]);
        File file = {bytes.data, -1};
        int before = failures;
        fail_each(&file, bytes.size);
        edges(bytes.data, bytes.size);
        no_copies(bytes.data, bytes.size);
        sizes(bytes.data, bytes.size);
        if (failures > before) fprintf(stderr, "in %s\n", names[i]);
        free((void *)(uintptr_t)bytes.data);
    }
    if (count < 2) failures++;
    return failures ? 1 : 0;
}
