//! Changes of one object: what every write does, but for the store.

use serde_json::{Value, json};
use tulle_model::registry::{Kind, KindId};
use tulle_model::validate;

use super::super::fields::{self, ManagerOperation};
use super::super::patch::{self, Patch};
use super::super::{ObjectError, Objects, WriteOptions, checks, metadata};
use super::{encode, without_version};
use crate::store::Store;

/// What an object may grow to: what a patch may add, and what the server remembers of it.
const LARGEST: usize = 64 << 20;
const CHANGES: usize = 20;
const NAMESPACE: &str = "default";
const NAME: &str = "a";

thread_local! {
    /// Never written to.
    static OBJECTS: Objects = Objects { store: Store::in_memory(), trust_domain: None, swept: std::sync::Arc::default() };
}

/// Changes of one object, each a line: a byte for its kind and one for its manager, then its body. The first line
/// says which object it is.
///
/// # Panics
/// Where a change that is done again changes something, or what is to be stored is not right.
pub fn patches(input: &[u8]) {
    OBJECTS.with(|objects| {
        let mut lines = input.split(|byte| *byte == b'\n');
        let Some([which, ..]) = lines.next() else { return };
        let mut object = Changed::new(objects, *which);
        for line in lines.take(CHANGES) {
            if let [how, who, body @ ..] = line {
                object.change(*how, *who, body);
                object.check();
            }
        }
    });
}

/// An object as it is stored.
struct Changed<'o> {
    objects: &'o Objects,
    kind: &'static Kind,
    current: Value,
    revision: u64,
}

impl<'o> Changed<'o> {
    fn new(objects: &'o Objects, which: u8) -> Self {
        let (kind, mut object) = object(which);
        let options = options(0);
        metadata::check_type(kind, &mut object).expect("it has none yet");
        metadata::check_namespace(kind, NAMESPACE, &mut object).expect("it has none yet");
        metadata::initialize(kind, &mut object);
        checks::admit(kind, None, &mut object, options.part, options.unknown_fields).expect("it is valid");
        fields::track(kind, None, &mut object, &options.manager, options.part, ManagerOperation::Update)
            .expect("nobody has it yet");
        metadata::set_resource_version(&mut object, 1);
        Self { objects, kind, current: object, revision: 1 }
    }

    fn change(&mut self, how: u8, who: u8, body: &[u8]) {
        let options = options(who);
        let kind = self.kind;
        let patch = match how % 4 {
            0 => Patch::json(body),
            1 => json(body).map(Patch::Merge),
            2 => json(body).map(Patch::StrategicMerge),
            _ => return self.apply(body, &options, who % 2 == 1),
        };
        let Ok(patch) = patch else { return };
        let change = |current: &Value| patch::apply(kind, current, &patch);
        let Ok(written) = self.write(&options, ManagerOperation::Update, change) else { return };
        // What a JSON patch adds or moves it adds again; the others say how things are to be. But `managedFields: [{}]`
        // takes back who has what, and then nobody has what does not change.
        let says_how_things_are = match &patch {
            Patch::Json(_) => false,
            Patch::Merge(body) | Patch::StrategicMerge(body) => body["metadata"]["managedFields"].is_null(),
        };
        if says_how_things_are {
            match self.write(&options, ManagerOperation::Update, change) {
                Ok(again) => assert_eq!(again, written, "{patch:?}"),
                // It is for the version that was there before.
                Err(ObjectError::Conflict { .. }) => {}
                Err(error) => panic!("{error}: {patch:?}"),
            }
        }
    }

