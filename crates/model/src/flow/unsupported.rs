//! What of the DSL Tulle does not do, and why: docs/flows.md shows this table.

/// A part of the DSL that Tulle refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsupported {
    RunContainer,
    RunScript,
    RunShell,
    RunWorkflow,
    Emit,
    Listen,
    Schedule,
    CallGrpc,
    CallOpenApi,
    CallAsyncApi,
    CallA2a,
    CallMcp,
    Catalogs,
    CatalogedFunction,
    FunctionByUrl,
    Extensions,
    Digest,
    Certificate,
    Grant,
    ClientAssertion,
    LooseMode,
    OtherLanguage,
    SchemaFormat,
    FileUri,
    OtherScheme,
    CalendarDuration,
}

impl Unsupported {
    pub const ALL: &[Self] = &[
        Self::RunContainer,
        Self::RunScript,
        Self::RunShell,
        Self::RunWorkflow,
        Self::Emit,
        Self::Listen,
        Self::Schedule,
        Self::CallGrpc,
        Self::CallOpenApi,
        Self::CallAsyncApi,
        Self::CallA2a,
        Self::CallMcp,
        Self::Catalogs,
        Self::CatalogedFunction,
        Self::FunctionByUrl,
        Self::Extensions,
        Self::Digest,
        Self::Certificate,
        Self::Grant,
        Self::ClientAssertion,
        Self::LooseMode,
        Self::OtherLanguage,
        Self::SchemaFormat,
        Self::FileUri,
        Self::OtherScheme,
        Self::CalendarDuration,
    ];

    /// As the DSL writes it.
    pub fn construct(self) -> &'static str {
        match self {
            Self::RunContainer => "`run: container`",
            Self::RunScript => "`run: script`",
            Self::RunShell => "`run: shell`",
            Self::RunWorkflow => "`run: workflow`",
            Self::Emit => "`emit`",
            Self::Listen => "`listen`",
            Self::Schedule => "`schedule`",
            Self::CallGrpc => "`call: grpc`",
            Self::CallOpenApi => "`call: openapi`",
            Self::CallAsyncApi => "`call: asyncapi`",
            Self::CallA2a => "`call: a2a`",
            Self::CallMcp => "`call: mcp`",
            Self::Catalogs => "`use.catalogs`",
            Self::CatalogedFunction => "a function of a catalog (`call: name:version@catalog`)",
            Self::FunctionByUrl => "a function by its URL (`call: https://…`)",
            Self::Extensions => "`use.extensions`",
            Self::Digest => "authentication by `digest`",
            Self::Certificate => "authentication by `certificate`",
            Self::Grant => "a `grant` other than `client_credentials`",
            Self::ClientAssertion => "`client_secret_jwt`, `private_key_jwt` and `client.assertion`",
            Self::LooseMode => "`evaluate.mode: loose`",
            Self::OtherLanguage => "an `evaluate.language` other than `jq`",
            Self::SchemaFormat => "a schema's `format` other than `json`",
            Self::FileUri => "a URI of `file:`",
            Self::OtherScheme => "a URI of another scheme than `http` and `https`",
            Self::CalendarDuration => "years and months in a duration",
        }
    }

    /// Why, and what to do instead.
    pub fn reason(self) -> &'static str {
        match self {
            Self::RunContainer => {
                "a runner starts no containers: have it run as a service of the mesh, and call that"
            }
            Self::RunScript | Self::RunShell => {
                "a runner starts no processes that a document brings along: have a service do it, and call that"
            }
            Self::RunWorkflow => {
                "a Flow is called like a service: give the other one a `trigger.http`, and call that"
            }
            Self::Emit | Self::Listen => "events come later",
            Self::Schedule => "schedules come later",
            Self::CallGrpc => "calls of gRPC come later",
            Self::CallOpenApi => {
                "calls by an OpenAPI document come later; `call: http` says the same by hand"
            }
            Self::CallAsyncApi => {
                "a broker of messages is not what the mesh sees: have a service publish, and call that"
            }
            Self::CallA2a | Self::CallMcp => "it is a protocol over HTTP: `call: http` sends its requests",
            Self::Catalogs | Self::CatalogedFunction | Self::FunctionByUrl => {
                "what is fetched from elsewhere may change while runs go on: write the function into `use.functions`"
            }
            Self::Extensions => {
                "tasks that stand nowhere in `do` would run before and after others; metrics, traces and the access log see every call without them"
            }
            Self::Digest => {
                "it rests on MD5, and needs two requests for each call: `basic` over TLS, `bearer`, `oauth2` and `oidc` are there"
            }
            Self::Certificate => {
                "the mesh shows the certificate of the Flow's own identity; outside of it a BackendTLSPolicy says how TLS is spoken"
            }
            Self::Grant => "no person is there who could grant something: a Flow acts for itself",
            Self::ClientAssertion => {
                "a client shows its secret: `client_secret_basic`, `client_secret_post`, or `none`"
            }
            Self::LooseMode => {
                "any text could be an expression by accident: write `${ }` around those that are (`strict`)"
            }
            Self::OtherLanguage => "every run of a Flow has to mean the same everywhere: expressions are jq",
            Self::SchemaFormat => "values are JSON: a JSON Schema says what they have to be",
            Self::FileUri => "the files of a runner's host are nobody's business: have a service offer it",
            Self::OtherScheme => "calls go through the mesh as HTTP",
            Self::CalendarDuration => "they are not always as long: write days (`P30D`)",
        }
    }

    /// What is said where a document has it.
    pub fn message(self) -> String {
        format!("Tulle does not do {}: {}", self.construct(), self.reason())
    }
}
