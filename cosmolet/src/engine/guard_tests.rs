use super::*;

const NAMES: [&str; 6] = ["n1", "n2", "n3", "n4", "n5", "n6"];

fn vip() -> Vip {
    Vip::new(std::net::Ipv4Addr::new(10, 100, 0, 1).into())
}

fn nodes(count: usize) -> Nodes {
    NAMES.iter().take(count).map(|name| (*name).to_owned()).collect()
}

fn ask(register: &mut Register, node: &str, candidates: usize) -> Result<(), Refused> {
    register.judge(node, &[(vip(), nodes(candidates))].into(), 0.5)[&vip()]
}

#[test]
fn half_of_the_candidates_at_most() {
    for (candidates, granted) in [(2, 1), (3, 1), (4, 2), (5, 2), (6, 3)] {
        let mut register = Register::default();
        let answers: Vec<_> =
            NAMES.iter().take(candidates - 1).map(|node| ask(&mut register, node, candidates)).collect();
        let expected = (0..candidates - 1).map(|index| if index < granted { Ok(()) } else { Err(Refused::ShareSpent) });
        assert_eq!(answers, expected.collect::<Vec<_>>(), "{candidates} candidates");
    }
}

#[test]
fn the_last_candidate_stays() {
    let mut register = Register::default();
    assert_eq!(ask(&mut register, "n1", 1), Err(Refused::LastCandidate));
    // Whoever asks is one, whatever the slices say at the moment.
    assert_eq!(register.judge("n9", &[(vip(), Nodes::new())].into(), 1.0)[&vip()], Err(Refused::LastCandidate));
    assert_eq!(ask(&mut Register::default(), "n1", 2), Ok(()));
}

#[test]
fn where_all_suspect_nobody_is_ejected() {
    let mut register = Register::default();
    assert_eq!(ask(&mut register, "n1", 3), Ok(()));
    assert_eq!(ask(&mut register, "n2", 3), Err(Refused::ShareSpent));
    assert_eq!(ask(&mut register, "n3", 3), Err(Refused::EveryoneSuspects));
    assert_eq!(ask(&mut register, "n1", 3), Err(Refused::EveryoneSuspects), "what was granted is taken back");
    // One of them is well again: then it is a matter of nodes.
    register.judge("n3", &BTreeMap::new(), 0.5);
    assert_eq!(ask(&mut register, "n2", 3), Ok(()));
}

#[test]
fn a_permission_ends_with_the_candidates_it_rests_on() {
    let mut register = Register::default();
    assert_eq!(ask(&mut register, "n1", 4), Ok(()));
    assert_eq!(ask(&mut register, "n2", 4), Ok(()));
    // n4 goes: one of the two returns, the other may stay.
    assert_eq!(ask(&mut register, "n1", 3), Err(Refused::ShareSpent));
    assert_eq!(ask(&mut register, "n2", 3), Ok(()));
}

#[test]
fn what_is_no_longer_wanted_is_released_and_leaves_nothing() {
    let mut register = Register::default();
    assert_eq!(ask(&mut register, "n1", 2), Ok(()));
    assert!(register.judge("n1", &BTreeMap::new(), 0.5).is_empty());
    assert_eq!(register, Register::default());
}

#[test]
fn what_a_dead_node_has_left_does_not_count() {
    let mut register = Register::default();
    assert_eq!(ask(&mut register, "n6", 6), Ok(()));
    assert_eq!(ask(&mut register, "n1", 2), Ok(()));
}

#[test]
fn no_share_empties_a_vip() {
    for share in [-1.0, 0.0, 0.5, 1.0, 7.0, f64::NAN] {
        for candidates in 1..=6 {
            let mut register = Register::default();
            let granted = NAMES
                .iter()
                .take(candidates)
                .filter(|node| register.judge(node, &[(vip(), nodes(candidates))].into(), share)[&vip()].is_ok());
            assert!(granted.count() < candidates, "{share} of {candidates}");
        }
    }
}

/// The register, nodes that lie, crash and are cut off, and readings that are old when they are written upon.
mod model {
    use proptest::prelude::*;

    use super::*;

    /// Seconds between two looks of a node that wants or has something.
    const LOOK: u64 = 15;

