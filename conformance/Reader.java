import java.io.IOException;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.time.DateTimeException;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.zip.CRC32;
import java.util.zip.DataFormatException;
import java.util.zip.Inflater;

/**
 * A reader of bundles without adapters (README.md), written from docs/reference/format.md, streams.md and adapters.md,
 * sections 1 and 3: java conformance/Reader.java docs/reference/tables.h PATH...
 */
public class Reader {
    static class Refused extends RuntimeException {
        final String word;

        Refused(String word, String why) {
            super(why);
            this.word = word;
        }
    }

    /** Refuses the bundle unless a condition holds; ground: of format.md, section 8. */
    static void check(boolean fine, int ground) {
        if (!fine) throw new Refused("damaged", "R" + ground);
    }

    // ---- JSON: objects are maps, whole numbers BigInteger, other numbers Double ----

    static class Json {
        final String text;
        int at = 0;

        Json(byte[] data) {
            try {
                text = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(data)).toString();
            } catch (CharacterCodingException error) {
                throw new Refused("damaged", "R7");
            }
        }

        static Object parse(byte[] data) {
            Json json = new Json(data);
            Object value = json.value(1);
            json.space();
            check(json.at == json.text.length(), 7);
            return value;
        }

        void space() {
            while (at < text.length() && " \t\n\r".indexOf(text.charAt(at)) >= 0) at++;
        }

        boolean take(String word) {
            space();
            if (!text.startsWith(word, at)) return false;
            at += word.length();
            return true;
        }

        Object value(int depth) {
            if (take("{")) {
                check(depth <= 64, 7);
                Map<String, Object> object = new LinkedHashMap<>();
                for (boolean first = true; !take("}"); first = false) {
                    check(first || take(","), 7);
                    check(take("\""), 7);
                    String key = string();
                    check(take(":") && !object.containsKey(key), 7);
                    object.put(key, value(depth + 1));
                }
                return object;
            }
            if (take("[")) {
                check(depth <= 64, 7);
                List<Object> list = new ArrayList<>();
                for (boolean first = true; !take("]"); first = false) {
                    check(first || take(","), 7);
                    list.add(value(depth + 1));
                }
                return list;
            }
            if (take("\"")) return string();
            if (take("true")) return true;
            if (take("false")) return false;
            if (take("null")) return null;
            Matcher number = NUMBER.matcher(text).region(at, text.length());
            check(number.lookingAt(), 7);
            at = number.end();
            if (number.group(1) == null && number.group(2) == null) return new BigInteger(number.group());
            double real = Double.parseDouble(number.group());
            check(Double.isFinite(real), 7);
            return real;
        }

        static final Pattern NUMBER = Pattern.compile("-?(?:0|[1-9][0-9]*)(\\.[0-9]+)?([eE][-+]?[0-9]+)?");

