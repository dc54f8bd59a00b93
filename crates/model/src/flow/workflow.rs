//! A workflow of the Serverless Workflow DSL 1.0 (dsl-reference.md), read and checked: what the core runs.
//!
//! Tasks stand in one list, each under the number that [`TaskId`] is; what contains others names them.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::expression::{Expression, Template};

#[derive(Debug)]
pub struct Workflow {
    pub name: Arc<str>,
    pub version: Arc<str>,
    /// As it was written, for `$workflow.definition` and `$task.definition`.
    pub definition: Arc<Value>,
    pub input: Transformation,
    pub output: Transformation,
    pub timeout: Option<DurationValue>,
    /// The Secrets that its calls may name.
    pub secrets: Vec<Arc<str>>,
    pub tasks: Vec<Task>,
    /// The workflow's own `do`.
    pub steps: TaskList,
}

/// Numbers a task of a workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId(pub u32);

/// Tasks that run one after the other.
pub type TaskList = Arc<[TaskId]>;

#[derive(Debug)]
pub struct Task {
    pub name: Arc<str>,
    /// Where it stands in the document: a JSON pointer (RFC 6901), as `/do/0/getPet`.
    pub reference: Arc<str>,
    pub condition: Option<Expression>,
    pub input: Transformation,
    pub output: Transformation,
    /// What becomes the workflow's context.
    pub export: Transformation,
    pub timeout: Option<DurationValue>,
    pub then: Directive,
    pub kind: TaskKind,
}

impl Task {
    /// Whether secrets come into its input by `input.from`, which is then evaluated with the arguments of its call.
    pub fn has_secret_input(&self) -> bool {
        matches!(self.kind, TaskKind::Call(_))
            && self.input.template.as_ref().is_some_and(|template| template.uses("secrets"))
    }
}

/// `input`, `output` or `export`: what is made of a value, and what it has to be. Inputs are held against the schema before
/// they are transformed, the others after it.
#[derive(Debug, Default)]
pub struct Transformation {
    pub schema: Option<SchemaSource>,
    /// `from` or `as`; `None`: the value stays as it is.
    pub template: Option<Template>,
}

/// A JSON Schema.
#[derive(Debug)]
pub enum SchemaSource {
    Inline(Arc<Value>),
    /// Where it is to be had.
    At(CallEndpoint),
}

/// Where it goes on after a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Directive {
    /// With the next task of its list.
    Continue,
    /// Its list is done.
    Exit,
    /// The workflow is done.
    End,
    /// With the task at this place in its list.
    To(usize),
}

#[derive(Debug)]
pub enum TaskKind {
    Do(TaskList),
    Set(Template),
    Switch(Vec<SwitchCase>),
    For(Loop),
    Fork(Fork),
    Try(Try),
    /// Evaluates to an error's fields.
    Raise(Template),
    Wait(DurationValue),
    Call(Box<HttpCall>),
    /// A function of `use.functions`, and its input; `None`: that of the task.
    Function {
        task: TaskId,
        with: Option<Template>,
    },
}

#[derive(Debug)]
pub struct SwitchCase {
    pub name: Arc<str>,
    /// `None`: if no other case is chosen.
    pub when: Option<Expression>,
    pub then: Directive,
}

#[derive(Debug)]
pub struct Loop {
    /// The name of the variable with the item.
    pub each: Arc<str>,
    /// The name of the variable with its index.
    pub at: Arc<str>,
    pub items: Expression,
    pub condition: Option<Expression>,
    pub body: TaskList,
}

#[derive(Debug)]
pub struct Fork {
    pub branches: TaskList,
    /// Whether the first that is done is all that counts.
    pub compete: bool,
}

#[derive(Debug)]
pub struct Try {
    pub body: TaskList,
    pub catch: Catch,
}

#[derive(Debug, Default)]
pub struct Catch {
    pub errors: ErrorFilter,
    /// The name of the variable with the error.
    pub variable: Arc<str>,
    pub when: Option<Expression>,
    pub except_when: Option<Expression>,
    pub retry: Option<Arc<RetryPolicy>>,
    pub handler: Option<TaskList>,
}

/// What an error has to be; what is left out may be anything.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ErrorFilter {
    pub kind: Option<Arc<str>>,
    pub status: Option<u16>,
    pub instance: Option<Arc<str>>,
    pub title: Option<Arc<str>>,
    pub detail: Option<Arc<str>>,
}

#[derive(Debug, Default)]
pub struct RetryPolicy {
    pub when: Option<Expression>,
    pub except_when: Option<Expression>,
    pub delay: Option<DurationValue>,
    pub backoff: Backoff,
    /// Least and most of what is added to the delay.
    pub jitter: Option<[DurationValue; 2]>,
    /// How often it is tried again, at most.
    pub attempts: Option<u32>,
    /// How long each attempt may take.
    pub attempt_duration: Option<DurationValue>,
    /// How long all attempts may take.
    pub duration: Option<DurationValue>,
}

