//! The settings file of `caudal serve`. What it says is put before the command line's own flags, for every setting that
//! neither the flags nor the environment give: so it is read by the same parser, with the same checks.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, CommandFactory as _, FromArgMatches as _};
use toml::{Table, Value};

use crate::cli::Cli;
use crate::failure::{self, Failure};
use crate::serve::arguments::Service;

/// A file of settings is some lines.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Where the settings of single services stand.
const OF_ONE_SERVICE: &str = "service";
/// The settings that a file cannot give.
const NOT_IN_A_FILE: [&str; 2] = ["config", "help"];

/// Why there is no command line to be followed.
#[derive(Debug)]
pub(crate) enum Wrong {
    CommandLine(clap::Error),
    File(Failure),
}

impl Wrong {
    pub(crate) fn show(&self) -> ExitCode {
        match self {
            Self::CommandLine(error) => failure::of_the_command_line(error),
            Self::File(failure) => failure.show(),
        }
    }
}

impl From<clap::Error> for Wrong {
    fn from(error: clap::Error) -> Self {
        Self::CommandLine(error)
    }
}

/// Reads the command line, and the file that it or the environment names.
pub(crate) fn parse(command_line: &[OsString]) -> Result<Cli, Wrong> {
    let mut matches = Cli::command().try_get_matches_from(command_line)?;
    if let Some(("serve", serve)) = matches.subcommand()
        && let Some(path) = serve.get_one::<std::path::PathBuf>("config")
        && let Some(service) = serve.get_one::<Service>("service")
    {
        let from_file = flags(path, *service, serve).map_err(Wrong::File)?;
        // The program and `serve` stand first: nothing goes before a subcommand.
        let (start, rest) = command_line.split_at(2.min(command_line.len()));
        let whole = start
            .iter()
            .cloned()
            .chain(from_file)
            .chain(rest.iter().cloned());
        matches = Cli::command().try_get_matches_from(whole)?;
    }
    Ok(Cli::from_arg_matches(&matches)?)
}

fn flags(path: &Path, service: Service, given: &ArgMatches) -> Result<Vec<OsString>, Failure> {
    let wrong = |words: String| Failure::misconfigured(format!("{}: {words}", path.display()));
    let mut settings = read(path)?;
    let mut of_services = match settings.remove(OF_ONE_SERVICE) {
        None => Table::new(),
        Some(Value::Table(tables)) => tables,
        Some(_) => {
            return Err(wrong(
                "`service` must be tables such as [service.upload]".to_owned(),
            ));
        }
    };
    let own = of_services.remove(service.name());
    if let Some(unknown) = of_services
        .keys()
        .find(|name| Service::ALL.iter().all(|service| service.name() != *name))
    {
        return Err(wrong(format!("[service.{unknown}] is no service")));
    }
    match own {
        None => {}
        Some(Value::Table(own)) => settings.extend(own),
        Some(_) => {
            let name = service.name();
            return Err(wrong(format!(
                "`service.{name}` must be a table: [service.{name}]"
            )));
        }
    }
    let command = Cli::command();
    let known = command
        .find_subcommand("serve")
        .map(|serve| serve.get_arguments().collect::<Vec<_>>())
        .unwrap_or_default();
    let mut flags = Vec::new();
    for (name, value) in &settings {
        let setting = known
            .iter()
            .find(|setting| setting.get_long() == Some(name))
            .filter(|_| !NOT_IN_A_FILE.contains(&name.as_str()))
            .ok_or_else(|| {
                wrong(format!(
                    "`{name}` is no setting; `caudal serve --help` lists them"
                ))
            })?;
        let text = text(value, is_switch(setting)).ok_or_else(|| {
            wrong(if is_switch(setting) {
                format!("`{name}` must be true or false")
            } else {
                format!("`{name}` must be a text, a number, or a list of texts")
            })
        })?;
        let is_given = matches!(
            given.value_source(setting.get_id().as_str()),
            Some(ValueSource::CommandLine | ValueSource::EnvVariable)
        );
        if !is_given {
            flags.push(OsString::from(format!("--{name}={text}")));
        }
    }
    Ok(flags)
}

