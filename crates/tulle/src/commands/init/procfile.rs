//! A Procfile: lines of `NAME: COMMAND`, as foreman and Heroku run them. A shell runs each there, with a port in `$PORT`: 5000 and
//! 100 more for every line.

use std::collections::BTreeSet;

use super::Places;
use super::draft::{Draft, DraftCommand, DraftService};
use crate::diagnostic::Source;
use crate::up::split;

const FIRST_PORT: u32 = 5000;
const STEP: u32 = 100;

/// Heroku runs this one once, before the others.
const RELEASE: &str = "release";

pub fn draft(source: &Source, places: &Places) -> Draft {
    let mut draft = Draft { from: places.name.clone(), ..Draft::default() };
    let mut taken = BTreeSet::new();
    let env_file = places.existing(".env", |path| path.is_file());
    let first =
        places.variables().get("PORT").and_then(|port| port.parse::<u32>().ok()).unwrap_or(FIRST_PORT);
    for (index, line) in source.text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let is_name = |name: &&str| {
            let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            !name.is_empty() && name.chars().all(is_good)
        };
        let parts = line.split_once(':').map(|(name, command)| (name.trim(), command.trim()));
        let Some((wanted, command)) = parts.filter(|(name, command)| is_name(name) && !command.is_empty())
        else {
            draft.note(&format!("line {}", index + 1), "it is not `NAME: COMMAND`, and left out");
            continue;
        };
        let name = draft.free_name(wanted, &mut taken);
        let port = first + STEP * u32::try_from(draft.services.len()).unwrap_or_default();
        let mut service = DraftService { name: name.clone(), ..DraftService::default() };
        service.env_files.extend(env_file.clone());
        let with_port = names_port(command);
        if with_port || wanted == "web" {
            service.ports.push(super::draft::DraftPort {
                name: None,
                port: port.to_string(),
                listens_at: None,
                protocol: None,
            });
        } else if wanted != RELEASE {
            // It has the variable there, too; what listens at no port is not asked whether it does.
            service.environment.push(("PORT".to_owned(), port.to_string()));
        }
        if wanted == RELEASE {
            service.profiles.push(RELEASE.to_owned());
            service.restart = Some("never");
            draft.note(
                &name,
                "runs with `tulle up --profile release` alone: elsewhere it runs once, before the others",
            );
        }
        service.command = words(command);
        draft.services.push(service);
    }
    draft
}

/// Whether a command reads `$PORT`.
fn names_port(command: &str) -> bool {
    command.match_indices('$').any(|(at, _)| {
        let rest = &command[at + 1..];
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        rest.strip_prefix("PORT")
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
    })
}

/// What a shell does and nobody else: commands of its own.
const BUILTINS: &[&str] = &[
    "cd", ".", "source", "export", "unset", "set", "exec", "eval", "ulimit", "umask", "if", "while", "for",
    "until", "case", "trap", "wait", "{", "!", "[[",
];

/// The words of a command that a shell runs; through a shell where it needs one.
pub fn words(command: &str) -> DraftCommand {
    let with_braces = port_in_braces(command);
    let rest = without_port(&with_braces);
    let first = rest.split_whitespace().next().unwrap_or_default();
    let needs_shell = rest.contains(|c| "|&;<>()$`*?[]{}~#!\\\n".contains(c))
        || first.contains('=')
        || BUILTINS.contains(&first);
    match split(&with_braces) {
        Ok(words) if !needs_shell && !words.is_empty() => DraftCommand::Line(with_braces),
        _ => DraftCommand::Words(vec!["sh".to_owned(), "-c".to_owned(), for_shell(&with_exec(command))]),
    }
}

/// With `$PORT` as `${PORT}`, which no shell puts in.
fn port_in_braces(command: &str) -> String {
    let mut out = String::new();
    let mut rest = command;
    while let Some(at) = rest.find("$PORT") {
        let (before, after) = (&rest[..at], &rest[at + "$PORT".len()..]);
        let ends = !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        out.push_str(before);
        out.push_str(if ends { "${PORT}" } else { "$PORT" });
        rest = after;
    }
    out + rest
}

/// Without what stands for the port, which is put in whoever runs it.
fn without_port(command: &str) -> String {
    let mut out = command.replace("${PORT}", "");
    for start in ["${PORT:-", "${PORT-"] {
        while let Some(at) = out.find(start) {
            let Some(end) = out[at..].find('}') else { break };
            if !out[at + start.len()..at + end].chars().all(|c| c.is_ascii_digit()) {
                break;
            }
            out.replace_range(at..=at + end, "");
        }
    }
    out
}

