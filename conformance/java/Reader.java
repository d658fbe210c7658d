package reader;

import static reader.Records.*;
import static reader.Rows.*;
import static reader.Values.*;

import java.io.IOException;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import reader.Json.Refused;

/** Reads bundles without adapters (conformance/README.md): java -cp CLASSES reader.Reader TABLES.H PATH... */
public final class Reader {
    /** Bytes of a coded tensor in its dtype. */
    static byte[] rounded(double[][] matrix, Map<String, Object> entry) {
        long[] shape = shape(entry.get("shape"), 1, 1L << 37);
        int n = matrix.length, k = matrix[0].length, width = width(entry.get("dtype"));
        boolean turned = shape.length > 0 && shape[0] < (long) n * k / shape[0];
        ByteBuffer out = ByteBuffer.allocate(n * k * width).order(ByteOrder.LITTLE_ENDIAN);
        for (int at = 0; at < n * k; at++) {
            double x = turned ? matrix[at % n][at / n] : matrix[at / k][at % k];
            switch ((String) entry.get("dtype")) {
                case "F64" -> out.putDouble(x);
                case "F32" -> out.putFloat((float) Math.max(-Float.MAX_VALUE, Math.min(Float.MAX_VALUE, x)));
                case "F16" -> out.putShort((short) half(Math.max(-65504, Math.min(65504, x))));
                default -> {
                    int bits = Float.floatToRawIntBits((float) Math.max(-BF16, Math.min(BF16, x)));
                    out.putShort((short) (bits + 0x7FFF + (bits >> 16 & 1) >> 16));
                }
            }
        }
        return out.array();
    }

    static final double BF16 = Float.intBitsToFloat(0x7F7F0000);

    /** The bits of the nearest half, ties to even. */
    static int half(double x) {
        int sign = 1 / x < 0 || x < 0 ? 1 << 15 : 0, e = Math.max(Math.getExponent(x), -14);
        // Subnormal numbers have the exponent of the smallest normal ones; a carry goes to the next exponent.
        long steps = (long) Math.rint(Math.scalb(Math.abs(x), 10 - e));
        return sign | (int) ((long) (e + 14) * 1024 + steps);
    }

    /** k, and the hash of B and A after the balance of adapters.md, section 3. */
    static Object factors(double[][] b, double[][] a) {
        int k = b[0].length;
        ByteBuffer out = ByteBuffer.allocate(8 * k * (a.length + b.length)).order(ByteOrder.LITTLE_ENDIAN);
        int[] s = new int[k];
        for (int j = 0; j < k; j++) {
            double nb = norm(b, j), na = norm(a, j);
            if (nb > 0 && na > 0) {
                double ratio = nb / na;
                int e = Math.getExponent(ratio); // half of log2(ratio) is e/2 to (e + 1)/2
                boolean tie = ratio == Math.scalb(1.0, e);
                s[j] = e % 2 == 0 ? e / 2 : tie ? (int) Math.rint(e / 2.0) : Math.floorDiv(e + 1, 2);
            }
        }
        for (double[] row : b) for (int j = 0; j < k; j++) out.putDouble(Math.scalb(row[j], -s[j]));
        for (int j = 0; j < k; j++) for (double[] row : a) out.putDouble(Math.scalb(row[j], s[j]));
        return "[" + k + ", \"" + hash(out.array()) + "\"]";
    }

    static double norm(double[][] side, int j) {
        double sum = 0;
        for (double[] row : side) sum += row[j] * row[j];
        return Math.sqrt(sum);
    }

    final Bundle bundle;
    final double[][][] bases, commons;

    Reader(Bundle bundle) {
        this.bundle = bundle;
        List<Map<String, Object>> modules = bundle.modules, entries = bundle.entries;
        bases = new double[2 * modules.size()][][];
        commons = new double[entries.size()][][];
        if (bundle.tensors.get("shared").length == 0) return;
        Stream stream = new Stream(bundle, "shared", modules.size() + entries.size());
        for (int i = 0; i < bases.length; i++) {
            if (i % 2 == 0) stream.begin();
            int n = integer(modules.get(i / 2), i % 2 == 0 ? "m" : "n");
            int q = (int) stream.side(0, 0, Math.min(n, 1 << 16), 28);
            stream.spend((long) n * q);
            if (q > 0) bases[i] = scaled(stream.block(n, q, 0), stream.powers(q));
            if (i % 2 == 1) stream.finish();
        }
        for (int i = 0; i < commons.length; i++) {
            stream.begin();
            long[] size = matrix(entries.get(i));
            long before = stream.spent;
            double[][] matrix = new double[(int) size[0]][(int) size[1]];
            addRecord(stream, matrix, null, true, true);
            if (stream.spent > before) commons[i] = matrix;
            stream.finish();
        }
    }

