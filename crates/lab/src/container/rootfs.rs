//! Edge: the root of a container. An overlay of the host's `/` whose writes go to a tmpfs of the container's own; fresh
//! `/proc`, `/sys`, `/dev`, `/tmp` and `/run`; the pod's files and volumes bound in. Called by pid 1 of the new mount
//! namespace; nothing it does is seen outside, and everything goes away with the namespace.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
    mount_change, mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};

use super::spec::{ContainerSpec, Mount, PROGRAM_IN_CONTAINER};

const OLD: &str = ".fairway-old-root";
const NONE: Option<&std::ffi::CStr> = None;

/// A step of making the root failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {error}")]
pub struct RootError {
    step: String,
    error: io::Error,
}

fn at<T, E: Into<io::Error>>(
    step: impl Into<String>,
    result: Result<T, E>,
) -> Result<T, RootError> {
    result.map_err(|e| RootError { step: step.into(), error: e.into() })
}

/// Makes the root below `stage` (an empty directory) and moves into it.
///
/// # Errors
/// A mount is refused; the step says which, and for the overlay what the kernel lacks.
pub fn enter(spec: &ContainerSpec, stage: &Path) -> Result<(), RootError> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    at("make mounts private", mount_change("/", private))?;
    // sources are looked up while the host's links still mean what they mean there
    let mounts = spec.mounts.iter().map(resolve).collect::<Result<Vec<_>, _>>()?;
    let below = lower_mounts(stage);

    at("mount the container's tmpfs", {
        mount("tmpfs", stage, "tmpfs", MountFlags::empty(), Some(c"mode=755,size=1g"))
    })?;
    at("enter the container's tmpfs", chdir(stage))?;
    overlay(0, Path::new("/"), Path::new("root"))?;
    for (index, lower) in below.iter().enumerate() {
        // a file system of its own under the host's root (a separate /usr or /home): the same again
        let target = Path::new("root").join(lower.strip_prefix("/").unwrap_or(lower));
        overlay(index + 1, lower, &target)?;
    }
    system_mounts(Path::new("root"))?;
    let program = Path::new("root").join(PROGRAM_IN_CONTAINER.trim_start_matches('/'));
    at("place the image program", place_program(&program))?;

    let old = Path::new("root").join(OLD);
    at("make the old root's place", fs::create_dir(&old))?;
    at("pivot_root", pivot_root("root", &old))?;
    at("enter the new root", chdir("/"))?;
    at("write the image's files", image_files(spec))?;
    for (source, mount) in &mounts {
        let step = format!("mount {} on {}", mount.source.display(), mount.target.display());
        at(step, bind(source, mount))?;
    }
    let old = Path::new("/").join(OLD);
    at("drop the old root", unmount(&old, UnmountFlags::DETACH))?;
    at("remove the old root's place", fs::remove_dir(&old))?;
    if !Path::new(&spec.cwd).is_dir() {
        at("make the working directory", fs::create_dir_all(&spec.cwd))?;
    }
    if spec.read_only_root {
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        at("make the root read-only", mount_remount("/", flags, c""))?;
    }
    Ok(())
}

fn resolve(mount: &Mount) -> Result<(PathBuf, &Mount), RootError> {
    let source =
        at(format!("volume source {}", mount.source.display()), fs::canonicalize(&mount.source))?;
    let inside = source.strip_prefix("/").unwrap_or(&source);
    Ok((Path::new("/").join(OLD).join(inside), mount))
}

fn overlay(index: usize, lower: &Path, target: &Path) -> Result<(), RootError> {
    let (upper, work) = (format!("upper{index}"), format!("work{index}"));
    at("make the overlay's directories", {
        fs::create_dir_all(&upper)
            .and_then(|()| fs::create_dir_all(&work))
            .and_then(|()| fs::create_dir_all(target))
    })?;
    let lower =
        lower.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,");
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let options =
        at("name the overlay's layers", std::ffi::CString::new(options).map_err(io::Error::other))?;
    mount("overlay", target, "overlay", MountFlags::empty(), Some(options.as_c_str())).map_err(|e| {
        let error = io::Error::from(e);
        let step = if e == rustix::io::Errno::NODEV {
            "this kernel has no overlayfs (modprobe overlay, or CONFIG_OVERLAY_FS), which every container's root needs"
        } else {
            "mount the container's root (overlayfs)"
        };
        RootError { step: step.into(), error }
    })
}

