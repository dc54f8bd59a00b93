//! Which function calls which: none may call itself, by however many others, and all calls end after so many.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::Reader;
use super::bounds::DEEPEST;
use super::surroundings::Surroundings;
use crate::flow::workflow::TaskId;
use crate::validate::field::{Code, Field, FieldPath};

#[derive(Default)]
pub(super) struct Calls {
    /// By the function that they stand in; `None`: in the workflow's own `do`.
    by_caller: BTreeMap<Option<TaskId>, Vec<FunctionCall>>,
}

#[derive(Clone)]
struct FunctionCall {
    to: TaskId,
    name: Arc<str>,
    path: FieldPath,
    /// How many tasks are around it.
    depth: usize,
}

/// How far a function has been followed.
enum Followed {
    Entered,
    /// How many calls and tasks are within each other in it, at most.
    Left(usize),
}

impl Reader<'_> {
    /// Remembers that the task calls that function; `field` is what names it.
    pub(super) fn note_call(&mut self, field: &Field<'_>, to: TaskId, around: &Surroundings) {
        let name = field.value.as_str().unwrap_or_default().into();
        let call = FunctionCall { to, name, path: field.path.clone(), depth: around.depth };
        self.calls.by_caller.entry(around.function).or_default().push(call);
    }

    /// When all tasks are read.
    pub(super) fn check_calls(&mut self) {
        let mut followed = BTreeMap::new();
        let callers: Vec<_> = self.calls.by_caller.keys().copied().collect();
        for caller in callers {
            self.follow(caller, &mut Vec::new(), &mut followed);
        }
    }

    /// Gives the depth. It calls itself as deep as there are functions: less than [`super::MOST_TASKS`].
    fn follow(
        &mut self,
        caller: Option<TaskId>,
        names: &mut Vec<Arc<str>>,
        followed: &mut BTreeMap<Option<TaskId>, Followed>,
    ) -> usize {
        if let Some(Followed::Left(depth)) = followed.get(&caller) {
            return *depth;
        }
        followed.insert(caller, Followed::Entered);
        let mut deepest = 0;
        for call in self.calls.by_caller.get(&caller).cloned().unwrap_or_default() {
            let field = Field { path: call.path.clone(), value: &Value::from(&*call.name) };
            names.push(Arc::clone(&call.name));
            let within = if matches!(followed.get(&Some(call.to)), Some(Followed::Entered)) {
                let from = names.iter().position(|name| *name == call.name).unwrap_or_default();
                let circle: Vec<_> = names[from..].iter().map(|name| format!("`{name}`")).collect();
                let circle = match &circle[..] {
                    [one] => format!("{one} calls itself"),
                    more => more.join(" calls "),
                };
                self.problem(&field, Code::Invalid, format!("never ends: {circle}"));
                0
            } else {
                self.follow(Some(call.to), names, followed)
            };
            names.pop();
            let depth = call.depth + 1 + within;
            if depth > DEEPEST && deepest <= DEEPEST {
                let message = format!("leads to more than {DEEPEST} tasks within each other");
                self.problem(&field, Code::Invalid, message);
            }
            deepest = deepest.max(depth);
        }
        followed.insert(caller, Followed::Left(deepest));
        deepest
    }
}
