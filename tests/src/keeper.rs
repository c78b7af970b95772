//! A program of the lab that stays up: `up` starts a keeper, detached from the terminal, which owns everything and ends it when it
//! ends; `down` ends the keeper; `status` says what it told.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::{interrupt, lab, process, wait};

const UP_LIMIT: Duration = Duration::from_secs(600);
const DOWN_LIMIT: Duration = Duration::from_secs(60);
/// The word by which the program is run as a keeper.
const KEEP: &str = "keep";

/// What is kept: its name, such as `cluster`.
#[derive(Clone, Copy, Debug)]
pub struct Keeper(pub &'static str);

impl Keeper {
    /// Where a keeper tells of itself: `pid`, `log` and, once all is ready, `notes`.
    fn place(self, file: &str) -> PathBuf {
        std::env::temp_dir().join(format!("cosmolet-{}", self.0)).join(file)
    }

    /// The running keeper.
    fn running(self) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.place("pid")).ok()?.trim().parse().ok()?;
        // Numbers are used again: it is the keeper only if it runs as one.
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        words.split(|byte| *byte == 0).any(|word| word == KEEP.as_bytes()).then_some(pid)
    }

    /// Runs this program again with `keep ARGS`, shows what it says, and returns once it is ready.
    pub fn up(self, args: &[&str]) -> Result<ExitCode> {
        let name = self.0;
        ensure!(lab::is_root(), "a {name} needs root: it makes network namespaces and runs FRR in them");
        if self.running().is_some() {
            say(&format!("It is up already.\n\n{}", self.notes().unwrap_or_default()))?;
            return Ok(ExitCode::SUCCESS);
        }
        let started = Instant::now();
        fs::create_dir_all(self.place(""))?;
        for file in ["pid", "notes"] {
            drop(fs::remove_file(self.place(file)));
        }
        let log = File::create(self.place("log"))?;
        // A session of its own: neither Ctrl-C nor the terminal's end reaches it.
        let mut keeper = Command::new("setsid")
            .arg(std::env::current_exe()?)
            .arg(KEEP)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting the keeper")?;
        let mut told = File::open(self.place("log"))?;
        let outcome = wait::until(&format!("the {name}"), UP_LIMIT, || {
            let mut text = String::new();
            told.read_to_string(&mut text)?;
            write(&text)?;
            if let Some(ended) = keeper.try_wait()? {
                return Ok(Some(Err(anyhow::anyhow!("the {name} could not be raised ({ended})"))));
            }
            Ok(self.place("notes").exists().then_some(Ok(())))
        })?;
        outcome?;
        say(&format!("up after {:.0} s\n\n{}", started.elapsed().as_secs_f64(), self.notes()?))?;
        Ok(ExitCode::SUCCESS)
    }

    /// Ends the keeper, and leaves nothing.
    pub fn down(self) -> Result<ExitCode> {
        let Some(pid) = self.running() else {
            say("It is not up.")?;
            lab::sweep();
            return Ok(ExitCode::SUCCESS);
        };
        process::terminate_pid(i32::try_from(pid)?);
        wait::until_true("the keeper's end", DOWN_LIMIT, || Ok(self.running().is_none()))?;
        lab::sweep();
        fs::remove_dir_all(self.place(""))?;
        say("It is down.")?;
        Ok(ExitCode::SUCCESS)
    }

    /// Says whether it is up, and what it told; exit code 1 if it is not.
    pub fn status(self) -> Result<ExitCode> {
        match (self.running(), self.notes()) {
            (Some(pid), Ok(notes)) => {
                say(&format!("It is up (keeper {pid}).\n\n{notes}"))?;
                Ok(ExitCode::SUCCESS)
            }
            (Some(_), Err(_)) => bail!("it is being raised: {}", self.place("log").display()),
            (None, _) => {
                say("It is not up.")?;
                Ok(ExitCode::FAILURE)
            }
        }
    }

    /// In the keeper: raises by `raise`, whose result with its notes is then owned until a signal comes.
    pub fn keep<T>(self, raise: impl FnOnce(&dyn Fn(&str)) -> Result<(T, String)>) -> Result<ExitCode> {
        interrupt::clean_up_on_signals();
        fs::write(self.place("pid"), std::process::id().to_string())?;
        let started = Instant::now();
        let tell = |step: &str| drop(say(&format!("{:>5.1} s  {step}", started.elapsed().as_secs_f64())));
        let (_owned, notes) = raise(&tell)?;
        fs::write(self.place("draft"), notes)?;
        fs::rename(self.place("draft"), self.place("notes"))?;
        interrupt::wait();
    }

    fn notes(self) -> Result<String> {
        Ok(fs::read_to_string(self.place("notes"))?)
    }
}

fn say(text: &str) -> Result<()> {
    write(&format!("{}\n", text.trim_end()))
}

fn write(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
