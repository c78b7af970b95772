//! What a Service's owner asks of a port beyond a handshake (`cosmolet.io/probe`).
//!
//! Owns the parsed question, the complaints about its answer and their words. Asking is the edge's.

use std::fmt;

use super::types::{Port, Protocol};

/// A question that a healthy backend answers well, as `SCHEME://[NAME][:PORT][/REST]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Check {
    /// The declared port that is asked.
    pub port: Port,
    /// The server's name in `Host` and in TLS; the VIP's address stands for it where there is none.
    pub name: Option<Box<str>>,
    /// TLS first. Whose certificate it is does not matter, as for the kubelet's probes.
    pub tls: bool,
    /// What is asked then.
    pub ask: Ask,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ask {
    /// Nothing more: TLS was the question.
    Hello,
    /// HTTP `GET` of this path; a status of 200 to 399 is well, as for the kubelet.
    Get(Box<str>),
    /// The gRPC health checking protocol for this service, empty for the whole server; `SERVING` is well.
    Grpc(Box<str>),
    /// This datagram; any datagram in return is well.
    Datagram(Box<[u8]>),
}

/// What is wrong with an answer, where the handshake itself was well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Complaint {
    /// HTTP answered with this status.
    Status(u16),
    /// gRPC answered, and the service is not `SERVING`, or with this code (grpc-status) where there is one.
    NotServing(Option<u16>),
    /// Nothing within the time.
    NoAnswer,
    /// The connection was closed or reset before there was an answer.
    Closed,
    /// What came was not what the protocol has.
    Garbled,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "answered {status}"),
            Self::NotServing(None) => f.write_str("is not SERVING"),
            Self::NotServing(Some(code)) => write!(f, "answered grpc-status {code}"),
            Self::NoAnswer => f.write_str("did not answer in time"),
            Self::Closed => f.write_str("closed the connection without an answer"),
            Self::Garbled => f.write_str("answered in another protocol"),
        }
    }
}

/// What a value of the annotation must be.
pub const RULE: &str = "must be http://, https:// [NAME][:PORT][/PATH], tls://[NAME]:PORT, grpc://, grpcs:// [NAME]:PORT[/SERVICE] or \
                        udp://:PORT/PAYLOAD, in 512 printable characters at most, and its PORT one that the Service declares";

const LONGEST: usize = 512;

impl Check {
    /// Parses a value of `cosmolet.io/probe`.
    ///
    /// # Errors
    /// [`RULE`].
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        Self::read(text).ok_or(RULE)
    }

    /// As [`Self::parse`] reads it again; never longer than what it read.
    #[must_use]
    pub fn spelled(&self) -> String {
        let usual =
            matches!((&self.ask, self.tls, self.port.number), (Ask::Get(_), false, 80) | (Ask::Get(_), true, 443));
        match &self.ask {
            Ask::Datagram(bytes) => {
                let plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'%';
                let spell =
                    |byte: &u8| if plain(byte) { char::from(*byte).to_string() } else { format!("%{byte:02x}") };
                format!("udp://:{}/{}", self.port.number, bytes.iter().map(spell).collect::<String>())
            }
            Ask::Get(path) if usual => {
                let name = self.name.as_deref().unwrap_or_default();
                format!("{}://{name}{path}", if self.tls { "https" } else { "http" })
            }
            Ask::Get(_) | Ask::Hello | Ask::Grpc(_) => self.to_string(),
        }
    }

    fn read(text: &str) -> Option<Self> {
        if text.len() > LONGEST || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let (scheme, rest) = text.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (name, number) = authority.rsplit_once(':').map_or((authority, None), |(name, port)| (name, Some(port)));
        let number = match number {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok().filter(|port| *port > 0)?)
            }
            Some(_) => return None,
            None => None,
        };
        let (protocol, tls, usual, ask) = match scheme {
            "http" => (Protocol::Tcp, false, Some(80), Ask::Get(target(path)?)),
            "https" => (Protocol::Tcp, true, Some(443), Ask::Get(target(path)?)),
            "tls" => (Protocol::Tcp, true, None, path.is_empty().then_some(Ask::Hello)?),
            "grpc" => (Protocol::Tcp, false, None, Ask::Grpc(service(path)?)),
            "grpcs" => (Protocol::Tcp, true, None, Ask::Grpc(service(path)?)),
            "udp" if name.is_empty() => (Protocol::Udp, false, None, Ask::Datagram(payload(path)?)),
            _ => return None,
        };
        let port = Port { protocol, number: number.or(usual)? };
        let named = is_name(name).then_some(name)?;
        Some(Self { port, name: (!named.is_empty()).then(|| named.into()), tls, ask })
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or_default();
        let scheme = match (&self.ask, self.tls) {
            (Ask::Hello, _) => "tls",
            (Ask::Get(_), false) => "http",
            (Ask::Get(_), true) => "https",
            (Ask::Grpc(_), false) => "grpc",
            (Ask::Grpc(_), true) => "grpcs",
            (Ask::Datagram(_), _) => "udp",
        };
        write!(f, "{scheme}://{name}:{}", self.port.number)?;
        match &self.ask {
            Ask::Hello => Ok(()),
            Ask::Get(path) => f.write_str(path),
            Ask::Grpc(service) if service.is_empty() => Ok(()),
            Ask::Grpc(service) => write!(f, "/{service}"),
            Ask::Datagram(bytes) => write!(f, "/({} bytes)", bytes.len()),
        }
    }
}

