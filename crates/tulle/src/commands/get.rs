//! `tulle get`: lists objects, and follows their changes.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::{Value, json};
use tulle_model::registry::Kind;

use crate::client::{Client, ClientArgs, JSON, Query, TABLE, resource};
use crate::exit::{Exit, Failure, Result};
use crate::output::{Cell, Format, Table, print, print_json, print_yaml};
use crate::selection::{self, Selection};

#[derive(Debug, Args)]
pub struct GetArgs {
    /// KIND[,KIND…] [NAME…], or KIND/NAME…
    #[arg(required = true, value_name = "OBJECTS")]
    objects: Vec<String>,
    #[command(flatten)]
    scope: ScopeArgs,
    /// Only objects with these labels, such as app=c,tier!=test
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    /// Only objects with these fields, such as metadata.name=c
    #[arg(long, value_name = "FIELDS")]
    field_selector: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// After the list, print what changes, until interrupted
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// For commands that list a kind.
#[derive(Debug, Args)]
pub struct KindListArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub struct ScopeArgs {
    /// The namespace [default: that of the kubeconfig, or `default`]
    #[arg(short, long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
}

/// For commands that show all namespaces where nothing else is said.
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// Only what is of this namespace [default: all]
    #[arg(short, long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub namespace: Option<String>,
    /// All namespaces, as where nothing is said
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
}

impl ScopeArgs {
    /// The namespace to look in; `None` for all.
    pub fn namespace<'a>(&'a self, client: &'a Client) -> Option<&'a str> {
        (!self.all_namespaces).then(|| self.namespace.as_deref().unwrap_or(client.namespace()))
    }
}

/// All objects of a kind.
pub async fn list(kind: &str, KindListArgs { scope, output, client }: KindListArgs) -> Result<()> {
    let objects = vec![kind.to_owned()];
    run(GetArgs { objects, scope, selector: None, field_selector: None, output, watch: false, client }).await
}

pub async fn run(args: GetArgs) -> Result<()> {
    let selections = selection::parse(&args.objects)?;
    if args.scope.all_namespaces && selections.iter().any(|s| s.name.is_some() && s.kind.namespaced) {
        return Err(Failure::input("an object cannot be fetched by name from all namespaces")
            .help("leave out -A, or the name, or use --field-selector metadata.name=NAME"));
    }
    if args.watch && selections.len() > 1 {
        return Err(Failure::input("only one kind can be watched at a time"));
    }
    let client = args.client.client()?;
    match args.output {
        Format::Table | Format::Wide if args.watch => watch_table(&args, &client, &selections[0]).await,
        Format::Table | Format::Wide => tables(&args, &client, &selections).await,
        _ => objects(&args, &client, &selections).await,
    }
}

/// The list that a selection stands for. A single object is a list too, so that one can watch it.
fn list_path(args: &GetArgs, client: &Client, selection: &Selection) -> Query {
    let by_name = selection.name.as_ref().map(|name| format!("metadata.name={name}"));
    let fields: Vec<_> = by_name.into_iter().chain(args.field_selector.clone()).collect();
    Query::new(resource(selection.kind, args.scope.namespace(client), None))
        .set_if("labelSelector", args.selector.as_deref())
        .set_if("fieldSelector", (!fields.is_empty()).then(|| fields.join(",")).as_deref())
}

fn path(args: &GetArgs, client: &Client, selection: &Selection) -> String {
    match &selection.name {
        Some(name) => resource(selection.kind, args.scope.namespace(client), Some(name)),
        None => list_path(args, client, selection).finish(),
    }
}

async fn tables(args: &GetArgs, client: &Client, selections: &[Selection]) -> Result<()> {
    let several_kinds = selections.iter().any(|s| s.kind != selections[0].kind);
    let mut printed = String::new();
    let mut missing = Vec::new();
    let mut done: Vec<(&Kind, Vec<Value>)> = Vec::new();
    for selection in selections {
        match client.get(&path(args, client, selection), TABLE).await {
            Ok(table) => match done.iter_mut().find(|(kind, _)| *kind == selection.kind) {
                Some((_, tables)) => tables.push(table),
                None => done.push((selection.kind, vec![table])),
            },
            Err(failure) if failure.exit == Exit::NotFound => missing.push(failure),
            Err(failure) => return Err(failure),
        }
    }
    for (kind, tables) in &done {
        let prefix = several_kinds.then_some(*kind);
        let mut view = TableView::new(args, kind, prefix);
        tables.iter().for_each(|table| view.add(table));
        if view.table.is_empty() {
            continue;
        }
        if !printed.is_empty() {
            printed.push('\n');
        }
        printed += &view.render();
    }
    if printed.is_empty() && missing.is_empty() {
        require_namespace(args, client).await?;
        let place = match args.scope.namespace(client) {
            Some(namespace) if selections.iter().any(|s| s.kind.namespaced) => {
                format!(" in namespace {namespace} (all namespaces: -A)")
            }
            _ => String::new(),
        };
        crate::output::note(&format!("No objects found{place}"));
    }
    print(&printed)?;
    fail_with_all(missing)
}

