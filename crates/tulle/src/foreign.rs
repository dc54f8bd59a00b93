//! Words that are commands of tools that people know: what they are here.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// In alphabetical order: a word, and what does here what it does there.
const WORDS: &[(&str, &str)] = &[
    ("analyze", "`tulle validate` looks for errors in files, `tulle status` in the mesh"),
    ("authz", "`tulle auth check` says who may enter what, and why"),
    (
        "build",
        "services are built with their own tools; `watch:` in tulle.yaml restarts them when they change",
    ),
    ("catalog", "`tulle get services`"),
    ("check", "`tulle status` says what is not well, and why"),
    ("config", "`tulle validate` checks tulle.yaml; `tulle schema up` has its fields"),
    ("connect", "`tulle attach`, or `tulle exec SERVICE -- sh`"),
    ("create", "`tulle apply -f FILE`"),
    ("dashboard", "`tulle status`, `tulle edges`"),
    ("edit", "`kubectl edit`, with the kubeconfig in Tulle's home, or `tulle apply -f FILE`"),
    ("events", "`tulle get events`"),
    ("inject", "nothing is injected: `tulle up` and `tulle run` take processes into the mesh"),
    ("install", "nothing is installed: `tulle up DIR`, or `tulle server` and `tulle node`"),
    ("intention", "`tulle get authorizationpolicies`, `tulle auth check`"),
    ("kill", "`tulle stop SERVICE`"),
    ("list", "`tulle get KIND`, `tulle ps`"),
    ("ls", "`tulle ps`, `tulle get KIND`"),
    ("members", "`tulle get nodes`, `tulle status`"),
    ("proxy-config", "`tulle explain --from WORKLOAD URL`"),
    ("proxy-status", "`tulle status`"),
    ("reload", "the file of `tulle up` is followed; `tulle up DIR` has it read at once"),
    ("rm", "`tulle delete KIND NAME`"),
    ("routes", "`tulle get httproutes`, `tulle explain --from WORKLOAD URL`"),
    ("stat", "`tulle edges`"),
    ("tail", "`tulle logs -f`"),
    ("tap", "`tulle explain --from WORKLOAD URL`; `tulle edges` counts requests"),
    ("top", "`tulle ps` has the processes, `tulle edges` who calls whom how often"),
    ("upgrade", "a newer binary in the place of this one, and a restart"),
    ("viz", "`tulle edges`"),
    ("workflow", "`tulle flow`"),
];

/// An error of the command line, with what to type in place of a word of another tool.
pub fn explained(mut error: clap::Error) -> clap::Error {
    if error.kind() == ErrorKind::InvalidSubcommand
        && let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand)
        && let Ok(found) = WORDS.binary_search_by_key(&word.as_str(), |(word, _)| word)
    {
        let hint = ContextValue::StyledStrs(vec![format!("here that is {}", WORDS[found].1).into()]);
        error.remove(ContextKind::SuggestedSubcommand);
        error.insert(ContextKind::Suggested, hint);
    }
    error
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn words_of_others_lead_to_commands_that_there_are() {
        assert!(WORDS.is_sorted_by_key(|(word, _)| *word));
        let command = crate::Cli::command();
        let known: Vec<_> = command.get_subcommands().map(clap::Command::get_name).collect();
        for (word, hint) in WORDS {
            assert!(!known.contains(word), "{word} is a command");
            for named in hint.split("`tulle ").skip(1) {
                let named = named.split([' ', '`']).next().unwrap();
                assert!(known.contains(&named), "{word}: there is no `tulle {named}`");
            }
        }
        let said = |word: &str| {
            let error = crate::Cli::command().try_get_matches_from(["tulle", word]).unwrap_err();
            explained(error).to_string()
        };
        let top = said("top");
        assert!(top.contains("tip: here that is `tulle ps` has the processes"), "{top}");
        assert!(said("validat").contains("validate") && !said("nothing").contains("tip: here"));
    }
}
