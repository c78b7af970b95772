//! What all daemons say, as one table for a person. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::fleet::Answer;
use crate::cli::table::{self, HEAD, age, aligned, printable};
use crate::http::status::{Status, VipRow};
use crate::http::troubles;

/// So many nodes are named where a row lists them; of more it counts.
const NAMED: usize = 3;
/// Sentences about VIPs that no node advertises; of more it counts.
const EACH: usize = 5;

/// Nodes, what is wrong, and a line for each VIP: who advertises it, and why the others do not.
pub(super) fn table(answers: &[Answer<Status>]) -> String {
    let head = ["VIP", "SERVICE", "ADVERTISED", "BY", "NOT BY"].map(str::to_owned);
    let rows = vips(answers).into_iter().map(|(vip, seen)| {
        let by: Vec<&str> = seen.advertised.iter().map(|(node, _)| *node).collect();
        [
            vip.to_string(),
            or_dash(seen.services.into_iter().collect::<Vec<_>>().join(",")),
            format!("{} of {}", by.len(), by.len() + seen.others.len()),
            or_dash(named(&by)),
            or_dash(why_not(&seen.others)),
        ]
    });
    around(answers, &aligned(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))
}

/// The same with a line for each VIP of each node.
pub(super) fn wide(answers: &[Answer<Status>]) -> String {
    let mut head = vec!["NODE".to_owned()];
    head.extend(HEAD.map(str::to_owned));
    let mut rows: Vec<(IpAddr, [String; HEAD.len() + 1])> = Vec::new();
    for (node, status) in heard(answers) {
        for vip in &status.vips {
            let cells = std::iter::once(node.to_owned()).chain(table::row(vip)).collect::<Vec<_>>();
            if let (Ok(address), Ok(cells)) = (vip.vip.parse(), cells.try_into()) {
                rows.push((address, cells));
            }
        }
    }
    rows.sort_by_key(|(vip, _)| *vip);
    let head: Vec<[String; HEAD.len() + 1]> = head.try_into().into_iter().collect();
    around(answers, &aligned(&head.into_iter().chain(rows.into_iter().map(|(_, cells)| cells)).collect::<Vec<_>>()))
}

/// Everything that an operator should know of at once. Empty: all is as decided, everywhere.
pub(super) fn troubles(answers: &[Answer<Status>]) -> Vec<String> {
    let mut found = Vec::new();
    for answer in answers {
        match &answer.said {
            Ok(status) => found.extend(troubles::troubles(status).iter().map(|one| format!("{}: {one}", answer.node))),
            Err(error) => found.push(format!("{}: {error}", answer.node)),
        }
    }
    let nowhere: Vec<_> = vips(answers).into_iter().filter(|(_, seen)| seen.advertised.is_empty()).collect();
    let sentence = |(vip, seen): &(IpAddr, Seen<'_>)| {
        let services = seen.services.iter().cloned().collect::<Vec<_>>().join(",");
        format!("{vip} ({}) is advertised by no node: {}", or_dash(services), why_not(&seen.others))
    };
    found.extend(nowhere.iter().take(EACH).map(sentence));
    if nowhere.len() > EACH {
        found.push(format!("and {} more VIPs are advertised by no node", nowhere.len() - EACH));
    }
    found
}

/// What the nodes say of one VIP.
#[derive(Default)]
struct Seen<'a> {
    services: BTreeSet<String>,
    advertised: Vec<(&'a str, &'a VipRow)>,
    others: Vec<(&'a str, &'a VipRow)>,
}

fn heard(answers: &[Answer<Status>]) -> impl Iterator<Item = (&str, &Status)> {
    answers.iter().filter_map(|answer| Some((answer.node.as_str(), answer.said.as_ref().ok()?)))
}

fn vips(answers: &[Answer<Status>]) -> BTreeMap<IpAddr, Seen<'_>> {
    let mut vips: BTreeMap<IpAddr, Seen<'_>> = BTreeMap::new();
    for (node, status) in heard(answers) {
        for row in &status.vips {
            let Ok(vip) = row.vip.parse() else { continue };
            let seen = vips.entry(vip).or_default();
            seen.services.extend(row.services.iter().map(|one| format!("{}/{}", one.namespace, one.name)));
            let advertised = matches!(row.state.as_str(), "advertised" | "depreferred");
            let list = if advertised { &mut seen.advertised } else { &mut seen.others };
            list.push((node, row));
        }
    }
    vips
}

/// `node3 (NoLocalEndpoint)`, or how many nodes for each reason.
fn why_not(others: &[(&str, &VipRow)]) -> String {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (node, row) in others {
        reasons.entry(row.reason.as_deref().unwrap_or(&row.state)).or_default().push(node);
    }
    let each = reasons.iter().map(|(reason, nodes)| format!("{} ({reason})", named(nodes)));
    each.collect::<Vec<_>>().join(", ")
}

