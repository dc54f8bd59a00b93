//! `tulle init`: writes a first tulle.yaml, of what a compose file or a Procfile says where there is one.

mod compose;
mod compose_fields;
mod compose_limits;
mod compose_ports;
mod draft;
mod procfile;
mod scalar;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;
use tulle_model::legible::legible;

use self::draft::Draft;
use crate::diagnostic::Source;
use crate::exit::{Exit, Failure, Result};
use crate::manifest::{self, UP_FILE};
use crate::output::{note, note_wrapped, print};
use crate::up;

/// As `docker compose` looks for them.
const COMPOSE_FILES: &[&str] = &["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];

const PROCFILE: &str = "Procfile";

/// A larger file is none of these.
const LARGEST: usize = 1 << 20;

#[derive(Debug, Args)]
#[command(after_help = "\
What cannot be taken over is said on stderr, each with its field and why; images run nothing here, so that their commands are to \
be filled in. What `tulle validate` finds wrong with the new file is shown, too.")]
pub struct InitArgs {
    /// The folder that gets a tulle.yaml
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// A compose file, or a Procfile [default: the one in DIR: compose.yaml, docker-compose.yml, Procfile]
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Write over a tulle.yaml that is there
    #[arg(long)]
    force: bool,
}

pub fn run(args: &InitArgs) -> Result<()> {
    if !args.folder.is_dir() {
        return Err(Failure::input(format!("there is no folder {}", args.folder.display())));
    }
    let target = args.folder.join(UP_FILE);
    let taken = || {
        let failure = Failure::new(format!("{} is there already", target.display()));
        failure.exit(Exit::Conflict).help("--force writes over it")
    };
    if !args.force && target.exists() {
        return Err(taken());
    }
    let from = args.from.clone().or_else(|| found(&args.folder));
    let (text, draft) = match &from {
        None => (FIRST.to_owned(), None),
        Some(from) => {
            let draft = read(from, &args.folder)?;
            (draft.to_yaml(), Some(draft))
        }
    };
    let written = match args.force {
        true => File::create(&target),
        false => OpenOptions::new().write(true).create_new(true).open(&target),
    };
    let mut file = match written {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(taken()),
        other => {
            other.map_err(|error| Failure::new(format!("cannot write {}: {error}", target.display())))?
        }
    };
    file.write_all(text.as_bytes())?;
    give_to_owner(&args.folder, &target);
    if let Some(draft) = &draft {
        // They have texts of the file in them.
        draft.notes.iter().for_each(|line| note_wrapped(&legible(line), 2));
    }
    let wrong = up::load(&target, &up::ProfileArgs::default().chosen()).err();
    if let Some(wrong) = &wrong {
        note(&format!("{} is written, and not good yet:", target.display()));
        // Of the new file, that is.
        note(&wrong.to_string().replace("; nothing was changed", ""));
    }
    let what = match (&from, &draft) {
        (Some(from), Some(draft)) => {
            let count = match draft.services.len() {
                1 => "1 service".to_owned(),
                count => format!("{count} services"),
            };
            format!("wrote {} with {count} of {}", target.display(), from.display())
        }
        _ => format!("wrote {}, a first one to change", target.display()),
    };
    print(&format!("{what}\n"))
}

/// The file in the folder that says what is to run.
fn found(folder: &Path) -> Option<PathBuf> {
    let names = COMPOSE_FILES.iter().copied().chain([PROCFILE]);
    let mut found = names.map(|name| folder.join(name)).filter(|file| file.is_file());
    let first = found.next();
    for other in found {
        note(&format!("{} is not read: --from {0} takes it", other.display()));
    }
    first
}

fn read(from: &Path, folder: &Path) -> Result<Draft> {
    let source = manifest::read(from).map_err(|diagnostic| {
        let mut diagnostics = crate::diagnostic::Diagnostics::default();
        diagnostics.push(diagnostic);
        diagnostics.into_result().err().unwrap_or_else(|| Failure::input("it cannot be read"))
    })?;
    if source.text.len() > LARGEST {
        return Err(Failure::input(format!("{} is larger than 1 MiB", from.display())));
    }
    let places = Places::new(from, folder);
    let is_yaml = from.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
    let draft = if is_yaml { compose::draft(source, &places)? } else { procfile::draft(&source, &places) };
    if draft.services.is_empty() {
        let expected =
            "expected a compose file with `services:`, or a Procfile with lines such as `web: ./web`";
        return Err(
            Failure::input(format!("{} says nothing of what is to run", from.display())).help(expected)
        );
    }
    Ok(draft)
}

/// Where the paths of a file lead that is not necessarily in the folder of the new one.
pub struct Places {
    /// The folder of the file that is read.
    from: PathBuf,
    /// The way there from that of the new one.
    way: PathBuf,
    /// What the file is called in texts.
    name: String,
}

impl Places {
    fn new(from: &Path, folder: &Path) -> Self {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let above = from.parent().map(absolute).unwrap_or_default();
        let above = above.canonicalize().unwrap_or(above);
        let target = folder.canonicalize().unwrap_or_else(|_| absolute(folder));
        let way = above.strip_prefix(&target).map_or_else(|_| above.clone(), Path::to_owned);
        let name = from.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self { from: above, way, name }
    }

    /// A path as the new file has it, where something is there.
    fn existing(&self, path: &str, is_it: impl Fn(&Path) -> bool) -> Option<String> {
        let path = Path::new(path);
        if !is_it(&self.from.join(path)) {
            return None;
        }
        let path = self.way.join(path);
        let plain: PathBuf = path.components().filter(|c| *c != std::path::Component::CurDir).collect();
        Some(plain.display().to_string())
    }

    /// The variables in the `.env` beside the file that is read.
    fn variables(&self) -> std::collections::BTreeMap<String, String> {
        up::variables(&self.from.join(".env"))
    }

    fn source(&self, path: &str) -> Option<Source> {
        manifest::read(&self.from.join(path)).ok().filter(|source| source.text.len() <= LARGEST)
    }
}

/// Who owns the folder is to own the file, too: under root, services run as he.
fn give_to_owner(folder: &Path, file: &Path) {
    if !tulle_sys::is_root() {
        return;
    }
    if let Ok(owner) = std::fs::metadata(folder) {
        let given = std::os::unix::fs::chown(file, Some(owner.uid()), Some(owner.gid()));
        if let Err(error) = given {
            note(&format!("{} stays root's: {error}", file.display()));
        }
    }
}

/// The first file of who has none.
const FIRST: &str = "\
# What `tulle up` starts. All fields are in docs/up.md; `tulle validate` says what is wrong with them.
services:
  web:
    # A line, or a list of words. No shell runs it: for pipes and the like, [sh, -c, '…'].
    command: python3 -m http.server --bind ${HOST} ${PORT}
    # Others reach it as http://web:8000.
    port: 8000
    probe: {http: /}
    # replicas: 2
    # directory: web
    # environment: {LOG: info, API: \"http://api:9000\", LEVEL: \"${LEVEL:-debug}\"}
    # envFile: web.env
    # dependsOn: [api]
  # api:
  #   command: [./api, --port, \"${PORT}\"]
  #   port: 9000/grpc
  #   profiles: [backend]
# resources: [routes/*.yaml]
# include: [other/tulle.yaml]
";
