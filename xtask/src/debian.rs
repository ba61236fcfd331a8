//! Debian packages for guests and their hosts: resolved, fetched and verified by apt with a configuration of its own, then only unpacked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::build::Architecture;
use crate::command::{Run, command};
use crate::failure::{About, Failure, Result};
use crate::progress::step;
use crate::tools;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring";

pub struct Debian {
    root: PathBuf,
    architecture: &'static str,
    suite: Suite,
}

/// Which of a release's packages are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Those that it was released with, and their fixes.
    Release,
    /// Newer ones, built for it, where there are any.
    Backports,
}

/// One fetched package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub file: PathBuf,
}

impl Debian {
    /// An apt that knows one architecture only, has its state under `root`, and the mirrors of this machine or of
    /// `AMBIT_MIRROR`.
    pub fn open(root: &Path, architecture: Architecture, suite: Suite) -> Result<Self> {
        let debian = Self { root: root.to_owned(), architecture: architecture.debian(), suite };
        for directory in ["state/lists/partial", "cache/archives/partial", "none/partial", "etc"] {
            let path = root.join(directory);
            fs::create_dir_all(&path).about("create the directory", &path)?;
        }
        // Nothing is installed: apt then names every package that a working system needs.
        write(&root.join("state/status"), "")?;
        let sources = sources(debian.architecture, suite)?;
        let unchanged = fs::read_to_string(root.join("etc/sources.list")).ok().as_ref() == Some(&sources);
        write(&root.join("apt.conf"), &debian.configuration()?)?;
        if !unchanged || !root.join("updated").exists() {
            let _ = fs::remove_file(root.join("updated"));
            write(&root.join("etc/sources.list"), &sources)?;
            debian.update()?;
        }
        Ok(debian)
    }

    /// Fetches the package lists again.
    fn update(&self) -> Result<()> {
        step(&format!("fetching Debian's package lists for {}", self.architecture), || {
            // Without the option a mirror that cannot be reached is only a warning.
            self.apt("apt-get", &["update", "-o", "APT::Update::Error-Mode=any"])
                .capture()
                .map_err(|error| Failure::new(format!("{error}\n{}", mirror_remedy())))?;
            write(&self.root.join("updated"), "")
        })
    }

    /// The packages and everything they depend on, unless `alone`.
    pub fn fetch(&self, packages: &[String], alone: bool) -> Result<Vec<Package>> {
        let found = self.fetch_once(packages, alone);
        if found.is_ok() {
            return found;
        }
        // The mirror may have replaced a version since its lists were fetched.
        self.update()?;
        self.fetch_once(packages, alone)
    }

    fn fetch_once(&self, packages: &[String], alone: bool) -> Result<Vec<Package>> {
        let archives = self.root.join("cache/archives");
        let mut arguments = if alone {
            vec!["download"]
        } else {
            vec!["install", "-y", "--download-only", "--no-install-recommends"]
        };
        arguments.extend(packages.iter().map(String::as_str));

        // Only what is not in the archives yet has an address, so ask with archives that stay empty.
        let nothing = format!("Dir::Cache::archives={}/none/", self.root.display());
        let mut list = arguments.clone();
        list.extend(["--print-uris", "-o", &nothing]);
        let names: Vec<String> = file_names(&self.apt("apt-get", &list).capture()?);
        if names.iter().any(|name| !archives.join(name).exists()) {
            step(&format!("fetching {} Debian packages", names.len()), || {
                self.apt("apt-get", &arguments).current_dir(&archives).capture()
            })?;
        }
        let mut fetched = Vec::new();
        for name in names {
            let file = archives.join(&name);
            if !file.exists() {
                return Err(Failure::new(format!(
                    "apt-get fetched the packages, but {} is not there",
                    file.display()
                )));
            }
            let mut parts = name.split('_');
            let mut part = || parts.next().unwrap_or_default().replace("%3a", ":");
            fetched.push(Package { name: part(), version: part(), file });
        }
        Ok(fetched)
    }

