//! README.md, CONTRIBUTING.md and docs/ say what is so: whatever they name exists, whatever they say is not there is not,
//! their tables and links hold, and their figures are those of the code. What the command line takes is compared with
//! them in `services/caudal/src/documented.rs`, what the crates know in `infra/lint/structure.py`.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Folders that hold nothing of ours, or what is made from it.
const NOT_OURS: [&str; 7] = [
    ".git",
    ".caudal",
    "target",
    "node_modules",
    "dist",
    "data",
    "__pycache__",
];

/// Paths that are made when something runs, so they are named and not there.
const MADE: [&str; 11] = [
    ".caudal/lib/libpdfium.so",
    ".caudal/data",
    ".caudal/models/all-minilm-l6-v2",
    "gateway/web/dist",
    "target/release/caudal",
    "target/debug/caudal",
    "objects/",
    "redis/",
    "secrets.json",
    "samples/empty",
    "caudal.toml",
];

/// Names of things that are not ours, or that stand for any name.
const FOREIGN: [&str; 10] = [
    "COMMITs",
    "GitHub",
    "ID_SECRET",
    "MiniLM",
    "OpenAI",
    "SDKs",
    "SQLite",
    "TypeScript",
    "DuckDB",
    "LanceDB",
];

/// Claims of absence that need no proof here: they are about tests and measurements.
const OF_TESTS: [&str; 3] = ["not yet tested", "not yet measured", "not profiled yet"];

/// Words with which a page says that something is not there.
const ABSENT: [&str; 9] = [
    "(planned)",
    "planned:",
    "not yet",
    "asks yet",
    "objects yet",
    "not used yet",
    "not read yet",
    "so far",
    "cannot yet",
];

struct Page {
    name: String,
    text: String,
}

/// The repository as it is on this disk.
struct Repository {
    root: PathBuf,
    /// Files and folders, from the root, with `/` between their parts.
    paths: BTreeSet<String>,
    pages: Vec<Page>,
}

impl Repository {
    fn open() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .canonicalize()
            .unwrap();
        let mut paths = BTreeSet::new();
        walk(&root, &root, &mut paths);
        let is_page = |path: &String| {
            let is_ours = path.starts_with("docs/") && !path.starts_with("docs/samples/");
            path.ends_with(".md") && (is_ours || !path.contains('/'))
        };
        let pages = paths
            .iter()
            .filter(|path| is_page(path))
            .map(|path| Page {
                name: path.clone(),
                text: std::fs::read_to_string(root.join(path)).unwrap(),
            })
            .collect();
        Self { root, paths, pages }
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root.join(path)).unwrap_or_default()
    }

    /// What is written by hand and is no document: code, protos, scripts.
    fn sources(&self) -> impl Iterator<Item = (&String, String)> {
        let is_source = |path: &&String| {
            let name = path.rsplit('/').next().unwrap_or_default();
            let end = Path::new(name)
                .extension()
                .and_then(std::ffi::OsStr::to_str);
            let is_code = matches!(
                end,
                Some("rs" | "proto" | "py" | "toml" | "ts" | "tsx" | "mjs")
            );
            let is_script = end.is_none() && !name.starts_with('.') && name != "LICENSE";
            // This file names what is not to be found.
            (is_code || is_script) && !path.ends_with("domain/tests/docs.rs")
        };
        self.paths
            .iter()
            .filter(is_source)
            .map(|path| (path, self.read(path)))
            .filter(|(_, text)| !text.is_empty())
    }

    /// Every word of the sources: letters, digits and underscores.
    fn words(&self) -> BTreeSet<String> {
        let mut words = BTreeSet::new();
        for (_, text) in self.sources() {
            let found = text.split(|letter: char| !is_of_a_word(letter));
            words.extend(found.filter(|word| !word.is_empty()).map(str::to_owned));
        }
        words
    }

    /// The file or folder that a page means: from the root, from `services/`, or by the end of its path.
    fn find(&self, named: &str) -> Option<&String> {
        let named = named.trim_end_matches('/');
        let ending = format!("/{named}");
        self.paths
            .get(named)
            .or_else(|| self.paths.get(&format!("services/{named}")))
            .or_else(|| self.paths.iter().find(|path| path.ends_with(&ending)))
    }

    /// Runs over every page and fails with all that was found.
    fn judge(&self, mut look: impl FnMut(&Page, &mut Vec<String>)) {
        let mut faults = Vec::new();
        for page in &self.pages {
            let mut found = Vec::new();
            look(page, &mut found);
            faults.extend(found.iter().map(|fault| format!("{}: {fault}", page.name)));
        }
        faults.dedup();
        assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
    }
}

