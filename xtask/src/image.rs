//! What guests and the emulated host are booted from (kernel, initrd and file systems) and the QEMU that emulates arm64,
//! made from Debian packages.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::build::Architecture;
use crate::command::Run;
use crate::cpio;
use crate::debian::{self, Debian, Package, Suite};
use crate::failure::{About, Failure, Result};
use crate::modules;
use crate::places::{self, CacheLock};
use crate::progress::step;
use crate::recipe::Recipe;
use crate::tools::{self, tool};

/// Changed when the code here makes different images from the same recipe.
const EDITION: &str = "4";

pub const HELP: &str = "\
cargo xtask images

Makes the kernel, initrd and root file systems that resources-images/README.md describes, and prints the directory
with those of the guest: Image, Image.gz, initrd.gz, root.ext4. What has not changed is not made again.
";

/// What `Image`, `Image.gz`, `initrd.gz` and `root.ext4` of a guest are called, in this order.
pub const GUEST_FILES: [&str; 4] = ["Image", "Image.gz", "initrd.gz", "root.ext4"];

/// Finished images.
pub struct Images {
    /// Holds `GUEST_FILES`.
    pub guest: PathBuf,
    /// The root file system of the emulated host, with the guest's files at `/ambit`.
    pub host_root: Option<PathBuf>,
}

impl Images {
    /// What a guest needs, and with `emulated` what its emulated host needs. Quick when nothing has changed.
    pub fn ready(architecture: Architecture, emulated: bool) -> Result<Self> {
        tools::need(tools::IMAGES)?;
        let _lock = CacheLock::take()?;
        let workshop = Workshop::of(architecture);
        let kernel = workshop.kernel()?;
        workshop.initrd(&kernel)?;
        workshop.root("guest", &kernel)?;
        let host_root = emulated.then(|| workshop.root("host", &kernel)).transpose()?;
        Ok(Self { guest: workshop.cache.join("guest"), host_root })
    }

    /// The same with another emulated host, which has QEMU too.
    pub fn with_qemu(self) -> Result<Self> {
        let _lock = CacheLock::take()?;
        let workshop = Workshop::of(Architecture::Arm64);
        let host_root = workshop.root("bench", &workshop.kernel()?)?;
        Ok(Self { host_root: Some(host_root), ..self })
    }

    pub fn kernel(&self) -> PathBuf {
        self.guest.join("Image")
    }

    pub fn initrd(&self) -> PathBuf {
        self.guest.join("initrd.gz")
    }
}

pub fn main(mut words: impl Iterator<Item = String>) -> Result<i32> {
    if let Some(word) = words.next() {
        return Err(Failure::new(format!("xtask images takes no arguments, and '{word}' is one")));
    }
    println!("{}", Images::ready(Architecture::Arm64, true)?.guest.display());
    Ok(0)
}

struct Workshop {
    architecture: Architecture,
    cache: PathBuf,
}

/// The unpacked kernel package.
struct Kernel {
    tree: PathBuf,
    version: String,
}

impl Workshop {
    fn of(architecture: Architecture) -> Self {
        let cache = match architecture {
            Architecture::Arm64 => places::cache(),
            other => places::cache().join(other.debian()),
        };
        Self { architecture, cache }
    }

    /// That of the architecture where it has one of its own.
    fn recipe(&self, name: &str) -> Result<Recipe> {
        let own = format!("{name}-{}", self.architecture.debian());
        let has = places::recipes().join(format!("{own}.recipe")).exists();
        Recipe::read(if has { &own } else { name })
    }

