//! The checked-in code in `src/generated` is what the `.proto` files give. With `TULLE_REGENERATE=1`
//! the test writes it anew (`cargo xtask generate` does that).

use std::path::Path;

const PROTOS: &[&str] = &[
    "envoy/service/discovery/v3/discovery.proto",
    "tulle/discovery/v1/discovery.proto",
    "tulle/node/v1/node.proto",
];

#[test]
fn generated_code_is_current() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("generated");
    std::fs::create_dir_all(&out).unwrap();
    let descriptors = protox::compile(PROTOS, [crate_dir.join("proto")]).unwrap();
    tonic_prost_build::configure().btree_map(".").bytes(".").out_dir(&out).compile_fds(descriptors).unwrap();

    let checked_in = crate_dir.join("src/generated");
    let mut names: Vec<_> = std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), PROTOS.len());
    for name in names {
        let fresh = std::fs::read_to_string(out.join(&name)).unwrap();
        if std::env::var_os("TULLE_REGENERATE").is_some() {
            std::fs::write(checked_in.join(&name), &fresh).unwrap();
        }
        let current = std::fs::read_to_string(checked_in.join(&name)).unwrap_or_default();
        assert!(current == fresh, "{} is not current: run `cargo xtask generate`", name.display());
    }
}
