//! Manual pages and shell completions, made from the command line itself: for packages, and so hidden.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

#[derive(Debug, Args)]
pub(super) struct Pages {
    /// Where to put them: one for each command, in section 1
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// For which shell; printed to standard output
    shell: Shell,
}

impl Pages {
    pub(super) fn write(&self, command: Command) -> io::Result<()> {
        let mut command = command.disable_help_subcommand(true);
        command.build();
        write_with_those_below(&command, &self.directory)
    }
}

impl Completions {
    pub(super) fn print(&self, mut command: Command) -> io::Result<()> {
        let mut script = Vec::new();
        let name = command.get_name().to_owned();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        io::stdout().lock().write_all(&script)
    }
}

fn write_with_those_below(command: &Command, directory: &Path) -> io::Result<()> {
    for below in shown(command) {
        write_with_those_below(below, directory)?;
    }
    let man = Man::new(command.clone()).source(SOURCE).manual(MANUAL);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut page)?;
    }
    if shown(command).next().is_some() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut rest = Roff::new();
    examples(command, &mut rest);
    surroundings(command, &mut rest);
    rest.to_writer(&mut page)?;
    fs::write(directory.join(man.get_filename()), page)
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|below| !below.is_hide_set())
}

/// What stands below the options in the help, its lines left as they are: they are commands and tables.
fn examples(command: &Command, page: &mut Roff) {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    for block in help.split("\n\n") {
        let (heading, lines) = block.split_once('\n').unwrap_or((block, ""));
        match heading.strip_suffix(':') {
            Some(heading) if !lines.is_empty() => {
                page.control("SH", [heading.to_uppercase().as_str()]);
                page.control("nf", []);
                for line in lines.lines() {
                    page.text([roman(line)]);
                }
                page.control("fi", []);
            }
            Some(_) | None if !block.is_empty() => {
                page.control("PP", []);
                page.text([roman(block)]);
            }
            Some(_) | None => {}
        }
    }
}

fn surroundings(command: &Command, page: &mut Roff) {
    page.control("SH", ["FILES"]);
    for (path, what) in FILES {
        page.control("TP", []);
        page.text([bold(path)]);
        page.text([roman(what)]);
    }
    let top = MANUAL;
    if command.get_name() != top {
        page.control("SH", ["SEE ALSO"]);
        page.text([bold(top), roman("(1)")]);
    }
}

const MANUAL: &str = "kmsproxy";
const SOURCE: &str = concat!("kmsproxy ", env!("CARGO_PKG_VERSION"));
const FILES: [(&str, &str); 2] = [
    (crate::config::FILE, "The configuration. The one that the package brings explains every setting."),
    ("/usr/share/doc/kmsproxy/", "What it promises (SEMANTICS.md), how it is run (docs/operations.md), examples."),
];