fn walk(root: &Path, folder: &Path, paths: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        if NOT_OURS.contains(&name.as_str()) {
            continue;
        }
        let path = entry.path();
        let from_root = path.strip_prefix(root).unwrap();
        paths.insert(from_root.to_string_lossy().replace('\\', "/"));
        if entry.file_type().unwrap().is_dir() {
            walk(root, &path, paths);
        }
    }
}

fn is_of_a_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

/// The page in pieces that belong together: paragraphs, rows of tables, items of lists. Code blocks are left out.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
            pieces.push(String::new());
            continue;
        }
        if in_code {
            continue;
        }
        let begins = line.starts_with('|')
            || line.starts_with('#')
            || line.starts_with("- ")
            || line.trim().is_empty()
            // The numbered rules of the protocol.
            || line.split_once(' ').is_some_and(|(number, _)| is_number(number));
        if begins {
            pieces.push(String::new());
        }
        let piece = pieces.last_mut().unwrap();
        piece.push_str(line);
        piece.push('\n');
    }
    pieces
}

fn is_number(word: &str) -> bool {
    word.contains('.')
        && word
            .chars()
            .all(|letter| letter.is_ascii_digit() || letter == '.')
}

/// What stands in backquotes, with its line breaks made spaces.
fn codes(piece: &str) -> Vec<String> {
    let codes = piece.split('`').skip(1).step_by(2);
    codes
        .map(|code| code.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// `a/{b,c}.rs` is `a/b.rs` and `a/c.rs`.
fn spread(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else {
        return vec![path.to_owned()];
    };
    let Some((names, after)) = rest.split_once('}') else {
        return vec![path.to_owned()];
    };
    names
        .split(',')
        .map(|name| format!("{before}{name}{after}"))
        .collect()
}

/// Whether code in a sentence is meant as a path of this repository.
fn is_path(code: &str, repository: &Repository) -> bool {
    let is_plain = code
        .chars()
        .all(|letter| letter.is_ascii_alphanumeric() || "/._-{},".contains(letter));
    if !is_plain || code.starts_with("batches/") || code.starts_with('{') {
        return false;
    }
    let ends_as_one = [
        ".rs", ".md", ".proto", ".toml", ".mjs", ".ts", ".tsx", ".py", ".json",
    ]
    .iter()
    .any(|end| code.ends_with(end));
    let first = code.split('/').next().unwrap_or_default();
    let begins_as_one =
        repository.paths.contains(first) || repository.paths.contains(&format!("services/{first}"));
    ends_as_one || (code.contains('/') && (begins_as_one || code.ends_with('/')))
}

#[test]
fn every_path_that_a_page_names_is_there() {
    let repository = Repository::open();
    repository.judge(|page, faults| {
        for code in pieces(&page.text).iter().flat_map(|piece| codes(piece)) {
            if !is_path(&code, &repository) || MADE.contains(&code.as_str()) {
                continue;
            }
            for path in spread(&code) {
                if repository.find(&path).is_none() {
                    faults.push(format!("there is no `{path}`"));
                }
            }
        }
    });
}

#[test]
fn every_link_leads_somewhere() {
    let repository = Repository::open();
    repository.judge(|page, faults| {
        let folder = page.name.rsplit_once('/').map_or("", |(folder, _)| folder);
        for link in page.text.split("](").skip(1) {
            let target = link.split(')').next().unwrap_or_default();
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() {
                page.name.clone()
            } else {
                joined(folder, file)
            };
            if !repository.paths.contains(path.trim_end_matches('/')) {
                faults.push(format!("a link to {target}, which is not there"));
            } else if !anchor.is_empty() && !anchors(&repository.read(&path)).contains(anchor) {
                faults.push(format!("a link to {target}, a heading that is not there"));
            }
        }
    });
}

fn joined(folder: &str, file: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in file.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The headings as links name them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            let kept = words
                .chars()
                .filter(|letter| letter.is_alphanumeric() || "-_ ".contains(*letter));
            kept.map(|letter| if letter == ' ' { '-' } else { letter })
                .collect()
        })
        .collect()
}

#[test]
fn every_page_is_reached_from_the_readme_and_the_map() {
    let repository = Repository::open();
    let readme = repository.read("README.md");
    for page in &repository.pages {
        let is_reached = page.name == "README.md" || readme.contains(&format!("]({})", page.name));
        assert!(is_reached, "README.md has no link to {}", page.name);
    }
}

/// Tests are named by sentences. What begins with the product's name is a metric.
fn is_sentence(code: &str) -> bool {
    let is_plain = code
        .chars()
        .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_');
    is_plain && !code.starts_with("caudal_") && code.matches('_').count() >= 4
}

