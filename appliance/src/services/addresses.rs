//! Service addresses: raised, announced, renewed and given up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use replication::shell::LeaseCell;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::{Inner, Services};
use crate::clock;
use crate::config::address::Cidr;
use crate::config::cluster::Address;
use crate::network::{self, LIFETIME_SECONDS};

/// Law T5: how often and how long a new place of an address is announced.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(200);
const ANNOUNCEMENTS: u32 = 25;
/// How often a port that somebody still holds is tried again, and how long.
const BIND_AGAIN: Duration = Duration::from_millis(50);
const BIND_TRIES: u32 = 40;
/// How often an address that could not be served is tried again.
const MISSING_AGAIN_NS: u64 = 2_000_000_000;

/// An address this box serves.
pub(super) struct Held {
    pub(super) tag: u16,
    renewal_failed: bool,
    serving: AbortHandle,
    announcing: AbortHandle,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.serving.abort();
        self.announcing.abort();
    }
}

impl Services {
    /// Addresses served here now.
    #[must_use]
    pub(crate) fn held(&self) -> Vec<Cidr> {
        self.inner.held.borrow().keys().copied().collect()
    }

    /// Raises, at once and side by side, each address that is wanted here and not served. One that
    /// fails keeps no other down: it is told, and tried again.
    pub(super) async fn raise_missing(&self) {
        if !self.inner.serving.get() {
            return;
        }
        let now = clock::boot_ns();
        let wanted = self.inner.cluster.borrow().addresses.clone();
        let mut raising = tokio::task::JoinSet::new();
        for address in wanted {
            let cidr = address.cidr;
            let waits = self.inner.missing.borrow().get(&cidr).copied();
            if waits.is_none_or(|at| at <= now) {
                let services = self.clone();
                raising.spawn_local(async move { services.inner.raise_or_tell(&address).await });
            }
        }
        raising.join_all().await;
    }

    /// Says again on every segment where the addresses are: the other box, heard again after a
    /// silence, may have said otherwise meanwhile (law T5).
    pub(crate) fn announce(&self) {
        for (cidr, held) in self.inner.held.borrow_mut().iter_mut() {
            let task = tokio::task::spawn_local(announce(*cidr, self.inner.lease.clone()));
            held.announcing.abort();
            held.announcing = task.abort_handle();
        }
    }

    /// Takes away every address whose portal was closed.
    pub(crate) async fn leave(&self) {
        loop {
            let cidr = self.inner.leaving.borrow_mut().pop_first();
            let Some(cidr) = cidr else { return };
            self.inner.release(cidr).await;
        }
    }

    /// Renews the kernel lifetime of every address; called while the lease holds. A failure is
    /// told when it begins, not each time.
    pub(crate) async fn renew(&self) {
        for cidr in self.held() {
            let renewed = self.inner.addresses.hold(cidr).await;
            let mut held = self.inner.held.borrow_mut();
            let Some(held) = held.get_mut(&cidr) else {
                continue;
            };
            let failed_before = std::mem::replace(&mut held.renewal_failed, renewed.is_err());
            if let (Err(error), false) = (renewed, failed_before) {
                self.inner.events.add(format!(
                    "service address {cidr} cannot be renewed: {error}; initiators lose this \
                     path in {LIFETIME_SECONDS} s"
                ));
            }
        }
        self.raise_missing().await;
    }
}

