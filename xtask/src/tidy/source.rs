//! A Rust file as the rules see it: lines without comments, where its tests begin, and the paths it imports.
//!
//! A scanner, not a parser: it knows strings, comments and `use` trees, and that is enough for the rules.

use std::path::{Path, PathBuf};

/// A Rust source file.
pub(super) struct Source {
    /// Relative to the checkout.
    pub(super) path: PathBuf,
    /// As written.
    pub(super) raw: Vec<String>,
    /// The same lines without comments and without what strings hold.
    pub(super) code: Vec<String>,
    /// The number of lines before the tests: all of them when it has none, none when it is a test.
    pub(super) own_lines: usize,
}

/// One imported path and the line (from one) where its statement begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Import {
    pub(super) line: usize,
    pub(super) path: Vec<String>,
}

impl Source {
    /// Reads a file. `test` says that it is one as a whole; suites and files named after tests are in any case.
    pub(super) fn new(path: &Path, text: &str, test: bool) -> Self {
        let raw: Vec<String> = text.lines().map(str::to_owned).collect();
        let code = strip(text).lines().map(str::to_owned).collect::<Vec<_>>();
        let own_lines = if test || is_test(path) { 0 } else { tests_begin(&code).unwrap_or(raw.len()) };
        Self { path: path.to_path_buf(), raw, code, own_lines }
    }

    /// The files of modules that this one declares for tests only, whether or not they are there.
    pub(super) fn test_modules(&self) -> Vec<PathBuf> {
        let folder = self.path.parent().unwrap_or_else(|| Path::new(""));
        let folder = match self.path.file_stem().and_then(|stem| stem.to_str()) {
            Some("mod" | "lib" | "main") | None => folder.to_path_buf(),
            Some(stem) => folder.join(stem),
        };
        let mut files = Vec::new();
        for pair in self.code.windows(2).filter(|pair| pair[0].trim().starts_with("#[cfg(test)]")) {
            if let Some(name) = child_module(&pair[1]).filter(|_| pair[1].trim_end().ends_with(';')) {
                files.extend([folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")]);
            }
        }
        files
    }

    /// The lines that are not tests, with their numbers.
    pub(super) fn own_code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.iter().take(self.own_lines).enumerate().map(|(index, line)| (index + 1, line.as_str()))
    }

    /// Every path imported outside the tests, one for each leaf of a `use` tree.
    pub(super) fn imports(&self) -> Vec<Import> {
        let children: Vec<&str> = self.own_code().filter_map(|(_, line)| child_module(line)).collect();
        let mut imports = Vec::new();
        let mut lines = self.own_code();
        while let Some((line, text)) = lines.next() {
            let Some(mut tree) = use_tree(text) else { continue };
            while !tree.contains(';') {
                let Some((_, more)) = lines.next() else { break };
                tree.push_str(more);
            }
            let tree = tree.split(';').next().unwrap_or_default();
            for mut leaf in expand(tree) {
                if leaf.first().is_some_and(|first| children.contains(&first.as_str())) {
                    leaf.insert(0, "self".to_owned());
                }
                imports.push(Import { line, path: absolute(&self.path, leaf) });
            }
        }
        imports
    }
}

/// Whole files of tests: the suites, and modules named `tests` or `…_tests`.
fn is_test(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let folders: Vec<_> = path.parent().into_iter().flat_map(Path::components).map(|c| c.as_os_str()).collect();
    stem == "tests" || stem.ends_with("_tests") || folders.iter().skip(1).any(|folder| *folder == "tests")
}

/// Where the module of tests begins: the line of its `cfg(test)`. A `mod tests;` in a file of its own ends nothing.
fn tests_begin(code: &[String]) -> Option<usize> {
    let module = |line: &String| {
        let line = line.trim();
        line.starts_with("mod ") && line.ends_with('{')
    };
    (0..code.len())
        .find(|&index| code[index].trim().starts_with("#[cfg(test)]") && code[index + 1..].iter().take(4).any(module))
}

/// Blanks comments and the contents of strings, keeping every line break.
fn strip(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string(rest) {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = hashes + 2;
            rest[open..].find(&close).map_or(rest.len(), |end| open + end + close.len())
        } else if c == '"' {
            string_end(rest)
        } else if let Some(end) = char_end(rest) {
            end
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        let gone = &rest[..skipped];
        out.extend(gone.chars().filter(|c| *c == '\n'));
        if !gone.starts_with('/') {
            out.push_str("\"\"");
        }
        rest = &rest[skipped..];
    }
    out
}

/// The number of `#` of a raw string that begins here.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the character literal that begins here; `None` for a lifetime.
fn char_end(text: &str) -> Option<usize> {
    let after = text.strip_prefix('\'')?;
    if let Some(escape) = after.strip_prefix('\\') {
        return escape.char_indices().skip(1).find(|(_, c)| *c == '\'').map(|(at, _)| at + 3);
    }
    let c = after.chars().next()?;
    after[c.len_utf8()..].starts_with('\'').then_some(c.len_utf8() + 2)
}

/// The module that a line declares.
fn child_module(line: &str) -> Option<&str> {
    let (_, name) =
        line.trim().split_once("mod ").filter(|(before, _)| before.is_empty() || before.starts_with("pub"))?;
    name.split([';', ' ']).next()
}

/// What follows `use` on a line that begins an import.
fn use_tree(line: &str) -> Option<String> {
    let mut line = line.trim();
    if let Some(after) = line.strip_prefix("pub") {
        line = match after.strip_prefix('(') {
            Some(restricted) => restricted.split_once(')')?.1.trim(),
            None => after.trim(),
        };
    }
    line.strip_prefix("use ").map(str::to_owned)
}

/// `a::{b, c::{d as e}}` as `a::b`, `a::c::d`.
fn expand(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        let segments: Vec<String> = path.split("::").map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect();
        return if segments.is_empty() { Vec::new() } else { vec![segments] };
    };
    let prefix: Vec<String> = tree[..open].split("::").map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect();
    let close = tree.rfind('}').unwrap_or(tree.len());
    branches(&tree[open + 1..close])
        .into_iter()
        .flat_map(expand)
        .map(|leaf| prefix.iter().cloned().chain(leaf).collect())
        .collect()
}