/// Mount points of real file systems under `/` that the root's overlay would leave empty.
fn lower_mounts(stage: &Path) -> Vec<PathBuf> {
    const SKIP: [&str; 6] = ["/proc", "/sys", "/dev", "/run", "/tmp", "/boot"];
    const REAL: [&str; 9] =
        ["ext4", "ext3", "ext2", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "overlay"];
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = info
        .lines()
        .filter_map(|line| {
            let (head, tail) = line.split_once(" - ")?;
            let point = PathBuf::from(head.split(' ').nth(4)?.replace("\\040", " "));
            let kind = tail.split(' ').next()?;
            let wanted = REAL.contains(&kind)
                && point != Path::new("/")
                && !SKIP.iter().any(|s| point.starts_with(s))
                && !point.starts_with(stage)
                && !stage.starts_with(&point)
                && point.is_dir();
            wanted.then_some(point)
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

fn system_mounts(root: &Path) -> Result<(), RootError> {
    let hard = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    for dir in ["proc", "sys", "dev", "tmp", "run"] {
        let path = root.join(dir);
        if !path.is_dir() {
            at(format!("make /{dir}"), fs::create_dir(&path))?;
        }
    }
    at("mount /proc", mount("proc", root.join("proc"), "proc", hard, NONE))?;
    for fixed in ["proc/sys", "proc/sysrq-trigger"] {
        let path = root.join(fixed);
        // kernel-wide settings are the host's, not a container's
        if path.exists() {
            at("bind /proc/sys", mount_bind(&path, &path))?;
            at(
                "protect /proc/sys",
                mount_remount(&path, MountFlags::BIND | MountFlags::RDONLY, c""),
            )?;
        }
    }
    at("mount /sys", mount("sysfs", root.join("sys"), "sysfs", hard | MountFlags::RDONLY, NONE))?;
    let dev = root.join("dev");
    at(
        "mount /dev",
        mount("tmpfs", &dev, "tmpfs", MountFlags::NOSUID, Some(c"mode=755,size=64k")),
    )?;
    for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
        at(format!("make /dev/{name}"), device(&dev.join(name), 1, minor))?;
    }
    at("make /dev/tty", device(&dev.join("tty"), 5, 0))?;
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        at(format!("make /dev/{name}"), symlink(target, dev.join(name)))?;
    }
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
    at("make /dev/pts", fs::create_dir(dev.join("pts")))?;
    let pts = Some(c"newinstance,ptmxmode=0666,mode=0620");
    at("mount /dev/pts", mount("devpts", dev.join("pts"), "devpts", quiet, pts))?;
    at("make /dev/shm", fs::create_dir(dev.join("shm")))?;
    let shm = Some(c"mode=1777,size=64m");
    at("mount /dev/shm", mount("tmpfs", dev.join("shm"), "tmpfs", hard, shm))?;
    let open = MountFlags::NOSUID | MountFlags::NODEV;
    let temp = Some(c"mode=1777,size=256m");
    at("mount /tmp", mount("tmpfs", root.join("tmp"), "tmpfs", open, temp))?;
    at("mount /run", mount("tmpfs", root.join("run"), "tmpfs", open, Some(c"mode=755,size=64m")))?;
    Ok(())
}

fn device(path: &Path, major: u32, minor: u32) -> io::Result<()> {
    mknodat(
        CWD,
        path,
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        makedev(major, minor),
    )?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
}

fn image_files(spec: &ContainerSpec) -> io::Result<()> {
    let parent = |path: &str| Path::new(path).parent().map_or(Ok(()), fs::create_dir_all);
    for (path, contents) in &spec.files {
        parent(path)?;
        fs::write(path, contents)?;
    }
    for (path, target) in &spec.links {
        parent(path)?;
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => symlink(target, path)?,
        }
    }
    Ok(())
}

fn bind(source: &Path, to: &Mount) -> io::Result<()> {
    if source.is_dir() {
        fs::create_dir_all(&to.target)?;
        mount_bind_recursive(source, &to.target)?;
    } else {
        bind_file(source, &to.target)?;
    }
    if to.read_only {
        mount_remount(&to.target, MountFlags::BIND | MountFlags::RDONLY, c"")?;
    }
    Ok(())
}

/// Binds this binary into the root. It is bound by its path: `/proc/self/exe` itself belongs to the mount namespace this
/// process came from, which the kernel refuses. A binary that was replaced meanwhile is copied.
fn place_program(target: &Path) -> io::Result<()> {
    let path = fs::read_link("/proc/self/exe")?;
    if path.exists() {
        return bind_file(&path, target);
    }
    fs::copy("/proc/self/exe", target)?;
    fs::set_permissions(target, fs::Permissions::from_mode(0o755))
}

fn bind_file(source: &Path, target: &Path) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    // a dangling link (a host's /etc/resolv.conf into /run) would be followed into nowhere: the container gets a file
    if fs::symlink_metadata(target).is_ok_and(|m| m.is_symlink()) && !target.exists() {
        fs::remove_file(target)?;
    }
    if !target.exists() {
        fs::File::create(target)?;
    }
    Ok(mount_bind(source, target)?)
}
