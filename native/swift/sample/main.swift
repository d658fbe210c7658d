// app BUNDLE TASK FOLDER: list the tasks, read the factors of one, and write it as a PEFT folder.
import Foundation
import Hydraopt

func run(_ path: String, _ task: String, _ folder: String) throws {
    let bundle = try HydraBundle(path: path)
    var numbers = 0
    try bundle.readFactors(task) { module in numbers += module.a.count + module.b.count }
    try bundle.writePEFT(task, to: folder)
    for task in bundle.tasks {
        print("\(task.name): \(task.modules) modules")
    }
    print("\(task): \(numbers) numbers")
}

let words = CommandLine.arguments
guard words.count == 4 else { fatalError("app BUNDLE TASK FOLDER") }
do {
    try run(words[1], words[2], words[3])
} catch {
    FileHandle.standardError.write(Data("\(error)\n".utf8))
    exit(1)
}