/// A text that reaches a shell as it is.
pub fn for_shell(text: &str) -> String {
    text.replace("$$", "$$$$").replace("${", "$${")
}

/// The command in the place of the shell that runs it, where it is the last thing that this does: it gets the signals then.
pub fn with_exec(text: &str) -> String {
    let Some(last) = last_command(text) else { return text.to_owned() };
    let (before, command) = text.split_at(last);
    let first = command.split_whitespace().next().unwrap_or_default();
    if BUILTINS.contains(&first) || first.is_empty() {
        return text.to_owned();
    }
    let is_assignment = first.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    });
    let exec = if is_assignment { "exec env " } else { "exec " };
    format!("{before}{exec}{command}")
}

/// Words with which a shell's own constructs begin and end, and what must outlive the last command.
const CONSTRUCTS: &[&str] = &[
    "if", "then", "elif", "else", "fi", "for", "select", "while", "until", "do", "done", "case", "esac",
    "function", "{", "}", "!", "trap",
];

/// Where the last of the commands begins that `&&` and `;` join; none where there are other signs of a shell's, such as pipes and
/// loops.
fn last_command(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut starts, mut quote) = (0, vec![0], None);
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (None, b'\\') | (Some(b'"'), b'\\') => at += 1,
            (None, found @ (b'\'' | b'"')) => quote = Some(found),
            (Some(open), found) if open == found => quote = None,
            // `2>&1` is no sign between commands.
            (None, b'&') if at > 0 && bytes[at - 1] == b'>' => {}
            (None, b'&') if bytes.get(at + 1) == Some(&b'&') => {
                at += 1;
                starts.push(at + 1);
            }
            (None, b';' | b'\n') => starts.push(at + 1),
            (None, b'&' | b'|' | b'(' | b')' | b'`' | b'#') => return None,
            _ => {}
        }
        at += 1;
    }
    let first = |start: &usize| text.get(*start..)?.split_whitespace().next();
    if quote.is_some() || starts.iter().filter_map(first).any(|word| CONSTRUCTS.contains(&word)) {
        return None;
    }
    let last = text.get(*starts.last()?..)?.trim_start();
    Some(text.len() - last.len()).filter(|_| !last.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_a_shell_where_they_need_one() {
        for (command, expected) in [
            ("./web -p $PORT", "./web -p ${PORT}"),
            (
                "bundle exec puma -p ${PORT:-3000} -C 'config/puma.rb'",
                "bundle exec puma -p ${PORT:-3000} -C 'config/puma.rb'",
            ),
            ("./web $PORTS", "exec ./web $PORTS"),
            ("RAILS_ENV=x ./web", "exec env RAILS_ENV=x ./web"),
            ("cd web && npm start", "cd web && exec npm start"),
            ("cd web; npm start --port=$PORT", "cd web; exec npm start --port=$PORT"),
            ("./a | ./b", "./a | ./b"),
            ("./a & ./b", "./a & ./b"),
            ("./a > log 2>&1", "exec ./a > log 2>&1"),
            ("./a ${B:-c} $$", "exec ./a $${B:-c} $$$$"),
            ("echo 'a && b' \"c; d\" $E", "exec echo 'a && b' \"c; d\" $E"),
            ("exec ./a *.rb", "exec ./a *.rb"),
            ("./a $(nproc)", "./a $(nproc)"),
            ("./a 'b", "./a 'b"),
            ("cd web &&", "cd web &&"),
            ("while true; do date; sleep 1; done", "while true; do date; sleep 1; done"),
            ("if a; then b; fi; c", "if a; then b; fi; c"),
            ("trap x EXIT; ./a", "trap x EXIT; ./a"),
        ] {
            let is = match words(command) {
                DraftCommand::Line(line) => line,
                DraftCommand::Words(words) => {
                    assert_eq!(&words[..2], ["sh", "-c"]);
                    words[2].clone()
                }
                DraftCommand::Missing(_) => String::new(),
            };
            assert_eq!(is, expected, "{command}");
        }
        assert!(names_port("a $PORT") && names_port("a ${PORT:-1}") && !names_port("a $PORTS PORT"));
    }
}
