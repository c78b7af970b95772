//! `cosmolet top`

mod board;
mod view;

use std::io::IsTerminal as _;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::style::{Color, Style};

use self::board::{Board, Order};
use super::{client, explain};
use crate::http::explain::Explain;
use crate::http::status::NodeStatus;
use crate::http::vips::Vips;

/// How often the daemon is asked: it reads its counters as often.
const EACH: Duration = Duration::from_secs(1);
/// How long an answer may wait to be drawn.
const TICK: Duration = Duration::from_millis(100);

/// Shows a node's VIPs until the operator leaves.
///
/// # Errors
/// There is no terminal, or it fails. A daemon that is away is shown, and asked again.
pub fn run(server: &str) -> Result<ExitCode> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!(
            "top needs a terminal; for programs there are `cosmolet status -o json` and `cosmolet events --follow -o json`"
        );
    }
    let (question, questions) = mpsc::channel();
    let (tell, answers) = mpsc::channel();
    let server = server.to_owned();
    // It ends with the program: an answer that is waited for holds nobody up.
    std::thread::Builder::new().name("asking".to_owned()).spawn(move || ask(&server, &questions, &tell))?;
    let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut app = App { colours, ..App::default() };
    let mut terminal = ratatui::try_init()?;
    let result = show(&mut terminal, &mut app, &question, &answers);
    ratatui::try_restore()?;
    result.map(|()| ExitCode::SUCCESS)
}

/// What is on the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Screen {
    #[default]
    List,
    /// The list, while words to look for are typed.
    Search,
    /// Why a VIP is as it is.
    Story(IpAddr),
    Help,
}

#[derive(Debug, Default)]
struct App {
    board: Board,
    node: Option<NodeStatus>,
    /// The daemon's time of day, in seconds since 1970, when it last answered, and when that was.
    clock: (f64, Duration),
    /// Why the daemon has not answered.
    unanswered: Option<String>,
    screen: Screen,
    story: Option<String>,
    /// Lines of the story above the screen.
    scrolled: usize,
    /// VIPs above the screen.
    above: usize,
    /// Lines that the screen has.
    room: usize,
    colours: bool,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Nothing,
    Leave,
    /// The story of the VIP that was chosen.
    Story,
}

/// What the daemon is asked.
struct Question {
    /// The revision that the answer begins after.
    after: u64,
    /// The VIP whose story is told.
    story: Option<IpAddr>,
}

/// What the daemon said.
struct Answer {
    node: NodeStatus,
    vips: Vips,
    story: Option<(IpAddr, String)>,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "keys that mean nothing")]
