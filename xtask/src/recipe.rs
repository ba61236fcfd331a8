//! What an image is made of, as `resources-images/*.recipe` says it: one word and its values per line.

use std::fs;
use std::path::PathBuf;

use crate::failure::{About, Failure, Result};
use crate::places;

#[derive(Debug, Default, PartialEq)]
pub struct Recipe {
    pub name: String,
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
        Self::parse(name, &text)
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
                "kind" => recipe.kind = one(),
                "size" => recipe.size = one(),
                "overlay" => recipe.overlay = Some(places::recipes().join(one())),
                "packages" => recipe.packages.extend(words),
                "modules" => recipe.modules.extend(words),
                _ => {
                    return Err(Failure::new(format!(
                        "{name}.recipe, line {}: '{key}' is not one of kind, size, packages, modules, overlay",
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
    fn an_unknown_word_is_refused_with_its_line() {
        let error = Recipe::parse("r", "kind ext4\npackage a\n").unwrap_err();

        assert_eq!(
            error.to_string(),
            "r.recipe, line 2: 'package' is not one of kind, size, packages, modules, overlay"
        );
    }

    #[test]
    fn the_recipes_in_the_tree_can_be_read() {
        for name in ["kernel", "initrd", "guest", "host"] {
            let recipe = Recipe::read(name).unwrap();

            assert!(!recipe.packages.is_empty(), "{name}.recipe names no package");
        }
    }
}
