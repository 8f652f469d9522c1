//! What README.md and docs/ say of the command line is true: it takes every command that they show, and they name every
//! command and every setting that it has.
#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap::error::ErrorKind;

use crate::cli::Cli;
use crate::serve::arguments::Service;

const ID: &str = "0190b5a2-0000-7000-8000-000000000001";
/// The fewest commands that all documents together show: fewer, and they are not found any more.
const FEWEST: usize = 40;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).unwrap()
}

/// README.md, CONTRIBUTING.md and the pages of docs/, by their names.
fn documents() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let pages = std::fs::read_dir(root.join("docs")).unwrap();
    let pages = pages.map(|entry| PathBuf::from("docs").join(entry.unwrap().file_name()));
    let mut names: Vec<String> = pages
        .filter(|page| page.extension().is_some_and(|end| end == "md"))
        .map(|page| page.display().to_string())
        .chain(["README.md".to_owned(), "CONTRIBUTING.md".to_owned()])
        .collect();
    names.sort();
    names
        .into_iter()
        .map(|name| (name.clone(), read(&name)))
        .collect()
}

/// A command that a document shows.
struct Shown {
    text: String,
    /// To be typed as it stands; else it is only spoken of, and may lack what it needs.
    whole: bool,
}

/// Lines of code blocks that begin with `caudal`, and code in sentences and tables that does.
fn shown(page: &str) -> Vec<Shown> {
    let mut commands = Vec::new();
    for (number, block) in page.split("\n```").enumerate() {
        if number % 2 == 1 {
            for line in block.lines() {
                let inner = line
                    .split_once("$(")
                    .and_then(|(_, rest)| rest.split_once(')'));
                let line = inner.map_or(line, |(inner, _)| inner).trim();
                if line.starts_with("caudal ") {
                    let text = line.split_once(" #").map_or(line, |(command, _)| command);
                    commands.push(Shown {
                        text: text.to_owned(),
                        whole: true,
                    });
                }
            }
        } else {
            for code in block.split('`').skip(1).step_by(2) {
                let text = code.split_whitespace().collect::<Vec<_>>().join(" ");
                if text.starts_with("caudal ") {
                    commands.push(Shown { text, whole: false });
                }
            }
        }
    }
    commands
}

/// The words of a command as a shell splits them, with something that is taken in place of what stands for any value.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (number, part) in command.split('\'').enumerate() {
        if number % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    for word in &mut words {
        *word = word.split('|').next().unwrap_or_default().to_owned();
        *word = word.replace("PORT", "7410");
        match word.as_str() {
            "BATCH" | "ID" => ID.clone_into(word),
            "SERVICE" => "ledger".clone_into(word),
            "tenants/ID" => *word = format!("tenants/{ID}"),
            _ => {}
        }
    }
    words
}

#[test]
fn the_command_takes_every_command_that_the_documents_show() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for (name, page) in documents() {
        for command in shown(&page) {
            seen += 1;
            let Err(error) = Cli::command().try_get_matches_from(words(&command.text)) else {
                continue;
            };
            let lacks_something = error.kind() == ErrorKind::MissingRequiredArgument
                || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
            if command.whole || !lacks_something {
                wrong.push(format!("{name}: `{}`: {error}", command.text));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen >= FEWEST, "only {seen} commands were found");
}

#[test]
fn the_readme_names_every_command() {
    let readme = read("README.md");
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        let is_named =
            readme.contains(&format!("`caudal {name}")) || readme.contains(&format!("`{name}`"));
        assert!(is_named, "README.md does not name `caudal {name}`");
    }
}

#[test]
fn the_table_of_settings_has_every_setting_of_a_service_and_no_other() {
    let page = read("docs/operations.md");
    let (_, section) = page.split_once("\n### Settings\n").unwrap();
    let documented: BTreeSet<String> = section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .filter_map(|row| row.split('|').nth(2))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .flat_map(|code| code.split(", "))
        .map(str::to_owned)
        .collect();
    let cli = Cli::command();
    let serve = cli.find_subcommand("serve").unwrap();
    let settings: BTreeSet<String> = serve
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect();
    // The row of the first keys says "each with `-file`".
    let has_row = |name: &str| {
        let key = name.strip_suffix("-file").unwrap_or(name);
        documented.contains(name) || (documented.contains("-file") && documented.contains(key))
    };
    let missing: Vec<_> = settings.iter().filter(|name| !has_row(name)).collect();
    assert!(missing.is_empty(), "docs/operations.md lacks {missing:?}");
    let unknown: Vec<_> = documented
        .iter()
        .filter(|name| *name != "-file" && !settings.contains(*name))
        .collect();
    assert!(unknown.is_empty(), "docs/operations.md names {unknown:?}");
}

// Installations know the ports, and the help says that they follow each other.
#[test]
fn each_service_has_the_next_port_and_its_place_in_the_manual() {
    let page = read("docs/operations.md");
    for (service, port) in Service::ALL.into_iter().zip(7410..) {
        assert_eq!(service.usual_address().port(), port);
        let told = format!("{port} {}", service.name());
        assert!(page.contains(&told), "docs/operations.md lacks {told}");
    }
    let names = Service::ALL.map(Service::name).join("|");
    let told = format!("caudal serve {names}\n");
    assert!(page.contains(&told), "docs/operations.md lacks {told}");
}