    fn kernel(&self) -> Result<Kernel> {
        let recipe = self.recipe("kernel")?;
        let tree = self.cache.join("kernel");
        let image = self.cache.join("guest/Image");
        self.unless_made("kernel", &inputs(&recipe)?, || {
            let debian = self.debian()?;
            let [metapackage] = recipe.packages.as_slice() else {
                return Err(Failure::new("kernel.recipe must name one package"));
            };
            let packages = debian.fetch(&[debian.behind(metapackage)?], true)?;
            self.record("kernel", &packages)?;
            step("unpacking the kernel", || {
                empty(&tree)?;
                debian::unpack(&packages, &tree)?;
                let version = version_in(&tree)?;
                let modules = [Path::new("-b"), &tree, Path::new(&version)];
                tool("depmod", modules).capture()?;
                let vmlinuz = tree.join(format!("boot/vmlinuz-{version}"));
                create(&self.cache.join("guest"))?;
                fs::copy(&vmlinuz, &image).about("copy", &vmlinuz)?;
                compress(&image, &image.with_extension("gz"))
            })
        })?;
        let version = version_in(&tree)?;
        Ok(Kernel { tree, version })
    }

    fn initrd(&self, kernel: &Kernel) -> Result<()> {
        let recipe = self.recipe("initrd")?;
        let made_from = format!("{}\nkernel {}\n", inputs(&recipe)?, kernel.version);
        self.unless_made("initrd", &made_from, || {
            let packages = self.debian()?.fetch(&recipe.packages, true)?;
            self.record("initrd", &packages)?;
            step("making the initrd", || {
                let unpacked = self.cache.join("work/busybox");
                let tree = self.cache.join("work/initrd");
                empty(&unpacked)?;
                empty(&tree)?;
                debian::unpack(&packages, &unpacked)?;
                for name in ["bin", "sbin", "dev", "proc", "sys", "tmp", "root", "modules"] {
                    create(&tree.join(name))?;
                }
                let busybox = tree.join("bin/busybox");
                fs::copy(unpacked.join("bin/busybox"), &busybox).about("copy busybox to", &busybox)?;
                // Enough for init to begin with; it makes the other names when it stays.
                for name in cpio::APPLETS_OF_INIT {
                    link("busybox", &tree.join("bin").join(name))?;
                }
                let order = modules::closure(&kernel.tree, &kernel.version, &recipe.modules)?;
                let mut list = String::new();
                for module in &order {
                    let name = module.rsplit('/').next().unwrap_or(module);
                    let from = modules::directory(&kernel.tree, &kernel.version).join(module);
                    fs::copy(&from, tree.join("modules").join(name)).about("copy", &from)?;
                    list.push_str(name);
                    list.push('\n');
                }
                let order = tree.join("modules/order");
                fs::write(&order, list).about("write", &order)?;
                overlay(&recipe, &tree)?;
                let plain = self.cache.join("work/initrd.cpio");
                cpio::write(&tree, &plain)?;
                compress(&plain, &self.cache.join("guest/initrd.gz"))
            })
        })
    }

    /// Makes the ext4 root file system that `name.recipe` describes.
    fn root(&self, name: &str, kernel: &Kernel) -> Result<PathBuf> {
        let recipe = self.recipe(name)?;
        let image = self.cache.join(name).join("root.ext4");
        let mut made_from = format!("{}\nkernel {}\n", inputs(&recipe)?, kernel.version);
        if recipe.is_host() {
            for part in ["kernel", "initrd", "guest"] {
                made_from.push_str(&fs::read_to_string(self.stamp(part)).unwrap_or_default());
            }
        }
        self.unless_made(name, &made_from, || {
            let packages = self.debian()?.fetch(&recipe.packages, false)?;
            self.record(name, &packages)?;
            step(&format!("making the root file system of the {name}"), || {
                let tree = self.cache.join("work").join(name);
                self.lay_out(&recipe, &packages, kernel, &tree)?;
                create(&self.cache.join(name))?;
                file_system(&tree, &recipe.size, &image)?;
                remove(&tree)
            })
        })?;
        Ok(image)
    }

