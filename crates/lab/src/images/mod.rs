//! Images played by programs inside this binary.
//!
//! An image here is a name, the command a registry's image of that name would run, and the files it would bring; its root
//! is the host's own (see [`crate::container::rootfs`]). Any registry prefix and any tag is accepted for a known name.
//!
//! | module | room |
//! |---|---|
//! | [`httpd`] | `httpd`, `nginx`: static files |
//! | [`agnhost`] | `netexec`, `pause`, `serve-hostname`, `connect`, `porter` |
//! | [`applets`], [`dns`], [`ping`] | small programs a host may lack: `nslookup`, `nc`, `wget`, `ping` |
//! | [`serve`] | what the HTTP servers share: listening, keep-alive, graceful end |

pub mod agnhost;
pub mod applets;
pub mod dns;
pub mod httpd;
pub mod ping;
pub mod serve;

use std::path::{Path, PathBuf};

use crate::container::spec::PROGRAM_IN_CONTAINER;

/// One image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    name: &'static str,
    /// The program of this binary that is the entrypoint; `None` when the image has no entrypoint.
    entrypoint: Option<&'static str>,
    cmd: &'static [&'static str],
    files: &'static [(&'static str, &'static str)],
    /// Paths at which the program is found in the registry's image.
    links: &'static [&'static str],
}

const IMAGES: [Image; 5] = [
    Image {
        name: "httpd",
        entrypoint: None,
        cmd: &["httpd-foreground"],
        files: &[("/usr/local/apache2/htdocs/index.html", httpd::APACHE_PAGE)],
        links: &[
            "/usr/local/bin/httpd-foreground",
            "/usr/local/bin/httpd",
            "/usr/local/apache2/bin/httpd",
        ],
    },
    Image {
        name: "nginx",
        entrypoint: None,
        cmd: &["nginx", "-g", "daemon off;"],
        files: &[
            ("/usr/share/nginx/html/index.html", httpd::NGINX_PAGE),
            ("/usr/share/nginx/html/50x.html", httpd::NGINX_ERROR_PAGE),
        ],
        links: &["/usr/sbin/nginx"],
    },
    Image { name: "busybox", entrypoint: None, cmd: &["sh"], files: &[], links: &[] },
    Image {
        name: "agnhost",
        entrypoint: Some("agnhost"),
        cmd: &["pause"],
        files: &[],
        links: &["/agnhost", "/usr/local/bin/agnhost"],
    },
    Image { name: "pause", entrypoint: Some("pause"), cmd: &[], files: &[], links: &["/pause"] },
];

/// Programs that are put into every container's `PATH` when the host has none of the name.
const APPLETS: [&str; 4] = ["nslookup", "nc", "ping", "wget"];

/// There is no such image here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "image {reference:?} is not one the lab plays; there are {} (any tag, any registry), and their \
     command may be any program of the host",
    names()
)]
pub struct NoSuchImage {
    /// What was asked for.
    pub reference: String,
}

fn names() -> String {
    IMAGES.map(|i| i.name).join(", ")
}

/// The last path element of an image reference without tag and digest.
pub fn short_name(reference: &str) -> &str {
    let path = reference.split('@').next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    last.split(':').next().unwrap_or_default()
}

/// The image of this reference.
///
/// # Errors
/// It does not exist here; the error lists what does.
pub fn resolve(reference: &str) -> Result<Image, NoSuchImage> {
    let name = short_name(reference);
    IMAGES
        .into_iter()
        .find(|i| i.name == name)
        .ok_or_else(|| NoSuchImage { reference: reference.to_owned() })
}

impl Image {
    /// The command line for a container's `command` and `args`, by Kubernetes' rules: `command` replaces entrypoint and
    /// cmd, `args` replaces cmd. The path is set when `argv[0]` is only a name for a program of this binary.
    pub fn command(
        &self,
        command: Option<Vec<String>>,
        args: Option<Vec<String>>,
    ) -> (Vec<String>, Option<PathBuf>) {
        if let Some(mut argv) = command {
            argv.extend(args.into_iter().flatten());
            return (argv, None);
        }
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let mut argv: Vec<String> = self.entrypoint.iter().map(|e| (*e).to_owned()).collect();
        argv.extend(args.unwrap_or_else(|| own(self.cmd)));
        let ours = argv.first().is_some_and(|a| is_program(a))
            && (self.entrypoint.is_some()
                || self.cmd.first() == argv.first().map(String::as_str).as_ref());
        (argv, ours.then(|| PathBuf::from(PROGRAM_IN_CONTAINER)))
    }

