//! What holds for whatever object.

use proptest::prelude::*;
use serde_json::Value;

use super::good;
use crate::kinds::{
    authorization_policy, backend_tls_policy, endpoint_slice, external_service, grpc_route, http_route, mesh,
    service, tcp_route, tls_route, workload,
};
use crate::registry::{KINDS, KindId};
use crate::validate::*;

/// Whether the compiler gets something of an object.
fn has_form(kind: KindId, object: &Value) -> bool {
    let (object, mut errors) = (Field::root(object), Errors::default());
    match kind {
        KindId::Namespace
        | KindId::Node
        | KindId::ReferenceGrant
        | KindId::Event
        | KindId::EventV1
        | KindId::FlowRun
        | KindId::Secret
        | KindId::ConfigMap
        | KindId::Role
        | KindId::ClusterRole
        | KindId::RoleBinding
        | KindId::ClusterRoleBinding
        | KindId::Flow => true,
        KindId::Service => service::check::check(&object, &mut errors).is_ok(),
        KindId::EndpointSlice => endpoint_slice::check::check(&object, &mut errors).is_ok(),
        KindId::HttpRoute => http_route::check::check(&object, &mut errors).is_ok(),
        KindId::GrpcRoute => grpc_route::check::check(&object, &mut errors).is_ok(),
        KindId::TlsRoute => tls_route::check::check(&object, &mut errors).is_ok(),
        KindId::TcpRoute => tcp_route::check::check(&object, &mut errors).is_ok(),
        KindId::AuthorizationPolicy => authorization_policy::check::check(&object, &mut errors).is_ok(),
        KindId::BackendTlsPolicy => backend_tls_policy::check::check(&object, &mut errors).is_ok(),
        KindId::ExternalService => external_service::check::check(&object, &mut errors).is_ok(),
        KindId::Mesh => mesh::check::check(&object, &mut errors).is_ok(),
        KindId::Workload => workload::check::check(&object, &mut errors).is_ok(),
    }
}

/// Any JSON, made of the words of the kinds.
fn any_value() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "metadata",
        "name",
        "namespace",
        "labels",
        "spec",
        "ports",
        "port",
        "targetPort",
        "selector",
        "rules",
        "matches",
        "backendRefs",
        "parentRefs",
        "hostnames",
        "path",
        "type",
        "value",
        "headers",
        "address",
        "node",
        "endpoints",
        "addresses",
        "filters",
        "requestMirror",
        "fraction",
        "numerator",
        "method",
        "service",
        "status",
        "conditions",
        "managedFields",
        "group",
        "kind",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1i64..70_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        prop::sample::select(vec!["a", "", "10.0.0.1", "/a", "TCP", "Service", "None"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6).prop_map(|fields| Value::Object(
                fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
            )),
        ]
    })
}

/// Puts `new` somewhere into `value`: where, `choices` decide.
fn put(value: &mut Value, choices: &[usize], new: Value) {
    let Some((choice, rest)) = choices.split_first() else {
        *value = new;
        return;
    };
    match value {
        Value::Array(items) if !items.is_empty() => {
            let index = choice % items.len();
            put(&mut items[index], rest, new);
        }
        Value::Object(fields) if !fields.is_empty() => {
            let key = fields.keys().nth(choice % fields.len()).unwrap().clone();
            put(&mut fields[&key], rest, new);
        }
        other => *other = new,
    }
}

proptest! {
    #[test]
    fn no_object_breaks_anything(object in any_value(), kind in 0..KINDS.len()) {
        let kind = &KINDS[kind];
        let errors = validate(kind, &object);
        prop_assert!(has_form(kind.id, &object) || !errors.is_empty(), "it cannot be used, and nobody says why");
        let mut changed = object.clone();
        prune(kind, &mut changed);
        prop_assert!(unknown_fields(kind, &changed).is_empty());
        // What is null or unknown makes no difference.
        prop_assert_eq!(validate(kind, &changed).len(), errors.len());
        default_object(kind, &mut changed);
        validate_update(kind, &object, &changed);
        check_references(&[(kind, &object)], |_, _| None);
        kind.row(&object, jiff::Timestamp::UNIX_EPOCH);
        for error in errors {
            prop_assert!(!error.message.is_empty());
            if error.code != Code::Required {
                prop_assert!(object.pointer(&error.path.pointer()).is_some(), "{}", error);
            }
        }
    }

    #[test]
    fn what_is_valid_has_a_form(
        kind in 0..KINDS.len(),
        changes in prop::collection::vec((prop::collection::vec(any::<usize>(), 1..7), any_value()), 0..3),
    ) {
        let kind = &KINDS[kind];
        let mut object = good(kind.id);
        for (place, new) in changes {
            put(&mut object, &place, new);
        }
        let before = validate(kind, &object);
        default_object(kind, &mut object);
        prune(kind, &mut object);
        let after = validate(kind, &object);
        prop_assert_eq!(before.is_empty(), after.is_empty(), "{:?} {:?}", before, after);
        if after.is_empty() {
            prop_assert!(has_form(kind.id, &object), "{}", object);
        }
    }
}