#[test]
fn every_test_that_a_page_names_is_in_the_file_that_it_names() {
    let repository = Repository::open();
    let mut seen = 0;
    repository.judge(|page, faults| {
        for piece in pieces(&page.text) {
            let mut file: Option<&String> = None;
            for code in codes(&piece) {
                if code.ends_with(".rs") {
                    file = repository.find(&code);
                } else if is_sentence(&code) {
                    seen += 1;
                    let Some(file) = file else {
                        faults.push(format!("`{code}` is named without its file"));
                        continue;
                    };
                    if !defines(&repository.read(file), &code) {
                        faults.push(format!("there is no `{code}` in {file}"));
                    }
                }
            }
        }
    });
    assert!(seen > 90, "only {seen} tests were found in the pages");
}

#[test]
fn what_is_named_right_after_a_file_is_in_it() {
    let repository = Repository::open();
    repository.judge(|page, faults| {
        for piece in pieces(&page.text) {
            let parts: Vec<&str> = piece.split('`').collect();
            // Code, what stands between, code.
            for window in parts.windows(4).skip(1).step_by(2) {
                let (first, between, second) = (window[0], window[1], window[2]);
                let is_name = second.chars().all(is_of_a_word) && !second.is_empty();
                if first.ends_with(".rs") && matches!(between, ", " | " ") && is_name {
                    let text = repository
                        .find(first)
                        .map(|file| repository.read(file))
                        .unwrap_or_default();
                    if !defines(&text, second) {
                        faults.push(format!("`{first}` does not define `{second}`"));
                    }
                }
            }
        }
    });
}

/// Whether a source makes something of this name: an item, a field, a test that is named by a text.
fn defines(text: &str, name: &str) -> bool {
    let items = [
        "fn", "struct", "enum", "trait", "type", "const", "static", "mod",
    ];
    let is_item = items.iter().any(|item| {
        let declared = format!("{item} {name}");
        text.split(&declared)
            .skip(1)
            .any(|rest| !rest.starts_with(is_of_a_word))
    });
    is_item || text.contains(&format!(" {name}: ")) || text.contains(&format!("\"{name}\""))
}

/// Two words or more written together, as types and calls are named.
fn is_camel(word: &str) -> bool {
    let capitals = word.chars().filter(char::is_ascii_uppercase).count();
    let begins = word.starts_with(|letter: char| letter.is_ascii_uppercase());
    let small = word.chars().any(|letter| letter.is_ascii_lowercase());
    begins && small && capitals >= 2 && word.len() > 3 && !word.contains('_')
}

/// A state, a reason, a constant, a variable.
fn is_shouted(word: &str) -> bool {
    word.contains('_')
        && word.starts_with(|letter: char| letter.is_ascii_uppercase())
        && word
            .chars()
            .all(|letter| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_')
}

/// Without what only the tests read.
fn without_comments(text: &str) -> String {
    let mut parts = text.split("<!--");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept.push_str(part.split_once("-->").map_or("", |(_, rest)| rest));
    }
    kept
}

#[test]
fn every_type_call_state_constant_and_variable_that_a_page_names_is_in_the_sources() {
    let repository = Repository::open();
    let words = repository.words();
    repository.judge(|page, faults| {
        // The catalogue is compared with the code where it is made.
        if page.name == "docs/reasons.md" {
            return;
        }
        let text = without_comments(&page.text);
        for word in text.split(|letter: char| !is_of_a_word(letter)) {
            let is_name = is_camel(word) || is_shouted(word);
            let is_known = words.contains(word) || FOREIGN.contains(&word);
            if is_name && !is_known && !word.ends_with('_') {
                faults.push(format!("nothing is called {word}"));
            }
        }
    });
}

#[test]
fn every_rpc_that_a_page_calls_is_in_the_protos() {
    let repository = Repository::open();
    let mut calls: BTreeSet<String> = BTreeSet::new();
    for (path, text) in repository.sources() {
        if !path.ends_with(".proto") {
            continue;
        }
        let mut package = "";
        let mut service = "";
        for line in text.lines().map(str::trim) {
            let mut words = line.split(|letter: char| !is_of_a_word(letter) && letter != '.');
            match words.next() {
                Some("package") => package = words.next().unwrap_or_default(),
                Some("service") => service = words.next().unwrap_or_default(),
                Some("rpc") => {
                    let rpc = words.next().unwrap_or_default();
                    calls.insert(format!("{}.{service}/{rpc}", package.trim_end_matches('.')));
                }
                _ => {}
            }
        }
    }
    assert!(calls.contains("caudal.v1.BatchService/CreateBatch"));
    repository.judge(|page, faults| {
        let found = page
            .text
            .split(|letter: char| letter.is_whitespace() || "'`\"()".contains(letter));
        for word in found.filter(|word| word.contains("Service/")) {
            let call = word.rsplit_once("caudal.").map_or(word, |(_, rest)| rest);
            if !calls.contains(&format!("caudal.{call}")) {
                faults.push(format!("there is no call {word}"));
            }
        }
    });
}

