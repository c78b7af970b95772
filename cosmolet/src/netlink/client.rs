//! Sockets: one that asks and waits for the answer, one that listens.
//!
//! Owns framing, sequence numbers and the pipelining of requests. Never knows what a message means.

use std::io;
use std::time::Duration;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

use super::Error;

/// Requests in one write. The kernel carries them out before the write returns, so this bounds how long a batch keeps
/// its thread and the longest that a withdrawal waits for it: up to 40 ms at 10 000 addresses, far below 1 ms at 1000.
pub const REQUESTS_PER_WRITE: usize = 128;
/// The kernel fills at most 32 KiB of a dump into one datagram.
const DATAGRAM: usize = 64 * 1024;
/// The kernel answers before the write returns; longer than this means that the answer is lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A request and its `NLM_F_*` flags, `NLM_F_REQUEST` and `NLM_F_ACK` apart.
pub(super) struct Request {
    pub(super) flags: u16,
    pub(super) message: RouteNetlinkMessage,
}

/// What became of one request of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Carried out.
    Done,
    /// Refused with this `errno`.
    Refused(i32),
    /// The answer is lost: it may have been carried out or not.
    Lost,
    /// Not sent: the batch was stopped before.
    NotAsked,
}

/// One message of a datagram.
pub(super) struct Message<'a> {
    /// `RTM_*` or `NLMSG_*`.
    pub(super) kind: u16,
    pub(super) payload: &'a [u8],
    flags: u16,
    sequence: u32,
}

/// Splits a datagram; what follows a malformed header is dropped.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let buffer = NetlinkBuffer::new_checked(rest).ok()?;
        let length = buffer.length() as usize;
        let message = Message {
            kind: buffer.message_type(),
            flags: buffer.flags(),
            sequence: buffer.sequence_number(),
            payload: buffer.payload(),
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Asks and waits for the answer.
pub(super) struct Client {
    socket: TokioSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Client {
    /// Opens a socket in the network namespace of the calling thread.
    pub(super) fn open() -> Result<Self, Error> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(Error::socket)?;
        let plain = socket.socket_mut();
        plain.bind_auto().map_err(Error::socket)?;
        plain.connect(&SocketAddr::new(0, 0)).map_err(Error::socket)?;
        plain.set_cap_ack(true).map_err(Error::socket)?;
        plain.set_netlink_get_strict_chk(true).map_err(Error::socket)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Reads a whole table and hands each message to `each`.
    pub(super) async fn dump(
        &mut self,
        request: RouteNetlinkMessage,
        mut each: impl FnMut(&Message<'_>),
    ) -> Result<(), Error> {
        let sequence = self.send(&[Request { flags: NLM_F_DUMP, message: request }], false).await?;
        let mut interrupted = false;
        loop {
            self.receive().await?;
            for message in messages(&self.buffer).filter(|message| message.sequence == sequence) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match i32::from(message.kind) {
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                        refusal(message.payload).map_or(Ok(()), |errno| Err(refused(errno)))?;
                        return if interrupted { Err(Error::Interrupted) } else { Ok(()) };
                    }
                    _ => each(&message),
                }
            }
        }
    }

    /// Asks for one object and gives what `read` makes of it.
    pub(super) async fn get<T>(
        &mut self,
        request: RouteNetlinkMessage,
        read: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let sequence = self.send(&[Request { flags: 0, message: request }], false).await?;
        loop {
            self.receive().await?;
            if let Some(message) = messages(&self.buffer).find(|message| message.sequence == sequence) {
                if i32::from(message.kind) == libc::NLMSG_ERROR {
                    return refusal(message.payload).map_or(Ok(None), |errno| Err(refused(errno)));
                }
                return Ok(read(&message));
            }
        }
    }

    /// Sends many requests, pipelined; the answers are in the order of the requests, and as many. Once `stop` says so, no
    /// more are sent: the first ones always are.
    pub(super) async fn batch(&mut self, requests: &[Request], stop: &(dyn Fn() -> bool + Sync)) -> Vec<Reply> {
        let mut replies = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(REQUESTS_PER_WRITE) {
            if !replies.is_empty() && stop() {
                break;
            }
            match self.write(chunk).await {
                Ok(answers) => replies.extend(answers),
                Err(error) => {
                    tracing::debug!(%error, requests = chunk.len(), "answers of the kernel are lost");
                    replies.extend(chunk.iter().map(|_| Reply::Lost));
                }
            }
            tokio::task::yield_now().await;
        }
        replies.resize(requests.len(), Reply::NotAsked);
        replies
    }

    /// Only the last request asks for an acknowledgement: the kernel goes in order, and reports every error anyway.
    async fn write(&mut self, requests: &[Request]) -> Result<Vec<Reply>, Error> {
        let last = self.send(requests, true).await?;
        let count = requests.len();
        let mut replies = vec![Reply::Done; count];
        loop {
            self.receive().await?;
            for message in messages(&self.buffer).filter(|message| i32::from(message.kind) == libc::NLMSG_ERROR) {
                let before_last = last.wrapping_sub(message.sequence) as usize;
                if let Some(reply) = count.checked_sub(before_last + 1).and_then(|index| replies.get_mut(index)) {
                    *reply = refusal(message.payload).map_or(Reply::Done, Reply::Refused);
                    if before_last == 0 {
                        return Ok(replies);
                    }
                }
            }
        }
    }

    /// Sends requests in one datagram and returns the sequence number of the last.
    async fn send(&mut self, requests: &[Request], acknowledge: bool) -> Result<u32, Error> {
        let mut datagram = Vec::with_capacity(requests.len() * 96);
        for (index, request) in requests.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            let acknowledged = if acknowledge && index + 1 == requests.len() { NLM_F_ACK } else { 0 };
            let mut message = NetlinkMessage::from(request.message.clone());
            message.header.flags = NLM_F_REQUEST | request.flags | acknowledged;
            message.header.sequence_number = self.sequence;
            message.finalize();
            append(&mut datagram, &message);
        }
        self.socket.send(&datagram).await.map_err(Error::socket)?;
        Ok(self.sequence)
    }

    async fn receive(&mut self) -> Result<(), Error> {
        self.buffer.clear();
        tokio::time::timeout(ANSWER_TIMEOUT, self.socket.recv(&mut self.buffer))
            .await
            .map_err(|elapsed| Error::Socket(io::Error::new(io::ErrorKind::TimedOut, elapsed)))?
            .map_err(Error::socket)
    }
}

