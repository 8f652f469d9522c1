//! What readers of zip packages and of XML have in common: bounded parts, and faults told by their cause.

use std::fs::File;
use std::io::{self, BufReader, Read};

use caudal_domain::Reason;
use caudal_stage::sandbox::ParseFailure;
use quick_xml::events::{BytesRef, BytesStart};
use zip::ZipArchive;
use zip::result::ZipError;

use super::{corrupt, encrypted};
use crate::text::Text;

/// A package that is open.
pub(super) type Package<'a> = ZipArchive<BufReader<&'a mut File>>;

/// Opens a package.
pub(super) fn open(input: &mut File) -> Result<Package<'_>, ParseFailure> {
    ZipArchive::new(BufReader::new(input)).map_err(|error| refused(&error))
}

/// A part of a package, of which no more than `bound` bytes are read: what an entry claims to unpack to is only a claim.
/// None where there is no such part.
pub(super) fn part<'a>(
    package: &'a mut Package<'_>,
    name: &str,
    bound: u64,
) -> Result<Option<BufReader<Bounded<impl Read + 'a>>>, ParseFailure> {
    match package.by_name(name) {
        Ok(part) => Ok(Some(BufReader::new(Bounded {
            inner: part,
            left: bound,
        }))),
        Err(ZipError::FileNotFound) => Ok(None),
        Err(error) => Err(refused(&error)),
    }
}

/// Reads no more than it may.
pub(super) struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::FileTooLarge,
                "it unpacks to more than is allowed",
            )
        })?;
        Ok(read)
    }
}

/// XML that is none.
pub(super) fn malformed(error: &quick_xml::Error) -> ParseFailure {
    if let quick_xml::Error::Io(cause) = error {
        return unreadable(cause);
    }
    corrupt(error)
}

/// A part that cannot be unpacked, or not within its bound.
pub(super) fn unreadable(error: &io::Error) -> ParseFailure {
    if error.kind() == io::ErrorKind::FileTooLarge {
        return ParseFailure::new(Reason::DocumentTooLarge, error.to_string());
    }
    corrupt(error)
}

/// A package that cannot be opened.
pub(super) fn refused(error: &ZipError) -> ParseFailure {
    match error {
        ZipError::InvalidPassword => encrypted(),
        ZipError::UnsupportedArchive(words) if *words == ZipError::PASSWORD_REQUIRED => encrypted(),
        error => corrupt(error),
    }
}

/// The five entities of XML and character references; others cannot be defined here and stand for nothing.
pub(super) fn push_reference(reference: &BytesRef<'_>, text: &mut Text) {
    if let Ok(Some(character)) = reference.resolve_char_ref() {
        text.push_char(character);
        return;
    }
    if let Some(known) = quick_xml::escape::resolve_predefined_entity(reference) {
        text.push(known);
    }
}

/// The value of an attribute, whatever its prefix.
pub(super) fn attribute(tag: &BytesStart<'_>, name: &str) -> Option<String> {
    let found = tag
        .attributes()
        .flatten()
        .find(|attribute| attribute.key.local_name().as_ref() == name)?;
    Some(
        quick_xml::escape::unescape(&found.value)
            .map_or_else(|_| found.value.to_string(), std::borrow::Cow::into_owned),
    )
}
