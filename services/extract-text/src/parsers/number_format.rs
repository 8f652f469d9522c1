//! Numbers as a sheet shows them: the format codes of workbooks.

/// The longest code that is read.
const MAX_CODE_CHARACTERS: usize = 255;
/// The most digits behind the point, and the most that are filled up with zeros.
const MAX_DIGITS: usize = 30;
/// Days beyond which a number is no date: the year 9999.
const LAST_DAY: f64 = 2_958_466.0;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// The codes that have a number and need not be written down in a workbook. Where a country has its own, the one that
/// is read everywhere.
pub(super) fn built_in(id: u32) -> Option<&'static str> {
    Some(match id {
        1 => "0",
        2 => "0.00",
        3 => "#,##0",
        4 => "#,##0.00",
        5 | 6 => "$#,##0;-$#,##0",
        7 | 8 => "$#,##0.00;-$#,##0.00",
        9 => "0%",
        10 => "0.00%",
        11 => "0.00E+00",
        12 => "# ?/?",
        13 => "# ??/??",
        14 | 27..=31 | 36 | 50..=54 | 57 | 58 => "yyyy-mm-dd",
        15 => "d-mmm-yy",
        16 => "d-mmm",
        17 => "mmm-yy",
        18 => "h:mm AM/PM",
        19 => "h:mm:ss AM/PM",
        20 => "h:mm",
        21 => "h:mm:ss",
        22 => "yyyy-mm-dd h:mm",
        37 | 38 => "#,##0;(#,##0)",
        39 | 40 => "#,##0.00;(#,##0.00)",
        41 | 42 => "#,##0;-#,##0",
        43 | 44 => "#,##0.00;-#,##0.00",
        45 => "mm:ss",
        46 => "[h]:mm:ss",
        47 => "mm:ss.0",
        48 => "##0.0E+0",
        _ => return None,
    })
}

/// A number without a format: at most fifteen digits, as many as a number has.
pub(super) fn general(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let exponent = value.abs().log10().floor();
    if !(-10.0..15.0).contains(&exponent) {
        let short = format!("{value:.14e}");
        let (mantissa, exponent) = short.split_once('e').unwrap_or((&short, "0"));
        let mantissa = trimmed(mantissa);
        return format!("{mantissa}E{exponent}");
    }
    // Within the bounds just checked: 0 to 25.
    let digits = (14.0 - exponent).clamp(0.0, 25.0) as usize;
    trimmed(&format!("{value:.digits$}")).to_owned()
}

fn trimmed(number: &str) -> &str {
    if number.contains('.') {
        return number.trim_end_matches('0').trim_end_matches('.');
    }
    number
}

/// A number under a format code. A code that is none, or under which nothing would be seen, gives the plain number.
pub(super) fn shown(value: f64, code: &str, since_1904: bool) -> String {
    if code.chars().count() > MAX_CODE_CHARACTERS || !value.is_finite() {
        return general(value);
    }
    let sections = sections(code);
    let (section, is_absolute) = chosen(&sections, value);
    let Some(section) = section else {
        return general(value);
    };
    let number = if is_absolute { value.abs() } else { value };
    let shown = if section.is_general() {
        section.around(&general(number))
    } else if section.is_date() {
        section
            .moment(number, since_1904)
            .unwrap_or_else(|| general(value))
    } else if section.tokens.contains(&Token::Slash) {
        section.fraction(number)
    } else {
        section.number(number)
    };
    let shown = shown.trim();
    // A format may hide a number from eyes; it is in the sheet all the same.
    if shown.is_empty() || (!shown.chars().any(char::is_alphanumeric) && section.has_no_digits()) {
        return general(value);
    }
    shown.to_owned()
}

