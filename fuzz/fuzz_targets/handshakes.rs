//! Handshakes as an attacker may make them: any flags and numbers, both directions, against a small table.
//!
//! Nobody fails without an answer of this node's side or 3 s of silence, and every place comes free again.
#![no_main]

use cosmolet_common::follow::{Asked, Entry, Flow, Outcome, PATIENCE, Table, ack, given_up, is_chosen, prefix, refusal, syn, syn_ack};
use libfuzzer_sys::fuzz_target;

struct World {
    places: [Entry; 4],
    now: u64,
    mask: u32,
}

impl Table for World {
    fn place(&mut self, flow: Flow) -> Option<&mut Entry> {
        self.places.get_mut(flow.place(3) as usize)
    }
    fn now(&mut self) -> u64 {
        self.now
    }
    fn mask(&mut self, _: u32) -> u32 {
        self.mask
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&mask, acts)) = data.split_first() else { return };
    let mut world = World { places: [Entry::default(); 4], now: 1, mask: u32::from(mask & 1) * 15 };
    let (mut asked, mut refused, mut told_refused, mut told, mut longest) = (0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
    for act in acts.chunks_exact(8) {
        let &[what, port, s0, s1, a0, a1, id, pause] = act else { return };
        let word = |high, low| u32::from(u16::from_be_bytes([high, low])) << if id & 1 == 0 { 0 } else { 16 };
        let (client, sequence, acknowledgement) = ([u32::from(id); 4], word(s0, s1), word(a0, a1));
        let flow = Flow::new(u64::from(mask), [1, 2, 3, 4], 80, client, u16::from(port & 7));
        world.now += u64::from(pause) * 20_000_000;
        longest += u64::from(pause) * 20_000_000;
        match what % 6 {
            0 if is_chosen(&mut world, flow, u32::from(id)) => asked += u64::from(syn(&mut world, flow, u32::from(id), prefix(client), sequence) == Asked::Followed),
            1 => drop(syn_ack(&mut world, flow, sequence)),
            2 => drop(ack(&mut world, flow, sequence, acknowledgement)),
            3 => refused += u64::from(refusal(&mut world, flow, id & 2 == 0)),
            4 => drop(given_up(&mut world, flow, sequence)),
            0 => {}
            _ => sweep(&mut world, &mut told, &mut told_refused, longest >= PATIENCE),
        }
    }
    world.now += PATIENCE;
    sweep(&mut world, &mut told, &mut told_refused, true);
    assert_eq!(told, asked, "outcomes and followed SYN");
    assert_eq!(told_refused, refused);
    assert!(world.places.iter().all(|entry| entry.tag == 0), "a place was not freed");
});

fn sweep(world: &mut World, told: &mut u64, refused: &mut u64, patient: bool) {
    let now = world.now;
    for entry in world.places.iter_mut().filter(|entry| entry.tag != 0) {
        assert!(entry.sealed());
        let Some(outcome) = entry.outcome(now) else { continue };
        entry.tag = 0;
        *told += 1;
        *refused += u64::from(matches!(outcome, Outcome::RefusedHost | Outcome::RefusedBackend));
        assert!(patient || outcome != Outcome::TimedOut, "timed out too early");
    }
}
