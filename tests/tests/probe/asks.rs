//! What is asked over a probe's connection, of real servers behind DNAT: an HTTP server that misbehaves in every way, etcd for gRPC, the
//! Kubernetes API server for TLS.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, ensure};
use cosmolet::engine::check::{Check, Complaint};
use cosmolet::probe::{Reply, Told};
use cosmolet_tests::api_server::{ApiServer, Place};
use cosmolet_tests::nft::{Mapping, Protocol};
use cosmolet_tests::{Lab, forward, wait};

use super::{Driver, PORT, World, cpu_time, targets};

const LIMIT: Duration = Duration::from_secs(1);
const QUESTIONS: u32 = 500;

impl Driver {
    /// Asks over a connection of its own while the ring is read.
    pub(crate) fn ask(&mut self, target: SocketAddr, check: &str) -> Result<Told> {
        let check = Check::parse(check).map_err(|rule| anyhow::anyhow!("{check}: {rule}"))?;
        let question = self.prober.connect(self.ifindex, target)?;
        Rc::clone(&self.runtime).block_on(async {
            let asked = question.ask(&check, LIMIT);
            tokio::pin!(asked);
            loop {
                tokio::select! {
                    told = &mut asked => return Ok(told),
                    () = self.prober.caught() => drop(self.prober.collect()),
                }
            }
        })
    }
}

/// Answers one connection as the path that is asked for says.
pub(crate) fn misbehave(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut byte = [0; 1];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
        request.extend(byte);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let answer =
        |status: &str, body: &str| format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let told = match path.as_str() {
        "/well" => answer("200 OK", "well"),
        "/large" => answer("200 OK", &"x".repeat(200_000)),
        "/moved" => answer("302 Found", ""),
        "/ill" => answer("503 Service Unavailable", "no"),
        "/garbage" => "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
        "/half" => "HTTP/1.1 200".to_owned(),
        "/host" if request.to_ascii_lowercase().contains("\r\nhost: shop.example:80\r\n") => answer("200 OK", ""),
        "/silent" => {
            // Until the client gives up.
            while stream.read(&mut byte)? == 1 {}
            return Ok(());
        }
        "/drop" => return Ok(()),
        "/slowly" => {
            for byte in answer("200 OK", "").bytes() {
                stream.write_all(&[byte])?;
                std::thread::sleep(Duration::from_millis(2));
            }
            return Ok(());
        }
        _ => answer("404 Not Found", ""),
    };
    stream.write_all(told.as_bytes())
}

#[test]
fn answers_are_told_apart() -> Result<()> {
    let mut world = World::raise()?;
    world.watch_wire()?;
    let listener = world.fabric.nodes[0].pod.run(|| TcpListener::bind(("::", 8090)))??;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || misbehave(stream));
        }
    });
    let serve = |world: &mut World, port: u16| {
        let node = &world.fabric.nodes[0];
        let backend = |vip| SocketAddr::new(node.backend_address(vip).ip(), port);
        let mappings = targets().map(|target| Mapping::tcp(target.ip(), PORT, backend(target.ip())));
        world.fabric.nodes[0].proxy.set(mappings.to_vec())
    };
    serve(&mut world, 8090)?;
    let ill = |complaint| Told::Ill(complaint);
    for target in targets() {
        for (check, wanted) in [
            ("http:///well", Told::Well),
            ("http:///large", Told::Well),
            ("http:///moved", Told::Well),
            ("http:///slowly", Told::Well),
            ("http://shop.example/host", Told::Well),
            ("http:///host", ill(Complaint::Status(404))),
            ("http:///ill", ill(Complaint::Status(503))),
            ("http:///garbage", ill(Complaint::Garbled)),
            ("http:///half", ill(Complaint::Closed)),
            ("http:///drop", ill(Complaint::Closed)),
            ("http:///silent", ill(Complaint::NoAnswer)),
            ("https://:80/well", ill(Complaint::NoAnswer)),
            ("grpc://:80", ill(Complaint::Garbled)),
        ] {
            let told = world.probing(|driver| driver.ask(target, check))?;
            ensure!(told == wanted, "{target} {check}: {told:?} instead of {wanted:?}");
        }
    }
    let micros = world.probing(|driver| {
        driver.ask(targets()[0], "http:///well")?;
        let started = cpu_time();
        for turn in 0..QUESTIONS {
            let told = driver.ask(targets()[0], "http:///well")?;
            ensure!(told == Told::Well, "question {turn}: {told:?}");
        }
        Ok(cpu_time().saturating_sub(started).as_micros() / u128::from(QUESTIONS))
    })?;
    println!("{QUESTIONS} questions over HTTP, {micros} us of CPU each");
    serve(&mut world, 8091)?;
    for target in targets() {
        let told = world.probing(|driver| driver.ask(target, "http:///well"))?;
        ensure!(told == Told::Lost, "{target}, where nobody listens: {told:?}");
    }
    let (probes, others) = world.seen_on_the_wire()?;
    ensure!(probes == 0 && others > 0, "{probes} packets of probes on the wire, {others} others");
    // Every connection is over, also that of the silent one.
    wait::until_true("no connection is left", Duration::from_secs(5), || {
        let open = world.fabric.nodes[0].pod.exec("ss", &["-Htn", "state", "established", "sport", "=", ":8090"])?;
        ensure!(open.trim().is_empty(), "{open}");
        Ok(true)
    })
}