    /// The one package that a metapackage stands for.
    pub fn behind(&self, metapackage: &str) -> Result<String> {
        let text = self.apt("apt-cache", &["depends", metapackage]).capture()?;
        text.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned).ok_or_else(
            || Failure::new(format!("the Debian package {metapackage} depends on nothing:\n{text}")),
        )
    }

    fn apt(&self, program: &str, arguments: &[&str]) -> Command {
        let mut apt = command(program, arguments);
        apt.env("APT_CONFIG", self.root.join("apt.conf")).env("LC_ALL", "C");
        apt
    }

    /// What packages are taken from wherever it has them.
    fn preferred(&self) -> Option<String> {
        (self.suite == Suite::Backports).then(|| format!("{}-backports", release_or_default()))
    }

    fn configuration(&self) -> Result<String> {
        // How this machine reaches its mirrors (proxies, credentials, clocks that are wrong) holds for us too.
        let host = command("apt-config", ["dump"]).capture()?;
        let ways = host.lines().filter(|line| {
            let others = ["IndexTargets", "CompressionTypes", "Changelogs", "Languages", "cdrom"];
            line.strip_prefix("Acquire::")
                .is_some_and(|rest| !others.iter().any(|other| rest.starts_with(other)))
        });
        let root = self.root.display();
        let architecture = self.architecture;
        let mut text: String = ways.flat_map(|line| [line, "\n"]).collect();
        text.push_str(&format!(
            r#"Acquire::Languages "none";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Get::List-Cleanup "false";
Dir "{root}/";
Dir::State "state/";
Dir::State::status "{root}/state/status";
Dir::Cache "cache/";
Dir::Etc "etc/";
Dir::Etc::sourcelist "{root}/etc/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::netrc "/etc/apt/auth.conf";
Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
Dir::Etc::trusted "/etc/apt/trusted.gpg";
Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";
"#
        ));
        if let Some(release) = self.preferred() {
            text.push_str(&format!("APT::Default-Release \"{release}\";\n"));
        }
        if tools::is_root() {
            // The cache may be where apt's own user cannot write.
            text.push_str("APT::Sandbox::User \"root\";\n");
        }
        Ok(text)
    }
}

/// What a package's files are recorded as: its name, version and checksum.
pub fn record(packages: &[Package]) -> Result<String> {
    let files: Vec<&Path> = packages.iter().map(|package| package.file.as_path()).collect();
    let sums = tools::tool("sha256sum", files).capture()?;
    let mut lines: Vec<String> = packages
        .iter()
        .zip(sums.lines())
        .map(|(package, sum)| {
            let sum = sum.split_whitespace().next().unwrap_or_default();
            format!("{} {} {sum}\n", package.name, package.version)
        })
        .collect();
    lines.sort();
    Ok(lines.concat())
}

/// Lays a package's files down; its scripts are not run.
pub fn unpack(packages: &[Package], into: &Path) -> Result<()> {
    for package in packages {
        tools::tool("dpkg", [Path::new("-x"), &package.file, into]).capture()?;
    }
    Ok(())
}

/// The third word of `'URI' NAME SIZE HASH`, which `--print-uris` gives per file.
fn file_names(uris: &str) -> Vec<String> {
    uris.lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| line.split_whitespace().nth(1))
        .map(str::to_owned)
        .collect()
}

fn sources(architecture: &str, suite: Suite) -> Result<String> {
    let of_release = release_sources(architecture)?;
    Ok(match suite {
        Suite::Release => of_release,
        Suite::Backports => with_backports(&of_release),
    })
}

