//! The seeds of the fuzz targets, and what ordinary tests make of them: docs/fuzzing.md.
//!
//! A target is a function that takes any bytes and panics where something is wrong. It stands beside what it is
//! about, in a module `fuzzing` of that crate, and runs in two ways: led by coverage for as long as one likes
//! (`cargo xtask fuzz`), and here, on its seeds and on some inputs made of them, the same each time.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// Inputs that are made of the seeds.
const INPUTS: usize = 25_000;
/// The longest of them, in bytes.
const LONGEST: usize = 8 << 10;
/// After so many that fail, no more are tried.
const MOST_FAILED: usize = 10;

/// Runs `target` on its seeds, `fuzz/seeds/NAME/*`, and on inputs made of them: so many as the environment variable
/// `TULLE_FUZZ_INPUTS` says, 25,000 otherwise.
///
/// # Panics
/// Where the target does; such inputs are in files that are named on stderr. Where there are no seeds.
pub fn check(name: &str, target: fn(&[u8])) {
    let seeds = seeds(name);
    assert!(!seeds.is_empty(), "fuzz/seeds/{name} has no files");
    let mut failed = 0;
    for (file, seed) in &seeds {
        if catch_unwind(|| target(seed)).is_err() {
            eprintln!("the target {name} fails on {}", file.display());
            failed += 1;
        }
    }
    let inputs = std::env::var("TULLE_FUZZ_INPUTS").ok().and_then(|text| text.parse().ok());
    let mut random = Random::of(name);
    for _ in 0..inputs.unwrap_or(INPUTS) {
        if failed >= MOST_FAILED {
            break;
        }
        let input = random.input(&seeds);
        if catch_unwind(|| target(&input)).is_err() {
            let file = std::env::temp_dir().join(format!("tulle-fuzz-{name}-{failed}"));
            let kept = fs::write(&file, &input);
            let kept = kept.map_or_else(|e| e.to_string(), |()| file.display().to_string());
            eprintln!("the target {name} fails on what is in {kept}");
            failed += 1;
        }
    }
    assert_eq!(failed, 0, "inputs on which {name} fails");
}

fn seeds(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let mut seeds: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter_map(|path| Some((path.clone(), fs::read(path).ok()?)))
        .collect();
    seeds.sort();
    seeds
}

/// Numbers that look random and are the same each time (xorshift64*).
struct Random(u64);

impl Random {
    fn of(name: &str) -> Self {
        let fold = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, fold) | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end.max(1)
    }

    fn piece<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let start = self.below(bytes.len());
        let length = self.below(bytes.len() - start + 1);
        &bytes[start..start + length]
    }

    fn input(&mut self, seeds: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
        let seed = |random: &mut Self| &seeds[random.below(seeds.len())].1;
        let mut input = seed(self).clone();
        for _ in 0..=self.below(6) {
            let (place, length) = (self.below(input.len() + 1), input.len());
            match self.below(8) {
                0 if place < length => input[place] ^= 1 << self.below(8),
                1 if place < length => input[place] = self.below(256) as u8,
                2 if place < length => {
                    input[place] = [0, 1, 0x7f, 0x80, 0xff, b'\r', b'\n', b' '][self.below(8)]
                }
                3 => drop(input.drain(place..(place + 1 + self.below(16)).min(length))),
                4 => {
                    let bytes: Vec<u8> = (0..=self.below(8)).map(|_| self.below(256) as u8).collect();
                    drop(input.splice(place..place, bytes));
                }
                5 => {
                    let piece = self.piece(&input.clone()).to_vec();
                    drop(input.splice(place..place, piece));
                }
                6 => {
                    let other = seed(self);
                    let piece = self.piece(other).to_vec();
                    drop(input.splice(place..place, piece));
                }
                _ => input.truncate(place.max(1)),
            }
        }
        input.truncate(LONGEST);
        input
    }
}
