//! When to read which VIP from the RIB: soon after a change, then now and then, never many at a time. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::types::Vip;

/// VIPs read in one go: about 1 ms of bgpd's only thread.
const CHUNK: usize = 20;
/// The rest that bgpd gets between two chunks.
const PAUSE: Duration = Duration::from_millis(20);
/// When a VIP is read after it was touched. bgpd processes a change 50 ms after the command, and holds back the first
/// UPDATE of a new session for 1 s or more (`coalesce-time`).
const SOON: [Duration; 4] =
    [Duration::from_millis(60), Duration::from_millis(150), Duration::from_secs(1), Duration::from_secs(3)];
/// The shortest time between two readings of a VIP that nobody touched.
const PERIOD: Duration = Duration::from_secs(10);
/// The share of that time for each VIP, so that many are read less often.
const SHARE: Duration = Duration::from_millis(25);

/// The VIPs to read and when.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    watched: BTreeMap<Vip, Watched>,
    due: BTreeSet<(Instant, Vip)>,
    rest_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    touched: Instant,
    due: Instant,
    /// It should be in the RIB: read on for ever.
    present: bool,
}

impl Schedule {
    /// Reads a VIP soon; one that should not be `present` is forgotten after the last of the early readings.
    pub(super) fn touch(&mut self, vip: Vip, present: bool, now: Instant) {
        let entry = Watched { touched: now, due: now + SOON[0], present };
        if let Some(old) = self.watched.insert(vip, entry) {
            self.due.remove(&(old.due, vip));
        }
        self.due.insert((entry.due, vip));
    }

    /// As [`Schedule::touch`], but leaves a VIP alone of which nothing else is expected than before.
    pub(super) fn expect(&mut self, vip: Vip, present: bool, now: Instant) {
        if self.watched.get(&vip).is_none_or(|watched| watched.present != present) {
            self.touch(vip, present, now);
        }
    }

    /// Reads every watched VIP soon: bgpd has lost its state.
    pub(super) fn touch_all(&mut self, now: Instant) {
        let watched: Vec<_> = self.watched.iter().map(|(vip, watched)| (*vip, watched.present)).collect();
        for (vip, present) in watched {
            self.touch(vip, present, now);
        }
    }

    /// When the next chunk may be read.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let (due, _) = self.due.first()?;
        Some(self.rest_until.map_or(*due, |rest| rest.max(*due)))
    }

    /// Puts the next chunk off.
    pub(super) fn rest(&mut self, now: Instant) {
        self.rest_until = Some(now + PAUSE);
    }

    /// Takes the VIPs that are due, a chunk at most, and schedules each anew or forgets it.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Vip> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK
            && let Some((due, vip)) = self.due.first().copied()
            && due <= now
        {
            self.due.remove(&(due, vip));
            self.reschedule(vip, now);
            chunk.push(vip);
        }
        self.rest(now);
        chunk
    }

    fn reschedule(&mut self, vip: Vip, now: Instant) {
        let slow = PERIOD.max(SHARE * u32::try_from(self.watched.len()).unwrap_or(u32::MAX));
        let Some(entry) = self.watched.get_mut(&vip) else { return };
        let early = SOON.iter().map(|after| entry.touched + *after).find(|at| *at > now);
        match early {
            Some(at) => entry.due = at,
            None if entry.present => entry.due = now + slow,
            None => {
                self.watched.remove(&vip);
                return;
            }
        }
        self.due.insert((entry.due, vip));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vips(count: u8) -> impl Iterator<Item = Vip> {
        (0..count).map(|last| Vip::new([10, 0, 0, last].into()))
    }

    /// Reads as soon as it may until `end`; the times of each reading after the start and how many VIPs it took.
    fn play(schedule: &mut Schedule, start: Instant, end: Duration) -> Vec<(u128, usize)> {
        let mut readings = Vec::new();
        while let Some(at) = schedule.next_at().filter(|at| *at <= start + end) {
            readings.push(((at - start).as_millis(), schedule.take(at).len()));
        }
        readings
    }

    #[test]
    fn a_touched_vip_is_read_soon_and_then_slowly() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        vips(1).for_each(|vip| schedule.touch(vip, true, start));
        let readings = play(&mut schedule, start, Duration::from_secs(24));
        assert_eq!(readings, [(60, 1), (150, 1), (1000, 1), (3000, 1), (13_000, 1), (23_000, 1)]);
    }

    #[test]
    fn a_withdrawn_vip_is_forgotten() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        vips(1).for_each(|vip| schedule.touch(vip, false, start));
        assert_eq!(play(&mut schedule, start, Duration::from_secs(60)), [(60, 1), (150, 1), (1000, 1), (3000, 1)]);
        assert!(schedule.watched.is_empty() && schedule.due.is_empty());
    }

    #[test]
    fn touching_again_replaces_what_was_due() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        vips(1).for_each(|vip| schedule.touch(vip, true, start));
        vips(1).for_each(|vip| schedule.touch(vip, false, start + Duration::from_millis(10)));
        assert_eq!(schedule.due.len(), 1);
        assert_eq!(play(&mut schedule, start, Duration::from_secs(60)), [(70, 1), (160, 1), (1010, 1), (3010, 1)]);
    }

    #[test]
    fn the_renewal_of_a_lease_is_no_reason_to_read() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        vips(1).for_each(|vip| schedule.expect(vip, true, start));
        assert_eq!(play(&mut schedule, start, Duration::from_secs(4)).len(), 4);
        let later = start + Duration::from_secs(5);
        vips(1).for_each(|vip| schedule.expect(vip, true, later));
        assert_eq!(schedule.next_at(), Some(start + Duration::from_secs(13)));
        vips(1).for_each(|vip| schedule.expect(vip, false, later));
        assert_eq!(schedule.next_at(), Some(later + SOON[0]));
        schedule.touch_all(start + Duration::from_secs(6));
        assert_eq!(schedule.next_at(), Some(start + Duration::from_secs(6) + SOON[0]));
    }

    #[test]
    fn many_are_read_in_chunks_with_rests() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        vips(200).for_each(|vip| schedule.touch(vip, true, start));
        let readings = play(&mut schedule, start, Duration::from_millis(500));
        assert!(readings.iter().all(|(_, count)| *count <= CHUNK));
        assert!(readings.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 20));
        assert_eq!(
            readings.iter().map(|(_, count)| count).sum::<usize>(),
            300,
            "200 at once, those before 150 ms again"
        );
    }
}
