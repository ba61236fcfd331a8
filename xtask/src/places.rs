//! Where things are: the checkout, and the cache of everything fetched or made.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::failure::{About, Result};
use crate::progress::say;

pub fn checkout() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().expect("xtask is a member of the workspace").to_owned()
}

/// Where cargo puts what it builds of the checkout.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout().join("target"), PathBuf::from)
}

pub fn recipes() -> PathBuf {
    checkout().join("resources-images")
}

/// `AMBIT_CACHE`, or a directory under `target/`.
pub fn cache() -> PathBuf {
    match std::env::var_os("AMBIT_CACHE") {
        Some(chosen) => PathBuf::from(chosen),
        None => checkout().join("target/ambit-images"),
    }
}

/// Held while something in the cache is made, so that two runs do not make it at once.
pub struct CacheLock {
    _file: File,
}

impl CacheLock {
    pub fn take() -> Result<Self> {
        fs::create_dir_all(cache()).about("create the directory", &cache())?;
        let path = cache().join("lock");
        let file = File::create(&path).about("create", &path)?;
        if file.try_lock().is_err() {
            say("waiting for another run that is preparing the cache");
            file.lock().about("lock", &path)?;
        }
        Ok(Self { _file: file })
    }
}

/// An empty directory of this run's own, removed with everything in it when dropped.
pub struct RunDirectory(PathBuf);

impl RunDirectory {
    pub fn new(purpose: &str) -> Result<Self> {
        let runs = cache().join("runs");
        forget_the_dead(&runs);
        let path = runs.join(format!("{purpose}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).about("create the directory", &path)?;
        Ok(Self(path))
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// Removes what runs left that were killed.
fn forget_the_dead(runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let alive = name.rsplit('-').next().is_some_and(|id| Path::new("/proc").join(id).exists());
        if !alive {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
