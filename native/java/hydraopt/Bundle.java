package hydraopt;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/**
 * An open hydraopt bundle: many LoRA adapters ("tasks") of one base model in one file. All methods
 * may be called from any thread; one call runs at a time. After close every method throws
 * IllegalStateException. Android and desktop Java.
 */
public final class Bundle implements AutoCloseable {
    static {
        System.loadLibrary("hydra_jni");
    }

    /** Receives one module of a task at a time. */
    public interface FactorReader {
        void accept(Factors factors);
    }

    private long handle;

    private Bundle(long handle) {
        this.handle = handle;
    }

    /** Opens a bundle file, or a folder of a core and task files. */
    public static Bundle open(String path) throws HydraException {
        return new Bundle(open(utf8(path)));
    }

    /** Returns the name of the base model, or null if the bundle does not state it. */
    public synchronized String baseModel() {
        return text(baseModel(handle()));
    }

    /** Returns facts about every task, by name. */
    public synchronized List<Task> tasks() {
        List<Task> all = new ArrayList<>();
        for (long i = 0; i < taskCount(handle()); i++) all.add(describe(handle, i));
        return Collections.unmodifiableList(all);
    }

    /** Decodes what all tasks share once and keeps it, so that switching tasks is fast. */
    public synchronized void keepCore() throws HydraException {
        keepCore(handle());
    }

    /** Calls the reader with every module of a task. An exception of the reader ends the call. */
    public synchronized void readFactors(String task, FactorReader reader) throws HydraException {
        readFactors(handle(), utf8(task), reader);
    }

    /** Writes a task as a PEFT adapter. The folder must not exist. */
    public synchronized void writePeft(String task, String folder) throws HydraException {
        writePeft(handle(), utf8(task), utf8(folder));
    }

    /**
     * Writes a task as a LoRA GGUF for llama.cpp. baseConfig is the text of the base model's
     * config.json. The file must not exist.
     */
    public synchronized void writeGguf(String task, String baseConfig, String file)
            throws HydraException {
        writeGguf(handle(), utf8(task), utf8(baseConfig), utf8(file));
    }

    /** Reads every byte and checks all checksums and streams. */
    public synchronized void verify() throws HydraException {
        verify(handle());
    }

    /** Closes the file and frees the memory. Further calls do nothing. */
    @Override
    public synchronized void close() {
        close(handle);
        handle = 0;
    }

    private long handle() {
        if (handle == 0) throw new IllegalStateException("the bundle is closed; open it again");
        return handle;
    }

    /** Returns the bytes of a text for C, which ends it with a zero byte. */
    private static byte[] utf8(String text) {
        if (text.indexOf('\0') >= 0) throw new IllegalArgumentException("a name contains \\0");
        return text.getBytes(StandardCharsets.UTF_8);
    }

    /** Returns a text of C. JNI's own strings are not UTF-8. */
    static String text(byte[] utf8) {
        return utf8 == null ? null : new String(utf8, StandardCharsets.UTF_8);
    }

    private static native long open(byte[] path) throws HydraException;

    private static native void close(long handle);

    private static native byte[] baseModel(long handle);

    private static native long taskCount(long handle);

    private static native Task describe(long handle, long task);

    private static native void keepCore(long handle) throws HydraException;

    private static native void readFactors(long handle, byte[] task, FactorReader reader)
            throws HydraException;

    private static native void writePeft(long handle, byte[] task, byte[] folder)
            throws HydraException;

    private static native void writeGguf(long handle, byte[] task, byte[] config, byte[] file)
            throws HydraException;

    private static native void verify(long handle) throws HydraException;
}