/// The code of text (`@`) or none at all.
pub(super) fn is_plain(code: &str) -> bool {
    code.is_empty() || code.eq_ignore_ascii_case("general") || code == "@"
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// `0`, `#` or `?`.
    Digit(char),
    Point,
    Comma,
    Percent,
    Exponent,
    Slash,
    General,
    At,
    /// A part of a date, its letter as often as it is written: `yyyy`, `mm`.
    Date(char, usize),
    /// Hours, minutes or seconds in all: `[h]`.
    Elapsed(char, usize),
    /// AM and PM.
    Half,
    Literal(String),
}

#[derive(Debug, Default)]
struct Section {
    tokens: Vec<Token>,
    condition: Option<(String, f64)>,
}

fn sections(code: &str) -> Vec<Section> {
    let mut sections = vec![Section::default()];
    let mut characters = code.chars().peekable();
    while let Some(character) = characters.next() {
        let tokens = match sections.last_mut() {
            Some(section) => &mut section.tokens,
            None => return sections,
        };
        let mut literal = |words: &str| {
            if let Some(Token::Literal(before)) = tokens.last_mut() {
                before.push_str(words);
            } else {
                tokens.push(Token::Literal(words.to_owned()));
            }
        };
        match character {
            ';' => sections.push(Section::default()),
            '"' => {
                let quoted: String = characters
                    .by_ref()
                    .take_while(|next| *next != '"')
                    .collect();
                literal(&quoted);
            }
            '\\' => {
                if let Some(next) = characters.next() {
                    literal(next.encode_utf8(&mut [0; 4]));
                }
            }
            // As wide as the next, or as often as there is room.
            '_' => {
                characters.next();
                literal(" ");
            }
            '*' => {
                characters.next();
            }
            '[' => {
                let inner: String = characters
                    .by_ref()
                    .take_while(|next| *next != ']')
                    .collect();
                bracket(&inner, sections.last_mut());
            }
            '0' | '#' | '?' => tokens.push(Token::Digit(character)),
            '.' => tokens.push(Token::Point),
            ',' => tokens.push(Token::Comma),
            '%' => tokens.push(Token::Percent),
            '/' => tokens.push(Token::Slash),
            '@' => tokens.push(Token::At),
            'E' if matches!(characters.peek(), Some('+' | '-')) => {
                characters.next();
                tokens.push(Token::Exponent);
            }
            'A' | 'a' if is_half(&mut characters) => tokens.push(Token::Half),
            'G' | 'g' if follows(&mut characters, "eneral") => tokens.push(Token::General),
            'y' | 'Y' | 'm' | 'M' | 'd' | 'D' | 'h' | 'H' | 's' | 'S' => {
                let letter = character.to_ascii_lowercase();
                let mut times = 1;
                while characters
                    .next_if(|next| next.eq_ignore_ascii_case(&letter))
                    .is_some()
                {
                    times += 1;
                }
                tokens.push(Token::Date(letter, times));
            }
            other => literal(other.encode_utf8(&mut [0; 4])),
        }
    }
    sections
}

type Characters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn follows(characters: &mut Characters<'_>, words: &str) -> bool {
    let mut ahead = characters.clone();
    let all = words.chars().all(|wanted| {
        ahead
            .next()
            .is_some_and(|next| next.eq_ignore_ascii_case(&wanted))
    });
    if all {
        *characters = ahead;
    }
    all
}

fn is_half(characters: &mut Characters<'_>) -> bool {
    follows(characters, "M/PM") || follows(characters, "/P")
}

/// A colour, a language and currency, a condition, or time in all.
fn bracket(inner: &str, section: Option<&mut Section>) {
    let Some(section) = section else {
        return;
    };
    let lower = inner.to_ascii_lowercase();
    if let Some(letter) = lower.chars().next()
        && matches!(letter, 'h' | 'm' | 's')
        && lower.chars().all(|other| other == letter)
    {
        section.tokens.push(Token::Elapsed(letter, lower.len()));
    } else if let Some(currency) = inner.strip_prefix('$') {
        let sign = currency.split('-').next().unwrap_or_default();
        section.tokens.push(Token::Literal(sign.to_owned()));
    } else if inner.starts_with(['<', '>', '=']) {
        let digits = inner.trim_start_matches(['<', '>', '=']);
        let sign = inner[..inner.len() - digits.len()].to_owned();
        section.condition = digits.trim().parse().ok().map(|number| (sign, number));
    }
}

