/* The native methods of hydraopt.Bundle over libhydra. */
#include <jni.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "hydra_files.h"

#define JAVA(type, name) JNIEXPORT type JNICALL Java_hydraopt_Bundle_##name

static hydra_bundle *bundle_of(jlong handle) { return (hydra_bundle *)(intptr_t)handle; }

static void throw_named(JNIEnv *env, const char *class_name, const char *text) {
    jclass type = (*env)->FindClass(env, class_name);
    if (type) (*env)->ThrowNew(env, type, text);
}

/* The bytes of a text, or NULL: for a text that is NULL, and with an exception. */
static jbyteArray bytes_of(JNIEnv *env, const char *text) {
    jsize size = text ? (jsize)strlen(text) : 0;
    jbyteArray bytes = text ? (*env)->NewByteArray(env, size) : NULL;
    if (bytes) (*env)->SetByteArrayRegion(env, bytes, 0, size, (const jbyte *)text);
    return bytes;
}

/* The bytes as a text, for free(); NULL with an exception. */
static char *text_of(JNIEnv *env, jbyteArray bytes) {
    jsize size = (*env)->GetArrayLength(env, bytes);
    char *text = malloc((size_t)size + 1);
    if (!text) {
        throw_named(env, "java/lang/OutOfMemoryError", "out of memory");
        return NULL;
    }
    (*env)->GetByteArrayRegion(env, bytes, 0, size, (jbyte *)text);
    text[size] = 0;
    return text;
}

/* An object of a class of ours, by its only constructor. NULL with an exception. */
static jobject object_of(JNIEnv *env, const char *class_name, const char *signature,
                         const jvalue *values) {
    jclass type = (*env)->ExceptionCheck(env) ? NULL : (*env)->FindClass(env, class_name);
    jmethodID constructor = type ? (*env)->GetMethodID(env, type, "<init>", signature) : NULL;
    return constructor ? (*env)->NewObjectA(env, type, constructor, values) : NULL;
}

static void throw_error(JNIEnv *env, const hydra_error *error) {
    jvalue values[2];
    jobject exception;
    if ((*env)->ExceptionCheck(env)) return; /* of a FactorReader */
    values[0].l = bytes_of(env, hydra_status_name(error->status));
    values[1].l = bytes_of(env, error->text);
    exception = object_of(env, "hydraopt/HydraException", "([B[B)V", values);
    if (exception) (*env)->Throw(env, (jthrowable)exception);
}

JAVA(jlong, open)(JNIEnv *env, jclass self, jbyteArray path) {
    hydra_bundle *bundle = NULL;
    hydra_error error;
    char *text = text_of(env, path);
    (void)self;
    if (text && hydra_open_path(text, NULL, &bundle, &error)) throw_error(env, &error);
    free(text);
    return (jlong)(intptr_t)bundle;
}

JAVA(void, close)(JNIEnv *env, jclass self, jlong handle) {
    (void)env, (void)self;
    hydra_close(bundle_of(handle));
}

JAVA(jbyteArray, baseModel)(JNIEnv *env, jclass self, jlong handle) {
    (void)self;
    return bytes_of(env, hydra_base_model(bundle_of(handle)));
}

JAVA(jlong, taskCount)(JNIEnv *env, jclass self, jlong handle) {
    (void)env, (void)self;
    return (jlong)hydra_task_count(bundle_of(handle));
}

JAVA(jobject, describe)(JNIEnv *env, jclass self, jlong handle, jlong task) {
    hydra_task_info info = {.struct_size = sizeof info};
    hydra_error error;
    jvalue values[6];
    (void)self;
    if (hydra_describe(bundle_of(handle), (hydra_task)task, &info, &error)) {
        throw_error(env, &error);
        return NULL;
    }
    values[0].l = bytes_of(env, info.name);
    values[1].l = bytes_of(env, info.base_model);
    values[2].j = (jlong)info.modules;
    values[3].j = (jlong)(info.stream_bytes + info.carried_bytes);
    values[4].d = info.error;
    values[5].d = info.harm_likely;
    return object_of(env, "hydraopt/Task", "([B[BJJDD)V", values);
}

