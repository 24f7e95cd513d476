use super::*;

#[test]
fn every_type_of_the_table_is_read() {
    assert!(type_names().len() > 250, "{}", type_names().len());
    let pod = Schema::builtin("io.k8s.api.core.v1.Pod").expect("Pod");
    let container = pod.cursor().child("spec").and_then(|c| c.child("containers"));
    assert!(matches!(
        container.map(Cursor::node),
        Some(Node::List { merge: ListMerge::Map(keys), .. }) if **keys == ["name".into()]
    ));
}

use serde_json::json;

use super::decode::{DecodeError, FieldValidation};

fn read(
    schema: &str,
    text: &str,
    mode: FieldValidation,
) -> Result<(Value, Vec<String>), DecodeError> {
    let schema = Schema::builtin(schema).expect("in the table");
    schema.decode(body::json(text.as_bytes()).expect("JSON"), mode)
}

#[test]
fn unknown_and_duplicate_fields_are_told_by_path() {
    let text = r#"{"kind":"Service","spec":{"foo":1,"ports":[{"port":80,"port":81,"bar":null}]}}"#;
    let error = read("core.v1.Service", text, FieldValidation::Strict).expect_err("strict");
    assert_eq!(
        error.to_string(),
        "strict decoding error: duplicate field \"spec.ports[0].port\", unknown field \"spec.foo\", \
         unknown field \"spec.ports[0].bar\""
    );
    let (value, warnings) = read("core.v1.Service", text, FieldValidation::Warn).expect("warn");
    assert_eq!(warnings.len(), 3);
    assert_eq!(warnings[1], "unknown field \"spec.foo\"");
    assert_eq!(value, json!({"kind": "Service", "spec": {"ports": [{"port": 81}]}}));
    let (_, warnings) = read("core.v1.Service", text, FieldValidation::Ignore).expect("ignore");
    assert!(warnings.is_empty());
}

#[test]
fn type_errors_carry_gos_words() {
    for (schema, text, wanted) in [
        (
            "core.v1.Service",
            r#"{"spec":{"ports":[{"port":"http"}]}}"#,
            "json: cannot unmarshal string into Go struct field ServicePort.spec.ports.port of type int32",
        ),
        (
            "core.v1.Service",
            r#"{"spec":{"ports":{"port":80}}}"#,
            "json: cannot unmarshal object into Go struct field ServiceSpec.spec.ports of type []v1.ServicePort",
        ),
        (
            "core.v1.Pod",
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            "apps.v1.Deployment",
            r#"{"spec":{"replicas":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "core.v1.Service",
            r#"{"spec":{"ports":[{"port":4294967296}]}}"#,
            "json: cannot unmarshal number 4294967296 into Go struct field ServicePort.spec.ports.port of type int32",
        ),
        (
            "core.v1.Pod",
            r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"much"}}}]}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        ("core.v1.Secret", r#"{"data":{"a":"***"}}"#, "illegal base64 data at input byte 0"),
    ] {
        let error = read(schema, text, FieldValidation::Ignore).expect_err(text);
        assert_eq!(error.to_string(), wanted);
    }
}

#[test]
fn nulls_are_absences() {
    let text = r#"{"metadata":{"creationTimestamp":null,"name":"a"},"status":null}"#;
    let (value, _) = read("core.v1.Pod", text, FieldValidation::Strict).expect("nulls are fine");
    assert_eq!(value, json!({"metadata": {"name": "a"}}));
}

#[test]
fn yaml_tells_duplicates_too() {
    let read = body::yaml(b"metadata:\n  name: a\n  name: b\nspec: {}\n").expect("YAML");
    assert_eq!(read.duplicates, ["metadata.name"]);
    assert_eq!(read.value, json!({"metadata": {"name": "b"}, "spec": {}}));
    assert!(body::yaml(b"a: [").is_err());
    assert!(body::json(b"{").is_err());
}

#[test]
fn custom_resources_are_pruned_and_defaulted() {
    let raw = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "size": {"type": "integer", "default": 3},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "maybe": {"type": "string", "nullable": true}}},
    }});
    let schema = Schema::structural(std::sync::Arc::new(raw));
    let text = br#"{"apiVersion":"x.io/v1","kind":"X","metadata":{"name":"a","foo":1},
        "spec":{"other":1,"free":{"any":{"thing":1}},"maybe":null,"size":null}}"#;
    let read = body::json(text).expect("JSON");
    let (mut value, warnings) = schema.decode(read, FieldValidation::Warn).expect("fits");
    assert_eq!(warnings, ["unknown field \"metadata.foo\"", "unknown field \"spec.other\""]);
    crate::defaults::from_schema(schema.cursor(), &mut value);
    assert_eq!(value["spec"], json!({"free": {"any": {"thing": 1}}, "maybe": null, "size": 3}));
}
