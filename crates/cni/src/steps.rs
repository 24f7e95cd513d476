//! What the plugins share in talking to the kernel: errors with the step they happened in, removals
//! that find nothing, settings, several errors as one.

use link::kernel::{Netlink, NetlinkError, Refusal};
use link::sysctl::{self, SysctlError};
use link::{Change, Link};

use crate::CniError;
use crate::attachment::ALIAS_PREFIX;

/// The error of a step the kernel refused.
pub(crate) fn kernel(step: &'static str) -> impl FnOnce(NetlinkError) -> CniError {
    move |source| CniError::Kernel { step, source }
}

/// The error of a link that was there a moment ago.
pub(crate) fn gone(link: &str) -> CniError {
    let change = format!("ip link show {link}");
    let refusal = Refusal { at: 0, change, errno: libc::ENODEV, text: None };
    CniError::Kernel { step: "find the new link", source: NetlinkError::Refused(vec![refusal]) }
}

/// A removal of what is not there has done its work.
pub(crate) fn missing_is_fine(removed: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match removed {
        Err(NetlinkError::Refused(refusals)) => {
            let real: Vec<_> = refusals.into_iter().filter(|r| !r.is_missing()).collect();
            if real.is_empty() { Ok(()) } else { Err(NetlinkError::Refused(real)) }
        }
        other => other,
    }
}

/// One error as it is, several as a list.
pub(crate) fn one(mut errors: Vec<CniError>) -> CniError {
    if errors.len() == 1 { errors.remove(0) } else { CniError::Several { errors } }
}

/// Nothing went wrong, or all that did.
pub(crate) fn all(errors: Vec<CniError>) -> Result<(), CniError> {
    if errors.is_empty() { Ok(()) } else { Err(one(errors)) }
}

/// The answer of CHECK: nothing is different, or all that is.
pub(crate) fn agree(differences: Vec<String>) -> Result<(), CniError> {
    if differences.is_empty() { Ok(()) } else { Err(CniError::Check { differences }) }
}

/// Makes settings of the calling thread's namespace, for an interface named in the error.
pub(crate) fn ensure(interface: &str, settings: &[(String, &str)]) -> Result<(), CniError> {
    for (name, value) in settings {
        sysctl::ensure(name, value)
            .map_err(|source| CniError::Sysctl { interface: interface.to_owned(), source })?;
    }
    Ok(())
}

/// The same where the kernel may be without the setting, which is fine: what it would switch is not
/// there either.
pub(crate) fn ensure_where_known(
    interface: &str,
    settings: &[(String, &str)],
) -> Result<(), CniError> {
    for (name, value) in settings {
        match sysctl::ensure(name, value) {
            Ok(_) | Err(SysctlError::NotFound { .. }) => {}
            Err(source) => {
                return Err(CniError::Sysctl { interface: interface.to_owned(), source });
            }
        }
    }
    Ok(())
}

/// A link with our alias.
pub(crate) fn is_ours(link: &Link) -> bool {
    link.alias.as_deref().is_some_and(|alias| alias.starts_with(ALIAS_PREFIX))
}

/// Removes a link of the node; gone already is fine. Returns when nobody sees it any more.
pub(crate) fn remove_link(node: &mut Netlink, link: &Link) -> Result<(), CniError> {
    missing_is_fine(node.remove_link(link)).map_err(kernel("remove the pod's link"))
}

/// Removes several links at once; gone already is fine.
pub(crate) fn remove_links(node: &mut Netlink, links: &[&Link]) -> Result<(), CniError> {
    let removals: Vec<Change<'_>> =
        links.iter().map(|link| Change::DeleteLink((*link).into())).collect();
    missing_is_fine(node.apply(&removals)).map_err(kernel("remove leaked links"))
}

/// Makes links that have just got their carrier able to send. The kernel puts that off to a worker,
/// and drops what is sent before; being asked about a link it does it at once (`linkwatch_sync_dev` in
/// `rtnl_getlink`).
pub(crate) fn settle(node: &mut Netlink, links: &[&Link]) -> Result<(), CniError> {
    for link in links {
        node.link(link.index).map_err(kernel("look at the new link"))?;
    }
    Ok(())
}
