//! Netlink subscriptions as something the runtime can wait for.
#![allow(unsafe_code, reason = "the runtime must be promised that a descriptor stays what it is")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nft::kernel::{Change, Watch};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a subscription with the runtime.
pub(crate) fn readable<T: AsFd + AsRawFd>(subscription: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the subscriptions of `nft` and `link` own one socket from their making to their end: `as_raw_fd` gives the
    // same open descriptor all the while, and AsyncFd owns the subscription.
    unsafe { AsyncFd::register_with_interest(subscription, Interest::READABLE) }
        .map_err(io::Error::from)
}

/// Waits until there are events, and says what they are; for ever while nobody listens.
pub(crate) async fn events(watch: &mut Option<AsyncFd<Watch>>) -> io::Result<Change> {
    let Some(watch) = watch else { return std::future::pending().await };
    let mut guard = watch.readable_mut().await?;
    let change = guard.get_inner_mut().read()?;
    guard.clear_ready();
    Ok(change)
}
