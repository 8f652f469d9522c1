//! The languages in which reasons are told.

use serde::{Deserialize, Serialize};

/// A language of the catalogue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Language {
    /// English, also for whoever asks for a language that is not here.
    #[default]
    En,
    /// Spanish.
    Es,
}

/// Values longer than this are not from a browser; the rest is not looked at.
const MAX_RANGES: usize = 32;

impl Language {
    /// Every language.
    pub const ALL: [Self; 2] = [Self::En, Self::Es];

    /// The primary subtag: `en`, `es`.
    #[must_use]
    pub const fn tag(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Es => "es",
        }
    }

    /// Chooses by the value of an accept-language header: the highest quality wins, the first among equals. Whatever
    /// cannot be read is passed over; nothing usable is English.
    #[must_use]
    pub fn from_accept_language(value: &str) -> Self {
        let mut best: Option<(Self, u16)> = None;
        for range in value.split(',').take(MAX_RANGES) {
            let Some((language, quality)) = parse_range(range) else {
                continue;
            };
            if quality > best.map_or(0, |(_, best_quality)| best_quality) {
                best = Some((language, quality));
            }
        }
        best.map_or_else(Self::default, |(language, _)| language)
    }
}

/// `es-MX;q=0.8` to Spanish and 800.
fn parse_range(range: &str) -> Option<(Language, u16)> {
    let mut fields = range.split(';').map(str::trim);
    let tag = fields.next()?;
    let primary = tag.split('-').next()?.to_ascii_lowercase();
    let language = match primary.as_str() {
        "es" => Language::Es,
        "en" | "*" => Language::En,
        _ => return None,
    };
    let mut quality = 1000;
    for field in fields {
        if let Some(text) = field
            .strip_prefix("q=")
            .or_else(|| field.strip_prefix("Q="))
        {
            quality = parse_quality(text)?;
        }
    }
    Some((language, quality))
}

/// Thousandths, as RFC 9110 12.4.2 writes them: `0`, `0.8`, `1.000`.
fn parse_quality(text: &str) -> Option<u16> {
    let number: f32 = text.trim().parse().ok()?;
    if !(0.0..=1.0).contains(&number) {
        return None;
    }
    Some((number * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_highest_quality_wins_and_the_first_among_equals() {
        for (value, language) in [
            ("", Language::En),
            ("es", Language::Es),
            ("es-MX,es;q=0.9,en;q=0.8", Language::Es),
            ("en-GB,en;q=0.9,es;q=0.8", Language::En),
            ("en;q=0.5, ES;q=0.7", Language::Es),
            ("de-DE, es;q=0.4, en;q=0.3", Language::Es),
            ("de, fr", Language::En),
            ("es;q=0", Language::En),
            ("es;q=0, *;q=0.1", Language::En),
            ("es, en", Language::Es),
            ("en, es", Language::En),
            ("es;q=nonsense, en;q=0.1", Language::En),
            ("es;q=7", Language::En),
            ("espresso", Language::En),
        ] {
            assert_eq!(Language::from_accept_language(value), language, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_value_gives_a_language(value in any::<String>(), more in "[a-z*;=q0-9., -]{0,200}") {
            let _ = Language::from_accept_language(&value);
            let _ = Language::from_accept_language(&more);
        }
    }
}
