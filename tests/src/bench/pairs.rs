//! Many Services beside the stage's own, each with a VIP of both families.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::fabric::{BACKEND_PORT, vip4, vip6};
use crate::objects;
use crate::stage::PORT;

/// The first of so many; the VIP before it is that of the stage's own Service.
#[must_use]
pub const fn numbers(pairs: u16) -> Range<u16> {
    2..2 + pairs
}

/// Their VIPs with the port.
#[must_use]
pub fn targets(pairs: u16) -> Vec<SocketAddr> {
    numbers(pairs).flat_map(|n| [vip4(n), vip6(n)]).map(|vip| SocketAddr::new(vip, PORT)).collect()
}

/// Themselves, with `externalTrafficPolicy: Local`.
#[must_use]
pub fn services(pairs: u16) -> Vec<Service> {
    numbers(pairs).map(|n| objects::local(objects::service(&name(n), &[vip4(n), vip6(n)], &[PORT]))).collect()
}

/// Their slices, one of each family, with these endpoints in a VIP's family.
pub fn slices(pairs: u16, endpoints: impl Fn(IpAddr) -> Vec<Endpoint>) -> Vec<EndpointSlice> {
    let slice = |n: u16, vip: IpAddr, family: &str| {
        objects::slice(&format!("{}-{family}", name(n)), &name(n), BACKEND_PORT, endpoints(vip))
    };
    numbers(pairs).flat_map(|n| [slice(n, vip4(n), "v4"), slice(n, vip6(n), "v6")]).collect()
}

fn name(n: u16) -> String {
    format!("pair{n}")
}
