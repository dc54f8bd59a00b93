//! What an AuthorizationPolicy may say of tokens.

use http::{HeaderName, Uri};
use serde_json::Value;

use super::check_request::check_each;
use crate::kinds::route::check::check_duration;
use crate::snapshot::{ClaimHeader, ClaimMatch, JwtConditions, JwtIssuer, JwtKeys, TokenPlace, uneditable};
use crate::validate::field::{Code, Errors, Field, Read, Unreadable, shown};

/// `for_mesh`: the policy targets the Mesh.
pub(super) fn check_jwt(jwt: &Field<'_>, for_mesh: bool, errors: &mut Errors) -> Read<Vec<JwtIssuer>> {
    let max_stream_age = check_duration(jwt, "maxStreamAge", errors)?;
    if let Some(age) = jwt.get("maxStreamAge").filter(|_| max_stream_age.is_none()) {
        errors.invalid(&age, "must be more than nothing: leave it out for streams without an end");
        return Err(Unreadable);
    }
    let issuers = check_each(jwt, "issuers", errors, |issuer, errors| {
        Ok(JwtIssuer { max_stream_age, ..check_issuer(issuer, for_mesh, errors)? })
    })?;
    if issuers.is_empty() {
        errors.required(jwt.path.field("issuers"), "is missing: whose tokens are taken");
        return Err(Unreadable);
    }
    Ok(issuers)
}

fn check_issuer(issuer: &Field<'_>, for_mesh: bool, errors: &mut Errors) -> Read<JwtIssuer> {
    let name = text(issuer, "issuer", "is missing: the claim `iss` of its tokens", errors)?;
    let audiences = check_each(issuer, "audiences", errors, |audience, _| owned(audience))?;
    let Some(keys) = issuer.get("jwks") else {
        errors.required(
            issuer.path.field("jwks"),
            "is missing: where its keys are (`uri`, `file` or `inline`)",
        );
        return Err(Unreadable);
    };
    let keys = check_keys(&keys, for_mesh, errors)?;
    let place = match issuer.get("fromHeader") {
        None => TokenPlace::bearer(),
        Some(place) => {
            let header = check_header(&place, "name", errors)?;
            TokenPlace { header, prefix: place.read_str("prefix")?.unwrap_or_default().to_owned() }
        }
    };
    let claim_headers = check_each(issuer, "outputClaimToHeaders", errors, |output, errors| {
        let claim = text(output, "claim", "is missing: the claim that becomes a header", errors)?;
        let header = check_header(output, "header", errors)?;
        if header == place.header {
            let field = output.get("header").ok_or(Unreadable)?;
            errors.push(&field, Code::Forbidden, "is where the token itself comes");
        }
        Ok(ClaimHeader { claim, header })
    })?;
    Ok(JwtIssuer { issuer: name, audiences, keys, place, claim_headers, max_stream_age: None })
}

fn check_keys(keys: &Field<'_>, for_mesh: bool, errors: &mut Errors) -> Read<JwtKeys> {
    let given: Vec<_> =
        ["uri", "file", "inline"].into_iter().filter_map(|name| Some((name, keys.get(name)?))).collect();
    let [(name, field)] = &given[..] else {
        errors.invalid(keys, "must have one of `uri`, `file` and `inline`");
        return Err(Unreadable);
    };
    let value = field.str().ok_or(Unreadable)?;
    let problem = match *name {
        "uri" => url_problem(value),
        "file" if !for_mesh => {
            let message =
                "is read on the hosts of the servers: only a policy that targets the Mesh may name one";
            errors.push(field, Code::Forbidden, message);
            return Err(Unreadable);
        }
        "file" => (!value.starts_with('/')).then(|| "must begin with `/`".to_owned()),
        _ => set_problem(value),
    };
    if let Some(problem) = problem {
        let shown = if *name == "inline" { String::new() } else { format!("{} ", shown(field.value)) };
        errors.invalid(field, format!("{shown}{problem}"));
        return Err(Unreadable);
    }
    Ok(match *name {
        "uri" => JwtKeys { source: Some(value.into()), set: None },
        "file" => JwtKeys { source: Some(format!("file://{value}").into()), set: None },
        _ => JwtKeys { source: None, set: Some(value.into()) },
    })
}

