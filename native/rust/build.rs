//! Compiles libhydra with the C compiler of the system: CC, AR and CFLAGS of the environment, or cc and ar.
//! A cross build needs them to name the tools of its target.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn run(command: &mut Command) {
    let status = command
        .status()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

fn main() {
    let native = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("native/rust is in native");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    let tool = |name: &str, usual: &str| env::var(name).unwrap_or_else(|_| usual.into());
    let flags = tool("CFLAGS", "");
    let mut objects = Vec::new();
    for folder in ["core", "export", "posix"] {
        let files = native
            .join("src")
            .join(folder)
            .read_dir()
            .expect("libhydra's sources");
        for source in files.map(|file| file.expect("a file").path()) {
            if source.extension() != Some("c".as_ref()) {
                continue;
            }
            let object = out
                .join(source.file_name().expect("a file"))
                .with_extension("o");
            // Without fused products, so that adapters are the same bytes on every machine.
            run(Command::new(tool("CC", "cc"))
                .args([
                    "-std=c99",
                    "-O2",
                    "-DNDEBUG",
                    "-fPIC",
                    "-ffp-contract=off",
                    "-c",
                    "-I",
                ])
                .arg(native.join("include"))
                .args(flags.split_whitespace())
                .arg(source)
                .arg("-o")
                .arg(&object));
            objects.push(object);
        }
    }
    let library = out.join("libhydra.a");
    let _ = std::fs::remove_file(&library);
    run(Command::new(tool("AR", "ar"))
        .arg("crs")
        .arg(library)
        .args(objects));
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static=hydra");
    if env::var("CARGO_CFG_UNIX").is_ok() {
        println!("cargo:rustc-link-lib=m");
    }
    for path in ["src", "include"] {
        println!("cargo:rerun-if-changed={}", native.join(path).display());
    }
    for name in ["CC", "AR", "CFLAGS"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
}
