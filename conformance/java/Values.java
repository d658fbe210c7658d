package reader;

import static reader.Json.check;

import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.zip.DataFormatException;
import java.util.zip.Inflater;

/** Values of a manifest, its tables, and packed bytes (format.md, sections 1 to 3). */
final class Values {
    static final List<String> DTYPES = List.of("U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16",
            "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL");
    static final int[] WIDTHS = {8, 8, 8, 4, 4, 4, 2, 2, 2, 2, 1, 1, 1, 1, 1};
    static final List<String> KINDS = List.of("dora_magnitude", "lora_bias", "bias", "token_rows", "tuner",
            "tuner_ones", "exact", "saved");
    static final int[][] HIDDEN = {{0, 0x1F}, {0x7F, 0xA0}, {0xAD, 0xAD}, {0x61C, 0x61C}, {0x1680, 0x1680},
        {0x180E, 0x180E}, {0x2000, 0x200F}, {0x2028, 0x202F}, {0x205F, 0x206F}, {0x3000, 0x3000}, {0xD800, 0xDFFF},
        {0xFEFF, 0xFEFF}, {0xFFF0, 0xFFFB}, {0xE0000, 0xE0FFF}};

    static int width(Object dtype) {
        int at = DTYPES.indexOf(String.valueOf(dtype));
        check(at >= 0, 9);
        return WIDTHS[at];
    }

    static long whole(Object value, long low, long high) {
        check(value instanceof BigInteger x && x.bitLength() < 64 && x.longValue() >= low && x.longValue() <= high, 9);
        return ((BigInteger) value).longValue();
    }

    /** A value of a row that was checked before. */
    static int integer(Map<String, Object> row, String name) {
        return ((Number) row.get(name)).intValue();
    }

    static double real(Object value) {
        check(value instanceof BigInteger || value instanceof Double, 9);
        double x = ((Number) value).doubleValue();
        check(Double.isFinite(x), 9);
        return x;
    }

    static long characters(String text) {
        return text.codePoints().count();
    }

    static String text(Object value, int least, int most, boolean visible) {
        check(value instanceof String, 9);
        String text = (String) value;
        check(characters(text) >= least && characters(text) <= most, 9);
        check(!visible || text.codePoints().noneMatch(Values::hidden), 9);
        return text;
    }

    static boolean hidden(int c) {
        return Arrays.stream(HIDDEN).anyMatch(x -> c >= x[0] && c <= x[1]);
    }

    static void digest(Object value) {
        check(value instanceof String x && x.matches("[0-9a-f]{16}"), 9);
    }

    static void oneOf(Object value, String... names) {
        check(value instanceof String && Arrays.asList(names).contains(value), 9);
    }

    @SuppressWarnings("unchecked")
    static List<Object> list(Object value, int ground) {
        check(value instanceof List, ground);
        return (List<Object>) value;
    }

    @SuppressWarnings("unchecked")
    static Map<String, Object> object(Object value, int ground) {
        check(value instanceof Map, ground);
        return (Map<String, Object>) value;
    }

    /** Refuses keys that are neither known nor optional. */
    static Map<String, Object> keys(Object value, int ground, Set<String> known) {
        Map<String, Object> object = object(value, ground);
        check(object.keySet().stream().allMatch(x -> known.contains(x) || x.startsWith("_")), ground);
        return object;
    }

    static byte[] bytes64(Object value) {
        check(value instanceof String x && x.matches("[A-Za-z0-9+/]*") && x.length() % 4 != 1, 9);
        return Base64.getDecoder().decode((String) value);
    }

    static final Object REQUIRED = new Object();

    /** Rows of a table; defaults: by column, the lead column first. */
    static List<Map<String, Object>> rows(Object table, Map<String, Object> defaults) {
        Map<String, Object> columns = keys(table, 8, defaults.keySet());
        List<Object> lead = list(columns.get(defaults.keySet().iterator().next()), 8);
        check(lead.size() <= 1000000, 9);
        List<Map<String, Object>> rows = new ArrayList<>();
        for (int i = 0; i < lead.size(); i++) rows.add(new LinkedHashMap<>());
        defaults.forEach((name, none) -> {
            Object column = columns.get(name);
            check(column != null || !columns.containsKey(name), 8);
            check(column != null || none != REQUIRED || rows.isEmpty(), 9);
            if (column instanceof Map) check(object(column, 8).keySet().equals(Set.of("=")), 8);
            else if (column != null) check(list(column, 8).size() == rows.size(), 8);
            for (int i = 0; i < rows.size(); i++)
                rows.get(i).put(name, column == null ? none : column instanceof Map ? object(column, 8).get("=")
                        : list(column, 8).get(i));
        });
        return rows;
    }

    static Map<String, Object> columns(Object... pairs) {
        Map<String, Object> made = new LinkedHashMap<>();
        for (int i = 0; i < pairs.length; i += 2) made.put((String) pairs[i], pairs[i + 1]);
        return made;
    }

    static final BigInteger ZERO = BigInteger.ZERO, ONE = BigInteger.ONE;
    static final List<Object> NONE = List.of();
    static final Map<String, Object> MODULE = columns("path", REQUIRED, "kind", "linear", "m", REQUIRED, "n", REQUIRED,
            "layout", "plain", "group", ZERO, "groups", ONE, "a_tail", NONE);
    static final Map<String, Object> TENSOR = columns("key", REQUIRED, "dtype", "F32", "shape", REQUIRED, "kind",
            "saved", "base", null);
    static final Map<String, Object> ITEM = columns("key", REQUIRED, "dtype", "F32", "shape", NONE, "of", null);
    static final Map<String, Object> TASK = columns("name", REQUIRED, "content", null, "config", ZERO, "format",
            "peft", "base_model", null, "numbers", ZERO, "dtype", "F32", "lossless", false, "modules", "all", "errors",
            "", "error", 0.0, "tensors", NONE, "tensor_errors", "", "carried", NONE, "keys", NONE, "bias_scales",
            Map.of(), "extra_kinds", Map.of(), "notes", NONE, "metadata", Map.of(), "harm", null, "added",
            null, "ranks", null, "start", null);

    static int compare(String a, String b) {
        return Arrays.compare(a.codePoints().toArray(), b.codePoints().toArray());
    }

    static String hash(byte[] data) {
        try {
            byte[] digest = MessageDigest.getInstance("SHA-256").digest(data);
            return String.format("%016x", ByteBuffer.wrap(digest).getLong());
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException(error);
        }
    }

    static byte[] inflate(byte[] data, long size, long most) {
        check(data.length >= 4, 6);
        long stated = ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN).getInt() & 0xFFFFFFFFL;
        check(stated <= most && (size < 0 || stated == size) && stated < Integer.MAX_VALUE, size < 0 ? 16 : 6);
        Inflater inflater = new Inflater();
        inflater.setInput(data, 4, data.length - 4);
        byte[] out = new byte[(int) stated];
        try {
            int done = inflater.inflate(out);
            check(done == stated && inflater.inflate(new byte[1]) == 0, 6);
            check(inflater.finished() && inflater.getRemaining() == 0, 6);
        } catch (DataFormatException error) {
            check(false, 6);
        } finally {
            inflater.end();
        }
        return out;
    }
}
