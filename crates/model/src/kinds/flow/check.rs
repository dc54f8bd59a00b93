//! What a Flow must be, beyond its schema.

use std::time::Duration;

use serde_json::Value;

use super::DEFAULT_PORT;
use super::form::FlowForm;
use crate::flow::parse_at;
use crate::identity::ServiceAccount;
use crate::kinds::workload::check::check_service_account;
use crate::name::NamespacedName;
use crate::port_settings::duration;
use crate::validate::field::{Code, Errors, Field, Read, Unreadable, shown};
use crate::validate::metadata::{created, namespace};
use crate::validate::syntax::header_name_problem;

/// How long a request may wait for the end of its run: it takes one of the places of its Flow meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

pub(crate) fn check(flow: &Field<'_>, errors: &mut Errors) -> Read<FlowForm> {
    let before = errors.0.len();
    let spec = flow.get("spec").ok_or(Unreadable)?;
    // That it is an object, the schema says.
    let workflow = spec.get("workflow").filter(|workflow| workflow.value.is_object());
    if let Some(workflow) = &workflow {
        // What is wrong with it, is among the errors.
        drop(parse_at(workflow, errors));
    }
    if let Some(account) = spec.get("serviceAccount") {
        check_service_account(flow, &account, errors);
    }
    if let Some(http) = spec.get("trigger").and_then(|trigger| trigger.get("http")) {
        check_http(&http, errors);
    }
    if let Some(age) = spec.get("history").and_then(|history| history.get("age")) {
        check_duration(&age, errors);
    }
    if workflow.is_none() || errors.0.len() > before {
        return Err(Unreadable);
    }
    read(flow, &spec)
}

fn read(flow: &Field<'_>, spec: &Field<'_>) -> Read<FlowForm> {
    let metadata = flow.get("metadata").ok_or(Unreadable)?;
    let own = namespace(flow)?;
    let account = spec.read_str("serviceAccount")?.unwrap_or("default");
    let http = spec.get("trigger").and_then(|trigger| trigger.get("http"));
    let port = http.map(|http| Ok(http.read_port("port")?.unwrap_or(DEFAULT_PORT))).transpose()?;
    Ok(FlowForm {
        name: NamespacedName::new(own, metadata.read_str("name")?.ok_or(Unreadable)?),
        created: created(flow)?,
        generation: metadata.read("generation", Value::as_i64)?,
        account: ServiceAccount::new(own, account).ok_or(Unreadable)?,
        port,
    })
}

fn check_http(http: &Field<'_>, errors: &mut Errors) {
    if let Some(wait) = http.get("wait") {
        check_duration(&wait, errors);
        if wait.str().and_then(duration).is_some_and(|wait| wait > LONGEST_WAIT) {
            errors.invalid(
                &wait,
                "a request waits for 1h at most: it is told then where the run is to be looked at",
            );
        }
    }
    if let Some(headers) = http.get("headers")
        && headers.value.as_array().is_some_and(|names| !names.is_empty())
        && matches!(http.get_str("input"), None | Some("body"))
    {
        let message = "are part of the input only where that is the request: `input: request`";
        errors.push(&headers, Code::Forbidden, message);
    }
    for name in http.items("headers") {
        let Some(text) = name.str() else { continue };
        let problem = if text.is_empty() { Some("must not be empty") } else { header_name_problem(text) };
        if let Some(problem) = problem {
            errors.invalid(&name, format!("{} is no name of a header: it {problem}", shown(name.value)));
        }
    }
}

fn check_duration(field: &Field<'_>, errors: &mut Errors) {
    if field.str().is_some_and(|text| duration(text).is_none()) {
        errors.invalid(
            field,
            format!("{} is no duration such as `25s`, `500ms` or `168h`", shown(field.value)),
        );
    }
}
