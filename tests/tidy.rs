//! The shape of the source tree: floors, families, no cycles, short files, banned names, `unsafe` in one place.
//!
//! It reads text, not syntax: a path counts where it is written as `crate::a::b`, `crate::{a, b}`, or `super::b`. A
//! macro could cheat it; nobody would by accident. A front file and its children are one module to each other. Nothing
//! here needs a crate.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module imports only from strictly lower floors. A new module needs a floor here.
const FLOORS: [(&str, &[&str]); 14] = [
    ("ground", &["secret", "guard", "replacement", "roster", "chance", "clock", "stamp", "sync", "systemd"]),
    ("nouns", &["kms"]),
    ("words", &["fault", "claim"]),
    ("tools", &["wire", "lease", "seal", "flight", "governor", "audit", "metrics", "tls", "trace", "verbosity"]),
    ("door", &["listener", "auth", "ledger"]),
    ("gate", &["policy"]),
    ("rooms", &["cache", "upstream", "working_set"]),
    ("path", &["engine"]),
    ("upkeep", &["exporter", "warm", "watch"]),
    ("faces", &["serve", "admin"]),
    ("plan", &["config"]),
    ("house", &["app"]),
    ("tongs", &["ctl", "bench"]),
    ("hands", &["cli"]),
];
/// Families of equals: a member may import the front file and these shared parts, never another member.
const FAMILIES: [(&str, &[&str]); 3] =
    [("wire", &["base64", "fields"]), ("serve", &["http"]), ("upstream", &["transport", "credentials"])];
const BANNED: [&str; 11] =
    ["mod", "util", "utils", "common", "helper", "helpers", "manager", "misc", "types", "prelude", "handler"];
const LINES_MAX: usize = 400;

/// The files of a tree: module path from the crate's root (`wire::aliyun`) to text.
type Tree = BTreeMap<String, String>;

fn complaints(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let mut edges: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (module, text) in tree {
        let code = production(text);
        let lines = code.lines().count();
        if lines > LINES_MAX {
            found.push(format!("{module}: {lines} lines, more than {LINES_MAX}: split it by noun"));
        }
        if module.split("::").any(|name| BANNED.contains(&name)) {
            found.push(format!("{module}: a name of nothing"));
        }
        let bare = uncommented(&code);
        let unsafe_here = words(&bare).any(|word| word == "unsafe");
        if unsafe_here && module != "guard" {
            found.push(format!("{module}: unsafe belongs into guard.rs"));
        }
        if floor(top(module)).is_none() && module != "lib" && module != "main" {
            found.push(format!("{module}: has no floor"));
        }
        let imports: BTreeSet<String> = paths(module, &bare).iter().filter_map(|path| file_of(path, tree)).collect();
        found.extend(imports.iter().filter_map(|import| climbs(module, import)));
        let below = format!("{module}::");
        edges.insert(module, imports.into_iter().filter(|import| !import.starts_with(&below)).collect());
    }
    found.extend(cycle(&edges));
    found
}

/// Why `module` may not import `import`, if it may not.
fn climbs(module: &str, import: &str) -> Option<String> {
    let (from, to) = (top(module), top(import));
    if module == "lib" || module == "main" {
        return None;
    }
    if from != to {
        let climbs = floor(to) >= floor(from);
        return climbs.then(|| format!("{module}: imports {import}, which is not on a lower floor"));
    }
    let (_, shared) = FAMILIES.iter().find(|(family, _)| *family == from)?;
    let member = |path: &str| path.split("::").nth(1).map(str::to_owned);
    let (own, other) = (member(module)?, member(import)?);
    (own != other && !shared.contains(&other.as_str())).then(|| format!("{module}: imports its sibling {import}"))
}

fn cycle(edges: &BTreeMap<&str, BTreeSet<String>>) -> Option<String> {
    // Take away what imports nothing that is left, until nothing changes: the rest is a knot.
    let mut left: BTreeSet<&str> = edges.keys().copied().collect();
    while let Some(&leaf) = left.iter().find(|at| edges[*at].iter().all(|to| to == *at || !left.contains(to.as_str())))
    {
        left.remove(leaf);
    }
    (!left.is_empty()).then(|| format!("these import each other in a circle, or lead to it: {left:?}"))
}

/// Every path to another module that `code` of `module` writes, from the crate's root.
fn paths(module: &str, code: &str) -> Vec<String> {
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let mut all = Vec::new();
    let mut from = |marker: &str, base: &str| {
        for (at, _) in code.match_indices(marker) {
            let joined = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if !joined {
                expand(base, &code[at + marker.len()..], &mut all);
            }
        }
    };
    from("crate::", "");
    from("super::", parent);
    all
}

/// The file in which the item at `path` lies: the longest module of the tree that it begins with.
fn file_of(path: &str, tree: &Tree) -> Option<String> {
    let mut path = path;
    loop {
        if tree.contains_key(path) {
            return Some(path.to_owned());
        }
        path = path.rsplit_once("::")?.0;
    }
}