    fn lay_out(&self, recipe: &Recipe, packages: &[Package], kernel: &Kernel, tree: &Path) -> Result<()> {
        empty(tree)?;
        debian::unpack(packages, tree)?;
        merge_usr(tree)?;
        for name in ["dev", "proc", "sys", "tmp", "run", "root", "mnt", "scratch"] {
            create(&tree.join(name))?;
        }
        for unread in ["doc", "man", "locale", "info", "lintian", "bash-completion", "perl5", "zoneinfo"] {
            remove(&tree.join("usr/share").join(unread))?;
        }
        for unused in ["gconv", "perl-base", "perl"] {
            remove(&tree.join("usr/lib").join(self.architecture.libraries()).join(unused))?;
        }
        for name in ["poweroff", "reboot", "halt", "httpd", "vi"] {
            link("../bin/busybox", &tree.join("usr/sbin").join(name))?;
        }
        // What the packages' scripts would have chosen.
        for (name, chosen) in [("sh", "bash"), ("awk", "gawk"), ("nc", "nc.openbsd")] {
            let path = tree.join("usr/bin").join(name);
            if !path.exists() {
                link(chosen, &path)?;
            }
        }
        // Unpacked by somebody who is not root, files are that person's, and must not run as them. Everybody in there is
        // root already.
        tool("chmod", [Path::new("-R"), Path::new("ug-s"), tree]).capture()?;
        self.install_modules(recipe, kernel, tree)?;
        if recipe.is_host() {
            create(&tree.join("ambit"))?;
            for name in GUEST_FILES {
                let from = self.cache.join("guest").join(name);
                // Keeps the holes of the guest's disk.
                let copy = [Path::new("--sparse=always"), &from, &tree.join("ambit").join(name)];
                tool("cp", copy).capture()?;
            }
            link("/run/payload/ambit", &tree.join("ambit/ambit"))?;
        }
        overlay(recipe, tree)
    }

    fn install_modules(&self, recipe: &Recipe, kernel: &Kernel, tree: &Path) -> Result<()> {
        let from = modules::directory(&kernel.tree, &kernel.version);
        let into = modules::directory(&tree.join("usr"), &kernel.version);
        for module in modules::closure(&kernel.tree, &kernel.version, &recipe.modules)? {
            let target = into.join(&module);
            create(target.parent().expect("a module has a directory"))?;
            fs::copy(from.join(&module), &target).about("copy a module to", &target)?;
        }
        for list in ["modules.builtin", "modules.order", "modules.builtin.modinfo"] {
            fs::copy(from.join(list), into.join(list)).about("copy", &from.join(list))?;
        }
        tool("depmod", [Path::new("-b"), tree, Path::new(&kernel.version)]).capture().map(drop)
    }

    fn debian(&self) -> Result<Debian> {
        Debian::open(&self.cache.join("apt"), self.architecture, Suite::Release)
    }

    /// Runs `make` unless it has already run with the same inputs.
    fn unless_made(&self, name: &str, inputs: &str, make: impl FnOnce() -> Result<()>) -> Result<()> {
        let stamp = self.stamp(name);
        if fs::read_to_string(&stamp).is_ok_and(|made_from| made_from == inputs) {
            return Ok(());
        }
        let _ = fs::remove_file(&stamp);
        make()?;
        create(stamp.parent().expect("a stamp has a directory"))?;
        fs::write(&stamp, inputs).about("write", &stamp)
    }

    fn stamp(&self, name: &str) -> PathBuf {
        self.cache.join("made").join(name)
    }

    /// Writes down which packages an image was made from.
    fn record(&self, name: &str, packages: &[Package]) -> Result<()> {
        let path = self.cache.join("locks").join(format!("{name}.lock"));
        create(&self.cache.join("locks"))?;
        fs::write(&path, debian::record(packages)?).about("write", &path)
    }
}