/// The section for a number, and whether it stands for its sign.
fn chosen(sections: &[Section], value: f64) -> (Option<&Section>, bool) {
    if sections.iter().any(|section| section.condition.is_some()) {
        let holds = |section: &&Section| match &section.condition {
            Some((sign, number)) => match sign.as_str() {
                "<" => value < *number,
                "<=" => value <= *number,
                ">" => value > *number,
                ">=" => value >= *number,
                "<>" => value != *number,
                _ => value == *number,
            },
            None => true,
        };
        let found = sections.iter().find(holds);
        return (
            found,
            found.is_some_and(|section| section.condition.is_some() && value < 0.0),
        );
    }
    let text_is_last = sections.len() == 4;
    let numbers = if text_is_last { 3 } else { sections.len() };
    match numbers {
        2.. if value < 0.0 => (sections.get(1), true),
        3.. if value == 0.0 => (sections.get(2), false),
        _ => (sections.first(), false),
    }
}

impl Section {
    fn is_general(&self) -> bool {
        self.tokens
            .iter()
            .any(|token| matches!(token, Token::General | Token::At))
    }

    fn is_date(&self) -> bool {
        self.tokens
            .iter()
            .any(|token| matches!(token, Token::Date(..) | Token::Elapsed(..)))
    }

    fn has_no_digits(&self) -> bool {
        !self
            .tokens
            .iter()
            .any(|token| matches!(token, Token::Digit(_)))
    }

    /// The literals with a number in the middle.
    fn around(&self, number: &str) -> String {
        let parts = self.tokens.iter().map(|token| match token {
            Token::General | Token::At => number,
            Token::Literal(words) => words,
            _ => "",
        });
        parts.collect()
    }

    fn number(&self, value: f64) -> String {
        let place_of = |wanted: &Token| self.tokens.iter().position(|token| token == wanted);
        let exponent_at = place_of(&Token::Exponent).unwrap_or(self.tokens.len());
        let point_at = place_of(&Token::Point)
            .unwrap_or(exponent_at)
            .min(exponent_at);
        let is_digit = |token: &&Token| matches!(token, Token::Digit(_));
        let before = self.tokens[..point_at].iter().filter(is_digit).count();
        let after: Vec<char> = self.tokens[point_at..exponent_at]
            .iter()
            .filter_map(|token| match token {
                Token::Digit(digit) => Some(*digit),
                _ => None,
            })
            .take(MAX_DIGITS)
            .collect();
        let last_digit = self.tokens[..point_at]
            .iter()
            .rposition(|token| is_digit(&token));
        let commas_after = |at: usize| {
            self.tokens[at + 1..]
                .iter()
                .take_while(|token| **token == Token::Comma)
                .count()
        };
        // Behind the last digit of all, or behind the last one before the point.
        let very_last = self.tokens[..exponent_at]
            .iter()
            .rposition(|token| is_digit(&token));
        let behind_point = very_last.filter(|last| Some(*last) != last_digit);
        let thousands = last_digit.map_or(0, commas_after) + behind_point.map_or(0, commas_after);
        let has_groups = last_digit.is_some_and(|last| self.tokens[..last].contains(&Token::Comma));
        let percents = self
            .tokens
            .iter()
            .filter(|token| **token == Token::Percent)
            .count();
        let power =
            2 * i32::try_from(percents).unwrap_or(0) - 3 * i32::try_from(thousands).unwrap_or(0);
        let mut scaled = value.abs() * 10_f64.powi(power);
        let mut exponent = 0;
        if exponent_at < self.tokens.len() {
            (scaled, exponent) = in_powers(scaled, before.max(1), after.len());
        }
        let written = format!("{scaled:.*}", after.len());
        let (whole, fraction) = written.split_once('.').unwrap_or((&written, ""));
        let whole = whole.trim_start_matches('0');
        let is_zero = whole.is_empty() && fraction.bytes().all(|digit| digit == b'0');

        let mut shown = String::new();
        if value < 0.0 && !is_zero {
            shown.push('-');
        }
        let mut integer = Integer::new(whole, before, has_groups);
        let mut fraction = Fraction::new(fraction, &after);
        for (at, token) in self.tokens.iter().enumerate() {
            match token {
                Token::Digit(digit) if at < point_at => shown.push_str(&integer.next(*digit)),
                Token::Digit(_) if at < exponent_at => shown.extend(fraction.next()),
                Token::Point if before == 0 && !whole.is_empty() => {
                    shown.push_str(whole);
                    fraction.push_point(&mut shown);
                }
                Token::Point if at == point_at => fraction.push_point(&mut shown),
                Token::Point => shown.push('.'),
                Token::Percent => shown.push('%'),
                Token::Exponent => {
                    let sign = if exponent < 0 { '-' } else { '+' };
                    let width = self.tokens[at..].iter().filter(is_digit).count();
                    let exponent: i32 = exponent;
                    shown.push_str(&format!("E{sign}{:0width$}", exponent.abs()));
                }
                Token::Literal(words) => shown.push_str(words),
                _ => {}
            }
        }
        shown
    }