fn named(nodes: &[&str]) -> String {
    if nodes.len() > NAMED { format!("{} nodes", nodes.len()) } else { nodes.join(",") }
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// The nodes and the troubles above the rows, and what the reasons mean below them.
fn around(answers: &[Answer<Status>], rows: &[String]) -> String {
    let mut lines = nodes(answers);
    lines.extend(troubles(answers).into_iter().map(|trouble| format!("! {trouble}")));
    if rows.len() > 1 {
        lines.push(String::new());
        lines.extend(rows.iter().cloned());
    }
    let rows = heard(answers).flat_map(|(_, status)| &status.vips);
    let reasons: BTreeMap<_, _> =
        rows.filter_map(|vip| Some((vip.reason.as_deref()?, vip.explanation.as_deref()?))).collect();
    if !reasons.is_empty() {
        lines.push(String::new());
        lines.extend(reasons.iter().map(|(reason, explanation)| format!("{reason}: {explanation}")));
    }
    lines.iter().map(|line| format!("{}\n", printable(line))).collect()
}

/// What keeps every VIP off the node.
fn out(status: &Status) -> String {
    let reason = status.node_out.as_deref().or_else(|| status.drained.then_some("drained"));
    reason.map(|reason| format!(", {reason}")).unwrap_or_default()
}

fn nodes(answers: &[Answer<Status>]) -> Vec<String> {
    let head = ["NODE", "COSMOLET", "UP", "VIPS", "FRR", "TRAFFIC"].map(str::to_owned);
    let row = |answer: &Answer<Status>| match &answer.said {
        Ok(status) => [
            answer.node.clone(),
            status.version.clone(),
            age(status.uptime_seconds),
            format!("{}{}", table::vips(status), out(status)),
            table::frr(status),
            table::traffic(status),
        ],
        Err(_) => [answer.node.as_str(), "-", "-", "no answer", "-", "-"].map(str::to_owned),
    };
    aligned(&std::iter::once(head).chain(answers.iter().map(row)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    fn answers() -> Vec<Answer<Status>> {
        let mut second = samples::healthy();
        second.vips[0].state = "withdrawn".to_owned();
        second.vips[0].reason = Some("NoLocalEndpoint".to_owned());
        let answer = |node: &str, said| Answer { node: node.to_owned(), pod: format!("cosmolet-{node}"), said };
        vec![
            answer("node1", Ok(samples::healthy())),
            answer("node2", Ok(second)),
            answer("node3", Err("its pod is not\nrunning".to_owned())),
        ]
    }

    #[test]
    fn a_cluster_reads_like_this() {
        let expected = "\
NODE   COSMOLET  UP    VIPS                       FRR                                                             TRAFFIC
node1  0.1.0     2h0m  1 advertised, 1 withdrawn  AS 65001, 2 of 2 BGP sessions up, IPv4 dynamic, IPv6 connected  observe, counted on uplink
node2  0.1.0     2h0m  2 withdrawn                AS 65001, 2 of 2 BGP sessions up, IPv4 dynamic, IPv6 connected  observe, counted on uplink
node3  -         -     no answer                  -                                                               -
! node3: its pod is not\u{fffd}running
! 10.100.0.2 (default/mail) is advertised by no node: node1,node2 (NoLocalEndpoint)

VIP         SERVICE       ADVERTISED  BY     NOT BY
10.100.0.1  default/web   1 of 2      node1  node2 (NoLocalEndpoint)
10.100.0.2  default/mail  0 of 2      -      node1,node2 (NoLocalEndpoint)

NoLocalEndpoint: its traffic policy is Local and this node has no usable endpoint
";
        assert_eq!(table(&answers()), expected);
    }

    #[test]
    fn a_wide_table_has_a_line_for_each_vip_of_each_node() {
        let text = wide(&answers());
        let of_web: Vec<&str> = text.lines().filter(|line| line.contains("default/web")).collect();
        assert!(of_web[0].starts_with("node1  10.100.0.1  advertised"), "{text}");
        assert!(of_web[1].starts_with("node2  10.100.0.1  withdrawn "), "{text}");
        assert!(text.contains("NODE   VIP         STATE"), "{text}");
    }

    #[test]
    fn many_nodes_are_counted() {
        assert_eq!(named(&["a", "b", "c"]), "a,b,c");
        assert_eq!(named(&["a", "b", "c", "d"]), "4 nodes");
    }

    #[test]
    fn nobody_to_show_is_a_table_without_vips() {
        assert_eq!(table(&[]), "NODE  COSMOLET  UP  VIPS  FRR  TRAFFIC\n");
        assert!(troubles(&[]).is_empty());
    }
}