#[test]
fn every_option_that_a_page_names_is_taken_by_something() {
    let repository = Repository::open();
    let mut taken = BTreeSet::new();
    for (_, text) in repository.sources() {
        // As clap and argparse are told of them: a field, or the text itself.
        for line in text.lines() {
            let field = line
                .trim()
                .trim_start_matches("pub(crate) ")
                .split_once(": ");
            if let Some((name, _)) = field {
                taken.insert(name.replace('_', "-"));
            }
            let quoted = line.split('"').skip(1).step_by(2);
            taken.extend(quoted.map(|text| text.trim_start_matches("--").to_owned()));
        }
    }
    repository.judge(|page, faults| {
        for code in pieces(&page.text).iter().flat_map(|piece| codes(piece)) {
            let option = code.strip_prefix("--").and_then(|rest| {
                rest.split(|letter: char| !letter.is_ascii_lowercase() && letter != '-')
                    .next()
            });
            if let Some(option) = option
                && !taken.contains(option)
            {
                faults.push(format!("nothing takes --{option}"));
            }
        }
    });
}

#[test]
fn every_target_of_make_and_every_crate_that_a_page_names_is_there() {
    let repository = Repository::open();
    let makefile = repository.read("Makefile");
    let mut crates = BTreeSet::new();
    for path in repository
        .paths
        .iter()
        .filter(|path| path.ends_with("/Cargo.toml"))
    {
        for line in repository.read(path).lines() {
            if let Some(name) = line.strip_prefix("name = ") {
                crates.insert(name.trim_matches('"').to_owned());
            }
        }
    }
    repository.judge(|page, faults| {
        let mut commands: Vec<String> = pieces(&page.text)
            .iter()
            .flat_map(|piece| codes(piece))
            .collect();
        commands.extend(page.text.lines().map(|line| line.trim().to_owned()));
        for command in commands {
            let mut words = command.split(' ');
            match words.next() {
                Some("make") => {
                    let target = words.next().unwrap_or_default();
                    if !makefile.contains(&format!("\n{target}:")) {
                        faults.push(format!("make has no target {target}"));
                    }
                    for word in words.take_while(|word| *word != "#") {
                        if let Some((variable, _)) = word.split_once('=')
                            && !makefile.contains(&format!("$({variable})"))
                        {
                            faults.push(format!("make reads no {variable}"));
                        }
                    }
                }
                Some("cargo") => {
                    let words: Vec<&str> = words.collect();
                    for pair in words.windows(2).filter(|pair| pair[0] == "-p") {
                        if !crates.contains(pair[1]) {
                            faults.push(format!("there is no crate {}", pair[1]));
                        }
                    }
                }
                _ => {}
            }
        }
    });
}

#[test]
fn tables_have_no_holes() {
    let repository = Repository::open();
    repository.judge(|page, faults| {
        let lines: Vec<&str> = page.text.lines().collect();
        let mut start = 0;
        while start < lines.len() {
            if !lines[start].starts_with('|') {
                start += 1;
                continue;
            }
            let rows = lines[start..]
                .iter()
                .take_while(|line| line.starts_with('|'))
                .count();
            let columns = cells(lines[start]).len();
            let ruled = lines.get(start + 1).is_some_and(|line| {
                line.starts_with('|') && line.chars().all(|letter| "|-: ".contains(letter))
            });
            if !ruled {
                faults.push(format!(
                    "line {}: rows without a head: is there an empty line in the table?",
                    start + 1
                ));
            }
            for (number, row) in lines.iter().enumerate().skip(start).take(rows) {
                if ruled && cells(row).len() != columns {
                    faults.push(format!(
                        "line {}: {} columns in a table of {columns}",
                        number + 1,
                        cells(row).len()
                    ));
                }
            }
            start += rows;
        }
    });
}

/// The cells of a row. A bar after a backslash is text, as it is for GitHub, also in code.
fn cells(row: &str) -> Vec<String> {
    let row = row.trim().replace("\\|", "\u{0}");
    let row = row.strip_prefix('|').unwrap_or(&row);
    let row = row.strip_suffix('|').unwrap_or(row);
    row.split('|')
        .map(|cell| cell.trim().replace('\u{0}', "|"))
        .collect()
}

