//! `tulle policy suggest`: least-privilege policies out of the traffic seen.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use serde_json::json;
use tulle_model::compile::Compiler;
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_model::registry::KindId;
use tulle_model::summary::replay::{Foreseen, Judge};
use tulle_model::summary::suggest::{Suggestion, suggest};
use tulle_model::summary::{Callee, Summary};
use tulle_model::validate::suggest::did_you_mean;

use super::{deciding_objects, doors, summaries};
use crate::client::ClientArgs;
use crate::exit::{Exit, Failure, Result};
use crate::mesh_objects::{compile, trust_domain};
use crate::output::{note, print, print_json, yaml};
use crate::selection::object_name;
use crate::units::parse_time_to_do;

#[derive(Debug, Args)]
#[command(after_help = "\
  tulle policy suggest > policies.yaml
  tulle policy suggest cart -n shop --since 1h
  tulle policy impact -f policies.yaml

A Service that nobody called gets a policy that lets in nobody. Look them over: what happens less often than once a day is not
among what was seen.")]
pub struct SuggestArgs {
    /// For which Services [default: all that have workloads]
    #[arg(value_name = "[NAMESPACE/]SERVICE", value_parser = NonEmptyStringValueParser::new())]
    services: Vec<String>,
    /// The namespace of the Services [default: that of the kubeconfig]
    #[arg(short, long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    namespace: Option<String>,
    /// Only what was seen since then; of less than a quarter of an hour some may be missing [default: 24h]
    #[arg(long, value_name = "TIME", value_parser = parse_time_to_do)]
    since: Option<Duration>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: ObjectFormat,
    #[command(flatten)]
    client: ClientArgs,
}

/// How objects are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum ObjectFormat {
    #[default]
    Yaml,
    Json,
}

pub async fn run(args: SuggestArgs) -> Result<()> {
    let client = args.client.client()?;
    let namespace = args.namespace.as_deref().unwrap_or(client.namespace()).to_owned();
    let mut objects = deciding_objects(&client).await?;
    let domain = trust_domain(&objects)?;
    let compiler = compile(&objects)?;
    let mut services: BTreeMap<ServiceName, Vec<Summary>> = BTreeMap::new();
    let selecting = compiler.workloads().flat_map(|(_, local)| &local.config.services).map(|by| &by.by);
    let known: Vec<_> = selecting.cloned().collect();
    if args.services.is_empty() {
        let own = known.iter().filter(|service| *service.namespace == *namespace);
        services.extend(own.map(|service| (service.clone(), Vec::new())));
        if services.is_empty() {
            client.require_namespace(&namespace).await?;
        }
    }
    for text in &args.services {
        let service = object_name(text, &namespace);
        if !known.contains(&service) {
            let names: Vec<_> = known.iter().map(ToString::to_string).collect();
            let hint = did_you_mean(&service.to_string(), names.iter().map(String::as_str));
            let message = format!("no workload of a node is selected by a Service {service}{hint}");
            return Err(Failure::new(message).exit(Exit::NotFound));
        }
        services.entry(service).or_default();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let since = args.since.map_or(0, |since| now.saturating_sub(since.as_secs()));
    let judges = judges(&compiler);
    let mut elsewhere = 0;
    for (summary, last_seen) in summaries(&client, None).await? {
        if !summary.allowed || u64::try_from(last_seen).unwrap_or_default() < since {
            continue;
        }
        match &summary.to {
            Callee::Service(service) => {
                if let Some(seen) = services.get_mut(service)
                    && !is_denied(&judges, &compiler, &summary)
                {
                    seen.push(summary);
                }
            }
            Callee::Workload(workload) => elsewhere += usize::from(*workload.namespace == *namespace),
        }
    }
    let suggestions: Vec<_> = services
        .iter()
        .map(|(service, seen)| suggest(service, &domain, &seen.iter().collect::<Vec<_>>()))
        .collect();
    match args.output {
        ObjectFormat::Yaml => print(&text(&suggestions)?)?,
        ObjectFormat::Json => {
            let items: Vec<_> = suggestions.iter().map(|suggestion| &suggestion.policy).collect();
            print_json(&json!({ "apiVersion": "v1", "kind": "List", "items": items }))?;
        }
    }
    if elsewhere > 0 {
        note("ports were called for which no Service stands: no policy is suggested for those");
    }
    let kind = KindId::AuthorizationPolicy.kind();
    objects.extend(suggestions.into_iter().map(|suggestion| (kind, Arc::new(suggestion.policy))));
    let compiler = compile(&objects)?;
    let judges = self::judges(&compiler);
    let is_open = |summary: &&Summary| {
        verdicts(&judges, &compiler, summary).all(|verdict| verdict == Foreseen::Allowed)
    };
    let closed = services.values().flatten().filter(|summary| !is_open(summary)).count();
    if closed > 0 {
        note(&format!(
            "{closed} of what was let in may be denied, as other policies deny it or ask for what is not recorded: `tulle policy impact` says which"
        ));
    }
    Ok(())
}

fn judges(compiler: &Compiler) -> HashMap<&WorkloadName, Judge> {
    compiler.workloads().map(|(name, local)| (name, Judge::new(&local.config))).collect()
}

/// What becomes of it, at each workload that it is about.
fn verdicts(
    judges: &HashMap<&WorkloadName, Judge>,
    compiler: &Compiler,
    summary: &Summary,
) -> impl Iterator<Item = Foreseen> {
    doors(compiler, summary)
        .filter_map(move |(name, _, port)| Some(judges.get(name)?.judge(summary, port).verdict))
}

/// Whether it was let in once, and would not be now.
fn is_denied(judges: &HashMap<&WorkloadName, Judge>, compiler: &Compiler, summary: &Summary) -> bool {
    let verdicts: Vec<_> = verdicts(judges, compiler, summary).collect();
    !verdicts.is_empty() && verdicts.iter().all(|verdict| *verdict == Foreseen::Denied)
}

/// The policies, each below what is to be known of it.
fn text(suggestions: &[Suggestion]) -> Result<String> {
    let mut text =
        "# Made of the traffic that nodes have seen. Look it over before you apply it.\n".to_owned();
    for (index, Suggestion { policy, remarks }) in suggestions.iter().enumerate() {
        if index > 0 {
            text.push_str("---\n");
        }
        for remark in remarks {
            text.push_str(&format!("# {remark}\n"));
        }
        text.push_str(&yaml(policy)?);
    }
    Ok(text)
}
