//! Writes the Rust code of the `.proto` files.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

const PROTOS: &[&str] = &[
    "envoy/service/discovery/v3/discovery.proto",
    "spiffe/workload/workloadapi.proto",
    "tulle/discovery/v1/discovery.proto",
    "tulle/flow/v1/flow.proto",
    "tulle/node/v1/node.proto",
];

fn main() -> Result<()> {
    let wire = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = wire.join("src/generated");
    let descriptors = protox::compile(PROTOS, [wire.join("proto")])?;
    fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut build = tonic_prost_build::configure().btree_map(".").bytes(".").out_dir(&folder);
    // They have keys and tokens.
    let secret = [
        "tulle.discovery.v1.Mesh",
        "tulle.node.v1.SignJwtResponse",
        "X509SVIDResponse",
        "X509SVID",
        "tulle.flow.v1.SecretsResponse",
        "tulle.flow.v1.SecretData",
        "JWTSVIDResponse",
        "JWTSVID",
        "ValidateJWTSVIDRequest",
        "WITSVIDResponse",
        "WITSVID",
    ];
    build = build.emit_rerun_if_changed(false).skip_debug(secret);
    build.compile_fds(descriptors).context("the descriptors could not be compiled")?;
    Ok(())
}
