//! A manifests directory: files that appear, change and go as a whole.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::Lab;

/// The directory.
#[derive(Debug)]
pub struct Manifests {
    path: PathBuf,
}

impl Manifests {
    /// Makes the directory `manifests-NAME` in the lab.
    pub fn create(lab: &Lab, name: &str) -> Result<Self> {
        Ok(Self { path: lab.subdirectory(&format!("manifests-{name}"))? })
    }

    /// Its path, for `services.manifests`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes objects as the documents of `NAME.yaml`.
    pub fn write_all<T: Serialize>(&self, name: &str, objects: &[T]) -> Result<()> {
        let documents = objects.iter().map(serde_yaml_ng::to_string).collect::<Result<Vec<_>, _>>()?;
        self.write_text(name, &documents.join("---\n"))
    }

    /// Writes one object to `NAME.yaml`.
    pub fn write<T: Serialize>(&self, name: &str, object: &T) -> Result<()> {
        self.write_text(name, &serde_yaml_ng::to_string(object)?)
    }

    /// Writes any text to `NAME.yaml`: a reader sees the old file or the new one, never a part.
    pub fn write_text(&self, name: &str, text: &str) -> Result<()> {
        let (hidden, path) = (self.path.join(format!(".{name}.new")), self.file(name));
        fs::write(&hidden, text).with_context(|| format!("writing {}", hidden.display()))?;
        fs::rename(&hidden, &path).with_context(|| format!("writing {}", path.display()))
    }

    /// Removes `NAME.yaml`; no error if it is not there.
    pub fn remove(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.file(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("removing a manifest"),
            _ => Ok(()),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.yaml"))
    }
}