        String string() {
            StringBuilder out = new StringBuilder();
            for (;;) {
                check(at < text.length(), 7);
                char c = text.charAt(at++);
                if (c == '"') break;
                check(c >= 32, 7);
                if (c != '\\') {
                    out.append(c);
                    continue;
                }
                check(at < text.length(), 7);
                int which = "\"\\/bfnrtu".indexOf(text.charAt(at++));
                check(which >= 0, 7);
                if (which < 8) {
                    out.append("\"\\/\b\f\n\r\t".charAt(which));
                    continue;
                }
                check(at + 4 <= text.length() && text.substring(at, at + 4).matches("[0-9a-fA-F]{4}"), 7);
                out.append((char) Integer.parseInt(text.substring(at, at + 4), 16));
                at += 4;
            }
            String made = out.toString();
            check(made.codePoints().noneMatch(c -> c >= 0xD800 && c < 0xE000), 7);
            return made;
        }
    }

    // ---- values: format.md, sections 2 and 3 ----

    static final List<String> DTYPES = List.of("U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16",
            "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL");
    static final int[] WIDTHS = {8, 8, 8, 4, 4, 4, 2, 2, 2, 2, 1, 1, 1, 1, 1};
    static final List<String> KINDS = List.of("dora_magnitude", "lora_bias", "bias", "token_rows", "tuner",
            "tuner_ones", "exact", "saved");
    static final int[][] HIDDEN = {{0, 0x1F}, {0x7F, 0xA0}, {0xAD, 0xAD}, {0x61C, 0x61C}, {0x1680, 0x1680},
        {0x180E, 0x180E}, {0x2000, 0x200F}, {0x2028, 0x202F}, {0x205F, 0x206F}, {0x3000, 0x3000}, {0xD800, 0xDFFF},
        {0xFEFF, 0xFEFF}, {0xFFF0, 0xFFFB}, {0xE0000, 0xE0FFF}};

    static int width(Object dtype) {
        int at = DTYPES.indexOf(dtype);
        check(at >= 0, 9);
        return WIDTHS[at];
    }

    static long whole(Object value, long low, long high) {
        check(value instanceof BigInteger x && x.bitLength() < 64 && x.longValue() >= low && x.longValue() <= high, 9);
        return ((BigInteger) value).longValue();
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
        check(!visible || text.codePoints().noneMatch(Reader::hidden), 9);
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
            Map.of(), "extra_kinds", Map.of(), "notes", NONE, "metadata", Map.of(), "harm", null, "curve", "", "added",
            null, "ranks", null);

    static int compare(String a, String b) {
        return Arrays.compare(a.codePoints().toArray(), b.codePoints().toArray());
    }

    static String hash(byte[] data) {
        try {
            byte[] digest = MessageDigest.getInstance("SHA-256").digest(data);
            return String.format("%016x", ByteBuffer.wrap(digest).getLong());
        } catch (java.security.NoSuchAlgorithmException error) {
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

    // ---- one file: format.md, section 1 ----

    static class Container {
        final Map<String, byte[]> tensors = new LinkedHashMap<>();
        Map<String, Object> about;
        Map<String, Object> manifest;
        final long size;

        Container(Path path) throws IOException {
            byte[] data = Files.readAllBytes(path);
            size = data.length;
            check(size >= 8, 1);
            long length = ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN).getLong();
            check(length >= 0 && length <= 100000000 && length <= size - 8, 1);
            Map<String, Object> header = object(Json.parse(Arrays.copyOfRange(data, 8, 8 + (int) length)), 1);
            about = object(header.remove("__metadata__"), 2);
            check(about.values().stream().allMatch(x -> x instanceof String), 2);
            oneOfFormats(about.get("format"));
            check(about.get("format_version") instanceof String x && x.matches("[1-9][0-9]{0,8}"), 2);
            if (!about.get("format_version").equals("2")) throw new Refused("version", "R2");
            long position = 0;
            for (Map.Entry<String, Object> each : header.entrySet()) {
                Map<String, Object> entry = object(each.getValue(), 1);
                check(entry.keySet().equals(Set.of("dtype", "shape", "data_offsets")), 1);
                List<Object> shape = list(entry.get("shape"), 1), offsets = list(entry.get("data_offsets"), 1);
                check("U8".equals(entry.get("dtype")) && shape.size() == 1, 3);
                long end = position + whole(shape.get(0), 0, size);
                check(offsets.equals(List.of(BigInteger.valueOf(position), BigInteger.valueOf(end))), 1);
                check(8 + length + end <= size, 1);
                int start = (int) (8 + length + position);
                tensors.put(each.getKey(), Arrays.copyOfRange(data, start, start + (int) (end - position)));
                position = end;
            }
            check(8 + length + position == size, 1);
            check(about.get("checksums") instanceof String, 4);
            Object sums = Json.parse(((String) about.get("checksums")).getBytes(StandardCharsets.UTF_8));
            check(list(sums, 4).size() == tensors.size(), 4);
            check(list(sums, 4).stream().allMatch(x -> x instanceof String), 4);
            List<Object> own = new ArrayList<>();
            for (byte[] tensor : tensors.values()) own.add(hash(tensor));
            if (!own.equals(sums)) throw new Refused("checksum", "R4");
            check(!tensors.isEmpty() && tensors.keySet().iterator().next().equals("manifest"), 3);
            byte[] packed = tensors.get("manifest");
            manifest = object(Json.parse(inflate(packed, -1, (1L << 20) + 64L * packed.length)), 8);
        }

        static void oneOfFormats(Object format) {
            check(List.of("hydraopt", "hydraopt-core", "hydraopt-task").contains(String.valueOf(format)), 2);
        }
    }

    // ---- a bundle, of one file or of a core and its tasks (format.md, section 9) ----

    final Map<String, byte[]> tensors;
    final List<Map<String, Object>> modules, entries, tasks;
    final List<List<Map<String, Object>>> blobs = new ArrayList<>();
    final Set<String> counted = new HashSet<>(); // streams whose numbers are counted
    long numbers = 0, mostNumbers;

    static Reader open(Path path) throws IOException {
        if (!Files.isDirectory(path)) {
            Container file = new Container(path);
            check(file.about.get("format").equals("hydraopt"), 2);
            keys(file.manifest, 8, Set.of("modules", "tasks", "tensors", "blobs", "configs", "recipe", "base_model"));
            keys(file.about, 5, Set.of("format", "format_version", "library", "base_model", "tasks", "checksums"));
            Reader reader = new Reader(file.manifest, configs(file.manifest, file.size), file.tensors, file.size);
            StringBuilder names = new StringBuilder();
            for (Map<String, Object> task : reader.tasks)
                names.append(",\"").append(((String) task.get("name")).replace("\"", "\\\"")).append('"');
            String canonical = "[" + (names.length() > 0 ? names.substring(1) : "") + "]";
            check(canonical.equals(file.about.get("tasks")), 5);
            baseModel(file);
            return reader;
        }
        Container core = null;
        Map<String, Container> parts = new TreeMap<>(Reader::compare);
        long size = 0;
        List<Path> files;
        try (var listed = Files.list(path)) {
            files = listed.sorted().toList();
        }
        for (Path each : files) {
            boolean isCore = each.toString().endsWith(".core.safetensors");
            if (!isCore && !each.toString().endsWith(".task.safetensors")) continue;
            Container file = new Container(each);
            check(file.about.get("format").equals(isCore ? "hydraopt-core" : "hydraopt-task"), 30);
            size += file.size;
            if (isCore) {
                check(core == null, 30);
                core = file;
                continue;
            }
            List<Map<String, Object>> row = rows(file.manifest.get("tasks"), TASK);
            check(row.size() == 1 && row.get(0).get("name") instanceof String, 30);
            check(parts.put((String) row.get(0).get("name"), file) == null, 30);
        }
        check(core != null, 30);
        return joined(core, parts, size);
    }

    static void baseModel(Container file) {
        Object base = file.manifest.get("base_model");
        if (base != null) text(base, 1, 4096, true);
        check(base == null ? !file.about.containsKey("base_model") : base.equals(file.about.get("base_model")), 5);
    }

    static Reader joined(Container core, Map<String, Container> parts, long size) {
        keys(core.manifest, 8, Set.of("modules", "tensors", "recipe", "base_model", "configs"));
        keys(core.about, 5, Set.of("format", "format_version", "library", "base_model", "checksums"));
        check(List.copyOf(core.tensors.keySet()).equals(List.of("manifest", "shared")), 3);
        baseModel(core);
        List<Map<String, Object>> firsts = configs(core.manifest, size), configs = new ArrayList<>();
        check(firsts.size() <= 1, 30);
        Map<String, byte[]> tensors = new LinkedHashMap<>(core.tensors), carried = new LinkedHashMap<>();
        Map<String, Integer> streams = new LinkedHashMap<>(), held = new LinkedHashMap<>();
        List<Object> blobs = new ArrayList<>();
        Map<String, Object> table = new LinkedHashMap<>();
        TASK.keySet().forEach(name -> table.put(name, new ArrayList<>()));
        String sum = hash(((String) core.about.get("checksums")).getBytes(StandardCharsets.UTF_8));
        for (Container file : parts.values()) {
            keys(file.manifest, 8, Set.of("tasks", "blobs", "configs"));
            keys(file.about, 5, Set.of("format", "format_version", "checksums", "core"));
            check(sum.equals(file.about.get("core")), 30);
            Map<String, Object> stated = object(file.manifest.get("tasks"), 8);
            Map<String, Object> row = rows(stated, TASK).get(0);
            List<Object> later = list(file.manifest.getOrDefault("configs", List.of(Map.of())), 8);
            check(later.size() == 1 && row.get("config").equals(ZERO), 30);
            Map<String, Object> config = resolved(firsts.isEmpty() ? Map.of() : firsts.get(0), later.get(0));
            if (!configs.contains(config)) configs.add(config);
            row.put("config", BigInteger.valueOf(configs.indexOf(config)));
            if (!stated.containsKey("base_model")) row.put("base_model", core.manifest.get("base_model"));
            List<String> names = new ArrayList<>(List.of("manifest"));
            byte[] stream = file.tensors.get("task/0");
            if (!stated.containsKey("content")) row.put("content", stream == null ? null : ZERO);
            check(stream == null ? row.get("content") == null : ZERO.equals(row.get("content")), 13);
            if (stream != null) {
                names.add("task/0");
                int index = streams.computeIfAbsent(hex(stream), x -> streams.size());
                tensors.put("task/" + index, stream);
                row.put("content", BigInteger.valueOf(index));
            }
            List<Object> own = list(file.manifest.getOrDefault("blobs", NONE), 9), used = new ArrayList<>();
            for (int i = 0; i < own.size(); i++) {
                String name = "carried/" + i;
                names.add(name);
                check(file.tensors.containsKey(name), 3);
                int before = held.size();
                int index = held.computeIfAbsent(own.get(i) + hex(file.tensors.get(name)), x -> before);
                if (index == before) blobs.add(own.get(i));
                carried.put("carried/" + index, file.tensors.get(name));
                used.add(BigInteger.valueOf(index));
            }
            check(List.copyOf(file.tensors.keySet()).equals(names), 3);
            List<Object> numbered = list(row.get("carried"), 9);
            for (int i = 0; i < numbered.size(); i++) check(numbered.get(i).equals(BigInteger.valueOf(i)), 12);
            check(numbered.size() == used.size(), 12);
            row.put("carried", used);
            row.forEach((name, value) -> list(table.get(name), 8).add(value));
        }
        tensors.putAll(carried);
        Map<String, Object> manifest = new LinkedHashMap<>(core.manifest);
        manifest.put("tasks", table);
        manifest.put("blobs", blobs);
        return new Reader(manifest, configs, tensors, size);
    }

    static String hex(byte[] data) {
        return new BigInteger(1, data).toString(36) + ":" + data.length;
    }

    static List<Map<String, Object>> configs(Map<String, Object> manifest, long size) {
        List<Map<String, Object>> made = new ArrayList<>();
        List<Object> stored = list(manifest.getOrDefault("configs", NONE), 9);
        if (!stored.isEmpty()) check(weight(stored.get(0)) * stored.size() <= (1L << 24) + 64 * size, 18);
        for (Object each : stored) made.add(made.isEmpty() ? object(each, 14) : resolved(made.get(0), each));
        return made;
    }

    static Map<String, Object> resolved(Map<String, Object> first, Object difference) {
        check(Set.of("set", "drop").containsAll(object(difference, 14).keySet()), 14);
        Map<String, Object> made = new LinkedHashMap<>(first);
        for (Object key : list(object(difference, 14).getOrDefault("drop", NONE), 14)) {
            check(key instanceof String && first.containsKey(key), 14);
            made.remove(key);
        }
        made.putAll(object(object(difference, 14).getOrDefault("set", Map.of()), 14));
        return made;
    }

    static long weight(Object value) {
        if (value instanceof String x) return characters(x);
        if (value instanceof List<?> x) return 2 + x.stream().mapToLong(Reader::weight).sum();
        if (value instanceof Map<?, ?> x)
            return 2 + x.entrySet().stream().mapToLong(e -> characters((String) e.getKey()) + weight(e.getValue())).sum();
        return value instanceof BigInteger ? Math.max(8, value.toString().length()) : 8;
    }

    Reader(Map<String, Object> manifest, List<Map<String, Object>> configs, Map<String, byte[]> tensors, long size) {
        this.tensors = tensors;
        modules = rows(manifest.get("modules"), MODULE);
        entries = manifest.containsKey("tensors") ? rows(manifest.get("tensors"), TENSOR) : List.of();
        tasks = rows(manifest.get("tasks"), TASK);
        long packed = 0, whole = 0, count = modules.size() + entries.size() + tasks.size();
        for (Object table : list(manifest.getOrDefault("blobs", NONE), 9)) {
            blobs.add(rows(table, ITEM));
            count += blobs.get(blobs.size() - 1).size();
        }
        for (Map<String, Object> task : tasks) count += counted(task);
        Map<String, Object> table = object(manifest.get("tasks"), 8);
        for (Map.Entry<String, Object> each : table.entrySet())
            if (each.getKey().startsWith("_") && each.getValue() instanceof Map<?, ?> x)
                count += tasks.size() * x.values().stream().mapToLong(Reader::length).sum();
            else if (each.getKey().startsWith("_") && each.getValue() instanceof List<?> x)
                count += x.stream().mapToLong(Reader::length).sum();
        check(count <= (1 << 17) + 2 * size, 17);
        if (manifest.containsKey("recipe")) object(manifest.get("recipe"), 9);
        modules.forEach(Reader::checkModule);
        check(modules.stream().map(x -> x.get("path")).distinct().count() == modules.size(), 10);
        entries.forEach(Reader::checkEntry);
        check(new HashSet<>(entries).size() == entries.size(), 10);
        for (int i = 0; i < blobs.size(); i++) whole += checkBlob(blobs.get(i));
        checkTasks(configs);
        List<String> names = new ArrayList<>(List.of("manifest", "shared"));
        long coded = 0;
        long streams = tasks.stream().map(x -> x.get("content")).filter(x -> x != null).distinct().count();
        for (int i = 0; i < streams; i++) names.add("task/" + i);
        for (int i = 0; i < blobs.size(); i++) names.add("carried/" + i);
        check(List.copyOf(tensors.keySet()).equals(names), 3);
        for (Map.Entry<String, byte[]> each : tensors.entrySet())
            if (each.getKey().startsWith("carried/")) packed += each.getValue().length;
            else if (!each.getKey().equals("manifest")) coded += each.getValue().length;
        check(whole <= (1 << 24) + 256 * packed, 20);
        mostNumbers = (1 << 20) + 128 * coded;
    }

    static long length(Object value) {
        return value instanceof List<?> x ? x.size() : value instanceof Map<?, ?> x ? x.size() : 0;
    }

    /** Entries of a task (format.md, section 7). */
    long counted(Map<String, Object> task) {
        long count = task.get("curve") instanceof String curve ? characters(curve) : 0;
        for (Map.Entry<String, Object> each : task.entrySet()) {
            boolean ranges = each.getKey().equals("modules") || each.getKey().equals("tensors");
            if (!ranges) count += length(each.getValue());
            else count += ranges(each.getValue(), each.getKey().equals("modules") ? modules.size() : entries.size()).length;
        }
        for (Object blob : list(task.get("carried"), 9))
            if (blob instanceof BigInteger x && x.signum() >= 0 && x.intValue() < blobs.size())
                count += blobs.get(x.intValue()).size();
        return count;
    }

    static void checkModule(Map<String, Object> row) {
        text(row.get("path"), 1, 4096, true);
        oneOf(row.get("kind"), "linear", "embedding", "conv");
        oneOf(row.get("layout"), "plain", "transposed", "rows", "experts", "factor");
        whole(row.get("m"), 1, 1 << 24);
        long n = whole(row.get("n"), 1, 1 << 24), product = 1;
        whole(row.get("group"), 0, whole(row.get("groups"), 1, 1 << 20) - 1);
        List<Object> tail = list(row.get("a_tail"), 9);
        check(row.get("kind").equals("conv") == !tail.isEmpty(), 9);
        for (Object axis : tail) check((product *= whole(axis, 1, n)) <= n, 9);
        check(n % product == 0 && tail.size() <= 8, 9);
        String path = (String) row.get("path"), stem = path.split("::", 2)[0];
        if (row.get("layout").equals("factor")) {
            String end = "::w" + ((BigInteger) row.get("group")).add(ONE);
            check(row.get("kind").equals("linear") && row.get("groups").equals(BigInteger.TWO) && !stem.isEmpty(), 9);
            check(List.of(stem + end, stem + end + "." + row.get("m") + "x" + n).contains(path), 9);
        }
        if (row.get("layout").equals("rows") && tail.isEmpty()) check(path.matches("(?s)(.*::)?[0-9]{1,7}"), 9);
    }

    static long[] shape(Object value, long least, long most) {
        check(list(value, 9).size() <= 64, 9);
        long[] shape = list(value, 9).stream().mapToLong(x -> whole(x, least, most)).toArray();
        return shape;
    }

    static long product(long[] shape, long most) {
        if (Arrays.stream(shape).anyMatch(x -> x == 0)) return 0;
        long product = 1;
        for (long axis : shape) {
            check(axis <= most / product, 9);
            product *= axis;
        }
        return product;
    }

    /** Rows and columns of the matrix that a coded tensor is coded as. */
    static long[] matrix(Map<String, Object> entry) {
        long[] shape = shape(entry.get("shape"), 1, 1L << 37);
        long all = product(shape, 1L << 37), first = shape.length == 0 ? 1 : shape[0];
        return new long[] {Math.max(first, all / first), Math.min(first, all / first)};
    }

    static void checkEntry(Map<String, Object> row) {
        text(row.get("key"), 1, 4096, true);
        oneOf(row.get("dtype"), "F16", "BF16", "F32", "F64");
        check(KINDS.contains(String.valueOf(row.get("kind"))), 9);
        if (row.get("base") != null) digest(row.get("base"));
        check(matrix(row)[0] <= 1 << 29, 9);
    }

    /** Bytes of all items. */
    static long checkBlob(List<Map<String, Object>> items) {
        long whole = 0;
        check(!items.isEmpty(), 9);
        for (int i = 0; i < items.size(); i++) {
            Map<String, Object> item = items.get(i);
            text(item.get("key"), 0, 4096, false);
            long bytes = width(item.get("dtype"));
            bytes *= product(shape(item.get("shape"), 0, 1L << 40), (1L << 40) / bytes);
            item.put("bytes", bytes);
            whole += bytes;
            if (item.get("of") == null) continue;
            check(item.get("of") instanceof BigInteger x && x.signum() >= 0 && x.compareTo(BigInteger.valueOf(i)) < 0, 15);
            Map<String, Object> from = items.get(((BigInteger) item.get("of")).intValue());
            check(from.get("of") == null && from.get("bytes").equals(bytes), 15);
            check(width(from.get("dtype")) == width(item.get("dtype")), 15);
        }
        return whole;
    }

    static int[] ranges(Object value, int count) {
        if ("all".equals(value)) return java.util.stream.IntStream.range(0, count).toArray();
        List<Object> bounds = list(value, 9);
        check(bounds.size() % 2 == 0, 9);
        List<Integer> made = new ArrayList<>();
        long before = -1;
        for (int i = 0; i < bounds.size(); i += 2) {
            check(bounds.get(i) instanceof BigInteger && bounds.get(i + 1) instanceof BigInteger, 9);
            long start = ((BigInteger) bounds.get(i)).longValue(), stop = ((BigInteger) bounds.get(i + 1)).longValue();
            check(start > before && start >= 0 && stop > start && stop <= count, 11);
            for (long at = start; at < stop; at++) made.add((int) at);
            before = stop;
        }
        return made.stream().mapToInt(x -> x).toArray();
    }

    void checkTasks(List<Map<String, Object>> configs) {
        int contents = 0, used = 0, held = 0;
        String before = null;
        check(new HashSet<>(configs).size() == configs.size(), 12);
        Map<Object, List<Object>> streams = new LinkedHashMap<>();
        for (Map<String, Object> task : tasks) {
            String name = text(task.get("name"), 1, 200, true);
            check(name.equals(name.strip()) && !name.equals(".") && !name.equals("..") && !name.matches(".*[/\\\\:].*"), 9);
            check(before == null || compare(before, name) < 0, before != null && before.equals(name) ? 10 : 12);
            before = name;
            oneOf(task.get("format"), "peft", "kohya", "diffusers", "loralib", "mlx");
            if (task.get("base_model") != null) text(task.get("base_model"), 1, 4096, true);
            check(task.get("numbers") instanceof BigInteger x && x.signum() >= 0, 9);
            width(task.get("dtype"));
            check(task.get("lossless") instanceof Boolean, 9);
            boolean lossless = (Boolean) task.get("lossless");
            int[] own = ranges(task.get("modules"), modules.size()), coded = ranges(task.get("tensors"), entries.size());
            task.put("modules", own);
            task.put("tensors", coded);
            check(bytes64(task.get("errors")).length == own.length, 13);
            check(bytes64(task.get("tensor_errors")).length == coded.length, 13);
            check(real(task.get("error")) >= 0, 9);
            checkNotes(task, own);
            boolean needs = !lossless && own.length + coded.length > 0;
            check(needs == (task.get("content") != null) && !(lossless && coded.length > 0), 13);
            check(!lossless || task.get("ranks") == null, 13);
            int config = (int) whole(task.get("config"), 0, Integer.MAX_VALUE);
            check(config < configs.size(), 11);
            check(config <= used, 12);
            used = Math.max(used, config + 1);
            if (needs) {
                int content = (int) whole(task.get("content"), 0, Integer.MAX_VALUE);
                check(content <= contents, 12);
                contents = Math.max(contents, content + 1);
                List<Object> both = List.of(Arrays.toString(own), Arrays.toString(coded));
                check(both.equals(streams.computeIfAbsent(content, x -> both)), 12);
            }
            Set<Object> keys = new HashSet<>();
            int count = coded.length, last = -1;
            for (int i : coded) keys.add(entries.get(i).get("key"));
            for (Object each : list(task.get("carried"), 9)) {
                int blob = (int) whole(each, 0, Integer.MAX_VALUE);
                check(blob > last && blob < blobs.size(), 11);
                last = blob;
                check(blob <= held, 12);
                held = Math.max(held, blob + 1);
                for (Map<String, Object> item : blobs.get(blob)) keys.add(item.get("key"));
                count += blobs.get(blob).size();
            }
            check(keys.size() == count, 10);
            for (String map : List.of("bias_scales", "extra_kinds"))
                check(keys.containsAll(object(task.get(map), 9).keySet()), 11);
        }
        check(used == configs.size() && held == blobs.size(), 12);
    }

    /** Checks columns that no number depends on. */
    static void checkNotes(Map<String, Object> task, int[] own) {
        object(task.get("bias_scales"), 9).values().forEach(Reader::real);
        for (Object kind : object(task.get("extra_kinds"), 9).values()) check(KINDS.contains(String.valueOf(kind)), 9);
        for (Object note : list(task.get("notes"), 9)) check(note instanceof String, 9);
        for (Object value : object(task.get("metadata"), 9).values()) check(value instanceof String, 9);
        for (Object each : list(task.get("keys"), 9)) {
            check(list(each, 9).size() == 3, 9);
            long module = whole(list(each, 9).get(0), 0, Integer.MAX_VALUE);
            check(Arrays.stream(own).anyMatch(x -> x == module), 11);
            oneOf(list(each, 9).get(1), "A", "B");
            text(list(each, 9).get(2), 1, 4096, true);
        }
        if (task.get("harm") != null) {
            List<Object> harm = list(task.get("harm"), 9);
            check(harm.size() == 5 && harm.get(4) instanceof Boolean, 9);
            whole(harm.get(0), 0, whole(harm.get(1), 1, 1000000000));
            check(real(harm.get(2)) >= 0 && real(harm.get(2)) <= 1 && real(harm.get(3)) >= 0, 9);
        }
        byte[] curve = bytes64(task.get("curve"));
        check(curve.length % 3 == 0 && curve.length <= 48, 9);
        for (int i = 3; i < curve.length; i += 3) check((curve[i] & 255) < (curve[i - 3] & 255), 9);
        if (task.get("added") != null) {
            List<Object> added = list(task.get("added"), 9);
            check(added.size() == 2 && added.get(0) instanceof String x && x.matches("\\d{4}-\\d\\d-\\d\\d"), 9);
            digest(added.get(1));
            try {
                check(LocalDate.parse((String) added.get(0)).getYear() > 0, 9);
            } catch (DateTimeException error) {
                check(false, 9);
            }
        }
        if (task.get("ranks") == null) return;
        List<Object> ranks = list(task.get("ranks"), 9);
        check(ranks.size() >= 2, 9);
        long rank = whole(ranks.get(0), 0, Integer.MAX_VALUE), before = -1;
        double scale = real(ranks.get(1));
        for (Object each : ranks.subList(2, ranks.size())) {
            List<Object> row = list(each, 9);
            check(row.size() == 3, 9);
            long module = whole(row.get(0), 0, Integer.MAX_VALUE);
            check(module > before && Arrays.stream(own).anyMatch(x -> x == module), 11);
            before = module;
            check(whole(row.get(1), 0, Integer.MAX_VALUE) != rank | real(row.get(2)) != scale, 9);
        }
    }

    // ---- streams: streams.md ----

    static final int[][] LEVELS = new int[114][30], SIDE = new int[8][30];
    static final int[][] NEXT = {{0, 2}, {5, 7}, {1, 3}, {6, 4}, {2, 0}, {4, 6}, {3, 1}, {7, 5}};

    /** Slots of the 30 symbols of each table, from tables.h. */
    static void readTables(Path header) throws IOException {
        Matcher row = Pattern.compile("\\{([0-9, \\n]+)\\}").matcher(Files.readString(header));
        for (int i = 0; i < 114 + 8 && row.find(); i++) {
            int[] slots = Arrays.stream(row.group(1).split(",")).mapToInt(x -> Integer.parseInt(x.strip())).toArray();
            int[] table = i < 114 ? LEVELS[i] : SIDE[i - 114];
            for (int j = 0; j < slots.length; j++)
                if (i < 114) table[14 + j] = table[14 - j] = slots[j];
                else table[j] = slots[j];
            table[29] = 4096 - Arrays.stream(table).sum();
        }
    }

    /** 2^(e/32). */
    static double power(long e) {
        double m = Math.rint(Math.pow(2, 30 + Math.floorMod(e, 32) / 32.0));
        return Math.scalb(m, (int) Math.floorDiv(e, 32) - 30);
    }

    /** Records of a stream, chunk after chunk. */
    class Stream {
        final byte[] data;
        final List<long[]> chunks = new ArrayList<>(); // records, numbers, bytes, crc32
        int at, next = 0, end;
        long x, y, records, stated, spent;
        long[] first;

        Stream(String name, int expected) {
            data = tensors.get(name);
            if (data.length == 0) {
                check(expected == 0, 21);
                return;
            }
            long count = varint(1), sum = 0, bytes = 0, numbersHere = 0;
            for (long i = 0; i < count; i++) {
                long[] chunk = {varint(1), varint(0), varint(0), word(4)};
                chunks.add(chunk);
                sum += chunk[0];
                numbersHere += chunk[1];
                bytes += chunk[2];
            }
            long crc = crc(0, at);
            check(word(4) == crc && sum == expected && bytes == data.length - at, 21);
            if (counted.add(name)) numbers += numbersHere;
            check(numbers <= mostNumbers, 19);
            end = at;
        }

        long word(int size) {
            check(at + size <= data.length, 21);
            long value = 0;
            for (int i = 0; i < size; i++) value |= (data[at++] & 255L) << 8 * i;
            return value;
        }

        long varint(long least) {
            long value = 0, part = 128;
            int i = 0;
            for (; part >= 128 && i < 5; i++) value |= ((part = word(1)) & 127) << 7 * i;
            check(part < 128 && (part > 0 || i == 1) && value >= least && value < 1L << 32, 21);
            return value;
        }

        long crc(int start, int stop) {
            CRC32 crc = new CRC32();
            crc.update(data, start, stop - start);
            return crc.getValue();
        }

        /** Begins a record, maybe in the next chunk. */
        void begin() {
            if (records == 0) {
                long[] chunk = chunks.get(next++);
                at = end;
                end += (int) chunk[2];
                check(crc(at, end) == chunk[3], 22);
                check(chunk[2] >= 8 && chunk[2] % 2 == 0, 23);
                records = chunk[0];
                stated = chunk[1];
                spent = 0;
                x = word(4);
                y = word(4);
                first = new long[8];
            }
            records--;
        }

        void finish() {
            if (records == 0) check(spent == stated && at == end && x == 1 << 16 && y == 1 << 16, 23);
        }

        void spend(long count) {
            spent += count;
            check(spent <= stated, 23);
        }

        void refill() {
            if (x >= 1 << 16) return;
            x = x << 16 | (at + 2 <= end ? data[at] & 255 | (data[at + 1] & 255) << 8 : 0);
            at += 2;
        }

        long raw(int width) {
            if (width > 16) return raw(width - 16) << 16 | raw(16);
            if (width == 0) return 0;
            long bits = x & (1 << width) - 1;
            x >>= width;
            refill();
            return bits;
        }

        long number(int[] table, int width) {
            int slot = (int) (x % 4096), start = 0, t = 0;
            while (slot >= start + table[t]) start += table[t++];
            x = table[t] * (x / 4096) + slot - start;
            refill();
            long v = t - 14;
            if (t == 29) {
                int e = (int) raw(5);
                long z = (1L << e) + raw(e);
                v = z % 2 == 0 ? z / 2 : -(z - 1) / 2;
            }
            long number = (v << width) + raw(width) - (1 << width) / 2;
            long other = x;
            x = y;
            y = other;
            return number;
        }

        long side(int kind) {
            long value = number(SIDE[kind], kind == 4 ? 3 : 0);
            check(Math.abs(value) < 1 << 30, 25);
            return value + (kind == 0 ? 10 : kind == 2 ? 16 : 0);
        }

        long side(int kind, long least, long most, int ground) {
            long value = side(kind);
            check(value >= least && value <= most, ground);
            return value;
        }

        long[] list(int kind, int count, long least, long most, int ground) {
            long[] made = new long[count];
            for (int i = 0; i < count; i++) {
                made[i] = side(kind) + (i == 0 ? first[kind] : made[i - 1]);
                check(made[i] >= least && made[i] <= most, ground);
            }
            if (count > 0) first[kind] = made[0];
            return made;
        }

        double[] powers(int count) {
            return Arrays.stream(list(4, count, -6400, 6400, 27)).mapToDouble(Reader::power).toArray();
        }

        /** A block [row][column]. */
        double[][] block(int n, int k, int shape) {
            check((long) n * k <= 1 << 25, 26);
            double[][] out = new double[n][k];
            long spread = 0;
            for (int j = 0; j < k; j++) {
                check(at - end <= 128, 24);
                spread += side(j == 0 ? 2 : 3);
                check(spread >= 0 && spread <= 81, 26);
                if (spread == 0) continue;
                shape = (int) side(5 + shape, 0, 2, 26);
                int c = (int) spread, s = 0;
                for (int i = 0; i < n; i++) {
                    int q = s % 2;
                    long v = c <= 17 ? number(LEVELS[38 * shape + 2 * (c - 1) + q], 0)
                            : number(LEVELS[38 * shape + 34 + (c - 18) % 4], (c - 14) / 4);
                    s = NEXT[s][(int) (v & 1)];
                    long integer = v > 0 ? 2 * v - q : v < 0 ? 2 * v + q : 0;
                    check(Math.abs(integer) <= 1 << 27, 26);
                    out[i][j] = integer;
                }
            }
            return out;
        }
    }

    /** V Y + E. */
    static double[][] product(double[][] v, double[][] y, double[][] e) {
        double[][] out = new double[v.length][y[0].length];
        for (int i = 0; i < out.length; i++)
            for (int j = 0; j < out[i].length; j++) {
                double sum = 0;
                for (int q = 0; q < y.length; q++) sum += v[i][q] * y[q][j];
                out[i][j] = e == null ? sum : sum + e[i][j];
            }
        return out;
    }

    static double[][] scaled(double[][] block, double[] by) {
        for (double[] row : block) for (int j = 0; j < row.length; j++) row[j] *= by[j];
        return block;
    }

    /** The sides of a record of parts: left (m, k) with 2^(e/32) inside, and right (n, k). */
    double[][][] parts(Stream stream, int m, int n, double[][] left, double[][] right) {
        int k = (int) stream.side(0, 0, 2L * Math.min(m, n) + 1, 28);
        stream.spend((long) k * (m + n));
        if (k == 0) return new double[][][] {new double[m][0], new double[n][0]};
        int mode = left == null && right == null ? 0 : (int) stream.side(1, 0, 8, 28);
        double[][] r = side(stream, mode % 3, n, k, right), l = side(stream, mode / 3, m, k, left);
        return new double[][][] {scaled(l, stream.powers(k)), r};
    }

    static double[][] side(Stream stream, int way, int n, int k, double[][] basis) {
        if (way == 0) return stream.block(n, k, 0);
        check(basis != null, 28);
        double[][] y = stream.block(basis[0].length, k, 1);
        return product(basis, y, way == 2 ? stream.block(n, k, 0) : null);
    }

    /** A record of a coded tensor, added to the matrix. common: the shared record's numbers, or null. */
    void addRecord(Stream stream, double[][] matrix, double[][] common, boolean shared, boolean bounded) {
        int n = matrix.length, k = matrix[0].length;
        int has = (int) stream.side(0, 0, 31, 29);
        check((has & 24) == 0 || (has & 1) == 1, 29);
        check((has & 4) == 0 || common != null, 29);
        check(!shared || has == 0 || has == 1 || has == 17, 29);
        if (!bounded) stream.spend((long) n * k);
        double[][] parts = null;
        if ((has & 2) > 0) {
            double[][][] sides = parts(stream, n, k, null, null);
            double[][] turned = new double[sides[1][0].length][k];
            for (int i = 0; i < k; i++) for (int j = 0; j < turned.length; j++) turned[j][i] = sides[1][i][j];
            parts = turned.length == 0 ? null : product(sides[0], turned, null);
        }
        double[][] own = (has & 1) > 0 ? blocks(stream, has, n, k, bounded) : null;
        for (double[][] each : new double[][][] {(has & 4) > 0 ? common : null, parts, own})
            for (int i = 0; each != null && i < n; i++)
                for (int j = 0; j < k; j++) matrix[i][j] += each[i][j];
    }

    static double[][] blocks(Stream stream, int has, int n, int k, boolean bounded) {
        double step = stream.powers(1)[0];
        int f = (int) stream.side(0, 0, 7, 29);
        step = step * (Math.rint(Math.pow(2, 30 + f / 256.0)) / (1 << 30));
        int count = (has & 8) > 0 ? (int) stream.side(0, 0, n, 29) : n;
        if (bounded) stream.spend((long) count * k + ((has & 16) > 0 ? k : 0));
        long[] rows = (has & 8) > 0 ? stream.list(0, count, 0, n - 1, 29) : null;
        for (int i = 1; rows != null && i < count; i++) check(rows[i] > rows[i - 1], 29);
        long[] offsets = (has & 16) > 0 ? stream.list(0, k, -(1 << 24), 1 << 24, 29) : new long[k];
        double[][] out = new double[n][k];
        int cut = Math.max((1 << 20) / k, 1);
        for (int start = 0; start < count; start += cut) {
            double[][] block = stream.block(Math.min(cut, count - start), k, 0);
            for (int i = 0; i < block.length; i++)
                for (int j = 0; j < k; j++)
                    out[rows == null ? start + i : (int) rows[start + i]][j] = step * (block[i][j] + offsets[j]);
        }
        return out;
    }

    // ---- results ----

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

    double[][][] bases, commons;

    void readShared() {
        bases = new double[2 * modules.size()][][];
        commons = new double[entries.size()][][];
        if (tensors.get("shared").length == 0) return;
        Stream stream = new Stream("shared", modules.size() + entries.size());
        for (int i = 0; i < bases.length; i++) {
            if (i % 2 == 0) stream.begin();
            int n = ((BigInteger) modules.get(i / 2).get(i % 2 == 0 ? "m" : "n")).intValue();
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
            Stream stream = new Stream("task/" + task.get("content"), own.length + coded.length);
            for (int i : own) {
                stream.begin();
                int m = ((BigInteger) modules.get(i).get("m")).intValue(), n = ((BigInteger) modules.get(i).get("n")).intValue();
                double[][][] sides = parts(stream, m, n, bases[2 * i], bases[2 * i + 1]);
                found.put((String) modules.get(i).get("path"), factors(sides[0], sides[1]));
                stream.finish();
            }
            for (int i : coded) {
                stream.begin();
                Map<String, Object> entry = entries.get(i);
                long[] size = matrix(entry);
                double[][] matrix = new double[(int) size[0]][(int) size[1]];
                if (entry.get("kind").equals("tuner_ones")) for (double[] row : matrix) Arrays.fill(row, 1);
                addRecord(stream, matrix, commons[i], false, entry.get("base") != null);
                lacksBase |= entry.get("base") != null;
                others.put((String) entry.get("key"), tensor(entry, rounded(matrix, entry)));
                stream.finish();
            }
        }
        return "{\"modules\": " + printed(found) + ", \"tensors\": " + (lacksBase ? "\"unsupported\"" : printed(others)) + "}";
    }

    static String tensor(Map<String, Object> item, byte[] data) {
        return "[\"" + item.get("dtype") + "\", " + item.get("shape") + ", \"" + hash(data) + "\"]";
    }

    /** The tensors of a blob (format.md, section 3). */
    void carried(int index, Map<String, Object> found) {
        List<Map<String, Object>> items = blobs.get(index);
        long size = 0;
        for (Map<String, Object> item : items) size += item.get("of") == null ? (Long) item.get("bytes") : 0;
        byte[] content = inflate(tensors.get("carried/" + index), size, size);
        byte[][] made = new byte[items.size()][];
        int start = 0;
        for (int width : new int[] {8, 4, 2, 1}) {
            int all = 0, done = 0;
            for (Map<String, Object> item : items)
                if (item.get("of") == null && width(item.get("dtype")) == width) all += ((Long) item.get("bytes")).intValue();
            for (int i = 0; i < items.size(); i++) {
                if (items.get(i).get("of") != null || width(items.get(i).get("dtype")) != width) continue;
                made[i] = new byte[((Long) items.get(i).get("bytes")).intValue()];
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
            Reader reader = open(path);
            reader.readShared();
            Map<String, Object> tasks = new LinkedHashMap<>();
            for (Map<String, Object> task : reader.tasks) tasks.put((String) task.get("name"), reader.task(task));
            return "{\"verify\": \"ok\", \"tasks\": " + printed(tasks) + "}";
        } catch (Refused refused) {
            return "{\"verify\": \"" + refused.word + "\", \"ground\": \"" + refused.getMessage() + "\", \"tasks\": {}}";
        }
    }

    public static void main(String[] words) throws IOException {
        readTables(Path.of(words[0]));
        for (String path : Arrays.copyOfRange(words, 1, words.length)) System.out.println(result(Path.of(path)));
    }
}
