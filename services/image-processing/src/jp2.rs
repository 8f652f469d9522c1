//! JPEG 2000, as a file of boxes or as its bare data. Of a large picture only as much is decoded as what is made of it needs.

use caudal_domain::Reason;
use caudal_stage::sandbox::ParseFailure;
use hayro_jpeg2000::{
    DecodeError, DecodeSettings, DecoderContext, FormatError, Image, MarkerError, ValidationError,
};
use image::{DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage};

const BOXES: &[u8] = b"\0\0\0\x0cjP  ";
const BARE: &[u8] = b"\xff\x4f\xff\x51";
/// How many of the first bytes tell it.
pub(crate) const SIGNATURE_BYTES: usize = BOXES.len();

/// What a sample takes while it is decoded, in bytes: the number that it is reckoned with, and the byte that it becomes.
const SAMPLE_BYTES: u64 = 5;

/// Whether a content is JPEG 2000, by its first bytes.
pub(crate) fn begins(head: &[u8]) -> bool {
    head.starts_with(BOXES) || head.starts_with(BARE)
}

/// A picture, maybe smaller than it is stored.
pub(crate) struct Decoded {
    /// Pixels across and down, as stored.
    pub(crate) size: (u32, u32),
    pub(crate) picture: DynamicImage,
    /// Whether something of its data is missing or wrong.
    pub(crate) is_damaged: bool,
}

/// Decodes a picture of no more than `max_pixels`, no finer than a smaller one of `side` needs.
pub(crate) fn decode(
    bytes: &[u8],
    max_pixels: u64,
    max_bytes: u64,
    side: u32,
) -> Result<Decoded, ParseFailure> {
    let mut settings = DecodeSettings::default();
    let header = Image::new(bytes, &settings).map_err(refused)?;
    let (width, height) = (header.width(), header.height());
    let too_large = |words: String| ParseFailure::new(Reason::ImageTooLarge, words);
    if u64::from(width) * u64::from(height) > max_pixels {
        return Err(too_large(format!(
            "{width} x {height} pixels are more than {max_pixels}"
        )));
    }
    // Each level that is left out halves it.
    let levels = (width.max(height) / side.max(1)).checked_ilog2();
    settings.target_resolution =
        levels.map(|levels| ((width >> levels).max(1), (height >> levels).max(1)));
    let reduced = Image::new(bytes, &settings).map_err(refused)?;
    let samples = u64::from(reduced.width())
        * u64::from(reduced.height())
        * u64::from(reduced.color_space().num_channels() + u8::from(reduced.has_alpha()));
    if samples.saturating_mul(SAMPLE_BYTES) > max_bytes {
        return Err(too_large(format!(
            "{width} x {height} pixels that are stored in one size need more memory than is allowed"
        )));
    }
    // A lenient decoder says nothing of what is missing.
    let strict = DecodeSettings {
        strict: true,
        ..settings
    };
    let (picture, is_damaged) = match Image::new(bytes, &strict).and_then(|image| picture(&image)) {
        Ok(picture) => (picture, false),
        Err(_) => (picture(&reduced).map_err(refused)?, true),
    };
    let picture = picture.ok_or_else(|| {
        ParseFailure::new(
            Reason::CorruptImage,
            "its samples are not as many as its size",
        )
    })?;
    Ok(Decoded {
        size: (width, height),
        picture,
        is_damaged,
    })
}

fn picture(image: &Image<'_>) -> Result<Option<DynamicImage>, DecodeError> {
    let mut context = DecoderContext::default();
    let decoded = image.decode(&mut context)?;
    let stride = decoded.components().len();
    let samples = decoded.data_u8();
    let (width, height) = (image.width(), image.height());
    // Of more colours than anybody knows the first are shown.
    let has_alpha = image.has_alpha() && stride > 1;
    let colours = stride - usize::from(has_alpha);
    let pixels = samples.chunks_exact(stride.max(1));
    Ok(match (colours, has_alpha) {
        (1, false) => GrayImage::from_raw(width, height, samples).map(DynamicImage::from),
        (1, true) => GrayAlphaImage::from_raw(width, height, samples).map(DynamicImage::from),
        (2, _) => {
            let grey = pixels.map(|pixel| pixel[0]).collect();
            GrayImage::from_raw(width, height, grey).map(DynamicImage::from)
        }
        (3, false) => RgbImage::from_raw(width, height, samples).map(DynamicImage::from),
        (3, true) => RgbaImage::from_raw(width, height, samples).map(DynamicImage::from),
        (4, _) => {
            let rgb = pixels.flat_map(printed).collect();
            RgbImage::from_raw(width, height, rgb).map(DynamicImage::from)
        }
        _ => {
            let rgb = pixels
                .flat_map(|pixel| [pixel[0], pixel[1], pixel[2]])
                .collect();
            RgbImage::from_raw(width, height, rgb).map(DynamicImage::from)
        }
    })
}

/// Four printing colours as they look on paper, near enough for a thumbnail.
fn printed(pixel: &[u8]) -> [u8; 3] {
    let black = u16::from(u8::MAX - pixel[3]);
    [0, 1, 2].map(|colour| {
        let light = u16::from(u8::MAX - pixel[colour]) * black / u16::from(u8::MAX);
        u8::try_from(light).unwrap_or(u8::MAX)
    })
}

fn refused(error: DecodeError) -> ParseFailure {
    let reason = match error {
        DecodeError::Validation(ValidationError::ImageTooLarge) => Reason::ImageTooLarge,
        DecodeError::Format(FormatError::Unsupported)
        | DecodeError::Marker(MarkerError::Unsupported)
        | DecodeError::Validation(ValidationError::TooManyChannels) => Reason::UnsupportedImage,
        _ => Reason::CorruptImage,
    };
    ParseFailure::new(reason, error.to_string())
}
