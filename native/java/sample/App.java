import hydraopt.Bundle;
import hydraopt.HydraException;
import hydraopt.Task;

/** App BUNDLE TASK FOLDER: list the tasks, read the factors of one, and write it as a PEFT folder. */
public final class App {
    public static void main(String[] words) {
        try (Bundle bundle = Bundle.open(words[0])) {
            long[] numbers = {0};
            bundle.readFactors(words[1], module -> numbers[0] += module.a.length + module.b.length);
            bundle.writePeft(words[1], words[2]);
            for (Task task : bundle.tasks())
                System.out.println(task.name + ": " + task.modules + " modules");
            System.out.println(words[1] + ": " + numbers[0] + " numbers");
        } catch (HydraException error) {
            System.err.println(error.getMessage());
            System.exit(1);
        }
    }
}
