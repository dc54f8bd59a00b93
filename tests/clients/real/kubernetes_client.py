"""The Python client of Kubernetes, against the API of a mesh with a service d: $KUBECONFIG says where."""

import json
import threading

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client import ApiException
from kubernetes.dynamic.exceptions import ResourceNotFoundError

from cases import eventually, run, same

config.load_kube_config()
core = client.CoreV1Api()
custom = client.CustomObjectsApi()
# The tool of choice for kinds that the client has no classes for.
anything = dynamic.DynamicClient(client.ApiClient())
ROUTES = ("gateway.networking.k8s.io", "v1", "default", "httproutes")


def service(name, port=80, **labels):
    ports = [client.V1ServicePort(name="http", port=port), client.V1ServicePort(name="admin", port=81)]
    spec = client.V1ServiceSpec(selector={"app": name}, ports=ports)
    return client.V1Service(metadata=client.V1ObjectMeta(name=name, labels=labels), spec=spec)


def route(name, backend, port=80):
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": backend}],
            "rules": [{"backendRefs": [{"name": backend, "port": port}]}],
        },
    }


def refused(status, reason, ask):
    """The message of an error of the API."""
    try:
        ask()
    except ApiException as error:
        said = json.loads(error.body)
        same((error.status, said["kind"], said["code"], said["reason"]), (status, "Status", status, reason))
        return said["message"]
    raise AssertionError("it was not refused")


def lists():
    assert client.VersionApi().get_code().git_version.startswith("v1.32")
    assert "tulle.dev" in [group.name for group in client.ApisApi().get_api_versions().groups]
    found = core.list_namespaced_service("default", field_selector="metadata.name=d")
    same([(one.metadata.name, one.spec.ports[0].port) for one in found.items], [("d", 9459)])
    assert core.list_service_for_all_namespaces(label_selector="team in (nobody)").items == []
    assert "default" in [one.metadata.name for one in core.list_namespace().items]
    workloads = custom.list_cluster_custom_object("tulle.dev", "v1alpha1", "workloads")["items"]
    same([one["metadata"]["labels"]["app"] for one in workloads], ["d"])

    def nodes():
        found = custom.list_cluster_custom_object("tulle.dev", "v1alpha1", "nodes")
        same((found["kind"], len(found["items"])), ("NodeList", 1))

    eventually(nodes)
    # As in the client's own README.
    assert core.list_service_for_all_namespaces(watch=False).items

    def slices():
        found = client.DiscoveryV1Api().list_namespaced_endpoint_slice(
            "default", label_selector="kubernetes.io/service-name=d"
        )
        assert found.items[0].endpoints[0].conditions.ready

    eventually(slices)


def pages():
    for i in range(5):
        core.create_namespaced_service("default", service(f"page-{i}", set="pages"))
    found, following = [], None
    while following != "":
        part = core.list_namespaced_service("default", label_selector="set=pages", limit=2, _continue=following)
        found.append([one.metadata.name for one in part.items])
        following = part.metadata._continue or ""
    same(sum(found, []), [f"page-{i}" for i in range(5)])
    core.delete_collection_namespaced_service("default", label_selector="set=pages")
    same(core.list_namespaced_service("default", label_selector="set=pages").items, [])


