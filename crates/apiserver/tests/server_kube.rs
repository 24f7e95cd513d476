//! The running server, asked by the kube crate: conflicts, paging, watches, tokens.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod server_support;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenRequest};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy, WatchEvent,
    WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Client, Config};
use serde_json::json;

use server_support::{TOKEN, TestServer};

fn run(test: impl AsyncFnOnce(&TestServer, Client)) {
    let server = TestServer::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = client(&server, |_| {}).await;
        test(&server, client).await;
    });
}

async fn client(server: &TestServer, change: impl FnOnce(&mut Kubeconfig)) -> Client {
    let mut kubeconfig = Kubeconfig::read_from(&server.kubeconfig).unwrap();
    change(&mut kubeconfig);
    let config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn config_map(name: &str, n: &str) -> ConfigMap {
    serde_json::from_value(
        json!({"metadata": {"name": name, "labels": {"n": n}}, "data": {"n": n}}),
    )
    .unwrap()
}

fn code(error: kube::Error) -> (u16, String, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.reason.clone(), status.message.clone()),
        other => panic!("not an answer of the API: {other:?}"),
    }
}

#[test]
fn writers_meet_and_lists_are_paged() {
    run(async |_, client| {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let post = PostParams::default();
        for n in 0..10 {
            maps.create(&post, &config_map(&format!("m{n}"), &(n % 3).to_string())).await.unwrap();
        }
        let exists = maps.create(&post, &config_map("m0", "0")).await.unwrap_err();
        let (status, reason, message) = code(exists);
        assert_eq!(
            (status, &*reason, &*message),
            (409, "AlreadyExists", "configmaps \"m0\" already exists")
        );

        let first = maps.get("m0").await.unwrap();
        let mut fresh = first.clone();
        fresh.data.get_or_insert_default().insert("x".into(), "1".into());
        let fresh = maps.replace("m0", &post, &fresh).await.unwrap();
        assert_ne!(fresh.metadata.resource_version, first.metadata.resource_version);
        let (status, reason, message) = code(maps.replace("m0", &post, &first).await.unwrap_err());
        assert_eq!((status, &*reason), (409, "Conflict"));
        assert!(message.contains("the object has been modified; please apply your changes"));

        let page = maps.list(&ListParams::default().limit(4)).await.unwrap();
        assert_eq!((page.items.len(), page.metadata.remaining_item_count), (4, Some(6)));
        // What changes meanwhile does not show in the pages that follow.
        maps.create(&post, &config_map("m00", "0")).await.unwrap();
        maps.delete("m9", &DeleteParams::default()).await.unwrap();
        let mut names: Vec<_> =
            page.items.iter().map(|m| m.metadata.name.clone().unwrap()).collect();
        let mut token = page.metadata.continue_;
        while let Some(next) = token.filter(|t| !t.is_empty()) {
            let page =
                maps.list(&ListParams::default().limit(4).continue_token(&next)).await.unwrap();
            names.extend(page.items.iter().map(|m| m.metadata.name.clone().unwrap()));
            token = page.metadata.continue_;
        }
        let expected: Vec<_> = (0..10).map(|n| format!("m{n}")).collect();
        assert_eq!(names, expected);

        let some = maps.list(&ListParams::default().labels("n in (1,2),n!=2")).await.unwrap();
        assert_eq!(some.items.len(), 3);
        let one = maps.list(&ListParams::default().fields("metadata.name=m3")).await.unwrap();
        assert_eq!(one.items.len(), 1);
        let (status, _, message) =
            code(maps.list(&ListParams::default().fields("data.n=1")).await.unwrap_err());
        assert_eq!((status, &*message), (400, "field label not supported: data.n"));

        let dry = PostParams { dry_run: true, ..PostParams::default() };
        maps.create(&dry, &config_map("dry", "0")).await.unwrap();
        assert_eq!(code(maps.get("dry").await.unwrap_err()).0, 404);
        maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("n=0"))
            .await
            .unwrap();
        assert_eq!(maps.list(&ListParams::default()).await.unwrap().items.len(), 6);
        let meta = maps.list_metadata(&ListParams::default()).await.unwrap();
        assert_eq!(meta.items.len(), 6);
    });
}

