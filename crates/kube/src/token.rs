//! The bearer token of a service account, read again for every request: the kubelet replaces the file before the token ends,
//! requests are few, and no clock has to be trusted.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};

/// What any layer of a client may fail with.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Adds the token of a file, if there is one, to each request.
#[derive(Clone, Debug)]
pub(crate) struct WithToken<S> {
    inner: S,
    file: Option<Arc<Path>>,
}

impl<S> WithToken<S> {
    pub(crate) fn new(inner: S, file: Option<PathBuf>) -> Self {
        Self { inner, file: file.map(Into::into) }
    }
}

impl<S, B> tower_service::Service<Request<B>> for WithToken<S>
where
    S: tower_service::Service<Request<B>, Error: Into<BoxError>, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(file) = &self.file {
            match header(file) {
                Ok(value) => drop(request.headers_mut().insert(AUTHORIZATION, value)),
                // The server's 401 is retried like any failure; the log says what is behind it.
                Err(why) => {
                    tracing::warn!(file = %file.display(), why, "no token for the API");
                }
            }
        }
        let answer = self.inner.call(request);
        Box::pin(async move { answer.await.map_err(Into::into) })
    }
}

fn header(file: &Path) -> Result<HeaderValue, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", text.trim()))
        .map_err(|_| "it is no text for a header".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}