def changes():
    """Created, read, changed in all ways there are, deleted; a watch sees all of it."""
    seen = []
    start = core.list_namespaced_service("default").metadata.resource_version

    def look():
        stream = watch.Watch().stream(
            core.list_namespaced_service, "default", resource_version=start, label_selector="team=one"
        )
        for event in stream:
            seen.append((event["type"], event["object"].spec.ports[1].name))
            if event["type"] == "DELETED":
                return

    watching = threading.Thread(target=look, daemon=True)
    watching.start()
    core.create_namespaced_service("default", service("s", team="one"), dry_run="All")
    made = core.create_namespaced_service("default", service("s", team="one"))
    same(made.metadata.creation_timestamp.tzinfo is not None, True)
    refused(409, "AlreadyExists", lambda: core.create_namespaced_service("default", service("s")))

    port = lambda name: {"spec": {"ports": [{"port": 81, "name": name}]}}

    def patch(body, kind):
        sending = client.ApiClient()
        sending.set_default_header("Content-Type", f"application/{kind}")
        return client.CoreV1Api(sending).patch_namespaced_service("s", "default", body)

    both = patch(port("strategic"), "strategic-merge-patch+json").spec.ports
    same([one.name for one in both], ["http", "strategic"])
    merged = {"spec": {"ports": [{"port": 80, "name": "http"}, {"port": 81, "name": "merge"}]}}
    same(len(patch(merged, "merge-patch+json").spec.ports), 2)
    patch([{"op": "replace", "path": "/spec/ports/1/name", "value": "json"}], "json-patch+json")
    refused(
        422, "Invalid", lambda: patch([{"op": "test", "path": "/spec/ports/1/name", "value": "x"}], "json-patch+json")
    )
    stale = made
    stale.spec.ports[1].name = "stale"
    message = refused(409, "Conflict", lambda: core.replace_namespaced_service("s", "default", stale))
    assert "the object has been modified" in message, message
    fresh = core.read_namespaced_service("s", "default")
    fresh.spec.ports[1].name = "replaced"
    core.replace_namespaced_service("s", "default", fresh)
    core.delete_namespaced_service("s", "default")
    refused(404, "NotFound", lambda: core.read_namespaced_service("s", "default"))
    watching.join(10)
    types = ["ADDED", "MODIFIED", "MODIFIED", "MODIFIED", "MODIFIED", "DELETED"]
    names = ["admin", "strategic", "merge", "json", "replaced", "replaced"]
    same(seen, list(zip(types, names)))


def custom_objects():
    custom.create_namespaced_custom_object(*ROUTES, route("r", "d", 9459))
    weight = lambda n: {"spec": {"rules": [{"backendRefs": [{"name": "d", "port": 9459, "weight": n}]}]}}
    changed = custom.patch_namespaced_custom_object(*ROUTES, "r", weight(7))
    same(changed["spec"]["rules"][0]["backendRefs"][0]["weight"], 7)

    def accepted():
        parents = custom.get_namespaced_custom_object_status(*ROUTES, "r")["status"]["parents"]
        same({one["type"]: one["status"] for one in parents[0]["conditions"]}["Programmed"], "True")

    eventually(accepted)
    message = refused(
        422, "Invalid", lambda: custom.create_namespaced_custom_object(*ROUTES, route("wrong", "d", 99999))
    )
    assert "spec.rules[0].backendRefs[0].port" in message, message
    custom.delete_namespaced_custom_object(*ROUTES, "r")
    refused(404, "NotFound", lambda: custom.get_namespaced_custom_object(*ROUTES, "r"))


def server_side_apply():
    routes = anything.resources.get(api_version="gateway.networking.k8s.io/v1", kind="HTTPRoute")
    apply = lambda weight, manager, **more: routes.server_side_apply(
        body={
            **route("applied", "d"),
            "spec": {
                **route("applied", "d")["spec"],
                "rules": [{"backendRefs": [{"name": "d", "port": 9459, "weight": weight}]}],
            },
        },
        name="applied",
        namespace="default",
        field_manager=manager,
        **more,
    )
    weight = lambda seen: seen.spec.rules[0].backendRefs[0].weight
    made = apply(3, "one")
    same((weight(made), made.metadata.managedFields[0].manager), (3, "one"))
    refused(409, "Conflict", lambda: apply(4, "two"))
    same(weight(apply(5, "two", force_conflicts=True)), 5)
    events = routes.watch(namespace="default", name="applied", timeout=5)
    same(next(events)["object"].metadata.name, "applied")
    routes.delete(name="applied", namespace="default")