    /// Server-side apply.
    fn apply(&mut self, body: &[u8], options: &WriteOptions, force: bool) {
        let kind = self.kind;
        let Ok(mut config) = json(body) else { return };
        if let Some(fields) = config.as_object_mut() {
            fields.entry("apiVersion").or_insert_with(|| kind.api_version().into());
            fields.entry("kind").or_insert_with(|| kind.kind.into());
        }
        let admitted = metadata::check_type(kind, &mut config)
            .and_then(|()| metadata::check_namespace(kind, NAMESPACE, &mut config))
            .and_then(|()| metadata::check_name(NAME, &mut config));
        if admitted.is_err()
            || !config["metadata"]["managedFields"].is_null()
            || checks::prune(kind, &mut config, options.unknown_fields).is_err()
            || fields::repeated(kind, &config).is_some()
        {
            return;
        }
        let operation = ManagerOperation::Apply { config: &config, force };
        let change = |current: &Value| {
            let mut object = fields::merge_config(kind, current, &config, &options.manager, options.part);
            if metadata::text(&config, "resourceVersion").is_none() {
                metadata::of(&mut object).remove("resourceVersion");
            }
            Ok(object)
        };
        let Ok(written) = self.write(options, operation, change) else { return };
        // What is applied stays applied, whoever forces what.
        match self.write(options, operation, change) {
            Ok(again) => assert_eq!(again, written, "{config}"),
            Err(ObjectError::Conflict { .. }) if metadata::text(&config, "resourceVersion").is_some() => {}
            Err(error) => panic!("{error}: {config}"),
        }
    }

    /// As [`Objects::modify_as`] does it; gives what is stored then.
    fn write(
        &mut self,
        options: &WriteOptions,
        operation: ManagerOperation<'_>,
        change: impl Fn(&Value) -> Result<Value, ObjectError>,
    ) -> Result<Value, ObjectError> {
        let (kind, current) = (self.kind, &self.current);
        let mut desired = change(current)?;
        metadata::check_type(kind, &mut desired)?;
        if metadata::resource_version(&desired)?.is_some_and(|expected| expected != self.revision) {
            return Err(super::modified(kind, NAME));
        }
        let (mut object, _) = self.objects.prepare(kind, NAMESPACE, NAME, current, desired, options)?;
        fields::track(kind, Some(current), &mut object, &options.manager, options.part, operation)?;
        if without_version(current) != object {
            // Of a write its time is remembered, too: of one that changes nothing else there is none.
            object = serde_json::from_slice(&encode(kind, &object)).expect("what is stored is read");
            self.revision += 1;
            metadata::set_resource_version(&mut object, self.revision);
            self.current = object;
        }
        Ok(self.current.clone())
    }

    /// What is stored is valid, has what the server gives it, and does not grow without end.
    fn check(&self) {
        let (kind, object) = (self.kind, &self.current);
        assert!(object.to_string().len() < LARGEST);
        assert_eq!(object["metadata"]["name"], NAME);
        assert_eq!(object["metadata"]["namespace"], NAMESPACE);
        assert_eq!(object["kind"], kind.kind);
        assert_eq!(object["apiVersion"], kind.api_version());
        assert!(object["metadata"]["uid"].is_string());
        let mut judged = object.clone();
        validate::prune(kind, &mut judged);
        assert_eq!(&judged, object, "nothing is stored that the kind has not");
        let errors = validate::validate(kind, object);
        assert!(errors.is_empty(), "{errors:?}: {object}");
    }
}

fn json(text: &[u8]) -> Result<Value, ObjectError> {
    serde_json::from_slice(text).map_err(|error| ObjectError::BadRequest(error.to_string()))
}

fn options(who: u8) -> WriteOptions {
    WriteOptions { manager: format!("manager-{}", who % 4), ..WriteOptions::controller() }
}

fn object(which: u8) -> (&'static Kind, Value) {
    let (kind, spec) = match which % 3 {
        0 => (
            KindId::Service,
            json!({ "ports": [{ "port": 80, "name": "http", "targetPort": 8080 }], "selector": { "app": "a" } }),
        ),
        1 => (
            KindId::HttpRoute,
            json!({
                "parentRefs": [{ "group": "", "kind": "Service", "name": "a", "port": 80 }],
                "rules": [{ "backendRefs": [{ "name": "b", "port": 80 }] }],
            }),
        ),
        _ => (KindId::Workload, json!({ "address": "192.0.2.1", "ports": [{ "name": "http", "port": 80 }] })),
    };
    (kind.kind(), json!({ "metadata": { "name": NAME, "labels": { "a": "b" } }, "spec": spec }))
}