JAVA(void, keepCore)(JNIEnv *env, jclass self, jlong handle) {
    hydra_error error;
    (void)self;
    if (hydra_keep_core(bundle_of(handle), 0, &error)) throw_error(env, &error);
}

JAVA(void, verify)(JNIEnv *env, jclass self, jlong handle) {
    hydra_error error;
    (void)self;
    if (hydra_verify(bundle_of(handle), &error)) throw_error(env, &error);
}

/* Finds a task by its name; nonzero with an exception. */
static int find(JNIEnv *env, hydra_bundle *bundle, jbyteArray name, hydra_task *task) {
    hydra_error error;
    char *text = text_of(env, name);
    int failed = !text || hydra_find(bundle, text, task, &error);
    if (text && failed) throw_error(env, &error);
    free(text);
    return failed;
}

typedef struct {
    JNIEnv *env;
    jobject reader;
    jmethodID accept;
} taker;

static jfloatArray floats_of(JNIEnv *env, const void *numbers, uint64_t count) {
    jfloatArray floats;
    if (count > INT32_MAX) {
        throw_named(env, "java/lang/OutOfMemoryError", "a module is larger than a Java array");
        return NULL;
    }
    floats = (*env)->NewFloatArray(env, (jsize)count);
    if (floats && count) (*env)->SetFloatArrayRegion(env, floats, 0, (jsize)count, numbers);
    return floats;
}

static int take_pair(void *user, const hydra_pair *pair) {
    const taker *to = user;
    JNIEnv *env = to->env;
    uint32_t m = pair->module->m, n = pair->module->n, k = pair->k;
    jvalue values[6];
    jobject factors = NULL;
    if ((*env)->PushLocalFrame(env, 8)) return 1;
    values[0].l = bytes_of(env, pair->module->path);
    values[1].i = (jint)m;
    values[2].i = (jint)n;
    values[3].i = (jint)k;
    values[4].l = values[0].l ? floats_of(env, pair->b, (uint64_t)m * k) : NULL;
    values[5].l = values[4].l ? floats_of(env, pair->a, (uint64_t)k * n) : NULL;
    if (values[5].l) factors = object_of(env, "hydraopt/Factors", "([BIII[F[F)V", values);
    if (factors) (*env)->CallVoidMethod(env, to->reader, to->accept, factors);
    (*env)->PopLocalFrame(env, NULL);
    return (*env)->ExceptionCheck(env);
}

JAVA(void, readFactors)(JNIEnv *env, jclass self, jlong handle, jbyteArray name, jobject reader) {
    hydra_bundle *bundle = bundle_of(handle);
    hydra_error error;
    hydra_task task;
    taker to = {env, reader, NULL};
    jclass type = (*env)->FindClass(env, "hydraopt/Bundle$FactorReader");
    (void)self;
    if (type) to.accept = (*env)->GetMethodID(env, type, "accept", "(Lhydraopt/Factors;)V");
    if (!to.accept || find(env, bundle, name, &task)) return;
    if (hydra_pairs(bundle, task, HYDRA_F32, take_pair, &to, &error)) throw_error(env, &error);
}

JAVA(void, writePeft)(JNIEnv *env, jclass self, jlong handle, jbyteArray name, jbyteArray folder) {
    hydra_bundle *bundle = bundle_of(handle);
    hydra_error error;
    hydra_task task;
    char *path;
    (void)self;
    if (find(env, bundle, name, &task)) return;
    path = text_of(env, folder);
    if (path && hydra_write_peft_folder(bundle, task, NULL, path, &error)) throw_error(env, &error);
    free(path);
}

JAVA(void, writeGguf)(JNIEnv *env, jclass self, jlong handle, jbyteArray name, jbyteArray config,
                      jbyteArray file) {
    hydra_bundle *bundle = bundle_of(handle);
    hydra_gguf_options options = {.struct_size = sizeof options};
    hydra_error error;
    hydra_task task;
    char *json, *path;
    (void)self;
    if (find(env, bundle, name, &task)) return;
    json = text_of(env, config);
    path = json ? text_of(env, file) : NULL;
    if (path && (hydra_gguf_base(json, strlen(json), NULL, &options, &error) ||
                 hydra_write_gguf_file(bundle, task, &options, path, &error)))
        throw_error(env, &error);
    free(json);
    free(path);
}