def older_versions():
    """The same object, made in one version and read, changed, watched and deleted in the other."""
    old, new = (
        anything.resources.get(api_version=f"gateway.networking.k8s.io/{version}", kind="HTTPRoute")
        for version in ("v1beta1", "v1")
    )
    body = {**route("older", "d", 9459), "apiVersion": "gateway.networking.k8s.io/v1beta1"}
    same(old.create(body=body, namespace="default").apiVersion, "gateway.networking.k8s.io/v1beta1")
    seen = new.get(name="older", namespace="default")
    same(seen.apiVersion, "gateway.networking.k8s.io/v1")
    assert "older" in [one.metadata.name for one in old.get(namespace="default").items]
    label = {"metadata": {"labels": {"a": "b"}}}
    patch = lambda routes: routes.patch(
        body=label, name="older", namespace="default", content_type="application/merge-patch+json"
    )
    same([patch(routes).metadata.labels.a for routes in (old, new)], ["b", "b"])
    event = next(old.watch(namespace="default", name="older", timeout=5))
    same((event["type"], event["object"].apiVersion), ("ADDED", "gateway.networking.k8s.io/v1beta1"))
    message = refused(400, "BadRequest", lambda: new.create(body=body, namespace="default"))
    assert "v1beta1" in message, message
    new.delete(name="older", namespace="default")
    refused(404, "NotFound", lambda: old.get(name="older", namespace="default"))


def lists_of_objects():
    items = [client.ApiClient().sanitize_for_serialization(service(name)) for name in ("l1", "l2")]
    for item in items:
        item.update(apiVersion="v1", kind="Service")
    utils.create_from_dict(client.ApiClient(), {"apiVersion": "v1", "kind": "List", "items": items})
    for name in ("l1", "l2"):
        core.delete_namespaced_service(name, "default")


def namespaces():
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name="shop")))
    core.create_namespaced_service("shop", service("s"))
    core.delete_namespace("shop")
    eventually(lambda: refused(404, "NotFound", lambda: core.read_namespace("shop")))
    same(core.list_namespaced_service("shop").items, [])
    message = refused(403, "Forbidden", lambda: core.delete_namespace("default"))
    assert "default" in message, message


def events():
    def joined():
        assert "Joined" in [event.reason for event in core.list_event_for_all_namespaces().items]
        newer = client.EventsV1Api().list_event_for_all_namespaces().items
        assert "Joined" in [event.reason for event in newer]

    eventually(joined)


def unknown():
    refused(404, "NotFound", lambda: client.AppsV1Api().list_namespaced_deployment("default"))
    refused(404, "NotFound", lambda: core.list_namespaced_pod("default"))
    refused(
        404,
        "NotFound",
        lambda: custom.list_namespaced_custom_object("networking.istio.io", "v1", "default", "virtualservices"),
    )
    try:
        anything.resources.get(api_version="networking.istio.io/v1", kind="VirtualService")
        raise AssertionError("it was found")
    except ResourceNotFoundError:
        pass


def strangers():
    nobody = client.Configuration.get_default_copy()
    nobody.cert_file = nobody.key_file = None
    nobody.api_key = {}
    refused(401, "Unauthorized", lambda: client.CoreV1Api(client.ApiClient(nobody)).list_namespace())


def expired():
    seen = []
    try:
        for event in watch.Watch().stream(core.list_namespaced_service, "default", resource_version="1"):
            seen.append(event)
            break
    except ApiException as error:
        same(error.status, 410)
    # A history that goes back so far is as good.
    assert len(seen) <= 1


run(
    {
        "version, groups and lists": lists,
        "pages, and a collection is deleted": pages,
        "objects come, change and go; a watch sees it": changes,
        "objects of other groups": custom_objects,
        "server-side apply": server_side_apply,
        "older versions of a kind": older_versions,
        "a list of objects": lists_of_objects,
        "namespaces": namespaces,
        "events": events,
        "kinds that there are not": unknown,
        "nobody without credentials": strangers,
        "a watch from long ago": expired,
    }
)
