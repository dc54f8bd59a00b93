//! The files of the log: of each service the latest part, `web.log`, and those before it, `web.1.log` and so on.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// How much of a service is kept: so many parts of so many bytes.
pub const PARTS: usize = 4;
pub const PART: u64 = 8 << 20;

/// In the first line of a part: the number of the next, counted from the service's first one ever.
const HEADER: &str = "# tulle log 1, from line ";
/// Which services there are, in the order of tulle.yaml, each with the longest name of its processes.
const SERVICES: &str = "services";

pub fn folder(home: &Path) -> PathBuf {
    home.join("logs")
}

/// A part of a service's lines, the latest is 0.
pub fn path(folder: &Path, service: &str, part: usize) -> PathBuf {
    match part {
        0 => folder.join(format!("{service}.log")),
        part => folder.join(format!("{service}.{part}.log")),
    }
}

pub fn header(first: u64) -> String {
    format!("{HEADER}{first}\n")
}

/// The number of a part's first line; 0 where it does not say.
pub fn first_line(file: &File) -> u64 {
    use std::os::unix::fs::FileExt;
    let mut start = [0; 64];
    let read = file.read_at(&mut start, 0).unwrap_or_default();
    let line = start[..read].split(|b| *b == b'\n').next().unwrap_or_default();
    let number = std::str::from_utf8(line).ok().and_then(|line| line.strip_prefix(HEADER)?.parse().ok());
    number.unwrap_or_default()
}

pub fn is_header(line: &[u8]) -> bool {
    line.starts_with(b"# ")
}

/// The number of the line after a part.
pub fn line_after(file: &File) -> io::Result<u64> {
    let first = first_line(file);
    let size = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(64 << 10, file.take(size));
    let (mut lines, mut has_header) = (0u64, None);
    loop {
        let read = reader.fill_buf()?;
        has_header.get_or_insert(is_header(read));
        if read.is_empty() {
            return Ok(first + lines.saturating_sub(u64::from(has_header == Some(true))));
        }
        lines += read.iter().filter(|b| **b == b'\n').count() as u64;
        let length = read.len();
        reader.consume(length);
    }
}

/// The services of which there are lines, by name.
pub fn services(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let of_latest = name.to_str().and_then(|name| name.strip_suffix(".log")).filter(|n| !n.contains('.'));
        names.extend(of_latest.map(str::to_owned));
    }
    names.sort_unstable();
    Ok(names)
}

/// Notes which services there are, with the longest name of each one's processes: for colours and columns.
pub fn write_services(folder: &Path, services: &[(String, usize)]) -> io::Result<()> {
    let text: String = services.iter().map(|(name, longest)| format!("{name} {longest}\n")).collect();
    let new = folder.join("services.new");
    fs::write(&new, text)?;
    fs::rename(new, folder.join(SERVICES))
}

/// What was noted last; nothing where nothing was.
pub fn read_services(folder: &Path) -> Vec<(String, usize)> {
    let text = fs::read_to_string(folder.join(SERVICES)).unwrap_or_default();
    let line = |line: &str| {
        let (name, longest) = line.split_once(' ')?;
        Some((name.to_owned(), longest.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}
