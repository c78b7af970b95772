//! A socket buffer as the parser's source.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{__sk_buff, bpf_hdr_start_off::BPF_HDR_START_NET};
use aya_ebpf::helpers::bpf_skb_load_bytes_relative;
use cosmolet_common::{Family, Source};

/// The length of an Ethernet header.
pub(crate) const ETHERNET: u32 = 14;
/// The length of no header: a tunnel's, a modem's.
pub(crate) const BARE: u32 = 0;

/// The context's fields, each read where it is used: loading one is one instruction.
#[derive(Clone, Copy)]
pub(crate) struct Skb(pub(crate) *mut __sk_buff);

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        impl Skb {
            $(
                $(#[$doc])*
                #[inline(always)]
                pub(crate) fn $name(self) -> u32 {
                    // SAFETY: the kernel hands a valid context to the program, and the verifier rewrites this load.
                    unsafe { (*self.0).$name }
                }
            )*
        }
    };
}

fields! {
    /// The length, from `data` on.
    len,
    /// The interface on which the packet arrived at this host; 0 if this host made it.
    ingress_ifindex,
    /// The number of segments; 0 means 1.
    gso_segs,
    /// The interface that the packet is on now.
    ifindex,
}

impl Skb {
    /// The network protocol, if it is IP.
    #[inline(always)]
    pub(crate) fn family(self) -> Option<Family> {
        const IPV4: u32 = (0x0800_u16).to_be() as u32;
        const IPV6: u32 = (0x86dd_u16).to_be() as u32;
        // SAFETY: as for the other fields.
        match unsafe { (*self.0).protocol } {
            IPV4 => Some(Family::V4),
            IPV6 => Some(Family::V6),
            _ => None,
        }
    }
}

/// The packet as it lies in the buffer's linear part, behind a link header of `LINK` bytes: the fast way, at fixed
/// offsets only.
pub(crate) struct Direct<const LINK: u32> {
    data: usize,
    end: usize,
}

impl<const LINK: u32> Direct<LINK> {
    /// `None` if an Ethernet header is not a plain one, by the EtherType at its place.
    #[inline(always)]
    pub(crate) fn new(skb: Skb) -> Option<Self> {
        // SAFETY: as for the other fields; the verifier takes these two for pointers.
        let (data, end, protocol) = unsafe { ((*skb.0).data as usize, (*skb.0).data_end as usize, (*skb.0).protocol) };
        if LINK == ETHERNET {
            if data + LINK as usize > end {
                return None;
            }
            // SAFETY: within the linear part, as was just compared.
            let ether_type = unsafe { *((data + 12) as *const u16) };
            if u32::from(ether_type) != protocol {
                return None;
            }
        }
        Some(Self { data, end })
    }
}

impl<const LINK: u32> Source for Direct<LINK> {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let at = self.data + (LINK + offset) as usize;
        if at + 4 * N > self.end {
            return None;
        }
        // SAFETY: within the linear part, as was just compared. The kernel puts the network header at a multiple of
        // four where its processor needs that (NET_IP_ALIGN), and the verifier holds the program to it.
        Some(unsafe { *(at as *const [u32; N]) })
    }
}

/// The packet behind its network header, wherever that is and however the buffer is laid out: the way that always works.
pub(crate) struct Relative(pub(crate) Skb);

impl Source for Relative {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let mut words = MaybeUninit::<[u32; N]>::uninit();
        // SAFETY: the helper writes as many bytes as it is told the buffer has, or fails.
        let result = unsafe {
            bpf_skb_load_bytes_relative(
                self.0.0.cast(),
                offset,
                words.as_mut_ptr().cast(),
                4 * N as u32,
                BPF_HDR_START_NET,
            )
        };
        // SAFETY: 0 says that all of it was written.
        (result == 0).then(|| unsafe { words.assume_init() })
    }
}
