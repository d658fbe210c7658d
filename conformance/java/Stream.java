package reader;

import static reader.Json.check;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.zip.CRC32;

/** Records of a stream, chunk after chunk, and the coder (streams.md, sections 1 to 3 and 7). */
final class Stream {
    static final int[][] LEVELS = new int[114][30], SIDE = new int[8][30];

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

    final byte[] data;
    final List<long[]> chunks = new ArrayList<>(); // records, numbers, bytes, crc32
    int at, next = 0, end;
    long x, y, records, stated, spent;
    long[] first;

    Stream(Bundle bundle, String name, int expected) {
        data = bundle.tensors.get(name);
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
        check(bundle.takes(name, numbersHere), 19);
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
            check(x >= 1 << 16 && y >= 1 << 16, 23);
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
        return Arrays.stream(list(4, count, -6400, 6400, 27)).mapToDouble(Stream::power).toArray();
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
                s = s / 2 ^ 58 * q ^ 17 * (int) (v & 1);
                long integer = v > 0 ? 2 * v - q : v < 0 ? 2 * v + q : 0;
                check(Math.abs(integer) <= 1 << 27, 26);
                out[i][j] = integer;
            }
        }
        return out;
    }
}
