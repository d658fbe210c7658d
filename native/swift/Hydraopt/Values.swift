import CHydra

/// An error of libhydra.
public struct HydraError: Error, CustomStringConvertible {
    /// The status in a word, such as "damaged" or "not there".
    public let status: String
    /// The problem, its place, and what to do.
    public let description: String
}

extension HydraBundle {
    /// Facts about a task.
    public struct Task: Equatable, Sendable {
        public let name: String
        public let baseModel: String?
        /// Number of low-rank modules.
        public let modules: Int
        /// Relative Frobenius error of the weights, as measured when the bundle was made.
        public let error: Double
        /// Expected share of answers that change, if it was measured.
        public let harm: Double?
        /// Bytes of the task in the file, without the core that all tasks share.
        public let bytes: UInt64

        init(_ info: hydra_task_info) {
            name = String(cString: info.name)
            baseModel = info.base_model.map { String(cString: $0) }
            modules = info.modules
            error = info.error
            harm = info.harm_likely < 0 ? nil : info.harm_likely
            bytes = info.stream_bytes + info.carried_bytes
        }
    }

    /// One module of a task: it changes the weight of the base model by `B A`. Matrices are
    /// row-major.
    public struct Factors: Equatable, Sendable {
        /// Path of the module in the base model.
        public let path: String
        public let rows: Int
        public let columns: Int
        public let rank: Int
        /// B (rows, rank), with the scale of the adapter.
        public let b: [Float]
        /// A (rank, columns).
        public let a: [Float]

        init(_ pair: hydra_pair) {
            path = String(cString: pair.module.pointee.path)
            rows = Int(pair.module.pointee.m)
            columns = Int(pair.module.pointee.n)
            rank = Int(pair.k)
            b = numbers(pair.b, rows * rank)
            a = numbers(pair.a, rank * columns)
        }
    }
}

/// Copies `count` floats of a callback's memory, which may be NULL if there are none.
private func numbers(_ data: UnsafeRawPointer?, _ count: Int) -> [Float] {
    [Float](UnsafeBufferPointer(start: data?.assumingMemoryBound(to: Float.self), count: count))
}

/// Runs a function of libhydra and throws its error.
func call(_ work: (UnsafeMutablePointer<hydra_error>) -> hydra_status) throws {
    var error = hydra_error()
    let status = work(&error)
    if status == HYDRA_OK { return }
    let message = withUnsafeBytes(of: &error.text) {
        String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
    }
    throw HydraError(status: String(cString: hydra_status_name(status)), description: message)
}

/// Throws if C would read only the beginning of a text.
func checkNoZeroByte(_ text: String) throws {
    if text.utf8.contains(0) {
        let status = String(cString: hydra_status_name(HYDRA_USAGE))
        throw HydraError(status: status, description: "\(text.debugDescription): contains a zero byte")
    }
}
