use serde_json::{Value, json};

use crate::client::TestApi;

#[tokio::test]
async fn both_forms_of_discovery_name_all_resources() {
    let api = TestApi::start().await;
    assert_eq!(api.get("/api").await.expect(200)["versions"], json!(["v1"]));
    let groups = api.get("/apis").await.expect(200);
    let mut plain = Vec::new();
    let mut versions = vec!["/api/v1".to_owned()];
    for group in groups["groups"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            versions.push(format!("/apis/{}", version["groupVersion"].as_str().unwrap()));
        }
        assert_eq!(group["preferredVersion"], group["versions"][0]);
        let alone = api.get(&format!("/apis/{}", group["name"].as_str().unwrap())).await.expect(200);
        assert_eq!(alone["versions"], group["versions"]);
    }
    for version in versions {
        let resources = api.get(&version).await.expect(200);
        for resource in resources["resources"].as_array().unwrap() {
            plain.push(format!("{version}/{}", resource["name"].as_str().unwrap()));
        }
    }
    let mut aggregated = Vec::new();
    for path in ["/api", "/apis"] {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let answer = api.get_as(path, accept).await;
        assert_eq!(answer.headers["content-type"], accept);
        for group in answer.expect(200)["items"].as_array().unwrap() {
            let group_name = group["metadata"]["name"].as_str().unwrap();
            for version in group["versions"].as_array().unwrap() {
                let below = [path, group_name, version["version"].as_str().unwrap()];
                let below = below.map(|part| part.trim_start_matches('/'));
                let below = below.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
                for resource in version["resources"].as_array().unwrap() {
                    assert_eq!(resource["responseKind"]["version"], version["version"]);
                    let name = resource["resource"].as_str().unwrap();
                    aggregated.push(format!("/{below}/{name}"));
                    for sub in resource["subresources"].as_array().into_iter().flatten() {
                        aggregated.push(format!("/{below}/{name}/{}", sub["subresource"].as_str().unwrap()));
                    }
                }
            }
        }
    }
    plain.sort();
    aggregated.sort();
    assert_eq!(plain, aggregated);
    for there in
        ["v1/httproutes/status", "v1beta1/httproutes", "v1alpha2/tcproutes/status", "v1/referencegrants"]
    {
        let there = format!("/apis/gateway.networking.k8s.io/{there}");
        assert!(plain.contains(&there), "no {there}: {plain:?}");
    }
    let group = api.get("/apis/gateway.networking.k8s.io").await.expect(200);
    assert_eq!(group["preferredVersion"]["version"], "v1");
}

#[tokio::test]
async fn nobody_has_defined_kinds() {
    let api = TestApi::start().await;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(api.get(path).await.expect(200)["items"], json!([]));
    // Nor could one.
    api.get("/apis/apiextensions.k8s.io/v1").await.expect(404);
    api.get(&format!("{path}/a")).await.expect(404);
}

#[tokio::test]
async fn openapi_documents_describe_every_group() {
    let api = TestApi::start().await;
    let index = api.get("/openapi/v3").await.expect(200);
    for (path, entry) in index["paths"].as_object().unwrap() {
        let answer = api.get(entry["serverRelativeURL"].as_str().unwrap()).await;
        assert!(answer.headers["cache-control"].to_str().unwrap().contains("immutable"), "{path}");
        answer.expect(200);
    }
    let core = api.get("/openapi/v3/api/v1").await.expect(200);
    let target = "/components/schemas/io.k8s.api.core.v1.Service/properties/spec/properties/ports/items\
                  /properties/targetPort/allOf/0/$ref";
    let int_or_string = core.pointer(target).unwrap().as_str().unwrap().trim_start_matches('#');
    assert!(core.pointer(int_or_string).is_some(), "{int_or_string}");
    let document = api.get("/openapi/v3/apis/gateway.networking.k8s.io/v1").await.expect(200);
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let route =
        schemas.values().find(|schema| schema["x-kubernetes-group-version-kind"][0]["kind"] == "HTTPRoute");
    let rules = &route.unwrap()["properties"]["spec"]["properties"]["rules"];
    assert_eq!(rules["items"]["properties"]["backendRefs"]["type"], "array");
    let path = "/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes/{name}";
    let patch = &document["paths"][path]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "HTTPRoute");
    let parameters: Vec<&Value> =
        patch["parameters"].as_array().unwrap().iter().map(|parameter| &parameter["name"]).collect();
    for name in ["dryRun", "fieldValidation", "fieldManager", "force"] {
        assert!(parameters.contains(&&json!(name)), "{name}");
    }
    api.get("/openapi/v3/apis/example.com/v1").await.fails(404, "NotFound");
}

/// kubectl wants the second version for lists of several kinds, and in protobuf only.
#[tokio::test]
async fn the_second_version_of_openapi_comes_in_json_and_protobuf() {
    let api = TestApi::start().await;
    let json = api.get("/openapi/v2").await;
    assert_eq!(json.headers["content-type"], "application/json");
    let document = json.expect(200);
    assert_eq!(document["swagger"], "2.0");
    assert_eq!(document["definitions"]["io.k8s.api.core.v1.Service"]["type"], "object");
    for name in [
        "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    ] {
        let binary = api.get_as("/openapi/v2", name).await;
        assert_eq!(
            binary.headers["content-type"],
            "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
        );
        // The field `swagger`, which is first.
        assert!(binary.expect(200).as_str().unwrap().starts_with("\n\u{3}2.0"));
    }
    api.get_as("/openapi/v2", "text/html").await.fails(406, "NotAcceptable");
}