    fn fraction(&self, value: f64) -> String {
        let slash = self.tokens.iter().position(|token| *token == Token::Slash);
        let slash = slash.unwrap_or(self.tokens.len());
        let after = self.tokens[slash..].iter().skip(1);
        // Either so many digits, or a denominator that is written down.
        let places = after
            .clone()
            .filter(|token| matches!(token, Token::Digit('?' | '#')))
            .count();
        let fixed: String = after
            .filter_map(|token| match token {
                Token::Digit(digit) => Some(*digit),
                Token::Literal(words) => words.chars().next().filter(char::is_ascii_digit),
                _ => None,
            })
            .filter(char::is_ascii_digit)
            .collect();
        // A blank between digits before the slash parts the whole from the fraction.
        let digits: Vec<bool> = self.tokens[..slash]
            .iter()
            .filter_map(|token| match token {
                Token::Digit(_) => Some(true),
                Token::Literal(words) if words.contains(' ') => Some(false),
                _ => None,
            })
            .collect();
        let has_whole = digits
            .iter()
            .position(|digit| !digit)
            .is_some_and(|blank| digits[..blank].contains(&true));
        let magnitude = value.abs();
        let whole = if has_whole { magnitude.floor() } else { 0.0 };
        let rest = magnitude - whole;
        let (numerator, denominator) = match fixed.parse::<u32>() {
            Ok(denominator) if places == 0 && denominator > 0 => (
                (rest * f64::from(denominator)).round(),
                f64::from(denominator),
            ),
            _ => nearest(rest, 10_f64.powi(places.clamp(1, 4) as i32) - 1.0),
        };
        let (whole, numerator) = if has_whole && numerator == denominator {
            (whole + 1.0, 0.0)
        } else {
            (whole, numerator)
        };
        let sign = if value < 0.0 { "-" } else { "" };
        match (whole > 0.0, numerator > 0.0) {
            (true, true) => format!("{sign}{whole} {numerator}/{denominator}"),
            (false, true) => format!("{sign}{numerator}/{denominator}"),
            (_, false) => format!("{sign}{whole}"),
        }
    }