    /// Files the image brings: path and contents.
    pub fn files(&self) -> Vec<(String, String)> {
        self.files.iter().map(|(p, t)| ((*p).to_owned(), (*t).to_owned())).collect()
    }

    /// Symbolic links the image brings: its own program's usual places, and applets the host lacks.
    pub fn links(&self) -> Vec<(String, String)> {
        let missing = APPLETS.into_iter().filter(|name| {
            !["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
                .iter()
                .any(|dir| Path::new(dir).join(name).exists())
        });
        let applets = missing.map(|name| format!("/usr/local/bin/{name}"));
        let own = self.links.iter().map(|l| (*l).to_owned());
        own.chain(applets).map(|path| (path, PROGRAM_IN_CONTAINER.to_owned())).collect()
    }
}

/// Whether this binary is that program when called by that name.
pub fn is_program(name: &str) -> bool {
    matches!(name, "httpd" | "httpd-foreground" | "nginx" | "agnhost" | "pause")
        || APPLETS.contains(&name)
}

/// Plays a program; its exit code.
pub fn run(name: &str, args: &[String]) -> i32 {
    match name {
        "httpd" | "httpd-foreground" => httpd::apache(args),
        "nginx" => httpd::nginx(args),
        "agnhost" => agnhost::main(args),
        "pause" => serve::pause(),
        "nslookup" => dns::main(args),
        "nc" => applets::nc(args),
        "wget" => applets::wget(args),
        "ping" => ping::main(args),
        _ => {
            let all = ["httpd", "nginx", "agnhost", "pause"].iter().chain(&APPLETS);
            let all = all.copied().collect::<Vec<_>>().join(", ");
            say(&format!("no program {name:?}; there are {all}"));
            2
        }
    }
}

/// A line to stderr; with nowhere to write to, it is lost.
pub(crate) fn say(line: &str) {
    use std::io::Write;
    match writeln!(std::io::stderr(), "{line}") {
        Ok(()) | Err(_) => {}
    }
}

/// Bytes to stdout; `false` when nobody reads any more.
pub(crate) fn print(bytes: &[u8]) -> bool {
    use std::io::Write;
    let mut out = std::io::stdout();
    out.write_all(bytes).and_then(|()| out.flush()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_registry_and_tag_is_the_same_image() {
        for reference in [
            "nginx",
            "nginx:1.25",
            "docker.io/library/nginx",
            "registry:5000/x/nginx:1@sha256:abc",
            "nginx@sha256:abc",
        ] {
            assert_eq!(resolve(reference).unwrap().name, "nginx", "{reference}");
        }
        assert_eq!(
            resolve("registry.k8s.io/e2e-test-images/agnhost:2.47").unwrap().name,
            "agnhost"
        );
        assert_eq!(resolve("registry.k8s.io/pause:3.10").unwrap().name, "pause");
    }

    #[test]
    fn another_image_says_what_exists() {
        let text = resolve("redis:7").unwrap_err().to_string();
        assert!(
            text.contains("\"redis:7\"") && text.contains("httpd, nginx, busybox, agnhost, pause")
        );
    }

    #[test]
    fn command_and_args_follow_kubernetes() {
        let own = |l: &[&str]| Some(l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let program = Some(PathBuf::from(PROGRAM_IN_CONTAINER));
        let agnhost = resolve("agnhost").unwrap();
        assert_eq!(
            agnhost.command(None, None),
            (own(&["agnhost", "pause"]).unwrap(), program.clone())
        );
        assert_eq!(
            agnhost.command(None, own(&["netexec", "--http-port=80"])),
            (own(&["agnhost", "netexec", "--http-port=80"]).unwrap(), program.clone())
        );
        assert_eq!(
            agnhost.command(own(&["sleep"]), own(&["5"])),
            (own(&["sleep", "5"]).unwrap(), None)
        );
        let busybox = resolve("busybox").unwrap();
        assert_eq!(busybox.command(None, None), (own(&["sh"]).unwrap(), None));
        assert_eq!(
            busybox.command(None, own(&["sleep", "1"])),
            (own(&["sleep", "1"]).unwrap(), None)
        );
        let httpd = resolve("httpd").unwrap();
        assert_eq!(httpd.command(None, None).1, program);
    }
}