    String task(Map<String, Object> task) {
        Map<String, Object> found = new LinkedHashMap<>(), others = new LinkedHashMap<>();
        for (Object blob : list(task.get("carried"), 9)) carried(((BigInteger) blob).intValue(), others);
        boolean lacksBase = false;
        if (task.get("content") != null) {
            int[] own = (int[]) task.get("modules"), coded = (int[]) task.get("tensors");
            Stream stream = new Stream(bundle, "task/" + task.get("content"), own.length + coded.length);
            Start start = Rows.start(task);
            for (int i : own) {
                stream.begin();
                Map<String, Object> module = bundle.modules.get(i);
                int m = integer(module, "m"), n = integer(module, "n");
                double[][][] sides = parts(stream, m, n, bases[2 * i], bases[2 * i + 1], start);
                found.put((String) module.get("path"), factors(sides[0], sides[1]));
                stream.finish();
            }
            for (int i : coded) {
                stream.begin();
                Map<String, Object> entry = bundle.entries.get(i);
                long[] size = matrix(entry);
                double[][] matrix = new double[(int) size[0]][(int) size[1]];
                if (entry.get("kind").equals("tuner_ones")) for (double[] row : matrix) Arrays.fill(row, 1);
                addRecord(stream, matrix, commons[i], false, entry.get("base") != null);
                lacksBase |= entry.get("base") != null;
                others.put((String) entry.get("key"), tensor(entry, rounded(matrix, entry)));
                stream.finish();
            }
        }
        String tensors = lacksBase ? "\"unsupported\"" : printed(others);
        return "{\"modules\": " + printed(found) + ", \"tensors\": " + tensors + "}";
    }

    static String tensor(Map<String, Object> item, byte[] data) {
        return "[\"" + item.get("dtype") + "\", " + item.get("shape") + ", \"" + hash(data) + "\"]";
    }

    /** The tensors of a blob (format.md, section 3). */
    void carried(int index, Map<String, Object> found) {
        List<Map<String, Object>> items = bundle.blobs.get(index);
        long size = 0;
        for (Map<String, Object> item : items) size += item.get("of") == null ? (Long) item.get("bytes") : 0;
        byte[] content = inflate(bundle.tensors.get("carried/" + index), size, size);
        byte[][] made = new byte[items.size()][];
        int start = 0;
        for (int width : new int[] {8, 4, 2, 1}) {
            int all = 0, done = 0;
            for (Map<String, Object> item : items)
                if (item.get("of") == null && width(item.get("dtype")) == width) all += integer(item, "bytes");
            for (int i = 0; i < items.size(); i++) {
                if (items.get(i).get("of") != null || width(items.get(i).get("dtype")) != width) continue;
                made[i] = new byte[integer(items.get(i), "bytes")];
                for (int j = 0; j < made[i].length; j++, done++)
                    made[i][j] = content[start + done % width * (all / width) + done / width];
            }
            start += all;
        }
        for (int i = 0; i < made.length; i++) {
            Object of = items.get(i).get("of");
            byte[] data = of == null ? made[i] : made[((BigInteger) of).intValue()];
            found.put((String) items.get(i).get("key"), tensor(items.get(i), data));
        }
    }

    static String quoted(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char c : text.toCharArray())
            out.append(c < 32 || c > 126 || c == '"' || c == '\\' ? String.format("\\u%04x", (int) c) : "" + c);
        return out.append('"').toString();
    }

    static String printed(Map<String, Object> object) {
        List<String> items = new ArrayList<>();
        object.forEach((key, value) -> items.add(quoted(key) + ": " + value));
        return "{" + String.join(", ", items) + "}";
    }

    static String result(Path path) throws IOException {
        try {
            Reader reader = new Reader(Bundle.open(path));
            Map<String, Object> tasks = new LinkedHashMap<>();
            for (Map<String, Object> task : reader.bundle.tasks)
                tasks.put((String) task.get("name"), reader.task(task));
            return "{\"verify\": \"ok\", \"tasks\": " + printed(tasks) + "}";
        } catch (Refused refused) {
            return String.format("{\"verify\": \"%s\", \"ground\": \"%s\", \"tasks\": {}}", refused.word,
                    refused.getMessage());
        }
    }

    public static void main(String[] words) throws IOException {
        Stream.readTables(Path.of(words[0]));
        for (String path : Arrays.copyOfRange(words, 1, words.length)) System.out.println(result(Path.of(path)));
    }
}
