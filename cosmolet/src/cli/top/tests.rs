use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::board::tests::{answer, brief};
use super::*;
use crate::cli::samples;

fn node() -> NodeStatus {
    let mut status = samples::healthy();
    status.vips.clear();
    NodeStatus { status, troubles: Vec::new() }
}

/// A node with VIPs 10.0.0.1 and so on.
fn app(count: usize) -> App {
    let mut app = App::default();
    let vips = |handshakes| {
        let brief = |n| brief(&format!("10.0.{}.{}", n / 250, n % 250 + 1), "advertised", handshakes, 0);
        (0..count).map(brief).collect()
    };
    for (at, handshakes) in [(0, 0), (1, 20)] {
        let told = Answer { node: node(), vips: answer(at + 1, count, vips(handshakes)), story: None };
        assert!(app.learn(Ok(told), Duration::from_secs(at)));
    }
    app
}

fn screen(app: &mut App, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, app, 1000.0 + 90.0)).unwrap();
    terminal.backend().to_string()
}

fn press(app: &mut App, keys: &str) -> Wish {
    let mut last = Wish::Nothing;
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '\u{8}' => KeyCode::Backspace,
            letter => KeyCode::Char(letter),
        };
        last = app.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
    last
}

#[test]
fn a_node_looks_like_this() {
    let mut app = app(2);
    app.unanswered = Some("it went\u{1b}[2J away".to_owned());
    let expected = r#"
"node1: cosmolet 0.1.0, up 2h0m                                                                        "
"  FRR      AS 65001, 2 of 2 BGP sessions up, IPv4 dynamic, IPv6 connected                             "
"  traffic  observe, counted on uplink                                                                 "
"  VIPs     2 advertised                                                                               "
"! it went�[2J away                                                                                    "
"VIP        STATE       REASON               SINCE   HANDSHAKES REFUSED  TRAFFIC   SERVICE             "
"10.0.0.1   advertised  -                    90s     20/s                clear     default/of-10.0.0.1 "
"10.0.0.2   advertised  -                    90s     20/s                clear     default/of-10.0.0.2 "
"                                                                                                      "
"1/2, by handshakes; Enter: why  s: sort  /: search  ?: help  q: leave                                 "
"#;
    assert_eq!(screen(&mut app, 102, 10).trim(), expected.trim());
}

#[test]
fn where_the_operator_stands_stays_in_sight_at_any_size() {
    let mut app = app(1000);
    for (keys, seen) in
        [("", "10.0.0.1 "), ("G", "10.0.3.250"), ("kk", "10.0.3.248"), ("g", "10.0.0.1 "), ("jjj", "10.0.0.4 ")]
    {
        press(&mut app, keys);
        for (width, height) in [(80, 24), (30, 7), (200, 60)] {
            let text = screen(&mut app, width, height);
            assert!(text.contains(seen), "{keys:?} {width} × {height}: {text}");
        }
    }
    // So small that there is room for nothing.
    for (width, height) in [(1, 1), (5, 3), (200, 2)] {
        screen(&mut app, width, height);
    }
}

