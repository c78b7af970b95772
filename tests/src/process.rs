//! Supervised processes: each in its own process group, killed when dropped and when this process dies.
//!
//! Owns the child until it is reaped. Never signals anything but its own children's groups.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::netns::{Door, Netns};

/// What to start: program, arguments, place and log file.
#[derive(Clone, Debug)]
pub struct Spec {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    door: Option<Door>,
    group: Option<u32>,
    log: PathBuf,
}

impl Spec {
    /// A process called `name` in the errors, whose output is appended to `log`.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: vec![],
            env: vec![],
            door: None,
            group: None,
            log: log.into(),
        }
    }

    /// Runs it inside a namespace.
    #[must_use]
    pub fn inside(mut self, netns: &Netns) -> Self {
        self.door = Some(netns.door());
        self
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = I>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment, beside those it inherits.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs it with this group id.
    #[must_use]
    pub const fn group(mut self, id: u32) -> Self {
        self.group = Some(id);
        self
    }

    /// Starts this file instead.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// Starts it by way of another program, such as setpriv(1), that executes what its arguments end with.
    #[must_use]
    pub fn by_way_of<I: AsRef<OsStr>>(mut self, program: &str, args: impl IntoIterator<Item = I>) -> Self {
        let target = std::mem::replace(&mut self.program, program.into());
        let before = args.into_iter().map(|arg| arg.as_ref().to_owned()).chain([target.into_os_string()]);
        self.args.splice(0..0, before);
        self
    }

    /// Starts it. The same spec may be started again once the process is gone.
    pub fn start(&self) -> Result<Process> {
        let child = spawner().spawn(self.command()?).with_context(|| format!("starting {}", self.program.display()))?;
        Ok(Process { name: self.name.clone(), log: self.log.clone(), child, started: Instant::now() })
    }

    #[expect(unsafe_code, reason = "prctl(2) and setns(2) between fork and exec have no safe wrapper in std")]
    fn command(&self) -> Result<Command> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("opening the log {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        if let Some(group) = self.group {
            command.gid(group);
        }
        let door = self.door.clone();
        let parent = std::process::id();
        let prepare = move || prepare_child(parent, door.as_ref());
        // SAFETY: prepare_child makes system calls only: it neither allocates nor takes locks.
        unsafe { command.pre_exec(prepare) };
        Ok(command)
    }
}

/// Runs in the child between fork and exec: die with the parent, enter the namespace.
#[expect(unsafe_code, reason = "prctl(2) and setns(2) have no safe wrapper in std")]
fn prepare_child(parent: u32, door: Option<&Door>) -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The parent may have died before the line above: then no signal comes.
    if std::os::unix::process::parent_id() != parent {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    let Some(door) = door else { return Ok(()) };
    // SAFETY: the descriptor was open at the fork and closes at exec only.
    if unsafe { libc::setns(door.descriptor(), libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A running (or ended) process of the lab. Dropping it kills its group and reaps it.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    started: Instant,
}

impl Process {
    /// Its process id, which is also its group's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When it was started.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// Its log file.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its log, for error messages.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// The status if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails with the tail of the log if it has ended.
    pub fn ensure_running(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}); its log ends with:\n{}", self.name, self.log_tail(20)),
        }
    }

    /// Sends SIGTERM to the process.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(libc::SIGTERM)
    }

    /// Sends SIGSTOP: it holds its sockets and does nothing.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(libc::SIGSTOP)
    }

    /// Sends SIGCONT.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(libc::SIGCONT)
    }

    /// Sends a signal; an error if the process is gone.
    #[expect(unsafe_code, reason = "kill(2) has no safe wrapper in std")]
    pub fn signal(&mut self, signal: i32) -> Result<()> {
        self.ensure_running()?;
        let pid = i32::try_from(self.pid())?;
        // SAFETY: kill touches no memory; the child is not reaped yet, so the number is still its own.
        if unsafe { libc::kill(pid, signal) } != 0 {
            return Err(anyhow!(io::Error::last_os_error()).context(format!("signal {signal} to {}", self.name)));
        }
        Ok(())
    }

    /// Kills its whole group with SIGKILL and reaps it; returns the moment of the signal. No error if it is gone already.
    pub fn kill(&mut self) -> Result<Instant> {
        let at = Instant::now();
        if self.child.try_wait()?.is_none() {
            kill_group(self.pid());
            self.child.wait()?;
        }
        Ok(at)
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} still runs after {limit:?}; its log ends with:\n{}", self.name, self.log_tail(20));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether `status` says that SIGKILL ended it.
    #[must_use]
    pub fn was_killed(status: ExitStatus) -> bool {
        status.signal() == Some(libc::SIGKILL)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::warn!(process = self.name, %error, "process stays");
        }
    }
}