#[test]
fn watches_replay_select_and_expire() {
    run(async |server, client| {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let post = PostParams::default();
        maps.create(&post, &config_map("a", "1")).await.unwrap();
        let start =
            maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
        let mut selected = maps
            .watch(&WatchParams::default().labels("n=1").timeout(20), &start)
            .await
            .unwrap()
            .boxed();
        let relabel = |n: &str| Patch::Merge(json!({"metadata": {"labels": {"n": n}}}));
        maps.patch("a", &PatchParams::default(), &relabel("2")).await.unwrap();
        maps.patch("a", &PatchParams::default(), &relabel("1")).await.unwrap();
        maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"y": "1"}})))
            .await
            .unwrap();
        maps.delete("a", &DeleteParams::default()).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < 4 {
            seen.push(match selected.try_next().await.unwrap().expect("an event") {
                WatchEvent::Added(map) => ("added", map.metadata.labels.unwrap()["n"].clone()),
                WatchEvent::Modified(map) => {
                    ("modified", map.metadata.labels.unwrap()["n"].clone())
                }
                WatchEvent::Deleted(map) => ("deleted", map.metadata.labels.unwrap()["n"].clone()),
                other => panic!("{other:?}"),
            });
        }
        let one = || "1".to_owned();
        assert_eq!(
            seen,
            [("deleted", one()), ("added", one()), ("modified", one()), ("deleted", one())]
        );

        // A revision older than the ring remembers.
        let place = server.registry.place("", "configmaps", "default", "").unwrap();
        for n in 0..apiserver::store::RING {
            let map = json!({"metadata": {"name": format!("r{n}")}});
            server.registry.create(&place, map, &Default::default()).unwrap();
        }
        let mut old = maps.watch(&WatchParams::default(), &start).await.unwrap().boxed();
        match old.try_next().await.unwrap() {
            Some(WatchEvent::Error(status)) => {
                assert_eq!((status.code, &*status.reason), (410, "Expired"))
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn both_kinds_of_watcher_see_everything() {
    run(async |_, client| {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let post = PostParams::default();
        for n in 0..5 {
            maps.create(&post, &config_map(&format!("m{n}"), "1")).await.unwrap();
        }
        for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
            let mut events = watcher(maps.clone(), config).boxed();
            let mut initial = 0;
            loop {
                match events.try_next().await.unwrap().expect("an event") {
                    watcher::Event::Init => {}
                    watcher::Event::InitApply(_) => initial += 1,
                    watcher::Event::InitDone => break,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(initial, 5);
            maps.create(&post, &config_map("new", "1")).await.unwrap();
            match events.try_next().await.unwrap().expect("an event") {
                watcher::Event::Apply(map) => assert_eq!(map.metadata.name.as_deref(), Some("new")),
                other => panic!("{other:?}"),
            }
            maps.delete("new", &DeleteParams::default()).await.unwrap();
            match events.try_next().await.unwrap().expect("an event") {
                watcher::Event::Delete(map) => {
                    assert_eq!(map.metadata.name.as_deref(), Some("new"))
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn finalizers_grace_and_namespaces_hold_objects() {
    run(async |server, client| {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let post = PostParams::default();
        let mut held = config_map("held", "1");
        held.metadata.finalizers = Some(vec!["example.com/hold".into()]);
        let made = maps.create(&post, &held).await.unwrap();
        let wrong = DeleteParams {
            preconditions: Some(kube::api::Preconditions {
                uid: Some("other".into()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        assert_eq!(code(maps.delete("held", &wrong).await.unwrap_err()).0, 409);
        maps.delete("held", &DeleteParams::default()).await.unwrap();
        let marked = maps.get("held").await.unwrap();
        assert_eq!(marked.metadata.uid, made.metadata.uid);
        assert!(marked.metadata.deletion_timestamp.is_some());
        let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        maps.patch("held", &PatchParams::default(), &release).await.unwrap();
        assert_eq!(code(maps.get("held").await.unwrap_err()).0, 404);

        maps.create(&post, &config_map("owner", "1")).await.unwrap();
        let foreground = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            ..DeleteParams::default()
        };
        maps.delete("owner", &foreground).await.unwrap();
        let waiting = maps.get("owner").await.unwrap();
        assert_eq!(waiting.metadata.finalizers, Some(vec!["foregroundDeletion".to_owned()]));

        let namespaces: Api<Namespace> = Api::all(client.clone());
        let space: Namespace =
            serde_json::from_value(json!({"metadata": {"generateName": "space-"}})).unwrap();
        let name = namespaces.create(&post, &space).await.unwrap().metadata.name.unwrap();
        assert_eq!(name.len(), "space-".len() + 5);
        namespaces.delete(&name, &DeleteParams::default()).await.unwrap();
        let going = namespaces.get(&name).await.unwrap();
        assert_eq!(going.status.unwrap().phase.as_deref(), Some("Terminating"));
        let inside: Api<ConfigMap> = Api::namespaced(client.clone(), &name);
        let (status, _, message) =
            code(inside.create(&post, &config_map("x", "1")).await.unwrap_err());
        assert_eq!(status, 403);
        assert!(message.contains("because it is being terminated"), "{message}");
        let place = server.registry.place("", "namespaces", "", &name).unwrap();
        let finalize = json!({"metadata": {"name": name}, "spec": {"finalizers": []}});
        server
            .registry
            .update(&place, apiserver::registry::Part::Finalize, finalize, &Default::default())
            .unwrap();
        assert_eq!(code(namespaces.get(&name).await.unwrap_err()).0, 404);
    });
}

#[test]
fn subresources_keep_to_their_part() {
    run(async |_, client| {
        let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "image": "nginx"}]},
            "status": {"phase": "Running"},
        }))
        .unwrap();
        let made = pods.create(&PostParams::default(), &pod).await.unwrap();
        assert_eq!(made.status.unwrap().phase.as_deref(), Some("Pending"));
        let bind = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
                          "target": {"kind": "Node", "name": "node-1"}});
        let post = |body: &serde_json::Value| {
            http::Request::post("/api/v1/namespaces/default/pods/p/binding")
                .header("content-type", "application/json")
                .body(serde_json::to_vec(body).unwrap())
                .unwrap()
        };
        client.request_text(post(&bind)).await.unwrap();
        let (status, _, message) = code(client.request_text(post(&bind)).await.unwrap_err());
        assert_eq!(status, 409);
        assert!(message.contains("is already assigned to node \"node-1\""), "{message}");
        let patch =
            Patch::Merge(json!({"status": {"phase": "Running"}, "spec": {"nodeName": "x"}}));
        let pod = pods.patch_status("p", &PatchParams::default(), &patch).await.unwrap();
        assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Running"));
        assert_eq!(pod.spec.unwrap().node_name.as_deref(), Some("node-1"));
        let logs = pods.logs("p", &Default::default()).await.unwrap_err();
        assert_eq!(
            code(logs).2,
            "container \"c\" in pod \"p\" is waiting to start: ContainerCreating"
        );
    });
}

#[test]
fn users_come_by_certificate_or_token_and_nobody_else() {
    run(async |server, admin| {
        let me = |client: &Client| {
            let api: Api<SelfSubjectReview> = Api::all(client.clone());
            async move {
                let review =
                    api.create(&PostParams::default(), &SelfSubjectReview::default()).await?;
                Ok::<_, kube::Error>(review.status.unwrap().user_info.unwrap())
            }
        };
        let user = me(&admin).await.unwrap();
        assert_eq!(user.username.as_deref(), Some("kubernetes-admin"));
        assert!(user.groups.unwrap().contains(&"system:masters".to_owned()));

        let with_token = async |token: &str| {
            client(server, |config| {
                let auth = config.auth_infos[0].auth_info.as_mut().unwrap();
                auth.client_certificate_data = None;
                auth.client_key_data = None;
                auth.token = Some(token.to_owned().into());
            })
            .await
        };
        let static_user = with_token(TOKEN).await;
        assert_eq!(me(&static_user).await.unwrap().username.as_deref(), Some("token-user"));
        let (status, reason, _) = code(me(&with_token("wrong").await).await.unwrap_err());
        assert_eq!((status, &*reason), (401, "Unauthorized"));
        let anonymous = client(server, |config| {
            config.auth_infos[0].auth_info = Some(Default::default());
        })
        .await;
        assert_eq!(code(me(&anonymous).await.unwrap_err()).0, 401);
        let health = http::Request::get("/readyz?verbose").body(Vec::new()).unwrap();
        assert!(anonymous.request_text(health).await.unwrap().contains("readyz check passed"));

        let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), "default");
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "robot"}})).unwrap();
        accounts.create(&PostParams::default(), &account).await.unwrap();
        let request: TokenRequest =
            serde_json::from_value(json!({"metadata": {}, "spec": {"audiences": []}})).unwrap();
        let token = accounts
            .create_token_request("robot", &PostParams::default(), &request)
            .await
            .unwrap()
            .status
            .unwrap()
            .token
            .unwrap();
        let robot = with_token(&token).await;
        assert_eq!(
            me(&robot).await.unwrap().username.as_deref(),
            Some("system:serviceaccount:default:robot")
        );
        accounts.delete("robot", &DeleteParams::default()).await.unwrap();
        assert_eq!(code(me(&robot).await.unwrap_err()).0, 401);
    });
}

