package reader;

import static reader.Json.check;
import static reader.Values.*;

import java.math.BigInteger;
import java.time.DateTimeException;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;

/** Rows of the tables of a manifest (format.md, sections 2 and 3). */
final class Rows {
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
            check(item.get("of") instanceof BigInteger x && x.signum() >= 0 && x.bitLength() < 32, 15);
            check(integer(item, "of") < i, 15);
            Map<String, Object> from = items.get(integer(item, "of"));
            check(from.get("of") == null && from.get("bytes").equals(bytes), 15);
            check(width(from.get("dtype")) == width(item.get("dtype")), 15);
        }
        return whole;
    }

    static int[] ranges(Object value, int count) {
        if ("all".equals(value)) return IntStream.range(0, count).toArray();
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

    /** The start of a task, or null. */
    static Start start(Map<String, Object> task) {
        if (task.get("start") == null) return null;
        List<Object> pair = list(task.get("start"), 9);
        check(pair.size() == 2, 9);
        return new Start(whole(pair.get(0), 0, (1L << 32) - 1), whole(pair.get(1), 1, 1 << 30));
    }

    /** Checks columns that no number depends on. */
    static void checkNotes(Map<String, Object> task, int[] own) {
        object(task.get("bias_scales"), 9).values().forEach(Values::real);
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
}