/// Debian's newest QEMU that emulates arm64, for this machine: the directory that stands for `/` of where it would be.
pub fn emulator(here: Architecture) -> Result<PathBuf> {
    tools::need(tools::IMAGES)?;
    let _lock = CacheLock::take()?;
    let workshop = Workshop { architecture: here, cache: places::cache().join("emulator") };
    let recipe = Recipe::read("emulator")?;
    let tree = workshop.cache.join("tree");
    workshop.unless_made("tree", &inputs(&recipe)?, || {
        let debian = Debian::open(&workshop.cache.join("apt"), workshop.architecture, Suite::Backports)?;
        let packages = debian.fetch(&recipe.packages, false)?;
        workshop.record("tree", &packages)?;
        step("unpacking the QEMU that emulates arm64 hosts", || {
            empty(&tree)?;
            debian::unpack(&packages, &tree)?;
            merge_usr(&tree)
        })
    })?;
    Ok(tree)
}

/// Makes an ext4 image of a directory, without mounting anything.
pub fn file_system(tree: &Path, size: &str, image: &Path) -> Result<()> {
    // Finished under another name: a machine that is running from the old one keeps it.
    let unfinished = image.with_extension("unfinished");
    let _ = fs::remove_file(&unfinished);
    let options =
        ["-q", "-t", "ext4", "-E", "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1", "-m", "0", "-d"];
    let places = [tree.as_os_str(), unfinished.as_os_str(), size.as_ref()];
    tool("mke2fs", options.iter().map(std::ffi::OsStr::new).chain(places)).capture()?;
    fs::rename(&unfinished, image).about("put in place", image)
}

/// Everything an image depends on that is in the checkout.
fn inputs(recipe: &Recipe) -> Result<String> {
    let mut text = format!("edition {EDITION}\n{}", recipe.text);
    if let Some(directory) = &recipe.overlay {
        for path in cpio::files_below(directory)? {
            let full = directory.join(&path);
            if full.is_file() {
                text.push_str(&format!("-- {}\n", path.display()));
                text.push_str(&fs::read_to_string(&full).about("read", &full)?);
            }
        }
    }
    Ok(text)
}

/// Moves `/bin`, `/sbin` and `/lib` into `/usr`, which the scripts of Debian's packages would have done.
fn merge_usr(tree: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib"] {
        let (old, new) = (tree.join(name), tree.join("usr").join(name));
        if old.is_symlink() {
            continue;
        }
        create(&new)?;
        create(&old)?;
        tool("cp", [Path::new("-al"), &old.join("."), &new]).capture()?;
        remove(&old)?;
        link(&format!("usr/{name}"), &old)?;
    }
    Ok(())
}

fn overlay(recipe: &Recipe, tree: &Path) -> Result<()> {
    let Some(directory) = &recipe.overlay else {
        return Ok(());
    };
    let (from, to) = (format!("{}/.", directory.display()), format!("{}/", tree.display()));
    tool("cp", ["-r", "--preserve=mode", &from, &to]).capture().map(drop)
}

fn version_in(kernel: &Path) -> Result<String> {
    let directory = kernel.join("lib/modules");
    let names: BTreeSet<String> = fs::read_dir(&directory)
        .about("list", &directory)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names
        .into_iter()
        .next()
        .ok_or_else(|| Failure::new(format!("the kernel package has nothing in {}", directory.display())))
}

fn compress(from: &Path, to: &Path) -> Result<()> {
    let unfinished = to.with_extension("unfinished");
    let out = fs::File::create(&unfinished).about("create", &unfinished)?;
    tool("gzip", [Path::new("-6nc"), from]).stdout(out).show()?;
    fs::rename(&unfinished, to).about("put in place", to)
}

fn link(target: &str, path: &Path) -> Result<()> {
    let _ = fs::remove_file(path);
    std::os::unix::fs::symlink(target, path).about("make the link", path)
}

fn create(path: &Path) -> Result<()> {
    fs::create_dir_all(path).about("create the directory", path)
}

fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    fs::remove_dir_all(path).about("remove", path)
}

fn empty(path: &Path) -> Result<()> {
    remove(path)?;
    create(path)
}
