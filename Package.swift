// swift-tools-version:5.9
import PackageDescription

let package = Package(
    name: "hydraopt",
    products: [.library(name: "Hydraopt", targets: ["Hydraopt"])],
    targets: [
        .target(name: "CHydra", path: "native", sources: ["src"], publicHeadersPath: "include"),
        .target(name: "Hydraopt", dependencies: ["CHydra"], path: "native/swift/Hydraopt"),
        .executableTarget(
            name: "hydraopt-sample", dependencies: ["Hydraopt"], path: "native/swift/sample"),
        .testTarget(name: "HydraoptTests", dependencies: ["Hydraopt"], path: "native/swift/tests"),
    ],
    cLanguageStandard: .c99
)
