package reader;

/** A task's start: the generator of its initial A, MT19937, and how many of its numbers are used (streams.md, 5). */
final class Start {
    final long seed, count;
    private final int[] words = new int[624];
    private long next = -1; // number that comes next

    Start(long seed, long count) {
        this.seed = seed;
        this.count = count;
    }

    private void begin() {
        words[0] = (int) seed;
        for (int i = 1; i < 624; i++) words[i] = 1812433253 * (words[i - 1] ^ words[i - 1] >>> 30) + i;
        next = 0;
    }

    private int number() {
        int i = (int) (next++ % 624);
        int mixed = words[i] & 0x80000000 | words[(i + 1) % 624] & 0x7FFFFFFF;
        // Each word is replaced when it is taken: the words ahead are still old, those behind are new.
        int x = words[i] = words[(i + 397) % 624] ^ mixed >>> 1 ^ (mixed & 1) * 0x9908B0DF;
        x ^= x >>> 11;
        x ^= x << 7 & 0x9D2C5680;
        x ^= x << 15 & 0xEFC60000;
        return ((x ^ x >>> 18) & 0xFFFFFF) - (1 << 23);
    }

    /** The vectors (n, rows) of the initial A that begins at a number. */
    double[][] initial(long first, int rows, int n) {
        int octaves = 0;
        while (1L << 2 * octaves < n) octaves++;
        if (next < 0 || next > first) begin();
        while (next < first) number();
        double[][] vectors = new double[n][rows];
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < n; j++) vectors[j][i] = Math.scalb((double) number(), -23 - octaves);
        return vectors;
    }
}