fn read(path: &Path) -> Result<Table, Failure> {
    let cannot = |words: String| {
        Failure::misconfigured(format!(
            "the settings file {} cannot be read: {words}",
            path.display()
        ))
    };
    let size = std::fs::metadata(path)
        .map_err(|error| cannot(error.to_string()))?
        .len();
    if size > MAX_CONFIG_BYTES {
        return Err(cannot(format!("it has more than {MAX_CONFIG_BYTES} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| cannot(error.to_string()))?;
    // The parser's own words show the line, and it may hold a secret.
    text.parse::<Table>().map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        cannot(format!("line {line}: {}", error.message()))
    })
}

/// Whether a setting is true or false, and nothing else.
fn is_switch(setting: &Arg) -> bool {
    setting
        .get_possible_values()
        .iter()
        .any(|value| value.get_name() == "true")
}

fn text(value: &Value, of_a_switch: bool) -> Option<String> {
    match value {
        Value::Boolean(is_on) if of_a_switch => Some(is_on.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Array(values) => {
            let texts = values
                .iter()
                .map(Value::as_str)
                .collect::<Option<Vec<_>>>()?;
            Some(texts.join(","))
        }
        Value::Boolean(_) | Value::Datetime(_) | Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;
    use crate::cli::Command;
    use crate::serve::arguments::ServeArguments;

    fn serve(file: &str, flags: &[&str]) -> Result<ServeArguments, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("caudal.toml");
        std::fs::write(&path, file).unwrap();
        let command_line = [
            "caudal",
            "serve",
            "upload",
            "--config",
            path.to_str().unwrap(),
        ];
        let command_line = command_line
            .iter()
            .chain(flags)
            .map(OsString::from)
            .collect::<Vec<_>>();
        match parse(&command_line) {
            Ok(cli) => match cli.command {
                Command::Serve(arguments) => Ok(*arguments),
                other => panic!("{other:?}"),
            },
            Err(Wrong::CommandLine(error)) => Err(error.to_string()),
            Err(Wrong::File(failure)) => Err(format!("{failure:?}")),
        }
    }

    #[test]
    fn flags_are_over_the_file_and_a_services_own_table_over_what_is_for_all() {
        let file = r#"
            ledger = ["http://a:1", "http://b:1"]
            limiter = "http://c:1"
            log-format = "json"
            slots = 4
            [service.upload]
            slots = 5
            listen = "127.0.0.1:5000"
            [service.metadata]
            slots = 6
        "#;
        let arguments = serve(file, &["--limiter", "http://d:1"]).unwrap();
        assert_eq!(arguments.ledger.as_deref(), Some("http://a:1,http://b:1"));
        assert_eq!(arguments.limiter.as_deref(), Some("http://d:1"));
        assert_eq!(arguments.slots, Some(5));
        assert_eq!(arguments.listen, Some("127.0.0.1:5000".parse().unwrap()));
        assert_eq!(
            arguments.telemetry.log_format,
            crate::settings::LogLines::Json
        );
    }

    #[test]
    fn a_switch_is_true_or_false_in_quotes_and_without_them() {
        for (file, is_on) in [
            ("always-land = true", true),
            ("always-land = 'true'", true),
            ("always-land = false", false),
        ] {
            let arguments = serve(file, &[]).unwrap();
            assert_eq!(arguments.always_land.always_land, is_on, "{file}");
        }
    }

    #[test]
    fn a_wrong_file_is_refused_by_the_setting_and_shows_no_secret() {
        for (file, named) in [
            ("ledgr = 'http://a:1'", "`ledgr`"),
            ("config = 'other.toml'", "`config`"),
            ("ledger = true", "`ledger`"),
            ("always-land = [true]", "true or false"),
            ("listen = 'nowhere'", "--listen"),
            ("slots = 0", "--slots"),
            ("[service.ocr]\nslots = 1", "service.ocr"),
            ("service = 1", "`service`"),
            ("slots = 1\nmesh-secret = 'hidden", "line 2"),
        ] {
            let words = serve(file, &[]).unwrap_err();
            assert!(words.contains(named), "{file}: {words}");
            assert!(!words.contains("hidden"), "{words}");
        }
        let nowhere = [
            "caudal",
            "serve",
            "upload",
            "--config",
            "/nowhere/caudal.toml",
        ];
        assert!(parse(&nowhere.map(OsString::from)).is_err());
    }
}
