//! What the camera wrote into the file.

use std::io::{BufRead, Seek};

use exif::{Error, Exif, In, Reader, Tag, Value};
use serde::{Deserialize, Serialize};

/// The longest text taken from one field, in characters.
const MAX_FIELD_CHARACTERS: usize = 200;

/// The facts of a photograph that people look for. Where it was taken is only said to be known: the place itself stays in
/// the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Camera {
    /// The maker of the camera.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) make: Option<String>,
    /// The camera.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// The lens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lens: Option<String>,
    /// When it was taken, by the camera's own clock: `2024-05-31 18:20:05`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) taken_at: Option<String>,
    /// Whether the file says where it was taken.
    pub(crate) has_gps: bool,
}

/// Reads the camera's data from any image format that carries it; none is no error.
pub(crate) fn read(input: &mut (impl BufRead + Seek)) -> Result<Option<Camera>, Error> {
    let mut reader = Reader::new();
    // One fault, such as a missing end of its list, takes nothing away from what was read.
    reader.continue_on_error(true);
    let read = reader
        .read_from_container(input)
        .or_else(|error| error.distill_partial_result(|_| ()));
    let exif = match read {
        Ok(exif) => exif,
        // The formats without such data, and files of the others that have none.
        Err(Error::NotFound(_)) => return Ok(None),
        Err(Error::InvalidFormat(words)) if words.starts_with("Unknown image format") => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let camera = Camera {
        make: text(&exif, Tag::Make),
        model: text(&exif, Tag::Model),
        lens: text(&exif, Tag::LensModel),
        taken_at: taken_at(&exif),
        has_gps: exif.get_field(Tag::GPSLatitude, In::PRIMARY).is_some(),
    };
    if camera == Camera::default() && exif.fields().len() == 0 {
        return Err(Error::InvalidFormat("it has no field that can be read"));
    }
    Ok((camera != Camera::default()).then_some(camera))
}

fn text(exif: &Exif, tag: Tag) -> Option<String> {
    let Value::Ascii(lines) = &exif.get_field(tag, In::PRIMARY)?.value else {
        return None;
    };
    let text = String::from_utf8_lossy(lines.first()?);
    let text: String = text
        .trim()
        .chars()
        .filter(|character| !character.is_control())
        .take(MAX_FIELD_CHARACTERS)
        .collect();
    (!text.is_empty()).then_some(text)
}

fn taken_at(exif: &Exif) -> Option<String> {
    let field = [Tag::DateTimeOriginal, Tag::DateTimeDigitized, Tag::DateTime]
        .into_iter()
        .find_map(|tag| text(exif, tag))?;
    let moment = exif::DateTime::from_ascii(field.as_bytes()).ok()?;
    Some(moment.to_string())
}