/// An empty list of a namespace that there is not is no answer.
async fn require_namespace(args: &GetArgs, client: &Client) -> Result<()> {
    match &args.scope.namespace {
        Some(namespace) => client.require_namespace(namespace).await,
        None => Ok(()),
    }
}

/// What exists is printed before what does not is reported.
fn fail_with_all(mut failures: Vec<Failure>) -> Result<()> {
    let Some(last) = failures.pop() else { return Ok(()) };
    failures.iter().for_each(Failure::print);
    Err(last)
}

async fn objects(args: &GetArgs, client: &Client, selections: &[Selection]) -> Result<()> {
    let mut items = Vec::new();
    let mut missing = Vec::new();
    let mut version = Value::Null;
    for selection in selections {
        match client.get(&path(args, client, selection), JSON).await {
            Ok(mut value) if selection.name.is_none() => {
                version = value["metadata"]["resourceVersion"].take();
                if let Value::Array(list) = value["items"].take() {
                    items.extend(list.into_iter().map(|item| for_people(item, selection.kind)));
                }
            }
            Ok(value) => {
                version = value["metadata"]["resourceVersion"].clone();
                items.push(for_people(value, selection.kind));
            }
            Err(failure) if failure.exit == Exit::NotFound => missing.push(failure),
            Err(failure) => return Err(failure),
        }
    }
    if items.is_empty() && missing.is_empty() {
        require_namespace(args, client).await?;
    }
    let single = selections.len() == 1 && selections[0].name.is_some();
    match args.output {
        Format::Name => items.iter().try_for_each(print_name)?,
        _ if items.is_empty() && !missing.is_empty() => {}
        format if single || args.watch => items.iter().try_for_each(|item| print_value(format, item))?,
        format => {
            let list = json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items });
            print_value(format, &list)?;
        }
    }
    fail_with_all(missing)?;
    if !args.watch {
        return Ok(());
    }
    let mut changes = Changes::new(args, client, &selections[0], version.as_str(), JSON);
    while let Some((_, object)) = changes.next().await? {
        let object = for_people(object, selections[0].kind);
        match args.output {
            Format::Name => print_name(&object)?,
            format => {
                if format == Format::Yaml {
                    print("---\n")?;
                }
                print_value(format, &object)?;
            }
        }
    }
    Ok(())
}

/// Without the book-keeping of server-side apply, which kubectl hides, too; items of a list may
/// leave out what the list says.
pub fn for_people(mut item: Value, kind: &Kind) -> Value {
    if let Value::Object(fields) = &mut item {
        fields.entry("apiVersion").or_insert_with(|| kind.api_version().into());
        fields.entry("kind").or_insert_with(|| kind.kind.into());
    }
    if let Some(metadata) = item.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    item
}

fn print_value(format: Format, value: &Value) -> Result<()> {
    if format == Format::Yaml { print_yaml(value) } else { print_json(value) }
}

fn print_name(object: &Value) -> Result<()> {
    let kind = tulle_model::registry::of_object(object);
    let singular = kind.map_or("object".to_owned(), qualified_singular);
    print(&format!("{singular}/{}\n", object["metadata"]["name"].as_str().unwrap_or_default()))
}

/// `service`, `httproute.gateway.networking.k8s.io`: as kubectl names objects.
pub fn qualified_singular(kind: &Kind) -> String {
    if kind.group.is_empty() { kind.singular.to_owned() } else { format!("{}.{}", kind.singular, kind.group) }
}

async fn watch_table(args: &GetArgs, client: &Client, selection: &Selection) -> Result<()> {
    let mut view = TableView::new(args, selection.kind, None);
    let list = client.get(&list_path(args, client, selection).finish(), TABLE).await?;
    view.add(&list);
    print(&view.render())?;
    let version = list["metadata"]["resourceVersion"].as_str();
    let mut changes = Changes::new(args, client, selection, version, TABLE);
    while let Some((_, table)) = changes.next().await? {
        view.add(&table);
        print(&view.table.more())?;
    }
    Ok(())
}

/// A watch that goes on where the server ends one.
struct Changes<'a> {
    args: &'a GetArgs,
    client: &'a Client,
    selection: &'a Selection,
    accept: &'static str,
    version: Option<String>,
    events: Option<crate::client::Events>,
}

impl<'a> Changes<'a> {
    fn new(
        args: &'a GetArgs,
        client: &'a Client,
        selection: &'a Selection,
        version: Option<&str>,
        accept: &'static str,
    ) -> Self {
        Self { args, client, selection, accept, version: version.map(str::to_owned), events: None }
    }

