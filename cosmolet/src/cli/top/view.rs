//! Draws what `cosmolet top` knows. Pure: from an [`App`] to a frame.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::{Line as Words, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table};

use super::board::Line;
use super::{App, Screen};
use crate::cli::table::{age, frr, printable, traffic};

/// So many of the node's troubles are shown; there is `cosmolet status` for the rest.
const MOST_TROUBLES: usize = 3;

const HELP: &str = "\
  ↑ ↓  k j        one VIP up, down
  PgUp PgDn       a screen up, down
  Home End  g G   the first, the last
  Enter           the story of this VIP: why, and what would change it; Esc goes back
  s               sort by the next of: handshakes, refusals, state, since, VIP
  h r a c v       sort by one of these: handshakes, refusals, state, the last change, VIP
  /               search: addresses, Services, states, reasons, verdicts; all words must fit
  Esc             end the search
  q  Ctrl-C       leave

  HANDSHAKES and REFUSED are counts a second: TCP handshakes completed, and RSTs and ICMP
  unreachables by backends and by this host. The daemon reads its counters once a second.";

/// Draws the whole screen.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App, now: f64) {
    let head = head(app);
    let height = u16::try_from(head.len()).unwrap_or(u16::MAX);
    let [above, middle, below] =
        Layout::vertical([Constraint::Length(height), Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(Paragraph::new(head), above);
    match &app.screen {
        Screen::Story(_) => story(frame, app, middle),
        Screen::List | Screen::Search | Screen::Help => list(frame, app, middle, now),
    }
    frame.render_widget(Paragraph::new(foot(app)), below);
    if matches!(app.screen, Screen::Help) {
        help(frame, middle);
    }
}

/// What the node is, and what is wrong with it.
fn head(app: &App) -> Vec<Words<'static>> {
    let mut lines = Vec::new();
    let states: Vec<String> = app.board.states().iter().map(|(state, count)| format!("{count} {state}")).collect();
    if let Some(node) = &app.node {
        let status = &node.status;
        let name = format!("{}: cosmolet {}, up {}", status.node, status.version, age(status.uptime_seconds));
        lines.push(Words::from(printable(&name).bold()));
        lines.push(Words::from(printable(&format!("  FRR      {}", frr(status)))));
        lines.push(Words::from(printable(&format!("  traffic  {}", traffic(status)))));
    }
    lines.push(Words::from(format!(
        "  VIPs     {}",
        if states.is_empty() { "none".to_owned() } else { states.join(", ") }
    )));
    let troubles = app.node.iter().flat_map(|node| &node.troubles);
    let troubles: Vec<&String> = app.unanswered.iter().chain(troubles).collect();
    for trouble in troubles.iter().take(MOST_TROUBLES) {
        lines.push(Words::styled(format!("! {}", printable(trouble)), app.colour(Color::Red)));
    }
    if troubles.len() > MOST_TROUBLES {
        lines.push(Words::from(format!("! and {} more: cosmolet status", troubles.len() - MOST_TROUBLES)));
    }
    lines
}

fn list(frame: &mut Frame<'_>, app: &mut App, area: Rect, now: f64) {
    let rows = app.board.rows();
    let standing = app.board.standing(&rows);
    let room = usize::from(area.height.saturating_sub(1)).max(1);
    // The least scrolling that keeps where the operator stands in sight.
    app.above = app.above.clamp((standing + 1).saturating_sub(room), standing).min(rows.len().saturating_sub(room));
    app.room = room;
    let vip = rows.iter().map(|(_, line)| line.brief.vip.len()).max().unwrap_or(0);
    let columns = columns(area.width, u16::try_from(vip).unwrap_or(u16::MAX));
    let shown = rows.iter().enumerate().skip(app.above).take(room).map(|(at, (_, line))| {
        let mut cells = cells(line, now, app.colours);
        let row = Row::new(columns.iter().map(|(column, _)| std::mem::take(&mut cells[*column])));
        if at == standing { row.reversed() } else { row }
    });
    let head = Row::new(columns.iter().map(|(column, _)| COLUMNS[*column].0)).bold();
    let widths = columns.iter().map(|(column, width)| match *column {
        SERVICE => Constraint::Fill(1),
        _ => Constraint::Length(*width),
    });
    frame.render_widget(Table::new(shown, widths).header(head), area);
}

/// Each column with its width; the VIP's is that of the longest.
const COLUMNS: [(&str, u16); 8] = [
    ("VIP", 10),
    ("STATE", 11),
    ("REASON", 20),
    ("SINCE", 7),
    ("HANDSHAKES", 10),
    ("REFUSED", 8),
    ("TRAFFIC", 9),
    ("SERVICE", 12),
];
/// It takes the room that is left.
const SERVICE: usize = 7;
/// What is left out first where there is no room for all.
const LEAST: [usize; 6] = [6, 3, 5, 4, SERVICE, 2];