fn url_problem(text: &str) -> Option<String> {
    let url: Uri = match text.parse() {
        Ok(url) => url,
        Err(error) => return Some(format!("is no URL: {error}")),
    };
    if !matches!(url.scheme_str(), Some("https" | "http")) {
        return Some("must begin with `https://` or `http://`".to_owned());
    }
    url.authority().is_some_and(|authority| authority.as_str().contains('@')).then(|| {
        "must not have a user or a password: everybody who may read the policy could read them".to_owned()
    })
}

/// Why that is no set of public keys, as a part of a sentence (RFC 7517, section 5). Keys of kinds that are not known are no problem.
pub fn set_problem(text: &str) -> Option<String> {
    let set: Value = match serde_json::from_str(text) {
        Ok(set) => set,
        Err(error) => return Some(format!("is no JSON: {error}")),
    };
    let Some(keys) = set.get("keys").and_then(Value::as_array) else {
        return Some("is no set of keys: `{\"keys\": [...]}`".to_owned());
    };
    if keys.is_empty() {
        return Some("has no keys".to_owned());
    }
    for key in keys {
        let Some(kind) = key.get("kty").and_then(Value::as_str) else {
            return Some("has a key without `kty`".to_owned());
        };
        if kind == "oct" || key.get("d").is_some() {
            return Some(
                "has a secret or private key: whoever may read the policy could sign with it".to_owned(),
            );
        }
    }
    None
}

/// `issuers`: those of the policy.
pub(super) fn check_jwt_rule(jwt: &Field<'_>, issuers: &[&str], errors: &mut Errors) -> Read<JwtConditions> {
    if issuers.is_empty() {
        errors.push(
            jwt,
            Code::Forbidden,
            "needs `spec.jwt`: whose tokens are taken, and where their keys are",
        );
        return Err(Unreadable);
    }
    let asked = check_each(jwt, "issuers", errors, |issuer, errors| {
        let text = issuer.str().ok_or(Unreadable)?;
        if !issuers.contains(&text) {
            errors.invalid(issuer, format!("{} is no issuer of `spec.jwt`", shown(issuer.value)));
        }
        Ok(text.to_owned())
    })?;
    let claims = check_each(jwt, "claims", errors, |claim, errors| {
        let name = text(claim, "name", "is missing: which claim is meant", errors)?;
        let values = check_each(claim, "values", errors, |value, _| owned(value))?;
        if values.is_empty() {
            errors.required(claim.path.field("values"), "is missing: what the claim must be");
            return Err(Unreadable);
        }
        Ok(ClaimMatch { name, values })
    })?;
    Ok(JwtConditions { issuers: asked, claims })
}

fn owned(field: &Field<'_>) -> Read<String> {
    field.str().map(str::to_owned).ok_or(Unreadable)
}

fn text(of: &Field<'_>, name: &'static str, missing: &str, errors: &mut Errors) -> Read<String> {
    match of.read_str(name)? {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => {
            errors.required(of.path.field(name), missing);
            Err(Unreadable)
        }
    }
}

/// A header that may be set and taken away.
fn check_header(of: &Field<'_>, name: &'static str, errors: &mut Errors) -> Read<HeaderName> {
    let text = text(of, name, "is missing: the name of the header", errors)?;
    let field = of.get(name).ok_or(Unreadable)?;
    let Ok(header) = HeaderName::from_bytes(text.as_bytes()) else {
        errors.invalid(&field, format!("{} is no name of a header", shown(field.value)));
        return Err(Unreadable);
    };
    if let Some(why) = uneditable(header.as_str()) {
        errors.push(&field, Code::Forbidden, format!("cannot be `{header}`, which {why}"));
        return Err(Unreadable);
    }
    Ok(header)
}
