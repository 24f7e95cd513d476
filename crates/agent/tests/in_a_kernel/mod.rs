//! Runs a test of this program again in a machine of its own: Debian's kernel, which has what the running one may lack, in QEMU by
//! software emulation. In it are this program, busybox, the programs named below and the libraries all of them need.
//!
//! `tools/install test` unpacks the kernel and QEMU (`target/tools/kernel`, `target/tools/qemu`). The machine has no disk and no network of
//! the outside; it is told by the kernel's command line what to do, says everything on its serial line, and ends with the test.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "each test binary uses its part, fails by panicking and says why"
)]

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Set in the machine.
const INSIDE: &str = "FAIRWAY_IN_A_KERNEL";
/// What the machine has beside busybox, whose shell would take its own small `ip` before the real one.
const PROGRAMS: [&str; 4] = ["sh", "ip", "bridge", "modprobe"];
/// Parts of the kernel's modules that are packed: what networks are made of, and what that needs.
const MODULES: [&str; 3] = ["kernel/net", "kernel/lib", "kernel/drivers/net"];
/// Megabytes of memory; the files live in it.
const MEMORY: &str = "1024";
/// A machine that is not done by then is stopped.
const LIMIT: Duration = Duration::from_secs(240);
/// An emulated kernel locks up now and then (seen once in four runs with two processors): then there is no verdict of
/// the test, and another machine is booted, so many in all.
const MACHINES: usize = 3;

/// The kernel and its modules, unpacked.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
    version: String,
}

/// Where `tools/install` unpacks.
fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools")
}

/// QEMU, installed or unpacked; an unpacked one looks for its parts beside itself, but for libraries.
fn qemu() -> Option<Command> {
    if let Some(installed) = find("qemu-system-x86_64") {
        return Some(Command::new(installed));
    }
    let unpacked = tools().join("qemu").canonicalize().ok()?;
    let program = unpacked.join("usr/bin/qemu-system-x86_64");
    let mut command = Command::new(&program);
    let libraries = ["usr/lib", "lib"].map(|dir| unpacked.join(dir).join("x86_64-linux-gnu"));
    command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries).ok()?);
    for part in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(unpacked.join(part));
    }
    program.exists().then_some(command)
}

impl Kernel {
    fn find() -> Option<Self> {
        let root = tools().join("kernel");
        let images = fs::read_dir(root.join("boot")).ok()?.flatten().map(|it| it.path());
        images.into_iter().find_map(|image| {
            let name = image.file_name()?.to_str()?.to_owned();
            let version = name.strip_prefix("vmlinuz-")?.to_owned();
            let modules = root.join("lib/modules").join(&version);
            modules.join("modules.dep").exists().then_some(Self { image, modules, version })
        })
    }
}

/// Whether this is the machine. Else the machine is booted with the same test, which must pass there.
pub fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let missing = missing();
    let Some(kernel) = Kernel::find().filter(|_| missing.is_empty()) else {
        let strict = ["CI", "FAIRWAY_REQUIRE_ALL"].iter().any(|it| std::env::var_os(it).is_some());
        let said = format!("needs root, target/tools/kernel and {missing:?} (tools/install test)");
        assert!(!strict, "{said}");
        println!("SKIP: {said}");
        return false;
    };
    let work = Work::new();
    let began = Instant::now();
    let initrd = pack(&kernel, test, &work.0);
    println!("packed in {:?}, {} MiB", began.elapsed(), fs::metadata(&initrd).unwrap().len() >> 20);
    let mut said = String::new();
    for machine in 1..=MACHINES {
        said = boot(&kernel, &initrd);
        println!("{said}\nmachine {machine}; {:?} since the first was packed", began.elapsed());
        if said.contains("@ended") {
            break;
        }
    }
    assert!(said.contains("@ended 0"), "the test did not pass in the machine");
    // A name that fits no test would pass, too.
    assert!(said.contains("1 passed"), "the machine found no test {test}");
    false
}

struct Work(PathBuf);