/// The rows below a heading, without the head.
fn table<'a>(text: &'a str, heading: &str) -> impl Iterator<Item = Vec<String>> + 'a {
    let (_, section) = text.split_once(heading).unwrap_or_default();
    section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(cells)
}

/// Written for the people who read the database, and read by nothing.
const FOR_PEOPLE: [&str; 3] = [
    "api_keys.created_at",
    "stage_versions.first_seen",
    "tenants.created_at",
];

/// What the migrations make: tables with the text between their brackets, and the indexes that are there for a query
/// alone. A unique one also keeps something true.
struct Schema {
    tables: BTreeMap<String, String>,
    indexes: BTreeSet<String>,
}

impl Schema {
    fn of(repository: &Repository) -> Self {
        let mut schema = Self {
            tables: BTreeMap::new(),
            indexes: BTreeSet::new(),
        };
        for (path, text) in repository.sources() {
            if !path.starts_with("migrations/src/m") {
                continue;
            }
            for made in text.split("CREATE ").skip(1) {
                if let Some(table) = made.strip_prefix("TABLE ") {
                    let table = table.trim_start_matches("IF NOT EXISTS ");
                    let (name, body) = table.split_once(" (").unwrap();
                    schema.tables.insert(name.to_owned(), body.to_owned());
                } else if let Some(index) = made.strip_prefix("INDEX ") {
                    let (name, _) = index.split_once(' ').unwrap();
                    schema.indexes.insert(name.to_owned());
                }
            }
        }
        assert!(schema.tables.contains_key("file_work"));
        assert!(schema.indexes.contains("file_work_ready"));
        schema
    }

    /// The columns of a table: each stands on a line of its own, with its type in braces.
    fn columns(&self, table: &str) -> impl Iterator<Item = &str> {
        self.tables[table].lines().filter_map(|line| {
            let (name, kind) = line.trim().split_once(' ')?;
            (kind.starts_with('{') && name.chars().all(is_of_a_word)).then_some(name)
        })
    }
}

/// The sources of the ledger, but for what only tests run.
fn of_the_ledger(repository: &Repository) -> Vec<String> {
    let sources = repository.sources().filter(|(path, _)| {
        path.starts_with("services/ledger/src/")
            && !path.ends_with("/plans.rs")
            && !path.ends_with("tests.rs")
    });
    sources.map(|(_, text)| text).collect()
}

/// Whether a statement in this text reads or writes the table.
fn names_table(text: &str, table: &str) -> bool {
    ["FROM", "INTO", "UPDATE", "JOIN"].iter().any(|verb| {
        text.split(&format!("{verb} {table}"))
            .skip(1)
            .any(|rest| !rest.starts_with(is_of_a_word))
    })
}

/// The text without the lists of columns that rows are inserted with: a column that stands only there is never read.
fn without_inserts(text: &str) -> String {
    let mut parts = text.split("INSERT INTO ");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept.push_str(part.split_once(')').map_or("", |(_, rest)| rest));
    }
    kept
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|letter: char| !is_of_a_word(letter))
        .any(|other| other == word)
}

