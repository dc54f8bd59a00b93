//! jaq itself, with the functions that expressions may call.

use std::rc::Rc;

use jaq_core::data::JustLut;
use jaq_core::load::{Arena, File, Loader};
use jaq_core::native::Fun;
use jaq_core::{Compiler, Ctx, Filter, Vars};
use jaq_json::{Val, read};

use crate::answer::{Answer, Ending, Refused, Values};
use crate::library::{LEFT_OUT, Library, NOW};
use crate::recent::Recent;
use crate::request::Request;

type Data = JustLut<Val>;

/// How many expressions are kept compiled.
const KEPT: usize = 100;

/// Evaluates, and keeps what it has compiled.
pub(crate) struct Jaq {
    library: Library,
    /// By the text and the names of its variables.
    compiled: Recent<Rc<Filter<Data>>>,
}

impl Jaq {
    pub(crate) fn new() -> Self {
        Self { library: Library::new(), compiled: Recent::new(KEPT, usize::MAX) }
    }

    /// The functions that there are.
    #[cfg(test)]
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.library.names().chain(natives().map(|(name, ..)| name))
    }

    pub(crate) fn evaluate(&self, request: &Request<'_>) -> Answer {
        let filter = match self.filter(request) {
            Ok(filter) => filter,
            Err(words) => return Answer::failed(words),
        };
        let value = |json| read::parse_single(json);
        let variables = request.variables.iter().map(|(_, json)| value(json)).collect::<Result<Vec<_>, _>>();
        let (input, variables) = match (value(request.input), variables) {
            (Ok(input), Ok(variables)) => (input, variables),
            (Err(error), _) | (_, Err(error)) => return Answer::failed(error),
        };
        let variables = Vars::new(std::iter::once(Val::from(request.now)).chain(variables));
        let context = Ctx::<Data>::new(&filter.lut, variables);
        let mut outputs = filter.id.run((context, input));
        let mut values = Values::new(request.largest);
        while let Some(output) = outputs.next() {
            match output.map_err(|exception| exception.get_err()) {
                Ok(value) => match values.push(&value) {
                    Ok(()) => {}
                    Err(Refused::NotJson(what)) => return Answer::failed(format_args!("it gives {what}")),
                    Err(Refused::TooLarge) => return Answer { ending: Ending::TooLarge, words: Vec::new() },
                    Err(Refused::TooDeep) => {
                        // Dropping it would go down as deep.
                        std::mem::forget((value, outputs));
                        return Answer { ending: Ending::TooDeep, words: Vec::new() };
                    }
                },
                Err(Ok(error)) => return Answer::failed(error),
                Err(Err(_)) => return Answer::failed("it leaves what it is not in"),
            }
        }
        values.finish()
    }

    fn filter(&self, request: &Request<'_>) -> Result<Rc<Filter<Data>>, String> {
        let mut key = request.text.to_owned();
        request.variables.iter().for_each(|(name, _)| key.extend(["\0", name]));
        self.compiled.get(&key, || self.compile(request).map(Rc::new))
    }

    pub(crate) fn compile(&self, request: &Request<'_>) -> Result<Filter<Data>, String> {
        let names: Vec<_> = request.variables.iter().map(|(name, _)| format!("${name}")).collect();
        let variables = std::iter::once(NOW).chain(names.iter().map(String::as_str));
        let arena = Arena::default();
        let file = File { code: request.text, path: () };
        let modules = Loader::new(self.library.of(request.text))
            .load(&arena, file)
            .map_err(|_| "jaq does not read it".to_owned())?;
        Compiler::default().with_funs(natives()).with_global_vars(variables).compile(modules).map_err(
            |errors| {
                let names = errors.iter().flat_map(|(_, errors)| errors).map(|(name, _)| *name);
                format!("jaq does not know: {}", names.collect::<Vec<_>>().join(", "))
            },
        )
    }
}

fn natives() -> impl Iterator<Item = Fun<Data>> {
    let all = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    all.filter(|(name, ..)| !LEFT_OUT.contains(name))
}