/// How the delay grows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Backoff {
    #[default]
    Constant,
    /// By itself each time.
    Linear,
    /// Twice as long each time.
    Exponential,
}

#[derive(Debug, Clone)]
pub enum DurationValue {
    Constant(Duration),
    /// Evaluates to what [`super::duration::read`] reads.
    Expression(Expression),
}

/// `call: http`, and what is to be made of the answer.
#[derive(Debug)]
pub struct HttpCall {
    pub method: Template,
    pub endpoint: CallEndpoint,
    pub headers: Option<Template>,
    pub query: Option<Template>,
    pub body: Option<Template>,
    pub output: HttpOutput,
    /// Whether an answer of 300 to 399 is none of the errors.
    pub redirect: bool,
}

impl HttpCall {
    /// Whether what it is made with names `$secrets`.
    pub fn names_secrets(&self) -> bool {
        let in_uri = match &self.endpoint.uri {
            Uri::Template(_) => false,
            Uri::Expression(expression) => expression.variables_used().any(|name| name == "secrets"),
        };
        let templates = [Some(&self.method), self.headers.as_ref(), self.query.as_ref(), self.body.as_ref()];
        in_uri || templates.into_iter().flatten().any(|template| template.uses("secrets"))
    }

    /// All that is evaluated to make it, its authentication included.
    pub fn expressions(&self) -> Vec<&Expression> {
        let (mut uris, mut templates) = (vec![&self.endpoint.uri], vec![&self.method]);
        templates.extend([&self.headers, &self.query, &self.body].into_iter().flatten());
        if let Some(authentication) = &self.endpoint.authentication {
            let credentials = match &**authentication {
                Authentication::Basic(credentials) | Authentication::Bearer(credentials) => credentials,
                Authentication::OAuth2(oauth2) => {
                    uris.extend(oauth2.authority.iter().chain(&oauth2.issuers));
                    &oauth2.client
                }
            };
            if let Credentials::Given(template) = credentials {
                templates.push(template);
            }
        }
        let in_uris = uris.into_iter().filter_map(|uri| match uri {
            Uri::Template(_) => None,
            Uri::Expression(expression) => Some(expression),
        });
        in_uris.chain(templates.into_iter().flat_map(Template::expressions)).collect()
    }
}

#[derive(Debug)]
pub struct CallEndpoint {
    pub uri: Uri,
    pub authentication: Option<Arc<Authentication>>,
}

#[derive(Debug)]
pub enum Uri {
    /// With places in braces (RFC 6570) that fields of the task's input fill in.
    Template(UriTemplate),
    Expression(Expression),
}

/// A template of the first level of RFC 6570.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UriTemplate(pub Vec<UriPart>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UriPart {
    Literal(Arc<str>),
    /// The name of a field.
    Field(Arc<str>),
}

/// What becomes the task's output.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum HttpOutput {
    /// The body: read, where it is JSON, else text.
    #[default]
    Content,
    /// The body in Base64.
    Raw,
    /// Request, status, headers and content.
    Response,
}

/// How a call says who it is for.
#[derive(Debug)]
pub enum Authentication {
    Basic(Credentials),
    Bearer(Credentials),
    /// By a token that is fetched first (RFC 6749, section 4.4: client_credentials).
    OAuth2(OAuth2),
}

/// Username and password, or a token.
#[derive(Debug)]
pub enum Credentials {
    /// The fields, as the document has them.
    Given(Template),
    /// The fields of a Secret.
    Secret(Arc<str>),
}

#[derive(Debug)]
pub struct OAuth2 {
    /// `None`: what the client's Secret says.
    pub authority: Option<Uri>,
    /// The path of the token endpoint at the authority; `None`: where the authority's metadata say (OpenID Connect Discovery 1.0).
    pub token_path: Option<Arc<str>>,
    /// `id` and `secret` of the client, scopes and audiences: as the document has them, or a Secret.
    pub client: Credentials,
    pub client_authentication: ClientAuthentication,
    /// Whether the request for a token is JSON, and not a form.
    pub is_json: bool,
    /// Who may have issued the token; empty: anybody.
    pub issuers: Vec<Uri>,
}

/// How the client shows to be itself (RFC 6749, section 2.3.1).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuthentication {
    Basic,
    #[default]
    Post,
    None,
}

impl Workflow {
    pub fn task(&self, id: TaskId) -> &Task {
        &self.tasks[id.0 as usize]
    }
}
