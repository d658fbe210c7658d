package reader;

import static reader.Json.check;
import static reader.Values.*;

import java.io.IOException;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import reader.Json.Refused;

/** One file: header, checksums and manifest (format.md, section 1). */
final class Container {
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
