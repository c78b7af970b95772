//! Tells the engine what addresses the kernel holds: everything at the start, then what changes.
//!
//! Owns one task. Never changes anything, and never tells what was merely asked for.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Error;
use super::client::{Client, Listener, Message};
use super::model::Model;
use super::wire::{self, Address, Link};
use crate::engine::event::Event;
use crate::engine::types::Family;

const GROUPS: [u32; 3] = [libc::RTNLGRP_LINK, libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR];
/// The pause after each round, in which further notifications gather: the first is told at once, a flood in bundles.
const GATHER: Duration = Duration::from_millis(5);
/// The pause after trouble with the socket.
const BACKOFF: Duration = Duration::from_secs(1);
/// The pause before reading again what changed while it was read.
const REREAD: Duration = Duration::from_millis(100);

/// Watches the addresses of one interface, `loopback.interface`, and those of the node. See [`Observer`].
///
/// # Errors
/// As [`Observer::spawn`].
pub fn spawn(interface: impl Into<String>, events: mpsc::Sender<Event>) -> Result<JoinHandle<()>, Error> {
    Observer::new(interface).spawn(events)
}

/// The observer before it runs.
#[derive(Clone, Debug)]
pub struct Observer {
    interface: String,
    receive_buffer: usize,
    resync: Duration,
}

impl Observer {
    /// An observer with a receive buffer of 4 MiB that reads everything again every 30 s.
    #[must_use]
    pub fn new(interface: impl Into<String>) -> Self {
        Self { interface: interface.into(), receive_buffer: 4 << 20, resync: Duration::from_secs(30) }
    }

    /// Takes another receive buffer, in bytes; the kernel caps it at `net.core.rmem_max`. When it overruns, everything
    /// is read again.
    #[must_use]
    pub fn receive_buffer(self, bytes: usize) -> Self {
        Self { receive_buffer: bytes, ..self }
    }

    /// Takes another span between the full dumps that are the safety net.
    #[must_use]
    pub fn resync(self, span: Duration) -> Self {
        Self { resync: span, ..self }
    }

    /// Starts the task, in the network namespace of the calling thread. It ends when nobody receives its events any
    /// more; whatever else happens, it opens its sockets and reads again.
    ///
    /// # Errors
    /// [`Error::Socket`] if there is no netlink socket to be had now.
    pub fn spawn(self, events: mpsc::Sender<Event>) -> Result<JoinHandle<()>, Error> {
        let listener = self.listener()?;
        Ok(tokio::spawn(self.run(listener, events)))
    }

    fn listener(&self) -> Result<Listener, Error> {
        Listener::open(&GROUPS, self.receive_buffer)
    }

    async fn run(self, listener: Listener, events: mpsc::Sender<Event>) {
        let mut listener = Ok(listener);
        loop {
            let session = match listener {
                Ok(listener) => self.session(listener, &events).await,
                Err(error) => Err(error),
            };
            let Err(error) = session else { return };
            let pause = match error {
                Error::Overrun => GATHER,
                Error::Interrupted => REREAD,
                Error::NoInterface(_) | Error::Refused(_) | Error::Socket(_) => {
                    tracing::warn!(%error, "the kernel's addresses cannot be observed, trying again");
                    BACKOFF
                }
            };
            tracing::debug!(%error, "reading the kernel's addresses again");
            tokio::time::sleep(pause).await;
            listener = self.listener();
        }
    }

    /// Listens, then reads everything, so that nothing falls between; returns when nobody receives any more.
    async fn session(&self, mut listener: Listener, events: &mpsc::Sender<Event>) -> Result<(), Error> {
        let mut model = self.read().await?;
        let mut resync = tokio::time::interval_at(Instant::now() + self.resync, self.resync);
        loop {
            for event in model.take(Instant::now()) {
                if events.send(Event::Kernel(event)).await.is_err() {
                    return Ok(());
                }
            }
            tokio::time::sleep(GATHER).await;
            tokio::select! {
                heard = listener.listen(|message| hear(&mut model, message)) => heard?,
                _ = resync.tick() => model = self.read().await?,
                () = events.closed() => return Ok(()),
            }
        }
    }

    async fn read(&self) -> Result<Model, Error> {
        let mut client = Client::open()?;
        let mut model = Model::new(&self.interface);
        client.dump(wire::links(), |message| hear(&mut model, message)).await?;
        for family in Family::ALL {
            client.dump(wire::addresses(family, 0), |message| hear(&mut model, message)).await?;
        }
        Ok(model)
    }
}

fn hear(model: &mut Model, message: &Message<'_>) {
    match message.kind {
        libc::RTM_NEWADDR => {
            if let Some(address) = Address::parse(message.payload) {
                model.address(address, Instant::now());
            }
        }
        libc::RTM_DELADDR => {
            if let Some(address) = Address::parse(message.payload) {
                model.address_gone(&address);
            }
        }
        libc::RTM_NEWLINK => {
            if let Some(link) = Link::parse(message.payload) {
                model.link(link);
            }
        }
        libc::RTM_DELLINK => {
            if let Some(link) = Link::parse(message.payload) {
                model.link_gone(link.index);
            }
        }
        _ => {}
    }
}
