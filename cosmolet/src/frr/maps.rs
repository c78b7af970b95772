//! The names that our route-maps bear in FRR. Pure.
//!
//! Owns the two names of each content. FRR 8.4 frees a removed route-map as soon as one of the same name is made, while
//! the `network` statements that used it still point to it until its timer (5 s) has run; the next word about one of
//! them, an advertisement or a withdrawal, then writes into freed memory, and bgpd dies. So there a route-map that somebody
//! removed is never made again under the name that statements still have. FRR 10 keeps it while it is used, and there the
//! name stays: an frr-reload.py that is under way finds the statements that it has read, and can remove them.

use std::collections::BTreeSet;
use std::fmt;

use crate::engine::attributes::MapName;

/// The end of the second name.
const AGAIN: &str = "-AGAIN";

/// A route-map of ours in FRR: what it sets, under one of two names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrrMap {
    /// What it sets.
    pub content: MapName,
    /// It bears the second name.
    pub again: bool,
}

impl FrrMap {
    /// The one that sets nothing, under its first name.
    pub const PLAIN: Self = Self { content: MapName::PLAIN, again: false };

    /// Reads a route-map's name; `None` if it is none of ours.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (content, again) = name.strip_suffix(AGAIN).map_or((name, false), |content| (content, true));
        Some(Self { content: MapName::parse(content)?, again })
    }

    /// The same content under the other name.
    #[must_use]
    pub const fn other(self) -> Self {
        Self { again: !self.again, ..self }
    }
}

impl fmt::Display for FrrMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.content, if self.again { AGAIN } else { "" })
    }
}

/// Which name each content goes by now.
#[derive(Clone, Debug, Default)]
pub struct Names {
    again: BTreeSet<MapName>,
}

impl Names {
    /// The route-map to advertise this content with.
    #[must_use]
    pub fn of(&self, content: MapName) -> FrrMap {
        FrrMap { content, again: self.again.contains(&content) }
    }

    /// A route-map that statements use was removed: with FRR of before 10 its content goes by the other name from now on.
    pub fn avoid(&mut self, removed: FrrMap, version: &str) {
        if keeps_used_maps(version) {
            return;
        }
        let FrrMap { content, again } = removed.other();
        if again {
            self.again.insert(content);
        } else {
            self.again.remove(&content);
        }
    }
}

/// Tried with 8.4.4, which does not, and 10.3, which does.
fn keeps_used_maps(version: &str) -> bool {
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major >= 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_are_read_as_they_are_written() {
        for map in [FrrMap::PLAIN, FrrMap::PLAIN.other()] {
            assert_eq!(FrrMap::parse(&map.to_string()), Some(map));
        }
        assert_eq!(FrrMap::PLAIN.other().to_string(), "COSMOLET-ADVERTISE-AGAIN");
        for other in ["COSMOLET-ADVERTISE-AGAIN-AGAIN", "COSMOLET--AGAIN", "-AGAIN", "AGAIN", "COSMOLET-X-AGAIN"] {
            assert_eq!(FrrMap::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_name_that_was_removed_is_not_used_until_the_other_is() {
        let mut names = Names::default();
        assert_eq!(names.of(MapName::PLAIN), FrrMap::PLAIN);
        names.avoid(FrrMap::PLAIN, "8.4.4");
        names.avoid(FrrMap::PLAIN, "8.4.4");
        assert_eq!(names.of(MapName::PLAIN), FrrMap::PLAIN.other());
        names.avoid(FrrMap::PLAIN.other(), "9.1");
        assert_eq!(names.of(MapName::PLAIN), FrrMap::PLAIN);
        names.avoid(FrrMap::PLAIN, "10.3");
        assert_eq!(names.of(MapName::PLAIN), FrrMap::PLAIN);
        names.avoid(FrrMap::PLAIN, "");
        assert_eq!(names.of(MapName::PLAIN), FrrMap::PLAIN.other(), "a version that was not told may be an old one");
    }
}