fn append(datagram: &mut Vec<u8>, message: &NetlinkMessage<RouteNetlinkMessage>) {
    let start = datagram.len();
    datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
    if let Some(space) = datagram.get_mut(start..) {
        message.serialize(space);
    }
}

/// The `errno` in an `NLMSG_ERROR` or `NLMSG_DONE`; `None` if it reports success.
fn refusal(payload: &[u8]) -> Option<i32> {
    let code = payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    (code < 0).then(|| code.saturating_neg())
}

fn refused(errno: i32) -> Error {
    Error::Refused(io::Error::from_raw_os_error(errno))
}

/// Listens to multicast groups.
pub(super) struct Listener {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl Listener {
    /// Joins `groups` (`RTNLGRP_*`) in the network namespace of the calling thread. `receive_buffer` is in bytes; the
    /// kernel caps it at `net.core.rmem_max`.
    pub(super) fn open(groups: &[u32], receive_buffer: usize) -> Result<Self, Error> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(Error::socket)?;
        let plain = socket.socket_mut();
        let bytes = libc::c_int::try_from(receive_buffer).unwrap_or(libc::c_int::MAX);
        plain.set_rx_buf_sz(bytes).map_err(Error::socket)?;
        plain.bind_auto().map_err(Error::socket)?;
        for group in groups {
            plain.add_membership(*group).map_err(Error::socket)?;
        }
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Waits for a datagram, then hands every message that is there to `each`. Safe to cancel while it waits.
    pub(super) async fn listen(&mut self, mut each: impl FnMut(&Message<'_>)) -> Result<(), Error> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer).await.map_err(Error::socket)?;
        loop {
            messages(&self.buffer).for_each(|message| each(&message));
            self.buffer.clear();
            match self.socket.socket_ref().recv(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(Error::socket(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_datagram_yields_what_is_whole() {
        let mut datagram = Vec::new();
        let mut message = NetlinkMessage::<RouteNetlinkMessage>::new(
            rtnetlink::packet_core::NetlinkHeader::default(),
            rtnetlink::packet_core::NetlinkPayload::Noop,
        );
        message.finalize();
        append(&mut datagram, &message);
        append(&mut datagram, &message);
        assert_eq!(messages(&datagram).count(), 2);
        datagram.pop();
        assert_eq!(messages(&datagram).count(), 1);
        assert_eq!(messages(&datagram[..3]).count(), 0);
    }

    #[test]
    fn an_error_message_tells_its_errno() {
        assert_eq!(refusal(&(-17_i32).to_ne_bytes()), Some(libc::EEXIST));
        assert_eq!(refusal(&0_i32.to_ne_bytes()), None);
        assert_eq!(refusal(&[]), None);
    }
}