    #[derive(Clone, Debug)]
    enum Move {
        Wait(u64),
        /// A node's signal turns.
        Signal(usize, bool),
        /// A node's endpoint comes or goes, as the slices tell.
        Candidate(usize, bool),
        /// A node's daemon dies and starts again with no memory.
        Restart(usize),
        /// A node reads the register and the candidates.
        Read(usize),
        /// It writes upon what it read; the answer may be lost on its way back.
        Write {
            node: usize,
            heard: bool,
        },
    }

    #[derive(Clone, Debug, Default)]
    struct Node {
        signal: bool,
        candidate: bool,
        read: Option<(u64, u64, Register, Nodes)>,
        until: Option<u64>,
    }

    #[derive(Debug, Default)]
    struct World {
        now: u64,
        version: u64,
        register: Register,
        nodes: Vec<Node>,
        /// The last time at which a candidate went, or one came that may be withdrawn.
        shaken: Option<u64>,
    }

    impl World {
        fn withdrawn(&self, node: &Node) -> bool {
            node.signal && node.until.is_some_and(|until| self.now < until)
        }

        fn candidates(&self) -> Nodes {
            let names = NAMES.iter().zip(&self.nodes).filter(|(_, node)| node.candidate);
            names.map(|(name, _)| (*name).to_owned()).collect()
        }

        fn make(&mut self, step: Move) {
            let count = self.nodes.len();
            match step {
                Move::Wait(seconds) => self.now += seconds,
                Move::Signal(node, signal) => {
                    let node = &mut self.nodes[node % count];
                    node.signal = signal;
                    // A verdict that has ended does not begin again on an old permission.
                    node.until = node.until.filter(|_| signal);
                }
                Move::Candidate(node, candidate) => {
                    if std::mem::replace(&mut self.nodes[node % count].candidate, candidate) != candidate {
                        self.shaken = Some(self.now);
                    }
                }
                Move::Restart(node) => {
                    let candidate = self.nodes[node % count].candidate;
                    self.nodes[node % count] = Node { candidate, ..Node::default() };
                }
                Move::Read(node) => {
                    let reading = (self.version, self.now, self.register.clone(), self.candidates());
                    self.nodes[node % count].read = Some(reading);
                }
                Move::Write { node, heard } => self.write(node % count, heard),
            }
        }

        /// The compare-and-swap: nothing is written upon an old reading, and nothing granted.
        fn write(&mut self, index: usize, heard: bool) {
            let Some((version, at, mut register, candidates)) = self.nodes[index].read.take() else { return };
            if version != self.version {
                return;
            }
            let wanted = if self.nodes[index].signal { vec![(vip(), candidates)] } else { vec![] };
            let answers = register.judge(NAMES[index], &wanted.into_iter().collect(), 0.5);
            self.version += 1;
            self.register = register;
            if heard {
                let granted = answers.get(&vip()).is_some_and(Result::is_ok);
                self.nodes[index].until = granted.then(|| at + VALID_FOR.as_secs());
            }
        }

        fn check(&self) {
            let mut candidates = self.nodes.iter().filter(|node| node.candidate).peekable();
            let emptied = candidates.peek().is_some() && candidates.all(|node| self.withdrawn(node));
            let recent = self.shaken.is_some_and(|at| self.now < at + VALID_FOR.as_secs());
            assert!(!emptied || recent, "every candidate is withdrawn: {self:?}");
        }
    }

    fn moves() -> impl Strategy<Value = Move> {
        let node = 0..6_usize;
        prop_oneof![
            2 => (1..2 * LOOK).prop_map(Move::Wait),
            3 => (node.clone(), prop::bool::weighted(0.8)).prop_map(|(node, signal)| Move::Signal(node, signal)),
            1 => (node.clone(), any::<bool>()).prop_map(|(node, candidate)| Move::Candidate(node, candidate)),
            1 => node.clone().prop_map(Move::Restart),
            6 => node.clone().prop_map(Move::Read),
            6 => (node, prop::bool::weighted(0.9)).prop_map(|(node, heard)| Move::Write { node, heard }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        /// While the candidates stay the same, no schedule withdraws all of them; when some go, one is back before the
        /// permissions that rest on them have run out.
        #[test]
        fn no_schedule_withdraws_every_candidate(count in 1..=6_usize, steps in prop::collection::vec(moves(), 1..200)) {
            let candidate = Node { candidate: true, ..Node::default() };
            let mut world = World { nodes: vec![candidate; count], ..World::default() };
            for step in steps {
                world.make(step);
                world.check();
            }
        }
    }
}
