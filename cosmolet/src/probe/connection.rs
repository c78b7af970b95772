//! A TCP connection of the daemon's own, whose packets take a client's way: a user-space stack (smoltcp) over the injector and what the
//! egress programs catch.
//!
//! Owns one connection's stack and its stream. Never knows what is said over it.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use cosmolet_common::probe::WINDOW;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{MissedTickBehavior, interval};

use super::frame::{Frame, Mac};
use super::inject::Injector;
use super::{Error, now};
use crate::engine::types::Family;

/// As on Ethernet; what is sent to us is kept smaller by [`WINDOW`].
const MTU: usize = 1500;
/// What may wait to be sent.
const OUTGOING: usize = 4096;
/// How often time passes for the stack, which retransmits.
const STEP: Duration = Duration::from_millis(20);

/// Where a connection's packets go.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) injector: Arc<Injector>,
    pub(super) ifindex: u32,
    pub(super) mac: Mac,
    pub(super) family: Family,
}

/// One connection's stack.
pub(super) struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    device: Device,
}

struct Device {
    link: Link,
    arrived: VecDeque<Vec<u8>>,
    /// The first packet that could not be sent.
    failed: Option<Error>,
}

impl Stack {
    /// Begins to connect; the SYN is sent when this returns.
    pub(super) fn connect(link: Link, source: SocketAddr, target: SocketAddr, seed: u64) -> Result<Self, Error> {
        let mut device = Device { link, arrived: VecDeque::new(), failed: None };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, instant());
        let length = if source.is_ipv4() { 32 } else { 128 };
        let mut known = false;
        interface.update_ip_addrs(|addresses| {
            known = addresses.push(IpCidr::new(source.ip().into(), length)).is_ok();
        });
        // There is no neighbour to ask; without a route the stack sends nothing.
        let routes = interface.routes_mut();
        let routed = match source.ip() {
            IpAddr::V4(v4) => routes.add_default_ipv4_route(v4).is_ok(),
            IpAddr::V6(v6) => routes.add_default_ipv6_route(v6).is_ok(),
        };
        let buffer = |size: usize| SocketBuffer::new(vec![0; size]);
        let mut socket = Socket::new(buffer(WINDOW), buffer(OUTGOING));
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        let to = (IpAddress::from(target.ip()), target.port());
        let from = (IpAddress::from(source.ip()), source.port());
        let begun = socket.connect(interface.context(), to, from).is_ok();
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        let mut stack = Self { interface, sockets, handle, device };
        stack.drive();
        match stack.device.failed.take() {
            None if known && routed && begun => Ok(stack),
            Some(error) => Err(error),
            None => Err(Error::NoStack),
        }
    }

    /// Whoever panicked with it has left a connection that does not answer, and no more.
    pub(super) fn lock(stack: &Mutex<Self>) -> MutexGuard<'_, Self> {
        stack.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a packet that was caught for this connection.
    pub(super) fn take(&mut self, packet: &[u8]) {
        self.device.arrived.push_back(packet.to_vec());
        self.drive();
    }

    /// Lets packets and time take effect.
    fn drive(&mut self) {
        self.interface.poll(instant(), &mut self.device, &mut self.sockets);
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}

fn instant() -> Instant {
    Instant::from_micros(i64::try_from(now().as_micros()).unwrap_or(i64::MAX))
}

impl phy::Device for Device {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        let packet = self.arrived.pop_front()?;
        Some((Arrived(packet), Leaving { link: &self.link, failed: &mut self.failed }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        Some(Leaving { link: &self.link, failed: &mut self.failed })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        // What comes from a pod has its checksums left to the network card, which it never saw.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

struct Arrived(Vec<u8>);

impl phy::RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Leaving<'a> {
    link: &'a Link,
    failed: &'a mut Option<Error>,
}

impl phy::TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut packet = vec![0; length];
        let result = write(&mut packet);
        let frame = Frame::around(self.link.mac, self.link.family, &packet);
        if let Err(error) = self.link.injector.run(self.link.ifindex, &frame) {
            self.failed.get_or_insert(error);
        }
        result
    }
}

/// A connection; it is reset where it is dropped.
pub(super) struct Connection(Arc<Mutex<Stack>>);

impl Connection {
    pub(super) const fn new(stack: Arc<Mutex<Stack>>) -> Self {
        Self(stack)
    }

    fn lock(&self) -> MutexGuard<'_, Stack> {
        Stack::lock(&self.0)
    }

    /// Waits until it is open. False where it never will be.
    pub(super) async fn opened(&self) -> bool {
        std::future::poll_fn(|context| {
            let mut stack = self.lock();
            let socket = stack.socket();
            match socket.state() {
                State::SynSent | State::SynReceived => {
                    socket.register_send_waker(context.waker());
                    Poll::Pending
                }
                State::Closed => Poll::Ready(false),
                State::Listen
                | State::Established
                | State::FinWait1
                | State::FinWait2
                | State::CloseWait
                | State::Closing
                | State::LastAck
                | State::TimeWait => Poll::Ready(true),
            }
        })
        .await
    }

    /// Lets time pass for it; never ends.
    pub(super) async fn drive(&self) {
        let mut steps = interval(STEP);
        steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            steps.tick().await;
            self.lock().drive();
        }
    }

    /// Some packet of it could not be sent.
    pub(super) fn failed(&self) -> bool {
        self.lock().device.failed.is_some()
    }

    /// What is said and heard over it.
    pub(super) fn stream(&self) -> Stream {
        Stream(Self(Arc::clone(&self.0)))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut stack = self.lock();
        if stack.socket().is_open() {
            stack.socket().abort();
            stack.drive();
        }
    }
}

/// The bytes of a [`Connection`], which ends with the first of both.
pub(super) struct Stream(Connection);

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut stack = self.0.lock();
        let socket = stack.socket();
        if socket.can_recv() {
            let read = socket.recv_slice(buffer.initialize_unfilled()).map_err(io::Error::other)?;
            buffer.advance(read);
            // Tells the backend that there is room again.
            stack.drive();
            Poll::Ready(Ok(()))
        } else if socket.may_recv() {
            socket.register_recv_waker(context.waker());
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut stack = self.0.lock();
        let socket = stack.socket();
        if !socket.may_send() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !socket.can_send() {
            socket.register_send_waker(context.waker());
            return Poll::Pending;
        }
        let written = socket.send_slice(bytes).map_err(io::Error::other)?;
        stack.drive();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stack = self.0.lock();
        stack.socket().close();
        stack.drive();
        Poll::Ready(Ok(()))
    }
}
