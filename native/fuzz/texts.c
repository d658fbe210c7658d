/* Fuzz target: the parsers alone: JSON, names of tensors, base64, numbers, zlib. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    hy_env env;
    hydra_error error;
    fuzz_faults faults = FUZZ_NO_FAULTS;
    hydra_options options = fuzz_options(&faults);
    hy_json json;
    hy_text text;
    hy_slice rest;
    hydra_gguf_options base = {.struct_size = sizeof base};
    uint8_t *codes, unpacked[1 << 12];
    hy_env_open(&env, &options, &error);
    if (!hy_json_copy(&json, &env, (const char *)data, size, "a text")) {
        hy_text_open(&text, &env);
        hy_dump(&text, &json, 0, HY_COMPACT);
        hy_dump(&text, &json, 0, HY_PRETTY);
        hy_text_close(&text);
    }
    hy_json_close(&json);
    hy_inflate(&env, data, size, unpacked, sizeof unpacked, "a text");
    fuzz_check(hydra_gguf_base((const char *)data, size, &options, &base, &error), &error, &faults);
    rest.data = (const char *)data;
    rest.size = size;
    hy_text_open(&text, &env);
    hy_parse_key(&text, NULL, rest);
    hy_peft_name(&text, rest, 0);
    hy_peft_name(&text, rest, 1);
    hy_text_close(&text);
    codes = malloc(rest.size + 4);
    if (codes) hy_base64(rest, codes);
    free(codes);
    if (env.used || faults.held) abort(); /* something was not given back */
    return 0;
}