/// A DNS name, lower or upper case; empty is none.
fn is_name(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !part.starts_with('-')
    };
    text.is_empty() || (text.len() <= 253 && text.split('.').all(part))
}

/// What follows `GET`: a path with a query, percent-encoded where it must be (RFC 9112, 3.2.1).
fn target(path: &str) -> Option<Box<str>> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&byte);
    let path = if path.is_empty() { "/" } else { path };
    path.bytes().all(allowed).then(|| path.into())
}

fn service(path: &str) -> Option<Box<str>> {
    let name = path.strip_prefix('/').unwrap_or(path);
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte)).then(|| name.into())
}

/// Percent-decoded; at least one byte.
fn payload(path: &str) -> Option<Box<[u8]>> {
    let mut rest = path.strip_prefix('/')?.bytes();
    let mut bytes = Vec::new();
    while let Some(byte) = rest.next() {
        let decoded = match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?].map(|digit| char::from(digit).to_digit(16));
                let [Some(high), Some(low)] = digits else { return None };
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        };
        bytes.push(decoded);
    }
    (!bytes.is_empty()).then(|| bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_read_and_said_again() {
        for (text, port, tls, said) in [
            ("http://:8080/healthz?full=1", "8080/tcp", false, "http://:8080/healthz?full=1"),
            ("http://shop.example", "80/tcp", false, "http://shop.example:80/"),
            ("https://shop.example/a%20b", "443/tcp", true, "https://shop.example:443/a%20b"),
            ("tls://db.example:5432", "5432/tcp", true, "tls://db.example:5432"),
            ("grpc://:50051", "50051/tcp", false, "grpc://:50051"),
            ("grpcs://x:50051/a.b.C", "50051/tcp", true, "grpcs://x:50051/a.b.C"),
            ("udp://:53/%12%34%01ab", "53/udp", false, "udp://:53/(5 bytes)"),
        ] {
            let check = Check::parse(text).unwrap();
            assert_eq!((check.port.to_string().as_str(), check.tls, check.to_string().as_str()), (port, tls, said));
            assert_eq!(Check::parse(&check.spelled()), Ok(check));
        }
        let Ask::Datagram(bytes) = Check::parse("udp://:53/%12%34%01ab").unwrap().ask else { panic!() };
        assert_eq!(&*bytes, b"\x12\x34\x01ab");
    }

    #[test]
    fn everything_else_is_refused() {
        let long = format!("http://:80/{}", "a".repeat(LONGEST));
        for text in [
            "",
            "http",
            "http:/x",
            "ftp://:80/",
            "http://:0/",
            "http://:65536/",
            "http://:+80/",
            "http://:8a/",
            "http://a b:80/",
            "http://-a:80/",
            "http://a..b/",
            "http://[::1]:80/",
            "http://user@x/",
            "http://:80/a#b",
            "http://:80/a\r\nHost:x",
            "tls://x",
            "tls://:443/x",
            "grpc://:1/a b",
            "grpc://x",
            "udp://:53",
            "udp://:53/",
            "udp://x:53/a",
            "udp://:53/%1",
            "udp://:53/%zz",
            &long,
        ] {
            assert_eq!(Check::parse(text), Err(RULE), "{text}");
        }
    }
}
