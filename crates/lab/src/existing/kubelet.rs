//! Edge: the kubelets' door for an API server on this machine, which cannot reach into the lab's network: one TLS port on
//! the host's loopback per node, relayed to the node's pod runner.
//!
//! Served is `GET /containerLogs/…` (`kubectl logs`). exec, attach and port-forward are not: the API server speaks SPDY to
//! kubelets. A caller must show a certificate of the cluster's client authority, and the cluster must let its user
//! `get nodes/proxy` of that node, as a kubelet asks (authentication by x509, authorization by SubjectAccessReview).
//!
//! Tasks: one per node, which owns those of its connections.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use apiserver::auth::{Authority, User};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

/// Time a caller has for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

type Body = BoxBody<Bytes, hyper::Error>;

/// What may open the doors: the certificates of the cluster's client authority.
///
/// # Errors
/// When the API does not answer, or publishes none.
pub async fn client_authority(client: &Client) -> anyhow::Result<String> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let published = maps.get_opt("extension-apiserver-authentication").await?;
    published
        .and_then(|map| map.data?.remove("client-ca-file"))
        .context("the cluster publishes no client authority (kube-system/extension-apiserver-authentication)")
}

/// One node's door.
pub struct Door {
    listener: TcpListener,
    tls: TlsAcceptor,
    node: String,
    /// The node's pod runner.
    socket: PathBuf,
    client: Client,
}

impl Door {
    /// Listens for one node; nothing is served until [`Door::run`].
    ///
    /// # Errors
    /// When no port or no certificate can be had.
    pub async fn of(
        node: &str,
        socket: &Path,
        clients_pem: &str,
        client: &Client,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let tls = Authority::generate()?
            .server_tls_for_clients_of(clients_pem, &[Ipv4Addr::LOCALHOST.into()])?;
        Ok(Self {
            listener,
            tls: TlsAcceptor::from(Arc::new(tls)),
            node: node.to_owned(),
            socket: socket.to_owned(),
            client: client.clone(),
        })
    }

    /// Where it is.
    ///
    /// # Errors
    /// As the kernel's.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until cancelled.
    pub async fn run(self) {
        let door = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = door.listener.accept() => match accepted {
                    Ok((stream, _)) => drop(connections.spawn(Arc::clone(&door).serve(stream))),
                    Err(error) => {
                        warn!(%error, node = door.node, "a caller of the kubelet could not be accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let stream = match tokio::time::timeout(HANDSHAKE, self.tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                return warn!(%error, node = self.node, "a caller of the kubelet shows no certificate of the cluster");
            }
            Err(_) => return,
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let Some(user) = shown.and_then(|certificate| User::of_certificate(certificate)) else {
            return;
        };
        let service = service_fn(move |request| {
            let (door, user) = (Arc::clone(&self), user.clone());
            async move { Ok::<_, Infallible>(door.answer(&user, &request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new();
        if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
            debug!(%error, "a caller of the kubelet went away");
        }
    }

    async fn answer(&self, user: &User, request: &Request<Incoming>) -> Response<Body> {
        if request.method() != Method::GET || !request.uri().path().starts_with("/containerLogs/") {
            let text = "a lab's node serves only logs to the API server of an existing cluster; \
                        `fairway lab exec pod/NAMESPACE/NAME -- COMMAND` runs something beside a pod";
            return plain(StatusCode::NOT_IMPLEMENTED, text);
        }
        match self.allowed(user).await {
            Ok(true) => {}
            Ok(false) => {
                let text = format!("{} may not get nodes/proxy of {}", user.name, self.node);
                return plain(StatusCode::FORBIDDEN, text);
            }
            Err(error) => {
                let text = format!("the cluster does not say what {} may: {error:#}", user.name);
                return plain(StatusCode::INTERNAL_SERVER_ERROR, text);
            }
        }
        match self.forward(request).await {
            Ok(response) => response,
            Err(error) => plain(StatusCode::BAD_GATEWAY, format!("the pod runner: {error:#}")),
        }
    }

    async fn allowed(&self, user: &User) -> anyhow::Result<bool> {
        let review = SubjectAccessReview {
            metadata: ObjectMeta::default(),
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some("get".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some("proxy".to_owned()),
                    name: Some(self.node.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            status: None,
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    async fn forward(&self, request: &Request<Incoming>) -> anyhow::Result<Response<Body>> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut runner, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection to the pod runner ended");
            }
        });
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let onward = Request::get(path).header(http::header::HOST, "runner");
        let response = runner.send_request(onward.body(Empty::<Bytes>::new())?).await?;
        Ok(response.map(BodyExt::boxed))
    }
}

fn plain(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let body = Full::new(Bytes::from(text.into())).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}
