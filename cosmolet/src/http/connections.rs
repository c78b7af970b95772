//! Connections: how many there may be at a time, and how long one may take to say what it wants.
//!
//! Whoever opens too many is closed again at once and counted: file descriptors are for FRR and the kernel first, and one
//! broken reader must not keep out the kubelet, whose probes come from the node's own addresses.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

/// Connections at a time. Half of the 1024 file descriptors that a process has by default.
const MOST: usize = 512;
/// Of them, those from one address.
const MOST_OF_ONE: usize = 128;
/// How long a request's head may take, or the pause between two.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// The longest head: request line and headers.
const LONGEST_HEAD: usize = 16 << 10;
/// After an error of the listener's own, such as no file descriptor being left.
const PAUSE: Duration = Duration::from_secs(1);

/// Serves for ever. `refused` hears of every connection that was one too many.
pub(super) async fn serve(listener: TcpListener, router: Router, refused: impl Fn()) -> std::convert::Infallible {
    let crowd = Arc::new(Crowd::default());
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match Crowd::enter(&crowd, peer.ip(), is_own(&stream, peer)) {
                Some(place) => drop(tokio::spawn(connection(stream, router.clone(), place))),
                None => {
                    debug!(%peer, "too many connections: closed");
                    refused();
                }
            },
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                warn!(%error, "no connection can be accepted; trying on");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router, _place: Place) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_header_size(LONGEST_HEAD);
    let service = TowerToHyperService::new(router);
    // A client that goes away, or says something that is no HTTP, is no news.
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        debug!(%error, "a connection ended");
    }
}

/// From this machine: the kubelet's probes, `cosmolet status`.
fn is_own(stream: &TcpStream, peer: SocketAddr) -> bool {
    peer.ip().is_loopback() || stream.local_addr().is_ok_and(|local| local.ip() == peer.ip())
}

fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    [ConnectionAborted, ConnectionRefused, ConnectionReset].contains(&error.kind())
}

/// Who is there.
#[derive(Debug, Default)]
struct Crowd(Mutex<BTreeMap<IpAddr, usize>>);

impl Crowd {
    /// A place, if there is one. The machine's own connections find one though strangers have taken all.
    fn enter(crowd: &Arc<Self>, peer: IpAddr, own: bool) -> Option<Place> {
        let mut there = crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = there.values().sum();
        let of_peer = there.get(&peer).copied().unwrap_or_default();
        if of_peer >= MOST_OF_ONE || (all >= MOST && !own) {
            return None;
        }
        there.insert(peer, of_peer + 1);
        Some(Place { crowd: Arc::clone(crowd), peer })
    }
}

/// A place, free again when this is dropped.
struct Place {
    crowd: Arc<Crowd>,
    peer: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut there = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = there.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                there.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let crowd = Arc::new(Crowd::default());
        let peer = |last: u8| IpAddr::from([10, 0, 0, last]);
        let mut of_one: Vec<Place> = (0..MOST_OF_ONE).filter_map(|_| Crowd::enter(&crowd, peer(1), false)).collect();
        assert_eq!(of_one.len(), MOST_OF_ONE);
        assert!(Crowd::enter(&crowd, peer(1), true).is_none());
        let others: Vec<Place> = (2..=255).cycle().map_while(|last| Crowd::enter(&crowd, peer(last), false)).collect();
        assert_eq!(of_one.len() + others.len(), MOST);
        assert!(Crowd::enter(&crowd, [127, 0, 0, 1].into(), true).is_some(), "the kubelet finds a place");
        of_one.pop();
        let again = Crowd::enter(&crowd, peer(1), false);
        assert!(again.is_some());
        drop((of_one, others, again));
        assert!(crowd.0.lock().unwrap().is_empty());
    }
}