/// Splits at the commas that are in no braces.
fn branches(inside: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0_u32, 0, Vec::new());
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&inside[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inside[from..]);
    parts
}

/// Resolves leading `self` and `super` to a path from `crate`.
fn absolute(file: &Path, leaf: Vec<String>) -> Vec<String> {
    if !matches!(leaf.first().map(String::as_str), Some("self" | "super")) {
        return leaf;
    }
    let mut module = vec!["crate".to_owned()];
    let inner = file.iter().skip_while(|part| *part != "src").skip(1);
    module.extend(inner.filter_map(|part| Some(Path::new(part).file_stem()?.to_str()?.to_owned())));
    if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        module.pop();
    }
    let mut rest = leaf.as_slice();
    while let Some((first, after)) = rest.split_first() {
        match first.as_str() {
            "self" => {}
            "super" if module.len() > 1 => drop(module.pop()),
            _ => break,
        }
        rest = after;
    }
    module.extend_from_slice(rest);
    module
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(path: &str, text: &str) -> Vec<String> {
        Source::new(Path::new(path), text, false).imports().iter().map(|import| import.path.join("::")).collect()
    }

    #[test]
    fn expands_trees() {
        let text = "use a::{b, c::{d as e, f::*},\n    g};\npub(crate) use super::h;\nuse self::i::J;\n";
        assert_eq!(
            imports("cosmolet/src/frr/vty.rs", text),
            ["a::b", "a::c::d", "a::c::f::*", "a::g", "crate::frr::h", "crate::frr::vty::i::J"]
        );
        assert_eq!(imports("cosmolet/src/engine/mod.rs", "mod a;\npub use a::B;\n"), ["crate::engine::a::B"]);
    }

    #[test]
    fn a_module_for_tests_is_a_test_in_its_own_file_too() {
        let source = Source::new(Path::new("cosmolet/src/frr/mod.rs"), "#[cfg(test)]\nmod properties;\n", false);
        assert!(source.test_modules().contains(&PathBuf::from("cosmolet/src/frr/properties.rs")));
        assert_eq!(source.own_lines, 2);
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        let text = "let a = \"use x; \\\" //\"; // use y;\nlet b = r#\"use \"z\"\nw\"#; let c = '\"'; let d: &'a str;\n/* q\n*/ e\n";
        let source = Source::new(Path::new("cosmolet/src/x.rs"), text, false);
        assert_eq!(source.code.len(), 5);
        assert_eq!(source.code[0].trim_end(), "let a = \"\";");
        assert_eq!(source.code[2], "\"\"; let c = \"\"; let d: &'a str;");
        assert_eq!(source.code[4], " e");
    }
}
