//! What pages of other origins may do.

use http::HeaderValue;
use tulle_model::snapshot as model;

use super::{ConvertError, Result, error};
use crate::discovery as wire;

impl From<&model::Cors> for wire::Cors {
    fn from(cors: &model::Cors) -> Self {
        let origins = match &cors.origins {
            model::AllowedOrigins::Any => vec!["*".to_owned()],
            model::AllowedOrigins::These(patterns) => patterns.iter().map(ToString::to_string).collect(),
        };
        let names = |listing: &model::Listing| {
            let text = listing.text().map(HeaderValue::as_bytes).unwrap_or_default();
            String::from_utf8_lossy(text).into_owned()
        };
        Self {
            index: cors.index,
            origins,
            credentials: cors.credentials,
            methods: names(&cors.methods),
            headers: names(&cors.headers),
            exposed: names(&cors.exposed),
            max_age: cors.max_age,
        }
    }
}

impl TryFrom<wire::Cors> for model::Cors {
    type Error = ConvertError;

    fn try_from(cors: wire::Cors) -> Result<Self> {
        let pattern = |(index, text): (usize, &String)| {
            let problem =
                |problem| error(format!("origins[{index}]"), format!("`{}` {problem}", text.escape_debug()));
            model::OriginPattern::parse(text).map_err(problem)
        };
        let origins = match &*cors.origins {
            [any] if any == "*" => model::AllowedOrigins::Any,
            given => {
                let patterns: Result<_> = given.iter().enumerate().map(pattern).collect();
                model::AllowedOrigins::These(patterns?)
            }
        };
        let names = |field, text: String| {
            let problem = || error(field, format!("`{}` is no list of names", text.escape_debug()));
            model::Listing::new(&text).ok_or_else(problem)
        };
        Ok(Self {
            index: cors.index,
            origins,
            credentials: cors.credentials,
            methods: names("methods", cors.methods)?,
            headers: names("headers", cors.headers)?,
            exposed: names("exposed", cors.exposed)?,
            max_age: cors.max_age,
        })
    }
}
