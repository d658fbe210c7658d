package reader;

import static reader.Json.check;

import java.util.Arrays;
import java.util.stream.DoubleStream;

/** Records of modules and coded tensors (streams.md, sections 4 to 6). */
final class Records {
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

    /** The sides of a record of parts: left (m, k) with 2^(e/32) inside, and right (n, k). start: or null. */
    static double[][][] parts(Stream stream, int m, int n, double[][] left, double[][] right, Start start) {
        int k = (int) stream.side(0, 0, 2L * Math.min(m, n) + 1, 28);
        stream.spend((long) k * (m + n));
        if (k == 0) return new double[][][] {new double[m][0], new double[n][0]};
        boolean stated = left != null || right != null || start != null;
        int mode = stated ? (int) stream.side(1, 0, start == null ? 8 : 9, 28) : 0;
        double[][] r = mode == 9 ? started(stream, n, k, start) : side(stream, mode % 3, n, k, right);
        double[][] l = side(stream, mode == 9 ? 0 : mode / 3, m, k, left);
        return new double[][][] {scaled(l, stream.powers(k)), r};
    }

    static double[][] side(Stream stream, int way, int n, int k, double[][] basis) {
        if (way == 0) return stream.block(n, k, 0);
        check(basis != null, 28);
        double[][] y = stream.block(basis[0].length, k, 1);
        return product(basis, y, way == 2 ? stream.block(n, k, 0) : null);
    }

    /** S W + Y Z, the sums over S first. */
    static double[][] started(Stream stream, int n, int k, Start start) {
        int rows = (int) stream.side(0, 1, (1 << 25) / n, 28);
        stream.spend((long) rows * n);
        check((long) rows * n <= start.count, 28);
        long first = stream.list(0, 1, 0, start.count - (long) rows * n, 28)[0];
        double[][] initial = start.initial(first, rows, n), over = stream.block(rows, k, 1);
        int own = (int) stream.side(0, 0, Math.min(n, k), 28);
        if (own == 0) return product(initial, over, null);
        stream.spend((long) n * own);
        double[][] directions = scaled(stream.block(n, own, 0), stream.powers(own));
        double[][] overOwn = stream.block(own, k, 1), both = new double[n][];
        double[][] coordinates = Arrays.copyOf(over, rows + own);
        System.arraycopy(overOwn, 0, coordinates, rows, own);
        for (int i = 0; i < n; i++)
            both[i] = DoubleStream.concat(Arrays.stream(initial[i]), Arrays.stream(directions[i])).toArray();
        return product(both, coordinates, null);
    }

    /** A record of a coded tensor, added to the matrix. common: the shared record's numbers, or null. */
    static void addRecord(Stream stream, double[][] matrix, double[][] common, boolean shared, boolean bounded) {
        int n = matrix.length, k = matrix[0].length;
        int has = (int) stream.side(0, 0, 31, 29);
        check((has & 24) == 0 || (has & 1) == 1, 29);
        check((has & 4) == 0 || common != null, 29);
        check(!shared || has == 0 || has == 1 || has == 17, 29);
        if (!bounded) stream.spend((long) n * k);
        double[][] parts = null;
        if ((has & 2) > 0) {
            double[][][] sides = parts(stream, n, k, null, null, null);
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
}
