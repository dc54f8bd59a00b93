//! Makes what a node needs of the binary small: see `node-functions.txt`.
//!
//! Most of the binary is never run by a node: the server, its store, the commands. But what it does run is
//! strewn all over, and the kernel maps files in pieces of 64 KiB and more, so nearly all of it was resident
//! in every node. The linker that comes with Rust on this target can put the functions of a list first.
//! Other linkers cannot, and make a binary that works as well and takes more memory.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The functions that a node was seen to run, written by `cargo xtask order`.
const LIST: &str = "node-functions.txt";
/// The C library that knows DT_RELR, which makes the relocations of a binary a tenth as large.
const RELR_SINCE: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed={LIST}");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let native = variable("TARGET") == TARGET && variable("HOST") == TARGET;
    // Who chooses a linker gets that one.
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    let chosen = flags.contains("link") || !variable("RUSTC_LINKER").is_empty();
    if variable("PROFILE") != "release" || !native || chosen {
        return;
    }
    let Some(linkers) = linkers(&variable("RUSTC")) else { return };
    let list = Path::new(&variable("CARGO_MANIFEST_DIR")).join(LIST);
    let argument = |text: &str| println!("cargo::rustc-link-arg-bins={text}");
    argument("-fuse-ld=lld");
    argument(&format!("-B{}", linkers.display()));
    argument(&format!("-Wl,--symbol-ordering-file={}", list.display()));
    // Names that are out of date do no harm.
    argument("-Wl,--no-warn-symbol-ordering");
    if libc_version().is_some_and(|version| version >= RELR_SINCE) {
        argument("-Wl,-z,pack-relative-relocs");
    }
}

/// Where the toolchain keeps its linker, if it has one.
fn linkers(rustc: &str) -> Option<PathBuf> {
    let sysroot = output(Command::new(rustc).args(["--print", "sysroot"]))?;
    let folder = Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("bin/gcc-ld");
    folder.join("ld.lld").is_file().then_some(folder)
}

fn libc_version() -> Option<(u32, u32)> {
    let text = output(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}
