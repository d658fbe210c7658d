import hydraopt.Bundle;
import hydraopt.HydraException;

import java.nio.file.Files;
import java.nio.file.Path;

/** Checks BUNDLE: errors, close, and what a reader may do. */
public final class Checks {
    interface Work {
        void run() throws Exception;
    }

    static <T extends Exception> T thrown(Class<T> type, Work work) {
        try {
            work.run();
        } catch (Exception error) {
            if (type.isInstance(error)) return type.cast(error);
            throw new AssertionError("another exception", error);
        }
        throw new AssertionError("no exception");
    }

    static void check(boolean fact, String name) {
        if (!fact) throw new AssertionError(name);
    }

    public static void main(String[] words) throws Exception {
        Path folder = Files.createTempDirectory("hydra");
        check(thrown(HydraException.class, () -> Bundle.open("/nowhere")).status.equals("not there"), "no file");
        thrown(IllegalArgumentException.class, () -> Bundle.open("no\0where"));
        Bundle bundle = Bundle.open(words[0]);
        String task = bundle.tasks().get(0).name;
        check(bundle.baseModel().equals("org/tiny"), "base model");
        check(bundle.tasks().get(1).harm > 0 && bundle.tasks().get(0).harm == -1, "harm");
        check(thrown(HydraException.class, () -> bundle.writePeft("\ud83d\ude00", "x")).getMessage()
            .contains("\ud83d\ude00"), "texts are UTF-8");
        bundle.keepCore();
        bundle.verify();
        thrown(ArithmeticException.class, () -> bundle.readFactors(task, x -> { throw new ArithmeticException(); }));
        bundle.readFactors(task, x -> {
            check(x.b.length == x.rows * x.rank && x.a.length == x.rank * x.columns, "shapes");
            thrown(HydraException.class, () -> bundle.writeGguf(task, "{}", folder.resolve("x.gguf").toString()));
        });
        bundle.readFactors(task, x -> bundle.close());
        bundle.close();
        thrown(IllegalStateException.class, bundle::verify);
        thrown(IllegalStateException.class, bundle::tasks);
        Files.delete(folder);
    }
}
