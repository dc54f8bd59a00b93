//! Tokens that AuthorizationPolicies ask for (RFC 7519): whose they are, and what their claims must be.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use serde_json::{Map, Value};

/// Who signs tokens, and where requests bring them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtIssuer {
    /// The claim `iss`.
    pub issuer: String,
    /// Any of them; where there are none, `aud` is not looked at.
    pub audiences: Vec<String>,
    pub keys: JwtKeys,
    pub place: TokenPlace,
    pub claim_headers: Vec<ClaimHeader>,
    /// How long what goes on for long may do so where its policy asks for tokens; `None`: for as long as it likes.
    pub max_stream_age: Option<Duration>,
}

/// The keys of an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtKeys {
    /// Where the server has them from, as a URL (`https:`, `http:`, `file:`); `None`: the policy has them itself.
    pub source: Option<Arc<str>>,
    /// A set of keys (RFC 7517), as JSON; `None`: the server could not read them yet.
    pub set: Option<Arc<str>>,
}

/// Where requests bring a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenPlace {
    pub header: HeaderName,
    /// What stands before the token there.
    pub prefix: String,
}

impl TokenPlace {
    /// `Authorization: Bearer …` (RFC 6750, section 2.1).
    pub fn bearer() -> Self {
        Self { header: http::header::AUTHORIZATION, prefix: "Bearer ".to_owned() }
    }

    /// The token in a value of the header, if one is there.
    pub fn token<'v>(&self, value: &'v str) -> Option<&'v str> {
        let prefix = self.prefix.trim_end();
        let (start, rest) = value.split_at_checked(prefix.len())?;
        // The name of a scheme may be in any letters (RFC 9110, section 11.1), and any blank may be behind it.
        let ends = prefix == self.prefix || rest.starts_with([' ', '\t']);
        (start.eq_ignore_ascii_case(prefix) && ends).then(|| rest.trim()).filter(|token| !token.is_empty())
    }
}

/// A claim that the application gets as a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimHeader {
    pub claim: String,
    pub header: HeaderName,
}

/// Which token a rule asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JwtConditions {
    /// Any of the policy's issuers by these names; all of them, where there are none.
    pub issuers: Vec<String>,
    /// All of them.
    pub claims: Vec<ClaimMatch>,
}

/// What a claim must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimMatch {
    /// Its name; `outer.inner` is a claim inside of another.
    pub name: String,
    /// Any of them.
    pub values: Vec<String>,
}

/// What a valid token says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims(pub Map<String, Value>);

/// What became of the token of a request, for one issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Token {
    /// There is none, or it is another's.
    #[default]
    Missing,
    /// Why.
    Invalid(&'static str),
    Valid(Arc<Claims>),
}

impl JwtIssuer {
    /// Whether a token that the other has found valid was so for this one, too. Keys at the same source may have changed since.
    pub fn takes_what(&self, other: &Self) -> bool {
        let (keys, others) = (&self.keys, &other.keys);
        let same_keys = keys.source == others.source && (keys.source.is_some() || keys.set == others.set);
        self.issuer == other.issuer
            && self.audiences == other.audiences
            && self.place == other.place
            && same_keys
    }
}

impl JwtConditions {
    /// Whether a token of that issuer is as it says.
    pub(crate) fn holds(&self, issuer: &JwtIssuer, token: &Token) -> bool {
        let Token::Valid(claims) = token else { return false };
        (self.issuers.is_empty() || self.issuers.contains(&issuer.issuer))
            && self.claims.iter().all(|wanted| claims.have(wanted))
    }
}

impl Claims {
    /// A claim by its name. One that has dots in its own name (as URLs do) comes before one inside of another.
    pub fn get(&self, name: &str) -> Option<&Value> {
        find(&self.0, name)
    }

    fn have(&self, ClaimMatch { name, values }: &ClaimMatch) -> bool {
        let Some(claim) = self.get(name) else { return false };
        let is_wanted = |text: &str| values.iter().any(|value| value == text);
        match claim {
            // Words with spaces between them (RFC 8693, section 4.2).
            Value::String(words) if name == "scope" && words.split(' ').any(is_wanted) => true,
            Value::Array(items) => items.iter().filter_map(scalar).any(|item| is_wanted(&item)),
            other => scalar(other).is_some_and(|text| is_wanted(&text)),
        }
    }

    /// A claim as the value of a header; `None`: there is none, or it has no such form.
    pub fn as_header(&self, name: &str) -> Option<String> {
        match self.get(name)? {
            Value::Array(items) => {
                // A comma inside of one would make two of it.
                let item = |item| scalar(item).filter(|text| !text.contains(','));
                let items: Option<Vec<_>> = items.iter().map(item).collect();
                Some(items?.join(","))
            }
            other => scalar(other),
        }
    }
}

fn find<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    claims.get(name).or_else(|| {
        name.match_indices('.')
            .find_map(|(dot, _)| find(claims.get(&name[..dot])?.as_object()?, &name[dot + 1..]))
    })
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_found_and_compared_by_their_texts() {
        let Value::Object(claims) = json!({
            "sub": "ada", "scope": "read write", "scp": "read write", "level": 3, "admin": true,
            "groups": ["eng", 7, {"x": 1}], "realm": {"roles": ["r"], "a.b": "deep"},
            "https://a.test/role": "boss", "nothing": null
        }) else {
            panic!("no object")
        };
        let claims = Claims(claims);
        for (name, value, has) in [
            ("sub", "ada", true),
            ("sub", "Ada", false),
            ("sub", "ad", false),
            ("scope", "read", true),
            ("scope", "read write", true),
            ("scope", "rea", false),
            ("scp", "read", false),
            ("level", "3", true),
            ("admin", "true", true),
            ("groups", "eng", true),
            ("groups", "7", true),
            ("groups", "[\"eng\"]", false),
            ("realm.roles", "r", true),
            ("realm.a.b", "deep", true),
            ("realm", "r", false),
            ("https://a.test/role", "boss", true),
            ("nothing", "null", false),
            ("none", "", false),
        ] {
            let wanted = ClaimMatch { name: name.to_owned(), values: vec!["-".to_owned(), value.to_owned()] };
            assert_eq!(claims.have(&wanted), has, "{name} {value}");
        }
        let header = |name| claims.as_header(name);
        assert_eq!((header("level").as_deref(), header("realm.roles").as_deref()), (Some("3"), Some("r")));
        assert_eq!((header("groups"), header("realm"), header("none")), (None, None, None));
    }

    #[test]
    fn a_token_stands_where_it_is_said() {
        let bearer = TokenPlace::bearer();
        for (value, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer abc ", Some("abc")),
            ("Bearer  abc", Some("abc")),
            ("Bearer\tabc", Some("abc")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Bearerabc", None),
            ("Basic abc", None),
            ("Béarer abc", None),
            ("", None),
        ] {
            assert_eq!(bearer.token(value), token, "{value}");
        }
        let bare = TokenPlace { header: HeaderName::from_static("x-token"), prefix: String::new() };
        assert_eq!((bare.token("abc"), bare.token("")), (Some("abc"), None));
    }
}
