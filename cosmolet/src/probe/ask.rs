//! What is asked over a probe's connection, and whether the answer is well: TLS, HTTP/1.1, gRPC health.
//!
//! Owns the questions' bytes and the complaints about answers. Never judges what a complaint leads to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap, TE, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme};

use super::connection::Connection;
use crate::engine::check::{Ask, Check, Complaint};

/// The most of a gRPC answer that is read: it has a few bytes.
const LONGEST: usize = 4096;
const AGENT: &str = concat!("cosmolet/", env!("CARGO_PKG_VERSION"));

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A good answer.
    Well,
    /// Another one, or none.
    Ill(Complaint),
    /// The connection never opened though a handshake had just been well, or it could not be sent: it says nothing.
    Lost,
}

/// A question that can be asked at once.
pub struct Question {
    pub(super) connection: Connection,
    pub(super) target: IpAddr,
}

impl Question {
    /// Asks, and waits for the answer.
    pub async fn ask(self, check: &Check, limit: Duration) -> Told {
        let Self { connection, target } = self;
        let talk = async {
            if !connection.opened().await {
                return Told::Lost;
            }
            let answer = tokio::time::timeout(limit, answer(&connection, check, target)).await;
            match answer.unwrap_or(Err(Complaint::NoAnswer)) {
                Ok(()) => Told::Well,
                Err(_) if connection.failed() => Told::Lost,
                Err(complaint) => Told::Ill(complaint),
            }
        };
        tokio::select! {
            told = talk => told,
            () = connection.drive() => Told::Lost,
            () = tokio::time::sleep(limit.saturating_mul(2)) => Told::Lost,
        }
    }
}

async fn answer(connection: &Connection, check: &Check, target: IpAddr) -> Result<(), Complaint> {
    let stream = connection.stream();
    let authority = match &check.name {
        Some(name) => format!("{name}:{}", check.port.number),
        None => SocketAddr::new(target, check.port.number).to_string(),
    };
    if check.tls {
        exchange(tls(stream, check, target).await?, check, &authority).await
    } else {
        exchange(stream, check, &authority).await
    }
}

async fn exchange<S>(stream: S, check: &Check, authority: &str) -> Result<(), Complaint>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match &check.ask {
        Ask::Get(path) => get(stream, authority, path).await,
        Ask::Grpc(service) => grpc(stream, authority, service).await,
        // It was asked for by the handshakes alone.
        Ask::Hello | Ask::Datagram(_) => Ok(()),
    }
}

async fn get<S>(stream: S, authority: &str, path: &str) -> Result<(), Complaint>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let request = Request::get(path).header(HOST, authority).header(USER_AGENT, AGENT).header(CONNECTION, "close");
    let request = request.body(Empty::<Bytes>::new()).map_err(|_never| Complaint::Garbled)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| http(&error))?;
    let response = sender.send_request(request);
    tokio::pin!(response);
    let response = tokio::select! {
        biased;
        response = &mut response => response,
        // It may have ended just behind the answer.
        _ended = connection => response.await,
    };
    status(&response.map_err(|error| http(&error))?)
}

/// As for the kubelet.
fn status(response: &Response<Incoming>) -> Result<(), Complaint> {
    match response.status().as_u16() {
        200..=399 => Ok(()),
        status => Err(Complaint::Status(status)),
    }
}

/// `grpc.health.v1.Health/Check` over HTTP/2 without an upgrade (the gRPC health checking protocol; gRPC over HTTP2).
async fn grpc<S>(stream: S, authority: &str, service: &str) -> Result<(), Complaint>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let uri = format!("http://{authority}/grpc.health.v1.Health/Check");
    let request = Request::post(uri).header(CONTENT_TYPE, "application/grpc").header(TE, "trailers");
    let request = request.header(USER_AGENT, AGENT).body(Full::new(health_request(service)));
    let request = request.map_err(|_never| Complaint::Garbled)?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| http(&error))?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(|error| http(&error))?;
        served(response).await
    };
    tokio::pin!(talk);
    tokio::select! {
        biased;
        served = &mut talk => served,
        _ended = connection => talk.await,
    }
}

async fn served(response: Response<Incoming>) -> Result<(), Complaint> {
    if response.status().as_u16() != 200 {
        return Err(Complaint::Status(response.status().as_u16()));
    }
    let mut code = grpc_status(response.headers());
    let (mut body, mut message) = (response.into_body(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| http(&error))?;
        code = code.or_else(|| frame.trailers_ref().and_then(grpc_status));
        if let Some(data) = frame.data_ref() {
            message.put(data.slice(..data.len().min(LONGEST.saturating_sub(message.len()))));
        }
    }
    match code {
        Some(0) if is_serving(&message) => Ok(()),
        Some(0) => Err(Complaint::NotServing(None)),
        Some(code) => Err(Complaint::NotServing(Some(code))),
        None => Err(Complaint::Garbled),
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// A message of one field, the service's name, with the five bytes that gRPC puts before it.
fn health_request(service: &str) -> Bytes {
    const NAME: u8 = 1 << 3 | 2;
    let mut field = BytesMut::new();
    if !service.is_empty() {
        field.put_u8(NAME);
        let mut length = service.len();
        while length >= 0x80 {
            field.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        field.put_u8(length as u8);
        field.put(service.as_bytes());
    }
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(field.len() as u32);
    message.put(field);
    message.freeze()
}

/// `HealthCheckResponse { status: SERVING }`, the only field that it has.
fn is_serving(message: &[u8]) -> bool {
    const SERVING: [u8; 2] = [1 << 3, 1];
    matches!(message.split_first_chunk::<5>(), Some(([0, ..], field)) if field == SERVING)
}

fn http(error: &hyper::Error) -> Complaint {
    let closed = error.is_incomplete_message() || error.is_canceled() || error.is_closed();
    let by_stream = std::error::Error::source(error).is_some_and(|source| source.downcast_ref::<io::Error>().is_some());
    if closed || by_stream { Complaint::Closed } else { Complaint::Garbled }
}

async fn tls<S>(
    stream: S,
    check: &Check,
    target: IpAddr,
) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static, Complaint>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|_never| Complaint::Garbled)?.dangerous();
    let mut config = builder.with_custom_certificate_verifier(Arc::new(Anybody(provider))).with_no_client_auth();
    config.alpn_protocols = match check.ask {
        Ask::Get(_) => vec![b"http/1.1".to_vec()],
        Ask::Grpc(_) => vec![b"h2".to_vec()],
        Ask::Hello | Ask::Datagram(_) => Vec::new(),
    };
    let name = match check.name.as_deref().map(str::to_owned).map(ServerName::try_from) {
        Some(name) => name.map_err(|_checked| Complaint::Garbled)?,
        None => ServerName::from(target),
    };
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let garbled = |error: &io::Error| error.kind() == io::ErrorKind::InvalidData;
    connected.map_err(|error| if garbled(&error) { Complaint::Garbled } else { Complaint::Closed })
}

/// Whose certificate it is does not matter: the question is whether the backend answers.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[path = "ask_tests.rs"]
mod tests;