/// Those that such a width has room for.
fn columns(width: u16, vip: u16) -> Vec<(usize, u16)> {
    let mut columns: Vec<_> = COLUMNS.iter().enumerate().map(|(column, (_, width))| (column, *width)).collect();
    columns[0].1 = columns[0].1.max(vip);
    for least in LEAST {
        // A blank stands between two.
        if columns.iter().map(|(_, width)| width.saturating_add(1)).sum::<u16>() <= width.saturating_add(1) {
            break;
        }
        columns.retain(|(column, _)| *column != least);
    }
    columns
}

fn cells(line: &Line, now: f64, colours: bool) -> [Span<'static>; COLUMNS.len()] {
    let brief = &line.brief;
    let services: Vec<&str> = brief.services.iter().map(|claim| claim.service.as_str()).collect();
    let mut verdicts: Vec<&str> = brief.services.iter().map(|claim| claim.verdict.as_str()).collect();
    verdicts.dedup();
    let state = match brief.state.as_str() {
        "advertised" => Color::Green,
        "withdrawn" => Color::Yellow,
        _ => Color::Red,
    };
    [
        Span::from(printable(&brief.vip)),
        Span::styled(printable(&brief.state), if colours { Style::new().fg(state) } else { Style::new() }),
        Span::from(printable(brief.reason.as_deref().unwrap_or("-"))),
        Span::from(age(now - brief.since)),
        Span::from(rate(line.rates.handshakes)),
        Span::from(rate(line.rates.refusals)),
        Span::from(printable(&verdicts.join(","))),
        Span::from(printable(&services.join(","))),
    ]
}

/// A rate in a few letters; nothing for none.
fn rate(a_second: f64) -> String {
    match a_second {
        0.0 => String::new(),
        few if few < 10.0 => format!("{few:.1}/s"),
        some if some < 10_000.0 => format!("{some:.0}/s"),
        many => format!("{:.1}k/s", many / 1000.0),
    }
}

fn story(frame: &mut Frame<'_>, app: &mut App, area: Rect) {
    let Screen::Story(vip) = app.screen else { return };
    let text = app.story.as_deref().map_or_else(|| format!("{vip}: asking …"), str::to_owned);
    let wrapped = text.lines().flat_map(|line| wrapped(line, usize::from(area.width)));
    let lines: Vec<Words<'_>> = wrapped.map(Words::from).collect();
    let room = usize::from(area.height);
    app.scrolled = app.scrolled.min(lines.len().saturating_sub(room));
    app.room = room;
    let shown: Vec<_> = lines.into_iter().skip(app.scrolled).take(room).collect();
    frame.render_widget(Paragraph::new(shown), area);
}

/// A line in as many as it takes, broken at blanks; those that follow stand further in than it begins.
pub(super) fn wrapped(line: &str, width: usize) -> Vec<String> {
    let indent = line.chars().take_while(|c| *c == ' ').count() + 4;
    let mut lines = vec![String::new()];
    for word in line.split_inclusive(' ') {
        let (length, room) = (word.trim_end().chars().count(), width.max(indent + 20));
        if let Some(last) = lines.last_mut() {
            if last.trim().is_empty() || last.chars().count() + length <= room {
                last.push_str(word);
            } else {
                lines.push(format!("{:indent$}{word}", ""));
            }
        }
    }
    lines
}

fn foot(app: &App) -> String {
    match &app.screen {
        Screen::List => {
            let rows = app.board.rows();
            let at = if rows.is_empty() { 0 } else { app.board.standing(&rows) + 1 };
            let of = if rows.len() == app.board.len() { String::new() } else { format!(" of {}", app.board.len()) };
            let search = app.board.search.trim();
            let search = if search.is_empty() { String::new() } else { format!(" with “{search}” (Esc: all)") };
            format!(
                "{at}/{}{of}{search}, by {}; Enter: why  s: sort  /: search  ?: help  q: leave",
                rows.len(),
                app.board.order.as_str()
            )
        }
        Screen::Search => format!("/{}▏  Enter: keep  Esc: all", app.board.search),
        Screen::Story(_) => "↑ ↓ PgUp PgDn: scroll  Esc: back  q: leave".to_owned(),
        Screen::Help => "any key: back".to_owned(),
    }
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let height = u16::try_from(HELP.lines().count() + 2).unwrap_or(u16::MAX).min(area.height);
    let area = Rect { height, ..area };
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(HELP).block(Block::bordered().title(" cosmolet top ")), area);
}
