use super::*;
use crate::kinds::Kinds;

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(to)) = map.get("$ref") {
                found.push(to);
            }
            map.values().for_each(|inner| references(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| references(inner, found)),
        _ => {}
    }
}

#[test]
fn every_document_in_the_index_is_there_and_closed() {
    let kinds = Kinds::builtin().all();
    let index = v3_index(&kinds);
    let paths = index["paths"].as_object().expect("paths");
    assert!(paths.contains_key("api/v1") && paths.contains_key("apis/apps/v1"));
    for path in paths.keys() {
        let document = v3(&kinds, path).unwrap_or_else(|| panic!("{path} is in the index"));
        let mut found = Vec::new();
        references(&document, &mut found);
        let schemas = &document["components"]["schemas"];
        for name in found {
            let name = name.strip_prefix("#/components/schemas/").expect("a component");
            assert!(schemas.get(name).is_some(), "{path}: {name} is not defined");
        }
    }
    assert!(v3(&kinds, "apis/apps/v9").is_none());
    assert!(v3(&kinds, "nonsense").is_none());
}

#[test]
fn swagger_is_closed_too() {
    let document = v2(&Kinds::builtin().all());
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 500);
    for name in found {
        let name = name.strip_prefix("#/definitions/").expect("a definition");
        assert!(document["definitions"].get(name).is_some(), "{name} is not defined");
    }
}

#[test]
fn kubectl_finds_what_it_probes() {
    let kinds = Kinds::builtin().all();
    let document = v3(&kinds, "apis/apps/v1").expect("served");
    let patch =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    let names: Vec<&str> = patch["parameters"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert!(names.contains(&"fieldValidation") && names.contains(&"dryRun"));
    let spec = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"];
    let containers = &spec["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    let object = &document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        object["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
    );
}
