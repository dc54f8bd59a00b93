//! What `call: http` is made with (dsl-reference.md, "HTTP Call"): its arguments, evaluated, and what it says to be by.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};
use tulle_model::flow::fault::{Fault, FaultKind};
use tulle_model::flow::http::{Arguments, CallRequest};
use tulle_model::flow::workflow::{Authentication, Credentials, HttpCall, OAuth2, Uri};

use crate::scoped::{Scoped, Unanswered};

/// What a call says to be by (RFC 9110, section 11.4).
#[derive(Clone, PartialEq, Eq)]
pub struct Authorization {
    pub scheme: &'static str,
    pub parameter: String,
}

/// How far it is known what a call says to be by.
pub enum Authorizing<'a> {
    Known(Authorization),
    /// A token is to be fetched first: `oauth2` and `oidc`.
    ByToken(&'a OAuth2),
}

impl Authorization {
    /// What `basic` (RFC 7617) and `bearer` (RFC 6750) say.
    ///
    /// # Errors
    /// Why they say nothing. It shows nothing of what is secret.
    pub async fn of<'a>(
        authentication: &'a Authentication,
        scoped: &Scoped<'_>,
    ) -> Result<Authorizing<'a>, Unanswered> {
        let known = match authentication {
            Authentication::Basic(credentials) => {
                let [username, password] = fields(credentials, ["username", "password"], scoped).await?;
                if username.contains(':') {
                    return Err(wrong("the username of `basic` has a colon, which ends it").into());
                }
                let parameter = STANDARD.encode(format!("{username}:{password}"));
                Self { scheme: "Basic", parameter }
            }
            Authentication::Bearer(credentials) => {
                let [parameter] = fields(credentials, ["token"], scoped).await?;
                Self { scheme: "Bearer", parameter }
            }
            Authentication::OAuth2(policy) => return Ok(Authorizing::ByToken(policy)),
        };
        Ok(Authorizing::Known(known))
    }

    /// What `$authorization` is (dsl.md, "Authorization Descriptor").
    fn described(&self) -> Value {
        json!({ "scheme": self.scheme, "parameter": self.parameter })
    }

    pub(crate) fn header(&self) -> Result<HeaderValue, Fault> {
        let header = HeaderValue::from_str(&format!("{} {}", self.scheme, self.parameter));
        let mut header = header.map_err(|_| {
            wrong(&format!("what `{}` is given fits no header: it has line breaks or the like", self.scheme))
        })?;
        header.set_sensitive(true);
        Ok(header)
    }
}

fn wrong(why: &str) -> Fault {
    FaultKind::Configuration.fault(format!("with.endpoint.authentication: {why}"))
}

/// The texts that credentials have under these names.
async fn fields<const N: usize>(
    credentials: &Credentials,
    names: [&str; N],
    scoped: &Scoped<'_>,
) -> Result<[String; N], Unanswered> {
    let (given, whose) = match credentials {
        Credentials::Given(template) => (scoped.template(template).await?, "it".to_owned()),
        Credentials::Secret(name) => {
            let secret = scoped.secret(name).cloned();
            let secret =
                secret.ok_or_else(|| wrong(&format!("there is no Secret {name} that it may read")))?;
            (secret, format!("the Secret {name}"))
        }
    };
    let mut texts = [const { String::new() }; N];
    for (text, name) in texts.iter_mut().zip(names) {
        let found = given.get(name).and_then(Value::as_str);
        let found = found.ok_or_else(|| wrong(&format!("{whose} has no text as `{name}`")))?;
        found.clone_into(text);
    }
    Ok(texts)
}

/// Where an endpoint is.
///
/// # Errors
/// An expression error, or why nothing was evaluated.
pub async fn uri(uri: &Uri, scoped: &Scoped<'_>) -> Result<String, Unanswered> {
    let wrong = |why: String| FaultKind::Expression.fault(format!("with.endpoint: {why}"));
    match uri {
        Uri::Template(template) => Ok(template.expand(&scoped.scope().on).map_err(wrong)?),
        Uri::Expression(expression) => match scoped.expression(expression).await? {
            Value::String(uri) => Ok(uri),
            _ => Err(wrong(format!("`{}` gives no text", expression.text())).into()),
        },
    }
}

/// The request of a call: its arguments are evaluated at its place. What the author says in `headers` goes before what
/// `authorization` says.
///
/// # Errors
/// Why it cannot be made.
pub async fn request(
    call: &HttpCall,
    scoped: &Scoped<'_>,
    authorization: Option<&Authorization>,
) -> Result<CallRequest, Unanswered> {
    let scoped = &scoped.with_authorization(authorization.map_or(Value::Null, Authorization::described));
    let mut arguments = Arguments {
        method: scoped.template(&call.method).await?,
        uri: uri(&call.endpoint.uri, scoped).await?,
        ..Arguments::default()
    };
    if let Some(headers) = &call.headers {
        arguments.headers = scoped.template(headers).await?;
    }
    if let Some(query) = &call.query {
        arguments.query = scoped.template(query).await?;
    }
    if let Some(body) = &call.body {
        arguments.body = Some(scoped.template(body).await?);
    }
    let mut request = CallRequest::new(&arguments)?;
    if let Some(authorization) = authorization
        && !request.headers.contains_key(AUTHORIZATION)
    {
        request.headers.insert(AUTHORIZATION, authorization.header()?);
    }
    Ok(request)
}
