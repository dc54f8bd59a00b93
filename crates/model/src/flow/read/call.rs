//! Calls: of services by HTTP, and of functions of the document.

use serde_json::Value;

use super::Reader;
use super::expressions::is_expression;
use super::surroundings::{ExpressionPlace, Surroundings};
use crate::flow::expression::Template;
use crate::flow::unsupported::Unsupported;
use crate::flow::workflow::{HttpCall, HttpOutput, TaskKind};
use crate::validate::field::{Code, Field, Read, Unreadable, shown};
use crate::validate::structure::mismatch;
use crate::validate::suggest::{closest, did_you_mean};
use crate::validate::syntax::header_name_problem;

/// The methods that are asked for mostly.
const METHODS: [&str; 7] = ["get", "head", "post", "put", "patch", "delete", "options"];

/// The method that was meant, of one that is mistyped. Any other word may be a method, too.
fn mistyped(method: &str) -> Option<&'static str> {
    let meant = if is_expression(method) { None } else { closest(method, METHODS) };
    meant.filter(|meant| !meant.eq_ignore_ascii_case(method))
}

impl Reader<'_> {
    /// `field` is what names the function.
    pub(super) fn call(
        &mut self,
        task: &Field<'_>,
        field: &Field<'_>,
        around: &Surroundings,
    ) -> Read<TaskKind> {
        let function = self.text(field)?;
        let around = around.with_secrets();
        match function {
            "http" => {
                let about = "the method and the endpoint";
                let call = self.required(task, ("with", about), |reader, field| reader.http(field, &around));
                Ok(TaskKind::Call(Box::new(call?)))
            }
            "grpc" => self.unsupported(field, Unsupported::CallGrpc),
            "openapi" => self.unsupported(field, Unsupported::CallOpenApi),
            "asyncapi" => self.unsupported(field, Unsupported::CallAsyncApi),
            "a2a" => self.unsupported(field, Unsupported::CallA2a),
            "mcp" => self.unsupported(field, Unsupported::CallMcp),
            url if url.contains("://") => self.unsupported(field, Unsupported::FunctionByUrl),
            name if name.contains('@') && !self.reusable.functions.contains_key(name) => {
                self.unsupported(field, Unsupported::CatalogedFunction)
            }
            // What a function is given is kept.
            name => self.function(task, (name, field), &around.without_secrets()),
        }
    }

    fn function(
        &mut self,
        task: &Field<'_>,
        (name, field): (&str, &Field<'_>),
        around: &Surroundings,
    ) -> Read<TaskKind> {
        let with = self.optional(task, "with", |reader, field| {
            reader.object(field)?;
            reader.template(field, ExpressionPlace::Definition, around)
        });
        let Some(called) = self.reusable.functions.get(name).copied() else {
            let known = self.reusable.functions.keys().map(|name| &**name);
            let hint = did_you_mean(name, known.chain(["http"]));
            let message =
                format!("{} is neither `http` nor one of `use.functions`{hint}", shown(field.value));
            self.problem(field, Code::NotFound, message);
            return Err(Unreadable);
        };
        let called = called?;
        self.note_call(field, called, around);
        Ok(TaskKind::Function { task: called, with: with? })
    }

    fn http(&mut self, field: &Field<'_>, around: &Surroundings) -> Read<HttpCall> {
        const KNOWN: [&str; 7] = ["method", "endpoint", "headers", "body", "query", "output", "redirect"];
        const OUTPUTS: [(&str, HttpOutput); 3] =
            [("content", HttpOutput::Content), ("raw", HttpOutput::Raw), ("response", HttpOutput::Response)];
        let known = self.fields(field, &KNOWN)?;
        let method = self.required(field, ("method", "e.g. `get`"), |reader, field| {
            let text = reader.text(field)?;
            if !is_expression(text) && (text.is_empty() || header_name_problem(text).is_some()) {
                return reader
                    .invalid(field, format!("{} is no method of HTTP, e.g. `post`", shown(field.value)));
            }
            if let Some(meant) = mistyped(text) {
                let message = format!(
                    "{} is no method of HTTP that is known; did you mean `{meant}`? (one of your own is written as an expression: `${{ \"{}\" }}`)",
                    shown(field.value),
                    text.to_ascii_uppercase()
                );
                return reader.invalid(field, message);
            }
            reader.template(field, ExpressionPlace::HttpCall, around)
        });
        let about = "where the request goes, e.g. `http://orders/{id}`";
        let endpoint = self.required(field, ("endpoint", about), |reader, field| {
            reader.endpoint(field, ExpressionPlace::HttpCall, around)
        });
        let headers = self.optional(field, "headers", |reader, field| reader.headers(field, around));
        let query = self.optional(field, "query", |reader, field| reader.query(field, around));
        let body = self.optional(field, "body", |reader, field| {
            reader.template(field, ExpressionPlace::HttpCall, around)
        });
        let output = self.optional(field, "output", |reader, field| reader.word(field, &OUTPUTS));
        let redirect = self.optional(field, "redirect", Self::boolean);
        known?;
        Ok(HttpCall {
            method: method?,
            endpoint: endpoint?,
            headers: headers?,
            query: query?,
            body: body?,
            output: output?.unwrap_or_default(),
            redirect: redirect?.unwrap_or(false),
        })
    }

    fn headers(&mut self, field: &Field<'_>, around: &Surroundings) -> Read<Template> {
        for (name, field) in self.entries_or_expression(field)? {
            if let Some(problem) =
                header_name_problem(name).or(name.is_empty().then_some("must not be empty"))
            {
                return self.invalid(
                    &field,
                    format!("`{}` is no name of a header: it {problem}", name.escape_debug()),
                );
            }
            self.text(&field)?;
        }
        self.template(field, ExpressionPlace::HttpCall, around)
    }

    /// The schema has texts, the reference any values: what is written as a text is let pass.
    fn query(&mut self, field: &Field<'_>, around: &Surroundings) -> Read<Template> {
        for (_, field) in self.entries_or_expression(field)? {
            if matches!(field.value, Value::Null | Value::Array(_) | Value::Object(_)) {
                let message = mismatch("a text, a number, true or false", field.value);
                self.problem(&field, Code::TypeInvalid, message);
                return Err(Unreadable);
            }
        }
        self.template(field, ExpressionPlace::HttpCall, around)
    }

    /// What is in an object; nothing, where an expression gives it.
    fn entries_or_expression<'f>(&mut self, field: &Field<'f>) -> Read<Vec<(&'f str, Field<'f>)>> {
        if field.value.as_str().is_some_and(is_expression) {
            return Ok(Vec::new());
        }
        self.entries(field)
    }
}