    /// A date or a time; none where the number is none.
    fn moment(&self, value: f64, since_1904: bool) -> Option<String> {
        let finest = self.tokens.windows(2).any(|pair| {
            matches!(
                pair,
                [Token::Date('s', _) | Token::Elapsed('s', _), Token::Point]
            )
        });
        // Rounded to what is shown, so that 59.9999 seconds are a minute.
        let unit = if finest { 1_000.0 } else { 1.0 };
        let seconds = (value * 86_400.0 * unit).round() / unit;
        if !(0.0..LAST_DAY * 86_400.0).contains(&seconds) {
            return None;
        }
        let days = (seconds / 86_400.0).floor();
        let of_day = seconds - days * 86_400.0;
        let date = date_of(days as i64, since_1904);
        let (hour, minute) = (
            (of_day / 3_600.0).floor(),
            (of_day % 3_600.0 / 60.0).floor(),
        );
        let second = of_day % 60.0;
        let is_halved = self.tokens.contains(&Token::Half);
        let mut shown = String::new();
        for (at, token) in self.tokens.iter().enumerate() {
            match token {
                Token::Date('y', 1 | 2) => shown.push_str(&format!("{:02}", date.year % 100)),
                Token::Date('y', _) => shown.push_str(&format!("{:04}", date.year)),
                Token::Date('m', times) if self.is_minute(at) => {
                    shown.push_str(&padded(minute, *times));
                }
                Token::Date('m', 3) => shown.push_str(&MONTHS[date.month - 1][..3]),
                Token::Date('m', 4) => shown.push_str(MONTHS[date.month - 1]),
                Token::Date('m', 5) => shown.push_str(&MONTHS[date.month - 1][..1]),
                Token::Date('m', times) => shown.push_str(&padded(date.month as f64, *times)),
                Token::Date('d', 3) => shown.push_str(&DAYS[date.weekday][..3]),
                Token::Date('d', 4..) => shown.push_str(DAYS[date.weekday]),
                Token::Date('d', times) => shown.push_str(&padded(date.day as f64, *times)),
                Token::Date('h', times) => {
                    let hour = match (is_halved, hour % 12.0 == 0.0) {
                        (true, true) => 12.0,
                        (true, false) => hour % 12.0,
                        (false, _) => hour,
                    };
                    shown.push_str(&padded(hour, *times));
                }
                Token::Date(_, times) => shown.push_str(&padded(second.floor(), *times)),
                Token::Elapsed('h', times) => {
                    shown.push_str(&padded((seconds / 3_600.0).floor(), *times));
                }
                Token::Elapsed('m', times) => {
                    shown.push_str(&padded((seconds / 60.0).floor(), *times));
                }
                Token::Elapsed(_, times) => shown.push_str(&padded(seconds.floor(), *times)),
                Token::Half => shown.push_str(if hour < 12.0 { "AM" } else { "PM" }),
                Token::Point if finest => {
                    let places = self.tokens[at + 1..]
                        .iter()
                        .take_while(|token| matches!(token, Token::Digit(_)))
                        .count();
                    let fraction = format!("{:.*}", places.clamp(1, 3), second.fract());
                    shown.push_str(fraction.trim_start_matches('0'));
                }
                Token::Point => shown.push('.'),
                Token::Comma => shown.push(','),
                Token::Slash => shown.push('/'),
                Token::Literal(words) => shown.push_str(words),
                _ => {}
            }
        }
        Some(shown)
    }

    /// `m` is a minute behind hours and before seconds, and a month elsewhere.
    fn is_minute(&self, at: usize) -> bool {
        let time = |token: &&Token| matches!(token, Token::Date(..) | Token::Elapsed(..));
        let before = self.tokens[..at].iter().rfind(time);
        let after = self.tokens[at + 1..].iter().find(time);
        matches!(before, Some(Token::Date('h', _) | Token::Elapsed('h', _)))
            || matches!(after, Some(Token::Date('s', _)))
    }
}

/// The digits before the point, each in its place; the first place takes all that are left.
struct Integer {
    digits: Vec<u8>,
    places: usize,
    has_groups: bool,
    is_first: bool,
}

impl Integer {
    fn new(whole: &str, places: usize, has_groups: bool) -> Self {
        Self {
            digits: whole.bytes().collect(),
            places,
            has_groups,
            is_first: true,
        }
    }