impl Inner {
    /// Whether `cidr` can be a service address here: an address that a box has for itself would
    /// go with the primary role.
    pub(super) async fn may_serve(&self, cidr: Cidr) -> Result<(), String> {
        if self.own.contains(&cidr.ip()) {
            return Err(format!(
                "{} is the address of a box itself; choose one that no machine has",
                cidr.ip()
            ));
        }
        let checked = tokio::task::spawn_blocking(move || network::check(cidr)).await;
        match checked {
            Ok(result) => result.map_err(|error| format!("{error}; nothing was changed")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Raises it, and tells when that begins to fail and when it works again.
    async fn raise_or_tell(&self, address: &Address) {
        let cidr = address.cidr;
        let reign = self.reign.get();
        let result = self.raise(address).await;
        if reign != self.reign.get() {
            return; // given up meanwhile
        }
        match result {
            Ok(()) => {
                if self.missing.borrow_mut().remove(&cidr).is_some() {
                    self.events
                        .add(format!("service address {cidr} is served now"));
                }
            }
            Err(why) => {
                let at = clock::boot_ns() + MISSING_AGAIN_NS;
                let before = self.missing.borrow_mut().insert(cidr, at);
                if before.is_none() {
                    self.events.add(format!(
                        "service address {cidr} cannot be served by this box: {why}; \
                         initiators lack this path; it is tried again every {} s",
                        MISSING_AGAIN_NS / 1_000_000_000
                    ));
                }
            }
        }
    }

    /// Adds the address, listens on it, says on the segment that it is here.
    pub(super) async fn raise(&self, address: &Address) -> Result<(), String> {
        let cidr = address.cidr;
        if self.held.borrow().contains_key(&cidr) || !self.raising.borrow_mut().insert(cidr) {
            return Ok(());
        }
        let result = self.raise_new(cidr, address.tag).await;
        self.raising.borrow_mut().remove(&cidr);
        result
    }

    async fn raise_new(&self, cidr: Cidr, tag: u16) -> Result<(), String> {
        let reign = self.reign.get();
        self.leaving.borrow_mut().remove(&cidr);
        self.addresses
            .hold(cidr)
            .await
            .map_err(|error| error.to_string())?;
        let listener = self.bind(SocketAddr::new(cidr.ip(), self.port)).await;
        if reign != self.reign.get() {
            self.release(cidr).await;
            return Err("the addresses were given up meanwhile".to_owned());
        }
        let listener = listener?;
        let target = self.target();
        let events = Arc::clone(&self.events);
        let serving = tokio::task::spawn_local(async move {
            if let Err(error) = target.serve(listener, tag).await {
                events.add(format!("{cidr} takes no logins any more: {error}"));
            }
        });
        let announcing = tokio::task::spawn_local(announce(cidr, self.lease.clone()));
        self.held.borrow_mut().insert(
            cidr,
            Held {
                tag,
                renewal_failed: false,
                serving: serving.abort_handle(),
                announcing: announcing.abort_handle(),
            },
        );
        Ok(())
    }

    pub(super) async fn lower(&self, cidr: Cidr, held: Held) {
        self.target().close_portal(held.tag);
        drop(held);
        self.release(cidr).await;
    }

    /// Takes the address away, unless it is served again.
    async fn release(&self, cidr: Cidr) {
        if self.held.borrow().contains_key(&cidr) {
            return;
        }
        if let Err(error) = self.addresses.release(cidr).await {
            self.events
                .add(format!("{cidr} could not be given up: {error}"));
        }
    }

    /// On loopback a process that is being replaced may hold the port for a moment; on a network
    /// the address has just been added.
    async fn bind(&self, address: SocketAddr) -> Result<TcpListener, String> {
        let mut tries = 0;
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => return Ok(listener),
                Err(error) if tries == BIND_TRIES => {
                    return Err(format!(
                        "cannot listen on {address}: {error}; another program holds it: stop that \
                         one, or choose another port"
                    ));
                }
                Err(_) => tries += 1,
            }
            tokio::time::sleep(BIND_AGAIN).await;
        }
    }
}

/// The frame does not depend on holding the address: a box that slept must not say it.
async fn announce(cidr: Cidr, lease: LeaseCell) {
    for _ in 0..ANNOUNCEMENTS {
        if !clock::holds(lease.lease()) {
            return;
        }
        let told = tokio::task::spawn_blocking(move || network::announce(cidr)).await;
        if let Ok(Err(error)) = told {
            tracing::warn!("{cidr} cannot be announced: {error}");
        }
        tokio::time::sleep(ANNOUNCE_EVERY).await;
    }
}
