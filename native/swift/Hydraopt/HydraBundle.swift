import CHydra

/// An open hydraopt bundle: many LoRA adapters ("tasks") of one base model in one file.
///
///     let bundle = try HydraBundle(path: "phone.hydra.safetensors")
///     for task in bundle.tasks {
///         print("\(task.name): \(task.modules) modules")
///     }
///     try bundle.writeGGUF("numbers-de", baseConfig: config, to: "numbers-de.gguf")
///
/// A bundle belongs to one thread at a time: keep it in an actor, or open one for each thread.
public final class HydraBundle {
    private let raw: OpaquePointer

    /// Opens a bundle file, or a folder of a core and task files.
    public init(path: String) throws {
        try checkNoZeroByte(path)
        var opened: OpaquePointer?
        try call { hydra_open_path(path, nil, &opened, $0) }
        raw = opened!
    }

    deinit {
        hydra_close(raw)
    }

    /// Name of the base model, or nil if the bundle does not state it.
    public var baseModel: String? {
        hydra_base_model(raw).map { String(cString: $0) }
    }

    /// Facts about every task, by name.
    public var tasks: [Task] {
        (0..<hydra_task_count(raw)).map { index in
            var info = hydra_task_info()
            info.struct_size = MemoryLayout<hydra_task_info>.size
            let status = hydra_describe(raw, index, &info, nil)
            precondition(status == HYDRA_OK, "the index of a task")
            return Task(info)
        }
    }

    /// Decodes what all tasks share once and keeps it, so that switching tasks is fast.
    public func keepCore() throws {
        try call { hydra_keep_core(raw, 0, $0) }
    }

    /// Calls `take` with every module of a task, one in memory at a time. An error that `take`
    /// throws ends the call.
    public func readFactors(_ task: String, _ take: (Factors) throws -> Void) throws {
        let task = try find(task)
        try withoutActuallyEscaping(take) { take in
            var taker = Taker(take: take)
            do {
                try withUnsafeMutablePointer(to: &taker) { user in
                    try call { hydra_pairs(raw, task, HYDRA_F32, takePair, user, $0) }
                }
            } catch {
                throw taker.error ?? error
            }
        }
    }

    /// Writes a task as a PEFT adapter. The folder must not exist.
    public func writePEFT(_ task: String, to folder: String) throws {
        try checkNoZeroByte(folder)
        let task = try find(task)
        try call { hydra_write_peft_folder(raw, task, nil, folder, $0) }
    }

    /// Writes a task as a LoRA GGUF for llama.cpp. `baseConfig` is the text of the base model's
    /// config.json. The file must not exist.
    public func writeGGUF(_ task: String, baseConfig: String, to file: String) throws {
        try checkNoZeroByte(file)
        let task = try find(task)
        var options = hydra_gguf_options()
        options.struct_size = MemoryLayout<hydra_gguf_options>.size
        try call { hydra_gguf_base(baseConfig, baseConfig.utf8.count, nil, &options, $0) }
        try call { hydra_write_gguf_file(raw, task, &options, file, $0) }
    }

    /// Reads every byte and checks all checksums and streams.
    public func verify() throws {
        try call { hydra_verify(raw, $0) }
    }

    private func find(_ name: String) throws -> hydra_task {
        try checkNoZeroByte(name)
        var task: hydra_task = 0
        try call { hydra_find(raw, name, &task, $0) }
        return task
    }
}

/// A function of the caller, and the error that ended it.
private struct Taker {
    let take: (HydraBundle.Factors) throws -> Void
    var error: Error?
}

/// Passes a module to the `Taker` of `readFactors`. Errors must not pass through C: one stops
/// hydra_pairs, and `readFactors` throws it.
private func takePair(_ user: UnsafeMutableRawPointer?, _ pair: UnsafePointer<hydra_pair>?) -> Int32 {
    let taker = user!.assumingMemoryBound(to: Taker.self)
    do {
        try taker.pointee.take(HydraBundle.Factors(pair!.pointee))
        return 0
    } catch {
        taker.pointee.error = error
        return 1
    }
}