    fn next(&mut self, place: char) -> String {
        let mut shown = String::new();
        let here = if std::mem::take(&mut self.is_first) {
            self.digits.len().saturating_sub(self.places - 1).max(1)
        } else {
            1
        };
        for step in 0..here {
            // How many places are behind this digit.
            let behind = self.places - 1 + (here - 1 - step);
            let digit =
                (behind < self.digits.len()).then(|| self.digits[self.digits.len() - 1 - behind]);
            let digit = digit.map(char::from).or((place == '0').then_some('0'));
            if let Some(digit) = digit {
                shown.push(digit);
                if self.has_groups && behind > 0 && behind.is_multiple_of(3) {
                    shown.push(',');
                }
            }
        }
        self.places = self.places.saturating_sub(1);
        shown
    }
}

/// The digits behind the point, without the zeros at the end that the format does not ask for.
struct Fraction {
    digits: std::vec::IntoIter<char>,
}

impl Fraction {
    fn new(fraction: &str, places: &[char]) -> Self {
        let mut digits: Vec<char> = fraction.chars().collect();
        while digits.last() == Some(&'0') && places.get(digits.len() - 1) != Some(&'0') {
            digits.pop();
        }
        Self {
            digits: digits.into_iter(),
        }
    }

    fn push_point(&self, shown: &mut String) {
        if self.digits.len() > 0 {
            shown.push('.');
        }
    }

    fn next(&mut self) -> Option<char> {
        self.digits.next()
    }
}

/// A number as a mantissa with so many digits before the point, and its power of ten.
fn in_powers(value: f64, digits: usize, places: usize) -> (f64, i32) {
    if value == 0.0 {
        return (0.0, 0);
    }
    let step = i32::try_from(digits).unwrap_or(1);
    let exponent = value.log10().floor() as i32;
    let mut exponent = if step > 1 {
        exponent.div_euclid(step) * step
    } else {
        exponent
    };
    let mut mantissa = value / 10_f64.powi(exponent);
    let rounded = format!("{mantissa:.places$}").parse().unwrap_or(mantissa);
    if rounded >= 10_f64.powi(step) {
        exponent += step;
        mantissa = value / 10_f64.powi(exponent);
    }
    (mantissa, exponent)
}

/// The fraction nearest to a number from 0 to 1 whose denominator is at most so large.
fn nearest(value: f64, largest: f64) -> (f64, f64) {
    let mut best = (value.round(), 1.0);
    let mut denominator = 1.0;
    while denominator <= largest {
        let numerator = (value * denominator).round();
        if (value - numerator / denominator).abs() + 1e-12 < (value - best.0 / best.1).abs() {
            best = (numerator, denominator);
        }
        denominator += 1.0;
    }
    best
}

struct Date {
    year: i64,
    month: usize,
    day: i64,
    weekday: usize,
}

/// The date of a day since the end of 1899, or the beginning of 1904. The first of these calendars has a 29 February 1900.
fn date_of(days: i64, since_1904: bool) -> Date {
    const DAYS_TO_1904: i64 = 1_462;
    let days = if since_1904 {
        days + DAYS_TO_1904
    } else {
        days
    };
    let weekday = usize::try_from((days + 6).rem_euclid(7)).unwrap_or(0);
    if days == 60 {
        return Date {
            year: 1900,
            month: 2,
            day: 29,
            weekday,
        };
    }
    let since_1900 = if days > 60 { days - 1 } else { days };
    // Days since 1 March of the year 0, from which years of 365 and 366 days are counted in cycles of 400 years.
    let days = since_1900 + 693_900;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    Date {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month: usize::try_from(month).unwrap_or(1).clamp(1, 12),
        day: of_year - (153 * shifted + 2) / 5 + 1,
        weekday,
    }
}