impl Work {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("fwkernel-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn find(program: &str) -> Option<PathBuf> {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.exists())
}

fn missing() -> Vec<&'static str> {
    let all = PROGRAMS.into_iter().chain(["busybox", "ldd"]);
    let mut missing: Vec<_> = all.filter(|program| find(program).is_none()).collect();
    missing.extend(qemu().is_none().then_some("qemu-system-x86_64"));
    missing
}

/// What runs first in the machine.
fn script(test: &str) -> String {
    format!(
        "#!/bin/sh
export PATH=/bin
mount -t devtmpfs none /dev
exec </dev/console >/dev/console 2>&1
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tmpfs none /run
mount -t tmpfs none /tmp
ip link set lo up
export {INSIDE}=1 FAIRWAY_REQUIRE_ALL=1
cd /tmp
/bin/test-program --exact {test} --nocapture
echo \"@ended $?\"
reboot -f
"
    )
}

/// The machine's files as one archive.
fn pack(kernel: &Kernel, test: &str, work: &Path) -> PathBuf {
    let root = work.join("root");
    let bin = root.join("bin");
    for dir in ["bin", "sbin", "dev", "proc", "sys", "run", "tmp", "etc"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    copy(&find("busybox").unwrap(), &bin.join("busybox"));
    let applets = Command::new("busybox").arg("--list").output().unwrap().stdout;
    let applets = String::from_utf8_lossy(&applets).into_owned();
    for applet in applets.lines().filter(|it| *it != "busybox" && !PROGRAMS.contains(it)) {
        symlink("busybox", bin.join(applet)).unwrap();
    }
    for program in PROGRAMS {
        let from = find(program).unwrap();
        copy(&from, &bin.join(program));
        libraries(&from, &root);
    }
    // Where the kernel looks for it, to load what is asked for and not there yet.
    symlink("/bin/modprobe", root.join("sbin/modprobe")).unwrap();
    let own = std::env::current_exe().unwrap();
    libraries(&own, &root);
    let program = bin.join("test-program");
    let stripped = Command::new("strip").arg("-o").arg(&program).arg(&own).status();
    if !stripped.is_ok_and(|status| status.success()) {
        copy(&own, &program);
    }
    let to = root.join("lib/modules").join(&kernel.version);
    for part in MODULES {
        copy_tree(&kernel.modules.join(part), &to.join(part));
    }
    for list in fs::read_dir(&kernel.modules).unwrap().flatten() {
        if list.file_name().to_string_lossy().starts_with("modules.") {
            copy(&list.path(), &to.join(list.file_name()));
        }
    }
    let init = root.join("init");
    fs::write(&init, script(test)).unwrap();
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
    let archive = work.join("initrd");
    let packed = Command::new("sh")
        .args(["-ec", "find . | busybox cpio -o -H newc > \"$0\" 2>/dev/null"])
        .arg(&archive)
        .current_dir(&root)
        .status()
        .unwrap();
    assert!(packed.success(), "busybox cpio");
    archive
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() { copy_tree(&path, &to) } else { copy(&path, &to) }
    }
}

/// Copies the libraries a program is linked with to where they are here.
fn libraries(program: &Path, root: &Path) {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for path in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(path.trim_start_matches('/'));
        if !to.exists() {
            copy(Path::new(path), &to);
        }
    }
}

/// Ends with the machine, however the test ends.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs the machine to its end; what it said on its serial line.
fn boot(kernel: &Kernel, initrd: &Path) -> String {
    let mut command = qemu().unwrap();
    command
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
        .args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", MEMORY])
        .args(["-serial", "stdio", "-monitor", "none"])
        .args(["-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on mitigations=off"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initrd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut machine = Machine(command.spawn().unwrap());
    let mut line = machine.0.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        line.read_to_end(&mut said).unwrap();
        String::from_utf8_lossy(&said).replace('\r', "")
    });
    let until = Instant::now() + LIMIT;
    while machine.0.try_wait().unwrap().is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(machine);
    reader.join().unwrap()
}
