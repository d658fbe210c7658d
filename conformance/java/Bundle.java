package reader;

import static reader.Json.check;
import static reader.Rows.*;
import static reader.Values.*;

import java.io.IOException;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;

/** A bundle, of one file or of a core and its tasks (format.md, sections 2, 7 and 9). */
final class Bundle {
    final Map<String, byte[]> tensors;
    final List<Map<String, Object>> modules, entries, tasks;
    final List<List<Map<String, Object>>> blobs = new ArrayList<>();
    final Set<String> counted = new HashSet<>(); // streams whose numbers are counted
    long numbers = 0, mostNumbers, drawn = 0; // drawn: numbers of starts

    static Bundle open(Path path) throws IOException {
        if (!Files.isDirectory(path)) {
            Container file = new Container(path);
            check(file.about.get("format").equals("hydraopt"), 2);
            keys(file.manifest, 8, Set.of("modules", "tasks", "tensors", "blobs", "configs", "recipe", "base_model"));
            keys(file.about, 5, Set.of("format", "format_version", "library", "base_model", "tasks", "checksums"));
            Bundle bundle = new Bundle(file.manifest, configs(file.manifest, file.size), file.tensors, file.size);
            StringBuilder names = new StringBuilder();
            for (Map<String, Object> task : bundle.tasks)
                names.append(",\"").append(((String) task.get("name")).replace("\"", "\\\"")).append('"');
            String canonical = "[" + (names.length() > 0 ? names.substring(1) : "") + "]";
            check(canonical.equals(file.about.get("tasks")), 5);
            baseModel(file);
            return bundle;
        }
        Container core = null;
        Map<String, Container> parts = new TreeMap<>(Values::compare);
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

    static Bundle joined(Container core, Map<String, Container> parts, long size) {
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
                String all = hex(stream) + row.get("modules") + row.get("tensors") + row.get("start");
                int index = streams.computeIfAbsent(all, x -> streams.size());
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
        return new Bundle(manifest, configs, tensors, size);
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
        if (value instanceof List<?> x) return 2 + x.stream().mapToLong(Bundle::weight).sum();
        if (value instanceof Map<?, ?> x)
            return 2 + x.keySet().stream().mapToLong(key -> weight(key) + weight(x.get(key))).sum();
        return value instanceof BigInteger ? Math.max(8, value.toString().length()) : 8;
    }

    Bundle(Map<String, Object> manifest, List<Map<String, Object>> configs, Map<String, byte[]> tensors, long size) {
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
                count += tasks.size() * x.values().stream().mapToLong(Bundle::length).sum();
            else if (each.getKey().startsWith("_") && each.getValue() instanceof List<?> x)
                count += x.stream().mapToLong(Bundle::length).sum();
        check(count <= (1 << 17) + 2 * size, 17);
        if (manifest.containsKey("recipe")) object(manifest.get("recipe"), 9);
        modules.forEach(Rows::checkModule);
        check(modules.stream().map(x -> x.get("path")).distinct().count() == modules.size(), 10);
        entries.forEach(Rows::checkEntry);
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
        check(drawn <= (1 << 24) + 4096 * coded, 19);
    }

    /** Counts the numbers of a stream once; whether there may be so many. */
    boolean takes(String stream, long count) {
        if (counted.add(stream)) numbers += count;
        return numbers <= mostNumbers;
    }

    static long length(Object value) {
        return value instanceof List<?> x ? x.size() : value instanceof Map<?, ?> x ? x.size() : 0;
    }

    /** Entries of a task (format.md, section 7). */
    long counted(Map<String, Object> task) {
        long count = 0;
        for (Map.Entry<String, Object> each : task.entrySet()) {
            boolean ranges = each.getKey().equals("modules") || each.getKey().equals("tensors");
            if (!ranges) count += length(each.getValue());
            else if (each.getKey().equals("modules")) count += ranges(each.getValue(), modules.size()).length;
            else count += ranges(each.getValue(), entries.size()).length;
        }
        for (Object blob : list(task.get("carried"), 9))
            if (blob instanceof BigInteger x && x.signum() >= 0 && x.intValue() < blobs.size())
                count += blobs.get(x.intValue()).size();
        return count;
    }

    void checkTasks(List<Map<String, Object>> configs) {
        int contents = 0, used = 0, held = 0;
        String before = null;
        check(new HashSet<>(configs).size() == configs.size(), 12);
        Map<Object, List<Object>> streams = new LinkedHashMap<>();
        for (Map<String, Object> task : tasks) {
            String name = text(task.get("name"), 1, 200, true);
            check(name.equals(name.strip()) && !name.matches("\\.|\\.\\.|.*[/\\\\:].*"), 9);
            check(before == null || compare(before, name) < 0, before != null && before.equals(name) ? 10 : 12);
            before = name;
            oneOf(task.get("format"), "peft", "kohya", "diffusers", "loralib", "mlx");
            if (task.get("base_model") != null) text(task.get("base_model"), 1, 4096, true);
            whole(task.get("numbers"), 0, 1L << 50);
            width(task.get("dtype"));
            check(task.get("lossless") instanceof Boolean, 9);
            boolean lossless = (Boolean) task.get("lossless");
            int[] own = ranges(task.get("modules"), modules.size());
            int[] coded = ranges(task.get("tensors"), entries.size());
            task.put("modules", own);
            task.put("tensors", coded);
            check(bytes64(task.get("errors")).length == own.length, 13);
            check(bytes64(task.get("tensor_errors")).length == coded.length, 13);
            check(real(task.get("error")) >= 0, 9);
            checkNotes(task, own);
            boolean needs = !lossless && own.length + coded.length > 0;
            check(needs == (task.get("content") != null) && !(lossless && coded.length > 0), 13);
            check(!lossless || task.get("ranks") == null, 13);
            Start start = start(task);
            check(needs || start == null, 13);
            int config = (int) whole(task.get("config"), 0, Integer.MAX_VALUE);
            check(config < configs.size(), 11);
            check(config <= used, 12);
            used = Math.max(used, config + 1);
            if (needs) {
                int content = (int) whole(task.get("content"), 0, Integer.MAX_VALUE);
                check(content <= contents, 12);
                contents = Math.max(contents, content + 1);
                List<Object> all = List.of(Arrays.toString(own), Arrays.toString(coded), "" + task.get("start"));
                if (start != null && !streams.containsKey(content)) drawn += start.count;
                check(all.equals(streams.computeIfAbsent(content, x -> all)), 12);
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
}
