//! What of Gateway API's examples is not for a mesh, or not yet, and what is said of it.

use super::Refusal;

pub const REFUSALS: &[Refusal] = &[
    Refusal {
        of: "all whose parent is a Gateway",
        text: "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: market}
spec:
  parentRefs: [{name: door}]
  rules: [{backendRefs: [{name: one, port: 80}]}]
",
        says: "NoMatchingParent",
    },
    Refusal {
        of: "experimental/destination-port-matching-tcp",
        text: "apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: r, namespace: market}
spec:
  parentRefs: [{group: mesh.example, kind: Mesh, name: mine, port: 9090}]
  rules: [{backendRefs: [{name: one, port: 9090}]}]
",
        says: "NoMatchingParent",
    },
    Refusal {
        of: "standard/multicluster/httproute-simple standard/multicluster/httproute-location standard/multicluster/httproute-method \
             standard/multicluster/httproute-hybrid standard/multicluster/httproute-referencegrant",
        text: "HTTPRoute market/r market/fruit:80
- backendRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: one, port: 8080}]",
        says: "InvalidKind",
    },
    Refusal {
        of: "standard/multicluster/httproute-gamma",
        text: "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: market}
spec:
  parentRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: one}]
  rules: [{backendRefs: [{name: one, port: 80}]}]
",
        says: "NoMatchingParent",
    },
    Refusal {
        of: "standard/http-filter and others without parents",
        text: "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: market}
spec:
  rules: [{backendRefs: [{name: one, port: 80}]}]
",
        says: super::ATTACHED_TO_NOTHING,
    },
    Refusal {
        of: "experimental/v1alpha2/tls-routing/tls-route",
        text: "apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TLSRoute
metadata: {name: r, namespace: market}
spec:
  parentRefs: [{group: '', kind: Service, name: secret, port: 443}]
  rules: [{backendRefs: [{name: secret, port: 443}]}]
",
        says: "spec.hostnames",
    },
    Refusal {
        of: "standard/udp-routing/udp-route standard/basic-udp",
        text: "apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {name: r, namespace: market}
spec:
  parentRefs: [{group: '', kind: Service, name: fruit}]
  rules: [{backendRefs: [{name: one, port: 9090}]}]
",
        says: "UDPRoute",
    },
    Refusal {
        of: "standard/simple-gateway/gateway and all other Gateways",
        text: "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: door, namespace: market}
spec:
  gatewayClassName: any
  listeners: [{name: http, protocol: HTTP, port: 80}]
",
        says: "Gateway",
    },
    Refusal {
        of: "standard/backendtlspolicy/backendtlspolicy-ca-certs standard/backendtlspolicy/backendtlspolicy-system-certs",
        text: "apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: p, namespace: market}
spec:
  targetRefs: [{group: '', kind: Service, name: one}]
  validation: {wellKnownCACertificates: System, hostname: one.example}
",
        says: "NotApplicable",
    },
    Refusal {
        of: "standard/listenerset/listenerset",
        text: "apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: more, namespace: market}
spec: {parentRef: {name: door}, listeners: [{name: http, protocol: HTTP, port: 80}]}
",
        says: "ListenerSet",
    },
];