/// Sends SIGKILL to the group of a child that is not reaped yet.
#[expect(unsafe_code, reason = "kill(2) has no safe wrapper in std")]
fn kill_group(pid: u32) {
    let Ok(pid) = i32::try_from(pid) else { return };
    // SAFETY: kill touches no memory; the group is one that this module made and has not reaped.
    unsafe { libc::kill(-pid, libc::SIGKILL) };
}

/// Sends SIGKILL to one process found inside a dead lab's namespace.
#[expect(unsafe_code, reason = "kill(2) has no safe wrapper in std")]
pub(crate) fn kill_pid(pid: i32) {
    // SAFETY: kill touches no memory.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Sends SIGTERM to a process that is not a child, such as another program of the lab.
#[expect(unsafe_code, reason = "kill(2) has no safe wrapper in std")]
pub fn terminate_pid(pid: i32) {
    // SAFETY: kill touches no memory.
    unsafe { libc::kill(pid, libc::SIGTERM) };
}

/// A process that stands still until this is dropped. It need not be a child of ours.
#[derive(Debug)]
pub struct Paused(i32);

impl Paused {
    /// Sends SIGSTOP.
    pub fn new(pid: u32) -> Result<Self> {
        let paused = Self(i32::try_from(pid)?);
        paused.signal(libc::SIGSTOP).with_context(|| format!("pausing {pid}"))?;
        Ok(paused)
    }

    /// The same for a process that leads its group, as every [`Process`] does, and all that it has started.
    pub fn group(leader: u32) -> Result<Self> {
        let paused = Self(-i32::try_from(leader)?);
        paused.signal(libc::SIGSTOP).with_context(|| format!("pausing the group of {leader}"))?;
        Ok(paused)
    }

    #[expect(unsafe_code, reason = "kill(2) has no safe wrapper in std")]
    fn signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: kill touches no memory.
        if unsafe { libc::kill(self.0, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        if let Err(error) = self.signal(libc::SIGCONT) {
            tracing::warn!(%error, pid = self.0, "a process stays paused");
        }
    }
}

/// A process whose main thread alone stands still until this is dropped, as in a debugger (ptrace(2)); its other threads go on.
/// Only the thread that made it may drop it.
#[derive(Debug)]
pub struct Frozen(libc::pid_t);

impl Frozen {
    /// Stops the main thread.
    pub fn main_thread(pid: u32) -> Result<Self> {
        let thread = libc::pid_t::try_from(pid)?;
        trace(libc::PTRACE_SEIZE, thread).with_context(|| format!("tracing {pid}"))?;
        let frozen = Self(thread);
        trace(libc::PTRACE_INTERRUPT, thread).with_context(|| format!("stopping {pid}"))?;
        wait_stopped(thread)?;
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = trace(libc::PTRACE_DETACH, self.0) {
            tracing::warn!(%error, pid = self.0, "a thread stays stopped");
        }
    }
}

#[expect(unsafe_code, reason = "ptrace(2) has no safe wrapper in std")]
fn trace(request: libc::c_uint, thread: libc::pid_t) -> io::Result<()> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: none of these requests reads or writes memory of ours.
    if unsafe { libc::ptrace(request, thread, none, none) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "waitpid(2) has no safe wrapper in std")]
fn wait_stopped(thread: libc::pid_t) -> io::Result<()> {
    let mut status = 0;
    // SAFETY: the status is ours, and the thread is traced by us.
    if unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) } == thread {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The thread that forks every child. PR_SET_PDEATHSIG follows the *thread* that forked, and threads of a test runner or of
/// tokio end long before the process does.
struct Spawner(mpsc::Sender<(Command, mpsc::Sender<io::Result<Child>>)>);

impl Spawner {
    fn spawn(&self, command: Command) -> Result<Child> {
        let (reply, answer) = mpsc::channel();
        self.0.send((command, reply)).ok().context("the spawner thread is gone")?;
        Ok(answer.recv().context("the spawner thread is gone")??)
    }
}

fn spawner() -> &'static Spawner {
    static SPAWNER: OnceLock<Spawner> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (requests, inbox) = mpsc::channel::<(Command, mpsc::Sender<io::Result<Child>>)>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                // A caller that went away leaves a child that nobody owns: take it down at once.
                if let Err(mpsc::SendError(Ok(mut child))) = reply.send(command.spawn()) {
                    kill_group(child.id());
                    drop(child.wait());
                }
            }
        });
        Spawner(requests)
    })
}