#[test]
fn every_table_column_and_index_of_the_database_is_used_by_the_ledger() {
    let repository = Repository::open();
    let schema = Schema::of(&repository);
    let sources = of_the_ledger(&repository);
    let plans = repository.read("services/ledger/src/store/plans.rs");
    let mut faults = Vec::new();
    for table in schema.tables.keys() {
        let users: Vec<String> = sources
            .iter()
            .filter(|text| names_table(text, table))
            .map(|text| without_inserts(text))
            .collect();
        if users.is_empty() {
            faults.push(format!("no statement names the table {table}"));
            continue;
        }
        for column in schema.columns(table) {
            let name = format!("{table}.{column}");
            let is_read = users.iter().any(|text| has_word(text, column));
            if !is_read && !FOR_PEOPLE.contains(&name.as_str()) {
                faults.push(format!("nothing reads {name}"));
            }
        }
    }
    for index in &schema.indexes {
        if !has_word(&plans, index) && !sources.iter().any(|text| has_word(text, index)) {
            faults.push(format!("no query names the index {index} as its own"));
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn the_tables_of_the_database_are_those_of_the_map() {
    let repository = Repository::open();
    let schema = Schema::of(&repository);
    let page = repository.read("docs/architecture.md");
    let documented: BTreeSet<String> = table(&page, "\n## Tables\n")
        .flat_map(|row| codes(&row[0]))
        .collect();
    let made: BTreeSet<String> = schema.tables.keys().cloned().collect();
    assert_eq!(documented, made);
    // A column, wherever a page names one with its table.
    repository.judge(|page, faults| {
        for code in pieces(&page.text).iter().flat_map(|piece| codes(piece)) {
            if let Some((table, column)) = code.split_once('.')
                && column != "rs"
                && schema.tables.contains_key(table)
                && !schema.columns(table).any(|other| other == column)
            {
                faults.push(format!("the table {table} has no {column}"));
            }
        }
    });
}

/// Sources of what runs, without their tests and without clients, which must understand whatever a server may say.
fn of_services(repository: &Repository) -> Vec<(&String, String)> {
    let sources = repository.sources().filter(|(path, _)| {
        let is_service = path.starts_with("services/") || path.starts_with("gateway/src/");
        let is_contract = path.starts_with("proto/src/");
        let is_test = path.contains("/tests/")
            || path.ends_with("tests.rs")
            || path.ends_with("/plans.rs")
            || path.starts_with("services/harness/");
        path.ends_with(".rs") && (is_service || is_contract) && !is_test
    });
    sources
        .map(|(path, text)| {
            let tests = text.find("#[cfg(test)]\nmod tests");
            let kept = text[..tests.unwrap_or(text.len())].to_owned();
            (path, kept)
        })
        .collect()
}

#[test]
fn every_limit_is_read_where_it_is_kept_and_is_written_once() {
    let repository = Repository::open();
    let limits = repository.read("services/domain/src/limits.rs");
    let sources = of_services(&repository);
    let mut faults = Vec::new();
    let mut seen = 0;
    for rest in limits.split("\npub const ").skip(1) {
        let (name, _) = rest.split_once(':').unwrap();
        seen += 1;
        let others = || {
            sources
                .iter()
                .filter(|(path, _)| !path.ends_with("domain/src/limits.rs"))
        };
        if !others().any(|(_, text)| has_word(text, name)) {
            faults.push(format!("nothing keeps {name}"));
        }
        let again = format!("const {name}: ");
        for (path, _) in others().filter(|(_, text)| text.contains(&again)) {
            // What knows nobody may have a bound of its own that is called the same.
            let crate_of = path.split_once("/src/").map_or("", |(folder, _)| folder);
            let knows = repository.read(&format!("{crate_of}/Cargo.toml"));
            if knows.contains("caudal-domain") {
                faults.push(format!("{path} writes {name} again"));
            }
        }
    }
    assert!(seen > 30, "only {seen} limits were found");
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// Values that a request may name and no code does: they are what is done when it names none, or are kept by number.
const BY_DEFAULT: [&str; 5] = [
    "Priority::Low",
    "Priority::High",
    "MissingFiles::Wait",
    "EventStart::Now",
    "FileView::Basic",
];

/// One thing of the contract: a call, a field, an arm of a `oneof`, a value of an enum.
struct Promise {
    of: String,
    kind: &'static str,
    name: String,
}

fn promises(repository: &Repository) -> Vec<Promise> {
    let mut found = Vec::new();
    for (path, text) in repository.sources() {
        if !path.starts_with("proto/caudal/") {
            continue;
        }
        let mut open: Vec<(&'static str, String)> = Vec::new();
        for line in text.lines() {
            let line = line.split("//").next().unwrap_or_default().trim();
            let words: Vec<&str> = line.split_whitespace().collect();
            let kinds = ["message", "enum", "oneof", "service"];
            let kind = kinds.into_iter().find(|kind| words.first() == Some(kind));
            if let (Some(kind), Some(name)) = (kind, words.get(1)) {
                if !line.ends_with('}') {
                    open.push((kind, (*name).to_owned()));
                }
                continue;
            }
            if line.starts_with('}') {
                open.pop();
                continue;
            }
            let Some((within, of)) = open.last() else {
                continue;
            };
            let kind = match *within {
                "service" if words.first() == Some(&"rpc") => "call",
                "enum" => "value",
                "oneof" => "arm",
                "message" => "field",
                _ => continue,
            };
            let name = match kind {
                "call" => words.get(1).and_then(|word| word.split('(').next()),
                "value" => words.first().copied(),
                _ => words
                    .iter()
                    .position(|word| *word == "=")
                    .and_then(|at| words.get(at.checked_sub(1)?).copied()),
            };
            if let Some(name) = name.filter(|name| name.chars().all(is_of_a_word)) {
                found.push(Promise {
                    of: of.clone(),
                    kind,
                    name: name.to_owned(),
                });
            }
        }
    }
    found
}

/// `PAUSE_SOURCE_BATCH` of `PauseSource` as Rust calls it: `Batch`; `max_age`: `MaxAge`.
fn variant(of: &str, name: &str) -> String {
    let words = name.split('_').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_uppercase() + &rest.to_lowercase()
    });
    let camel: String = words.collect();
    camel.strip_prefix(of).unwrap_or(&camel).to_owned()
}

/// `GetBatch` as Rust calls it: `get_batch`.
fn snake(name: &str) -> String {
    let mut answer = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !answer.is_empty() {
            answer.push('_');
        }
        answer.push(letter.to_ascii_lowercase());
    }
    answer
}

#[test]
fn every_call_field_arm_and_value_of_the_contract_is_meant_by_a_service() {
    let repository = Repository::open();
    let services = of_services(&repository);
    let words: BTreeSet<&str> = services
        .iter()
        .flat_map(|(_, text)| text.split(|letter: char| !is_of_a_word(letter)))
        .collect();
    // Whoever calls may be a client or a test.
    let callers: String = repository
        .sources()
        .filter(|(path, _)| path.ends_with(".rs"))
        .map(|(_, text)| text)
        .collect();
    let mut faults = Vec::new();
    let promises = promises(&repository);
    for Promise { of, kind, name } in &promises {
        let is_kept = match *kind {
            "call" => callers.contains(&format!(".{}(", snake(name))),
            "field" => words.contains(name.as_str()),
            _ if name.ends_with("_UNSPECIFIED") => true,
            _ => {
                let variant = variant(of, name);
                let spelled = format!("::{variant}");
                let is_spelled = |text: &String| {
                    text.split(&spelled)
                        .skip(1)
                        .any(|rest| !rest.starts_with(is_of_a_word))
                };
                // A file that means the enum's value names the enum; an arm stands in a module that is often renamed.
                BY_DEFAULT.contains(&format!("{of}::{variant}").as_str())
                    || services
                        .iter()
                        .any(|(_, text)| is_spelled(text) && (*kind == "arm" || has_word(text, of)))
            }
        };
        if !is_kept {
            faults.push(format!("no service means the {kind} {name} of {of}"));
        }
    }
    for kind in ["call", "field", "arm", "value"] {
        let seen = promises.iter().filter(|one| one.kind == kind).count();
        assert!(seen > 10, "only {seen} of kind {kind} were found");
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn the_sample_files_are_those_of_the_page() {
    let repository = Repository::open();
    let text = repository.read("docs/samples.md");
    let mut documented: BTreeSet<String> = table(&text, "# The sample files")
        .flat_map(|row| codes(&row[0]))
        .collect();
    for path in &repository.paths {
        if let Some(sample) = path.strip_prefix("docs/samples/")
            && repository.root.join(path).is_file()
        {
            assert!(documented.remove(sample), "docs/samples.md lacks {sample}");
        }
    }
    assert!(documented.is_empty(), "not there: {documented:?}");
}

#[test]
fn the_figures_of_limits_are_those_of_the_code() {
    let repository = Repository::open();
    let page = repository.read("docs/guarantees.md");
    let mut seen = 0;
    for row in table(&page, "\n## Limits\n") {
        let [_, figure, place] = row.as_slice() else {
            panic!("{row:?}")
        };
        let codes = codes(place);
        let [file, names @ ..] = codes.as_slice() else {
            panic!("a limit without a place: {row:?}")
        };
        let path = repository.find(file).unwrap();
        let source = repository.read(path);
        for name in names {
            let value = value_of(&source, name).unwrap_or_else(|| panic!("{path} has no {name}"));
            assert_eq!(in_words(value), *figure, "{name} in {path} is {value}");
            seen += 1;
        }
    }
    assert!(seen >= 10, "only {seen} limits were compared");
}

/// What a constant is, or a field of the settings when nothing else is said.
fn value_of<'a>(source: &'a str, name: &str) -> Option<&'a str> {
    if let Some((_, rest)) = source.split_once(&format!("const {name}: ")) {
        return rest.split_once(" = ")?.1.split(';').next();
    }
    let field = format!(" {name}: ");
    let fields = source.split(&field).skip(1);
    let mut values = fields.filter_map(|rest| rest.split(",\n").next());
    values.find(|value| {
        value.starts_with("Duration::") || value.starts_with(|letter: char| letter.is_ascii_digit())
    })
}

/// A constant's value as a page writes it: `1_000` as 1,000, `4 << 20` as 4 MiB, `Duration::from_secs(7 * 24 * 60 * 60)`
/// as 7 days.
fn in_words(value: &str) -> String {
    if let Some((_, seconds)) = value.split_once("Duration::from_secs(") {
        let seconds = number(seconds.split(')').next().unwrap());
        return match seconds {
            seconds if seconds % 86_400 == 0 && seconds > 86_400 => {
                format!("{} days", seconds / 86_400)
            }
            seconds if seconds % 3_600 == 0 => format!("{} hours", seconds / 3_600),
            seconds => format!("{seconds} s"),
        };
    }
    let has_unit = ["<<", "KIB", "MIB", "GIB", "TIB"]
        .iter()
        .any(|unit| value.contains(unit));
    let number = number(value);
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (bits, unit) in units {
        if has_unit && number.is_multiple_of(1 << bits) {
            return format!("{} {unit}", number >> bits);
        }
    }
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// The value of numbers and units that are multiplied or shifted.
fn number(expression: &str) -> u64 {
    let part = |text: &str| match text.trim().trim_matches(['(', ')']) {
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        "TIB" => 1 << 40,
        text => text.replace('_', "").parse::<u64>().unwrap(),
    };
    if let Some((number, bits)) = expression.split_once("<<") {
        return part(number) << part(bits);
    }
    expression.split('*').map(part).product()
}

/// A marker says where a name is not to be found: `<!-- absent: NAME in PATH; NAME in PATH -->`.
#[test]
fn what_a_page_says_is_not_there_is_not() {
    let repository = Repository::open();
    let mut seen = 0;
    repository.judge(|page, faults| {
        for piece in pieces(&page.text) {
            // What a heading says, the text below it says with its marker.
            if piece.starts_with('#') {
                continue;
            }
            // In code a marker is only shown.
            let text = piece.split('`').step_by(2).collect::<Vec<_>>().join(" ");
            let has_marker = text.contains("<!-- absent:");
            let mut said = piece.to_lowercase();
            for of_tests in OF_TESTS {
                said = said.replace(of_tests, "");
            }
            let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
            if let Some(word) = ABSENT.iter().find(|word| words.contains(*word))
                && !has_marker
            {
                let start: String = piece.trim().chars().take(70).collect();
                faults.push(format!(
                    "\"{word}\" without a marker that says what is absent: {start}"
                ));
            }
            let markers = text.split("<!-- absent:").skip(1);
            let claims = markers.flat_map(|rest| rest.split("-->").next().unwrap().split(';'));
            for claim in claims.map(str::trim) {
                seen += 1;
                let Some((name, place)) = claim.split_once(" in ") else {
                    faults.push(format!("a marker that is not NAME in PATH: {claim}"));
                    continue;
                };
                let below = format!("{}/", place.trim_end_matches('/'));
                let mut files = repository
                    .sources()
                    .filter(|(path, _)| *path == place || path.starts_with(&below))
                    .peekable();
                if files.peek().is_none() {
                    faults.push(format!("a marker for {place}, where there is no source"));
                }
                for (path, text) in files {
                    if text
                        .split(|letter: char| !is_of_a_word(letter))
                        .any(|word| word == name)
                    {
                        faults.push(format!("{name} is said to be absent and is in {path}"));
                    }
                }
            }
        }
    });
    assert!(seen > 0, "no page has a marker");
}

#[test]
fn the_protocol_says_of_each_section_whether_it_is_planned() {
    let repository = Repository::open();
    let page = repository.read("docs/protocol.md");
    let (_, rest) = page.split_once("**Planned:**").unwrap();
    let said = rest.split("**").next().unwrap();
    let said = said.split_once(". ").map_or(said, |(sentence, _)| sentence);
    for heading in page.lines().filter(|line| line.starts_with("## ")) {
        let (number, title) = heading[3..].split_once(". ").unwrap();
        let mut numbers = said.split(|letter: char| !letter.is_ascii_digit() && letter != '.');
        assert_eq!(
            numbers.any(|other| other.trim_end_matches('.') == number),
            title.contains("(planned)"),
            "section {number}: its heading and the head of the page disagree"
        );
    }
}

/// Comments and tests name rules by their numbers: "protocol 6.3".
#[test]
fn every_rule_of_the_protocol_that_the_code_names_is_there() {
    let repository = Repository::open();
    let page = repository.read("docs/protocol.md");
    let rules: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(number, _)| number)
        .filter(|number| is_number(number))
        .collect();
    let mut seen = 0;
    for (path, text) in repository.sources() {
        for rest in text.to_lowercase().split("protocol ").skip(1) {
            let number = rest
                .split(|letter: char| !letter.is_ascii_digit() && letter != '.')
                .next()
                .unwrap()
                .trim_end_matches('.');
            if is_number(number) && number.len() < 6 && path.ends_with(".rs") {
                seen += 1;
                assert!(rules.contains(number), "{path}: there is no rule {number}");
            }
        }
    }
    assert!(seen > 30, "only {seen} rules were found in the code");
}
