import Foundation
import Hydraopt
import XCTest

final class HydraBundleTests: XCTestCase {
    let golden = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("../../../tests/bundle/golden/second.hydra.safetensors").path

    func status(_ work: () throws -> Void) -> String? {
        do {
            try work()
            return nil
        } catch {
            return (error as? HydraError)?.status
        }
    }

    func testFacts() throws {
        let bundle = try HydraBundle(path: golden)
        XCTAssertEqual(bundle.baseModel, "org/tiny")
        XCTAssertNil(bundle.tasks[0].harm)
        XCTAssertGreaterThan(try XCTUnwrap(bundle.tasks[1].harm), 0)
        try bundle.verify()
    }

    func testFactorsHaveTheShapeOfTheirModuleAndStayTheSameWithAKeptCore() throws {
        let bundle = try HydraBundle(path: golden)
        let task = bundle.tasks[0]
        var once: [HydraBundle.Factors] = []
        try bundle.readFactors(task.name) { module in
            XCTAssertEqual(module.b.count, module.rows * module.rank)
            XCTAssertEqual(module.a.count, module.rank * module.columns)
            once.append(module)
        }
        XCTAssertEqual(once.count, task.modules)
        try bundle.keepCore()
        var again: [HydraBundle.Factors] = []
        try bundle.readFactors(task.name) { again.append($0) }
        XCTAssertEqual(once, again)
    }

    func testErrorsHaveAStatus() throws {
        XCTAssertEqual(status { _ = try HydraBundle(path: "/nowhere") }, "not there")
        XCTAssertEqual(status { _ = try HydraBundle(path: "no\0where") }, "usage")
        let bundle = try HydraBundle(path: golden)
        let task = bundle.tasks[0].name
        XCTAssertEqual(status { try bundle.readFactors("nowhere") { _ in } }, "not there")
        XCTAssertEqual(status { try bundle.writePEFT("\(task)\0", to: "none") }, "usage")
        let bert = #"{"model_type": "bert"}"#
        XCTAssertEqual(
            status { try bundle.writeGGUF(task, baseConfig: bert, to: "none.gguf") }, "unsupported")
        XCTAssertFalse(FileManager.default.fileExists(atPath: "none.gguf"))
    }

    func testAnErrorOfTheCallerEndsTheCallAndTheBundleGoesOn() throws {
        struct OfTheCaller: Error {}
        let bundle = try HydraBundle(path: golden)
        var calls = 0
        XCTAssertThrowsError(
            try bundle.readFactors(bundle.tasks[0].name) { _ in
                calls += 1
                throw OfTheCaller()
            }
        ) { XCTAssert($0 is OfTheCaller) }
        XCTAssertEqual(calls, 1)
        try bundle.verify()
    }

    func testAReaderMayCallTheBundle() throws {
        let bundle = try HydraBundle(path: golden)
        let task = bundle.tasks[0].name
        try bundle.readFactors(task) { _ in
            XCTAssertEqual(status { try bundle.writePEFT("nowhere", to: "none") }, "not there")
        }
    }
}
