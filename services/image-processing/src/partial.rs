//! Pictures of which a part is missing: what was decoded before a fault, and how much was not.

use image::{ColorType, DynamicImage, ImageBuffer, ImageDecoder};

/// What the rows are filled with before they are decoded.
const GREY: u8 = 128;

/// Of fewer rows nobody can tell whether they are all alike by accident.
const FEWEST_ROWS: u32 = 32;

/// Decodes as far as the data goes: the picture, and the share of its rows that are missing. None for a picture of more than
/// 8 bits a colour, and where not a row is there.
pub(crate) fn decode(decoder: impl ImageDecoder) -> Option<(DynamicImage, f64)> {
    let (width, height) = decoder.dimensions();
    let color = decoder.color_type();
    let mut rows = vec![GREY; usize::try_from(decoder.total_bytes()).ok()?];
    // It has failed before: what matters is how far it comes.
    let _ = decoder.read_image(&mut rows);
    let row_bytes = usize::try_from(width).ok()? * usize::from(color.bytes_per_pixel());
    let share = grey_share(&rows, row_bytes, height);
    let picture = match color {
        ColorType::L8 => ImageBuffer::from_raw(width, height, rows).map(DynamicImage::ImageLuma8),
        ColorType::La8 => ImageBuffer::from_raw(width, height, rows).map(DynamicImage::ImageLumaA8),
        ColorType::Rgb8 => ImageBuffer::from_raw(width, height, rows).map(DynamicImage::ImageRgb8),
        ColorType::Rgba8 => {
            ImageBuffer::from_raw(width, height, rows).map(DynamicImage::ImageRgba8)
        }
        _ => None,
    };
    picture
        .filter(|_| share < 1.0)
        .map(|picture| (picture, share))
}

/// Of a picture that is known to be damaged, the share of rows that are missing: its decoder fills them with grey.
pub(crate) fn missing(picture: &DynamicImage) -> f64 {
    let row_bytes = picture.width() as usize * usize::from(picture.color().bytes_per_pixel());
    grey_share(picture.as_bytes(), row_bytes, picture.height())
}

fn grey_share(rows: &[u8], row_bytes: usize, height: u32) -> f64 {
    let grey = rows
        .chunks_exact(row_bytes.max(1))
        .filter(|row| row.iter().all(|byte| *byte == GREY))
        .count();
    grey as f64 / f64::from(height.max(1))
}

/// Whether a picture is of one colour. A small one may well be.
pub(crate) fn is_blank(picture: &DynamicImage) -> bool {
    let bytes = picture.as_bytes();
    let pixel_bytes = usize::from(picture.color().bytes_per_pixel());
    let mut pixels = bytes.chunks_exact(pixel_bytes);
    let first = pixels.next();
    picture.height() >= FEWEST_ROWS && pixels.all(|pixel| Some(pixel) == first)
}
