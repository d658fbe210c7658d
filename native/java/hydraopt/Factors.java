package hydraopt;

/** One module of a task: it changes the weight of the base model by B A. Matrices are row-major. */
public final class Factors {
    /** Path of the module in the base model. */
    public final String path;

    public final int rows;
    public final int columns;
    public final int rank;

    /** B (rows, rank), with the scale of the adapter. */
    public final float[] b;

    /** A (rank, columns). */
    public final float[] a;

    Factors(byte[] path, int rows, int columns, int rank, float[] b, float[] a) {
        this.path = Bundle.text(path);
        this.rows = rows;
        this.columns = columns;
        this.rank = rank;
        this.b = b;
        this.a = a;
    }
}