/// Servers that others wrote: etcd's gRPC health, and TLS, HTTP/2 and HTTP/1.1 of the API server.
#[test]
fn servers_of_others_are_understood() -> Result<()> {
    let (mut world, lab) = (World::raise()?, Lab::new()?);
    let target = targets()[0];
    let std::net::IpAddr::V4(address) = world.fabric.nodes[0].backend_address(target.ip()).ip() else {
        anyhow::bail!("no IPv4")
    };
    let api = ApiServer::start(&lab, Place::Inside(&world.fabric.nodes[0].pod, address))?;
    let secure = SocketAddr::new(address.into(), api.port()?);
    world.fabric.nodes[0].proxy.set(vec![Mapping::tcp(target.ip(), PORT, secure)])?;
    for (check, wanted) in [
        ("tls://:80", Told::Well),
        ("tls://kubernetes:80", Told::Well),
        ("https://:80/livez", Told::Well),
        ("https://kubernetes.default.svc:80/livez?verbose", Told::Well),
        ("https://:80/api/v1/nodes", Told::Ill(Complaint::Status(403))),
        ("http://:80/livez", Told::Ill(Complaint::Status(400))),
    ] {
        let told = world.probing(|driver| driver.ask(target, check))?;
        ensure!(told == wanted, "{check}: {told:?} instead of {wanted:?}");
    }
    // etcd listens on the pod's loopback alone.
    let inside = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), api.etcd_port());
    let listener = world.fabric.nodes[0].pod.run(|| TcpListener::bind((address, 0)))??;
    let outside = listener.local_addr()?;
    forward::hand_over(listener, &world.fabric.nodes[0].pod, inside);
    world.fabric.nodes[0].proxy.set(vec![Mapping::tcp(target.ip(), PORT, outside)])?;
    for (check, wanted) in [
        ("grpc://:80", Told::Well),
        ("grpc://:80/no.such.Service", Told::Ill(Complaint::NotServing(Some(5)))),
        ("grpcs://:80", Told::Ill(Complaint::Closed)),
        ("http://:80/health", Told::Well),
    ] {
        let told = world.probing(|driver| driver.ask(target, check))?;
        ensure!(told == wanted, "{check}: {told:?} instead of {wanted:?}");
    }
    Ok(())
}

/// A datagram for a datagram, a refusal for none, silence for silence.
#[test]
fn datagrams_are_answered() -> Result<()> {
    let mut world = World::raise()?;
    world.watch_wire()?;
    for target in targets() {
        let backend = world.fabric.nodes[0].backend_address(target.ip());
        let mapping = Mapping { protocol: Protocol::Udp, ..Mapping::tcp(target.ip(), PORT, backend) };
        world.fabric.nodes[0].proxy.set(vec![mapping])?;
        let ask = |world: &World, limit| world.probing(|driver| driver.say(target, b"hello", limit));
        let told = ask(&world, super::ANSWER)?;
        ensure!(told == Some(Reply::Accepted), "{target}: {told:?}");
        world.fabric.nodes[0].backend.stop()?;
        let told = ask(&world, super::ANSWER)?;
        ensure!(told == Some(Reply::RefusedBehind), "{target}, where nobody listens: {told:?}");
        world.fabric.nodes[0].backend.resume()?;
        let drop = "table inet csm_drop { chain in { type filter hook input priority 0; udp dport 8080 drop; }; }";
        let drop = drop.replace("8080", &backend.port().to_string());
        world.fabric.nodes[0].pod.exec_with_input("nft", &["-f", "-"], &drop)?;
        let told = ask(&world, Duration::from_millis(300))?;
        ensure!(told.is_none(), "{target}, a black hole: {told:?}");
        world.fabric.nodes[0].pod.exec("nft", &["delete", "table", "inet", "csm_drop"])?;
        world.fabric.nodes[0].proxy.lose()?;
        let told = ask(&world, super::ANSWER)?;
        ensure!(told == Some(Reply::RefusedHere), "{target}, without DNAT: {told:?}");
    }
    let (probes, others) = world.seen_on_the_wire()?;
    ensure!(probes == 0 && others > 0, "{probes} packets of probes on the wire, {others} others");
    Ok(())
}
