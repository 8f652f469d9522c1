//! Addresses as they may be shown: in errors, logs and ready lines.

/// What stands in a query and is no secret. Everything else may be one, under whatever name.
const SHOWN_OPTIONS: [&str; 5] = ["db", "mode", "protocol", "schema", "sslmode"];

/// An address (of a database, Redis, store, gateway or service) without anything that may be a secret: without who connects
/// and by which password, without what a query says but for a few plain options, and without a fragment. What is no address
/// is shown as far as it looks like one: a password with characters that had to be encoded leaves an address that every
/// reader takes apart differently.
#[must_use]
pub fn shown_address(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else {
        return shown_without_scheme(address);
    };
    let scheme = plain_end(scheme);
    // A password may hold any character, so whatever stands before the last `@` may be part of it.
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    format!("{scheme}://{}", shown_place(rest))
}

/// `sqlite:FILE`, `HOST:PORT`, or something else.
fn shown_without_scheme(address: &str) -> String {
    if let Some(path) = address.strip_prefix("sqlite:") {
        return format!("sqlite:{}{}", before_query(path), shown_options(path));
    }
    let rest = address.rsplit_once('@').map_or(address, |(_, rest)| rest);
    shown_place(rest)
}

/// `HOST[:PORT][/PATH][?QUERY][#FRAGMENT]`.
fn shown_place(place: &str) -> String {
    let options = shown_options(place);
    let place = before_query(place);
    let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    let hosts: Vec<String> = authority.split(',').map(shown_host).collect();
    format!("{}{path}{options}", hosts.join(","))
}

/// A host and its port. What stands where a port should and is none may be the password of somebody named like a host.
fn shown_host(host: &str) -> String {
    let (name, rest) = match host.find(']') {
        Some(end) if host.starts_with('[') => host.split_at(end + 1),
        _ => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let port = rest.strip_prefix(':').unwrap_or_default();
    let is_port = !port.is_empty() && port.parse::<u16>().is_ok();
    if is_port {
        format!("{name}:{port}")
    } else {
        name.to_owned()
    }
}

fn before_query(place: &str) -> &str {
    place.split(['?', '#']).next().unwrap_or_default()
}

fn shown_options(place: &str) -> String {
    let before_fragment = place.split('#').next().unwrap_or_default();
    let Some((_, query)) = before_fragment.split_once('?') else {
        return String::new();
    };
    let shown: Vec<&str> = query
        .split('&')
        .filter(|option| {
            let name = option.split('=').next().unwrap_or_default();
            SHOWN_OPTIONS.contains(&name)
        })
        .collect();
    if shown.is_empty() {
        return String::new();
    }
    format!("?{}", shown.join("&"))
}

/// What of a scheme can be one: the letters at its end.
fn plain_end(scheme: &str) -> &str {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "+-.".contains(letter);
    let mut parts = scheme.rsplit(|letter| !is_plain(letter));
    parts.next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_with_its_place_and_without_who_connects() {
        for (address, shown) in [
            (
                "redis://default:s3cr@t@127.0.0.1:6379/0",
                "redis://127.0.0.1:6379/0",
            ),
            ("redis://:secret@h/1", "redis://h/1"),
            ("redis://secret@h/1", "redis://h/1"),
            ("redis://h:1", "redis://h:1"),
            (
                "redis+unix:///x.sock?db=0&user=u&pass=secret",
                "redis+unix:///x.sock?db=0",
            ),
            (
                "postgres://u:secret%40@h:5/db?sslmode=require",
                "postgres://h:5/db?sslmode=require",
            ),
            (
                "postgresql://h,i:5/db?user=u&password=secret",
                "postgresql://h,i:5/db",
            ),
            ("postgres://h/db?options=-c%20x%3Dsecret", "postgres://h/db"),
            ("http://[::1]:9000", "http://[::1]:9000"),
            (
                "sqlite:/data/a@b/ledger.sqlite",
                "sqlite:/data/a@b/ledger.sqlite",
            ),
            (
                "sqlite:///data/x?mode=rwc&key=secret",
                "sqlite:///data/x?mode=rwc",
            ),
            ("ledger:7411", "ledger:7411"),
            ("not an address", "not an address"),
        ] {
            assert_eq!(shown_address(address), shown, "{address}");
        }
    }

    #[test]
    fn a_password_that_had_to_be_encoded_is_not_shown_either() {
        for address in [
            "postgres://u:secret@:bad:port/x",
            "postgres://u:se/secret#?cret@h/db",
            "postgres://u:secret",
            "postgres://u:12#secret@h:1/db",
            "http://user:secret@",
            "user:secret@h:1",
            "u:secret",
            "http://h:1/#key=secret",
            "http://h:1?api_key=secret",
            "secret@://h",
        ] {
            let shown = shown_address(address);
            assert!(!shown.contains("secret"), "{address}: {shown}");
        }
    }
}
