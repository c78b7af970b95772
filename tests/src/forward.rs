//! A browser on this machine sees what listens in a lab's namespace: connections to the machine's loopback are handed on into it.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result};

use crate::netns::{Door, Netns};

/// Hands connections on to `inside` of the namespace until this process ends, and returns where it listens: `port` of 127.0.0.1, or
/// another one where that is taken.
pub fn forward(netns: &Netns, inside: SocketAddr, port: u16) -> Result<SocketAddr> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = bind(port).or_else(|_taken| bind(0)).context("no port of 127.0.0.1 is free")?;
    let address = listener.local_addr()?;
    hand_over(listener, netns, inside);
    Ok(address)
}

/// The same for a listener wherever it is.
pub fn hand_over(listener: TcpListener, netns: &Netns, inside: SocketAddr) {
    let door = netns.door();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let door = door.clone();
            thread::spawn(move || hand_on(near, &door, inside));
        }
    });
}

/// One connection, to its end in both directions.
fn hand_on(near: TcpStream, door: &Door, inside: SocketAddr) -> Result<()> {
    door.enter()?;
    let far = TcpStream::connect(inside)?;
    let (mut from_far, mut to_near) = (far.try_clone()?, near.try_clone()?);
    thread::spawn(move || {
        let copied = io::copy(&mut from_far, &mut to_near);
        to_near.shutdown(Shutdown::Write).and(copied.map(drop))
    });
    let (mut from_near, mut to_far) = (near, far);
    io::copy(&mut from_near, &mut to_far)?;
    Ok(to_far.shutdown(Shutdown::Write)?)
}