#[test]
fn a_narrow_terminal_shows_what_matters_most() {
    let head = |width| {
        let text = screen(&mut app(2), width, 12);
        let line = text.lines().find(|line| line.contains("VIP  ")).map(str::to_owned);
        line.unwrap().trim_matches('"').split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(head(100), "VIP STATE REASON SINCE HANDSHAKES REFUSED TRAFFIC SERVICE");
    assert_eq!(head(80), "VIP STATE REASON HANDSHAKES REFUSED SERVICE");
    assert_eq!(head(60), "VIP STATE REASON SERVICE");
    assert_eq!(head(30), "VIP STATE");
}

#[test]
fn a_search_is_typed_and_ended() {
    let mut app = app(20);
    press(&mut app, "/of-10.0.0.1x\u{8}2");
    assert!(screen(&mut app, 100, 30).contains("/of-10.0.0.12▏"));
    assert_eq!(press(&mut app, "\n"), Wish::Nothing, "Enter keeps the search, and tells no story");
    assert!(screen(&mut app, 100, 30).contains("1/1 of 20 with “of-10.0.0.12” (Esc: all)"));
    press(&mut app, "\u{1b}");
    assert!(screen(&mut app, 100, 30).contains("1/20, by handshakes"));
}

#[test]
fn a_story_is_asked_for_scrolled_and_left() {
    let mut app = app(3);
    assert_eq!(press(&mut app, "j\n"), Wish::Story);
    assert_eq!(app.question().story, "10.0.0.2".parse().ok());
    assert!(screen(&mut app, 80, 24).contains("10.0.0.2: asking …"));
    let of = |vip: &str, text: &str| {
        let story = Some((vip.parse().unwrap(), text.to_owned()));
        Ok(Answer { node: node(), vips: answer(3, 3, vec![]), story })
    };
    app.learn(of("10.0.0.1", "of another one"), Duration::ZERO);
    assert!(!screen(&mut app, 80, 24).contains("of another one"));
    let long: String = (1..=100).map(|line| format!("line {line}.\n")).collect();
    app.learn(of("10.0.0.2", &long), Duration::ZERO);
    assert!(screen(&mut app, 80, 24).contains("line 1."));
    press(&mut app, "G");
    let end = screen(&mut app, 80, 24);
    assert!(end.contains("line 100.") && !end.contains("line 1."), "{end}");
    press(&mut app, "k");
    assert!(screen(&mut app, 80, 24).contains("line 99."));
    press(&mut app, "\u{1b}");
    assert_eq!((app.question().story, app.screen), (None, Screen::List));
}

#[test]
fn help_says_every_key_and_any_key_ends_it() {
    let mut app = app(3);
    press(&mut app, "?");
    let help = screen(&mut app, 100, 30);
    for key in ["PgUp", "Home", "Enter", "s  ", "/  ", "Esc", "Ctrl-C"] {
        assert!(help.contains(key), "{key}: {help}");
    }
    assert_eq!(press(&mut app, "q"), Wish::Nothing);
    assert_eq!(press(&mut app, "q"), Wish::Leave);
}

#[test]
fn without_an_answer_what_was_known_stays() {
    let mut app = app(2);
    app.learn(Err("nobody listens".to_owned()), Duration::from_secs(2));
    let text = screen(&mut app, 100, 12);
    assert!(text.contains("! nobody listens") && text.contains("10.0.0.2"), "{text}");
    let mut never = App::default();
    never.learn(Err("nobody listens".to_owned()), Duration::ZERO);
    assert!(screen(&mut never, 100, 12).contains("! nobody listens"));
}

#[test]
fn ages_go_by_the_daemons_clock() {
    let app = app(1);
    // Its second answer: started at 1, up for two hours, heard a second after the start.
    assert_eq!(app.now(Duration::from_secs(1)).round(), 7201.0);
    assert_eq!(app.now(Duration::from_secs(91)).round(), 7291.0);
}

#[test]
fn colours_are_left_out_where_they_are_not_wanted() {
    let drawn = |colours| {
        let mut app = App { colours, ..app(1) };
        app.unanswered = Some("away".to_owned());
        let mut terminal = Terminal::new(TestBackend::new(80, 10)).unwrap();
        terminal.draw(|frame| view::draw(frame, &mut app, 0.0)).unwrap();
        terminal.backend().buffer().content().iter().any(|cell| cell.fg != Color::Reset)
    };
    assert!(drawn(true) && !drawn(false));
}

#[test]
fn a_long_line_of_a_story_is_broken_at_blanks() {
    let wrapped = view::wrapped("  held by BudgetSpent: its traffic has withdrawn it too often", 30);
    assert_eq!(wrapped, ["  held by BudgetSpent: its ", "      traffic has withdrawn it ", "      too often"]);
    assert_eq!(view::wrapped("short", 30), ["short"]);
    assert_eq!(view::wrapped("", 30), [""]);
}