impl App {
    fn colour(&self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn key(&mut self, key: KeyEvent) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Wish::Leave;
        }
        match self.screen {
            Screen::List => self.list_key(key.code),
            Screen::Search => self.search_key(key.code),
            Screen::Story(_) => self.story_key(key.code),
            Screen::Help => {
                self.screen = Screen::List;
                Wish::Nothing
            }
        }
    }

    fn list_key(&mut self, code: KeyCode) -> Wish {
        let screen = isize::try_from(self.room.saturating_sub(1)).unwrap_or(isize::MAX);
        match code {
            KeyCode::Char('q') => return Wish::Leave,
            KeyCode::Up | KeyCode::Char('k') => self.board.go(-1),
            KeyCode::Down | KeyCode::Char('j') => self.board.go(1),
            KeyCode::PageUp => self.board.go(-screen),
            KeyCode::PageDown => self.board.go(screen),
            KeyCode::Home | KeyCode::Char('g') => self.board.go(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.board.go(isize::MAX),
            KeyCode::Char('s') => self.board.order = self.board.order.next(),
            KeyCode::Char('h') => self.board.order = Order::Handshakes,
            KeyCode::Char('r') => self.board.order = Order::Refusals,
            KeyCode::Char('a') => self.board.order = Order::State,
            KeyCode::Char('c') => self.board.order = Order::Since,
            KeyCode::Char('v') => self.board.order = Order::Vip,
            KeyCode::Char('/') => self.screen = Screen::Search,
            KeyCode::Char('?') => self.screen = Screen::Help,
            KeyCode::Esc => self.board.search.clear(),
            KeyCode::Enter => {
                if let Some(vip) = self.board.chosen() {
                    (self.screen, self.story, self.scrolled) = (Screen::Story(vip), None, 0);
                    return Wish::Story;
                }
            }
            _ => {}
        }
        Wish::Nothing
    }

    fn search_key(&mut self, code: KeyCode) -> Wish {
        match code {
            KeyCode::Esc => {
                self.board.search.clear();
                self.screen = Screen::List;
            }
            KeyCode::Enter => self.screen = Screen::List,
            KeyCode::Backspace => drop(self.board.search.pop()),
            KeyCode::Char(letter) if !letter.is_control() => self.board.search.push(letter),
            _ => {}
        }
        Wish::Nothing
    }

    fn story_key(&mut self, code: KeyCode) -> Wish {
        let screen = self.room.saturating_sub(1);
        match code {
            KeyCode::Char('q') => return Wish::Leave,
            KeyCode::Up | KeyCode::Char('k') => self.scrolled = self.scrolled.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.scrolled += 1,
            KeyCode::PageUp => self.scrolled = self.scrolled.saturating_sub(screen),
            KeyCode::PageDown => self.scrolled += screen,
            KeyCode::Home | KeyCode::Char('g') => self.scrolled = 0,
            KeyCode::End | KeyCode::Char('G') => self.scrolled = usize::MAX / 2,
            KeyCode::Esc | KeyCode::Enter | KeyCode::Backspace => {
                (self.screen, self.story) = (Screen::List, None);
            }
            _ => {}
        }
        Wish::Nothing
    }

    /// The time of day by the daemon's clock, so long after the start: ages are right whatever this machine's clock says.
    fn now(&self, at: Duration) -> f64 {
        self.clock.0 + at.saturating_sub(self.clock.1).as_secs_f64()
    }

    /// It was chosen while the daemon was asked for something else.
    fn waits_for_a_story(&self) -> bool {
        matches!(self.screen, Screen::Story(_)) && self.story.is_none() && self.unanswered.is_none()
    }

    fn question(&self) -> Question {
        let story = if let Screen::Story(vip) = self.screen { Some(vip) } else { None };
        Question { after: self.board.after(), story }
    }

    /// Takes what the daemon said, or why it said nothing: then what was known before stays on the screen. True: all is known.
    fn learn(&mut self, told: Result<Answer, String>, at: Duration) -> bool {
        let answer = match told {
            Ok(answer) => answer,
            Err(error) => {
                self.unanswered = Some(error);
                return true;
            }
        };
        self.unanswered = None;
        self.clock = (answer.vips.started + answer.node.status.uptime_seconds, at);
        self.node = Some(answer.node);
        if let (Screen::Story(vip), Some((of, story))) = (self.screen, answer.story)
            && vip == of
        {
            self.story = Some(story);
        }
        self.board.learn(answer.vips, at)
    }
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    app: &mut App,
    questions: &Sender<Question>,
    answers: &Receiver<Result<Answer, String>>,
) -> Result<()> {
    let begun = Instant::now();
    let (mut ask_at, mut asked) = (begun, false);
    loop {
        if !asked && ask_at <= Instant::now() {
            questions.send(app.question())?;
            asked = true;
        }
        let now = app.now(begun.elapsed());
        terminal.draw(|frame| view::draw(frame, app, now))?;
        // Until something happens that changes the screen.
        while !event::poll(TICK)? && ask_at > Instant::now() {}
        while event::poll(Duration::ZERO)? {
            if let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
            {
                match app.key(key) {
                    Wish::Nothing => {}
                    Wish::Leave => return Ok(()),
                    Wish::Story => ask_at = Instant::now(),
                }
            }
        }
        while let Ok(told) = answers.try_recv() {
            let whole = app.learn(told, begun.elapsed());
            let pause = if whole && !app.waits_for_a_story() { EACH } else { Duration::ZERO };
            (asked, ask_at) = (false, Instant::now() + pause);
        }
    }
}

/// Asks whatever is asked, until nobody does any more.
fn ask(server: &str, questions: &Receiver<Question>, tell: &Sender<Result<Answer, String>>) {
    while let Ok(question) = questions.recv() {
        let answer = answer(server, &question).map_err(|error| format!("{error:#}"));
        if tell.send(answer).is_err() {
            return;
        }
    }
}

fn answer(server: &str, question: &Question) -> Result<Answer> {
    let node = client::ask(server, "/api/v1/node")?;
    let vips = client::ask(server, &format!("/api/v1/vips?after={}", question.after))?;
    let story = question.story.map(|vip| {
        let told = client::ask::<Explain>(server, &format!("/api/v1/explain/{vip}"));
        (vip, told.map_or_else(|error| format!("{error:#}\n"), |told| explain::text(&told)))
    });
    Ok(Answer { node, vips, story })
}

#[cfg(test)]
mod tests;
