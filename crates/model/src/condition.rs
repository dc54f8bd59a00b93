//! Conditions in the Common Expression Language (CEL, <https://cel.dev>): what a rule of an AuthorizationPolicy asks that its
//! other fields cannot say.
//!
//! What a condition costs is bounded when it is read: its text and depth, one loop and none inside of another, and of headers only
//! those that it names. Names of variables are put in place of the expressions that say them, so that evaluation asks for each by one
//! name ([`ConditionFacts::resolve`]) and nothing is copied that is not asked for.

mod names;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, OnceLock};

use cel::common::types::{CelBool, CelInt, CelString};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, IdedExpr, Value};
use http::{HeaderMap, HeaderName};

use self::names::{HEADER, HEADER_THERE};
use crate::identity::{SpiffeId, Subject};
use crate::routing::join_values;
use crate::snapshot::Claims;

/// The longest text of a condition, in bytes.
pub const LONGEST: usize = 1024;

/// How much may stand within one another. The parser has a bound of its own, and has used its stack up before it looks at it.
const DEEPEST: usize = 50;

/// Functions, operators and macros of the standard library, without optional values.
static LANGUAGE: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// A condition that can be asked.
#[derive(Clone)]
pub struct CelCondition {
    text: Arc<str>,
    expression: Arc<IdedExpr>,
    asks: Arc<Asks>,
}

/// What a condition asks for.
#[derive(Debug, Default)]
struct Asks {
    request: bool,
    path: bool,
    host: bool,
    address: bool,
    token: bool,
    headers: Vec<HeaderName>,
}

impl CelCondition {
    /// The condition of that text.
    ///
    /// # Errors
    /// What is wrong with it, as a part of a sentence.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("is longer than {LONGEST} bytes"));
        }
        if nests_deeper(text, DEEPEST) {
            return Err(format!("has more than {DEEPEST} parentheses, signs or choices within one another"));
        }
        let expression = LANGUAGE.parser().parse(text).map_err(|errors| {
            // The first is what was meant; the others follow from it.
            let first = errors.errors.first();
            let what = first.map(|error| error.msg.lines().next().unwrap_or_default().to_owned());
            let place = first.map(|error| error.pos.1).filter(|column| *column > 0);
            let place = place.map(|column| format!(" (column {column})")).unwrap_or_default();
            format!("is no expression of CEL: {}{place}", what.unwrap_or_default())
        })?;
        let (expression, asks) = names::put_in(expression)?;
        Ok(Self { text: text.into(), expression: Arc::new(expression), asks: Arc::new(asks) })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it asks anything of a request. Where not, it can be asked of a connection.
    pub(crate) fn reads_requests(&self) -> bool {
        self.asks.request
    }

    pub(crate) fn goes_by_path(&self) -> bool {
        self.asks.path
    }

    pub(crate) fn asks_for_token(&self) -> bool {
        self.asks.token
    }

    /// Whether it asks for more than source, port and method.
    pub(crate) fn asks_beyond(&self, knows_address: bool) -> bool {
        let Asks { request: _, path, host, address, token, headers } = &*self.asks;
        *path || *host || *token || !headers.is_empty() || (*address && !knows_address)
    }

    /// The headers that it asks for.
    pub(crate) fn headers(&self) -> &[HeaderName] {
        &self.asks.headers
    }

    /// Whether it is so.
    ///
    /// # Errors
    /// Why it cannot be said, e.g. that a header it compares is not there.
    pub(crate) fn holds(&self, facts: &ConditionFacts<'_>) -> Result<bool, String> {
        let mut context = Context::with_env(LANGUAGE.clone());
        context.set_variable_resolver(facts);
        match Value::resolve(&self.expression, &context) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(_) => Err("gives neither true nor false".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Whether a text has more than `most` brackets, signs in a row, or choices (`? :`) within one another, or could have: what is in quotes
/// counts, too.
fn nests_deeper(text: &str, most: usize) -> bool {
    let (mut open, mut signs, mut choices) = (0usize, 0, 0);
    text.bytes().any(|byte| {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            b'?' => choices += 1,
            _ => {}
        }
        signs = match byte {
            b'!' | b'-' => signs + 1,
            byte if byte.is_ascii_whitespace() => signs,
            _ => 0,
        };
        open + signs + choices > most
    })
}

/// The rest is made of the text.
impl PartialEq for CelCondition {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for CelCondition {}

impl fmt::Debug for CelCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CelCondition").field(&self.text).finish()
    }
}

/// What conditions are asked about.
#[derive(Debug)]
pub(crate) struct ConditionFacts<'f> {
    pub source: Result<&'f SpiffeId, IpAddr>,
    pub port: u16,
    pub request: Option<RequestFacts<'f>>,
    /// A valid token, and whose it is.
    pub token: Option<(&'f str, &'f Claims)>,
    /// Its claims as values of the language, when they were first asked for.
    pub claims: OnceLock<Option<Box<dyn Val>>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestFacts<'f> {
    pub method: &'f str,
    /// In its normal form.
    pub path: &'f str,
    /// In lower case, without a port.
    pub host: &'f str,
    pub headers: &'f HeaderMap,
}

fn text(text: &str) -> CowVal<'_, '_> {
    CowVal::owned(CelString::from(text))
}

impl VariableResolver for ConditionFacts<'_> {
    /// The value of a name as [`names`] puts them in; `None` where it is not known.
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        let owned = |text: String| Some(CowVal::owned(CelString::from(text)));
        let account = || match self.source.ok()?.subject() {
            Subject::Workload { namespace, service_account } => Some((namespace, service_account)),
            Subject::Node(_) | Subject::Server => None,
        };
        // Of who is not in the mesh they are empty.
        match name {
            "source.principal" => Some(text(self.source.map_or("", SpiffeId::as_str))),
            "source.trustDomain" => {
                owned(self.source.map(|id| id.trust_domain().to_string()).unwrap_or_default())
            }
            "source.namespace" => Some(text(account().map_or("", |(namespace, _)| namespace))),
            "source.serviceAccount" => Some(text(account().map_or("", |(_, name)| name))),
            "source.address" => {
                owned(self.source.err().map(|ip| ip.to_canonical().to_string()).unwrap_or_default())
            }
            "destination.port" => Some(CowVal::owned(CelInt::from(i64::from(self.port)))),
            "request.method" => self.request.map(|request| text(request.method)),
            "request.path" => self.request.map(|request| text(request.path)),
            "request.host" => self.request.map(|request| text(request.host)),
            "jwt.issuer" => self.token.map(|(issuer, _)| text(issuer)),
            "jwt.claims" => {
                let claims =
                    self.claims.get_or_init(|| names::of_json_object(&self.token?.1.0).try_into().ok());
                claims.as_ref().map(|claims| CowVal::Borrowed(&**claims))
            }
            _ => {
                let headers = self.request?.headers;
                if let Some(name) = name.strip_prefix(HEADER_THERE) {
                    return Some(CowVal::owned(CelBool::from(headers.contains_key(name))));
                }
                let name = name.strip_prefix(HEADER)?;
                let values = headers.get_all(name).iter().map(|value| value.as_bytes());
                owned(join_values(name, values)?.into_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests;
