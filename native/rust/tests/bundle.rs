use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;

use hydraopt::Bundle;

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/bundle/golden/second.hydra.safetensors")
}

#[test]
fn bytes_and_a_file_are_the_same_bundle() {
    let file = Bundle::open(golden()).unwrap();
    let mut bytes = Bundle::from_bytes(std::fs::read(golden()).unwrap()).unwrap();
    assert_eq!(file.tasks(), bytes.tasks());
    assert_eq!(file.base_model().as_deref(), Some("org/tiny"));
    bytes.verify().unwrap();
}

#[test]
fn factors_have_the_shape_of_their_module_and_stay_the_same_with_a_kept_core() {
    let mut bundle = Bundle::open(golden()).unwrap();
    let name = bundle.tasks()[0].name.clone();
    let read = |bundle: &mut Bundle| {
        let mut all = Vec::new();
        let take = |x: hydraopt::Factors<'_>| {
            assert_eq!(x.b.len(), x.rows * x.rank);
            assert_eq!(x.a.len(), x.rank * x.columns);
            all.push((x.path.to_string(), x.b.to_vec(), x.a.to_vec()));
        };
        bundle.read_factors(&name, take).unwrap();
        all
    };
    let once = read(&mut bundle);
    bundle.keep_core().unwrap();
    assert_eq!(once, read(&mut bundle));
    assert_eq!(once.len(), bundle.tasks()[0].modules);
}

#[test]
fn errors_have_a_status() {
    let status = |error: hydraopt::Error| error.status;
    assert_eq!(status(Bundle::open("nowhere").unwrap_err()), "not there");
    assert_eq!(status(Bundle::open("no\0where").unwrap_err()), "usage");
    assert_eq!(status(Bundle::from_bytes(*b"none").unwrap_err()), "damaged");
    let mut bundle = Bundle::open(golden()).unwrap();
    assert_eq!(
        status(bundle.read_factors("nowhere", |_| ()).unwrap_err()),
        "not there"
    );
    let config = r#"{"model_type": "bert"}"#;
    let name = bundle.tasks()[0].name.clone();
    let refused = bundle.write_gguf(&name, config, "none.gguf").unwrap_err();
    assert_eq!(status(refused), "unsupported");
    assert!(!Path::new("none.gguf").exists());
}

#[test]
fn a_panic_of_the_caller_passes_and_the_bundle_goes_on() {
    let mut bundle = Bundle::open(golden()).unwrap();
    let name = bundle.tasks()[0].name.clone();
    let work = AssertUnwindSafe(|| bundle.read_factors(&name, |_| panic!("of the caller")));
    assert!(catch_unwind(work).is_err());
    bundle.verify().unwrap();
}

#[test]
fn another_thread_may_take_the_bundle() {
    let mut bundle = Bundle::open(golden()).unwrap();
    std::thread::spawn(move || bundle.verify())
        .join()
        .unwrap()
        .unwrap();
}