/// The paths that begin at `base` with `text`, the members of a group in braces each for itself.
fn expand(base: &str, text: &str, into: &mut Vec<String>) {
    let text = text.trim_start();
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    let path = format!("{base}::{}", text[..end].trim_matches(':')).trim_matches(':').to_owned();
    if !text[end..].starts_with('{') {
        return into.push(path);
    }
    let (mut depth, mut start) = (0_usize, end + 1);
    for (at, c) in text.char_indices().skip_while(|&(at, _)| at < end) {
        match c {
            '{' => depth += 1,
            '}' | ',' if depth == 1 => {
                expand(&path, &text[start..at], into);
                start = at + 1;
                if c == '}' {
                    return;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
}

/// The text up to the tests, which may import what they like.
fn production(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..end].to_owned()
}

fn uncommented(code: &str) -> String {
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).flat_map(|line| [line, "\n"]).collect()
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_'))
}

fn top(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

fn floor(name: &str) -> Option<usize> {
    FLOORS.iter().position(|(_, modules)| modules.contains(&name))
}

fn read(directory: &Path, prefix: &str, tree: &mut Tree) {
    for entry in
        fs::read_dir(directory).expect("the tree is readable").map(|entry| entry.expect("the tree is readable"))
    {
        let path = entry.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).expect("names are UTF-8");
        let module = format!("{prefix}{name}");
        if path.is_dir() {
            read(&path, &format!("{module}::"), tree);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            tree.insert(module, fs::read_to_string(&path).expect("sources are UTF-8"));
        }
    }
}

fn planted(files: &[(&str, &str)]) -> Vec<String> {
    complaints(&files.iter().map(|(module, text)| (module.to_string(), text.to_string())).collect())
}

#[test]
fn the_tree_has_its_shape() {
    let mut tree = Tree::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut tree);
    let found = complaints(&tree);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn a_climbed_floor_is_seen_in_a_use_and_in_a_path() {
    let climbed = vec!["kms: imports cache, which is not on a lower floor".to_owned()];
    assert_eq!(planted(&[("kms", "use crate::cache::Cache;\n"), ("cache", "")]), climbed);
    assert_eq!(planted(&[("kms", "fn f() -> crate::cache::Cache {}\n"), ("cache", "")]), climbed);
    assert_eq!(planted(&[("kms", "use super::cache::Cache;\n"), ("cache", "")]), climbed);
    assert_eq!(
        planted(&[("kms", "use crate::{\n    clock,\n    cache::{Cache, Config},\n};\n"), ("cache", "")]),
        climbed
    );
}

#[test]
fn a_neighbour_on_the_same_floor_is_out_of_reach() {
    let found = planted(&[("kms", "use crate::fault::Fault;\n"), ("fault", "")]);
    assert_eq!(found, ["kms: imports fault, which is not on a lower floor"]);
}

#[test]
fn going_down_and_tests_and_comments_are_free() {
    let text = "// crate::cli\nuse crate::kms::Call;\n\n#[cfg(test)]\nmod tests {\n    use crate::cli::main;\n}\n";
    assert_eq!(planted(&[("cache", text), ("kms", ""), ("cli", "")]), Vec::<String>::new());
}

#[test]
fn a_member_sees_its_front_and_the_shared_parts_and_no_sibling() {
    let good = "use crate::upstream::Upstream;\nuse crate::upstream::transport::Transport;\n";
    let files = [("upstream", "pub mod aliyun;\n"), ("upstream::transport", ""), ("upstream::local", "")];
    assert_eq!(planted(&[files[0], files[1], files[2], ("upstream::aliyun", good)]), Vec::<String>::new());
    for bad in ["use super::local::State;\n", "use crate::upstream::{transport, local};\n"] {
        let found = planted(&[files[0], files[1], files[2], ("upstream::aliyun", bad)]);
        assert_eq!(found, ["upstream::aliyun: imports its sibling upstream::local"]);
    }
}

#[test]
fn a_circle_within_one_module_is_seen_and_a_front_file_may_use_its_children() {
    let plan = ("config::plan", "use super::key::Key;\n");
    let found = planted(&[("config", ""), plan, ("config::key", "use crate::config::plan::Plan;\n")]);
    assert_eq!(found, ["these import each other in a circle, or lead to it: {\"config::key\", \"config::plan\"}"]);
    let child = ("config::key", "use super::Config;\n");
    assert_eq!(planted(&[("config", "use crate::config::key::Key;\n"), child]), Vec::<String>::new());
}

#[test]
fn names_of_nothing_and_long_files_and_misplaced_unsafe_are_refused() {
    assert_eq!(planted(&[("serve::utils", "")]), ["serve::utils: a name of nothing"]);
    assert_eq!(planted(&[("cache", &"\n".repeat(401))]), ["cache: 401 lines, more than 400: split it by noun"]);
    assert_eq!(planted(&[("cache", "fn f() { unsafe {} }\n")]), ["cache: unsafe belongs into guard.rs"]);
    assert_eq!(planted(&[("guard", "fn f() { unsafe {} }\n")]), Vec::<String>::new());
    assert_eq!(planted(&[("oracle", "")]), ["oracle: has no floor"]);
}