fn padded(number: f64, width: usize) -> String {
    format!("{number:0>width$}", width = width.min(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_as_the_sheet_shows_them() {
        for (value, code, expected) in [
            (0.25, "# ?/?", "1/4"),
            (1.5, "# ?/?", "1 1/2"),
            (0.333_333, "# ??/??", "1/3"),
            (2.0, "# ?/?", "2"),
            (0.125, "?/8", "1/8"),
            (1.25, "?/?", "5/4"),
            (0.3125, "hh:mm", "07:30"),
            (1.5, "[h]:mm", "36:00"),
            (1.5, "[hh]:mm:ss", "36:00:00"),
            (12.0, "00000", "00012"),
            (46_095.393_09, "d. mmmm yyyy", "14. March 2026"),
            (46_095.393_09, "yyyy-mm-dd hh:mm", "2026-03-14 09:26"),
            (46_095.393_09, "dd/mm/yy h:mm AM/PM", "14/03/26 9:26 AM"),
            (46_095.75, "h AM/PM", "6 PM"),
            (0.000_694_444, "mm:ss", "01:00"),
            (0.000_005_787, "mm:ss.0", "00:00.5"),
            (60.0, "yyyy-mm-dd", "1900-02-29"),
            (1.0, "yyyy-mm-dd", "1900-01-01"),
            (61.0, "dddd", "Thursday"),
            (1_234_567.891, "#,##0.00", "1,234,567.89"),
            (1_234.0, "#,##0", "1,234"),
            (-1_234.5, "#,##0.00", "-1,234.50"),
            (-5.0, "0.00;(0.00)", "(5.00)"),
            (0.0, "0;-0;\"nothing\"", "nothing"),
            (0.256, "0.0%", "25.6%"),
            (1_500_000.0, "0.0,,\" M\"", "1.5 M"),
            (12_345.678, "0.00E+00", "1.23E+04"),
            (0.000_12, "0.0E-0", "1.2E-4"),
            (5.0, "[$€-407] #,##0.00", "€ 5.00"),
            (5.0, "[Red]0.0", "5.0"),
            (1.5, "0.##", "1.5"),
            (2.0, "0.##", "2"),
            (0.5, "#.##", ".5"),
            (5_551_234.0, "000-0000", "555-1234"),
            (150.0, "[<100]\"low\";\"high\" 0", "high 150"),
            (7.0, "General", "7"),
            (7.0, "General\" kg\"", "7 kg"),
            (5.0, ";;;", "5"),
            (5.0, "\"-\"", "5"),
            (1e9, "hh:mm", "1000000000"),
            (-1.0, "yyyy", "-1"),
            (0.1 + 0.2, "", "0.3"),
        ] {
            assert_eq!(shown(value, code, false), expected, "{value} under {code}");
        }
        assert_eq!(shown(0.0, "yyyy-mm-dd", true), "1904-01-01");
    }

    #[test]
    fn plain_numbers_have_as_many_digits_as_they_have() {
        for (value, expected) in [
            (12.0, "12"),
            (3.41, "3.41"),
            (0.1 + 0.2, "0.3"),
            (1e20, "1E20"),
            (1.5e-12, "1.5E-12"),
            (-0.5, "-0.5"),
            (123_456_789_012_345.0, "123456789012345"),
        ] {
            assert_eq!(general(value), expected);
        }
    }

    #[test]
    fn no_code_makes_a_panic() {
        let pieces = [
            "0", "#", "?", ".", ",", "%", "E+", "/", "[h]", "[", "]", "\"", "\\", "_", "*", ";",
            "m", "s", "y", "AM/PM", "@", "General", "é", "1",
        ];
        for first in pieces {
            for second in pieces {
                for third in pieces {
                    let code = format!("{first}{second}{third}");
                    for value in [0.0, -1.5, 1e300, 45_000.7, f64::NAN, f64::MIN_POSITIVE] {
                        let _ = shown(value, &code, false);
                    }
                }
            }
        }
    }
}
