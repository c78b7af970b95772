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
    let (address, door) = (listener.local_addr()?, netns.door());
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let door = door.clone();
            thread::spawn(move || hand_on(near, &door, inside));
        }
    });
    Ok(address)
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::time::Duration;

    use super::*;
    use crate::Lab;

    #[test]
    fn a_connection_goes_into_the_namespace_and_ends_in_both_directions() -> Result<()> {
        let lab = Lab::new()?;
        let netns = lab.netns("inside")?;
        let inside: SocketAddr = "127.0.0.1:4000".parse()?;
        let listener = netns.run(|| TcpListener::bind(inside))??;
        thread::spawn(move || -> Result<()> {
            let mut stream = listener.accept()?.0;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(stream.write_all(text.to_uppercase().as_bytes())?)
        });
        let taken = TcpListener::bind("127.0.0.1:0")?;
        let address = forward(&netns, inside, taken.local_addr()?.port())?;
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"through")?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        assert_eq!(answer, "THROUGH");
        Ok(())
    }
}