/// Adds them to each source that is a release and not its fixes: `deb [OPTIONS] URI SUITE main`.
fn with_backports(sources: &str) -> String {
    let newer = sources.lines().filter_map(|line| {
        let release = line.strip_suffix(" main")?;
        let name = release.rsplit(' ').next()?;
        (!name.contains(['-', '/'])).then(|| format!("{release}-backports main\n"))
    });
    sources.to_owned() + &newer.collect::<String>()
}

fn release_sources(architecture: &str) -> Result<String> {
    let keyring = [".gpg", ".pgp"]
        .map(|ending| format!("{KEYRING}{ending}"))
        .into_iter()
        .find(|path| Path::new(path).exists());
    let options = match keyring {
        Some(path) => format!("[arch={architecture} signed-by={path}]"),
        None => format!("[arch={architecture}]"),
    };
    if let Ok(mirror) = std::env::var("AMBIT_MIRROR") {
        return Ok(format!("deb {options} {mirror} {} main\n", release_or_default()));
    }
    let suite = debian_release().ok_or_else(|| {
        Failure::new(format!(
            "this machine is not Debian, so its package sources have no Debian; {}",
            mirror_remedy()
        ))
    })?;
    let known = command(
        "apt-get",
        ["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
    )
    .capture()?;
    let mut lines: Vec<String> = known
        .lines()
        .filter(|line| is_of_debian(line, &suite))
        .map(|line| format!("deb {options} {line}\n"))
        .collect();
    lines.sort();
    lines.dedup();
    if lines.is_empty() {
        return Err(Failure::new(format!(
            "apt on this machine has no source with the suite {suite} and the component main; {}",
            mirror_remedy()
        )));
    }
    Ok(lines.concat())
}

/// Whether `URI SUITE COMPONENT` is Debian proper: other vendors' repositories may lack arm64, or a network here.
fn is_of_debian(source: &str, suite: &str) -> bool {
    let mut words = source.split_whitespace().skip(1);
    let (Some(name), Some("main")) = (words.next(), words.next()) else {
        return false;
    };
    let names = [suite, "stable", "oldstable", "testing", "unstable", "sid"];
    names.iter().any(|known| {
        name.strip_prefix(known).is_some_and(|rest| ["", "-updates", "-security", "/updates"].contains(&rest))
    })
}

fn release_or_default() -> String {
    debian_release().unwrap_or_else(|| "bookworm".to_owned())
}

fn debian_release() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let value = |key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim_matches('"').to_owned())
    };
    (value("ID=")? == "debian").then(|| value("VERSION_CODENAME="))?
}

fn mirror_remedy() -> &'static str {
    "set AMBIT_MIRROR to the address of a Debian mirror that carries the architecture, and have the keys of the package \
     debian-archive-keyring installed"
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).about("write", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debian_itself_is_a_source_of_guest_packages() {
        let is = |line| is_of_debian(line, "bookworm");

        assert!(is("http://mirror/debian/ bookworm main"));
        assert!(is("http://mirror/debian-security/ bookworm-security main"));
        assert!(!is("http://mirror/debian/ bookworm contrib"));
        assert!(!is("http://vendor/apt/ sdk-bookworm main"));
        assert!(!is("http://vendor/apt/ bookworm-pgdg main"));
    }

    #[test]
    fn backports_are_of_releases_and_not_of_their_fixes() {
        let release = "deb [arch=amd64] http://m/debian bookworm main\n";
        let fixes = "deb [arch=amd64] http://m/debian bookworm-updates main\n\
                     deb [arch=amd64] http://m/old buster/updates main\n";

        assert_eq!(
            with_backports(&format!("{release}{fixes}")),
            format!("{release}{fixes}deb [arch=amd64] http://m/debian bookworm-backports main\n")
        );
    }

    #[test]
    fn file_names_are_read_from_print_uris() {
        let text =
            "Reading package lists...\n'http://m/a_1%3a2_arm64.deb' a_1%3a2_arm64.deb 30768 MD5Sum:00\n";

        assert_eq!(file_names(text), ["a_1%3a2_arm64.deb"]);
    }
}
