//! Lists of tasks, and where a task leads to.

use std::collections::HashMap;

use super::Reader;
use super::surroundings::{Siblings, Surroundings};
use crate::flow::workflow::{Directive, TaskList};
use crate::validate::field::{Code, Field, Read, Unreadable, shown};
use crate::validate::suggest::did_you_mean;

impl Reader<'_> {
    /// Tasks that run one after the other.
    pub(super) fn task_list(&mut self, field: &Field<'_>, around: &Surroundings) -> Read<TaskList> {
        let (items, all_named) = self.named_items(field, "task")?;
        let (places, differ) = self.places(&items);
        let tasks = self.tasks_of(&items, around, Siblings::List(&places));
        all_named.and(differ).and(tasks)
    }

    /// Tasks that run at once.
    pub(super) fn branches(&mut self, field: &Field<'_>, around: &Surroundings) -> Read<TaskList> {
        let (items, all_named) = self.named_items(field, "branch")?;
        let (_, differ) = self.places(&items);
        let tasks = self.tasks_of(&items, around, Siblings::Branches);
        all_named.and(differ).and(tasks)
    }

    fn tasks_of(
        &mut self,
        items: &[(&str, Field<'_>)],
        around: &Surroundings,
        siblings: Siblings<'_>,
    ) -> Read<TaskList> {
        let around = around.deeper();
        let mut tasks = Vec::with_capacity(items.len());
        let mut fine = Ok(());
        for item in items {
            match self.reserve(&item.1).and_then(|id| self.task_at(id, (item.0, &item.1), &around, siblings))
            {
                Ok(id) => tasks.push(id),
                Err(Unreadable) => fine = Err(Unreadable),
            }
        }
        fine.map(|()| tasks.into())
    }

    /// The items of a list of objects with one field each: its name, and what it is. Beside them, whether that is all of them.
    #[allow(clippy::type_complexity, reason = "it is taken apart at once")]
    pub(super) fn named_items<'f>(
        &mut self,
        field: &Field<'f>,
        what: &str,
    ) -> Read<(Vec<(&'f str, Field<'f>)>, Read<()>)> {
        let (mut named, mut fine) = (Vec::new(), Ok(()));
        for item in self.items(field)? {
            let Ok(object) = self.object(&item) else {
                fine = Err(Unreadable);
                continue;
            };
            let mut fields = object.iter();
            match (fields.next(), fields.next()) {
                (Some((name, value)), None) => {
                    named.push((name.as_str(), Field { path: item.path.field(name.clone()), value }));
                }
                (None, _) => {
                    let message = format!("has no {what}: expected its name, and in that what it is");
                    fine = self.invalid(&item, message);
                }
                (Some((first, _)), Some((second, value))) => {
                    let second = Field { path: item.path.field(second.clone()), value };
                    let message =
                        format!("is the second {what} of one item, after `{first}`: start it with `- `");
                    fine = self.invalid(&second, message);
                }
            }
        }
        Ok((named, fine))
    }

    /// Where in a list each name stands; and whether they differ.
    fn places<'f>(&mut self, items: &[(&'f str, Field<'_>)]) -> (HashMap<&'f str, usize>, Read<()>) {
        let (mut places, mut fine) = (HashMap::new(), Ok(()));
        for (index, (name, field)) in items.iter().enumerate() {
            let first = *places.entry(*name).or_insert(index);
            if first != index {
                let first = &items[first].1.path;
                let message = format!("`{name}` is the name of another task of this list already: {first}");
                self.problem(field, Code::Duplicate, message);
                fine = Err(Unreadable);
            }
        }
        (places, fine)
    }

    /// What `then` says.
    pub(super) fn directive(&mut self, field: &Field<'_>, siblings: Siblings<'_>) -> Read<Directive> {
        let text = self.text(field)?;
        match text {
            "continue" => return Ok(Directive::Continue),
            "exit" => return Ok(Directive::Exit),
            "end" => return Ok(Directive::End),
            _ => {}
        }
        let shown = shown(field.value);
        let problem = match siblings {
            Siblings::List(places) => match places.get(text) {
                Some(place) => return Ok(Directive::To(*place)),
                None => {
                    let words = ["continue", "exit", "end"];
                    let mut names: Vec<_> = places.keys().copied().collect();
                    names.sort_unstable();
                    let hint = did_you_mean(text, names.into_iter().chain(words));
                    format!(
                        "there is no task {shown} in the same list{hint}; expected the name of one, `continue`, `exit` or `end`"
                    )
                }
            },
            Siblings::Branches => format!(
                "{shown} cannot come after a branch, as branches run at once: expected `continue`, `exit` or `end`"
            ),
            Siblings::Function => format!(
                "{shown} cannot come after a function, which is in no list: expected `continue`, `exit` or `end`"
            ),
        };
        self.problem(field, Code::NotFound, problem);
        Err(Unreadable)
    }
}
