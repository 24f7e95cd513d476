//! The running server, asked by stock clients: several kubectl versions and the kube crate.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod server_support;

use server_support::{KUBECTLS, TestServer};

/// A Deployment as people write it.
const WEB: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: nginx, ports: [{containerPort: 8080}]}]}
"#;

#[test]
fn every_kubectl_applies_changes_and_deletes() {
    let server = TestServer::start();
    for kubectl in KUBECTLS {
        let k = server.kubectl(kubectl);
        let Some(version) = k.try_run(&["version", "-o", "json"]) else { continue };
        assert!(version.contains("v1.36.0-fairway"), "{version}");
        k.input(WEB, &["apply", "-f", "-"])
            .has("service/web created")
            .has("deployment.apps/web created");
        k.input(WEB, &["apply", "-f", "-"])
            .has("service/web unchanged")
            .has("deployment.apps/web unchanged");
        let scaled = WEB.replace("replicas: 2", "replicas: 5").replace("port: 80,", "port: 81,");
        k.input(&scaled, &["apply", "-f", "-"])
            .has("service/web configured")
            .has("deployment.apps/web configured");
        k.run(&["get", "svc", "web", "-o", "jsonpath={.spec.ports[*].port}"]).is("81");
        k.run(&["get", "deploy,svc", "-l", "app=web", "-o", "wide"]).has("web").has("81/TCP");
        k.run(&["get", "deploy", "web", "-o", "yaml"]).has("replicas: 5").has("generation: 2");
        k.run(&["scale", "deploy/web", "--replicas=3"]).has("deployment.apps/web scaled");
        k.run(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"]).is("3");
        k.run(&["label", "svc", "web", "tier=front"]).has("labeled");
        k.run(&["annotate", "svc", "web", "note=x"]).has("annotate");
        k.run(&[
            "patch",
            "svc",
            "web",
            "-p",
            r#"{"spec":{"ports":[{"name":"http","port":81,"targetPort":9090}]}}"#,
        ])
        .has("patched");
        k.run(&[
            "patch",
            "svc",
            "web",
            "--type=json",
            "-p",
            r#"[{"op":"replace","path":"/spec/ports/0/targetPort","value":9091}]"#,
        ])
        .has("patched");
        k.run(&[
            "patch",
            "svc",
            "web",
            "--type=merge",
            "-p",
            r#"{"metadata":{"labels":{"tier":null}}}"#,
        ])
        .has("patched");
        k.run(&[
            "get",
            "svc",
            "web",
            "-o",
            "jsonpath={.spec.ports[0].targetPort} {.metadata.labels}",
        ])
        .is(r#"9091 {"app":"web"}"#);
        k.run(&["set", "image", "deploy/web", "web=httpd"]).has("image updated");
        k.run(&["describe", "svc", "web"]).has("Selector:").has("app=web");
        k.run(&["explain", "service.spec.ports"]).has("targetPort");
        k.run(&["api-resources"]).has("endpointslices").has("networkpolicies");
        k.fail(&["get", "svc", "nothing"])
            .has("Error from server (NotFound): services \"nothing\" not found");
        k.fail(&["create", "service", "clusterip", "web", "--tcp=80"])
            .has("services \"web\" already exists");
        k.run(&["auth", "can-i", "create", "pods"]).has("yes");
        k.run(&["delete", "svc/web", "deploy/web"])
            .has("service \"web\" deleted")
            .has("deployment.apps \"web\" deleted");
    }
}

#[test]
fn mistakes_are_told_as_upstream_tells_them() {
    let server = TestServer::start();
    let k = server.kubectl(KUBECTLS[0]);
    k.fail_input(
        "# yaml\n{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {portz: [], ports: [{port: 80}]}}",
        &["apply", "-f", "-"],
    )
    .has("strict decoding error: unknown field \"spec.portz\"");
    k.input(
        "# yaml\n{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {portz: [], ports: [{port: 80}]}}",
        &["apply", "--validate=warn", "-f", "-"],
    )
    .has("Warning: unknown field \"spec.portz\"");
    k.fail_input(
        "# yaml\n{apiVersion: v1, kind: Service, metadata: {name: b}, spec: {ports: [{port: 70000}]}}",
        &["apply", "-f", "-"],
    )
    .has("spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive");
    k.fail_input(
        "# yaml\n{apiVersion: v1, kind: Service, metadata: {name: b}, spec: {type: NodePort, ports: [{port: 80, nodePort: 80}]}}",
        &["apply", "-f", "-"],
    )
    .has("spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range");
    k.fail_input(
        "# yaml\n{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: nowhere}}",
        &["create", "-f", "-"],
    )
    .has("Error from server (NotFound)")
    .has("namespaces \"nowhere\" not found");
    k.fail(&["delete", "ns", "default"]).has("this namespace may not be deleted");
    k.fail(&["get", "pods", "--field-selector=spec.foo=1"])
        .has("field label not supported: spec.foo");
    k.fail(&["get", "daemonsets"]).has("the server doesn't have a resource type \"daemonsets\"");
}

#[test]
fn old_forms_are_served_with_a_warning() {
    let server = TestServer::start();
    let k = server.kubectl(KUBECTLS[0]);
    k.input(
        "# yaml\n{apiVersion: apps/v1beta1, kind: Deployment, metadata: {name: old}, spec: {replicas: 1, template: {metadata: {labels: {app: old}}, spec: {containers: [{name: c, image: httpd}]}}}}",
        &["apply", "-f", "-"],
    )
    .has("Warning: apps/v1beta1 Deployment is deprecated")
    .has("deployment.apps/old created");
    k.run(&[
        "get",
        "deploy",
        "old",
        "-o",
        "jsonpath={.apiVersion} {.spec.selector.matchLabels.app}",
    ])
    .is("apps/v1 old");
    k.input(
        "# yaml\n{apiVersion: extensions/v1beta1, kind: Ingress, metadata: {name: old}, spec: {rules: [{host: a.example, http: {paths: [{path: /x, backend: {serviceName: web, servicePort: 80}}]}}]}}",
        &["create", "-f", "-"],
    )
    .has("Warning: extensions/v1beta1 Ingress is deprecated");
    k.run(&[
        "get",
        "ing",
        "old",
        "-o",
        "jsonpath={.spec.rules[0].http.paths[0].backend.service.name}",
    ])
    .is("web");
}

#[test]
fn waiting_watching_and_pods_that_stop() {
    let server = TestServer::start();
    let k = server.kubectl(KUBECTLS[0]);
    k.input(
        "# yaml\n{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {nodeName: n1, containers: [{name: c, image: nginx}]}}",
        &["apply", "-f", "-"],
    );
    k.run(&[
        "get",
        "pod",
        "p",
        "-o",
        "jsonpath={.status.phase} {.spec.serviceAccountName} {.spec.restartPolicy}",
    ])
    .is("Pending default Always");
    let mut watch = k.spawn(&["get", "pods", "-w", "--no-headers"]);
    let mut wait = k.spawn(&["wait", "--for=condition=Ready", "pod/p", "--timeout=20s"]);
    std::thread::sleep(std::time::Duration::from_millis(700));
    k.run(&[
        "patch",
        "pod",
        "p",
        "--subresource=status",
        "--type=merge",
        "-p",
        r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#,
    ]);
    wait.ends().has("pod/p condition met");
    // A grace period: the pod stays, marked, until its runner lets it go.
    let mut delete = k.spawn(&["delete", "pod", "p"]);
    std::thread::sleep(std::time::Duration::from_millis(700));
    k.run(&["get", "pod", "p", "-o", "jsonpath={.metadata.deletionGracePeriodSeconds}"]).is("30");
    k.run(&["delete", "pod", "p", "--grace-period=0", "--force"]);
    delete.ends().has("pod \"p\" deleted");
    k.fail(&["get", "pod", "p"]).has("NotFound");
    watch.kill().has("p ").has("Running").has("Terminating");
}

#[test]
fn custom_resources_live_and_go_with_their_definition() {
    let server = TestServer::start();
    let k = server.kubectl(KUBECTLS[0]);
    const CRD: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            properties: {size: {type: integer, minimum: 1}, color: {type: string, default: red}}
          status: {type: object, properties: {size: {type: integer}}}
"#;
    k.input(CRD, &["apply", "-f", "-"]).has("created");
    k.run(&["wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=5s"]);
    k.input(
        "# yaml\n{apiVersion: example.com/v1, kind: Widget, metadata: {name: a}, spec: {size: 3}}",
        &["apply", "-f", "-"],
    )
    .has("widget.example.com/a created");
    k.run(&["get", "wd"]).has("NAME   SIZE").has("a      3");
    k.run(&["get", "wd", "a", "-o", "jsonpath={.spec.color} {.metadata.generation}"]).is("red 1");
    k.run(&["scale", "widget/a", "--replicas=7"]);
    k.run(&["get", "wd", "a", "-o", "jsonpath={.spec.size} {.metadata.generation}"]).is("7 2");
    k.fail_input(
        "# yaml\n{apiVersion: example.com/v1, kind: Widget, metadata: {name: b}, spec: {size: 0}}",
        &["create", "-f", "-"],
    )
    .has("spec.size");
    k.fail_input("# yaml\n{apiVersion: example.com/v1, kind: Widget, metadata: {name: b}, spec: {size: 1, foo: 2}}", &["create", "-f", "-"]).has("unknown field \"spec.foo\"");
    k.run(&["delete", "crd", "widgets.example.com"]).has("deleted");
    // kubectl remembers discovery for a while, so either way of saying it is gone will do.
    k.fail(&["get", "widgets"]).has("the server");
}
