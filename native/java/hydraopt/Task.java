package hydraopt;

/** Facts about a task. */
public final class Task {
    public final String name;

    /** Name of the base model, or null. */
    public final String baseModel;

    /** Number of low-rank modules. */
    public final long modules;

    /** Bytes of the task in the file, without the core that all tasks share. */
    public final long bytes;

    /** Relative Frobenius error of the weights, as measured when the bundle was made. */
    public final double error;

    /** Expected share of answers that change, or -1 if it was not measured. */
    public final double harm;

    Task(byte[] name, byte[] baseModel, long modules, long bytes, double error, double harm) {
        this.name = Bundle.text(name);
        this.baseModel = Bundle.text(baseModel);
        this.modules = modules;
        this.bytes = bytes;
        this.error = error;
        this.harm = harm;
    }
}
