//! buildah: its images and caches, kept apart from those of the host and shared by all checkouts, and the base images.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Arch, Options, context, version};
use crate::shell;

/// Makes the base images for a build from the sources; a change of it makes new ones.
const SOURCES: &str = include_str!("bases.sh");
/// Makes those for a binary that this machine has compiled already.
const READY: &str = include_str!("ready.sh");

/// The base images of a build.
#[derive(Debug)]
pub(super) struct Bases {
    pub(super) build: String,
    pub(super) fin: String,
    /// The names to make them under, and the script that makes all at once; none if the caller named both.
    ours: Option<([String; 2], &'static str)>,
}

impl Bases {
    pub(super) fn of(options: &Options, arch: Arch) -> Result<Self> {
        let (script, kind) = if options.prebuilt.is_some() { (READY, "ready") } else { (SOURCES, "sources") };
        let recipe = match options.prebuilt {
            // What the script copies: newer packages make new images.
            Some(_) => {
                let mut query = shell::command("dpkg-query");
                shell::output(query.args(["--show", "libc6", "libgcc-s1", "libcap2-bin", "dash", "coreutils"]))?
            }
            None => String::new(),
        };
        let recipe = context::hash(&format!("{script}{recipe}"))?;
        let [build, fin] = ["build", "final"].map(|part| format!("localhost/cosmolet-{part}-{kind}:{recipe}"));
        let given = options.build_image.is_some() && options.final_image.is_some();
        Ok(Self {
            build: options.build_image.clone().unwrap_or_else(|| build.clone()),
            fin: options.final_image.clone().unwrap_or_else(|| format!("{fin}-{}", arch.name())),
            ours: (!given).then_some(([build, fin], script)),
        })
    }
}

/// The store. Several builds may use it at once; buildah has locks of its own.
pub(super) struct Store {
    folder: PathBuf,
    /// What the image is called in it until it is exported.
    draft: String,
}

impl Store {
    pub(super) fn open() -> Result<Self> {
        let folder = shell::cache_dir()?.join("image");
        fs::create_dir_all(folder.join("tmp"))?;
        // Images are pulled from nowhere but here, so that nobody has to vouch for them.
        fs::write(folder.join("policy.json"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#)?;
        Ok(Self { folder, draft: format!("localhost/cosmolet-draft:{}", std::process::id()) })
    }

    fn options(&self) -> [String; 4] {
        let at = |name: &str| self.folder.join(name).display().to_string();
        ["--root".to_owned(), at("storage"), "--runroot".to_owned(), at("run")]
    }

    fn buildah(&self) -> Command {
        let mut command = shell::as_root("buildah");
        command.args(self.options()).env("TMPDIR", self.folder.join("tmp"));
        command
    }

    /// Makes the base images that are not there.
    pub(super) fn make(&self, bases: &Bases) -> Result<()> {
        let Some(([build, fin], script)) = &bases.ours else { return Ok(()) };
        let there = || shell::try_output(self.buildah().args(["inspect", "--type", "image", build])).is_some();
        if there() {
            return Ok(());
        }
        // Who makes them at the same time waits, and finds them.
        let _lock = shell::lock(&self.folder.join("lock"))?;
        if there() {
            return Ok(());
        }
        let file = self.folder.join("bases.sh");
        fs::write(&file, script)?;
        let buildah = format!("buildah {}", self.options().join(" "));
        shell::run_quietly(
            "image: the base images, from Debian's packages",
            shell::as_root("env").arg(format!("BUILDAH={buildah}")).arg("sh").arg(file).args([build, fin]),
        )
    }

    pub(super) fn build(&self, context: &Path, bases: &Bases, arch: Arch) -> Result<()> {
        let argument = |name: &str, value: &str| ["--build-arg".to_owned(), format!("{name}={value}")];
        let platform = |arch: Arch| format!("linux/{}", arch.name());
        shell::run_quietly(
            &format!("image: the Dockerfile for {}", arch.name()),
            self.buildah()
                // Nothing here is worth a layer of its own: the archive is cached as a whole, and cargo by its mounts.
                .args(["build", "--isolation", "chroot", "--layers=false", "--force-rm", "--signature-policy"])
                .arg(self.folder.join("policy.json"))
                .args(["--platform", &platform(arch)])
                // Predefined, but not by every buildah.
                .args(argument("BUILDPLATFORM", &platform(Arch::own()?)))
                .args(argument("TARGETPLATFORM", &platform(arch)))
                .args(argument("BUILD_IMAGE", &bases.build))
                .args(argument("FINAL_IMAGE", &bases.fin))
                .args(argument("VERSION", version()))
                .args(["--tag", &self.draft])
                .arg(context),
        )
    }

    /// Writes the archive beside its place first, as buildah adds to one that is there; the store keeps nothing but bases.
    pub(super) fn export(&self, name: &str, output: &Path) -> Result<()> {
        let draft = output.with_extension("draft");
        if draft.exists() {
            fs::remove_file(&draft)?;
        }
        let to = format!("docker-archive:{}:{name}", draft.display());
        let policy = self.folder.join("policy.json");
        shell::run(
            self.buildah().args(["push", "--quiet", "--signature-policy"]).arg(policy).args([&self.draft, &to]),
        )?;
        shell::output(self.buildah().args(["rmi", &self.draft]))?;
        Ok(fs::rename(&draft, output)?)
    }
}