    async fn next(&mut self) -> Result<Option<(String, Value)>> {
        loop {
            let events = match &mut self.events {
                Some(events) => events,
                None => {
                    let path = list_path(self.args, self.client, self.selection)
                        .set("watch", "true")
                        .set("allowWatchBookmarks", "true")
                        .set_if("resourceVersion", self.version.as_deref())
                        .finish();
                    self.events.insert(self.client.watch(&path, self.accept).await?)
                }
            };
            let Some(mut event) = events.next().await? else {
                self.events = None;
                continue;
            };
            let object = event["object"].take();
            let kind = event["type"].as_str().unwrap_or_default().to_owned();
            if kind == "ERROR" {
                let message = object["message"].as_str().unwrap_or("the server ended the watch");
                return Err(Failure::new(message).help("run the command again"));
            }
            let version = object["metadata"]["resourceVersion"]
                .as_str()
                .or_else(|| object["rows"][0]["object"]["metadata"]["resourceVersion"].as_str());
            if let Some(version) = version {
                self.version = Some(version.to_owned());
            }
            if kind != "BOOKMARK" {
                return Ok(Some((kind, object)));
            }
        }
    }
}

/// A server-side table (`meta.k8s.io/v1`, Table), with the namespace where that tells objects apart.
struct TableView<'a> {
    table: Table,
    /// Which columns are shown.
    shown: Vec<bool>,
    /// The column of the objects' names, which need not be the first, or shown.
    name: Option<usize>,
    namespaces: bool,
    wide: bool,
    prefix: Option<&'a Kind>,
    header: Vec<String>,
}

impl<'a> TableView<'a> {
    fn new(args: &GetArgs, kind: &Kind, prefix: Option<&'a Kind>) -> Self {
        Self {
            table: Table::default(),
            shown: Vec::new(),
            name: None,
            namespaces: args.scope.all_namespaces && kind.namespaced,
            wide: args.output == Format::Wide,
            prefix,
            header: Vec::new(),
        }
    }

    fn add(&mut self, value: &Value) {
        // Events after the first may leave the columns out.
        if let Some(columns) = value["columnDefinitions"].as_array().filter(|c| !c.is_empty())
            && self.header.is_empty()
        {
            let shown = |column: &Value| self.wide || column["priority"].as_i64().unwrap_or(0) == 0;
            self.shown = columns.iter().map(shown).collect();
            self.name = columns.iter().position(|column| column["format"] == "name");
            let names = columns.iter().zip(&self.shown).filter(|(_, shown)| **shown);
            let names = names.map(|(c, _)| c["name"].as_str().unwrap_or_default().to_uppercase());
            self.header = self.namespaces.then(|| "NAMESPACE".to_owned()).into_iter().chain(names).collect();
            self.table = Table::new(self.header.clone());
            if self.wide {
                self.table = std::mem::take(&mut self.table).whole();
            }
        }
        for row in value["rows"].as_array().into_iter().flatten() {
            let cells = row["cells"].as_array().into_iter().flatten().zip(&self.shown);
            let cell = |(index, (cell, _)): (usize, (&Value, &bool))| match self.prefix {
                Some(kind) if self.name == Some(index) => {
                    format!("{}/{}", qualified_singular(kind), plain(cell))
                }
                _ => plain(cell),
            };
            let mut cells: Vec<String> =
                cells.enumerate().filter(|(_, (_, shown))| **shown).map(cell).collect();
            if self.namespaces {
                cells.insert(0, plain(&row["object"]["metadata"]["namespace"]));
            }
            self.table.row(cells.into_iter().map(Cell::from));
        }
    }

    fn render(&mut self) -> String {
        self.table.render()
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "<none>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tulle_model::registry::KindId;

    use super::*;
    use crate::command_line;

    /// The line of one object in a table of several kinds.
    fn row(line: &[&str], kind: KindId, object: &Value) -> String {
        let args: GetArgs = command_line::read(&[&["all"], line].concat()).unwrap();
        let kind = kind.kind();
        let columns = kind.columns().iter().map(|column| {
            json!({ "name": column.name, "type": column.type_, "format": column.format, "priority": column.priority })
        });
        let cells = kind.row(object, jiff::Timestamp::UNIX_EPOCH);
        let mut view = TableView::new(&args, kind, Some(kind));
        view.add(&json!({
            "columnDefinitions": columns.collect::<Vec<_>>(),
            "rows": [{ "cells": cells, "object": object }],
        }));
        let text = view.render();
        text.lines().nth(1).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_kind_stands_before_the_name_wherever_that_is() {
        let event = json!({
            "metadata": { "name": "web.1", "namespace": "shop" }, "type": "Warning", "reason": "Lost", "message": "m",
            "involvedObject": { "kind": "Workload", "name": "web" },
        });
        let named = json!({ "metadata": { "name": "web", "namespace": "shop" } });
        // As with kubectl: where the name is not shown, nor is the kind.
        let narrow = row(&[], KindId::Event, &event);
        assert!(!narrow.contains("event/") && narrow.contains(" Warning Lost "), "{narrow}");
        let wide = row(&["-o", "wide"], KindId::Event, &event);
        assert!(wide.ends_with(" event/web.1") && wide.matches("event/").count() == 1, "{wide}");
        let service = row(&["-A"], KindId::Service, &named);
        assert!(service.starts_with("shop service/web "), "{service}");
        let route = row(&[], KindId::HttpRoute, &named);
        assert!(route.starts_with("httproute.gateway.networking.k8s.io/web "), "{route}");
    }
}
