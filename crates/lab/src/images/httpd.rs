//! `httpd` and `nginx`: static files on port 80, read anew for every request so that a changed page shows at once.

use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use jiff::Timestamp;

use super::serve::{self, Answer, answer};
use super::{print, say};
use crate::runner::server::decode;

/// Apache's page.
pub const APACHE_PAGE: &str = "<html><body><h1>It works!</h1></body></html>\n";

/// nginx's page.
pub const NGINX_PAGE: &str = r#"<!DOCTYPE html>
<html>
<head>
<title>Welcome to nginx!</title>
<style>
html { color-scheme: light dark; }
body { width: 35em; margin: 0 auto; font-family: Tahoma, Verdana, Arial, sans-serif; }
</style>
</head>
<body>
<h1>Welcome to nginx!</h1>
<p>If you see this page, the web server of this lab's pod is working.</p>
</body>
</html>
"#;

/// nginx's error page.
pub const NGINX_ERROR_PAGE: &str = "<!DOCTYPE html>\n<html>\n<head><title>Error</title></head>\n<body>\n<h1>An error occurred.</h1>\n</body>\n</html>\n";

const MAX_FILE: u64 = 64 << 20;

struct Site {
    root: PathBuf,
    server: &'static str,
    error_page: fn(StatusCode) -> String,
}

/// Plays `httpd`; arguments are taken and not looked at.
pub(super) fn apache(_args: &[String]) -> i32 {
    let error_page = |status: StatusCode| {
        let text = status.canonical_reason().unwrap_or("Error");
        format!(
            "<!DOCTYPE HTML PUBLIC \"-//IETF//DTD HTML 2.0//EN\">\n<html><head>\n<title>{} {text}</title>\n\
             </head><body>\n<h1>{text}</h1>\n</body></html>\n",
            status.as_u16()
        )
    };
    let site = Site {
        root: "/usr/local/apache2/htdocs".into(),
        server: "Apache/2.4 (Fairway)",
        error_page,
    };
    serve::block_on(run(site))
}

/// Plays `nginx`; arguments are taken and not looked at, except `-v` and `-t`.
pub(super) fn nginx(args: &[String]) -> i32 {
    match args.first().map(String::as_str) {
        Some("-v" | "-V") => {
            say("nginx version: nginx/fairway");
            return 0;
        }
        Some("-t") => {
            say("nginx: the configuration is built in; test is successful");
            return 0;
        }
        Some("-s") => {
            say("nginx: signals are not served; changed files show at once");
            return 0;
        }
        _ => {}
    }
    let error_page = |status: StatusCode| {
        let title = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or("Error"));
        format!(
            "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n\
             <hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
        )
    };
    let site = Site { root: "/usr/share/nginx/html".into(), server: "nginx/fairway", error_page };
    serve::block_on(run(site))
}

async fn run(site: Site) -> i32 {
    let stop = match serve::stop_signal() {
        Ok(stop) => stop,
        Err(error) => {
            say(&format!("cannot wait for signals: {error}"));
            return 1;
        }
    };
    let listener = match serve::listen(80).await {
        Ok(listener) => listener,
        Err(error) => {
            say(&format!("bind() to [::]:80 failed ({error})"));
            return 1;
        }
    };
    let site = Rc::new(site);
    let handler = move |request: Request<Incoming>, peer: std::net::SocketAddr, _| {
        let site = site.clone();
        async move {
            let response = site.answer(&request);
            site.log(&request, peer, &response);
            response
        }
    };
    serve::http(listener, stop, Rc::new(handler)).await;
    0
}

impl Site {
    fn answer(&self, request: &Request<Incoming>) -> Answer {
        let mut response = self.page(request.method(), request.uri().path());
        let server = header::HeaderValue::from_static(self.server);
        response.headers_mut().insert(header::SERVER, server);
        response
    }

    fn page(&self, method: &Method, path: &str) -> Answer {
        if method != Method::GET && method != Method::HEAD {
            return self.error(StatusCode::METHOD_NOT_ALLOWED);
        }
        let Some(mut file) = inside(&self.root, &decode(path)) else {
            return self.error(StatusCode::BAD_REQUEST);
        };
        if file.is_dir() {
            file.push("index.html");
        }
        let Ok(meta) = std::fs::metadata(&file) else {
            return self.error(StatusCode::NOT_FOUND);
        };
        if !meta.is_file() || meta.len() > MAX_FILE {
            return self.error(StatusCode::FORBIDDEN);
        }
        match std::fs::read(&file) {
            Ok(bytes) => {
                let mut response = answer(StatusCode::OK, kind(&file), bytes);
                if method == Method::HEAD {
                    // the server drops the body itself and keeps its length
                    let length = header::HeaderValue::from(meta.len());
                    response.headers_mut().insert(header::CONTENT_LENGTH, length);
                    *response.body_mut() = Full::new(Bytes::new());
                }
                response
            }
            Err(_) => self.error(StatusCode::FORBIDDEN),
        }
    }

    fn error(&self, status: StatusCode) -> Answer {
        answer(status, "text/html", (self.error_page)(status))
    }

    /// The access log in the common form, as both servers write it to stdout.
    fn log(&self, request: &Request<Incoming>, peer: std::net::SocketAddr, response: &Answer) {
        use hyper::body::Body;
        let size = response.body().size_hint().exact().unwrap_or_default();
        let agent = request.headers().get(header::USER_AGENT);
        let agent = agent.and_then(|a| a.to_str().ok()).unwrap_or("-");
        let line = format!(
            "{} - - [{}] \"{} {} {:?}\" {} {size} \"-\" \"{agent}\"\n",
            peer.ip(),
            Timestamp::now().strftime("%d/%b/%Y:%H:%M:%S +0000"),
            request.method(),
            request.uri(),
            request.version(),
            response.status().as_u16(),
        );
        // a full disk or a closed pipe costs log lines only
        if !print(line.as_bytes()) {
            tracing::trace!("nobody reads the access log");
        }
    }
}

/// The file below the root a request path names; `None` when it would leave it.
fn inside(root: &Path, path: &str) -> Option<PathBuf> {
    let path = Path::new(path.trim_start_matches('/'));
    let tame = path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    (tame && !path.to_string_lossy().contains('\0')).then(|| root.join(path))
}

fn kind(path: &Path) -> &'static str {
    match path.extension().and_then(|e| e.to_str()) {
        Some("html" | "htm") => "text/html",
        Some("css") => "text/css",
        Some("js") => "application/javascript",
        Some("json") => "application/json",
        Some("txt") => "text/plain",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_never_leaves_the_root() {
        let root = Path::new("/srv");
        assert_eq!(inside(root, "/a/b.html"), Some("/srv/a/b.html".into()));
        assert_eq!(inside(root, "/"), Some("/srv/".into()));
        assert_eq!(inside(root, "/../etc/passwd"), None);
        assert_eq!(inside(root, "//etc/passwd"), Some("/srv/etc/passwd".into()));
        assert_eq!(inside(root, "/a/../../x"), None);
    }
}
