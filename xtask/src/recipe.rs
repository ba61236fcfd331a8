//! What an image is made of, as `resources-images/*.recipe` says it: one word and its values per line.

use std::fs;
use std::path::PathBuf;

use crate::failure::{About, Failure, Result};
use crate::places;

#[derive(Debug, Default, PartialEq)]
pub struct Recipe {
    pub name: String,
    /// The recipe that this one adds to.
    pub like: Option<String>,
    pub kind: String,
    /// As mke2fs takes it, only for `kind ext4`.
    pub size: String,
    pub packages: Vec<String>,
    pub modules: Vec<String>,
    /// A directory of files, laid over what the packages brought.
    pub overlay: Option<PathBuf>,
    /// The whole text, to see whether an image is still what its recipe says.
    pub text: String,
}

impl Recipe {
    pub fn read(name: &str) -> Result<Self> {
        let path = places::recipes().join(format!("{name}.recipe"));
        let text = fs::read_to_string(&path).about("read", &path)?;
        let recipe = Self::parse(name, &text)?;
        match recipe.like.clone() {
            Some(like) => Ok(recipe.added_to(Self::read(&like)?)),
            None => Ok(recipe),
        }
    }

    /// Has the guest's images in it.
    pub fn is_host(&self) -> bool {
        self.name == "host" || self.like.as_deref() == Some("host")
    }

    fn added_to(self, base: Self) -> Self {
        let either = |own: String, base| if own.is_empty() { base } else { own };
        Self {
            name: self.name,
            like: self.like,
            kind: either(self.kind, base.kind),
            size: either(self.size, base.size),
            packages: [base.packages, self.packages].concat(),
            modules: [base.modules, self.modules].concat(),
            overlay: self.overlay.or(base.overlay),
            text: base.text + &self.text,
        }
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let mut recipe = Self { name: name.to_owned(), text: text.to_owned(), ..Self::default() };
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split_whitespace().map(str::to_owned);
            let Some(key) = words.next().filter(|key| !key.starts_with('#')) else {
                continue;
            };
            let mut one = || words.next().unwrap_or_default();
            match key.as_str() {
                "like" => recipe.like = Some(one()),
                "kind" => recipe.kind = one(),
                "size" => recipe.size = one(),
                "overlay" => recipe.overlay = Some(places::recipes().join(one())),
                "packages" => recipe.packages.extend(words),
                "modules" => recipe.modules.extend(words),
                _ => {
                    return Err(Failure::new(format!(
                        "{name}.recipe, line {}: '{key}' is not one of like, kind, size, packages, modules, overlay",
                        index + 1
                    )));
                }
            }
        }
        Ok(recipe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_go_on_over_several_lines() {
        let recipe = Recipe::parse("r", "# why\nkind ext4\npackages a b\npackages c\n").unwrap();

        assert_eq!(recipe.packages, ["a", "b", "c"]);
    }

    #[test]
    fn a_recipe_like_another_adds_to_it() {
        let base = Recipe::parse("base", "kind ext4\nsize 1G\npackages a\noverlay o\n").unwrap();
        let more = Recipe::parse("more", "like base\nsize 2G\npackages b\n").unwrap();

        let recipe = more.added_to(base);

        let expected = "kind ext4\nsize 2G\npackages a b\noverlay o\n";
        let expected = Recipe {
            name: "more".to_owned(),
            like: Some("base".to_owned()),
            text: "kind ext4\nsize 1G\npackages a\noverlay o\nlike base\nsize 2G\npackages b\n".to_owned(),
            ..Recipe::parse("more", expected).unwrap()
        };
        assert_eq!(recipe, expected);
    }

    #[test]
    fn an_unknown_word_is_refused_with_its_line() {
        let error = Recipe::parse("r", "kind ext4\npackage a\n").unwrap_err();

        assert_eq!(
            error.to_string(),
            "r.recipe, line 2: 'package' is not one of like, kind, size, packages, modules, overlay"
        );
    }

    #[test]
    fn the_recipes_in_the_tree_can_be_read() {
        for name in ["kernel", "initrd", "guest", "host", "bench", "kernel-amd64", "host-amd64"] {
            let recipe = Recipe::read(name).unwrap();

            assert!(!recipe.packages.is_empty(), "{name}.recipe names no package");
        }
    }
}