#[test]
fn the_api_itself_is_a_service() {
    run(async |_, client| {
        let services: Api<Service> = Api::namespaced(client.clone(), "default");
        let spec = services.get("kubernetes").await.unwrap().spec.unwrap();
        assert_eq!(spec.cluster_ip.as_deref(), Some("10.96.0.1"));
        assert_eq!(spec.ports.unwrap()[0].port, 443);
        let slices: Api<k8s_openapi::api::discovery::v1::EndpointSlice> =
            Api::namespaced(client.clone(), "default");
        let slice = slices.get("kubernetes").await.unwrap();
        assert_eq!(slice.endpoints.unwrap_or_default()[0].addresses, ["172.30.0.1"]);
        let huge = config_map("huge", &"x".repeat(4 << 20));
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let (status, _, message) =
            code(maps.create(&PostParams::default(), &huge).await.unwrap_err());
        assert_eq!((status, &*message), (413, "Request entity too large: limit is 3145728"));
        let protobuf = http::Request::post("/api/v1/namespaces/default/configmaps")
            .header("content-type", "application/cbor")
            .body(vec![0])
            .unwrap();
        assert_eq!(code(client.request_text(protobuf).await.unwrap_err()).0, 415);
        let missing = http::Request::get("/apis/apps/v1/daemonsets").body(Vec::new()).unwrap();
        assert_eq!(code(client.request_text(missing).await.unwrap_err()).0, 404);
    });
}
