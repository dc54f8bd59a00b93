//! A task: what all have in common, and which it is.

use super::Reader;
use super::surroundings::{ExpressionPlace, Siblings, Surroundings};
use crate::flow::unsupported::Unsupported;
use crate::flow::workflow::{Directive, DurationValue, Task, TaskId, TaskKind};
use crate::validate::field::{Code, Field, Read, Unreadable};
use crate::validate::structure::unknown_field;

/// What every task may have.
const COMMON: [&str; 7] = ["if", "input", "output", "export", "timeout", "then", "metadata"];

/// What there is to do; each with what else it has. `do` is last, as it is a part of others.
const KINDS: [(&str, &[&str]); 12] = [
    ("call", &["with"]),
    ("emit", &[]),
    ("for", &["while", "do"]),
    ("fork", &[]),
    ("listen", &["foreach"]),
    ("raise", &[]),
    ("run", &[]),
    ("set", &[]),
    ("switch", &[]),
    ("try", &["catch"]),
    ("wait", &[]),
    ("do", &[]),
];

impl Reader<'_> {
    /// Reads the task of that name into the place that it has.
    pub(super) fn task_at(
        &mut self,
        id: TaskId,
        (name, field): (&str, &Field<'_>),
        around: &Surroundings,
        siblings: Siblings<'_>,
    ) -> Read<TaskId> {
        let kind = self.kind_of(field)?;
        let is_http = field.get(kind).is_some_and(|call| kind == "call" && call.value == "http");
        let condition =
            self.optional(field, "if", |reader, field| reader.expression(field, ExpressionPlace::If, around));
        let input = self.optional(field, "input", |reader, field| {
            let around = if is_http { around.with_secrets() } else { around.clone() };
            reader.transformation(field, "from", ExpressionPlace::TaskInput, &around)
        });
        let does = self.kind(field, kind, around, siblings);
        let output = self.optional(field, "output", |reader, field| {
            reader.transformation(field, "as", ExpressionPlace::TaskOutput, around)
        });
        let export = self.optional(field, "export", |reader, field| {
            reader.transformation(field, "as", ExpressionPlace::Export, around)
        });
        let timeout = self.optional(field, "timeout", |reader, field| {
            reader.timeout_or_reference(field, ExpressionPlace::Definition, around)
        });
        let then = self.optional(field, "then", |reader, field| reader.directive(field, siblings));
        let metadata = self.optional(field, "metadata", |reader, field| reader.object(field).map(drop));
        metadata?;
        let task = Task {
            name: name.into(),
            reference: self.reference(field),
            condition: condition?,
            input: input?.unwrap_or_default(),
            output: output?.unwrap_or_default(),
            export: export?.unwrap_or_default(),
            timeout: timeout?,
            then: then?.unwrap_or(Directive::Continue),
            kind: does?,
        };
        self.put(id, task);
        Ok(id)
    }

    /// Which of [`KINDS`] a task is; and says of all fields that it cannot have that it cannot.
    fn kind_of(&mut self, field: &Field<'_>) -> Read<&'static str> {
        let object = self.object(field)?;
        let found = KINDS.iter().find(|(kind, _)| field.get(kind).is_some());
        let Some((kind, others)) = found else {
            let known =
                KINDS.iter().flat_map(|(kind, others)| [*kind].into_iter().chain(others.iter().copied()));
            let known = known.chain(COMMON);
            let mut unknown =
                object.iter().filter(|(name, _)| !known.clone().any(|known| known == *name)).peekable();
            if unknown.peek().is_none() {
                let list: Vec<_> = KINDS.iter().map(|(kind, _)| format!("`{kind}`")).collect();
                return self
                    .invalid(field, format!("says nothing to do: expected one of {}", list.join(", ")));
            }
            for (name, value) in unknown {
                let message = unknown_field(name, known.clone(), object);
                self.problem(&Field { path: field.path.field(name.clone()), value }, Code::Unknown, message);
            }
            return Err(Unreadable);
        };
        let mut fine = Ok(*kind);
        let known = || [*kind].into_iter().chain(others.iter().copied()).chain(COMMON);
        for (name, value) in object.iter().filter(|(name, _)| !known().any(|known| known == *name)) {
            let field = Field { path: field.path.field(name.clone()), value };
            let message = match KINDS.iter().any(|(other, _)| other == name) {
                true => format!("cannot be beside `{kind}`: a task does one thing"),
                false => unknown_field(name, known(), object),
            };
            self.problem(&field, Code::Unknown, message);
            fine = Err(Unreadable);
        }
        fine
    }

    fn kind(
        &mut self,
        task: &Field<'_>,
        kind: &'static str,
        around: &Surroundings,
        siblings: Siblings<'_>,
    ) -> Read<TaskKind> {
        // It is there: that is how its kind was found.
        let field = task.get(kind).ok_or(Unreadable)?;
        match kind {
            "call" => self.call(task, &field, around),
            "do" => Ok(TaskKind::Do(self.task_list(&field, around)?)),
            "for" => self.for_each(task, &field, around),
            "fork" => self.fork(&field, around),
            "raise" => self.raise(&field, around),
            "set" => self.set(&field, around),
            "switch" => self.switch(&field, around, siblings),
            "try" => self.try_catch(task, &field, around),
            "wait" => Ok(TaskKind::Wait(self.duration(&field, ExpressionPlace::Definition, around)?)),
            "emit" => self.unsupported(&field, Unsupported::Emit),
            "listen" => self.unsupported(&field, Unsupported::Listen),
            _ => self.run(&field),
        }
    }

    /// Nothing of it can be run; which of them it is says why.
    fn run(&mut self, field: &Field<'_>) -> Read<TaskKind> {
        const PROCESSES: [(&str, Unsupported); 4] = [
            ("container", Unsupported::RunContainer),
            ("script", Unsupported::RunScript),
            ("shell", Unsupported::RunShell),
            ("workflow", Unsupported::RunWorkflow),
        ];
        self.object(field)?;
        for (name, what) in PROCESSES {
            if let Some(process) = field.get(name) {
                return self.unsupported(&process, what);
            }
        }
        self.invalid(field, "says nothing to run: expected `container`, `script`, `shell` or `workflow`")
    }

    /// `timeout`, or the name of one of `use.timeouts`.
    pub(super) fn timeout_or_reference(
        &mut self,
        field: &Field<'_>,
        place: ExpressionPlace,
        around: &Surroundings,
    ) -> Read<DurationValue> {
        if !field.value.is_string() {
            return self.timeout(field, place, around);
        }
        let found = self.referred(field, "timeouts", |reusable| &reusable.timeouts)?;
        if let (ExpressionPlace::WorkflowTimeout, DurationValue::Expression(_)) = (place, &found) {
            // What tasks may name in it is not all there.
            let timeouts = self.document.get("use").and_then(|field| field.get("timeouts"));
            let name = field.value.as_str();
            let entries = timeouts.map(|timeouts| self.entries(&timeouts)).transpose()?.unwrap_or_default();
            if let Some((_, timeout)) = entries.into_iter().find(|(entry, _)| Some(*entry) == name) {
                return self.timeout(&timeout, place, around);
            }
        }
        Ok(found)
    }

    pub(super) fn timeout(
        &mut self,
        field: &Field<'_>,
        place: ExpressionPlace,
        around: &Surroundings,
    ) -> Read<DurationValue> {
        let known = self.fields(field, &["after"])?;
        let after = self.required(field, ("after", "how long it may take"), |reader, field| {
            reader.duration(field, place, around)
        });
        known.and(after)
    }
}
