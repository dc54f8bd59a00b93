//! Who a call says to be.

use std::sync::Arc;

use super::Reader;
use super::surroundings::{ExpressionPlace, Surroundings};
use crate::flow::expression::Template;
use crate::flow::unsupported::Unsupported;
use crate::flow::workflow::{Authentication, ClientAuthentication, Credentials, OAuth2, Uri};
use crate::validate::field::{Field, Read, shown};

/// Where a token is asked for, if a document does not say (dsl-reference.md, OAUTH2 Authentication).
const TOKEN_PATH: &str = "/oauth2/token";

impl Reader<'_> {
    /// A policy, or the name of one of `use.authentications`.
    pub(super) fn authentication(
        &mut self,
        field: &Field<'_>,
        around: &Surroundings,
    ) -> Read<Arc<Authentication>> {
        let Some(name) = field.get("use") else { return self.authentication_policy(field, around) };
        self.only(field, &["use"])?;
        self.referred(&name, "authentications", |reusable| &reusable.authentications)
    }

    pub(super) fn authentication_policy(
        &mut self,
        field: &Field<'_>,
        around: &Surroundings,
    ) -> Read<Arc<Authentication>> {
        const KNOWN: [&str; 6] = ["basic", "bearer", "oauth2", "oidc", "digest", "certificate"];
        self.only(field, &KNOWN)?;
        let mut given = KNOWN.into_iter().filter_map(|name| Some((name, field.get(name)?)));
        let Some((name, policy)) = given.next() else {
            return self.invalid(field, "says nothing: expected `basic`, `bearer`, `oauth2` or `oidc`");
        };
        if let Some((_, second)) = given.next() {
            return self.invalid(&second, format!("cannot be beside `{name}`: a call says to be one"));
        }
        let around = around.with_secrets();
        Ok(Arc::new(match name {
            "basic" => {
                let fields = [("username", "who it is"), ("password", "the password")];
                Authentication::Basic(self.credentials(&policy, &fields, &around)?)
            }
            "bearer" => {
                Authentication::Bearer(self.credentials(&policy, &[("token", "the token")], &around)?)
            }
            "oauth2" => Authentication::OAuth2(self.oauth2(&policy, true, &around)?),
            "oidc" => Authentication::OAuth2(self.oauth2(&policy, false, &around)?),
            "digest" => return self.unsupported(&policy, Unsupported::Digest),
            _ => return self.unsupported(&policy, Unsupported::Certificate),
        }))
    }

    /// Texts, each with what it is; or the name of a Secret with them.
    fn credentials(
        &mut self,
        field: &Field<'_>,
        texts: &[(&'static str, &str)],
        around: &Surroundings,
    ) -> Read<Credentials> {
        if let Some(secret) = self.instead(field)? {
            return Ok(Credentials::Secret(secret));
        }
        let names: Vec<_> = texts.iter().map(|(name, _)| *name).chain(["use"]).collect();
        let known = self.fields(field, &names)?;
        let mut fine = Ok(());
        for text in texts {
            fine = fine.and(self.required(field, *text, |reader, field| reader.text(field).map(drop)));
        }
        known?;
        fine?;
        Ok(Credentials::Given(self.template(field, ExpressionPlace::Authentication, around)?))
    }

    /// The Secret that stands for all else.
    fn instead(&mut self, field: &Field<'_>) -> Read<Option<Arc<str>>> {
        let Some(name) = field.get("use") else { return Ok(None) };
        self.only(field, &["use"])?;
        self.secret(&name).map(Some)
    }

    fn oauth2(&mut self, field: &Field<'_>, has_endpoints: bool, around: &Surroundings) -> Read<OAuth2> {
        const KNOWN: [&str; 12] = [
            "authority",
            "grant",
            "client",
            "request",
            "issuers",
            "scopes",
            "audiences",
            "username",
            "password",
            "subject",
            "actor",
            "use",
        ];
        let token_path = has_endpoints.then(|| TOKEN_PATH.into());
        if let Some(secret) = self.instead(field)? {
            return Ok(OAuth2 {
                authority: None,
                token_path,
                client: Credentials::Secret(secret),
                client_authentication: ClientAuthentication::default(),
                is_json: false,
                issuers: Vec::new(),
            });
        }
        let names: Vec<_> = KNOWN.into_iter().chain(has_endpoints.then_some("endpoints")).collect();
        let known = self.fields(field, &names)?;
        let about = "who gives the tokens, e.g. `https://login.example.com`";
        let authority =
            self.required(field, ("authority", about), |reader, field| reader.uri_template(field));
        let grant = self.required(field, ("grant", "`client_credentials`"), Self::grant);
        // They belong to other grants.
        for name in ["username", "password", "subject", "actor"] {
            let _ = self
                .optional(field, name, |reader, field| reader.unsupported::<()>(field, Unsupported::Grant));
        }
        let endpoints = self.optional(field, "endpoints", Self::token_path);
        let about = "the `id` of the client, and its `secret`";
        let client = self.required(field, ("client", about), Self::client);
        let is_json = self.optional(field, "request", |reader, field| {
            const ENCODINGS: [(&str, bool); 2] =
                [("application/x-www-form-urlencoded", false), ("application/json", true)];
            reader.only(field, &["encoding"])?;
            reader.optional(field, "encoding", |reader, field| reader.word(field, &ENCODINGS))
        });
        let issuers = self.optional(field, "issuers", |reader, field| {
            let items = reader.items(field)?;
            items.iter().map(|item| reader.uri_template(item).map(Uri::Template)).collect::<Read<Vec<_>>>()
        });
        let given = self.client_fields(field, around);
        known?;
        grant?;
        Ok(OAuth2 {
            authority: Some(Uri::Template(authority?)),
            token_path: endpoints?.flatten().or(token_path),
            client_authentication: client?,
            client: Credentials::Given(given?),
            is_json: is_json?.flatten().unwrap_or(false),
            issuers: issuers?.unwrap_or_default(),
        })
    }

    fn grant(&mut self, field: &Field<'_>) -> Read<()> {
        const GRANTS: [(&str, bool); 5] = [
            ("client_credentials", true),
            ("authorization_code", false),
            ("password", false),
            ("refresh_token", false),
            ("urn:ietf:params:oauth:grant-type:token-exchange", false),
        ];
        match self.word(field, &GRANTS)? {
            true => Ok(()),
            false => self.unsupported(field, Unsupported::Grant),
        }
    }

    /// `endpoints`, of which the one for tokens is used.
    fn token_path(&mut self, field: &Field<'_>) -> Read<Option<Arc<str>>> {
        let known = self.fields(field, &["token", "revocation", "introspection"])?;
        let mut path = |name| {
            self.optional(field, name, |reader, field| {
                let text = reader.text(field)?;
                let good = |c: char| c.is_ascii_graphic() && !"{}\"<>\\^`|?#".contains(c);
                if text.starts_with('/') && !text.starts_with("//") && text.chars().all(good) {
                    return Ok(text.into());
                }
                let message =
                    format!("{} is no path at the authority, e.g. `{TOKEN_PATH}`", shown(field.value));
                reader.invalid(field, message)
            })
        };
        let (token, revocation, introspection) = (path("token"), path("revocation"), path("introspection"));
        known?;
        revocation?;
        introspection?;
        token
    }

    fn client(&mut self, field: &Field<'_>) -> Read<ClientAuthentication> {
        const METHODS: [(&str, Option<ClientAuthentication>); 5] = [
            ("client_secret_basic", Some(ClientAuthentication::Basic)),
            ("client_secret_post", Some(ClientAuthentication::Post)),
            ("none", Some(ClientAuthentication::None)),
            ("client_secret_jwt", None),
            ("private_key_jwt", None),
        ];
        let known = self.fields(field, &["id", "secret", "assertion", "authentication"])?;
        let method =
            self.optional(field, "authentication", |reader, field| match reader.word(field, &METHODS)? {
                Some(method) => Ok(method),
                None => reader.unsupported(field, Unsupported::ClientAssertion),
            });
        let assertion = self.optional(field, "assertion", |reader, field| {
            reader.unsupported::<()>(field, Unsupported::ClientAssertion)
        });
        let text = |reader: &mut Self, field: &Field<'_>| reader.text(field).map(drop);
        // Who shows nothing may have no name either.
        let id = match method {
            Ok(Some(ClientAuthentication::None)) => self.optional(field, "id", text).map(drop),
            _ => self.required(field, ("id", "what the client is called"), text),
        };
        let secret = self.optional(field, "secret", text);
        known?;
        assertion?;
        id?;
        secret?;
        Ok(method?.unwrap_or_default())
    }

    /// `id` and `secret` of the client, scopes and audiences: what an expression may give.
    fn client_fields(&mut self, field: &Field<'_>, around: &Surroundings) -> Read<Template> {
        let mut fields = Vec::new();
        if let Some(client) = field.get("client") {
            fields.extend(["id", "secret"].into_iter().filter_map(|name| Some((name, client.get(name)?))));
        }
        for name in ["scopes", "audiences"] {
            let Some(list) = field.get(name) else { continue };
            for item in self.items(&list)? {
                self.text(&item)?;
            }
            fields.push((name, list));
        }
        self.template_of(&fields, ExpressionPlace::Authentication, around)
    }
}
